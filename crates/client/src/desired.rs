//! The desired state: all interests of a client's subscriptions, and the best request for a change.

use std::collections::BTreeMap;

use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;

/// The number of subscriptions that want each topic and glob.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    /// In the order of etags, which are computed over all of them.
    counts: BTreeMap<Interest, usize>,
    /// The sum of all counts.
    handles: usize,
    /// `true` if the broadcasters may hold something else than this.
    pub(crate) unsure: bool,
    /// `true` if the client was closed, so that no broadcaster is asked for anything.
    pub(crate) closed: bool,
}

impl Desired {
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

    /// The number of topics and globs that the subscriptions want, counted at each of them.
    pub(crate) fn handles(&self) -> usize {
        self.handles
    }

    /// `true` if no subscription wants anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// All of it, for the client that hears at `recovery` of what it missed.
    pub(crate) fn set(&self, recovery: &SubscriberUrl) -> SubscriptionSet {
        let entry = |interest: &Interest| (interest.clone(), Some(recovery.clone()));
        self.counts.keys().map(entry).collect()
    }
}

/// `true` if a change of `changed` topics and globs, after which there are `handles`, is better
/// made by one SET of the complete list than by one request each (`docs/protocol/stateless.md` §9).
pub(crate) fn is_better_told_by_set(handles: usize, changed: usize) -> bool {
    COST_PER_ENTRY.saturating_mul(handles) <= COST_PER_REQUEST.saturating_mul(changed)
}

/// The weights of the reference client: a request counts as 64 KiB, an entry of a list as 128
/// bytes.
const COST_PER_REQUEST: usize = 65_536;
/// See [`COST_PER_REQUEST`].
const COST_PER_ENTRY: usize = 128;
