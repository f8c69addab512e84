//! Time-outs of a notification, by the length of its message.
//!
//! A publisher waits for the answer, so the answer has a deadline; deliveries end before it, and
//! what is left of the time is for recording what was missed. Longer messages have longer ones, by
//! the rate below which a connection is given up anyway.

use std::time::Duration;

use httppubsub_net::outbound::allowance;
use httppubsub_proto::time;
use tokio::time::Instant;

/// The time that notifications have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotifyTimeouts {
    /// That of a message of up to 1 MiB, until its answer.
    pub(super) short: Duration,
    /// Bytes in a second that longer ones are allowed for.
    pub(super) rate_min: u64,
}

/// The ends of the work on one notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// The end of its deliveries. What is missed is recorded after that.
    pub(crate) deliveries: Instant,
    /// The latest moment of its answer.
    pub(crate) answer: Instant,
}

impl NotifyTimeouts {
    /// Longest time from the whole message, of `message_bytes`, to its answer.
    pub(super) fn answer(&self, message_bytes: u64) -> Duration {
        // The first MiB is included.
        let longer = allowance(self.rate_min, message_bytes.saturating_sub(1));
        self.short.saturating_add(longer)
    }

    /// Longest part of that for which deliveries go on. The rest is for recording what was missed.
    /// A fifth of the short time is left for that, however long the message is: what has to be
    /// recorded does not grow with it.
    pub(super) fn deliveries(&self, message_bytes: u64) -> Duration {
        self.answer(message_bytes).saturating_sub(self.short / 5)
    }

    /// The deadlines of a notification of `message_bytes` that begins `now`.
    pub(crate) fn deadlines(&self, message_bytes: u64, now: Instant) -> Deadlines {
        Deadlines {
            deliveries: now + self.deliveries(message_bytes).min(time::FOREVER),
            answer: now + self.answer(message_bytes).min(time::FOREVER),
        }
    }
}
