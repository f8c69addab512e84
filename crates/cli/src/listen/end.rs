//! The end of `httppubsub listen`: enough messages, a deadline, or a signal.
//!
//! Whatever ends it, the program unsubscribes before it exits, so that a broadcaster does not go on
//! posting to a port on which nobody listens. A second signal skips that.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::signals::Stop;

/// The reason for which listening ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By `--count`.
    Counted,
    /// By `--timeout`.
    TimedOut,
    /// By a signal.
    Stopped,
}

/// Signals and deadlines that end listening.
pub(super) struct End {
    /// From `--timeout`, counted from the start.
    deadline: Option<Instant>,
    pub(super) stop: Stop,
    /// A signal was seen already; a second one ends the program without waiting.
    is_stopped: bool,
}

impl End {
    /// `timeout` from now, if there is one, or by a signal: from here on none ends the program
    /// before it has unsubscribed.
    pub(super) fn new(timeout: Option<Duration>) -> io::Result<Self> {
        Ok(Self {
            // One that is too far off to be written down is none.
            deadline: timeout.and_then(|it| Instant::now().checked_add(it)),
            stop: Stop::with_hangup()?,
            is_stopped: false,
        })
    }

    /// Waits for it; returns at once when it has come before. May be dropped at any time.
    pub(super) async fn comes(&mut self) -> Ended {
        if self.is_stopped {
            return Ended::Stopped;
        }
        let time_is_up = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time_is_up => Ended::TimedOut,
            () = self.stop.signalled() => {
                self.is_stopped = true;
                Ended::Stopped
            }
        }
    }

    /// The result of `work`, which gets a short grace period if the end comes first and is dropped
    /// after it.
    pub(super) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            ended = self.comes() => {
                let done = tokio::time::timeout(MOMENT, work).await;
                done.map_err(|_| ended)
            }
        }
    }
}

/// Far more than a reader needs that reads.
const MOMENT: Duration = Duration::from_secs(1);
