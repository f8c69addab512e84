//! The two secrets files, which published peers read and write as well.

use std::sync::Arc;

use base64::Engine as _;

use crate::auth::hmac::HmacAuthorization;
use crate::auth::none::NoAuthorization;
use crate::auth::scheme::Authorization;
use crate::auth::token::TokenAuthorization;
use crate::digest::{BASE64, BASE64_URL};
use crate::limits::SHA512_BYTES;

/// The direction of the messages that a scheme is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Messages of subscribers: their requests, and their answers to RECEIVE and MISSED.
    ToBroadcaster,
    /// Messages of broadcasters: RECEIVE and MISSED, and their answers to requests.
    ToSubscriber,
}

impl Direction {
    /// The key of this direction in a secrets file.
    fn key(self) -> &'static str {
        match self {
            Self::ToBroadcaster => "to-broadcaster",
            Self::ToSubscriber => "to-subscriber",
        }
    }
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key())
    }
}

/// The scheme of one direction, with its secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Scheme {
    /// No authorization.
    None,
    /// A token, taken as it stands; not empty.
    Token(String),
    /// Signatures with this secret.
    Hmac([u8; SHA512_BYTES]),
}

impl Scheme {
    /// The scheme at work.
    pub fn authorization(&self) -> Arc<dyn Authorization> {
        match self {
            Self::None => Arc::new(NoAuthorization),
            Self::Token(token) => Arc::new(
                TokenAuthorization::new(token).expect("an empty token is refused when it is read"),
            ),
            Self::Hmac(secret) => Arc::new(HmacAuthorization::new(secret)),
        }
    }

    /// The name in files and on the command line: `none`, `token` or `hmac`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token(_) => "token",
            Self::Hmac(_) => "hmac",
        }
    }

    /// The scheme called `name` with a secret spelled `secret`: for `hmac` the base64url of 64
    /// bytes, padded or not, the standard alphabet accepted; for `token` the token itself, as an
    /// HTTP header can carry it.
    pub fn parse(name: &str, secret: &str) -> Result<Self, SecretProblem> {
        match name {
            "none" => Ok(Self::None),
            "token" if secret.is_empty() => Err(SecretProblem::EmptyToken),
            // HTTP drops blanks at the ends of a header, so the other end would see another token.
            "token" if secret.trim() != secret => Err(SecretProblem::BlankAtTheEnd),
            "token" if secret.contains(char::is_control) => Err(SecretProblem::ControlCharacter),
            "token" => Ok(Self::Token(secret.to_owned())),
            "hmac" => {
                // Files have the url-safe alphabet. The standard one is what `openssl rand -base64
                // 64` prints.
                let bytes = BASE64_URL.decode(secret).or_else(|_| BASE64.decode(secret));
                let bytes = bytes.ok().and_then(|bytes| bytes.try_into().ok());
                bytes.map(Self::Hmac).ok_or(SecretProblem::NotAKey)
            }
            _ => Err(SecretProblem::UnknownType),
        }
    }

    /// A fresh scheme called `name` whose secret is made of `random`, drawn from a cryptographic
    /// source: for `token` and `hmac` its unpadded base64url.
    pub fn generate(name: &str, random: &[u8; SHA512_BYTES]) -> Result<Self, SecretProblem> {
        Self::parse(name, &BASE64_URL.encode(random))
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::None => serde_json::json!({ "type": "none" }),
            Self::Token(token) => serde_json::json!({ "type": "token", "secret": token }),
            Self::Hmac(secret) => {
                serde_json::json!({ "type": "hmac", "secret": BASE64_URL.encode(secret) })
            }
        }
    }
}

/// Never shows the secret.
impl std::fmt::Debug for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token(***)"),
            Self::Hmac(_) => f.write_str("Hmac(***)"),
        }
    }
}

/// The problem with one direction of a secrets file. No text of the file is quoted: a secret may
/// stand in a wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretProblem {
    /// The entry is not an object.
    #[error("it is not an object with a \"type\"")]
    NotAnObject,
    /// The type is not one of the three.
    #[error("its \"type\" is unknown: use none, token or hmac")]
    UnknownType,
    /// There is no secret although the type needs one.
    #[error("\"secret\" is missing or not a string")]
    NoSecret,
    /// A token must not be empty.
    #[error("the token is empty")]
    EmptyToken,
    /// HTTP would drop the blank.
    #[error("the token begins or ends with a space or a newline, which HTTP would drop")]
    BlankAtTheEnd,
    /// No HTTP header can carry it.
    #[error("the token has control characters, which no HTTP header may have")]
    ControlCharacter,
    /// An HMAC secret must be 64 bytes.
    #[error("the secret is not the base64url of 64 bytes")]
    NotAKey,
}

/// The reason why a secrets file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The file has not a single byte.
    #[error(
        "the secrets file is empty: its writing was cut short; remove it, or restore it from the \
         other of the two files, which holds the same"
    )]
    Empty,
    /// The file ends in the middle.
    #[error(
        "the secrets file ends too early: its writing was cut short; remove it, or restore it from \
         the other of the two files, which holds the same"
    )]
    CutShort,
    /// An editor wrote a mark at its beginning that JSON does not have.
    #[error("the secrets file begins with a byte order mark: save it as UTF-8 without one")]
    ByteOrderMark,
    /// The file is not JSON.
    #[error("the secrets file is not JSON: {0}")]
    Json(serde_json::Error),
    /// The file is not an object.
    #[error("the secrets file is not a JSON object")]
    NotAnObject,
    /// The file has an unknown version.
    #[error("the secrets file has no \"version\", or another than the text \"2\"")]
    Version,
    /// The file has no entry for one direction.
    #[error(
        "the secrets file has no \"{direction}\"{}; to go without authorization, write \
         \"{direction}\": {{\"type\": \"none\"}}",
        but_has(unknown)
    )]
    NoDirection {
        /// The direction.
        direction: Direction,
        /// The keys that mean nothing, one of which may be a misspelling.
        unknown: Vec<String>,
    },
    /// The entry of one direction is wrong.
    #[error("{direction} in the secrets file: {problem}")]
    Direction {
        /// The direction.
        direction: Direction,
        /// The problem.
        problem: SecretProblem,
    },
}

/// The content of a secrets file: `broadcaster-secrets.json` and `subscriber-secrets.json` are
/// alike (`docs/protocol/auth.md` §7).
///
/// ```
/// use httppubsub_proto::auth::{Scheme, Secrets};
///
/// let secrets = Secrets {
///     to_broadcaster: Scheme::generate("hmac", &[1; 64])?,
///     to_subscriber: Scheme::parse("token", "correct horse battery staple")?,
/// };
/// let read = Secrets::parse(&secrets.to_text())?;
/// assert_eq!(read, secrets);
/// assert_eq!(read.to_broadcaster.name(), "hmac");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// The scheme for messages of subscribers.
    pub to_broadcaster: Scheme,
    /// The scheme for messages of broadcasters.
    pub to_subscriber: Scheme,
}

impl Secrets {
    /// No authorization in either direction.
    pub const NONE: Self = Self {
        to_broadcaster: Scheme::None,
        to_subscriber: Scheme::None,
    };

    /// Reads the text of a secrets file. Each direction must be there: what is misspelled is not a
    /// wish to go without authorization.
    pub fn parse(text: &str) -> Result<Self, SecretsError> {
        let (secrets, _) = Self::parse_with_unknown_keys(text)?;
        Ok(secrets)
    }

    /// Reads the text of a secrets file, and returns the keys that mean nothing, for a warning.
    pub fn parse_with_unknown_keys(text: &str) -> Result<(Self, Vec<String>), SecretsError> {
        // The error of the JSON parser would not help: the file looks right in an editor.
        if text.starts_with('\u{feff}') {
            return Err(SecretsError::ByteOrderMark);
        }
        if text.is_empty() {
            return Err(SecretsError::Empty);
        }
        let file: serde_json::Value =
            // A full disk, or a crash while it was written: then a copy helps, and a look at the
            // syntax does not.
            serde_json::from_str(text).map_err(|error| match error.is_eof() {
                true => SecretsError::CutShort,
                false => SecretsError::Json(error),
            })?;
        let file = file.as_object().ok_or(SecretsError::NotAnObject)?;
        if file.get("version").and_then(serde_json::Value::as_str) != Some("2") {
            return Err(SecretsError::Version);
        }
        let directions = [Direction::ToBroadcaster, Direction::ToSubscriber];
        let is_known = |key: &str| key == "version" || directions.iter().any(|it| it.key() == key);
        // A misspelled key is the likely reason for a missing direction, so the error names it.
        let unknown: Vec<_> = file.keys().filter(|key| !is_known(key)).cloned().collect();
        let scheme = |direction: Direction| match file.get(direction.key()) {
            Some(value) => parse_scheme(value)
                .map_err(|problem| SecretsError::Direction { direction, problem }),
            None => {
                let unknown = unknown.clone();
                Err(SecretsError::NoDirection { direction, unknown })
            }
        };
        let secrets = Self {
            to_broadcaster: scheme(Direction::ToBroadcaster)?,
            to_subscriber: scheme(Direction::ToSubscriber)?,
        };
        Ok((secrets, unknown))
    }

    /// The text of the file, in the newest version there is, with a newline at the end.
    pub fn to_text(&self) -> String {
        let file = serde_json::json!({
            "version": "2",
            Direction::ToBroadcaster.key(): self.to_broadcaster.to_json(),
            Direction::ToSubscriber.key(): self.to_subscriber.to_json(),
        });
        let text = serde_json::to_string_pretty(&file).expect("these values have a JSON form");
        format!("{text}\n")
    }
}

/// The keys that stand where one was expected.
fn but_has(unknown: &[String]) -> String {
    match unknown {
        [] => String::new(),
        unknown => format!(
            ", but {}, which means nothing",
            unknown
                .iter()
                .map(|key| format!("{key:?}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

fn parse_scheme(value: &serde_json::Value) -> Result<Scheme, SecretProblem> {
    let object = value.as_object().ok_or(SecretProblem::NotAnObject)?;
    let name = object.get("type").and_then(serde_json::Value::as_str);
    let name = name.ok_or(SecretProblem::NotAnObject)?;
    let secret = object.get("secret").and_then(serde_json::Value::as_str);
    match (name, secret) {
        ("token" | "hmac", None) => Err(SecretProblem::NoSecret),
        (name, secret) => Scheme::parse(name, secret.unwrap_or_default()),
    }
}
