//! Lengths of time that somebody chose.

use std::time::Duration;

/// So long, or ten years: the sum of a moment and a time that was chosen must not overflow.
pub(crate) fn bounded(time: Duration) -> Duration {
    time.min(Duration::from_secs(10 * 365 * 86_400))
}
