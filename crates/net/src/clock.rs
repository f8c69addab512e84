//! The only code that reads the time of day.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httppubsub_proto::time::Now;

/// Where the shells read the time: that of the machine, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Duration>>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `now` until it is set. For tests.
    pub fn standing_at(now: Now) -> Self {
        Self(Some(Arc::new(Mutex::new(now.since_unix()))))
    }

    /// Sets a clock made by [`Clock::standing_at`], and all its clones. The machine's clock is
    /// left alone.
    pub fn set(&self, now: Now) {
        if let Some(own) = &self.0 {
            *own.lock().unwrap_or_else(PoisonError::into_inner) = now.since_unix();
        }
    }

    /// This moment.
    pub fn now(&self) -> Now {
        Now::from_unix(match &self.0 {
            Some(own) => *own.lock().unwrap_or_else(PoisonError::into_inner),
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        })
    }
}
