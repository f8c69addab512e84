//! Settings of admission and of quarantine.
//!
//! Both decide about what arrives: how much of it is taken at a time, and what is believed.

use std::num::NonZeroUsize;
use std::time::Duration;

/// Quarantine of subscriptions: how long one is kept after an answer that could not be verified
/// said that it is not wanted. It is paused; its subscriber gets notices of what it misses
/// meanwhile if it has a recovery url. When a notice or a later delivery is confirmed, all is as
/// before.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct QuarantineConfig {
    /// Number of such answers after which the subscription is removed. Default 3.
    pub times: u32,
    /// Least time between the first and the last of them. Default 10 min.
    pub lasting: Duration,
    /// Time without deliveries after such an answer. Default 5 min.
    pub pause: Duration,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            times: 3,
            lasting: Duration::from_secs(600),
            pause: Duration::from_secs(300),
        }
    }
}

/// Limits beyond which notifications are answered 503. Notifications over websockets wait instead.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AdmissionConfig {
    /// Notifications that may be under way however late everything is. Default 64.
    pub notifications_min: usize,
    /// No more than those are taken when this process is later than this with what it has to do;
    /// nor when of the notifications that are for many (eight or more) even the quickest takes
    /// longer than this until three quarters of its deliveries have ended. Default 50 ms.
    pub lag_max: Duration,
    /// The most deliveries of all notifications that wait or are under way. One peer (scheme, host
    /// and port) has a quarter of it: what a notification has for it beyond that is missed at once.
    /// Default 1,000,000.
    pub deliveries_max: NonZeroUsize,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            notifications_min: 64,
            lag_max: Duration::from_millis(50),
            deliveries_max: NonZeroUsize::new(1_000_000).expect("it is not zero"),
        }
    }
}
