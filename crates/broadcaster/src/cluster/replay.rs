//! Authorizations count once: here, and at all broadcasters on the store where that is asked for.
//! One connection or address gets a share of what can be remembered.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use httppubsub_net::inbound::{ReplayGuard, Spent};
use httppubsub_proto::auth::{AuthError, REPLAY_MEMORY, Unspent};
use httppubsub_proto::time::Now;
use httppubsub_store::{Cluster, Store};
use tokio_util::task::TaskTracker;

/// Spends authorizations.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Remembers what was used here.
    guard: ReplayGuard,
    /// Each address has a share of that.
    spenders: Spenders,
    /// Remembers what was used anywhere, if that is asked for.
    store: Arc<dyn Store>,
    /// `true` if an authorization counts once at all broadcasters on the store together.
    is_shared: bool,
    /// Tells others that an authorization was released; waited for when the broadcaster stops.
    tasks: TaskTracker,
}

impl Replay {
    /// Spends with `guard`, and with all others on `store` if `is_shared`.
    pub(crate) fn new(
        guard: ReplayGuard,
        store: Arc<dyn Store>,
        is_shared: bool,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            guard,
            spenders: Spenders::default(),
            store,
            is_shared,
            tasks,
        }
    }

    /// The guard of this broadcaster alone.
    pub(crate) fn guard(&self) -> &ReplayGuard {
        &self.guard
    }

    /// Spends an authorization here and, where they are shared, at all other broadcasters.
    ///
    /// Fails with [`AuthError::Replayed`] if it was spent before, and with
    /// [`AuthError::Unavailable`] if that cannot be found out or noted down now.
    pub(crate) async fn spend(&self, unspent: Unspent, now: Now) -> Result<Spent, AuthError> {
        // Here first: most that is sent again is sent to the same broadcaster, and costs no query.
        let spent = self.guard.spend(unspent, now).await?;
        let (Some(code), Some(cluster)) = (spent.code(), self.cluster()) else {
            return Ok(spent);
        };
        match cluster.spend(*code.as_bytes(), REPLAY_MEMORY).await {
            Ok(true) => Ok(spent),
            Ok(false) => Err(AuthError::Replayed),
            Err(error) => {
                // Nobody knows whether it counts, so it must be possible to send it again.
                self.guard.release(spent, now);
                tracing::error!(%error, "cannot tell whether an authorization was used elsewhere");
                Err(AuthError::Unavailable("the store does not answer"))
            }
        }
    }

    /// The same for a request from `address`, within its share of what is remembered.
    pub(crate) async fn spend_from(
        &self,
        address: Option<IpAddr>,
        unspent: Unspent,
        now: Now,
    ) -> Result<Spent, AuthError> {
        let Some(address) = address else {
            return self.spend(unspent, now).await;
        };
        if !self.spenders.have_share(address, &self.guard, now) {
            return Err(AuthError::Unavailable(
                "this address has used its share of what the replay guard remembers",
            ));
        }
        let spent = self.spend(unspent, now).await?;
        // Without a code nothing is remembered, and no share is used.
        if spent.code().is_some() {
            self.spenders.spent(address, now);
        }
        Ok(spent)
    }

    /// Takes back that an authorization was spent: here at once, and soon everywhere.
    pub(crate) fn release(&self, spent: Spent, now: Now) {
        if let (Some(code), Some(_)) = (spent.code(), self.cluster()) {
            let (code, store) = (*code.as_bytes(), self.store.clone());
            // Nobody waits for it: until it is done, the repeated request is refused elsewhere.
            self.tasks.spawn(async move {
                if let Some(cluster) = store.cluster()
                    && let Err(error) = cluster.release(code).await
                {
                    tracing::warn!(
                        %error,
                        "cannot tell others that an authorization may be used again"
                    );
                }
            });
        }
        self.guard.release(spent, now);
    }

    /// The others to ask, if authorizations count once at all of them together.
    fn cluster(&self) -> Option<&dyn Cluster> {
        self.store.cluster().filter(|_| self.is_shared)
    }
}

/// Authorizations that a connection spent and the guard still remembers, counted roughly.
#[derive(Debug, Default)]
pub(crate) struct Spending {
    /// Number of authorizations spent in each [`SLICE`] of time.
    slices: VecDeque<(u64, usize)>,
    /// The sum of these.
    count: usize,
}

/// What was spent in this time is forgotten at once. The longer, the fewer numbers are kept for a
/// connection: some thirty for [`REPLAY_MEMORY`].
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

/// The shares of addresses in the same room, for requests over HTTP.
#[derive(Debug, Default)]
struct Spenders(Mutex<HashMap<IpAddr, Spending>>);

impl Spenders {
    /// `true` if requests from `address` may spend one more: see [`Spending::has_share`].
    fn have_share(&self, address: IpAddr, guard: &ReplayGuard, now: Now) -> bool {
        let mut spenders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spenders
            .get_mut(&address)
            .is_none_or(|spending| spending.has_share(guard, now))
    }

    /// One more was spent by a request from `address`. The map keeps an address for as long as the
    /// guard remembers something of it.
    fn spent(&self, address: IpAddr, now: Now) {
        let mut spenders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Only who is new can make the map grow: looking at all costs as much as that.
        if spenders.len() == spenders.capacity() && !spenders.contains_key(&address) {
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

/// The number of the slice of time that `now` is in.
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
    fn known_addresses_have_nobody_looked_for() {
        let spenders = Spenders::default();
        let at = |seconds| Now::from_unix(Duration::from_secs(seconds));
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let full = (0..).find(|number| {
            spenders.spent(address(*number), at(0));
            let spenders = spenders.0.lock().unwrap();
            spenders.len() >= 100 && spenders.len() == spenders.capacity()
        });
        let full = full.unwrap() as usize + 1;
        let len = || spenders.0.lock().unwrap().len();
        // All others may be forgotten by now, which takes as long as there are many.
        spenders.spent(address(0), at(10_000));
        assert_eq!(len(), full);
        spenders.spent(address(u32::MAX), at(10_000));
        assert_eq!(len(), 2);
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
