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

/// A bounded number of places. Clones share them.
///
/// ```
/// use httppubsub_net::Places;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let places = Places::new(4);
/// let address = [192, 0, 2, 7].into();
/// let first = places.enter(address).await.expect("all are free");
/// assert_eq!(places.held(), 1);
/// drop(first);
/// assert_eq!(places.held(), 0);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

/// Shared by all clones.
#[derive(Debug)]
struct Shared {
    /// At least 1.
    places_max: usize,
    /// Held for as long as it takes to look through the holders, never across a wait.
    table: Mutex<Table>,
    /// Notified when a place is given back.
    left: Notify,
    /// Holders that had to leave, for metrics.
    evicted: AtomicU64,
    /// Newcomers that were turned away, for metrics.
    refused: AtomicU64,
}

/// Who holds what.
#[derive(Debug, Default)]
struct Table {
    /// Places of all addresses together.
    held: usize,
    /// Some may hold no place, and yet things that were taken in their name.
    addresses: HashMap<AddressKey, Address>,
    /// Number of addresses at which unused ones are forgotten.
    addresses_before_sweep: usize,
    /// Number of the next holder: in its order they are looked for.
    next_id: u64,
}

/// An address that holds places, or held some a while ago.
#[derive(Debug)]
struct Address {
    /// The share of the address in memory and disk, which outlives its connections while anything
    /// is held in its name.
    party: Party,
    /// Oldest first.
    seats: BTreeMap<u64, Arc<Seat>>,
    /// The moment at which its newcomers may make [`EVICTIONS_AT_ONCE`] holders leave again.
    rested_at: Instant,
}

/// The address holds as many places as one address may, and makes use of all, or its newcomers made
/// others leave too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one address may not hold more places")]
pub struct ShareTaken;

/// A place that is held, until this is dropped.
#[derive(Debug)]
pub struct Place {
    /// Gets the place back.
    places: Places,
    /// The address under which it is found in the table.
    key: AddressKey,
    /// Its number there.
    id: u64,
    /// Says what the holder does, for a newcomer that looks for one to evict.
    seat: Arc<Seat>,
    /// The connection, for what is taken in its name.
    party: Party,
}

/// Places that an address may hold for each place left free: three quarters of all if
/// it is the only one, and there always is a place for one more address.
const HELD_PER_FREE: usize = 3;

/// Addresses kept without looking whether anything is left of them.
const ADDRESSES_BEFORE_SWEEP_MIN: usize = 64;

/// Holders evicted at once, at most: to look for them takes longer than to evict them.
const EVICTED_AT_ONCE_MAX: usize = 16;

/// Holders that the newcomers of one address make leave at once, and the time for each further one.
/// Evicting a holder and serving its successor takes ten times as long as refusing that, and a peer
/// that makes each evicted connection anew would have it done all the time. 64 a second are more
/// than an address needs that leaves connections idle: its share is evicted by time before.
const EVICTIONS_AT_ONCE: u32 = 128;
/// The time in which one more may be made to leave.
const EVICTION_INTERVAL: Duration = Duration::from_micros(1_000_000 / 64);

/// Time a newcomer waits for evicted holders to leave, or for one that can be evicted.
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

    /// The most places that can be held.
    pub(crate) fn max(&self) -> usize {
        self.0.places_max
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
    /// evicted at the address that holds most makes room, the ones that an authorization ever
    /// vouched for last; if nobody can be, it waits for a place as long as all are held. Newcomers
    /// of one address make at most 128 leave at once, and 64 a second: others are refused.
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
        let evicted = self.table().evict(0, QUIET_MIN, EVICTED_AT_ONCE_MAX);
        self.0.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
    }

    /// A place if there is one for this address now; otherwise some holders are made to leave,
    /// unless they were before (`has_evicted`) and have not gone yet.
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
        let now = Instant::now();
        let allowed = table.evictions_allowed(key, now);
        if allowed == 0 {
            return Entering::Refused;
        }
        // A newcomer that finds a place free does not keep others waiting until somebody has been
        // silent for long enough.
        let quiet_min = if free > 0 { Duration::ZERO } else { QUIET_MIN };
        let evicted = table.evict(own, quiet_min, allowed);
        table.made_leave(key, evicted, now);
        self.0.evicted.fetch_add(evicted as u64, Ordering::Relaxed);
        *has_evicted = evicted > 0;
        match evicted {
            0 if free > 0 => Entering::Refused,
            _ => Entering::Waits,
        }
    }

    /// Writes down that somebody at `address` holds one more place.
    fn seat(&self, table: &mut Table, key: AddressKey, address: IpAddr) -> Place {
        let (seat, id) = (Arc::new(Seat::default()), table.next_id);
        table.next_id += 1;
        table.held += 1;
        table.forget_gone(key);
        let known = table.addresses.entry(key).or_insert_with(|| Address {
            party: Party::address(address),
            seats: BTreeMap::new(),
            rested_at: Instant::now(),
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

    /// A thread that panicked with the lock had changed at most one entry.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome of one attempt to enter.
enum Entering {
    /// There was one.
    Entered(Place),
    /// Somebody was made to leave and has not gone yet, or nobody can be made to.
    Waits,
    /// The address holds its share and none of its own can be made to leave, or too many were.
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

    /// Places that an address holds.
    fn held_by(&self, key: AddressKey) -> usize {
        self.addresses.get(&key).map_or(0, |it| it.seats.len())
    }

    /// Holders that newcomers of `key` may make leave now.
    fn evictions_allowed(&self, key: AddressKey, now: Instant) -> usize {
        // One that holds nothing has made nobody leave.
        let Some(known) = self.addresses.get(&key) else {
            return EVICTED_AT_ONCE_MAX;
        };
        let to_rest = known.rested_at.saturating_duration_since(now);
        let left = (EVICTION_INTERVAL * EVICTIONS_AT_ONCE).saturating_sub(to_rest);
        let allowed = left.as_micros() / EVICTION_INTERVAL.as_micros();
        usize::try_from(allowed).map_or(EVICTED_AT_ONCE_MAX, |it| it.min(EVICTED_AT_ONCE_MAX))
    }

    /// Newcomers of `key` made this many leave. To look in vain counts as one: it takes as long.
    fn made_leave(&mut self, key: AddressKey, evicted: usize, now: Instant) {
        if let Some(known) = self.addresses.get_mut(&key) {
            let evicted = u32::try_from(evicted.max(1)).unwrap_or(u32::MAX);
            known.rested_at = known.rested_at.max(now) + EVICTION_INTERVAL * evicted;
        }
    }

    /// Evicts the oldest who can be at the address that holds most, of the addresses with at least
    /// `held_min`; who has said nothing for less than `quiet_min` cannot. Returns how many, at most
    /// `evicted_max`.
    fn evict(&self, held_min: usize, quiet_min: Duration, evicted_max: usize) -> usize {
        let mut addresses: Vec<_> = self.addresses.values().map(|it| &it.seats).collect();
        addresses.retain(|seats| seats.len() >= held_min);
        addresses.sort_by_key(|seats| std::cmp::Reverse(seats.len()));
        let now = Instant::now();
        // First the holders that no authorization ever vouched for.
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
            evictable.truncate((seats.len() / 64).clamp(1, evicted_max.max(1)));
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

    /// Places that are held by the address of this one.
    pub(crate) fn held_by_address(&self) -> usize {
        self.places.table().held_by(self.key)
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

    /// The part of it that says what the holder does.
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

/// Activity of the holder of a place.
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

/// A holder that has been silent for less than this is not evicted where all places are held: its
/// request may be on its way.
const QUIET_MIN: Duration = Duration::from_millis(100);

/// Whose request takes longer to be read and judged than this can be evicted.
const ASKED_MAX: Duration = Duration::from_secs(1);

/// Activity of the holder of a place, and since when. Nobody waits for anybody to read or to
/// change that.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Taken when the place was; all times are counted from here, to fit into one number.
    began: Instant,
    /// Milliseconds from `began`, and in the lowest bits a [`Doing`].
    state: AtomicU64,
    /// `true` once an authorization vouched for a request.
    was_vouched: AtomicBool,
    /// Notified when a head begins, which brings a deadline nearer, and when it is evicted.
    pub(crate) changed: Notify,
}

/// Enough for the variants of [`Doing`]. The time and they are one number, so that both change at
/// once without a lock: each read of a connection looks at them.
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
    /// The activity, and since when it goes on.
    pub(crate) fn current(&self) -> (Doing, Instant) {
        let state = self.state.load(Ordering::Acquire);
        let since = self.began + Duration::from_millis(state >> DOING_BITS);
        (doing(state), since)
    }

    /// From now on it does this; `false` if it was evicted before, which is the end.
    pub(crate) fn enter(&self, doing: Doing) -> bool {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = millis << DOING_BITS | doing as u64;
        self.replace(next)
    }

    /// The sender of the request is known.
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

    /// Evicts the holder; `false` if it was evicted before or has begun something else.
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

    /// Puts `next` in place of the state, unless the holder was evicted.
    fn replace(&self, next: u64) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let replaced = self.state.fetch_update(success, failure, |state| {
            (doing(state) != Doing::Evicted).then_some(next)
        });
        replaced.is_ok()
    }
}

/// The activity in the lowest bits of a state.
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

    #[tokio::test(start_paused = true)]
    async fn newcomers_of_an_address_make_some_leave_at_once() {
        let places = Places::new(400);
        for _ in 0..301 {
            silent(places.enter(ONE).await.unwrap());
        }
        assert_eq!((places.held(), places.evicted()), (301, 0));
        let replaces = async || {
            let before = places.evicted();
            while let Ok(place) = places.enter(ONE).await {
                silent(place);
            }
            places.evicted() - before
        };
        assert_eq!(replaces().await, u64::from(EVICTIONS_AT_ONCE));
        assert_eq!(replaces().await, 0);
        // Others are none of that.
        silent(places.enter(OTHER).await.unwrap());
        tokio::time::advance(EVICTION_INTERVAL * 10).await;
        assert_eq!(replaces().await, 10);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(replaces().await, u64::from(EVICTIONS_AT_ONCE));
    }

    #[tokio::test(start_paused = true)]
    async fn looking_in_vain_for_a_holder_that_may_leave_is_not_free() {
        let places = Places::new(8);
        let mut held = Vec::new();
        for _ in 0..7 {
            held.push(busy(&places, ONE).await);
        }
        for _ in 0..EVICTIONS_AT_ONCE {
            places.enter(ONE).await.unwrap_err();
        }
        held[0].seat().enter(Doing::Idle);
        places.enter(ONE).await.unwrap_err();
        assert_eq!(places.evicted(), 0);
        tokio::time::advance(EVICTION_INTERVAL).await;
        silent(held.remove(0));
        places.enter(ONE).await.unwrap();
        assert_eq!(places.evicted(), 1);
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
