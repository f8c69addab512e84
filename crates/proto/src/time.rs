//! Moments and durations; nothing here reads a clock.

use std::time::Duration;

/// A moment in wall-clock time, read once per event at the door and passed down from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(Duration);

impl Now {
    /// The moment that lies `since_epoch` after 1970-01-01T00:00:00Z.
    pub const fn from_unix(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// Time from 1970-01-01T00:00:00Z to this moment.
    pub const fn since_unix(self) -> Duration {
        self.0
    }

    /// Whole seconds since the epoch, cut and not rounded, as signatures carry them
    /// (`docs/protocol/auth.md` §4).
    pub const fn unix_seconds(self) -> u64 {
        self.0.as_secs()
    }

    /// Nanoseconds since the epoch, saturating in the year 2554.
    pub fn unix_nanoseconds(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// `true` if this moment and the whole second `timestamp` lie at most `lifetime` apart, in
    /// either direction.
    pub fn within(self, timestamp: u64, lifetime: Duration) -> bool {
        self.0.abs_diff(Duration::from_secs(timestamp)) <= lifetime
    }
}

impl std::ops::Add<Duration> for Now {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// The longest duration that is waited for, 30 years: more is as good as that, and a moment so much
/// later can be written down on every platform.
pub const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Shortens durations that are longer than [`FOREVER`], so that no sum of a moment and a setting
/// overflows. To be called where settings come in.
pub fn bound<const N: usize>(durations: [&mut Duration; N]) {
    for duration in durations {
        *duration = FOREVER.min(*duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_measured_from_the_fractional_now() {
        let now = Now::from_unix(Duration::from_millis(1_000_250));
        let lifetime = Duration::from_secs(120);
        assert!(!now.within(880, lifetime));
        assert!(now.within(881, lifetime));
        assert!(now.within(1_120, lifetime));
        assert!(!now.within(1_121, lifetime));
        assert!(!now.within(u64::MAX, lifetime));
    }
}
