//! How much there is to do, and what is turned away when it is too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::LoadConfig;
use crate::measures;

/// What is under way, and how late this process is with it.
#[derive(Debug)]
pub(crate) struct Load {
    config: LoadConfig,
    notifications: AtomicUsize,
    begun: Notify,
    /// In microseconds.
    lag: AtomicU64,
    rejected: AtomicU64,
    /// One for each delivery that may wait or be under way.
    places: Arc<Semaphore>,
    places_max: u32,
}

/// Too much is under way; later it may be less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overloaded {
    #[error("this broadcaster has more to do than it can; send it again later")]
    Late,
    #[error("too many deliveries wait for their turn here; send it again later")]
    Deliveries,
}

/// A notification being taken and delivered.
#[derive(Debug)]
pub(crate) struct UnderWay<'a>(&'a Load);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.notifications.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Load {
    pub(crate) fn new(config: LoadConfig) -> Self {
        let places_max = u32::try_from(config.deliveries_max.get().min(Semaphore::MAX_PERMITS));
        let places_max = places_max.unwrap_or(u32::MAX);
        Self {
            config,
            notifications: AtomicUsize::new(0),
            begun: Notify::new(),
            lag: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(places_max as usize)),
            places_max,
        }
    }

    /// Takes one more notification, unless there are many and this process is late with them.
    pub(crate) fn begin(&self) -> Result<UnderWay<'_>, Overloaded> {
        let before = self.notifications.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(self);
        if before == 0 {
            self.begun.notify_one();
        }
        let lag = Duration::from_micros(self.lag.load(Ordering::Relaxed));
        if before >= self.config.notifications_min && lag > self.config.lag_max {
            return Err(self.rejected(Overloaded::Late));
        }
        Ok(under_way)
    }

    /// Room for so many deliveries, if there is some. One notification alone always has room.
    pub(crate) fn try_places(&self, deliveries: usize) -> Result<OwnedSemaphorePermit, Overloaded> {
        let places = self.places.clone();
        places
            .try_acquire_many_owned(self.needed(deliveries))
            .map_err(|_| self.rejected(Overloaded::Deliveries))
    }

    /// The same, when there is.
    pub(crate) async fn places(&self, deliveries: usize) -> OwnedSemaphorePermit {
        let places = self.places.clone();
        let room = places.acquire_many_owned(self.needed(deliveries)).await;
        room.expect("the semaphore is never closed")
    }

    /// How many deliveries wait or are under way.
    pub(crate) fn deliveries(&self) -> usize {
        self.places_max as usize - self.places.available_permits()
    }

    fn needed(&self, deliveries: usize) -> u32 {
        u32::try_from(deliveries)
            .unwrap_or(u32::MAX)
            .min(self.places_max)
    }

    fn rejected(&self, why: Overloaded) -> Overloaded {
        self.rejected.fetch_add(1, Ordering::Relaxed);
        measures::rejected();
        why
    }

    /// Measures how late this process is with what it has to do, while it has anything to do. Never
    /// ends.
    pub(crate) async fn watch(&self) {
        let mut told = Instant::now();
        loop {
            if self.notifications.load(Ordering::Relaxed) == 0 {
                self.lag.store(0, Ordering::Relaxed);
                self.begun.notified().await;
            }
            let due = Instant::now() + BETWEEN_LOOKS;
            tokio::time::sleep_until(due).await;
            let lag = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.lag.store(lag, Ordering::Relaxed);
            if told.elapsed() >= BETWEEN_WARNINGS {
                let rejected = self.rejected.swap(0, Ordering::Relaxed);
                if rejected > 0 {
                    told = Instant::now();
                    let deliveries = self.deliveries();
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

const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
const BETWEEN_WARNINGS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn load(notifications_min: usize, deliveries_max: usize) -> Arc<Load> {
        Arc::new(Load::new(LoadConfig {
            notifications_min,
            lag_max: Duration::from_millis(20),
            deliveries_max: NonZeroUsize::new(deliveries_max).expect("not zero"),
        }))
    }

    #[tokio::test]
    async fn a_process_that_is_late_with_many_takes_no_more_and_then_again() {
        let load = load(2, 10);
        tokio::spawn({
            let load = load.clone();
            async move { load.watch().await }
        });
        let first = load.begin().expect("there is nothing else");
        let second = load.begin().expect("there are few");
        drop(load.begin().expect("it is not late"));
        // The only thread of this runtime does nothing else meanwhile.
        let stuck = Instant::now();
        while load.begin().is_ok() {
            std::thread::sleep(Duration::from_millis(30));
            tokio::task::yield_now().await;
            assert!(stuck.elapsed() < Duration::from_secs(30));
        }
        assert_eq!(load.begin().expect_err("it is late"), Overloaded::Late);
        drop(first);
        drop(load.begin().expect("there are few"));
        let _first = load.begin().expect("there are few");
        while load.begin().is_err() {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            assert!(stuck.elapsed() < Duration::from_secs(30));
        }
        drop(second);
    }

    #[tokio::test]
    async fn deliveries_have_places_and_one_notification_alone_always_has() {
        let load = load(2, 10);
        let all = load.try_places(1_000_000).expect("there is nothing else");
        assert_eq!(load.deliveries(), 10);
        let refused = load.try_places(1).expect_err("there is no room");
        assert_eq!(refused, Overloaded::Deliveries);
        drop(all);
        let most = load.try_places(8).expect("there is room");
        assert!(load.try_places(3).is_err());
        let waiting = tokio::spawn({
            let load = load.clone();
            async move { load.places(3).await.num_permits() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(most);
        assert_eq!(waiting.await.expect("it does not panic"), 3);
    }
}
