//! The end of a session: its cause, its close code, and its words in the log.

use httppubsub_net::error_chain;
use httppubsub_net::websocket::SocketError;
use httppubsub_proto::session::{SessionError, close_code};

/// The end of a session.
#[derive(Debug)]
pub(super) enum Ended {
    /// The subscriber closed it.
    ByPeer,
    /// The connection broke, or what came over it is no websocket.
    Lost(SocketError),
    /// This end closed it.
    Here(SessionError),
    /// The place of a session that has not shown who it is was needed.
    Evicted,
}

impl Ended {
    /// Says in the log how the session of `peer` ended. Most ends are nobody's fault, and quiet.
    pub(super) fn log(&self, peer: &str) {
        match self {
            Self::ByPeer => tracing::debug!(peer, "a websocket was closed by its subscriber"),
            Self::Lost(error) => {
                tracing::info!(peer, reason = error_chain(error), "a websocket was lost");
            }
            Self::Evicted => {
                tracing::debug!(
                    peer,
                    "a websocket that did not show who it is made room for others"
                );
            }
            Self::Here(reason) if reason.close_code() == close_code::GOING_AWAY => {
                tracing::debug!(peer, "a websocket was closed because the broadcaster stops");
            }
            Self::Here(reason) => {
                tracing::info!(peer, reason = error_chain(reason), "a websocket was ended");
            }
        }
    }

    /// The code with which this end closes the connection; `None` if there is nobody to tell.
    pub(super) fn close_code(&self) -> Option<u16> {
        match self {
            Self::ByPeer | Self::Evicted => None,
            Self::Lost(error) => error.close_code(),
            Self::Here(reason) => Some(reason.close_code()),
        }
    }
}
