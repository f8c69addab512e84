//! `httppubsub setup`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use httppubsub_net::random_bytes;
use httppubsub_proto::auth::{Scheme, Secrets};

use crate::console;
use crate::output;
use crate::secrets;

/// Write the secrets that a broadcaster and its subscribers share.
///
/// Two files of the same content, broadcaster-secrets.json and subscriber-secrets.json, readable
/// by their owner only. Existing files are never overwritten. The published Python packages read
/// them as well.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub setup --dir secrets\n  \
    httppubsub setup --to-broadcasters-auth token --to-subscribers-auth none")]
pub(crate) struct Setup {
    /// Folder for the files; it is made if need be.
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".",
        allow_hyphen_values = true
    )]
    dir: PathBuf,

    /// Authorization of subscribers and publishers at the broadcaster.
    #[arg(long, value_enum, value_name = "SCHEME", default_value_t)]
    to_broadcasters_auth: SchemeName,

    /// Their secret: for hmac the base64url of 64 bytes, for token any text. Drawn at random if
    /// not given.
    #[arg(long, value_name = "SECRET", allow_hyphen_values = true)]
    to_broadcasters_secret: Option<String>,

    /// Authorization of the broadcaster at subscribers.
    #[arg(long, value_enum, value_name = "SCHEME", default_value_t)]
    to_subscribers_auth: SchemeName,

    /// Its secret, likewise.
    #[arg(long, value_name = "SECRET", allow_hyphen_values = true)]
    to_subscribers_secret: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum SchemeName {
    /// Every message is signed.
    #[default]
    Hmac,
    /// A shared token is sent along; only for networks nobody listens on.
    Token,
    /// No authorization.
    None,
}

impl SchemeName {
    /// The scheme with the given secret, or with one of 64 random bytes.
    ///
    /// # Errors
    ///
    /// A secret of the wrong form, or any secret for `none`.
    fn scheme(self, secret: Option<&str>) -> anyhow::Result<Scheme> {
        let name = match self {
            Self::Hmac => "hmac",
            Self::Token => "token",
            Self::None => "none",
        };
        // Ignoring it would leave somebody sure of an authorization that is not there.
        if self == Self::None && secret.is_some() {
            anyhow::bail!("the scheme none has no secret");
        }
        Ok(match secret {
            Some(secret) => Scheme::parse(name, secret)?,
            None => Scheme::generate(name, &random_bytes())?,
        })
    }
}

impl Setup {
    /// Writes both files and prints their paths. If one exists, nothing is written.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let to_broadcaster = self
            .to_broadcasters_auth
            .scheme(self.to_broadcasters_secret.as_deref())
            .context("--to-broadcasters-secret")?;
        let to_subscriber = self
            .to_subscribers_auth
            .scheme(self.to_subscribers_secret.as_deref())
            .context("--to-subscribers-secret")?;
        // Both secrets are known to be right by now: a second flag that is wrong leaves no first
        // file.
        let files = secrets::write(
            &self.dir,
            &Secrets {
                to_broadcaster,
                to_subscriber,
            },
        )?;
        for file in files {
            output::line(&file.display().to_string())?;
        }
        console::say("Keep the first with the broadcaster, hand the second to its subscribers.");
        Ok(ExitCode::SUCCESS)
    }
}
