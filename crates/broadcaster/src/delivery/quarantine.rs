//! Subscriptions whose subscriber is said not to want them, by somebody who could not be verified.
//!
//! The protocol's answer UNSUBSCRIBE_IMMEDIATE carries no authorization. Over plain HTTP anybody on
//! the path can send it and end a subscription for good. With a quarantine the subscription is
//! paused instead: its subscriber gets notices of what it misses, and the first that it confirms
//! ends the quarantine. An answer that is repeated for long enough is believed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::subscription::Interest;
use httppubsub_proto::url::SubscriberUrl;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::config::QuarantineConfig;

/// The subscriptions in quarantine. It is forgotten at a restart, which removes nobody too early.
#[derive(Debug)]
pub(crate) struct Quarantine {
    /// The number of answers and the time after which they are believed.
    config: QuarantineConfig,
    /// Held for a look at one entry, and seldom for one at all of them.
    state: Mutex<State>,
}

/// What was said of subscriptions.
#[derive(Debug)]
struct State {
    /// By url and interest, as single subscriptions are removed.
    asked: FxHashMap<Key, Asked>,
    /// Number of entries at which old ones are dropped: most of their subscriptions are gone.
    forget_at: usize,
}

/// A subscription that gets a message more seldom than this may never be removed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Fewer entries are not worth looking for old ones.
const FORGET_AT_MIN: usize = 1_024;

/// A subscription: a row of the store has the same key.
type Key = (SubscriberUrl, Interest);

/// The answers that asked to remove one subscription.
#[derive(Debug)]
struct Asked {
    /// The first of them, from which the least time is counted.
    first: Instant,
    /// Their number.
    times: u32,
    /// The end of the pause since the last of them.
    paused_until: Instant,
}

/// The action on a subscription that an answer says is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was said often enough and for long enough.
    Remove,
    /// Paused: `times` answers said so. It stays, and gets nothing for a while.
    Pause { times: u32 },
}

impl Quarantine {
    /// A quarantine without subscriptions.
    pub(crate) fn new(config: QuarantineConfig) -> Self {
        Self {
            config,
            state: Mutex::new(State {
                asked: FxHashMap::default(),
                forget_at: FORGET_AT_MIN,
            }),
        }
    }

    /// `true` if nothing is posted to this subscription for now.
    pub(crate) fn is_paused(&self, url: &SubscriberUrl, interest: &Interest, now: Instant) -> bool {
        let state = self.state();
        let asked = state.asked.get(&(url.clone(), interest.clone()));
        asked.is_some_and(|asked| now < asked.paused_until)
    }

    /// Notes that `url` is said at `now` not to want `interest`, and decides what is to be done.
    pub(crate) fn asked_to_remove(
        &self,
        url: &SubscriberUrl,
        interest: &Interest,
        now: Instant,
    ) -> Verdict {
        let mut state = self.state();
        let State {
            asked: all,
            forget_at,
        } = &mut *state;
        // Rarely, because looking at all takes as long as there are many.
        if all.len() >= *forget_at {
            all.retain(|_, it| now < it.paused_until + FORGOTTEN_AFTER);
            *forget_at = (all.len() * 2).max(FORGET_AT_MIN);
        }
        let key = (url.clone(), interest.clone());
        let asked = all.entry(key.clone()).or_insert(Asked {
            first: now,
            times: 0,
            paused_until: now,
        });
        asked.times = asked.times.saturating_add(1);
        // Both: an attacker on the path can answer many deliveries in a moment.
        if asked.times >= self.config.times && now >= asked.first + self.config.lasting {
            all.remove(&key);
            Verdict::Remove
        } else {
            asked.paused_until = now + self.config.pause;
            Verdict::Pause { times: asked.times }
        }
    }

    /// The same, if it was said before: of a subscription that is not in quarantine it means
    /// nothing.
    pub(crate) fn asked_again(
        &self,
        url: &SubscriberUrl,
        interest: &Interest,
        now: Instant,
    ) -> Option<Verdict> {
        let is_in = self
            .state()
            .asked
            .contains_key(&(url.clone(), interest.clone()));
        is_in.then(|| self.asked_to_remove(url, interest, now))
    }

    /// Ends the quarantine of a subscription whose subscriber has confirmed something. Returns
    /// `true` if it was in quarantine.
    pub(crate) fn confirmed(&self, url: &SubscriberUrl, interest: &Interest) -> bool {
        let key = (url.clone(), interest.clone());
        // All that was said before counts no more: it would not confirm what it does not want.
        self.state().asked.remove(&key).is_some()
    }

    /// Goes on after a panic: the worst is an answer that was not counted.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use httppubsub_proto::topic::Topic;

    use super::*;

    #[test]
    fn what_is_said_three_times_in_ten_minutes_is_believed() {
        let quarantine = Quarantine::new(QuarantineConfig::default());
        let url = SubscriberUrl::new("http://a/").expect("it fits");
        let interest = Interest::Exact(Topic::new("t").expect("it fits"));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let asked = |seconds| quarantine.asked_to_remove(&url, &interest, at(seconds));
        let is_paused = |seconds| quarantine.is_paused(&url, &interest, at(seconds));
        assert!(!is_paused(0));
        for (seconds, times) in [(0, 1), (10, 2), (300, 3), (599, 4)] {
            assert_eq!(asked(seconds), Verdict::Pause { times });
        }
        assert!(is_paused(600) && is_paused(898) && !is_paused(899));
        let other = Interest::Exact(Topic::new("other").expect("it fits"));
        assert!(!quarantine.is_paused(&url, &other, at(600)));
        assert_eq!(asked(600), Verdict::Remove);
        assert!(
            !is_paused(600),
            "it is another one if it is subscribed again"
        );
        assert_eq!(asked(700), Verdict::Pause { times: 1 });
        assert!(!quarantine.confirmed(&url, &other));
        assert!(quarantine.confirmed(&url, &interest));
        assert!(!quarantine.confirmed(&url, &interest) && !is_paused(700));
        assert_eq!(asked(10_000), Verdict::Pause { times: 1 });
    }

    #[test]
    fn what_nobody_speaks_of_for_a_day_is_forgotten() {
        let quarantine = Quarantine::new(QuarantineConfig::default());
        let url = SubscriberUrl::new("http://a/").expect("it fits");
        let start = Instant::now();
        let ask = |topics: std::ops::Range<usize>, hours: u64| {
            let now = start + Duration::from_secs(hours * 3_600);
            for topic in topics {
                let topic = Topic::new(topic.to_string()).expect("it fits");
                let _ = quarantine.asked_to_remove(&url, &Interest::Exact(topic), now);
            }
            quarantine.state().asked.len()
        };
        assert_eq!(ask(0..FORGET_AT_MIN, 0), FORGET_AT_MIN);
        assert_eq!(
            ask(FORGET_AT_MIN..FORGET_AT_MIN + 10, 23),
            FORGET_AT_MIN + 10
        );
        assert_eq!(ask(0..2 * FORGET_AT_MIN + 1, 23), 2 * FORGET_AT_MIN + 1);
        assert_eq!(
            ask(5_000..5_001, 72),
            2 * FORGET_AT_MIN + 2,
            "there are few"
        );
        let further = 100_000..100_000 + 2 * FORGET_AT_MIN;
        assert_eq!(ask(further, 73), 2 * FORGET_AT_MIN + 1);
    }
}
