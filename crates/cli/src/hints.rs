//! Hints: what the user can do about an error.
//!
//! An error says what happened; a hint says what most likely helps. They are kept apart so that
//! logs and programs see the error alone.

use std::path::{Path, PathBuf};

use httppubsub_client::{
    AttemptError, NotifyError, RequestError, SubscribeError, UnsubscribeError,
};
use httppubsub_net::outbound::PostError;
use httppubsub_proto::url::redacted;

/// An error with a hint, which is said on a line of its own behind it.
#[derive(Debug)]
pub(crate) struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl Hinted {
    /// `error` and the hint `hint`.
    pub(crate) fn error(error: anyhow::Error, hint: impl Into<String>) -> anyhow::Error {
        let hint = hint.into();
        anyhow::Error::new(Self { error, hint })
    }

    /// The error without its hint, and the hint.
    pub(crate) fn split(error: anyhow::Error) -> (anyhow::Error, Option<String>) {
        match error.downcast::<Self>() {
            Ok(Self { error, hint }) => (error, Some(hint)),
            Err(error) => (error, None),
        }
    }
}

impl std::fmt::Display for Hinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Hinted {}

/// The origin of the secrets that a verb uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretsFile {
    /// This one was named.
    Named(PathBuf),
    /// None was named, and this one was there.
    Found(PathBuf),
    /// None; one that is there is not meant for the broadcaster that is asked.
    None { passed_over: Option<PathBuf> },
}

impl SecretsFile {
    /// The file to read, if there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Named(path) | Self::Found(path) => Some(path),
            Self::None { .. } => None,
        }
    }
}

/// Whose url a broadcaster is asked to post to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiver<'a> {
    /// Nobody's.
    None,
    /// That of this program.
    This(&'a str),
    /// That of another.
    Other(&'a str),
}

/// The failed request to the broadcasters that caused `error`, if there is one.
pub(crate) fn request(error: &anyhow::Error) -> Option<&RequestError> {
    error.chain().find_map(|it| {
        if let Some(NotifyError::Request(request)) = it.downcast_ref() {
            return Some(request);
        }
        if let Some(SubscribeError::Request(request)) = it.downcast_ref() {
            return Some(request);
        }
        if let Some(UnsubscribeError::Request(request)) = it.downcast_ref() {
            return Some(request);
        }
        it.downcast_ref()
    })
}

/// A hint for `error`, which a request authorized by `secrets` met.
///
/// A hint is given only where one cause is far more likely than all others: a wrong hint costs more
/// than none.
pub(crate) fn of(
    error: &anyhow::Error,
    secrets: &SecretsFile,
    receiver: Receiver<'_>,
) -> Option<String> {
    match request(error)? {
        // Statuses as in `docs/protocol/stateless.md`; the reason tells the two kinds of 403 apart.
        RequestError::Refused { status, reason, .. } => match status.as_u16() {
            401 => Some(about_secrets(secrets)),
            403 if reason.contains(OF_EGRESS) => about_url(receiver),
            // The clocks differ, or it was used before: it says so itself.
            403 if reason.contains("clock") || reason.contains("used before") => None,
            403 => Some(about_secrets(secrets)),
            404 | 405 => Some(
                "nothing of a broadcaster answers there: --broadcaster is the url that \
                 `httppubsub serve` prints"
                    .to_owned(),
            ),
            _ => None,
        },
        RequestError::Ambiguous {
            cause: AttemptError::Auth(_),
            ..
        } => Some(about_secrets(secrets)),
        RequestError::RetriesExhausted {
            last: AttemptError::WebSocket(why),
            ..
        } if why.contains(OF_CONFIGURE) => Some(about_secrets(secrets)),
        RequestError::RetriesExhausted {
            last: AttemptError::Post(PostError::Connect { .. }),
            ..
        } => Some(
            "is a broadcaster running there? `httppubsub serve` starts one, --broadcaster URL \
             names another"
                .to_owned(),
        ),
        _ => None,
    }
}

/// In what a broadcaster answers to a url that it must not post to.
const OF_EGRESS: &str = "egress policy";

/// In what the client says of a broadcaster that closes a websocket when it hears who is there.
const OF_CONFIGURE: &str = "CONFIGURE";

/// The hint for a refused authorization, by where the secrets came from.
fn about_secrets(secrets: &SecretsFile) -> String {
    match secrets {
        SecretsFile::Named(path) => format!(
            "the secrets in {} are not those of the broadcaster",
            path.display()
        ),
        SecretsFile::Found(path) => format!(
            "the secrets found in {} are not those of the broadcaster; --secrets FILE names others",
            path.display()
        ),
        SecretsFile::None { passed_over } => {
            let mut hint = "give the secrets of the broadcaster by --secrets FILE: the \
                            subscriber-secrets.json that its first start or `httppubsub setup` \
                            wrote"
                .to_owned();
            if let Some(path) = passed_over {
                hint.push_str(&format!(
                    "; {} is used by itself only for a broadcaster on loopback",
                    path.display()
                ));
            }
            hint
        }
    }
}

/// The hint for a url that the egress policy of the broadcaster forbids.
fn about_url(receiver: Receiver<'_>) -> Option<String> {
    match receiver {
        Receiver::None => None,
        Receiver::This(url) => Some(format!(
            "the broadcaster must not post to {}: give by --host URL how it reaches this program, \
             or use --ws, which needs no url; `httppubsub check-url` says what is allowed",
            redacted(url)
        )),
        Receiver::Other(url) => Some(format!(
            "the broadcaster must not post to {}; `httppubsub check-url` says what is allowed",
            redacted(url)
        )),
    }
}
