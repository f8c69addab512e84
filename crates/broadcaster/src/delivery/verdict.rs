//! The verdict on one delivery: what the answer to RECEIVE means, or what kept it from being sent.
//!
//! Each reason for a failure answers four questions that others ask: whether anything was tried at
//! all, whether it would be the same for other subscriptions of the url, whether it asks for a
//! notice at once, and what it says of the peer to the circuit breaker and the concurrency limit.

use http::StatusCode;
use httppubsub_net::outbound::{BreakerRejection, PeerSignal, PostError};
use httppubsub_proto::auth::AuthError;
use httppubsub_proto::stateless::{ConfirmReceive, ReceiveAnswer};
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::EndpointError;

/// The result of a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Number of subscribers that have it.
    Confirmed(u32),
    /// The subscriber no longer wants this subscription.
    Unsubscribe,
    /// The subscriber may not have it.
    Missed(Undelivered),
}

/// The reason for which a subscriber may not have a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    /// The url is none of http or https, or is malformed.
    #[error("nothing can be posted to its url: {0}")]
    Url(EndpointError),
    /// The subscription is in quarantine.
    #[error("somebody said that it wants this subscription no more, and it is not clear who")]
    Quarantined,
    /// The url is that of a broadcaster whose lease has ended.
    #[error("the broadcaster there says no more that it lives")]
    Silent,
    /// Another broadcaster on the store asked for a removal, which is its own business.
    #[error("the broadcaster there wants it for none of its websockets, or does not trust it")]
    Unwanted,
    /// Its peer has its share of all pending deliveries.
    #[error("too many deliveries are pending at its peer")]
    NoPlace,
    /// Another row of the url failed for a reason that is the same for all of them.
    #[error("others of its subscriptions were not tried just now")]
    GivenUp,
    /// Deliveries before it took all the time.
    #[error("it had no turn before the deadline")]
    TooLate,
    /// A circuit breaker is open: that of the url or that of the peer.
    #[error("its peer is not tried: {0}")]
    BreakerRejection(#[from] BreakerRejection),
    /// It was not sent, or not answered in time.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The answer is a failure by its status.
    #[error("it answered with status {0}")]
    Status(StatusCode),
    /// A success that confirms nothing: most often a server that does not know the protocol.
    #[error(
        "it answered {} but not a confirmation; see the README, What a subscriber answers",
        .0.as_u16()
    )]
    Answer(StatusCode),
    /// The confirmation is that of some other delivery.
    #[error("it confirmed another delivery")]
    Identifier,
    /// Somebody without the secret may have sent it.
    #[error("its confirmation is not vouched for: {0}")]
    Auth(#[from] AuthError),
}

impl Undelivered {
    /// `true` if nothing was tried, because earlier deliveries failed or others wait.
    pub(crate) fn is_not_tried(&self) -> bool {
        matches!(
            self,
            Self::Quarantined
                | Self::Silent
                | Self::NoPlace
                | Self::GivenUp
                | Self::TooLate
                | Self::BreakerRejection(_)
                | Self::Post(PostError::BreakerRejection { .. })
        )
    }

    /// `true` if it would be the same for other subscriptions of this url at this moment.
    pub(crate) fn is_of_the_url(&self) -> bool {
        matches!(
            self,
            Self::Url(_)
                | Self::Silent
                | Self::BreakerRejection(_)
                | Self::Post(PostError::BreakerRejection { .. })
        )
    }

    /// `true` if a notice is to be sent at once, to find out if the peer is back.
    pub(crate) fn asks_for_a_notice(&self) -> bool {
        matches!(self, Self::BreakerRejection(BreakerRejection::NoticeFirst))
    }

    /// The signal of this failure about the peer.
    pub(super) fn signal(&self) -> Option<PeerSignal> {
        match self {
            Self::Url(_)
            | Self::Quarantined
            | Self::Silent
            | Self::Unwanted
            | Self::NoPlace
            | Self::GivenUp
            | Self::TooLate
            | Self::BreakerRejection(_) => None,
            Self::Post(error) => error.signal(),
            Self::Status(status)
                if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS =>
            {
                Some(PeerSignal::TooMuch)
            }
            // A shorter one may be taken.
            Self::Status(StatusCode::PAYLOAD_TOO_LARGE) => Some(PeerSignal::Answered),
            Self::Status(_) | Self::Answer(_) | Self::Identifier | Self::Auth(_) => {
                Some(PeerSignal::NotConfirmed)
            }
        }
    }
}

/// The meaning of an answer to RECEIVE (`docs/protocol/stateless.md` §6).
pub(super) fn judge(
    status: StatusCode,
    body: &[u8],
    identifier: &Identifier,
    vouched: impl FnOnce(&ConfirmReceive) -> Result<(), AuthError>,
) -> Verdict {
    let confirm = match ReceiveAnswer::decode(body) {
        // Before the status: published subscribers say so with several.
        Ok(ReceiveAnswer::UnsubscribeImmediate) => return Verdict::Unsubscribe,
        _ if !status.is_success() => return Verdict::Missed(Undelivered::Status(status)),
        Ok(ReceiveAnswer::Confirm(confirm)) => confirm,
        Err(_) => return Verdict::Missed(Undelivered::Answer(status)),
    };
    // A confirmation that was recorded of another delivery must not count for this one.
    if confirm.identifier != *identifier {
        return Verdict::Missed(Undelivered::Identifier);
    }
    match vouched(&confirm) {
        Ok(()) => Verdict::Confirmed(confirm.subscribers),
        Err(error) => Verdict::Missed(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use httppubsub_proto::stateless::UNSUBSCRIBE_IMMEDIATE;

    use super::*;

    fn identifier(text: &str) -> Identifier {
        Identifier::new(text.to_owned()).unwrap()
    }

    fn confirmation(of: &str) -> Vec<u8> {
        let confirm = ConfirmReceive {
            authorization: None,
            tracing: bytes::Bytes::new(),
            identifier: identifier(of),
            subscribers: 3,
        };
        confirm.encode()
    }

    #[test]
    fn only_a_success_with_the_confirmation_of_this_delivery_that_is_vouched_for_counts() {
        let own = identifier("own");
        let judge = |status: u16, body: &[u8], vouched: bool| {
            let status = StatusCode::from_u16(status).unwrap();
            let vouched = |_: &ConfirmReceive| match vouched {
                true => Ok(()),
                false => Err(AuthError::Missing),
            };
            match super::judge(status, body, &own, vouched) {
                Verdict::Confirmed(subscribers) => subscribers.to_string(),
                Verdict::Unsubscribe => "unsubscribe".to_owned(),
                Verdict::Missed(why) => format!("{why:?}").split('(').next().unwrap().to_owned(),
            }
        };
        let (ours, other) = (confirmation("own"), confirmation("other"));
        assert_eq!(judge(200, &ours, true), "3");
        assert_eq!(judge(200, &ours, false), "Auth");
        assert_eq!(judge(200, &other, true), "Identifier");
        assert_eq!(judge(200, b"OK", true), "Answer");
        assert_eq!(judge(500, &ours, true), "Status");
        // Whatever the status is: published subscribers say so with several.
        assert_eq!(judge(200, &UNSUBSCRIBE_IMMEDIATE, true), "unsubscribe");
        assert_eq!(judge(404, &UNSUBSCRIBE_IMMEDIATE, true), "unsubscribe");
    }
}
