//! The only code that reads the time of day.
//!
//! [`Clock`] is the time of day, for signatures and for what is shown to people. [`SteadyClock`] is
//! for what is due after some time but is kept as a time of day, since it must outlive the process:
//! an operator who sets the clock an hour ahead must not make every notice due at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httppubsub_proto::time::Now;

/// The clock of both shells: that of the machine, or one that a test sets.
///
/// ```
/// use httppubsub_net::Clock;
///
/// let clock = Clock::standing_at(Clock::system().now());
/// let began = clock.now();
/// clock.set(began + std::time::Duration::from_secs(300));
/// assert!(clock.now() > began, "and no second has passed");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Set>>>);

/// The time that a test set.
#[derive(Clone, Copy, Debug)]
struct Set {
    /// Time of day that it shows, since 1970.
    now: Duration,
    /// Time that the test let pass: [`Clock::step`] leaves it as it is.
    passed: Duration,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `now` until it is set. For tests.
    pub fn standing_at(now: Now) -> Self {
        Self(Some(Arc::new(Mutex::new(Set {
            now: now.since_unix(),
            passed: Duration::ZERO,
        }))))
    }

    /// Lets the time pass until it is `now` by a clock made by [`Clock::standing_at`], and all its
    /// clones. The machine's clock is left alone.
    pub fn set(&self, now: Now) {
        if let Some(mut set) = self.own() {
            let passed = now.since_unix().saturating_sub(set.now);
            set.passed += passed;
            set.now = now.since_unix();
        }
    }

    /// Sets such a clock to `now` although no time has passed, as an operator may.
    pub fn step(&self, now: Now) {
        if let Some(mut set) = self.own() {
            set.now = now.since_unix();
        }
    }

    /// This moment.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    pub fn now(&self) -> Now {
        Now::from_unix(match self.own() {
            Some(set) => set.now,
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                // A machine whose clock is before 1970 has another problem; it must not panic here.
                .unwrap_or_default(),
        })
    }

    /// The time since some moment, whatever the clock was set to meanwhile.
    fn passed(&self) -> Duration {
        // An `Instant` has no number, only a distance from another.
        static START: OnceLock<Instant> = OnceLock::new();
        match self.own() {
            Some(set) => set.passed,
            None => START.get_or_init(Instant::now).elapsed(),
        }
    }

    /// The time that a test set; `None` for the machine's clock.
    fn own(&self) -> Option<MutexGuard<'_, Set>> {
        let own = self.0.as_ref()?;
        Some(own.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A clock that goes on as before when the time of day is stepped: for what is to happen after some
/// time, and is kept as a time of day.
///
/// ```
/// use std::time::Duration;
///
/// use httppubsub_net::{Clock, SteadyClock};
///
/// let clock = Clock::standing_at(Clock::system().now());
/// let steady = SteadyClock::new(clock.clone());
/// let began = steady.now();
/// clock.step(began + Duration::from_secs(3_600));
/// assert_eq!(steady.now(), began, "an hour was set, and none has passed");
/// clock.set(clock.now() + Duration::from_secs(5));
/// assert_eq!(steady.now(), began + Duration::from_secs(5));
/// ```
#[derive(Debug)]
pub struct SteadyClock {
    /// The time of day, which may be stepped.
    clock: Clock,
    /// The last reading of both clocks, to tell a step from time that passed.
    state: Mutex<Steady>,
}

/// The time of the last reading.
#[derive(Debug)]
struct Steady {
    /// Time of day then, since 1970.
    now: Duration,
    /// Time that had passed then, by the clock that nobody sets.
    passed: Duration,
    /// By how much it is ahead of the time of day, or behind.
    ahead: Duration,
    /// One of the two is zero.
    behind: Duration,
}

/// A time of day that is off by more than this was stepped, and not adjusted little by little.
const STEP_MIN: Duration = Duration::from_secs(2);

impl SteadyClock {
    /// One that agrees with `clock` now.
    pub fn new(clock: Clock) -> Self {
        let state = Mutex::new(Steady {
            now: clock.now().since_unix(),
            passed: clock.passed(),
            ahead: Duration::ZERO,
            behind: Duration::ZERO,
        });
        Self { clock, state }
    }

    /// This moment.
    pub fn now(&self) -> Now {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, passed) = (self.clock.now().since_unix(), self.clock.passed());
        // The two clocks are never read at the same moment, and are adjusted against each other all
        // the time: only a large difference is a step.
        let expected = state.now + passed.saturating_sub(state.passed);
        let (back, forward) = (expected.saturating_sub(now), now.saturating_sub(expected));
        (state.now, state.passed) = (now, passed);
        if back.max(forward) > STEP_MIN {
            let (back_by, forward_by) = (back.as_secs(), forward.as_secs());
            tracing::warn!(
                back_by,
                forward_by,
                "the clock of this machine was set; what is due stays due when it was"
            );
            // One of the two stays zero, as a duration cannot be negative.
            let (ahead, behind) = (state.ahead + back, state.behind + forward);
            state.ahead = ahead.saturating_sub(behind);
            state.behind = behind.saturating_sub(ahead);
        }
        Now::from_unix((now + state.ahead).saturating_sub(state.behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_clock_goes_on_whatever_the_time_of_day_is_set_to() {
        let at = |seconds| Now::from_unix(Duration::from_secs(seconds));
        let clock = Clock::standing_at(at(10_000));
        let steady = SteadyClock::new(clock.clone());
        clock.set(at(10_010));
        assert_eq!(steady.now(), at(10_010));
        clock.step(at(6_410));
        assert_eq!((clock.now(), steady.now()), (at(6_410), at(10_010)));
        clock.set(at(6_420));
        assert_eq!(steady.now(), at(10_020));
        // Little by little it follows.
        clock.step(at(6_421));
        assert_eq!(steady.now(), at(10_021));
        clock.step(at(20_000));
        assert_eq!(steady.now(), at(10_021));
        clock.step(at(10_021));
        clock.set(at(10_031));
        assert_eq!(steady.now(), at(10_031));
    }
}
