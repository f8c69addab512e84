//! The reason why a connection is over.

use httppubsub_net::websocket::SocketError;
use httppubsub_proto::auth::AuthError;
use httppubsub_proto::session::{SessionError, close_code};

/// The reason why a connection is over.
pub(crate) enum Over {
    /// By the broadcaster, with this code.
    Closed(Option<u16>),
    Lost(SocketError),
    Here(SessionError),
}

impl Over {
    /// `true` if a connection that ended so before CONFIRM_CONFIGURE would end so again. Published
    /// broadcasters close with 1000 whatever they refuse, ours with 1002 or 1008. All other codes,
    /// and none, are of troubles that pass: a broadcaster that stops, is killed, has no room for
    /// the connection, or cannot check the authorization now; or the client's own full guard.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Closed(code) => matches!(
                code,
                Some(close_code::NORMAL | close_code::PROTOCOL | close_code::POLICY)
            ),
            Self::Here(SessionError::Auth { source, .. }) => {
                !matches!(source, AuthError::Unavailable(_))
            }
            Self::Lost(_) | Self::Here(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_trouble_is_no_refusal_of_a_client() {
        let auth = |source| {
            let what = "CONFIRM_CONFIGURE";
            Over::Here(SessionError::Auth { what, source })
        };
        for code in [1000, 1002, 1008] {
            assert!(Over::Closed(Some(code)).is_refusal(), "{code}");
        }
        assert!(auth(AuthError::Missing).is_refusal());
        for code in [1001, 1006, 1011, 1012, 1013] {
            assert!(!Over::Closed(Some(code)).is_refusal(), "{code}");
        }
        assert!(!Over::Closed(None).is_refusal());
        let full = AuthError::Unavailable("the replay guard is full");
        assert!(!auth(full.clone()).is_refusal());
        // The peer of an end that cannot check an authorization now hears that it may come again.
        let what = "CONFIGURE";
        let heard = SessionError::Auth { what, source: full }.close_code();
        assert!(!Over::Closed(Some(heard)).is_refusal());
    }
}
