//! The only code that reads the time of day.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httppubsub_proto::time::Now;

/// Where the shells read the time: that of the machine, or one that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<Set>>>);

/// What a test set.
#[derive(Clone, Copy, Debug)]
struct Set {
    now: Duration,
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
    pub fn now(&self) -> Now {
        Now::from_unix(match self.own() {
            Some(set) => set.now,
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        })
    }

    /// How much time has passed since some moment, whatever the clock was set to meanwhile.
    fn passed(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        match self.own() {
            Some(set) => set.passed,
            None => START.get_or_init(Instant::now).elapsed(),
        }
    }

    fn own(&self) -> Option<MutexGuard<'_, Set>> {
        let own = self.0.as_ref()?;
        Some(own.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A clock that goes on as before when the time of day is stepped: for what is to happen after some
/// time, and is kept as a time of day.
#[derive(Debug)]
pub struct SteadyClock {
    clock: Clock,
    state: Mutex<Steady>,
}

/// When it was read last.
#[derive(Debug)]
struct Steady {
    now: Duration,
    passed: Duration,
    /// By how much it is ahead of the time of day, or behind.
    ahead: Duration,
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
