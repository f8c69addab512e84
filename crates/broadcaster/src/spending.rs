//! What one connection takes of the room that the replay guard has for all.

use std::collections::VecDeque;
use std::time::Duration;

use httppubsub_net::ReplayGuard;
use httppubsub_proto::auth::REPLAY_MEMORY;
use httppubsub_proto::time::Now;

/// Authorizations that a connection spent and the guard still remembers, counted roughly.
#[derive(Debug, Default)]
pub(crate) struct Spending {
    /// When some were spent, to within [`SLICE`], and how many.
    slices: VecDeque<(u64, usize)>,
    count: usize,
}

const SLICE: Duration = Duration::from_secs(10);

impl Spending {
    /// `true` if it may spend one more: no more than is left to all others. So one connection gets
    /// half of all room, two get a third each, and there is always some for the next.
    pub(crate) fn has_share(&mut self, guard: &ReplayGuard, now: Now) -> bool {
        let oldest = slice(now).saturating_sub(REPLAY_MEMORY.as_secs() / SLICE.as_secs() + 1);
        while let Some((at, count)) = self.slices.front()
            && *at < oldest
        {
            self.count -= count;
            self.slices.pop_front();
        }
        self.count < guard.room(now)
    }

    /// One more was spent.
    pub(crate) fn spent(&mut self, now: Now) {
        self.count += 1;
        let at = slice(now);
        match self.slices.back_mut() {
            Some((last, count)) if *last == at => *count += 1,
            _ => self.slices.push_back((at, 1)),
        }
    }
}

fn slice(now: Now) -> u64 {
    now.unix_seconds() / SLICE.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_forgotten_as_the_guard_forgets_it() {
        let guard = ReplayGuard::in_memory(10);
        let at = |seconds| Now::from_unix(Duration::from_secs(seconds));
        let mut spending = Spending::default();
        for _ in 0..10 {
            assert!(spending.has_share(&guard, at(1_000)));
            spending.spent(at(1_000));
        }
        assert!(!spending.has_share(&guard, at(1_300)));
        assert!(spending.has_share(&guard, at(1_320)));
    }
}
