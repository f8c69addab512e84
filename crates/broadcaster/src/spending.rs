//! What one connection or one address takes of the room that the replay guard has for all.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
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
        let oldest = oldest(now);
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

/// What addresses take of the same room with requests over HTTP.
#[derive(Debug, Default)]
pub(crate) struct Spenders(Mutex<HashMap<IpAddr, Spending>>);

impl Spenders {
    /// `true` if requests from `address` may spend one more: see [`Spending::has_share`].
    pub(crate) fn have_share(&self, address: IpAddr, guard: &ReplayGuard, now: Now) -> bool {
        let mut spenders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spenders
            .get_mut(&address)
            .is_none_or(|spending| spending.has_share(guard, now))
    }

    /// One more was spent by a request from `address`.
    pub(crate) fn spent(&self, address: IpAddr, now: Now) {
        let mut spenders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spenders.len() == spenders.capacity() {
            let is_remembered = |spending: &Spending| {
                let newest = spending.slices.back();
                newest.is_some_and(|(at, _)| *at >= oldest(now))
            };
            spenders.retain(|_, spending| is_remembered(spending));
        }
        spenders.entry(address).or_default().spent(now);
    }
}

/// The oldest slice of which the guard may remember something.
fn oldest(now: Now) -> u64 {
    slice(now).saturating_sub(REPLAY_MEMORY.as_secs() / SLICE.as_secs() + 1)
}

fn slice(now: Now) -> u64 {
    now.unix_seconds() / SLICE.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use httppubsub_proto::auth::{Code, Unspent};

    #[tokio::test]
    async fn share_of_the_guard_leaves_room_for_other_addresses() {
        let guard = ReplayGuard::in_memory(1_000);
        let now = Now::from_unix(Duration::from_secs(1_000));
        let (spenders, mut codes) = (Spenders::default(), 0_u128..);
        let [hostile, good] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let mut spend = async |address| {
            let has_share = spenders.have_share(address, &guard, now);
            if has_share {
                let code = Code::from_bytes(codes.next().unwrap().to_be_bytes());
                let _ = guard.spend(Unspent::once(code), now).await.unwrap();
                spenders.spent(address, now);
            }
            has_share
        };
        let mut taken = 0;
        while spend(hostile).await {
            taken += 1;
        }
        assert_eq!(taken, 500);
        for _ in 0..200 {
            assert!(spend(good).await);
        }
        assert!(!spend(hostile).await);
    }

    #[test]
    fn addresses_that_spent_nothing_lately_are_forgotten() {
        let spenders = Spenders::default();
        for number in 0..10_000_u32 {
            let now = Now::from_unix(Duration::from_secs(u64::from(number) * 10));
            spenders.spent(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(spenders.0.lock().unwrap().len() < 200);
    }

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
