//! A store that lives as long as the process.
//!
//! It is also the shortest statement of what the contract means: each method is a few lines over
//! one map, and `conformance` holds the databases to the same results.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use httppubsub_proto::subscription::{
    Interest, StrongEtag, StrongEtagHasher, Subscription, SubscriptionSet,
};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::{
    Change, Changed, ClaimedNotice, Feed, InFlight, Missed, NoticeOutcome, Notices, Observer,
    Store, StoreError, Subscribed, Subscriptions, TopicInFlight, Unsubscribed,
};
use crate::lock;

/// Keeps everything in memory and forgets it when dropped: for tests, and for broadcasters whose
/// subscribers subscribe again by themselves. It never fails and never waits.
///
/// [`Notices::claim_missed`] and [`Notices::next_missed`] look at every subscription, so a sweep
/// takes time in proportion to them.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use httppubsub_proto::url::SubscriberUrl;
/// use httppubsub_store::{Cluster, MemoryStore, Store, Subscriptions as _};
///
/// let store = MemoryStore::new();
/// assert!(store.cluster().is_none(), "one process has it for itself");
/// assert_eq!(store.trouble(), None);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

/// All that the store has, under one lock: each call is one step, as a transaction would be.
#[derive(Default)]
struct State {
    /// By url, exact before glob, by bytes: the order of etags.
    rows: BTreeMap<(SubscriberUrl, Interest), Row>,
    /// By broadcaster and topic, until when.
    in_flight: BTreeMap<(SubscriberUrl, Topic), Now>,
    observer: Option<Arc<dyn Observer>>,
}

/// The columns of a subscription beside its key.
#[derive(Default)]
struct Row {
    /// Never empty: an empty recovery url is stored as none.
    recovery: Option<SubscriberUrl>,
    notice: Option<Notice>,
}

/// A notice that is owed. Its times are in whole seconds, as the databases keep them, so that a
/// test that passes here passes there.
struct Notice {
    topic: Topic,
    attempts: u32,
    due: Now,
    hold: Option<Hold>,
}

/// The claim of one broadcaster, which others respect until `ends`.
struct Hold {
    lock: i64,
    ends: Now,
}

impl MemoryStore {
    /// A store without subscriptions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Locked for the length of one call; no call awaits anything, so none is held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        // Only an observer can panic while this is held, after the change was made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl Subscriptions for MemoryStore {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed, StoreError> {
        let mut state = self.state();
        let key = (subscription.url, subscription.interest);
        if state.rows.contains_key(&key) {
            return Ok(Subscribed::Existed);
        }
        let row = Row {
            recovery: not_empty(subscription.recovery.as_ref()),
            notice: None,
        };
        // The observer is called while the lock is held: two changes reach it in the order in which
        // they were made, and the call returns after it knows.
        let change = added(&key, &row);
        state.rows.insert(key, row);
        state.tell(&[change]);
        Ok(Subscribed::Added)
    }

    async fn unsubscribe(
        &self,
        url: SubscriberUrl,
        interest: Interest,
    ) -> Result<Unsubscribed, StoreError> {
        let mut state = self.state();
        let key = (url, interest);
        if state.rows.remove(&key).is_none() {
            return Ok(Unsubscribed::Absent);
        }
        let (url, interest) = key;
        state.tell(&[Change::Removed { url, interest }]);
        Ok(Unsubscribed::Removed)
    }

    async fn set(&self, url: SubscriberUrl, set: SubscriptionSet) -> Result<Changed, StoreError> {
        let mut state = self.state();
        let mut changed = Changed::default();
        let mut changes = Vec::new();
        // What is left here after the walk over the set has to go.
        let mut gone: BTreeSet<Interest> = state.of_url(&url).map(|(it, _)| it.clone()).collect();
        for (interest, recovery) in set.iter() {
            gone.remove(&interest);
            let key = (url.clone(), interest);
            let recovery = not_empty(recovery);
            match state.rows.get_mut(&key) {
                Some(row) if row.recovery == recovery => {}
                Some(row) => {
                    // There is no url left to which a notice could be posted.
                    row.notice.take_if(|_| recovery.is_none());
                    row.recovery = recovery;
                    changes.push(added(&key, row));
                    changed.updated += 1;
                }
                None => {
                    let row = Row {
                        recovery,
                        notice: None,
                    };
                    changes.push(added(&key, &row));
                    state.rows.insert(key, row);
                    changed.added += 1;
                }
            }
        }
        for interest in gone {
            state.rows.remove(&(url.clone(), interest.clone()));
            changes.push(Change::Removed {
                url: url.clone(),
                interest,
            });
            changed.removed += 1;
        }
        state.tell(&changes);
        Ok(changed)
    }

    async fn etag(&self, url: SubscriberUrl) -> Result<StrongEtag, StoreError> {
        let state = self.state();
        let mut etag = StrongEtagHasher::new(&url);
        for (interest, row) in state.of_url(&url) {
            let recovery = row.recovery.as_ref().map(SubscriberUrl::as_str);
            match interest {
                Interest::Exact(topic) => etag.exact(topic.as_bytes(), recovery),
                Interest::Glob(glob) => etag.glob(glob.as_str(), recovery),
            }
        }
        Ok(etag.finish())
    }
}

#[async_trait]
impl Feed for MemoryStore {
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError> {
        let mut state = self.state();
        let is_glob =
            |(_, interest): &&(SubscriberUrl, Interest)| matches!(interest, Interest::Glob(_));
        let globs = state.rows.keys().filter(is_glob).count();
        let exacts = state.rows.len() - globs;
        let mut changes = vec![Change::ReloadBegan { exacts, globs }];
        changes.extend(state.rows.iter().map(|(key, row)| added(key, row)));
        changes.push(Change::ReloadEnded);
        // Called before it is stored: no change can come before the list of what there is.
        observer.observe(&changes);
        state.observer = Some(observer);
        Ok(())
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Notices for MemoryStore {
    async fn record_missed(&self, missed: Missed) -> Result<(), StoreError> {
        let mut state = self.state();
        // An exact subscription announces its own topic, as the databases have no column for
        // another.
        let topic = match &missed.interest {
            Interest::Exact(own) => own.clone(),
            Interest::Glob(_) => missed.topic,
        };
        if let Some(row) = state.rows.get_mut(&(missed.url, missed.interest))
            && row.recovery.is_some()
        {
            let due = whole_seconds(missed.due);
            // Many misses in a row must not put a notice off for ever. One that is held is being
            // sent already, and the new one is for what was missed since.
            let waiting = row.notice.as_ref().filter(|it| it.hold.is_none());
            row.notice = Some(Notice {
                topic,
                attempts: 0,
                due: waiting.map_or(due, |it| due.min(it.due)),
                hold: None,
            });
        }
        Ok(())
    }

    async fn claim_missed(
        &self,
        now: Now,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ClaimedNotice>, StoreError> {
        let mut state = self.state();
        let mut due: Vec<_> = state
            .rows
            .iter_mut()
            .filter_map(|(key, row)| Some((key, row.recovery.as_ref()?, row.notice.as_mut()?)))
            .filter(|(_, _, notice)| notice.free_from() <= now)
            .collect();
        // Sorted before it is cut: the limit leaves out the latest, not those with the largest
        // urls.
        due.sort_by_key(|(_, _, notice)| notice.due);
        due.truncate(limit);
        let claimed = due.into_iter().map(|((url, interest), recovery, notice)| {
            let lock = lock::random();
            notice.hold = Some(Hold {
                lock,
                ends: now + lease,
            });
            ClaimedNotice {
                url: url.clone(),
                interest: interest.clone(),
                recovery: recovery.clone(),
                topic: notice.topic.clone(),
                attempts: notice.attempts,
                lock,
            }
        });
        Ok(claimed.collect())
    }

    async fn settle_missed(
        &self,
        notice: &ClaimedNotice,
        outcome: NoticeOutcome,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let key = (notice.url.clone(), notice.interest.clone());
        let Some(row) = state.rows.get_mut(&key) else {
            return Ok(());
        };
        // Another broadcaster may have taken the notice over after the lease, or a later miss
        // replaced it; neither is ended by a claim of the past.
        let held = row.notice.as_ref().and_then(|it| it.hold.as_ref());
        if held.is_some_and(|hold| hold.lock == notice.lock) {
            match (outcome, &mut row.notice) {
                (NoticeOutcome::Retry { attempts, due }, Some(notice)) => {
                    notice.attempts = attempts;
                    notice.due = whole_seconds(due);
                    notice.hold = None;
                }
                (NoticeOutcome::Done, _) | (_, None) => row.notice = None,
            }
        }
        Ok(())
    }

    async fn next_missed(&self) -> Result<Option<Now>, StoreError> {
        let state = self.state();
        let owed = state.rows.values().filter(|row| row.recovery.is_some());
        Ok(owed
            .filter_map(|row| row.notice.as_ref())
            .map(Notice::free_from)
            .min())
    }
}

#[async_trait]
impl InFlight for MemoryStore {
    async fn record_in_flight(&self, in_flight: TopicInFlight) -> Result<(), StoreError> {
        let TopicInFlight {
            broadcaster,
            topic,
            until,
        } = in_flight;
        let until = whole_seconds(until);
        self.state().in_flight.insert((broadcaster, topic), until);
        Ok(())
    }

    async fn forget_in_flight(
        &self,
        broadcaster: SubscriberUrl,
        topics: Vec<Topic>,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        for topic in topics {
            state.in_flight.remove(&(broadcaster.clone(), topic));
        }
        Ok(())
    }

    async fn in_flight(
        &self,
        broadcaster: SubscriberUrl,
        now: Now,
        limit: usize,
    ) -> Result<Vec<TopicInFlight>, StoreError> {
        let state = self.state();
        let kept = state.in_flight.iter();
        let kept = kept.filter(|((whose, _), until)| *whose == broadcaster || **until <= now);
        let kept = kept
            .take(limit)
            .map(|((whose, topic), until)| TopicInFlight {
                broadcaster: whose.clone(),
                topic: topic.clone(),
                until: *until,
            });
        Ok(kept.collect())
    }
}

impl Store for MemoryStore {}

impl State {
    /// The rows of `url` in the order of etags. Found by key, so the cost does not grow with the
    /// rows of others.
    fn of_url(&self, url: &SubscriberUrl) -> impl Iterator<Item = (&Interest, &Row)> {
        // The smallest key of a url: exact sorts before glob, and nothing before the empty topic.
        let first = Interest::Exact(Topic::new("").expect("nothing is not too long"));
        self.rows
            .range((url.clone(), first)..)
            .take_while(move |((of, _), _)| of == url)
            .map(|((_, interest), row)| (interest, row))
    }

    /// Passes `changes` to the observer, if one watches. Not for no changes, as the contract says.
    fn tell(&self, changes: &[Change]) {
        if let Some(observer) = &self.observer
            && !changes.is_empty()
        {
            observer.observe(changes);
        }
    }
}

impl Notice {
    /// The time from which the notice can be claimed.
    fn free_from(&self) -> Now {
        self.hold
            .as_ref()
            .map_or(self.due, |hold| hold.ends.max(self.due))
    }
}

/// The change that tells an observer of this row, new or with another recovery url.
fn added((url, interest): &(SubscriberUrl, Interest), row: &Row) -> Change {
    Change::Added(Subscription {
        url: url.clone(),
        interest: interest.clone(),
        recovery: row.recovery.clone(),
    })
}

/// An empty recovery url is none (`docs/protocol/subscriptions.md` §1).
fn not_empty(recovery: Option<&SubscriberUrl>) -> Option<SubscriberUrl> {
    recovery.filter(|url| !url.as_str().is_empty()).cloned()
}

/// As a column of seconds holds it.
fn whole_seconds(due: Now) -> Now {
    let since = due.since_unix();
    let seconds = since
        .as_secs()
        .saturating_add(u64::from(since.subsec_nanos() > 0));
    Now::from_unix(Duration::from_secs(seconds))
}
