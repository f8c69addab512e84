//! One delivery to one subscriber, and what its answer means.

use std::sync::Arc;

use http::StatusCode;
use httppubsub_net::{
    Admitted, NotTried, Post, PostError, Target, Told, TrialBy, random_bytes, stamp,
};
use httppubsub_proto::auth::{AuthError, Claim};
use httppubsub_proto::http::{ConfirmReceive, ReceiveAnswer, ReceiveHead};
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::{EndpointError, Scheme};
use tokio::time::Instant;

use crate::core::Core;
use crate::index::Row;
use crate::measures;
use crate::message::Message;
use crate::quarantine::{self, Quarantine};

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
    #[error("somebody said that it wants this subscription no more, and it is not clear who")]
    Quarantined,
    #[error("the broadcaster there says no more that it lives")]
    Silent,
    #[error("the broadcaster there wants it for none of its websockets, or does not trust it")]
    Unwanted,
    #[error("too many deliveries are pending at its peer")]
    NoPlace,
    #[error("its peer is not tried: {0}")]
    NotTried(#[from] NotTried),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("it answered with status {0}")]
    Status(StatusCode),
    #[error(
        "it answered {} but not a confirmation; see the README, What a subscriber answers",
        .0.as_u16()
    )]
    Answer(StatusCode),
    #[error("it confirmed another delivery")]
    Identifier,
    #[error("its confirmation is not vouched for: {0}")]
    Auth(#[from] AuthError),
}

impl Undelivered {
    /// Whether nothing was tried, because it has failed before or others wait.
    pub(crate) fn is_not_tried(&self) -> bool {
        matches!(
            self,
            Self::Quarantined
                | Self::Silent
                | Self::NoPlace
                | Self::NotTried(_)
                | Self::Post(PostError::NotTried { .. })
        )
    }

    /// Whether a notice is to be sent at once, to find out whether the peer is back.
    pub(crate) fn asks_for_a_notice(&self) -> bool {
        matches!(self, Self::NotTried(NotTried::NoticeFirst))
    }

    /// What it says of the peer.
    fn told(&self) -> Option<Told> {
        match self {
            Self::Url(_)
            | Self::Quarantined
            | Self::Silent
            | Self::Unwanted
            | Self::NoPlace
            | Self::NotTried(_) => None,
            Self::Post(error) => error.told(),
            Self::Status(status)
                if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS =>
            {
                Some(Told::TooMuch)
            }
            // A shorter one may be taken.
            Self::Status(StatusCode::PAYLOAD_TOO_LARGE) => Some(Told::Answered),
            Self::Status(_) | Self::Answer(_) | Self::Identifier | Self::Auth(_) => {
                Some(Told::NotConfirmed)
            }
        }
    }
}

/// Delivers a message to the subscriber of `row`, once, and not beyond `deadline`.
pub(crate) async fn deliver(
    core: &Core,
    row: &Row,
    message: &Arc<Message>,
    deadline: Instant,
) -> Verdict {
    let Message { topic, payload, .. } = &**message;
    if row.subscriber.url.as_str() == core.config.receiver_url {
        let handed = core.hub.deliver(message, deadline).await;
        // One may be about to want it.
        return if handed > 0 || core.hub.wants(topic).await {
            Verdict::Confirmed(handed)
        } else {
            Verdict::Unsubscribe
        };
    }
    if core.others.is_silent(&row.subscriber.url) {
        return Verdict::Missed(Undelivered::Silent);
    }
    let target = match &row.subscriber.target {
        Ok(target) => target,
        Err(error) => return Verdict::Missed(Undelivered::Url(error.clone())),
    };
    let (url, interest) = (&row.subscriber.url, &row.interest);
    let quarantine = core.quarantine.as_ref();
    if quarantine.is_some_and(|it| it.is_paused(url, interest, Instant::now())) {
        return Verdict::Missed(Undelivered::Quarantined);
    }
    let by = || trial_by(core, row, target);
    let mut admitted = match core.poster.admit(target, payload.len(), by) {
        Ok(admitted) => admitted,
        Err(error) => return Verdict::Missed(error.into()),
    };
    let verdict = post(core, row, target, message, deadline, &mut admitted).await;
    let told = match &verdict {
        Verdict::Confirmed(_) => Some(Told::Confirmed),
        // Nothing vouches for it.
        Verdict::Unsubscribe => Some(Told::Answered),
        Verdict::Missed(why) => why.told(),
    };
    if let Some(told) = told {
        core.poster.learn(target, &admitted, told);
    }
    let Some(quarantine) = quarantine else {
        return verdict;
    };
    match verdict {
        Verdict::Confirmed(_) => {
            if quarantine.confirmed(url, interest) {
                tracing::info!(subscriber = %url, %interest, "out of quarantine");
            }
            verdict
        }
        // Over TLS it is known who said so.
        Verdict::Unsubscribe if target.origin().scheme == Scheme::Http => {
            is_believed(quarantine, row)
        }
        verdict => verdict,
    }
}

/// Whether the subscriber is the one who said that it does not want this subscription.
fn is_believed(quarantine: &Quarantine, row: &Row) -> Verdict {
    let (subscriber, interest) = (&row.subscriber.url, &row.interest);
    match quarantine.asked_to_remove(subscriber, interest, Instant::now()) {
        quarantine::Verdict::Remove => Verdict::Unsubscribe,
        quarantine::Verdict::Pause { times } => {
            measures::quarantined();
            tracing::warn!(
                %subscriber,
                %interest,
                times,
                "in quarantine: somebody answered that it wants this subscription no more"
            );
            Verdict::Missed(Undelivered::Quarantined)
        }
    }
}

/// A notice goes to the recovery url, which says something of the peer only if it is there as well.
fn trial_by(core: &Core, row: &Row, target: &Target) -> TrialBy {
    let recovery = row.recovery.as_ref();
    let recovery = recovery.and_then(|url| core.poster.target(url).ok());
    match recovery {
        Some(recovery) if recovery.peer_id() == target.peer_id() => TrialBy::Notice,
        _ => TrialBy::Message,
    }
}

async fn post(
    core: &Core,
    row: &Row,
    target: &Target,
    message: &Message,
    deadline: Instant,
    admitted: &mut Admitted,
) -> Verdict {
    let Message {
        topic,
        payload,
        repr_digest,
        ..
    } = message;
    let url = &row.subscriber.url;
    let identifier = Identifier::new(random_bytes::<8>().to_vec()).expect("8 bytes fit");
    let head = ReceiveHead {
        tracing: Default::default(),
        topic: topic.clone(),
        identifier,
        message_bytes: payload.len(),
    };
    let identifier = &head.identifier;
    let sha512 = payload.sha512();
    let mut make = || {
        let claim = Claim::Receive {
            url: url.without_fragment(),
            topic,
            identifier,
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
    let answer = match core
        .poster
        .deliver(target, admitted, deadline, &mut make)
        .await
    {
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
    let verdict = judge(answer.status, &answer.body, identifier, vouched);
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
        Err(_) => return Verdict::Missed(Undelivered::Answer(status)),
    };
    if confirm.identifier != *identifier {
        return Verdict::Missed(Undelivered::Identifier);
    }
    match vouched(&confirm) {
        Ok(()) => Verdict::Confirmed(confirm.subscribers),
        Err(error) => Verdict::Missed(error.into()),
    }
}
