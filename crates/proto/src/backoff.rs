//! How long to wait before the next attempt.

use std::time::Duration;

/// When a notice of a missed message is sent again (`docs/protocol/stateless.md` §7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MissedSchedule {
    /// The part of the delay that grows. Default 1 s.
    pub expo_factor: Duration,
    /// By what it grows with each attempt. Default 2.
    pub expo_base: f64,
    /// After how many attempts it stops growing. Default 10: 1024 s.
    pub expo_max: u32,
    /// After how many attempts the notice is given up. The subscription stays. Default 100: somewhat
    /// more than 24 hours, so that an outage of a day is still announced.
    pub max_retries: u32,
    /// The part of the delay that stays. Default 1 s.
    pub constant: Duration,
    /// The part of the delay that is random. Default 2 s.
    pub jitter: Duration,
}

impl Default for MissedSchedule {
    fn default() -> Self {
        Self {
            expo_factor: Duration::from_secs(1),
            expo_base: 2.0,
            expo_max: 10,
            max_retries: 100,
            constant: Duration::from_secs(1),
            jitter: Duration::from_secs(2),
        }
    }
}

impl MissedSchedule {
    /// How long after a failure the next notice is due when `attempts` of them were sent already;
    /// `None` when there will be no other. `random` is drawn from [0, 1).
    pub fn delay(&self, attempts: u32, random: f64) -> Option<Duration> {
        if attempts >= self.max_retries {
            return None;
        }
        let exponent = i32::try_from(attempts.min(self.expo_max)).unwrap_or(i32::MAX);
        let seconds = self.expo_factor.as_secs_f64() * self.expo_base.powi(exponent)
            + self.constant.as_secs_f64()
            + random * self.jitter.as_secs_f64();
        Some(
            Duration::try_from_secs_f64(seconds)
                .unwrap_or(LONGEST_DELAY)
                .min(LONGEST_DELAY),
        )
    }
}

impl MissedSchedule {
    /// The longest delay that there can be.
    pub fn delay_max(&self) -> Duration {
        let last = self.max_retries.saturating_sub(1);
        let delays = [0, last]
            .into_iter()
            .filter_map(|attempts| self.delay(attempts, 1.0));
        delays.max().unwrap_or(Duration::ZERO)
    }
}

/// A day: no useful schedule waits longer, and sums of it cannot overflow.
const LONGEST_DELAY: Duration = Duration::from_secs(86_400);

/// How long a client waits before it asks all broadcasters again: before pass 1, 2, … (pass 0 is
/// the first) it waits 2^(pass − 1) + `random` seconds, `random` from [0, 1)
/// (`docs/protocol/stateless.md` §9).
pub fn before_pass(pass: u32, random: f64) -> Duration {
    match pass.checked_sub(1) {
        None => Duration::ZERO,
        Some(exponent) => {
            let base = Duration::from_secs(1 << exponent.min(16));
            base + Duration::from_secs_f64(random.clamp(0.0, 1.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_schedule_goes_on_for_a_day() {
        let schedule = MissedSchedule::default();
        let total: Duration = (0..)
            .map_while(|attempts| schedule.delay(attempts, 0.0))
            .sum();
        assert!(total > Duration::from_secs(86_400), "{total:?}");
    }

    #[test]
    fn absurd_settings_do_not_overflow() {
        let schedule = MissedSchedule {
            expo_base: 1e300,
            expo_max: u32::MAX,
            ..Default::default()
        };
        assert_eq!(schedule.delay(99, 0.5), Some(LONGEST_DELAY));
    }

    #[test]
    fn passes_wait_twice_as_long_each() {
        let waits: Vec<_> = (0..4)
            .map(|pass| before_pass(pass, 0.5).as_secs_f64())
            .collect();
        assert_eq!(waits, [0.0, 1.5, 2.5, 4.5]);
    }
}
