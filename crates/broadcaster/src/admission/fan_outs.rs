//! Fan-outs: the permits with which they begin, and the time that the quickest of them takes.
//!
//! A fan-out takes a permit for each of three quarters of its deliveries before it begins, and
//! gives them back when as many have ended: the last quarter is that of slow subscribers, for which
//! no other fan-out should wait. The same moment is its latency.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_net::outbound::{ConcurrencyLimit, Permit, is_large};
use tokio::time::Instant;

use crate::admission::lag::Lag;

/// All fan-outs of this process.
#[derive(Debug)]
pub(super) struct FanOuts {
    /// Of all fan-outs that say something of it.
    latency: Arc<FanOutLatency>,
    /// One for each delivery of the fan-outs that begin: as many as anybody wants, but fewer while
    /// this process is late. More at once would only be slower each. Shared with all other
    /// fan-outs.
    permits: Arc<ConcurrencyLimit>,
}

/// Permits that keep a processor busy.
const PERMITS_MIN: usize = 512;

/// Permits while the process is not late: more than one fan-out of most sizes needs.
const PERMITS_MAX: usize = 32 * PERMITS_MIN;

/// After this time a fan-out gives its permits back wherever it is: it waits for others.
const HELD_MAX: Duration = Duration::from_millis(250);

/// Fewer deliveries say nothing of latency: a quarter of them would be one.
const MANY: usize = 8;

impl FanOuts {
    /// With all permits: nothing says yet that this process is late.
    pub(super) fn new() -> Self {
        let permits = ConcurrencyLimit::new(PERMITS_MAX, PERMITS_MIN..=PERMITS_MAX);
        Self {
            latency: Arc::default(),
            permits: Arc::new(permits),
        }
    }

    /// The gate for the fan-out of a notification of `bytes` bytes to `deliveries` subscribers.
    pub(super) fn gate(&self, deliveries: usize, bytes: u64) -> FanOutGate {
        let says_something = deliveries >= MANY && !is_large(bytes);
        let latency = says_something.then(|| self.latency.clone());
        if let Some(latency) = &latency {
            latency.notifications.fetch_add(1, Ordering::Relaxed);
        }
        FanOutGate {
            latency,
            permits: self.permits.clone(),
            held: Mutex::default(),
            began: Instant::now(),
            most: (deliveries * 3).div_ceil(4),
            ended: AtomicUsize::new(0),
        }
    }

    /// The measure of how late subscribers are.
    pub(super) fn latency(&self) -> &FanOutLatency {
        &self.latency
    }

    /// Halves the number of permits while this process is late, and adds a quarter of them else.
    pub(super) fn adapt(&self, is_late: bool) {
        self.permits.change(|now| match is_late {
            true => now / 2,
            false => now + now / 4,
        });
    }

    /// Makes all permits available.
    pub(super) fn restore(&self) {
        self.permits.restore();
    }
}

/// The latency of fan-outs to many, of each until three quarters of its deliveries have ended.
///
/// A few subscribers that are slow or silent hold up none of them, and a topic whose subscribers
/// mostly are slow holds up no other topic. When even the quickest fan-out is late, the cause is
/// something that all share: the network, or a machine.
#[derive(Debug)]
pub(super) struct FanOutLatency {
    /// The fan-outs that have not got so far.
    notifications: AtomicUsize,
    /// The shortest time since the last look, in microseconds; [`NONE`] if no fan-out got there.
    quickest: AtomicU64,
    /// The shortest time before the last look at which there was one.
    lag: Lag,
}

/// More microseconds than any fan-out takes.
const NONE: u64 = u64::MAX;

impl Default for FanOutLatency {
    fn default() -> Self {
        Self {
            notifications: AtomicUsize::new(0),
            quickest: AtomicU64::new(NONE),
            lag: Lag::default(),
        }
    }
}

impl FanOutLatency {
    /// The number of fan-outs that have not got to three quarters.
    pub(super) fn notifications(&self) -> usize {
        self.notifications.load(Ordering::Relaxed)
    }

    /// The latency of the quickest fan-out.
    pub(super) fn lag(&self) -> &Lag {
        &self.lag
    }

    /// Takes the quickest fan-out since the last look as the latency. Without any it stays as it
    /// is.
    pub(super) fn look(&self) {
        let quickest = self.quickest.swap(NONE, Ordering::Relaxed);
        if quickest != NONE {
            self.lag.set(Duration::from_micros(quickest));
        }
    }

    /// Notes that a fan-out got to three quarters in this time.
    fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(NONE - 1);
        self.quickest.fetch_min(time, Ordering::Relaxed);
        self.notifications.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The gate that one fan-out passes when it begins: it holds permits until three quarters of its
/// deliveries have ended.
#[derive(Debug)]
pub(crate) struct FanOutGate {
    /// `None` for a fan-out that says nothing of latency: it is too small, or its message too
    /// large.
    latency: Option<Arc<FanOutLatency>>,
    /// Shared with all other fan-outs.
    permits: Arc<ConcurrencyLimit>,
    /// The permits that it has, until it gives them back.
    held: Mutex<Option<Permit<Arc<ConcurrencyLimit>>>>,
    /// The moment at which it was matched: the wait for permits is part of its latency.
    began: Instant,
    /// Three quarters of the deliveries.
    most: usize,
    /// The deliveries that have ended.
    ended: AtomicUsize,
}

impl FanOutGate {
    /// Notes that `deliveries` more have ended.
    pub(crate) fn ended(&self, deliveries: usize) {
        // Several threads count; the one that gets to three quarters does the rest, once.
        let before = self.ended.fetch_add(deliveries, Ordering::Relaxed);
        if before >= self.most || before + deliveries < self.most {
            return;
        }
        self.release();
        if let Some(latency) = &self.latency {
            latency.took(self.began.elapsed());
        }
    }

    /// Does `delivering`, which notes what has [ended](Self::ended), as soon as there are permits.
    pub(crate) async fn pass<T>(&self, delivering: impl Future<Output = T>) -> T {
        let permits = self.permits.clone().acquire_many(self.most).await;
        *self.held() = Some(permits);
        let mut delivering = std::pin::pin!(delivering);
        if let Ok(delivered) = tokio::time::timeout(HELD_MAX, &mut delivering).await {
            return delivered;
        }
        self.release();
        delivering.await
    }

    /// Gives the permits back, if it has any.
    fn release(&self) {
        let permits = self.held().take();
        // Not while it is locked: others are woken.
        drop(permits);
    }

    /// Goes on after a panic: permits are there or taken out, never half.
    fn held(&self) -> MutexGuard<'_, Option<Permit<Arc<ConcurrencyLimit>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FanOutGate {
    fn drop(&mut self) {
        self.release();
        // A fan-out that was given up says nothing of latency, and is under way no more.
        if let Some(latency) = &self.latency
            && *self.ended.get_mut() < self.most
        {
            latency.notifications.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_it_is_late_notifications_wait_until_most_of_those_before_are_delivered() {
        let fan_outs = FanOuts::new();
        let start = Instant::now();
        let deliver = |deliveries: usize, milliseconds| {
            let gate = fan_outs.gate(deliveries, 100);
            tokio::spawn(async move {
                let delivering = async {
                    let began = start.elapsed();
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    (0..deliveries * 3 / 4).for_each(|_| gate.ended(1));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    began.as_millis()
                };
                gate.pass(delivering).await
            })
        };
        let deliver_all = async || {
            let mut all = Vec::new();
            let many = 2 * PERMITS_MIN;
            for (deliveries, milliseconds) in
                [(many, 20), (10 * many, 10_000), (many / 4, 0), (2, 0)]
            {
                all.push(deliver(deliveries, milliseconds));
                tokio::task::yield_now().await;
            }
            let now = start.elapsed().as_millis();
            let mut began = Vec::new();
            for one in all {
                began.push(one.await.expect("it does not panic") - now);
            }
            began
        };
        assert_eq!(deliver_all().await, [0, 0, 0, 0], "it is not late");
        for _ in 0..10 {
            fan_outs.adapt(true);
        }
        // The second holds its permits for as long as it may; after it there is room for both.
        let late = 20 + HELD_MAX.as_millis();
        assert_eq!(deliver_all().await, [0, 20, late, late]);
        for _ in 0..100 {
            fan_outs.adapt(false);
        }
        assert_eq!(fan_outs.permits.free(), PERMITS_MAX);
        assert_eq!(deliver_all().await, [0, 0, 0, 0], "it is late no more");
    }

    #[tokio::test(start_paused = true)]
    async fn all_permits_are_there_again_after_a_restore() {
        let fan_outs = FanOuts::new();
        for _ in 0..10 {
            fan_outs.adapt(true);
        }
        let _taken = fan_outs.permits.clone().acquire_many(PERMITS_MIN).await;
        assert_eq!(fan_outs.permits.free(), 0);
        fan_outs.restore();
        assert_eq!(fan_outs.permits.free(), PERMITS_MAX - PERMITS_MIN);
    }
}
