//! Waiting times before the next attempt.

use std::time::Duration;

/// The delays between the attempts to send a notice (`docs/protocol/stateless.md` §7).
///
/// ```
/// use std::time::Duration;
///
/// use httppubsub_proto::backoff::MissedSchedule;
///
/// let schedule = MissedSchedule::default();
/// assert_eq!(schedule.delay(0, 0.0), Some(Duration::from_secs(2)));
/// assert_eq!(schedule.delay(3, 0.0), Some(Duration::from_secs(9)));
/// assert_eq!(schedule.delay(100, 0.0), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MissedSchedule {
    /// The part of the delay that grows. Default 1 s.
    pub expo_factor: Duration,
    /// Factor of the growing part for each attempt. Default 2.
    pub expo_base: f64,
    /// Number of attempts after which that part stops growing. Default 10: 1024 s.
    pub expo_max: u32,
    /// Number of attempts after which the notice is given up; the subscription stays. Default 100:
    /// somewhat more than 24 hours, so that an outage of a day is still announced.
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
    /// Time from a failure to the next notice when `attempts` notices were sent already; `None`
    /// when there will be no other. `random` is drawn from [0, 1).
    pub fn delay(&self, attempts: u32, random: f64) -> Option<Duration> {
        if attempts >= self.max_retries {
            return None;
        }
        let exponent = i32::try_from(attempts.min(self.expo_max)).unwrap_or(i32::MAX);
        let seconds = self.expo_factor.as_secs_f64() * self.expo_base.powi(exponent)
            + self.constant.as_secs_f64()
            + random * self.jitter.as_secs_f64();
        // Absurd settings make the sum infinite, which is no duration.
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
        // Delays only grow, or with a base below 1 only shrink: the longest is the first or the
        // last.
        let last = self.max_retries.saturating_sub(1);
        let delays = [0, last]
            .into_iter()
            .filter_map(|attempts| self.delay(attempts, 1.0));
        delays.max().unwrap_or(Duration::ZERO)
    }
}

/// A day: no useful schedule waits longer, and sums of it cannot overflow.
const LONGEST_DELAY: Duration = Duration::from_secs(86_400);

/// Time that a client waits before it asks all broadcasters again: 2^(pass − 1) + `random` seconds
/// before pass 1, 2, … (pass 0 is the first), `random` from [0, 1)
/// (`docs/protocol/stateless.md` §9).
pub fn before_pass(pass: u32, random: f64) -> Duration {
    match pass.checked_sub(1) {
        None => Duration::ZERO,
        Some(exponent) => {
            // More would soon overflow the shift, and 2^16 s are 18 hours already.
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
