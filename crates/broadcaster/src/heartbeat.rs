//! When something that happens again and again happened last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// By a clock that nobody sets.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    began: Instant,
    /// In milliseconds since it began.
    last: AtomicU64,
}

impl Heartbeat {
    /// One that has just happened.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// It happens now.
    pub(crate) fn beat(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// The time since it happened last.
    pub(crate) fn silent_for(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_goes_by_a_clock_that_nobody_sets() {
        let heartbeat = Heartbeat::new();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(heartbeat.silent_for(), Duration::from_secs(100));
        heartbeat.beat();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(heartbeat.silent_for(), Duration::from_secs(3));
    }
}
