//! One delivery to one subscriber.
//!
//! ```text
//!   route of the row ──▶ own: the hub hands it to sessions
//!        │
//!        ├─ peer that fell silent, unusable url ─────▶ missed
//!        ▼
//!   quarantine, circuit breaker ──▶ not tried: missed
//!        │
//!        ▼
//!   post RECEIVE, judge the answer ──▶ tell the breaker ──▶ verdict
//! ```

use std::sync::Arc;

use httppubsub_net::inbound::verify_any_url;
use httppubsub_net::outbound::{Admitted, PeerSignal, Post, Poster, Probe, Target};
use httppubsub_net::{Clock, stamp};
use httppubsub_proto::auth::{AuthError, Claim};
use httppubsub_proto::number::Number;
use httppubsub_proto::stateless::{ConfirmReceive, ReceiveHead};
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::{Scheme, SubscriberUrl};
use tokio::time::Instant;

use crate::cluster::membership::Membership;
use crate::config::Authorizations;
use crate::delivery::egress_log::EgressLog;
use crate::delivery::quarantine::{self, Quarantine};
use crate::delivery::verdict::{Undelivered, Verdict, judge};
use crate::hub::hub::Hub;
use crate::index::route::Route;
use crate::index::row::Row;
use crate::message::Message;
use crate::observe::metrics;

/// Delivers messages, one to one subscriber at a time.
#[derive(Debug)]
pub(crate) struct Deliveries {
    /// The websockets of this broadcaster.
    pub(crate) hub: Arc<Hub>,
    /// Nothing is posted to a broadcaster that fell silent.
    pub(crate) membership: Arc<Membership>,
    /// There is none unless it is asked for.
    pub(crate) quarantine: Option<Arc<Quarantine>>,
    /// Has permits, connections and a circuit breaker for each peer.
    pub(crate) poster: Poster,
    /// Told of peers to which the egress policy lets nothing be posted.
    pub(crate) egress_log: Arc<EgressLog>,
    /// Messages are signed for subscribers, and their confirmations verified.
    pub(crate) authorizations: Authorizations,
    /// A signature has the time at which the message leaves.
    pub(crate) clock: Clock,
    /// The most subscribers that one confirmation counts for, whatever it claims.
    pub(crate) subscribers_max: u32,
}

impl Deliveries {
    /// Delivers a message to the subscriber of `row`, once, with this `number` of its line, and not
    /// beyond `deadline`.
    pub(crate) async fn deliver(
        &self,
        row: &Row,
        message: &Arc<Message>,
        number: Number,
        deadline: Instant,
    ) -> Verdict {
        let (url, interest) = (&row.subscriber.url, &row.interest);
        let target = match &row.subscriber.route {
            Route::Own(_) => {
                let handed = self.hub.deliver(message, deadline).await;
                // One may be about to want it. Otherwise the row is one that could not be removed
                // when the last session left.
                return if handed > 0 || self.hub.wants(&message.topic).await {
                    Verdict::Confirmed(handed)
                } else {
                    Verdict::Unsubscribe
                };
            }
            Route::Peer(_) if self.membership.is_silent(url) => {
                return Verdict::Missed(Undelivered::Silent);
            }
            Route::Peer(target) | Route::Webhook(target) => target,
            Route::Unusable(error) => return Verdict::Missed(Undelivered::Url(error.clone())),
        };
        let quarantine = self.quarantine.as_deref();
        if quarantine.is_some_and(|it| it.is_paused(url, interest, Instant::now())) {
            return Verdict::Missed(Undelivered::Quarantined);
        }
        // Asked only when a breaker is open: most deliveries do not need to know.
        let by = || self.probe_by(row, target);
        let mut admitted = match self.poster.admit(target, message.payload.len(), by) {
            Ok(admitted) => admitted,
            Err(error) => return Verdict::Missed(error.into()),
        };
        let identifier = number.identifier();
        let posting = self.post(row, target, message, identifier, deadline, &mut admitted);
        let verdict = posting.await;
        let signal = match &verdict {
            Verdict::Confirmed(_) => Some(PeerSignal::Confirmed),
            // Nothing vouches for it.
            Verdict::Unsubscribe => Some(PeerSignal::Answered),
            Verdict::Missed(why) => why.signal(),
        };
        // What was not tried, or failed on this side, says nothing of the peer.
        if let Some(signal) = signal {
            self.poster.record(target, &admitted, signal);
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

    /// The error with which a delivery to the subscriber of `row` would not be tried now.
    pub(crate) fn outlook(&self, row: &Row) -> Result<(), Undelivered> {
        let (url, interest) = (&row.subscriber.url, &row.interest);
        let target = match &row.subscriber.route {
            Route::Own(_) => return Ok(()),
            Route::Peer(_) if self.membership.is_silent(url) => return Err(Undelivered::Silent),
            Route::Peer(target) | Route::Webhook(target) => target,
            Route::Unusable(error) => return Err(Undelivered::Url(error.clone())),
        };
        let quarantine = self.quarantine.as_deref();
        if quarantine.is_some_and(|it| it.is_paused(url, interest, Instant::now())) {
            return Err(Undelivered::Quarantined);
        }
        let by = || self.probe_by(row, target);
        Ok(self.poster.outlook(target, by)?)
    }

    /// A notice goes to the recovery url, which says something of the peer only if it is there as
    /// well.
    fn probe_by(&self, row: &Row, target: &Target) -> Probe {
        let recovery = row.recovery.as_ref();
        let recovery = recovery.and_then(|url| self.poster.target(url).ok());
        match recovery {
            Some(recovery) if recovery.peer_id() == target.peer_id() => Probe::Notice,
            _ => Probe::Message,
        }
    }

    /// Posts a RECEIVE to `target` and judges the answer. `admitted` is the pass of the circuit
    /// breaker, which the poster may exchange while the message waits. The confirmation may count
    /// for many subscribers, as another broadcaster's does for its websockets.
    async fn post(
        &self,
        row: &Row,
        target: &Target,
        message: &Message,
        identifier: Identifier,
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
        let head = ReceiveHead {
            tracing: Default::default(),
            topic: topic.clone(),
            identifier,
            message_bytes: payload.len(),
        };
        let identifier = &head.identifier;
        let sha512 = payload.sha512();
        // Signed when it leaves: it may have waited for its permit longer than a signature lives.
        let mut make = || {
            let claim = Claim::Receive {
                url: url.without_fragment(),
                topic,
                identifier,
                sha512,
            };
            let stamp = stamp(self.clock.now());
            let to_subscriber = &self.authorizations.to_subscriber;
            Ok(Post {
                authorization: to_subscriber.authorize(&claim, &[], &stamp)?,
                repr_digest: Some(repr_digest.clone()),
                headers: Vec::new(),
                head: head.encode().into(),
                payload: Some(payload.clone()),
            })
        };
        let posting = self.poster.deliver(target, admitted, deadline, &mut make);
        let answer = match posting.await {
            Ok(answer) => answer,
            Err(error) => {
                self.egress_log.warn_of(&error);
                return Verdict::Missed(error.into());
            }
        };
        let vouched = |confirm: &ConfirmReceive| self.verify(url, confirm);
        match judge(answer.status, &answer.body, identifier, vouched) {
            // It may claim any number, and the publisher gets the sum.
            Verdict::Confirmed(count) => Verdict::Confirmed(count.min(self.subscribers_max)),
            other => other,
        }
    }

    /// Verifies the confirmation of the subscriber at `url`.
    fn verify(&self, url: &SubscriberUrl, confirm: &ConfirmReceive) -> Result<(), AuthError> {
        let now = self.clock.now();
        let urls = [url.as_str(), url.without_fragment()];
        // It names an identifier that no other delivery has and that is waited for only here, so it
        // need not be spent to count but once.
        let verified = verify_any_url(&urls, |url| {
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
            let to_broadcaster = &self.authorizations.to_broadcaster;
            to_broadcaster.verify(&claim, tracing, value, now)
        });
        verified.map(|(_, _)| ())
    }
}

/// Decides if the answer came from the subscriber itself. Only over plain HTTP: over TLS the
/// certificate says who answered.
fn is_believed(quarantine: &Quarantine, row: &Row) -> Verdict {
    let (subscriber, interest) = (&row.subscriber.url, &row.interest);
    match quarantine.asked_to_remove(subscriber, interest, Instant::now()) {
        quarantine::Verdict::Remove => Verdict::Unsubscribe,
        quarantine::Verdict::Pause { times } => {
            metrics::quarantined();
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
