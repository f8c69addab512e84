//! The topics with notifications in progress, and until when that is recorded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use rustc_hash::FxHashMap;

/// The topics in use.
#[derive(Debug, Default)]
pub(super) struct Topics(Mutex<FxHashMap<Topic, Arc<InUse>>>);

/// A topic in use.
#[derive(Debug, Default)]
pub(super) struct InUse {
    /// Notifications in progress. Changed only while the topics are locked, so that none begins
    /// while the topic is forgotten.
    pub(super) notifications: AtomicU64,
    /// Time of the last notification, in seconds since the epoch.
    pub(super) last: AtomicU64,
    /// Until when the record is good, in seconds since the epoch; 0: there is none.
    pub(super) until: AtomicU64,
    /// Held while the record is changed.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

impl InUse {
    /// `true` if a notification is in progress.
    pub(super) fn is_in_use(&self) -> bool {
        self.notifications.load(Ordering::Relaxed) > 0
    }
}

impl Topics {
    /// Goes on after a panic. Never held while the store writes.
    pub(super) fn lock(&self) -> MutexGuard<'_, FxHashMap<Topic, Arc<InUse>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more notification on `topic`.
    pub(super) fn enter(&self, topic: &Topic) -> Arc<InUse> {
        let mut topics = self.lock();
        // A topic in use is looked up without being copied.
        let in_use = match topics.get(topic) {
            Some(in_use) => in_use.clone(),
            None => topics.entry(topic.clone()).or_default().clone(),
        };
        in_use.notifications.fetch_add(1, Ordering::Relaxed);
        in_use
    }

    /// Counts one notification less, which ended at `now`.
    pub(super) fn leave(&self, in_use: &InUse, now: Now) {
        let _topics = self.lock();
        in_use.last.store(now.unix_seconds(), Ordering::Relaxed);
        in_use.notifications.fetch_sub(1, Ordering::Relaxed);
    }
}
