//! A line of the log that many events would write, written once a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Lets one event through in each interval and counts the others.
#[derive(Debug)]
pub struct LogLimit {
    began: Instant,
    /// Milliseconds from `began` at which the next event passes.
    next: AtomicU64,
    held_back: AtomicU64,
}

/// How often an event passes.
const INTERVAL: Duration = Duration::from_secs(1);

impl Default for LogLimit {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            next: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }
}

impl LogLimit {
    /// Says whether this event is to be logged, and how many were not since the last one that was.
    pub fn pass(&self) -> Option<u64> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (now, relaxed) = (millis(self.began.elapsed()), Ordering::Relaxed);
        let next = self.next.load(relaxed);
        let passes = now >= next
            && self
                .next
                .compare_exchange(next, now + millis(INTERVAL), relaxed, relaxed)
                .is_ok();
        if !passes {
            self.held_back.fetch_add(1, relaxed);
            return None;
        }
        Some(self.held_back.swap(0, relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_passes_each_second_and_tells_how_many_did_not() {
        let limit = LogLimit::default();
        assert_eq!(limit.pass(), Some(0));
        assert_eq!((limit.pass(), limit.pass()), (None, None));
        tokio::time::advance(INTERVAL).await;
        assert_eq!((limit.pass(), limit.pass()), (Some(2), None));
    }
}
