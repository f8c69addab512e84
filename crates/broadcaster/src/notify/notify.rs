//! Hands a notification to every subscriber that matches, and accounts for each.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use httppubsub_net::body::Payload;
use httppubsub_proto::topic::Topic;
use httppubsub_store::{Store, StoreError};
use tokio::time::Instant;

use crate::admission::admission::Admission;
use crate::admission::overloaded::Overloaded;
use crate::admission::pending::{PendingDeliveries, Reservation, Unmatched};
use crate::config::NotifyTimeouts;
use crate::index::groups::Groups;
use crate::index::index::{Found, Index, Rest};
use crate::journal::journal::Journal;
use crate::message::Message;
use crate::notify::addressees::Addressees;
use crate::notify::fan_out::{Delivery, Dispatcher, FanOut, SoFar};
use crate::notify::receipts::Receipts;
use crate::notify::shared_copies::SharedCopies;
use crate::notify::tally::{Reached, Unrecorded};
use crate::observe::metrics;

/// The use case NOTIFY. Every door calls it with what it has decoded and authorized.
#[derive(Debug)]
pub(crate) struct Notify {
    /// Refuses while this process is late; gives each fan-out its gate.
    pub(crate) admission: Arc<Admission>,
    /// Bounds the deliveries that wait.
    pub(crate) pending: Arc<PendingDeliveries>,
    /// Lets the index catch up before a notification is matched.
    pub(crate) store: Arc<dyn Store>,
    /// Finds who wants a topic, from memory.
    pub(crate) index: Arc<Index>,
    /// Makes the answer true even if this process is killed.
    pub(crate) journal: Arc<Journal>,
    /// Delivers.
    pub(crate) dispatcher: Arc<Dispatcher>,
    /// The deadlines of deliveries and of the answer, by the length of the message.
    pub(crate) timeouts: NotifyTimeouts,
    /// Longest message that is admitted.
    pub(crate) message_bytes_max: Option<u64>,
}

/// The reason for which a notification is not accounted for. Some subscribers may have it, unless
/// the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotifyError {
    /// No delivery began: nobody has it.
    #[error(transparent)]
    NotBegun(#[from] NotBegun),
    /// What was missed could not be recorded, so some subscribers may never hear of it.
    #[error(transparent)]
    Unrecorded(#[from] Unrecorded),
    /// The answer is due, and no record says yet who has to be told if this process is killed.
    #[error("the store did not answer in time")]
    StoreTooSlow,
    /// The task that delivered is gone. The journal tells all subscribers that they missed it.
    #[error("the broadcaster stopped while it delivered")]
    Stopped,
}

/// The reason for which no delivery began: no subscriber has the message, and the request may be
/// sent again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotBegun {
    /// There is no room for its deliveries.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// The store could not say what has changed, or could not record that the topic is in use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same took as long as deliveries may.
    #[error("the store did not answer in time")]
    StoreTooSlow,
}

/// The action when too many deliveries wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfFull {
    /// It fails, and nobody got it.
    Fail,
    /// It waits, and its time begins when it has its reservation.
    Wait,
}

/// The rows that match a notification, and whether the journal covers any of them.
struct Matched {
    /// Rows that were found at once.
    rows: u64,
    /// The same rows, with their places.
    to: Addressees,
    /// The rows that are not found at once.
    rest: Option<Rest>,
    /// `true` if any row may be owed a notice. Without one, nothing has to be written before the
    /// first delivery.
    is_journaled: bool,
}

/// The room that a notification has: given back when its deliveries have ended, and when it is
/// matched.
type Room = (Reservation, Option<Unmatched>);

impl Notify {
    /// Delivers `payload` to every row that matches `topic`, and returns when each has confirmed or
    /// is accounted for, or when [`Config::notify_timeout`] is over: the deliveries have ended by
    /// then, and what of the missed ones is not recorded yet is recorded behind the answer. A
    /// broadcaster that is killed meanwhile makes up for that at its next start, so the answer
    /// stays true. It goes on to the end even if nobody waits for it.
    ///
    /// [`Config::notify_timeout`]: crate::Config::notify_timeout
    pub(crate) async fn notify(
        self: &Arc<Self>,
        topic: Topic,
        payload: Payload,
        if_full: IfFull,
    ) -> Result<Reached, NotifyError> {
        self.notify_with_receipts(topic, payload, if_full, None)
            .await
    }

    /// The same, telling each outcome as it happens.
    pub(crate) async fn notify_with_receipts(
        self: &Arc<Self>,
        topic: Topic,
        payload: Payload,
        if_full: IfFull,
        receipts: Option<Receipts>,
    ) -> Result<Reached, NotifyError> {
        let mut deadlines = self.timeouts.deadlines(payload.len(), Instant::now());
        // Of what was acknowledged before this notification nothing may be missing in the index.
        tokio::time::timeout_at(deadlines.deliveries, self.store.catch_up())
            .await
            .map_err(|_| NotBegun::StoreTooSlow)?
            .map_err(NotBegun::from)?;
        // Without a subscriber it costs neither a task nor a place.
        let Some(matched) = self.match_rows(&topic) else {
            metrics::notified();
            return Ok(Reached::default());
        };
        let room = match if_full {
            IfFull::Fail => self.try_reserve(&matched)?,
            IfFull::Wait => {
                let room = self.reserve(&matched).await;
                // It may have waited for long, and has its whole time before it.
                deadlines = self.timeouts.deadlines(payload.len(), Instant::now());
                room
            }
        };
        metrics::matched(matched.rows);
        let message = Arc::new(Message::new(topic, payload));
        let so_far = Arc::new(SoFar::default());
        so_far.matched.store(matched.rows, Ordering::Relaxed);
        self.dispatcher.busy_poll.happened();
        let delivery = Delivery {
            dispatcher: self.dispatcher.clone(),
            message,
            deadline: deadlines.deliveries,
            so_far: so_far.clone(),
            receipts,
        };
        // A task of its own: it must not end with who waits for it.
        let all = self.clone().deliver(delivery, matched, room);
        let all = self.dispatcher.background.tasks.spawn(all);
        match tokio::time::timeout_at(deadlines.answer, all).await {
            Ok(Ok(reached)) => reached,
            Ok(Err(error)) => {
                tracing::error!(%error, "the delivery of a notification ended early");
                Err(NotifyError::Stopped)
            }
            // Subscribers that are not reached by now get a notice, even if this process is killed.
            Err(_) if so_far.is_journaled.load(Ordering::Relaxed) => Ok(so_far.reached()),
            Err(_) => Err(NotifyError::StoreTooSlow),
        }
    }

    /// The addressees of a notification on `topic`, with places at their peers; `None` if nobody is
    /// subscribed.
    fn match_rows(&self, topic: &Topic) -> Option<Matched> {
        let Found { rows, rest } = self.index.begin_to_match(topic);
        if rows.is_empty() && rest.is_none() {
            return None;
        }
        let matched = rows.len() as u64;
        // Any of the rows that are still to be found may need a notice.
        let is_journaled = rest.is_some() || rows.iter().any(|row| row.is_journaled());
        let groups = Arc::new(Groups::new(rows, || {}));
        Some(Matched {
            rows: matched,
            to: Addressees::new(groups, self.pending.share_of_peer()),
            rest,
            is_journaled,
        })
    }

    /// Takes the room that a notification needs, if there is enough.
    fn try_reserve(&self, matched: &Matched) -> Result<Room, NotBegun> {
        let pending = &self.pending;
        let unmatched = matched.rest.is_some();
        let unmatched = unmatched
            .then(|| pending.try_queue_to_match())
            .transpose()?;
        Ok((pending.try_reserve(matched.to.places)?, unmatched))
    }

    /// Takes the room that a notification needs, when there is enough.
    async fn reserve(&self, matched: &Matched) -> Room {
        let unmatched = match &matched.rest {
            Some(_) => Some(self.pending.queue_to_match().await),
            None => None,
        };
        (self.pending.reserve(matched.to.places).await, unmatched)
    }

    /// Delivers to all that match, and ends the entry in the journal when all are accounted for.
    async fn deliver(
        self: Arc<Self>,
        delivery: Delivery,
        matched: Matched,
        room: Room,
    ) -> Result<Reached, NotifyError> {
        let entry = match matched.is_journaled {
            true => {
                let entered = self.journal.enter(&delivery.message.topic).await;
                Some(entered.map_err(NotBegun::from)?)
            }
            false => None,
        };
        delivery.so_far.is_journaled.store(true, Ordering::Relaxed);
        if let Some(receipts) = &delivery.receipts {
            // From now on everybody who misses it gets a notice, whatever fails.
            receipts.accepted(delivery.so_far.matched.load(Ordering::Relaxed));
        }
        let reached = self.deliver_to_all(delivery, matched, room).await?;
        if let Some(entry) = entry {
            entry.settle();
        }
        metrics::notified();
        Ok(reached)
    }

    /// Delivers to the rows that were found, and to the others as they are found, so that the first
    /// do not wait for them.
    async fn deliver_to_all(
        &self,
        delivery: Delivery,
        matched: Matched,
        (reservation, unmatched): Room,
    ) -> Result<Reached, Unrecorded> {
        let Matched { to, rest, .. } = matched;
        let (deliveries, bytes) = (to.groups.deliveries(), delivery.message.payload.len());
        let gate = Some(self.admission.fan_out(deliveries, bytes));
        let Some(rest) = rest else {
            let fan_out = FanOut::new(delivery, to, gate, SharedCopies::default());
            let tally = Arc::new(fan_out).run(reservation).await;
            return tally.into_reached();
        };
        let copies = SharedCopies::of(&to.groups);
        let first = Arc::new(FanOut::new(delivery.clone(), to, gate, copies.clone()));
        let before = first.clone();
        let then = async {
            let groups = rest.groups().await;
            // It is matched, and the next may be, while this one is delivered.
            drop(unmatched);
            let rows = groups.rows().len() as u64;
            metrics::matched(rows);
            delivery.so_far.matched.fetch_add(rows, Ordering::Relaxed);
            let (to, reservation) = before.addressees().further(groups, &self.pending);
            // Its places at peers are given back when the first have ended, not these.
            drop(before);
            let further = FanOut::new(delivery, to, None, copies.further());
            Arc::new(further).run(reservation).await
        };
        let (mut tally, then) = tokio::join!(first.run(reservation), then);
        // Both know how many subscribers there are by now.
        let subscribers = tally.reached.subscribers.max(then.reached.subscribers);
        tally.add(then);
        tally.reached.subscribers = subscribers;
        tally.into_reached()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use std::time::Duration;

    use httppubsub_net::Clock;
    use httppubsub_net::outbound::Poster;
    use httppubsub_proto::auth::Secrets;
    use httppubsub_proto::glob::GlobPattern;
    use httppubsub_proto::subscription::{Interest, SubscriptionSet};
    use httppubsub_proto::time::Now;
    use httppubsub_proto::url::SubscriberUrl;
    use httppubsub_store::{Feed as _, MemoryStore, Notices as _, Subscriptions as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::admission::busy_poll::BusyPoll;
    use crate::background::Background;
    use crate::cluster::membership::Membership;
    use crate::cluster::shared_clock::SharedClock;
    use crate::config::{Authorizations, Config};
    use crate::delivery::deliver::Deliveries;
    use crate::hub::hub::Hub;
    use crate::index::globs::GlobLimits;
    use crate::index::matching_threads::hold_threads;
    use crate::index::route::Routes;
    use crate::notices::notices::Notices;
    use crate::notify::fan_out::FanOutLimits;
    use crate::notify::settle::Settlement;

    fn url(text: &str) -> SubscriberUrl {
        SubscriberUrl::new(text).unwrap()
    }

    /// Deliveries that run at once.
    const AT_ONCE: usize = 64;

    /// The use case alone, on `store`: without doors, and without anything that runs beside it.
    async fn use_case(store: Arc<MemoryStore>) -> Arc<Notify> {
        let config = Config::default();
        let own = url("http://own/v1/receive_for_websockets");
        let poster = Poster::new(config.post.clone());
        let limits = GlobLimits { bytes_max: 100 };
        let index = Arc::new(Index::new(Routes::new(poster.clone(), own.clone()), limits));
        store.watch(index.clone()).await.unwrap();
        let membership = Arc::new(Membership::new([0; 16]));
        let clock = Arc::new(SharedClock::new(Clock::system(), membership.clone()));
        let notices = Notices::new(store.clone(), clock.clone(), config.missed);
        let notices = Arc::new(notices);
        let hub = Hub::new(
            store.clone(),
            own.clone(),
            url("http://own/v1/missed_for_websockets"),
        );
        let (hub, background) = (Arc::new(hub), Background::default());
        let dispatcher = Dispatcher {
            deliveries: Deliveries {
                hub: hub.clone(),
                membership,
                quarantine: None,
                poster,
                egress_log: Arc::default(),
                authorizations: Authorizations::from(&Secrets::NONE),
                clock: Clock::system(),
                subscribers_max: 1,
            },
            settlement: Settlement {
                store: store.clone(),
                hub,
                notices: notices.clone(),
            },
            busy_poll: Arc::new(BusyPoll::new(Duration::ZERO)),
            limits: FanOutLimits {
                in_flight_max: AT_ONCE,
                in_flight_per_peer_max: AT_ONCE,
                threads: 1,
            },
            background: background.clone(),
        };
        let deliveries_max = config.admission.deliveries_max;
        Arc::new(Notify {
            admission: Arc::new(Admission::new(config.admission, Arc::default())),
            pending: Arc::new(PendingDeliveries::new(deliveries_max, Arc::default())),
            store: store.clone(),
            journal: Arc::new(Journal::new(
                store,
                index.clone(),
                notices,
                clock,
                own,
                background,
            )),
            index,
            dispatcher: Arc::new(dispatcher),
            timeouts: config.timeouts(),
            message_bytes_max: Some(10),
        })
    }

    /// More than are matched at once; nothing can be posted to their url.
    const GLOBS: u32 = 5_000;

    /// The use case with one subscriber of `news` that listens, and [`GLOBS`] rows of another.
    async fn with_many_globs() -> (Arc<Notify>, Arc<MemoryStore>, TcpListener) {
        let store = Arc::new(MemoryStore::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let news = Interest::Exact(Topic::new("news").unwrap());
        let own = url(&format!("http://{}/", listener.local_addr().unwrap()));
        let set = SubscriptionSet::from_iter([(news, None)]);
        store.set(own, set).await.unwrap();
        let globs = (0..GLOBS).filter_map(|number| {
            let other = char::from_u32(0x4e00 + number)?;
            let glob = GlobPattern::parse(format!("?[e{other}]*")).ok()?;
            Some((Interest::Glob(glob), Some(url("ftp://elsewhere/recover"))))
        });
        let set = SubscriptionSet::from_iter(globs);
        store.set(url("ftp://elsewhere/"), set).await.unwrap();
        (use_case(store.clone()).await, store, listener)
    }

    async fn notify_of_news(notify: Arc<Notify>) -> Reached {
        let topic = Topic::new("news").unwrap();
        let payload = Payload::from_bytes("x");
        notify.notify(topic, payload, IfFull::Fail).await.unwrap()
    }

    #[tokio::test]
    async fn who_is_found_at_once_is_delivered_to_while_others_are_yet_to_be_found() {
        let (notify, _store, listener) = with_many_globs().await;
        let held = hold_threads().await;
        let notifying = tokio::spawn(notify_of_news(notify));
        let (delivery, _) = listener.accept().await.unwrap();
        assert!(!notifying.is_finished());
        drop((held, delivery));
        let reached = notifying.await.unwrap();
        // Nobody confirmed.
        assert_eq!((reached.dropped, reached.missed), (1, u64::from(GLOBS)));
    }

    #[tokio::test]
    async fn rows_of_one_url_that_need_not_be_tried_are_told_by_one_notice() {
        let (notify, store, listener) = with_many_globs().await;
        drop(listener);
        let reached = notify_of_news(notify).await;
        assert_eq!((reached.dropped, reached.missed), (1, u64::from(GLOBS)));
        let far = Now::from_unix(Duration::from_secs(10_000_000_000));
        let owed = store.claim_missed(far, Duration::from_secs(1), usize::MAX);
        let owed = owed.await.unwrap().len();
        assert!((1..=AT_ONCE + 1).contains(&owed), "{owed} notices");
    }

    #[tokio::test]
    async fn nobody_is_reached_where_nobody_is_subscribed_and_long_messages_are_refused() {
        let notify = use_case(Arc::new(MemoryStore::new())).await;
        assert_eq!(notify_of_news(notify.clone()).await, Reached::default());
        assert!(notify.admit(10).is_ok());
        assert!(notify.admit(11).is_err() && notify.judge_length(11).is_err());
    }
}
