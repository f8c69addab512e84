//! Failures of posts, and what outcomes say of a peer.

use std::io;
use std::time::Duration;

use httppubsub_proto::auth::CannotAuthorize;
use httppubsub_proto::error_chain::error_chain;
use httppubsub_proto::url::Origin;

use crate::egress::policy::Forbidden;
use crate::outbound::breaker::BreakerRejection;

/// Signal that the outcome of a delivery gives about its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSignal {
    /// It confirmed.
    Confirmed,
    /// It answered something that is neither a confirmation nor a failure.
    Answered,
    /// It answered, and did not confirm: that url is to blame, and its neighbours are not.
    NotConfirmed,
    /// It did not answer, or said that it has too much to do.
    TooMuch,
    /// There was no connection to it, whatever the url.
    Unreachable,
}

/// Failure to get an answer. Unless it says otherwise, the peer may have acted on the request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// No value for the `Authorization` header could be made. Nothing was sent.
    #[error(transparent)]
    Authorize(#[from] CannotAuthorize),
    /// Too many requests wait for this peer. Nothing was sent.
    #[error("{waiting} requests wait for {origin} already")]
    Busy {
        /// The peer.
        origin: Origin,
        /// Number of requests that wait.
        waiting: usize,
    },
    /// Others took all the turns for too long. Nothing was sent.
    #[error("no turn at {origin} within {} s", .timeout.as_secs())]
    NoTurn {
        /// The peer.
        origin: Origin,
        /// The time it waited.
        timeout: Duration,
    },
    /// The peer is left alone for now. Nothing was sent.
    #[error("{origin} is not tried: {source}")]
    BreakerRejection {
        /// The peer.
        origin: Origin,
        /// Why.
        r#source: BreakerRejection,
    },
    /// No connection could be made. Nothing was sent.
    #[error("cannot connect to {origin}: {}", error_chain(.source))]
    Connect {
        /// The peer.
        origin: Origin,
        /// The reason.
        r#source: io::Error,
    },
    /// The egress policy forbids it. Nothing was sent.
    #[error("{origin} must not be posted to: {source}")]
    Forbidden {
        /// The peer.
        origin: Origin,
        /// The reason.
        r#source: Forbidden,
    },
    /// The request cannot be put into HTTP. Nothing was sent.
    #[error("the request to {origin} cannot be written: {source}")]
    Malformed {
        /// The peer.
        origin: Origin,
        /// The reason.
        r#source: http::Error,
    },
    /// The exchange broke off.
    #[error("the exchange with {origin} broke off: {}", error_chain(.source))]
    Broken {
        /// The peer.
        origin: Origin,
        /// How.
        r#source: io::Error,
        /// `true` if all of the request was sent.
        is_whole: bool,
    },
    /// The answer took too long.
    #[error("no whole answer from {origin} within {} s", .timeout.as_secs())]
    Timeout {
        /// The peer.
        origin: Origin,
        /// The time it was waited for.
        timeout: Duration,
        /// `true` if all of the request may have been sent.
        is_whole: bool,
    },
    /// The time for all deliveries was over, and this one had little of it.
    #[error("{origin} did not answer in the little time that was left for it")]
    OutOfTime {
        /// The peer.
        origin: Origin,
    },
    /// The peer stopped taking the message.
    #[error("{origin} took nothing of the message for {} s", .timeout.as_secs())]
    Stalled {
        /// The peer.
        origin: Origin,
        /// For how long.
        timeout: Duration,
    },
}

impl PostError {
    /// No connection to `origin` came about.
    pub(crate) fn unconnected(origin: &Origin, error: io::Error) -> Self {
        let origin = origin.clone();
        // The verdict of `egress` comes through functions that return I/O errors only.
        match error.downcast() {
            Ok(source) => Self::Forbidden { origin, source },
            Err(source) => Self::Connect { origin, source },
        }
    }

    /// The signal about the peer; `None` if the reason is here.
    pub fn signal(&self) -> Option<PeerSignal> {
        match self {
            Self::Authorize(_)
            | Self::Busy { .. }
            | Self::NoTurn { .. }
            | Self::BreakerRejection { .. }
            | Self::Forbidden { .. }
            // Others took the time, so it says nothing of the peer.
            | Self::OutOfTime { .. }
            | Self::Malformed { .. } => None,
            Self::Connect { .. } => Some(PeerSignal::Unreachable),
            Self::Broken { .. } | Self::Timeout { .. } | Self::Stalled { .. } => {
                Some(PeerSignal::TooMuch)
            }
        }
    }

    /// `true` if the peer cannot have seen all of the request, so that it has not done what was
    /// asked.
    pub fn is_incomplete(&self) -> bool {
        match self {
            Self::Broken { is_whole, .. } | Self::Timeout { is_whole, .. } => !is_whole,
            Self::Stalled { .. } => true,
            error => error.nothing_sent(),
        }
    }

    /// `true` if the peer cannot have seen any of the request.
    pub fn nothing_sent(&self) -> bool {
        match self {
            Self::Authorize(_)
            | Self::Busy { .. }
            | Self::NoTurn { .. }
            | Self::BreakerRejection { .. }
            | Self::Connect { .. }
            | Self::Forbidden { .. }
            | Self::Malformed { .. } => true,
            Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::OutOfTime { .. }
            | Self::Stalled { .. } => false,
        }
    }
}
