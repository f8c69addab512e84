//! Looking for what arrives instead of being woken for it.
//!
//! A processor that sleeps takes a while to wake up. After a notification or a delivery something
//! is about to arrive, an answer or the next message; a thread that looks for it meanwhile finds it
//! at once, at the price of a processor that has no rest.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Keeps a thread of the runtime looking at the sockets for a while after each notification and
/// each delivery: what comes in this time does not wait for a processor to wake up. It gains most
/// on a runtime with one thread; see [`Config::busy_poll`](crate::Config::busy_poll).
#[derive(Debug)]
pub(crate) struct BusyPoll {
    /// Zero: not at all.
    lasting: Duration,
    /// The start of this process, as far as this is concerned.
    epoch: Instant,
    /// Time of the last event, in nanoseconds since the epoch.
    last: AtomicU64,
    /// Notified when something happened.
    something: Notify,
}

impl BusyPoll {
    /// Looks for `lasting` after each event; zero turns it off.
    pub(crate) fn new(lasting: Duration) -> Self {
        Self {
            lasting,
            epoch: Instant::now(),
            last: AtomicU64::new(0),
            something: Notify::new(),
        }
    }

    /// `true` if it looks at all.
    pub(crate) fn is_on(&self) -> bool {
        !self.lasting.is_zero()
    }

    /// Something happened, and what follows of it may soon arrive.
    pub(crate) fn happened(&self) {
        if !self.is_on() {
            return;
        }
        self.last.store(self.now(), Ordering::Relaxed);
        self.something.notify_one();
    }

    /// Does the looking; it never ends.
    pub(crate) async fn run(&self) -> Infallible {
        let lasting = nanoseconds(self.lasting);
        loop {
            self.something.notified().await;
            while self.now().saturating_sub(self.last.load(Ordering::Relaxed)) < lasting {
                // The runtime looks at all sockets before this goes on.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Nanoseconds since the epoch.
    fn now(&self) -> u64 {
        nanoseconds(self.epoch.elapsed())
    }
}

/// `time` as a number that an atomic can hold: 584 years at most.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    /// Polls until `turns` turns have passed; `true` if that took less than `within`.
    async fn looks(poll: &BusyPoll, turns: usize, within: Duration) -> bool {
        let mut looking = pin!(poll.run());
        let mut had = 0;
        let counted = poll_fn(|context| {
            had += 1;
            let Poll::Pending = looking.as_mut().poll(context);
            match had >= turns {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        tokio::time::timeout(within, counted).await.is_ok()
    }

    #[tokio::test]
    async fn it_looks_for_a_while_after_something_happened_and_then_sleeps() {
        let (moment, long) = (Duration::from_millis(20), Duration::from_secs(30));
        let poll = BusyPoll::new(Duration::from_secs(60));
        assert!(!looks(&poll, 100, moment).await, "nothing happened");
        poll.happened();
        assert!(looks(&poll, 1_000, long).await);
        let poll = BusyPoll::new(moment);
        poll.happened();
        // Until well after it has stopped to look.
        assert!(!looks(&poll, usize::MAX, 2 * moment).await);
        poll.something.notify_one();
        assert!(!looks(&poll, 100, moment).await, "that is long ago");
        let never = BusyPoll::new(Duration::ZERO);
        never.happened();
        assert!(!looks(&never, 100, moment).await);
    }
}
