//! Turns that are taken one after the other: fewer when there is too much to do, and more again later.

use std::ops::{Deref, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Turns of which there are more or fewer, first come, first served.
#[derive(Debug)]
pub struct Turns {
    permits: Semaphore,
    /// At least one.
    bounds: RangeInclusive<usize>,
    /// There are as many as there may be, so what is taken is given back and that is all.
    is_at_max: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many there are now.
    limit: usize,
    /// How many of those that are taken must not be given back.
    surplus: usize,
}

/// Turns that are taken; given back when this is dropped, unless there are fewer by then.
#[derive(Debug)]
pub struct Turn<T: Deref<Target = Turns>> {
    turns: T,
    count: usize,
}

impl Turns {
    /// So many, never fewer or more than `bounds`, and at least one.
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

    /// One of them, if it is free.
    pub fn try_take(&self) -> Option<Turn<&Self>> {
        let permit = self.permits.try_acquire().ok()?;
        permit.forget();
        Some(Turn {
            turns: self,
            count: 1,
        })
    }

    /// One of them, when it is free.
    pub async fn take(&self) -> Turn<&Self> {
        let count = self.take_permits(1).await;
        Turn { turns: self, count }
    }

    /// So many of them at once, when they are free; no more than there are at the least.
    pub async fn take_many(self: Arc<Self>, count: usize) -> Turn<Arc<Self>> {
        let count = self.take_permits(count.min(*self.bounds.start())).await;
        Turn { turns: self, count }
    }

    async fn take_permits(&self, count: usize) -> usize {
        let permits = u32::try_from(count).unwrap_or(u32::MAX);
        let taken = self.permits.acquire_many(permits).await;
        taken.expect("the semaphore is never closed").forget();
        permits as usize
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.state().limit
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.permits.available_permits()
    }

    /// Whether there are as many as there may be.
    pub fn is_at_max(&self) -> bool {
        self.is_at_max.load(Ordering::Relaxed)
    }

    /// As many as there may be.
    pub fn all(&self) {
        self.change(|_| *self.bounds.end());
    }

    /// As many as `limit` says, which is given how many there are; within the bounds.
    pub fn change(&self, limit: impl FnOnce(usize) -> usize) {
        let mut state = self.state();
        let before = state.limit;
        state.limit = limit(before).clamp(*self.bounds.start(), *self.bounds.end());
        let is_at_max = state.limit == *self.bounds.end();
        self.is_at_max.store(is_at_max, Ordering::Relaxed);
        match state.limit.checked_sub(before) {
            Some(more) => {
                let kept = more.min(state.surplus);
                state.surplus -= kept;
                self.permits.add_permits(more - kept);
            }
            None => {
                let fewer = before - state.limit;
                state.surplus += fewer - self.permits.forget_permits(fewer);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Deref<Target = Turns>> Drop for Turn<T> {
    fn drop(&mut self) {
        let turns = &*self.turns;
        // There is no surplus then; if it becomes one at this moment, the next makes good for it.
        if turns.is_at_max() {
            return turns.permits.add_permits(self.count);
        }
        let mut state = turns.state();
        let surplus = state.surplus.min(self.count);
        state.surplus -= surplus;
        turns.permits.add_permits(self.count - surplus);
    }
}

/// The turns that requests take at a peer: half as many when it has too much to do, and one more each
/// time that it has answered all of them.
#[derive(Debug)]
pub(crate) struct PeerTurns {
    turns: Turns,
    told: Mutex<Told>,
}

/// What was heard of a peer.
#[derive(Debug, Default)]
struct Told {
    /// How many requests were answered since the last change.
    answered: usize,
    halved_at: Option<Instant>,
}

impl PeerTurns {
    pub(crate) fn new(limit: usize, max: usize) -> Self {
        Self {
            turns: Turns::new(limit, 1..=max),
            told: Mutex::default(),
        }
    }

    pub(crate) fn try_take(&self) -> Option<Turn<&Turns>> {
        self.turns.try_take()
    }

    pub(crate) async fn take(&self) -> Turn<&Turns> {
        self.turns.take().await
    }

    /// As many as there may be.
    pub(crate) fn all(&self) {
        self.turns.all();
    }

    /// A request was answered.
    pub(crate) fn answered(&self) {
        if self.turns.is_at_max() {
            return;
        }
        let mut told = self.told();
        told.answered += 1;
        if told.answered >= self.turns.limit() {
            told.answered = 0;
            self.turns.change(|limit| limit + 1);
        }
    }

    /// A request that began then was too much. Those that were under way at the same time say
    /// nothing new.
    pub(crate) fn too_much(&self, now: Instant, began: Instant) {
        let mut told = self.told();
        if self.turns.limit() == 1 || told.halved_at.is_some_and(|at| began < at) {
            return;
        }
        self.turns.change(|limit| limit / 2);
        *told = Told {
            answered: 0,
            halved_at: Some(now),
        };
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn too_much_halves_once_for_all_that_were_under_way() {
        let turns = PeerTurns::new(8, 8);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut taken: Vec<_> = std::iter::from_fn(|| turns.try_take()).collect();
        assert_eq!(taken.len(), 8);
        for _ in 0..8 {
            turns.too_much(at(1), at(0));
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
            turns.too_much(at(began + 1), at(began));
        }
        assert_eq!(turns.turns.limit(), 1);
        drop(taken);
        assert_eq!(turns.turns.free(), 1, "one is always left");
    }

    #[test]
    fn answers_bring_them_back_one_by_one() {
        let turns = PeerTurns::new(4, 4);
        turns.answered();
        assert_eq!(turns.turns.limit(), 4);
        let taken: Vec<_> = std::iter::from_fn(|| turns.try_take()).collect();
        turns.too_much(Instant::now(), Instant::now());
        assert_eq!(turns.turns.limit(), 2);
        turns.answered();
        assert_eq!(turns.turns.limit(), 2);
        turns.answered();
        assert_eq!(turns.turns.limit(), 3, "what was to go stays");
        drop(taken);
        assert_eq!(turns.turns.free(), 3);
        for _ in 0..3 {
            turns.answered();
        }
        assert_eq!((turns.turns.limit(), turns.turns.free()), (4, 4));
        let few = PeerTurns::new(1, 16);
        assert_eq!(few.turns.free(), 1);
        few.all();
        assert_eq!((few.turns.limit(), few.turns.free()), (16, 16));
    }

    #[tokio::test]
    async fn turns_that_are_taken_when_there_are_fewer_do_not_come_back() {
        let turns = Arc::new(Turns::new(100, 10..=40));
        assert_eq!((turns.limit(), turns.free()), (40, 40));
        let mut taken = Vec::new();
        while turns.free() > 0 {
            taken.push(turns.clone().take_many(100).await);
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
        turns.all();
        assert_eq!((turns.limit(), turns.free()), (40, 40));
    }
}
