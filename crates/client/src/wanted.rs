//! What all subscriptions of a client want together, and how a change of it is best told.

use std::collections::BTreeMap;

use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;

/// How many subscriptions want each topic and glob.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    counts: BTreeMap<Interest, usize>,
    handles: usize,
    /// Whether the broadcasters may hold something else than this.
    pub(crate) unsure: bool,
    /// Whether the client was closed, so that nothing is to be told any more.
    pub(crate) closed: bool,
}

impl Wanted {
    /// One more subscription wants this. Whether none did before.
    pub(crate) fn add(&mut self, interest: &Interest) -> bool {
        self.handles += 1;
        let count = self.counts.entry(interest.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// One subscription less wants this. Whether none does now.
    pub(crate) fn remove(&mut self, interest: &Interest) -> bool {
        let Some(count) = self.counts.get_mut(interest) else {
            return false;
        };
        self.handles -= 1;
        *count -= 1;
        let gone = *count == 0;
        if gone {
            self.counts.remove(interest);
        }
        gone
    }

    /// How many topics and globs the subscriptions want, counted at each of them.
    pub(crate) fn handles(&self) -> usize {
        self.handles
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// All of it, for the client that is told at `recovery` of what it missed.
    pub(crate) fn set(&self, recovery: &SubscriberUrl) -> SubscriptionSet {
        let entry = |interest: &Interest| (interest.clone(), Some(recovery.clone()));
        self.counts.keys().map(entry).collect()
    }
}

/// Whether a change of `changed` topics and globs, after which there are `handles`, is better told
/// by one SET of the complete list than by one request each (`docs/protocol/stateless.md` §9).
pub(crate) fn is_better_told_by_set(handles: usize, changed: usize) -> bool {
    COST_PER_ENTRY.saturating_mul(handles) <= COST_PER_REQUEST.saturating_mul(changed)
}

const COST_PER_REQUEST: usize = 65_536;
const COST_PER_ENTRY: usize = 128;
