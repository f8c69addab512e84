//! The secrets of a test, in the packages' own file format.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// How one direction is authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Nothing is sent and everything is accepted.
    None,
    /// A bearer token.
    Token,
    /// A signature over each message.
    Hmac,
}

impl Scheme {
    /// The name of the scheme in secrets files and in the flags of `httppubsub setup`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::None => "none",
            Scheme::Token => "token",
            Scheme::Hmac => "hmac",
        }
    }

    /// `last` tells secrets apart. The first 85 characters are any, the last one must be of those
    /// that leave no bits over in 64 bytes: `A`, `Q`, `g` or `w`.
    fn entry(self, last: char) -> Value {
        let secret = format!("{}{last}", "ht-p_ubsubX".repeat(8).split_at(85).0);
        match self {
            Scheme::None => json!({ "type": "none" }),
            Scheme::Token | Scheme::Hmac => json!({ "type": self.name(), "secret": secret }),
        }
    }
}

/// How both directions are authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth {
    /// What subscribers and notifiers send.
    pub to_broadcaster: Scheme,
    /// What the broadcaster sends.
    pub to_subscriber: Scheme,
}

impl Auth {
    /// No authorization.
    pub const NONE: Auth = Auth::both(Scheme::None);
    /// A token each way.
    pub const TOKEN: Auth = Auth::both(Scheme::Token);
    /// Signatures each way.
    pub const HMAC: Auth = Auth::both(Scheme::Hmac);
    /// Another scheme each way, so that a mix-up of the two directions shows.
    pub const MIXED: Auth = Auth {
        to_broadcaster: Scheme::Token,
        to_subscriber: Scheme::Hmac,
    };

    /// The same scheme in both directions, with two different secrets.
    pub const fn both(scheme: Scheme) -> Auth {
        Auth {
            to_broadcaster: scheme,
            to_subscriber: scheme,
        }
    }
}

/// Where the two secrets files of a test are.
#[derive(Clone, Debug)]
pub(crate) struct SecretsFiles {
    pub(crate) broadcaster: PathBuf,
    pub(crate) subscriber: PathBuf,
}

impl SecretsFiles {
    /// Names the files that a setup command, theirs or ours, writes into `dir`.
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self {
            broadcaster: dir.join("broadcaster-secrets.json"),
            subscriber: dir.join("subscriber-secrets.json"),
        }
    }

    /// Writes both files, with the same content, as the packages do.
    pub(crate) fn write(dir: &Path, auth: Auth) -> Self {
        let files = Self::in_dir(dir);
        let secrets = text(
            auth.to_broadcaster.entry('Q'),
            auth.to_subscriber.entry('g'),
        );
        for path in [&files.broadcaster, &files.subscriber] {
            fs::write(path, &secrets).expect("the test's own folder can be written");
        }
        files
    }
}

/// Writes a subscriber's file with secrets that nobody else has.
pub(crate) fn write_wrong(path: &Path, auth: Auth) {
    let secrets = text(
        auth.to_broadcaster.entry('w'),
        auth.to_subscriber.entry('A'),
    );
    fs::write(path, secrets).expect("the test's own folder can be written");
}

fn text(to_broadcaster: Value, to_subscriber: Value) -> String {
    let secrets = json!({
        "version": "2",
        "to-broadcaster": to_broadcaster,
        "to-subscriber": to_subscriber,
    });
    format!("{secrets:#}\n")
}
