//! The turns that requests take at a peer: fewer when it has too much to do, and more again as it
//! answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::Instant;

/// Turns, `max` of them at most and one at least.
#[derive(Debug)]
pub(crate) struct Turns {
    permits: Semaphore,
    max: usize,
    /// There are as many turns as there may be.
    is_at_max: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many there are now.
    limit: usize,
    /// How many of those that are taken must not be given back.
    surplus: usize,
    /// How many requests were answered since the last change.
    answered: usize,
    halved_at: Option<Instant>,
}

/// One of the turns.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    permit: Option<SemaphorePermit<'a>>,
}

impl Turns {
    pub(crate) fn new(limit: usize, max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let limit = limit.clamp(1, max);
        Self {
            permits: Semaphore::new(limit),
            max,
            is_at_max: AtomicBool::new(limit == max),
            state: Mutex::new(State {
                limit,
                surplus: 0,
                answered: 0,
                halved_at: None,
            }),
        }
    }

    pub(crate) fn try_take(&self) -> Option<Turn<'_>> {
        match self.permits.try_acquire() {
            Ok(permit) => Some(self.turn(permit)),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => None,
        }
    }

    pub(crate) async fn take(&self) -> Turn<'_> {
        let permit = self.permits.acquire().await;
        self.turn(permit.expect("the semaphore is never closed"))
    }

    fn turn<'a>(&'a self, permit: SemaphorePermit<'a>) -> Turn<'a> {
        Turn {
            turns: self,
            permit: Some(permit),
        }
    }

    /// A request was answered: one turn more for each time that all of them were.
    pub(crate) fn answered(&self) {
        if self.is_at_max.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state();
        state.answered += 1;
        if state.answered >= state.limit {
            let more = state.limit + 1;
            self.raise(&mut state, more);
        }
    }

    /// As many as there may be.
    pub(crate) fn all(&self) {
        let mut state = self.state();
        self.raise(&mut state, self.max);
    }

    fn raise(&self, state: &mut State, limit: usize) {
        let limit = limit.min(self.max);
        let more = limit.saturating_sub(state.limit);
        let kept = more.min(state.surplus);
        state.surplus -= kept;
        self.permits.add_permits(more - kept);
        state.limit += more;
        state.answered = 0;
        self.is_at_max
            .store(state.limit == self.max, Ordering::Relaxed);
    }

    /// A request that began then was too much: half as many turns. Those that were under way at the
    /// same time say nothing new.
    pub(crate) fn too_much(&self, now: Instant, began: Instant) {
        let mut state = self.state();
        if state.limit == 1 || state.halved_at.is_some_and(|at| began < at) {
            return;
        }
        let limit = state.limit / 2;
        let fewer = state.limit - limit;
        state.surplus += fewer - self.permits.forget_permits(fewer);
        state.limit = limit;
        state.answered = 0;
        state.halved_at = Some(now);
        self.is_at_max.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn limit(&self) -> usize {
        self.state().limit
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // What is a surplus was halved away, and so are turns below the maximum.
        if self.turns.is_at_max.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.turns.state();
        if state.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// How many can be taken beside these.
    fn free(turns: &Turns) -> usize {
        std::iter::from_fn(|| turns.try_take())
            .collect::<Vec<_>>()
            .len()
    }

    #[test]
    fn too_much_halves_once_for_all_that_were_under_way() {
        let turns = Turns::new(8, 8);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut taken: Vec<_> = std::iter::from_fn(|| turns.try_take()).collect();
        assert_eq!(taken.len(), 8);
        for _ in 0..8 {
            turns.too_much(at(1), at(0));
        }
        assert_eq!(turns.limit(), 4);
        // The surplus goes as it comes back.
        for under_way in (4..8).rev() {
            drop(taken.pop());
            assert_eq!((taken.len(), free(&turns)), (under_way, 0));
        }
        drop(taken.pop());
        assert_eq!(free(&turns), 1);
        for began in 1..10 {
            turns.too_much(at(began + 1), at(began));
        }
        assert_eq!(turns.limit(), 1);
        drop(taken);
        assert_eq!(free(&turns), 1, "one is always left");
    }

    #[test]
    fn answers_bring_them_back_one_by_one() {
        let turns = Turns::new(4, 4);
        turns.answered();
        assert_eq!(turns.limit(), 4);
        let taken: Vec<_> = std::iter::from_fn(|| turns.try_take()).collect();
        turns.too_much(Instant::now(), Instant::now());
        assert_eq!(turns.limit(), 2);
        turns.answered();
        assert_eq!(turns.limit(), 2);
        turns.answered();
        assert_eq!(turns.limit(), 3, "what was to go stays");
        drop(taken);
        assert_eq!(free(&turns), 3);
        for _ in 0..3 {
            turns.answered();
        }
        assert_eq!((turns.limit(), free(&turns)), (4, 4));
        let few = Turns::new(1, 16);
        assert_eq!(free(&few), 1);
        few.all();
        assert_eq!((few.limit(), free(&few)), (16, 16));
    }
}
