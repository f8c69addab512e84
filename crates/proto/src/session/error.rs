//! Why a session ends.

use crate::auth::{AuthError, CannotAuthorize};
use crate::wire::DecodeError;

/// Why a session ends. For the log of this end, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer's message cannot be read.
    #[error("a message cannot be read: {0}")]
    Decode(DecodeError),
    /// The peer's message has no place in this state.
    #[error("{got} came {state}")]
    OutOfTurn {
        /// Name of the message.
        got: &'static str,
        /// When that was, as "before CONFIGURE".
        state: &'static str,
    },
    /// The peer's message is not vouched for.
    #[error("{what} is not authorized: {source}")]
    Auth {
        /// Name of the message.
        what: &'static str,
        /// What is wrong with it.
        r#source: AuthError,
    },
    /// The peer broke a rule that the fields of one message cannot show.
    #[error("{what}: {problem}")]
    Protocol {
        /// Name of the message.
        what: &'static str,
        /// Which rule.
        problem: &'static str,
    },
    /// The peer took too long.
    #[error("the peer sent no {awaited} in time")]
    TooLate {
        /// Name of the message.
        awaited: &'static str,
    },
    /// This end cannot sign what it has to say.
    #[error(transparent)]
    CannotAuthorize(#[from] CannotAuthorize),
    /// Whoever drives the machine ended it, for this reason.
    #[error("{reason}")]
    Ended {
        /// Code of the close frame.
        code: u16,
        /// For the log.
        reason: String,
    },
}

impl From<DecodeError> for SessionError {
    fn from(cause: DecodeError) -> Self {
        Self::Decode(cause)
    }
}

impl SessionError {
    /// Code of the close frame (RFC 6455 §7.4.1): 1002 for what breaks the protocol, 1008 for what
    /// is not authorized or too late, 1011 for our own failures.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Decode(_) | Self::OutOfTurn { .. } | Self::Protocol { .. } => 1002,
            Self::Auth { .. } | Self::TooLate { .. } => 1008,
            Self::CannotAuthorize(_) => 1011,
            Self::Ended { code, .. } => *code,
        }
    }
}
