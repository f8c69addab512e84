//! One delivery to one subscriber, and what its answer means.

use std::sync::Arc;

use http::StatusCode;
use httppubsub_net::{Post, PostError, random_bytes, stamp};
use httppubsub_proto::auth::{AuthError, Claim};
use httppubsub_proto::http::{ConfirmReceive, ReceiveAnswer, ReceiveHead};
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::EndpointError;
use httppubsub_proto::wire::DecodeError;

use crate::core::Core;
use crate::index::Row;
use crate::message::Message;

/// What became of a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// So many have it.
    Confirmed(u32),
    /// The subscriber does not want this subscription any more.
    Unsubscribe,
    /// The subscriber may not have it.
    Missed(Undelivered),
}

/// Why a subscriber may not have a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undelivered {
    #[error("nothing can be posted to its url: {0}")]
    Url(EndpointError),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("it answered with status {0}")]
    Status(StatusCode),
    #[error("its answer to status {status} makes no sense: {source}")]
    Answer {
        status: StatusCode,
        source: DecodeError,
    },
    #[error("it confirmed another delivery")]
    Identifier,
    #[error("its confirmation is not vouched for: {0}")]
    Auth(#[from] AuthError),
}

/// Delivers a message to the subscriber of `row`, once.
pub(crate) async fn deliver(core: &Core, row: &Row, message: &Arc<Message>) -> Verdict {
    let Message {
        topic,
        payload,
        repr_digest,
        ..
    } = &**message;
    let url = &row.subscriber.url;
    if url.as_str() == core.config.receiver_url {
        return if core.hub.wants(topic) {
            Verdict::Confirmed(core.hub.deliver(message))
        } else {
            Verdict::Unsubscribe
        };
    }
    let target = match &row.subscriber.target {
        Ok(target) => target,
        Err(error) => return Verdict::Missed(Undelivered::Url(error.clone())),
    };
    let identifier = Identifier::new(random_bytes::<8>().to_vec()).expect("8 bytes fit");
    let head = ReceiveHead {
        tracing: Default::default(),
        topic: topic.clone(),
        identifier: identifier.clone(),
        message_bytes: payload.len(),
    };
    let sha512 = payload.sha512();
    let make = || {
        let claim = Claim::Receive {
            url: url.without_fragment(),
            topic,
            identifier: &identifier,
            sha512,
        };
        Ok(Post {
            authorization: core
                .to_subscriber
                .authorize(&claim, &[], &stamp(core.clock.now()))?,
            repr_digest: Some(repr_digest.clone()),
            head: head.encode().into(),
            payload: Some(payload.clone()),
        })
    };
    let answer = match core.poster.post(target, payload.len(), make).await {
        Ok(answer) => answer,
        Err(error) => {
            core.forbidden.warn_of(&error);
            return Verdict::Missed(error.into());
        }
    };
    let now = core.clock.now();
    let vouched = |confirm: &ConfirmReceive| {
        // It names an identifier that was drawn for this very delivery and is waited for only
        // here, so it need not be spent to count but once.
        httppubsub_net::first_that_verifies(&[url.as_str(), url.without_fragment()], |url| {
            let ConfirmReceive {
                authorization,
                tracing,
                identifier,
                subscribers,
            } = confirm;
            let claim = Claim::ConfirmReceive {
                identifier,
                subscribers: *subscribers,
                url,
            };
            let value = authorization.as_ref().map(String::as_bytes);
            core.to_broadcaster.verify(&claim, tracing, value, now)
        })
        .map(|(_, _)| ())
    };
    let verdict = judge(answer.status, &answer.body, &identifier, vouched);
    match verdict {
        Verdict::Confirmed(count) => {
            Verdict::Confirmed(count.min(core.config.subscribers_per_confirmation_max))
        }
        other => other,
    }
}

/// What an answer to RECEIVE means (`docs/protocol/stateless.md` §6).
fn judge(
    status: StatusCode,
    body: &[u8],
    identifier: &Identifier,
    vouched: impl FnOnce(&ConfirmReceive) -> Result<(), AuthError>,
) -> Verdict {
    let confirm = match ReceiveAnswer::decode(body) {
        Ok(ReceiveAnswer::UnsubscribeImmediate) => return Verdict::Unsubscribe,
        _ if !status.is_success() => return Verdict::Missed(Undelivered::Status(status)),
        Ok(ReceiveAnswer::Confirm(confirm)) => confirm,
        Err(source) => return Verdict::Missed(Undelivered::Answer { status, source }),
    };
    if confirm.identifier != *identifier {
        return Verdict::Missed(Undelivered::Identifier);
    }
    match vouched(&confirm) {
        Ok(()) => Verdict::Confirmed(confirm.subscribers),
        Err(error) => Verdict::Missed(error.into()),
    }
}
