//! A store that lives as long as the process.

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

use crate::lock;
use crate::store::{
    Change, Changed, ClaimedNotice, InFlight, Missed, NoticeOutcome, Observer, Store, StoreError,
    Subscribed, Unsubscribed,
};

/// Keeps everything in memory and forgets it when dropped: for tests, and for broadcasters whose
/// subscribers subscribe again by themselves. It never fails. Claims look at every subscription.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By url, exact before glob, by bytes: the order of etags.
    rows: BTreeMap<(SubscriberUrl, Interest), Row>,
    /// By broadcaster and topic, until when.
    in_flight: BTreeMap<(SubscriberUrl, Topic), Now>,
    observer: Option<Arc<dyn Observer>>,
}

#[derive(Default)]
struct Row {
    recovery: Option<SubscriberUrl>,
    notice: Option<Notice>,
}

struct Notice {
    topic: Topic,
    attempts: u32,
    due: Now,
    hold: Option<Hold>,
}

struct Hold {
    lock: i64,
    ends: Now,
}

impl MemoryStore {
    /// A store without subscriptions.
    pub fn new() -> Self {
        Self::default()
    }

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
impl Store for MemoryStore {
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError> {
        let mut state = self.state();
        let is_glob =
            |(_, interest): &&(SubscriberUrl, Interest)| matches!(interest, Interest::Glob(_));
        let globs = state.rows.keys().filter(is_glob).count();
        let exacts = state.rows.len() - globs;
        let mut changes = vec![Change::ReloadBegan { exacts, globs }];
        changes.extend(state.rows.iter().map(|(key, row)| added(key, row)));
        changes.push(Change::ReloadEnded);
        observer.observe(&changes);
        state.observer = Some(observer);
        Ok(())
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        Ok(())
    }

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
        let mut gone: BTreeSet<Interest> = state.of_url(&url).map(|(it, _)| it.clone()).collect();
        for (interest, recovery) in set.iter() {
            gone.remove(&interest);
            let key = (url.clone(), interest);
            let recovery = not_empty(recovery);
            match state.rows.get_mut(&key) {
                Some(row) if row.recovery == recovery => {}
                Some(row) => {
                    // Nobody can be told of it any more.
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

    async fn record_missed(&self, missed: Missed) -> Result<(), StoreError> {
        let mut state = self.state();
        let topic = match &missed.interest {
            Interest::Exact(own) => own.clone(),
            Interest::Glob(_) => missed.topic,
        };
        if let Some(row) = state.rows.get_mut(&(missed.url, missed.interest))
            && row.recovery.is_some()
        {
            let due = whole_seconds(missed.due);
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

    async fn record_in_flight(&self, in_flight: InFlight) -> Result<(), StoreError> {
        let InFlight {
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
    ) -> Result<Vec<InFlight>, StoreError> {
        let state = self.state();
        let kept = state.in_flight.iter();
        let kept = kept.filter(|((whose, _), until)| *whose == broadcaster || **until <= now);
        let kept = kept.take(limit).map(|((whose, topic), until)| InFlight {
            broadcaster: whose.clone(),
            topic: topic.clone(),
            until: *until,
        });
        Ok(kept.collect())
    }
}

impl State {
    fn of_url(&self, url: &SubscriberUrl) -> impl Iterator<Item = (&Interest, &Row)> {
        let first = Interest::Exact(Topic::new("").expect("nothing is not too long"));
        self.rows
            .range((url.clone(), first)..)
            .take_while(move |((of, _), _)| of == url)
            .map(|((_, interest), row)| (interest, row))
    }

    fn tell(&self, changes: &[Change]) {
        if let Some(observer) = &self.observer
            && !changes.is_empty()
        {
            observer.observe(changes);
        }
    }
}

impl Notice {
    fn free_from(&self) -> Now {
        self.hold
            .as_ref()
            .map_or(self.due, |hold| hold.ends.max(self.due))
    }
}

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
