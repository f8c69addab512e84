//! An observer that keeps a copy.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::{Change, Observer};

/// An observer that keeps all that it gets: the copy in memory that a broadcaster has.
#[derive(Debug, Default)]
pub struct Mirror {
    state: Mutex<MirrorState>,
}

#[derive(Debug, Default)]
struct MirrorState {
    known: BTreeMap<(SubscriberUrl, Interest), Option<SubscriberUrl>>,
    /// The subscriptions that came since the last beginning of a reload that has not ended.
    reload: Option<BTreeMap<(SubscriberUrl, Interest), Option<SubscriberUrl>>>,
    changes: Vec<Change>,
}

impl Mirror {
    /// All subscriptions, by url, exact before glob, by bytes.
    pub fn subscriptions(&self) -> Vec<Subscription> {
        let state = self.state();
        let known = state
            .known
            .iter()
            .map(|((url, interest), recovery)| Subscription {
                url: url.clone(),
                interest: interest.clone(),
                recovery: recovery.clone(),
            });
        known.collect()
    }

    /// Takes the changes that came since the last call.
    pub fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.state().changes)
    }

    fn state(&self) -> MutexGuard<'_, MirrorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Mirror {
    fn observe(&self, changes: &[Change]) {
        let mut state = self.state();
        state.changes.extend_from_slice(changes);
        for change in changes.iter().cloned() {
            let MirrorState { known, reload, .. } = &mut *state;
            match change {
                Change::ReloadBegan { .. } => *reload = Some(BTreeMap::new()),
                Change::ReloadEnded => *known = reload.take().expect("a reload began"),
                Change::Added(it) => {
                    let told = reload.as_mut().unwrap_or(known);
                    told.insert((it.url, it.interest), it.recovery);
                }
                Change::Removed { url, interest } => {
                    reload.as_mut().unwrap_or(known).remove(&(url, interest));
                }
            }
        }
    }
}
