//! Progress of a session, without which it is cut off.
//!
//! A subscriber that is slow takes bytes or acknowledges messages, if seldom; one that is stuck
//! does neither. Only the second is cut off, and only while something waits for it: a session for
//! which nothing waits may be silent for as long as its pings are answered.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The last progress of a session for which something waits.
pub(crate) struct Progress {
    /// [`WebSocketConfig::stall_timeout`](crate::WebSocketConfig::stall_timeout).
    stall_timeout: Duration,
    /// The last moment at which something went on, or nothing waited.
    at: Instant,
    /// The number of acknowledgements that had come by then.
    acknowledged: u64,
    /// Ends at the next moment at which the session may be stalled.
    look: Pin<Box<Sleep>>,
}

impl Progress {
    /// A session that has just begun.
    pub(crate) fn new(stall_timeout: Duration) -> Self {
        let at = Instant::now();
        Self {
            stall_timeout,
            at,
            acknowledged: 0,
            look: Box::pin(tokio::time::sleep_until(at + stall_timeout)),
        }
    }

    /// Notes that something went on, or that nothing waits.
    pub(crate) fn made(&mut self) {
        self.at = Instant::now();
    }

    /// Notes progress if `acknowledged`, the number of acknowledgements, has grown.
    pub(crate) fn acknowledged(&mut self, acknowledged: u64) {
        if self.acknowledged != acknowledged {
            self.acknowledged = acknowledged;
            self.made();
        }
    }

    /// Returns at the next moment at which the session may be stalled.
    pub(crate) async fn is_due(&mut self) {
        self.look.as_mut().await;
    }

    /// `true` if nothing went on for the time that a session has; `taken_at` is when the connection
    /// last took bytes.
    pub(crate) fn is_stalled(&mut self, taken_at: Instant) -> bool {
        let at = self.at.max(taken_at);
        if at.elapsed() >= self.stall_timeout {
            return true;
        }
        // Not set anew with each progress, which comes with every message: looked at when due.
        self.look.as_mut().reset(at + self.stall_timeout);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stalled_is_who_neither_acknowledges_nor_takes_bytes() {
        let stall_timeout = Duration::from_secs(10);
        let began = Instant::now();
        let mut progress = Progress::new(stall_timeout);
        tokio::time::advance(Duration::from_secs(4)).await;
        progress.acknowledged(1);
        progress.is_due().await;
        assert_eq!(began.elapsed(), stall_timeout);
        assert!(!progress.is_stalled(began), "it acknowledged after 4 s");
        progress.is_due().await;
        assert_eq!(began.elapsed(), Duration::from_secs(14));
        let taken_at = began + Duration::from_secs(12);
        assert!(!progress.is_stalled(taken_at), "it took bytes after 12 s");
        progress.acknowledged(1);
        progress.is_due().await;
        assert!(progress.is_stalled(taken_at));
    }
}
