//! Which topics have notifications on their way, and until when that is recorded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use rustc_hash::FxHashMap;

/// The topics in use.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<FxHashMap<Topic, Arc<InUse>>>);

/// A topic in use.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    /// How many notifications are on their way. Changed only while the topics are locked, so that
    /// none begins while the topic is forgotten.
    pub(crate) notifications: AtomicU64,
    /// When there was one last, in seconds since the epoch.
    pub(crate) last: AtomicU64,
    /// Until when the record is good, in seconds since the epoch; 0: there is none.
    pub(crate) until: AtomicU64,
    /// Whoever changes the record waits for its turn.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

impl InFlight {
    pub(crate) fn topics(&self) -> MutexGuard<'_, FxHashMap<Topic, Arc<InUse>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more notification is on its way.
    pub(crate) fn one_more(&self, topic: &Topic) -> Arc<InUse> {
        let mut topics = self.topics();
        let in_use = match topics.get(topic) {
            Some(in_use) => in_use.clone(),
            None => topics.entry(topic.clone()).or_default().clone(),
        };
        in_use.notifications.fetch_add(1, Ordering::Relaxed);
        in_use
    }

    /// One less is.
    pub(crate) fn one_less(&self, in_use: &InUse, now: Now) {
        let _topics = self.topics();
        in_use.last.store(now.unix_seconds(), Ordering::Relaxed);
        in_use.notifications.fetch_sub(1, Ordering::Relaxed);
    }
}
