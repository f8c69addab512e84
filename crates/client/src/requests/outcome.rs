//! The meaning of an answer for the request, and for its repetition.

use http::StatusCode;
use httppubsub_net::outbound::PostError;

/// The kind of a request, as far as the meaning of an answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Subscribe,
    Unsubscribe,
    Set,
    Check,
    Notify,
}

/// The meaning of one attempt (`docs/protocol/stateless.md` §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done, if what the answer says holds.
    Done,
    /// The broadcaster had it so already.
    AlreadySo,
    /// Not done: the next one may.
    Later,
    /// Perhaps done.
    Ambiguous,
    /// Not done: the next one would say the same.
    Refused,
    /// Not done: no broadcaster can be asked this.
    NotSent,
}

/// The meaning of an answer, or of an error in place of one. Every broadcaster, published or not,
/// and every proxy before it is judged by this one table.
pub(crate) fn outcome(operation: Operation, answer: Result<StatusCode, &PostError>) -> Outcome {
    use Operation::{Check, Notify, Set, Subscribe, Unsubscribe};
    match answer {
        Ok(status) if status.is_success() => Outcome::Done,
        // Only these two can find it so already; for others a 409 is no answer of the protocol.
        Ok(StatusCode::CONFLICT) => match operation {
            Subscribe | Unsubscribe => Outcome::AlreadySo,
            Set | Check | Notify => Outcome::Refused,
        },
        Ok(
            // Said by a proxy that reached nobody, or by a broadcaster that takes nothing on.
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
        ) => Outcome::Later,
        Ok(_) => Outcome::Refused,
        Err(PostError::Authorize(_) | PostError::Malformed { .. }) => Outcome::NotSent,
        // A broadcaster that has not got all of it has not done it.
        Err(error) if error.is_incomplete() => Outcome::Later,
        // All of it was sent, and the answer was lost or cut short.
        Err(_) => Outcome::Ambiguous,
    }
}

/// Rules for an ambiguous attempt.
impl Operation {
    /// `true` if it makes no difference if it is done twice.
    pub(crate) fn may_be_done_twice(self) -> bool {
        match self {
            Self::Notify => false,
            Self::Subscribe | Self::Unsubscribe | Self::Set | Self::Check => true,
        }
    }

    /// `true` if a refusal leaves it open if an earlier attempt did it: what was notified stays so,
    /// whereas the broadcasters share their subscriptions.
    pub(crate) fn stays_ambiguous(self) -> bool {
        match self {
            Self::Notify => true,
            Self::Subscribe | Self::Unsubscribe | Self::Set | Self::Check => false,
        }
    }
}
