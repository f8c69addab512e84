//! Limits on how much is done at once, which fall under overload and rise again later (AIMD).
//!
//! A semaphore alone cannot shrink while its permits are taken: [`ConcurrencyLimit`] remembers how
//! many of them to withhold when they come back.

use std::ops::{Deref, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A number of permits that can be changed while some are taken. Waiters are served in order.
///
/// ```
/// use httppubsub_net::outbound::ConcurrencyLimit;
///
/// let limit = ConcurrencyLimit::new(2, 1..=4);
/// let taken = limit.try_acquire().expect("two are free");
/// limit.change(|current| current / 2);
/// assert_eq!((limit.limit(), limit.free()), (1, 0));
/// drop(taken);
/// assert_eq!(limit.free(), 1);
/// ```
#[derive(Debug)]
pub struct ConcurrencyLimit {
    /// Holds the free permits; taken ones are forgotten by it and come back by hand.
    permits: Semaphore,
    /// The start is at least 1.
    bounds: RangeInclusive<usize>,
    /// `true` at the upper bound, where a permit is given back without a look at `state`.
    is_at_max: AtomicBool,
    /// Read and changed together with the semaphore's permits, so that both agree.
    state: Mutex<State>,
}

/// The part of a limit that has to be consistent.
#[derive(Debug)]
struct State {
    /// Permits now, taken ones included.
    limit: usize,
    /// Taken permits that must not be given back.
    surplus: usize,
}

/// Permits that are taken; given back when this is dropped, unless the limit has fallen meanwhile.
#[derive(Debug)]
pub struct Permit<T: Deref<Target = ConcurrencyLimit>> {
    /// Gets them back.
    turns: T,
    /// Number of permits, all of which are given back at once.
    count: usize,
}

impl ConcurrencyLimit {
    /// A limit of `limit`, kept within `bounds` and at least 1.
    pub fn new(limit: usize, bounds: RangeInclusive<usize>) -> Self {
        let max = (*bounds.end()).clamp(1, Semaphore::MAX_PERMITS);
        let bounds = (*bounds.start()).clamp(1, max)..=max;
        let limit = limit.clamp(*bounds.start(), max);
        Self {
            permits: Semaphore::new(limit),
            is_at_max: AtomicBool::new(limit == max),
            bounds,
            state: Mutex::new(State { limit, surplus: 0 }),
        }
    }

    /// Acquires a permit if one is free.
    pub fn try_acquire(&self) -> Option<Permit<&Self>> {
        let permit = self.permits.try_acquire().ok()?;
        // Given back by hand, as the limit may have fallen meanwhile.
        permit.forget();
        Some(Permit {
            turns: self,
            count: 1,
        })
    }

    /// Acquires a permit, waiting until one is free.
    pub async fn acquire(&self) -> Permit<&Self> {
        let count = self.take_permits(1).await;
        Permit { turns: self, count }
    }

    /// Acquires `count` permits, at most the lower bound, waiting until they are free.
    pub async fn acquire_many(self: Arc<Self>, count: usize) -> Permit<Arc<Self>> {
        let count = self.take_permits(count.min(*self.bounds.start())).await;
        Permit { turns: self, count }
    }

    /// Waits for `count` permits at once, and takes them out of the semaphore.
    async fn take_permits(&self, count: usize) -> usize {
        let permits = u32::try_from(count).unwrap_or(u32::MAX);
        let taken = self.permits.acquire_many(permits).await;
        taken.expect("the semaphore is never closed").forget();
        permits as usize
    }

    /// Permits in total.
    pub fn limit(&self) -> usize {
        self.state().limit
    }

    /// Permits that are free.
    pub fn free(&self) -> usize {
        self.permits.available_permits()
    }

    /// `true` if the limit is at its upper bound.
    pub fn is_at_max(&self) -> bool {
        self.is_at_max.load(Ordering::Relaxed)
    }

    /// Sets the limit to its upper bound.
    pub fn restore(&self) {
        self.change(|_| *self.bounds.end());
    }

    /// Sets the limit to `limit(current)`, clamped to the bounds.
    pub fn change(&self, limit: impl FnOnce(usize) -> usize) {
        let mut state = self.state();
        let before = state.limit;
        state.limit = limit(before).clamp(*self.bounds.start(), *self.bounds.end());
        let is_at_max = state.limit == *self.bounds.end();
        self.is_at_max.store(is_at_max, Ordering::Relaxed);
        match state.limit.checked_sub(before) {
            Some(more) => {
                // Permits that were to be withheld when they come back need not be: they count as
                // added.
                let kept = more.min(state.surplus);
                state.surplus -= kept;
                self.permits.add_permits(more - kept);
            }
            None => {
                let fewer = before - state.limit;
                // Free permits go at once, taken ones when they are given back.
                state.surplus += fewer - self.permits.forget_permits(fewer);
            }
        }
    }

    /// Goes on after a panic: nothing that can fail is done with the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Deref<Target = ConcurrencyLimit>> Drop for Permit<T> {
    fn drop(&mut self) {
        let turns = &*self.turns;
        // At the upper bound nothing is in surplus. If the limit falls at this moment, the next
        // permit that is given back is kept instead.
        if turns.is_at_max() {
            return turns.permits.add_permits(self.count);
        }
        let mut state = turns.state();
        let surplus = state.surplus.min(self.count);
        state.surplus -= surplus;
        turns.permits.add_permits(self.count - surplus);
    }
}

/// The concurrency limit of a peer: halved on overload, raised by one each time that as many
/// requests succeeded as the limit allows at once.
#[derive(Debug)]
pub(crate) struct PeerLimit {
    /// Between 1 and what the configuration allows.
    turns: ConcurrencyLimit,
    /// Never held while a permit is waited for.
    recent: Mutex<Recent>,
}

/// Outcomes at a peer since the last change of its limit.
#[derive(Debug, Default)]
struct Recent {
    /// Requests that succeeded.
    answered: usize,
    /// The moment of the last halving: what began before that says nothing new.
    halved_at: Option<Instant>,
}

impl PeerLimit {
    pub(crate) fn new(limit: usize, max: usize) -> Self {
        Self {
            turns: ConcurrencyLimit::new(limit, 1..=max),
            recent: Mutex::default(),
        }
    }

    pub(crate) fn try_acquire(&self) -> Option<Permit<&ConcurrencyLimit>> {
        self.turns.try_acquire()
    }

    pub(crate) async fn acquire(&self) -> Permit<&ConcurrencyLimit> {
        self.turns.acquire().await
    }

    /// Sets the limit to its upper bound.
    pub(crate) fn restore(&self) {
        self.turns.restore();
    }

    /// Records a request that was answered.
    pub(crate) fn on_success(&self) {
        // Without the lock: nearly all peers are at the maximum, and this is done for every
        // delivery.
        if self.turns.is_at_max() {
            return;
        }
        let mut recent = self.recent();
        recent.answered += 1;
        // As many as go at once, so that the limit grows by one in each round trip (AIMD), however
        // high it is.
        if recent.answered >= self.turns.limit() {
            recent.answered = 0;
            self.turns.change(|limit| limit + 1);
        }
    }

    /// Records that a request begun at `began` met an overloaded peer. Requests that were under way
    /// at the last halving say nothing new.
    pub(crate) fn on_overload(&self, now: Instant, began: Instant) {
        let mut recent = self.recent();
        if self.turns.limit() == 1 || recent.halved_at.is_some_and(|at| began < at) {
            return;
        }
        self.turns.change(|limit| limit / 2);
        *recent = Recent {
            answered: 0,
            halved_at: Some(now),
        };
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn too_much_halves_once_for_all_that_were_under_way() {
        let turns = PeerLimit::new(8, 8);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut taken: Vec<_> = std::iter::from_fn(|| turns.try_acquire()).collect();
        assert_eq!(taken.len(), 8);
        for _ in 0..8 {
            turns.on_overload(at(1), at(0));
        }
        assert_eq!(turns.turns.limit(), 4);
        // The surplus goes as it comes back.
        for under_way in (4..8).rev() {
            drop(taken.pop());
            assert_eq!((taken.len(), turns.turns.free()), (under_way, 0));
        }
        drop(taken.pop());
        assert_eq!(turns.turns.free(), 1);
        for began in 1..10 {
            turns.on_overload(at(began + 1), at(began));
        }
        assert_eq!(turns.turns.limit(), 1);
        drop(taken);
        assert_eq!(turns.turns.free(), 1, "one is always left");
    }

    #[test]
    fn answers_bring_them_back_one_by_one() {
        let turns = PeerLimit::new(4, 4);
        turns.on_success();
        assert_eq!(turns.turns.limit(), 4);
        let taken: Vec<_> = std::iter::from_fn(|| turns.try_acquire()).collect();
        turns.on_overload(Instant::now(), Instant::now());
        assert_eq!(turns.turns.limit(), 2);
        turns.on_success();
        assert_eq!(turns.turns.limit(), 2);
        turns.on_success();
        assert_eq!(turns.turns.limit(), 3, "what was to go stays");
        drop(taken);
        assert_eq!(turns.turns.free(), 3);
        for _ in 0..3 {
            turns.on_success();
        }
        assert_eq!((turns.turns.limit(), turns.turns.free()), (4, 4));
        let few = PeerLimit::new(1, 16);
        assert_eq!(few.turns.free(), 1);
        few.restore();
        assert_eq!((few.turns.limit(), few.turns.free()), (16, 16));
    }

    #[tokio::test]
    async fn turns_that_are_taken_when_there_are_fewer_do_not_come_back() {
        let turns = Arc::new(ConcurrencyLimit::new(100, 10..=40));
        assert_eq!((turns.limit(), turns.free()), (40, 40));
        let mut taken = Vec::new();
        while turns.free() > 0 {
            taken.push(turns.clone().acquire_many(100).await);
        }
        assert_eq!(
            taken.len(),
            4,
            "at most as many at once as there always are"
        );
        turns.change(|limit| limit / 2);
        drop(taken.pop());
        drop(taken.pop());
        assert_eq!(turns.free(), 0);
        turns.change(|limit| limit * 5 / 4);
        assert_eq!(turns.free(), 5);
        turns.change(|_| 0);
        assert_eq!((turns.limit(), turns.free()), (10, 0));
        drop(taken.pop());
        assert_eq!(turns.free(), 0);
        drop(taken);
        assert_eq!(turns.free(), 10);
        turns.restore();
        assert_eq!((turns.limit(), turns.free()), (40, 40));
    }
}
