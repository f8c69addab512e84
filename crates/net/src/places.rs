//! A bounded number of places for what comes from many addresses: one address leaves some free, and
//! a holder that does nothing makes room for a newcomer.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::party::{AddressKey, Party};

/// Places of which at most so many are held. Clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places_max: usize,
    table: Mutex<Table>,
    /// Notified when a place is given back.
    left: Notify,
    evicted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    held: usize,
    /// Some may hold no place, and yet things that were taken in their name.
    addresses: HashMap<AddressKey, Address>,
    /// How many addresses there may be before those of which nothing is left are forgotten.
    addresses_before_sweep: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Address {
    party: Party,
    /// Oldest first.
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// The address holds as many places as one address may, and makes use of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one address may not hold more places")]
pub struct ShareTaken;

/// A place that is held, until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    key: AddressKey,
    id: u64,
    seat: Arc<Seat>,
    party: Party,
}

/// An address holds at most so many times as many places as are left free: three quarters of all if
/// it is the only one, and there always is a place for one more address.
const HELD_PER_FREE: usize = 3;

/// How many addresses are kept without looking whether anything is left of them.
const ADDRESSES_BEFORE_SWEEP_MIN: usize = 64;

/// How many holders are evicted at once, at most: to look for them takes longer than to evict them.
const EVICTED_AT_ONCE_MAX: usize = 16;

/// How long a newcomer waits for those who were evicted in its favour, or for anybody who can be.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Places {
    /// Places for `places_max` holders, one at least.
    pub fn new(places_max: usize) -> Self {
        Self(Arc::new(Shared {
            places_max: places_max.max(1),
            table: Mutex::default(),
            left: Notify::new(),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Places held.
    pub fn held(&self) -> usize {
        self.table().held
    }

    /// Holders that were evicted to make room.
    pub fn evicted(&self) -> u64 {
        self.0.evicted.load(Ordering::Relaxed)
    }

    /// Newcomers refused because of their address.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// A place for somebody at `address`. If there is none for that address, the oldest who can be
    /// evicted at the address that holds most makes room, those last for whom an authorization ever
    /// vouched; if nobody can be, it waits for a place as long as all are held.
    pub async fn enter(&self, address: IpAddr) -> Result<Place, ShareTaken> {
        let mut has_evicted = false;
        loop {
            let left = self.0.left.notified();
            match self.try_enter(address, &mut has_evicted) {
                Entering::Entered(place) => return Ok(place),
                Entering::Refused => {
                    self.0.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(ShareTaken);
                }
                Entering::Waits => {}
            }
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep(LOOK_AGAIN) => has_evicted = false,
            }
        }
    }

    /// Evicts some who can be, although there are places.
    pub(crate) fn make_room(&self) {
        let evicted = self.table().evict(0, QUIET_MIN);
        self.0.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
    }

    fn try_enter(&self, address: IpAddr, has_evicted: &mut bool) -> Entering {
        let key = AddressKey::of(address);
        let mut table = self.table();
        let free = self.0.places_max.saturating_sub(table.held);
        let own = table.held_by(key);
        let is_within_share = own <= HELD_PER_FREE * free;
        if free > 0 && (is_within_share || *has_evicted) {
            return Entering::Entered(self.seat(&mut table, key, address));
        }
        if *has_evicted {
            return Entering::Waits;
        }
        // A newcomer that finds a place free does not keep others waiting until somebody has been
        // silent for long enough.
        let quiet_min = if free > 0 { Duration::ZERO } else { QUIET_MIN };
        let evicted = table.evict(own, quiet_min);
        self.0.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        *has_evicted = evicted > 0;
        match evicted {
            0 if free > 0 => Entering::Refused,
            _ => Entering::Waits,
        }
    }

    fn seat(&self, table: &mut Table, key: AddressKey, address: IpAddr) -> Place {
        let (seat, id) = (Arc::new(Seat::default()), table.next_id);
        table.next_id += 1;
        table.held += 1;
        table.forget_gone(key);
        let known = table.addresses.entry(key).or_insert_with(|| Address {
            party: Party::address(address),
            seats: BTreeMap::new(),
        });
        known.seats.insert(id, seat.clone());
        Place {
            places: self.clone(),
            key,
            id,
            seat,
            party: known.party.connection(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Entering {
    Entered(Place),
    Waits,
    Refused,
}

impl Table {
    /// Makes sure that `key` can be added without keeping ever more addresses.
    fn forget_gone(&mut self, key: AddressKey) {
        let max = self.addresses_before_sweep.max(ADDRESSES_BEFORE_SWEEP_MIN);
        if self.addresses.len() < max || self.addresses.contains_key(&key) {
            return;
        }
        self.addresses
            .retain(|_, it| !it.seats.is_empty() || it.party.is_shared());
        self.addresses_before_sweep = self.addresses.len() * 2;
    }

    fn held_by(&self, key: AddressKey) -> usize {
        self.addresses.get(&key).map_or(0, |it| it.seats.len())
    }

    /// Evicts the oldest who can be at the address that holds most, of those that hold at least
    /// `held_min`; who has said nothing for less than `quiet_min` cannot. Returns how many.
    fn evict(&self, held_min: usize, quiet_min: Duration) -> usize {
        let mut addresses: Vec<_> = self.addresses.values().map(|it| &it.seats).collect();
        addresses.retain(|seats| seats.len() >= held_min);
        addresses.sort_by_key(|seats| std::cmp::Reverse(seats.len()));
        let now = Instant::now();
        // First those for whom nothing ever vouched.
        let known_or_not = [false, true].into_iter();
        for (is_known, seats) in
            known_or_not.flat_map(|it| addresses.iter().map(move |of| (it, of)))
        {
            let evictable = seats.values().filter_map(|seat| {
                if seat.was_vouched.load(Ordering::Relaxed) != is_known {
                    return None;
                }
                let (doing, since) = seat.current();
                let is_evictable = match doing {
                    Doing::Head | Doing::Idle => now >= since + quiet_min,
                    Doing::Asked => now >= since + ASKED_MAX,
                    Doing::Busy | Doing::Evicted => false,
                };
                is_evictable.then_some((since, seat))
            });
            let mut evictable: Vec<_> = evictable.collect();
            evictable.sort_by_key(|(since, _)| *since);
            evictable.truncate((seats.len() / 64).clamp(1, EVICTED_AT_ONCE_MAX));
            if !evictable.is_empty() {
                let evicted = evictable.into_iter().filter(|(_, seat)| seat.evict());
                return evicted.count();
            }
        }
        0
    }
}

impl Place {
    /// The connection that holds it.
    pub fn party(&self) -> &Party {
        &self.party
    }

    /// Waits until the place must be given up for somebody else.
    pub fn evicted(&self) -> impl Future<Output = ()> + Send + 'static {
        let seat = self.seat.clone();
        async move {
            while seat.current().0 != Doing::Evicted {
                seat.changed.notified().await;
            }
        }
    }

    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table();
        table.held -= 1;
        if let Some(address) = table.addresses.get_mut(&self.key) {
            address.seats.remove(&self.id);
        }
        drop(table);
        self.places.0.left.notify_waiters();
    }
}

/// What a holder of a place is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// The head of a request is arriving, or the first one is awaited.
    Head,
    /// A request is read and answered of which nobody knows yet who sent it.
    Asked,
    /// A request that somebody vouches for is answered.
    Busy,
    /// The next request is awaited.
    Idle,
    /// The place is to be given up.
    Evicted,
}

/// Where all places are held, who has said nothing for less than this is not evicted: its request
/// may be on its way.
const QUIET_MIN: Duration = Duration::from_millis(100);

/// Whose request takes longer to be read and judged than this can be evicted.
const ASKED_MAX: Duration = Duration::from_secs(1);

/// What the holder of a place is doing, and since when. Nobody waits for anybody to read or to
/// change that.
#[derive(Debug)]
pub(crate) struct Seat {
    began: Instant,
    /// Milliseconds from `began`, and in the lowest bits a [`Doing`].
    state: AtomicU64,
    /// Whether an authorization vouched for a request.
    was_vouched: AtomicBool,
    /// Notified when a head begins, which brings a deadline nearer, and when it is evicted.
    pub(crate) changed: Notify,
}

const DOING_BITS: u32 = 3;

impl Default for Seat {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            state: AtomicU64::new(Doing::Head as u64),
            was_vouched: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }
}

impl Seat {
    pub(crate) fn current(&self) -> (Doing, Instant) {
        let state = self.state.load(Ordering::Acquire);
        let since = self.began + Duration::from_millis(state >> DOING_BITS);
        (doing(state), since)
    }

    /// From now on it does this, unless it is evicted.
    pub(crate) fn enter(&self, doing: Doing) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = millis << DOING_BITS | doing as u64;
        self.replace(next);
    }

    /// Whoever sent the request is known.
    pub(crate) fn vouched(&self) {
        self.was_vouched.store(true, Ordering::Relaxed);
        if doing(self.state.load(Ordering::Acquire)) == Doing::Asked {
            self.enter(Doing::Busy);
        }
    }

    /// Bytes arrived: between two requests they begin the head of the next.
    pub(crate) fn bytes_arrived(&self) {
        if doing(self.state.load(Ordering::Acquire)) == Doing::Idle {
            self.enter(Doing::Head);
            self.changed.notify_one();
        }
    }

    /// Whether it was not evicted before.
    fn evict(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let evicted = state >> DOING_BITS << DOING_BITS | Doing::Evicted as u64;
        // If it does something else by now, it stays.
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let is_evicted = self
            .state
            .compare_exchange(state, evicted, success, failure)
            .is_ok();
        if is_evicted {
            self.changed.notify_one();
        }
        is_evicted
    }

    fn replace(&self, next: u64) {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let _ = self.state.fetch_update(success, failure, |state| {
            (doing(state) != Doing::Evicted).then_some(next)
        });
    }
}

fn doing(state: u64) -> Doing {
    match state & ((1 << DOING_BITS) - 1) {
        0 => Doing::Head,
        1 => Doing::Asked,
        2 => Doing::Busy,
        3 => Doing::Idle,
        _ => Doing::Evicted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const THIRD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));

    async fn busy(places: &Places, address: IpAddr) -> Place {
        let place = places.enter(address).await.unwrap();
        place.seat().enter(Doing::Busy);
        place
    }

    /// Somebody who gives way when evicted.
    fn silent(place: Place) -> tokio::task::JoinHandle<()> {
        let evicted = place.evicted();
        tokio::spawn(async move {
            evicted.await;
            drop(place);
        })
    }

    #[tokio::test(start_paused = true)]
    async fn share_of_places_leaves_some_to_other_addresses() {
        let places = Places::new(100);
        let mut held = Vec::new();
        while let Ok(place) = places.enter(ONE).await {
            place.seat().enter(Doing::Busy);
            held.push(place);
        }
        assert_eq!(held.len(), 76);
        let mut others = Vec::new();
        while let Ok(place) = places.enter(OTHER).await {
            place.seat().enter(Doing::Busy);
            others.push(place);
        }
        assert_eq!(others.len(), 19);
        assert_eq!(places.refused(), 2);
        busy(&places, THIRD).await;
        // Between requests it makes room for its own, and is not evicted for nothing.
        held[0].seat().enter(Doing::Idle);
        tokio::time::advance(QUIET_MIN).await;
        let first = silent(held.remove(0));
        held.push(busy(&places, ONE).await);
        first.await.unwrap();
        assert_eq!((places.held(), places.evicted()), (95, 1));
        drop((held, others));
        assert_eq!(places.held(), 0);
    }

    #[tokio::test]
    async fn an_address_is_known_as_long_as_something_is_taken_in_its_name() {
        let places = Places::new(100_000);
        let place = places.enter(ONE).await.unwrap();
        let party = place.party().clone();
        drop(place);
        for host in 0..10_000_u32 {
            let address = IpAddr::V4((0x0a00_0000 + host).into());
            places.enter(address).await.unwrap();
        }
        let known = places.table().addresses.len();
        assert!(known <= 2 * ADDRESSES_BEFORE_SWEEP_MIN, "{known}");
        let again = places.enter(ONE).await.unwrap();
        assert!(again.party().is_of_one_address_with(&party));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_idle_holders_go_first_the_oldest_of_the_address_with_most() {
        let places = Places::new(8);
        let mut one = Vec::new();
        for _ in 0..6 {
            tokio::time::advance(QUIET_MIN).await;
            one.push(silent(places.enter(ONE).await.unwrap()));
        }
        let other = [
            silent(places.enter(OTHER).await.unwrap()),
            silent(places.enter(THIRD).await.unwrap()),
        ];
        assert_eq!(places.held(), 8);
        let newcomer = places.enter([192, 0, 2, 4].into()).await.unwrap();
        one.remove(0).await.unwrap();
        assert!(one.iter().chain(&other).all(|it| !it.is_finished()));
        drop(newcomer);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_shown_itself_goes_last() {
        let places = Places::new(4);
        let known = places.enter(ONE).await.unwrap();
        known.seat().enter(Doing::Asked);
        known.seat().vouched();
        known.seat().enter(Doing::Idle);
        let known = silent(known);
        for _ in 0..20 {
            tokio::time::advance(QUIET_MIN).await;
            silent(places.enter(ONE).await.unwrap());
        }
        assert!(!known.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_busy_is_waited_for_and_who_never_shows_itself_is_not() {
        let places = Places::new(1);
        let place = busy(&places, ONE).await;
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.enter(OTHER).await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished());
        drop(place);
        let place = waiting.await.unwrap().unwrap();
        place.seat().enter(Doing::Asked);
        let (began, asked) = (Instant::now(), silent(place));
        places.enter(ONE).await.unwrap();
        assert!(began.elapsed() >= ASKED_MAX);
        asked.await.unwrap();
    }
}
