//! A line of the log that many events would write, written once a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Lets one event through in each interval and counts the others.
///
/// ```
/// use httppubsub_net::LogLimit;
///
/// let limit = LogLimit::default();
/// for refused in 0..1_000 {
///     if let Some(held_back) = limit.pass() {
///         println!("refused {refused}, and {held_back} before it that were not logged");
///     }
/// }
/// ```
#[derive(Debug)]
pub struct LogLimit {
    /// Counted from here, since an instant is not a number that fits an atomic one.
    began: Instant,
    /// Milliseconds from `began` at which the next event passes.
    next: AtomicU64,
    /// Events that did not pass since the last one that did.
    held_back: AtomicU64,
}

/// Shortest time between two events that pass.
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
        // Of several threads at this moment one wins the exchange; the others count as held back.
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
