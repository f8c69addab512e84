//! The reasons for which a session ends.

use crate::auth::{AuthError, CannotAuthorize};
use crate::session::close_code;
use crate::wire::DecodeError;

/// The reason for which a session ends. For the log of this end, never for the peer.
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
        /// The moment in the session, as "before CONFIGURE".
        state: &'static str,
    },
    /// The peer's message is not vouched for.
    #[error("{what} is not authorized: {source}")]
    Auth {
        /// Name of the message.
        what: &'static str,
        /// The problem with its authorization.
        r#source: AuthError,
    },
    /// The peer broke a rule that the fields of one message cannot show.
    #[error("{what}: {problem}")]
    Protocol {
        /// Name of the message.
        what: &'static str,
        /// The rule.
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
    /// The driver of the machine ended it, for this reason.
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
    /// The end of a session by the driver of its machine, with this [`close_code`].
    pub fn ended(code: u16, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Ended { code, reason }
    }

    /// Code of the close frame: 1002 for what breaks the protocol, 1008 for what
    /// is not authorized or too late, 1011 for our own failures, and 1013 where the authorization
    /// could not be checked now, so that the peer may try again.
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Decode(_) | Self::OutOfTurn { .. } | Self::Protocol { .. } => {
                close_code::PROTOCOL
            }
            Self::Auth {
                source: AuthError::Unavailable(_),
                ..
            } => close_code::TRY_LATER,
            Self::Auth { .. } | Self::TooLate { .. } => close_code::POLICY,
            Self::CannotAuthorize(_) => close_code::OUR_FAULT,
            Self::Ended { code, .. } => *code,
        }
    }
}

/// The reason for a peer that broke a rule in the message named `what`.
pub(super) fn protocol(what: &'static str, problem: &'static str) -> SessionError {
    SessionError::Protocol { what, problem }
}
