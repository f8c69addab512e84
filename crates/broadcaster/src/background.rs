//! Work beside requests: the tasks of a broadcaster, and rounds that come again and again.
//!
//! Every task has an owner that waits for it: a broadcaster stops when none of its tasks is left. A
//! round that fails or panics is written to the log and followed by the next one, so nothing that
//! has to come again and again ends unnoticed.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use httppubsub_net::error_chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks that run on behalf of one broadcaster, and the sign for them to stop. Clones are the
/// same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Background {
    /// Everything that runs on behalf of the broadcaster: it has stopped when none is left.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the broadcaster is to stop.
    pub(crate) shutdown: CancellationToken,
}

impl Background {
    /// Runs `round` after each `pause` until the broadcaster stops; `what` names the work in the
    /// log. Rounds never overlap: the pause begins when a round has ended.
    pub(crate) async fn repeat<Round, E>(
        &self,
        pause: Duration,
        what: &'static str,
        round: impl Fn() -> Round,
    ) where
        Round: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + Send + 'static,
    {
        loop {
            // The pause comes first: what has to be done at the start was done before this.
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.round(what, round()).await;
        }
    }

    /// Runs one round of work that comes again, and writes a failure to the log under the name
    /// `what`. Returns the result, `None` after a failure.
    pub(crate) async fn round<T, E>(
        &self,
        what: &'static str,
        round: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Option<T>
    where
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        // A task of its own, so that a panic ends this round and not all rounds to come.
        match self.tasks.spawn(round).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => {
                let reason = error_chain(&error);
                tracing::error!(reason, "{what} failed; trying again");
            }
            Err(error) => tracing::error!(%error, "{what} broke off; trying again"),
        }
        None
    }
}

/// The last time of something that happens again and again, by a clock that nobody sets.
#[derive(Debug)]
pub(crate) struct LastTime {
    /// Counted from here, as an instant does not fit an atomic.
    began: Instant,
    /// In milliseconds since it began.
    last: AtomicU64,
}

impl LastTime {
    /// The last time of something that has just happened.
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Notes that it happens now.
    pub(crate) fn happens(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// The time since it happened last.
    pub(crate) fn elapsed(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn rounds_that_fail_or_panic_end_alone() {
        let background = Background::default();
        let rounds = Arc::new(AtomicU64::new(0));
        let round = || {
            let (rounds, shutdown) = (rounds.clone(), background.shutdown.clone());
            async move {
                match rounds.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(io::Error::other("it fails")),
                    1 => panic!("it panics"),
                    2 => Ok(()),
                    _ => {
                        shutdown.cancel();
                        Ok(())
                    }
                }
            }
        };
        let (began, pause) = (Instant::now(), Duration::from_secs(10));
        background.repeat(pause, "the work", round).await;
        assert_eq!(rounds.load(Ordering::Relaxed), 4);
        assert_eq!(began.elapsed(), 4 * pause);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_time_goes_by_a_clock_that_nobody_sets() {
        let last = LastTime::new();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(last.elapsed(), Duration::from_secs(100));
        last.happens();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(last.elapsed(), Duration::from_secs(3));
    }
}
