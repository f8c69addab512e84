//! How much there is to do, and what is turned away when it is too much.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_net::{Turn, Turns, is_large};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::LoadConfig;
use crate::measures;

/// What is under way, and how late this process and those that it delivers to are with it.
#[derive(Debug)]
pub(crate) struct Load {
    config: LoadConfig,
    notifications: AtomicUsize,
    begun: Notify,
    /// Of this process with its own tasks, in microseconds.
    lag: AtomicU64,
    spreading: Arc<Spreading>,
    turns: Arc<Turns>,
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

/// Notifications that are for many, until three quarters of their deliveries have ended.
///
/// A few subscribers that are slow or silent hold up none of them, and a topic of which most are no
/// other topic. When even the quickest is late, then what all share is: the network, or a machine.
#[derive(Debug)]
struct Spreading {
    notifications: AtomicUsize,
    /// In microseconds, of those that got there since the last look; [`NONE`] if none did.
    quickest: AtomicU64,
    /// The same of the look before, in which one did.
    lag: AtomicU64,
}

const NONE: u64 = u64::MAX;

/// One peer has this fraction of all places, so that others have some whatever it does.
const PEER_SHARE: usize = 4;

/// Of fewer, a quarter would be one.
const MANY: usize = 8;

/// Turns that notifications take to begin their deliveries, one for each of these: as many as anybody
/// wants, but fewer while this process is late. More at once would only be slower each.
fn turns() -> Arc<Turns> {
    Arc::new(Turns::new(TURNS_MAX, TURNS_MIN..=TURNS_MAX))
}

/// A little later: half as many while this process is late, and a quarter more else.
fn adapt(turns: &Turns, is_late: bool) {
    turns.change(|now| match is_late {
        true => now / 2,
        false => now + now / 4,
    });
}

/// As many keep a processor busy.
const TURNS_MIN: usize = 512;

const TURNS_MAX: usize = 32 * TURNS_MIN;

/// After this time a notification is past its turn wherever it is: it waits for others.
const TURN_MAX: Duration = Duration::from_millis(250);

/// The deliveries of one notification, up to three quarters of them.
#[derive(Debug)]
pub(crate) struct Spread {
    /// `None` for those that say nothing.
    spreading: Option<Arc<Spreading>>,
    turns: Arc<Turns>,
    turn: Mutex<Option<Turn<Arc<Turns>>>>,
    began: Instant,
    most: usize,
    ended: AtomicUsize,
}

impl Spread {
    /// One more delivery has ended.
    pub(crate) fn ended(&self) {
        if self.ended.fetch_add(1, Ordering::Relaxed) + 1 != self.most {
            return;
        }
        self.turn_is_over();
        if let Some(spreading) = &self.spreading {
            let took = microseconds(self.began.elapsed());
            spreading.quickest.fetch_min(took, Ordering::Relaxed);
            spreading.notifications.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Does `delivering`, which tells of what has [ended](Self::ended), when it is its turn.
    pub(crate) async fn deliver<T>(&self, delivering: impl Future<Output = T>) -> T {
        let turn = self.turns.clone().take_many(self.most).await;
        *self.turn() = Some(turn);
        let mut delivering = std::pin::pin!(delivering);
        if let Ok(delivered) = tokio::time::timeout(TURN_MAX, &mut delivering).await {
            return delivered;
        }
        self.turn_is_over();
        delivering.await
    }

    fn turn_is_over(&self) {
        let turn = self.turn().take();
        // Not while it is locked: others are woken.
        drop(turn);
    }

    fn turn(&self) -> MutexGuard<'_, Option<Turn<Arc<Turns>>>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        self.turn_is_over();
        if let Some(spreading) = &self.spreading
            && *self.ended.get_mut() < self.most
        {
            spreading.notifications.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Spreading {
    fn look(&self) {
        let quickest = self.quickest.swap(NONE, Ordering::Relaxed);
        if quickest != NONE {
            self.lag.store(quickest, Ordering::Relaxed);
        }
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(NONE - 1)
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
            spreading: Arc::new(Spreading {
                notifications: AtomicUsize::new(0),
                quickest: AtomicU64::new(NONE),
                lag: AtomicU64::new(0),
            }),
            turns: turns(),
            rejected: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(places_max as usize)),
            places_max,
        }
    }

    /// Takes one more notification, unless there are many and they are late.
    pub(crate) fn begin(&self) -> Result<UnderWay<'_>, Overloaded> {
        let before = self.notifications.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(self);
        if before == 0 {
            self.begun.notify_one();
        }
        let spreading = self.spreading.notifications.load(Ordering::Relaxed);
        if self.is_late(before, &self.lag) || self.is_late(spreading, &self.spreading.lag) {
            return Err(self.rejected(Overloaded::Late));
        }
        Ok(under_way)
    }

    fn is_late(&self, notifications: usize, lag: &AtomicU64) -> bool {
        notifications >= self.config.notifications_min
            && Duration::from_micros(lag.load(Ordering::Relaxed)) > self.config.lag_max
    }

    /// A notification of so many bytes begins to be delivered to so many.
    pub(crate) fn spread(&self, deliveries: usize, bytes: u64) -> Spread {
        let spreading = (deliveries >= MANY && !is_large(bytes)).then(|| self.spreading.clone());
        if let Some(spreading) = &spreading {
            spreading.notifications.fetch_add(1, Ordering::Relaxed);
        }
        Spread {
            spreading,
            turns: self.turns.clone(),
            turn: Mutex::default(),
            began: Instant::now(),
            most: (deliveries * 3).div_ceil(4),
            ended: AtomicUsize::new(0),
        }
    }

    /// How many of all places deliveries to one peer may have together.
    pub(crate) fn share_of_peer(&self) -> usize {
        (self.places_max as usize / PEER_SHARE).max(1)
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

    /// Measures how late everything is, while there is anything. Never ends.
    pub(crate) async fn watch(&self) -> Infallible {
        let mut told = Instant::now();
        let mut lags = [Duration::ZERO; LOOKS];
        loop {
            if self.notifications.load(Ordering::Relaxed) == 0 {
                lags = Default::default();
                self.lag.store(0, Ordering::Relaxed);
                // Those of websockets are not counted, and nobody looks while there are no others.
                self.turns.all();
                self.begun.notified().await;
            }
            let due = Instant::now() + BETWEEN_LOOKS;
            tokio::time::sleep_until(due).await;
            let lag = due.elapsed();
            // That it was late once may be because somebody else had the processor for a moment.
            lags.rotate_left(1);
            lags[LOOKS - 1] = lag;
            let lasting = lags.into_iter().min().unwrap_or_default();
            self.lag.store(microseconds(lasting), Ordering::Relaxed);
            adapt(&self.turns, lag > self.config.lag_max / 5);
            self.spreading.look();
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
/// In each of so many it has to be late.
const LOOKS: usize = 3;
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

    #[tokio::test(start_paused = true)]
    async fn when_even_the_quickest_of_those_for_many_are_late_no_more_are_taken() {
        let load = load(2, 10);
        let deliver = async |spread: Spread, deliveries: usize, milliseconds| {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            (0..deliveries).for_each(|_| spread.ended());
        };
        let slow = [load.spread(10, 100), load.spread(10, 100)];
        deliver(load.spread(10, 100), 5, 30).await;
        deliver(load.spread(10, 100), 5, 10).await;
        load.spreading.look();
        drop(load.begin().expect("one was quick"));
        for (deliveries, bytes) in [(7, 100), (10, 2 << 20)] {
            deliver(load.spread(deliveries, bytes), deliveries, 10_000).await;
        }
        deliver(load.spread(10, 100), 4, 10_000).await;
        load.spreading.look();
        drop(load.begin().expect("these say nothing"));
        deliver(load.spread(10, 100), 10, 21).await;
        load.spreading.look();
        load.spreading.look();
        assert_eq!(load.begin().expect_err("all are late"), Overloaded::Late);
        let [slow, _other] = slow;
        drop(slow);
        drop(load.begin().expect("there are few"));
        let _further = load.spread(10, 100);
        assert!(load.begin().is_err());
        deliver(load.spread(10, 100), 10, 1).await;
        load.spreading.look();
        drop(load.begin().expect("they are quick again"));
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_late_notifications_wait_until_most_of_those_before_are_delivered() {
        let load = load(2, 10);
        let start = Instant::now();
        let deliver = |deliveries: usize, milliseconds| {
            let spread = load.spread(deliveries, 100);
            tokio::spawn(async move {
                let delivering = async {
                    let began = start.elapsed();
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    (0..deliveries * 3 / 4).for_each(|_| spread.ended());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    began.as_millis()
                };
                spread.deliver(delivering).await
            })
        };
        let deliver_all = async || {
            let mut all = Vec::new();
            let many = 2 * TURNS_MIN;
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
            adapt(&load.turns, true);
        }
        // The second holds its turns for as long as it may; after it there is room for both.
        let late = 20 + TURN_MAX.as_millis();
        assert_eq!(deliver_all().await, [0, 20, late, late]);
        for _ in 0..100 {
            adapt(&load.turns, false);
        }
        assert_eq!(load.turns.free(), TURNS_MAX);
        assert_eq!(deliver_all().await, [0, 0, 0, 0], "it is late no more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_nothing_is_under_way_need_not_wait() {
        let load = load(2, 10);
        for _ in 0..10 {
            adapt(&load.turns, true);
        }
        let _taken = load.turns.clone().take_many(TURNS_MIN).await;
        assert_eq!(load.turns.free(), 0);
        tokio::spawn({
            let load = load.clone();
            async move { load.watch().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(load.turns.free(), TURNS_MAX - TURNS_MIN);
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
