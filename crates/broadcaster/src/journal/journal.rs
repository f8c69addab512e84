//! The journal: records durably which topics have notifications in progress, so that a broadcaster
//! that was killed tells their subscribers MISSED when it is back (`docs/design/threats.md` F7).
//! One small write for each topic in use, not for each notification.
//!
//! ```text
//!   enter ──▶ recorded (good for 120 s) ──▶ settle ──▶ kept for 10 s ──▶ forgotten
//!                │        ▲                   │
//!                └─ renew ┘                   └─ dropped instead: settle_as_missed
//! ```
//!
//! A topic is kept for a while after its last notification, because the next one is likely to come
//! soon and would have to write again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{Store, StoreError, TopicInFlight};

use crate::background::Background;
use crate::cluster::shared_clock::SharedClock;
use crate::index::index::Index;
use crate::journal::topics::{InUse, Topics};
use crate::notices::notices::Notices;

/// The records of this broadcaster, and what is done with records that others left.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Keeps the records, where other broadcasters find them too.
    pub(super) store: Arc<dyn Store>,
    /// Knows who may have missed a notification on a topic.
    pub(super) index: Arc<Index>,
    /// Records what was missed.
    pub(super) notices: Arc<Notices>,
    /// Others judge by it how old a record is.
    pub(super) clock: Arc<SharedClock>,
    /// The url that stands for this broadcaster in the store.
    pub(super) own: SubscriberUrl,
    /// The records that this process has written, and by how many notifications each is used.
    pub(super) topics: Topics,
    /// Runs what is left to do after a notification that was given up.
    pub(super) background: Background,
}

/// A notification in progress. If it is dropped before [`settle`](Self::settle), all subscribers
/// that may have missed it get MISSED.
#[derive(Debug)]
#[must_use = "what is dropped is told as missed"]
pub(crate) struct JournalEntry {
    /// Told when the entry ends.
    journal: Arc<Journal>,
    /// The topic whose subscribers get a notice if it is dropped.
    topic: Topic,
    /// The count that keeps the record from being forgotten.
    in_use: Arc<InUse>,
    /// `true` if every delivery is accounted for.
    is_settled: bool,
}

impl JournalEntry {
    /// Ends the entry: every delivery is accounted for.
    pub(crate) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for JournalEntry {
    fn drop(&mut self) {
        if self.is_settled {
            self.journal.leave(&self.in_use);
        } else if tokio::runtime::Handle::try_current().is_ok() {
            // Dropped by a panic, or because its deliveries failed.
            let (journal, topic) = (self.journal.clone(), self.topic.clone());
            let in_use = self.in_use.clone();
            let tasks = &self.journal.background.tasks;
            tasks.spawn(journal.settle_as_missed(topic, in_use));
        }
        // Otherwise the record stays, and is found at the next start.
    }
}

/// Lifetime of a record.
const GOOD_FOR: Duration = Duration::from_secs(120);

/// Seconds before its end at which a record is renewed.
const RENEWED_BEFORE: u64 = 60;

/// Seconds for which a record is kept after the last notification.
const KEPT_FOR: u64 = 10;

/// Pause between looks at the records.
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Looks between two looks at the records of other broadcasters.
const LOOKS_AT_OTHERS: u64 = 12;

/// Records that are changed, and subscribers that are notified, in one step.
pub(super) const AT_ONCE: usize = 256;

impl Journal {
    /// The journal of the broadcaster at `own`, without a topic in use.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        index: Arc<Index>,
        notices: Arc<Notices>,
        clock: Arc<SharedClock>,
        own: SubscriberUrl,
        background: Background,
    ) -> Self {
        Self {
            store,
            index,
            notices,
            clock,
            own,
            topics: Topics::default(),
            background,
        }
    }

    /// Enters a notification that begins: when this returns, that is durable.
    pub(crate) async fn enter(self: &Arc<Self>, topic: &Topic) -> Result<JournalEntry, StoreError> {
        // Counted before it is recorded, so that nobody forgets the topic in between.
        let in_use = self.topics.enter(topic);
        if let Err(error) = self.record(topic, &in_use).await {
            self.leave(&in_use);
            return Err(error);
        }
        Ok(JournalEntry {
            journal: self.clone(),
            topic: topic.clone(),
            in_use,
            is_settled: false,
        })
    }

    /// Makes a record that is good for some time, unless there is one.
    async fn record(&self, topic: &Topic, in_use: &InUse) -> Result<(), StoreError> {
        let is_good = || {
            let good_until = in_use.until.load(Ordering::Relaxed);
            good_until > self.clock.now().unix_seconds() + RENEWED_BEFORE
        };
        if is_good() {
            return Ok(());
        }
        let _turn = in_use.turn.lock().await;
        // Another notification may have made it while this one waited.
        if is_good() {
            return Ok(());
        }
        let until = self.clock.now() + GOOD_FOR;
        let record = TopicInFlight {
            broadcaster: self.own.clone(),
            topic: topic.clone(),
            until,
        };
        self.store.record_in_flight(record).await?;
        in_use.until.store(until.unix_seconds(), Ordering::Relaxed);
        Ok(())
    }

    /// Ends an entry. The record stays for a while.
    pub(super) fn leave(&self, in_use: &InUse) {
        self.topics.leave(in_use, self.clock.now());
    }

    /// Keeps the records true until the broadcaster stops, and takes over those of broadcasters
    /// that no longer do.
    pub(crate) async fn run(self: Arc<Self>) {
        let looks = AtomicU64::new(0);
        let look = || {
            let number = looks.fetch_add(1, Ordering::Relaxed) + 1;
            self.clone().look(number)
        };
        let what = "writing down what is in flight";
        self.background.repeat(BETWEEN_LOOKS, what, look).await;
    }

    /// One look at the records: renews, forgets and, every so often, takes over.
    async fn look(self: Arc<Self>, number: u64) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.renew(now).await?;
        let since = now.unix_seconds().saturating_sub(KEPT_FOR);
        self.forget(since).await?;
        // Others are not given up that soon.
        match number % LOOKS_AT_OTHERS {
            0 => self.take_over(now).await,
            _ => Ok(()),
        }
    }

    /// Makes the records anew that end soon, of notifications that take long.
    async fn renew(&self, now: Now) -> Result<(), StoreError> {
        let soon = now.unix_seconds() + RENEWED_BEFORE;
        // Collected first: the topics are not locked while the store writes.
        let ending: Vec<(Topic, Arc<InUse>)> = {
            let topics = self.topics.lock();
            let ending = topics
                .iter()
                .filter(|(_, it)| it.is_in_use() && it.until.load(Ordering::Relaxed) <= soon);
            ending
                .map(|(topic, it)| (topic.clone(), it.clone()))
                .collect()
        };
        stream::iter(ending)
            .map(|(topic, in_use)| async move { self.record(&topic, &in_use).await })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Forgets the topics that had no notification since `since`, in seconds since the epoch.
    async fn forget(&self, since: u64) -> Result<(), StoreError> {
        loop {
            let (mut unused, mut turns) = (Vec::new(), Vec::new());
            {
                let topics = self.topics.lock();
                let idle = topics
                    .iter()
                    .filter(|(_, it)| !it.is_in_use() && it.last.load(Ordering::Relaxed) <= since);
                for (topic, in_use) in idle {
                    // A notification that begins now waits, and records the topic anew.
                    if let Ok(turn) = in_use.turn.clone().try_lock_owned() {
                        in_use.until.store(0, Ordering::Relaxed);
                        unused.push(topic.clone());
                        turns.push(turn);
                    }
                    // The rest in the next round: all topics are locked meanwhile.
                    if unused.len() == AT_ONCE {
                        break;
                    }
                }
            }
            if unused.is_empty() {
                return Ok(());
            }
            let own = self.own.clone();
            self.store.forget_in_flight(own, unused.clone()).await?;
            let mut topics = self.topics.lock();
            for topic in &unused {
                // One that is in use again keeps its entry, whose record is made anew.
                if topics.get(topic).is_some_and(|it| !it.is_in_use()) {
                    topics.remove(topic);
                }
            }
        }
    }

    /// Removes the records: nothing is in progress, and all is accounted for.
    pub(crate) async fn end(&self) -> Result<(), StoreError> {
        self.forget(u64::MAX).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use httppubsub_net::Clock;
    use httppubsub_net::outbound::{PostConfig, Poster};
    use httppubsub_proto::backoff::MissedSchedule;
    use httppubsub_proto::subscription::{Interest, Subscription};
    use httppubsub_store::{
        Feed as _, InFlight as _, MemoryStore, Notices as _, Subscriptions as _,
    };

    use super::*;
    use crate::cluster::membership::Membership;
    use crate::index::globs::GlobLimits;
    use crate::index::route::Routes;

    const OWN: &str = "http://own/v1/receive_for_websockets";

    fn url(text: &str) -> SubscriberUrl {
        SubscriberUrl::new(text).unwrap()
    }

    fn topic() -> Topic {
        Topic::new("t").unwrap()
    }

    fn at(seconds: u64) -> Now {
        Now::from_unix(Duration::from_secs(seconds))
    }

    /// A journal whose clock stands, on a store where `t` is subscribed with a recovery url.
    async fn journal(left: Option<TopicInFlight>) -> (Arc<Journal>, Arc<MemoryStore>, Clock) {
        let clock = Clock::standing_at(at(1_000));
        let store = Arc::new(MemoryStore::new());
        let subscription = Subscription {
            url: url("http://127.0.0.1:9/"),
            interest: Interest::Exact(topic()),
            recovery: Some(url("http://127.0.0.1:9/recover")),
        };
        store.subscribe(subscription).await.unwrap();
        if let Some(left) = left {
            store.record_in_flight(left).await.unwrap();
        }
        let routes = Routes::new(Poster::new(PostConfig::default()), url(OWN));
        let index = Arc::new(Index::new(routes, GlobLimits { bytes_max: 100 }));
        store.watch(index.clone()).await.unwrap();
        let membership = Arc::new(Membership::new([0; 16]));
        let shared = Arc::new(SharedClock::new(clock.clone(), membership));
        let notices = Notices::new(store.clone(), shared.clone(), MissedSchedule::default());
        let (notices, background) = (Arc::new(notices), Background::default());
        let journal = Journal::new(store.clone(), index, notices, shared, url(OWN), background);
        (Arc::new(journal), store, clock)
    }

    async fn is_owed_a_notice(store: &MemoryStore) -> bool {
        store.next_missed().await.unwrap().is_some()
    }

    async fn kept(store: &MemoryStore) -> usize {
        let kept = store.in_flight(url("http://nobody/"), at(1_000_000), 100);
        kept.await.unwrap().len()
    }

    #[tokio::test]
    async fn what_another_broadcaster_left_is_told_when_it_was_silent_for_too_long() {
        let other = TopicInFlight {
            broadcaster: url("http://other/"),
            topic: topic(),
            until: at(1_100),
        };
        let (journal, store, clock) = journal(Some(other)).await;
        journal.take_over(clock.now()).await.unwrap();
        assert!(!is_owed_a_notice(&store).await);
        assert_eq!(kept(&store).await, 1);
        clock.set(at(1_100));
        journal.take_over(clock.now()).await.unwrap();
        assert!(is_owed_a_notice(&store).await);
        assert_eq!(kept(&store).await, 0);
    }

    #[tokio::test]
    async fn what_an_earlier_life_left_is_told_at_the_next_start() {
        let own = TopicInFlight {
            broadcaster: url(OWN),
            topic: topic(),
            until: at(1_100),
        };
        let (journal, store, _clock) = journal(Some(own)).await;
        journal.recover().await.unwrap();
        journal.background.tasks.close();
        journal.background.tasks.wait().await;
        assert!(is_owed_a_notice(&store).await);
        assert_eq!(kept(&store).await, 1, "until that is said to all");
        journal.end().await.unwrap();
        assert_eq!(kept(&store).await, 0);
    }

    #[tokio::test]
    async fn a_notification_that_is_given_up_is_told_and_one_that_is_accounted_for_is_not() {
        let (journal, store, clock) = journal(None).await;
        let first = journal.enter(&topic()).await.unwrap();
        journal.enter(&topic()).await.unwrap().settle();
        first.settle();
        tokio::task::yield_now().await;
        assert!(!is_owed_a_notice(&store).await);
        assert_eq!(kept(&store).await, 1);
        drop(journal.enter(&topic()).await.unwrap());
        while !is_owed_a_notice(&store).await {
            tokio::task::yield_now().await;
        }
        // It is forgotten some seconds after the last.
        journal.forget(999).await.unwrap();
        assert_eq!(kept(&store).await, 1);
        clock.set(at(1_011));
        journal.forget(1_001).await.unwrap();
        assert_eq!(kept(&store).await, 0);
        assert!(journal.topics.lock().is_empty());
    }

    #[tokio::test]
    async fn a_record_is_made_again_before_it_ends_while_a_notification_takes_long() {
        let (journal, store, clock) = journal(None).await;
        let long = journal.enter(&topic()).await.unwrap();
        let until = || async {
            let kept = store.in_flight(url(OWN), clock.now(), 9);
            kept.await.unwrap()[0].until.unix_seconds()
        };
        assert_eq!(until().await, 1_120);
        for (now, good_until) in [(1_050, 1_120), (1_061, 1_181), (1_130, 1_250)] {
            clock.set(at(now));
            journal.renew(clock.now()).await.unwrap();
            assert_eq!(until().await, good_until, "{now}");
        }
        long.settle();
    }
}
