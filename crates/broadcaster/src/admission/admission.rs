//! Admission: refuses notifications while this process is late with many of them.
//!
//! Being late alone refuses nothing: one notification for a million is late and welcome. Many at
//! once alone refuse nothing either: a quick process takes them. Both together mean that more would
//! only make all of them later.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::admission::fan_outs::{FanOutGate, FanOuts};
use crate::admission::lag::{Lag, LagMeter};
use crate::admission::overloaded::{Overloaded, Rejections};
use crate::admission::pending::PendingDeliveries;
use crate::config::AdmissionConfig;

/// The notifications in progress, and how late this process and its subscribers are with them.
///
/// There are two measures, because either can be late alone: this process, which its own timers
/// show, and what lies between it and its subscribers, which only their answers show.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The lateness that is allowed, and the number of notifications that are taken in any case.
    config: AdmissionConfig,
    /// The number of notifications in progress. What comes over websockets waits instead of being
    /// refused, and is not counted.
    notifications: AtomicUsize,
    /// Notified when a notification is in progress after none was.
    begun: Notify,
    /// Lag of this process with its own tasks.
    lag: Lag,
    /// Lag of the subscribers, as far as it is not that of single ones.
    fan_outs: FanOuts,
    /// Counts what is refused.
    rejections: Arc<Rejections>,
}

/// A notification that is being taken and delivered, for as long as this is held.
#[derive(Debug)]
pub(crate) struct NotificationGuard<'a>(&'a Admission);

impl Drop for NotificationGuard<'_> {
    fn drop(&mut self) {
        self.0.notifications.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Admission by `config`; `rejections` counts what is refused.
    pub(crate) fn new(config: AdmissionConfig, rejections: Arc<Rejections>) -> Self {
        Self {
            config,
            notifications: AtomicUsize::new(0),
            begun: Notify::new(),
            lag: Lag::default(),
            fan_outs: FanOuts::new(),
            rejections,
        }
    }

    /// Admits one more notification, unless there are many and they are late.
    pub(crate) fn admit(&self) -> Result<NotificationGuard<'_>, Overloaded> {
        // Counted first, so that no two find the last place free.
        let before = self.notifications.fetch_add(1, Ordering::Relaxed);
        let guard = NotificationGuard(self);
        // Nobody measures while there is nothing to do.
        if before == 0 {
            self.begun.notify_one();
        }
        let latency = self.fan_outs.latency();
        if self.is_late(before, &self.lag) || self.is_late(latency.notifications(), latency.lag()) {
            return Err(self.rejections.count(Overloaded::Late));
        }
        Ok(guard)
    }

    /// `true` if these notifications are many and `lag` is more than is allowed for.
    fn is_late(&self, notifications: usize, lag: &Lag) -> bool {
        notifications >= self.config.notifications_min && lag.get() > self.config.lag_max
    }

    /// The gate for the fan-out of a notification of `bytes` bytes to `deliveries` subscribers.
    pub(crate) fn fan_out(&self, deliveries: usize, bytes: u64) -> FanOutGate {
        self.fan_outs.gate(deliveries, bytes)
    }

    /// Measures how late everything is, while there is anything. Never ends. It costs nothing while
    /// nothing is in progress: the first notification after a pause wakes it.
    pub(crate) async fn watch(&self, pending: &PendingDeliveries) -> Infallible {
        let mut told = Instant::now();
        let mut meter = LagMeter::default();
        loop {
            if self.notifications.load(Ordering::Relaxed) == 0 {
                meter = LagMeter::default();
                self.lag.set(Duration::ZERO);
                // Those of websockets are not counted, and nobody looks while there are no others.
                self.fan_outs.restore();
                self.begun.notified().await;
            }
            let lag = meter.look().await;
            self.lag.set(meter.lasting());
            // A fifth: halving permits takes some looks to show, and refusals should come only if
            // that was not enough.
            // Long before notifications are refused, fewer of them begin at once.
            self.fan_outs.adapt(lag > self.config.lag_max / 5);
            self.fan_outs.latency().look();
            if told.elapsed() >= BETWEEN_WARNINGS {
                let rejected = self.rejections.take();
                if rejected > 0 {
                    told = Instant::now();
                    let deliveries = pending.len();
                    tracing::warn!(
                        rejected,
                        deliveries,
                        "overloaded: answered 503 to notifications"
                    );
                }
            }
        }
    }
}

/// Longer than most peaks: the log has one line for each, with its number of refusals.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::lag::BETWEEN_LOOKS;

    fn admission(notifications_min: usize) -> Arc<Admission> {
        let config = AdmissionConfig {
            notifications_min,
            lag_max: Duration::from_millis(20),
            ..AdmissionConfig::default()
        };
        Arc::new(Admission::new(config, Arc::default()))
    }

    /// Watches until the test ends.
    fn watch(admission: &Arc<Admission>) {
        let admission = admission.clone();
        tokio::spawn(async move {
            let deliveries_max = AdmissionConfig::default().deliveries_max;
            let pending = PendingDeliveries::new(deliveries_max, Arc::default());
            admission.watch(&pending).await
        });
    }

    #[tokio::test]
    async fn a_process_that_is_late_with_many_takes_no_more_and_then_again() {
        let admission = admission(2);
        watch(&admission);
        let first = admission.admit().expect("there is nothing else");
        let second = admission.admit().expect("there are few");
        drop(admission.admit().expect("it is not late"));
        // The only thread of this runtime does nothing else meanwhile.
        let stuck = Instant::now();
        while admission.admit().is_ok() {
            std::thread::sleep(Duration::from_millis(30));
            tokio::task::yield_now().await;
            assert!(stuck.elapsed() < Duration::from_secs(30));
        }
        assert_eq!(admission.admit().expect_err("it is late"), Overloaded::Late);
        drop(first);
        drop(admission.admit().expect("there are few"));
        let _first = admission.admit().expect("there are few");
        while admission.admit().is_err() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            assert!(stuck.elapsed() < Duration::from_secs(30));
        }
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn when_even_the_quickest_of_those_for_many_are_late_no_more_are_taken() {
        let admission = admission(2);
        let look = || admission.fan_outs.latency().look();
        let deliver = async |gate: FanOutGate, deliveries: usize, milliseconds| {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            (0..deliveries).for_each(|_| gate.ended(1));
        };
        let slow = [admission.fan_out(10, 100), admission.fan_out(10, 100)];
        deliver(admission.fan_out(10, 100), 5, 30).await;
        deliver(admission.fan_out(10, 100), 5, 10).await;
        look();
        drop(admission.admit().expect("one was quick"));
        for (deliveries, bytes) in [(7, 100), (10, 2 << 20)] {
            deliver(admission.fan_out(deliveries, bytes), deliveries, 10_000).await;
        }
        deliver(admission.fan_out(10, 100), 4, 10_000).await;
        look();
        drop(admission.admit().expect("these say nothing"));
        deliver(admission.fan_out(10, 100), 10, 21).await;
        look();
        look();
        let refused = admission.admit().expect_err("all are late");
        assert_eq!(refused, Overloaded::Late);
        let [slow, _other] = slow;
        drop(slow);
        drop(admission.admit().expect("there are few"));
        let _further = admission.fan_out(10, 100);
        assert!(admission.admit().is_err());
        deliver(admission.fan_out(10, 100), 10, 1).await;
        look();
        drop(admission.admit().expect("they are quick again"));
    }
}
