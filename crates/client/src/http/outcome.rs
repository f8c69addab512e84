//! What an attempt at a broadcaster means, and what a request comes to after several.

use http::StatusCode;
use httppubsub_net::PostError;

/// What is asked for, as far as the meaning of an answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Subscribe,
    Unsubscribe,
    Set,
    Check,
    Notify,
}

/// What one attempt means (`docs/protocol/stateless.md` §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, if what the answer says holds.
    Done,
    /// The broadcaster had it so already.
    WasSo,
    /// Not done: the next one may.
    Later,
    /// Perhaps done.
    Ambiguous,
    /// Not done: the next one would say the same.
    Refused,
    /// Not done: no broadcaster can be asked this.
    NotSent,
}

pub(crate) fn outcome(operation: Operation, answer: Result<StatusCode, &PostError>) -> Outcome {
    use Operation::{Check, Notify, Set, Subscribe, Unsubscribe};
    match answer {
        Ok(status) if status.is_success() => Outcome::Done,
        Ok(StatusCode::CONFLICT) => match operation {
            Subscribe | Unsubscribe => Outcome::WasSo,
            Set | Check | Notify => Outcome::Refused,
        },
        Ok(
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
        ) => Outcome::Later,
        Ok(_) => Outcome::Refused,
        Err(PostError::Authorize(_) | PostError::Malformed { .. }) => Outcome::NotSent,
        // A broadcaster that has not got all of it has not done it.
        Err(error) if error.is_incomplete() => Outcome::Later,
        Err(_) => Outcome::Ambiguous,
    }
}

/// What is done when an attempt was ambiguous.
impl Operation {
    /// Whether it makes no difference if it is done twice.
    pub(crate) fn may_be_done_twice(self) -> bool {
        match self {
            Self::Notify => false,
            Self::Subscribe | Self::Unsubscribe | Self::Set | Self::Check => true,
        }
    }

    /// Whether a refusal leaves it open if an earlier attempt did it: what was notified stays so,
    /// whereas the broadcasters share their subscriptions.
    pub(crate) fn stays_ambiguous(self) -> bool {
        match self {
            Self::Notify => true,
            Self::Subscribe | Self::Unsubscribe | Self::Set | Self::Check => false,
        }
    }
}
