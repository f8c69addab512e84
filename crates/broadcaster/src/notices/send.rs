//! Sends one notice: a MISSED to the recovery url of a subscriber.

use std::sync::Arc;

use httppubsub_net::inbound::verify_any_url;
use httppubsub_net::outbound::{Post, PostError, Poster};
use httppubsub_net::{Clock, stamp};
use httppubsub_proto::auth::{AuthError, Claim};
use httppubsub_proto::stateless::{ConfirmMissed, MissedHead, UNSUBSCRIBE_IMMEDIATE};
use httppubsub_proto::url::{EndpointError, Origin};
use httppubsub_proto::wire::DecodeError;
use httppubsub_store::ClaimedNotice;

use crate::cluster::replay::Replay;
use crate::config::Authorizations;
use crate::delivery::egress_log::EgressLog;

/// Posts notices, and verifies that they were taken.
#[derive(Debug)]
pub(crate) struct NoticeSender {
    /// The same as that of deliveries, so that a confirmed notice counts for its peer's breaker.
    pub(crate) poster: Poster,
    /// Notices are signed for subscribers, and their confirmations verified.
    pub(crate) authorizations: Authorizations,
    /// A confirmation counts once, as every authorization does.
    pub(crate) replay: Arc<Replay>,
    /// A signature has the time at which the notice leaves.
    pub(crate) clock: Clock,
    /// Told of peers to which the egress policy lets nothing be posted.
    pub(crate) egress_log: Arc<EgressLog>,
}

/// The reason for which a notice may not have been accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// It has another scheme than http and https, or is malformed.
    #[error("nothing can be posted to the recovery url")]
    Url(#[from] EndpointError),
    /// It was not sent, or not answered in time.
    #[error(transparent)]
    Post(#[from] PostError),
    /// The answer is a failure by its status.
    #[error("it answered with status {0}")]
    Status(http::StatusCode),
    /// The answer is UNSUBSCRIBE_IMMEDIATE, which nothing vouches for.
    #[error("it answered that this subscription is not wanted any more")]
    Unwanted,
    /// A success that confirms nothing.
    #[error("its answer makes no sense")]
    Answer(#[from] DecodeError),
    /// Somebody without the secret may have sent it, or sent it before.
    #[error("its confirmation is not vouched for")]
    Auth(#[from] AuthError),
}

impl NoticeSender {
    /// The peer that a notice goes to, if anything can be posted there.
    pub(super) fn peer(&self, notice: &ClaimedNotice) -> Option<Origin> {
        let target = self.poster.target(&notice.recovery).ok()?;
        Some(target.origin().clone())
    }

    /// Sends a notice once.
    ///
    /// It has no deadline but that of the post: nobody waits for a notice.
    pub(super) async fn send(&self, notice: &ClaimedNotice) -> Result<(), NotTaken> {
        let (recovery, topic) = (&notice.recovery, &notice.topic);
        let target = self.poster.target(recovery)?;
        let body = MissedHead {
            tracing: Default::default(),
            topic: topic.clone(),
        }
        .encode();
        // Made anew when the post is repeated on another connection: a code counts once.
        let make = || {
            let claim = Claim::Missed {
                recovery: recovery.without_fragment(),
                topic,
            };
            let stamp = stamp(self.clock.now());
            let to_subscriber = &self.authorizations.to_subscriber;
            Ok(Post {
                authorization: to_subscriber.authorize(&claim, &[], &stamp)?,
                repr_digest: None,
                headers: Vec::new(),
                head: body.clone().into(),
                payload: None,
            })
        };
        let answer = self.poster.post(&target, 0, make).await;
        let answer = answer.inspect_err(|error| self.egress_log.warn_of(error))?;
        // Before the status: published subscribers say so with several.
        if answer.body.starts_with(&UNSUBSCRIBE_IMMEDIATE) {
            return Err(NotTaken::Unwanted);
        }
        if !answer.status.is_success() {
            return Err(NotTaken::Status(answer.status));
        }
        let confirm = ConfirmMissed::decode(&answer.body)?;
        let now = self.clock.now();
        let urls = [recovery.as_str(), recovery.without_fragment()];
        let (unspent, _) = verify_any_url(&urls, |url| {
            let value = confirm.authorization.as_ref().map(String::as_bytes);
            let claim = Claim::ConfirmMissed { topic, url };
            let to_broadcaster = &self.authorizations.to_broadcaster;
            to_broadcaster.verify(&claim, &confirm.tracing, value, now)
        })?;
        let _spent = self.replay.guard().spend(unspent, now).await?;
        // A breaker may have waited for just this to let messages through again.
        self.poster.notice_confirmed(&target, &notice.url);
        Ok(())
    }
}
