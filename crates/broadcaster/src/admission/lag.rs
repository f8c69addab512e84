//! Measuring how late this process is with its own tasks.
//!
//! A timer that fires late says that the runtime had other tasks to poll, or that the machine had
//! other processes to run: either way there is more to do than can be done, whatever it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A lag that many read and one measures.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Relaxed: a reader that has the value of a look ago decides no worse.
    microseconds: AtomicU64,
}

impl Lag {
    /// The lag that was measured last.
    pub(super) fn get(&self) -> Duration {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }

    /// Sets the lag that was measured.
    pub(super) fn set(&self, lag: Duration) {
        let microseconds = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.store(microseconds, Ordering::Relaxed);
    }
}

/// The lags of the last looks.
#[derive(Debug, Default)]
pub(super) struct LagMeter([Duration; LOOKS]);

/// Consecutive looks that have to be late.
const LOOKS: usize = 3;

/// Time to which a look sets its timer.
pub(super) const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

impl LagMeter {
    /// Waits for a timer, and returns by how much it was late.
    pub(super) async fn look(&mut self) -> Duration {
        let due = Instant::now() + BETWEEN_LOOKS;
        tokio::time::sleep_until(due).await;
        let lag = due.elapsed();
        self.0.rotate_left(1);
        self.0[LOOKS - 1] = lag;
        lag
    }

    /// The least lag of the last looks. That the process was late once may be because somebody else
    /// had the processor for a moment.
    pub(super) fn lasting(&self) -> Duration {
        self.0.into_iter().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_single_look_that_is_late_says_nothing_and_as_many_as_count_do() {
        let mut meter = LagMeter::default();
        for late in 1..=LOOKS {
            let (looked, ()) = tokio::join!(meter.look(), async {
                // The timer is set before this, and fires long after it was due.
                tokio::time::advance(Duration::from_millis(105)).await;
            });
            assert!(looked >= Duration::from_millis(99), "{looked:?}");
            let is_late = meter.lasting() >= Duration::from_millis(99);
            assert_eq!(is_late, late == LOOKS, "after {late}");
        }
        assert!(meter.look().await <= Duration::from_millis(1));
        assert!(meter.lasting() <= Duration::from_millis(1));
    }
}
