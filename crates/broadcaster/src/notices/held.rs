//! The notices that are held: in progress, or waiting for a permit at their peer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::url::Origin;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Notices that may be held at once: in progress, or waiting for a permit.
pub(super) const HELD_MAX: usize = 1_024;

/// One peer has this fraction of them: others have their share whatever is due there.
const PEER_SHARE: usize = 4;

/// Time for which a notice keeps its place while it waits for a permit at its peer.
pub(super) const PEER_PATIENCE: Duration = Duration::from_secs(1);

/// Longest time by which a notice is put off that found no place.
pub(super) const POSTPONED_MAX: Duration = Duration::from_secs(600);

/// The notices that are held, and their permits at each peer: one that hangs holds no
/// more than its share.
#[derive(Debug)]
pub(crate) struct HeldNotices {
    /// Notices that have a place, of all peers.
    count: AtomicUsize,
    /// Permits to send, for all peers together.
    pub(super) sending: Semaphore,
    /// Permits of each peer.
    per_peer_max: usize,
    /// By origin; all recovery urls that nothing can be posted to are one peer.
    peers: Mutex<HashMap<Option<Origin>, Arc<PeerNotices>>>,
    /// Notified when a notice is held no more.
    pub(super) ended: tokio::sync::Notify,
}

/// The notices of one peer.
#[derive(Debug)]
pub(super) struct PeerNotices {
    /// Permits to send to this peer.
    pub(super) permits: Semaphore,
    /// The number of its permits, taken ones included.
    permits_max: usize,
    /// Notices that have a permit or wait for one.
    held: AtomicUsize,
    /// By it [`Self::held_max`] and the time of what is put off are reckoned.
    pace: Mutex<Pace>,
}

/// The rate at which a peer takes notices.
#[derive(Debug)]
struct Pace {
    /// Average time of one notice.
    each: Duration,
    /// Time of the next free permit for a notice that finds no place.
    next: Instant,
}

/// Assumed time of a peer's first notice. Too short rather than too long: one that is slower shows
/// that with its first answer.
const EACH_FIRST: Duration = Duration::from_millis(5);

impl HeldNotices {
    /// At most `sending_max` notices are sent at once, and `per_peer_max` to one peer.
    pub(crate) fn new(sending_max: usize, per_peer_max: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            sending: Semaphore::new(sending_max.clamp(1, Semaphore::MAX_PERMITS)),
            per_peer_max: per_peer_max.clamp(1, Semaphore::MAX_PERMITS),
            peers: Mutex::default(),
            ended: tokio::sync::Notify::new(),
        }
    }

    /// The number of notices that may still be taken.
    pub(super) fn room(&self) -> usize {
        HELD_MAX.saturating_sub(self.count.load(Ordering::Relaxed))
    }

    /// The notices of `peer`.
    pub(super) fn peer(&self, peer: Option<Origin>) -> Arc<PeerNotices> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(known) = peers.get(&peer) {
            return known.clone();
        }
        // Nobody waits at these, and nothing is put off.
        peers.retain(|_, it| Arc::strong_count(it) > 1 || it.pace().next > now);
        let new = Arc::new(PeerNotices {
            permits: Semaphore::new(self.per_peer_max),
            permits_max: self.per_peer_max,
            held: AtomicUsize::new(0),
            pace: Mutex::new(Pace {
                each: EACH_FIRST,
                next: now,
            }),
        });
        peers.insert(peer, new.clone());
        new
    }
}

impl PeerNotices {
    /// Notices that may be held: as many as the peer takes before patience ends.
    fn held_max(&self) -> usize {
        let each = self.pace().each.max(Duration::from_millis(1));
        let rounds = PEER_PATIENCE.as_millis() / each.as_millis().max(1);
        let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
        let most = HELD_MAX / PEER_SHARE;
        // The first round has its permits at once, the others wait for one.
        self.permits_max.saturating_mul(rounds + 1).min(most)
    }

    /// The time until a notice that finds no place will have a permit, at the pace of its peer.
    pub(super) fn postpone(&self, now: Instant) -> Duration {
        let permits = u32::try_from(self.permits_max).unwrap_or(u32::MAX);
        let mut pace = self.pace();
        // Each that is put off is due a little after the one before, as if it stood in a line.
        let next = pace.next.max(now + PEER_PATIENCE);
        let next = next.min(now + POSTPONED_MAX);
        pace.next = next + pace.each / permits;
        next - now
    }

    /// A notice took this time, whatever its outcome.
    pub(super) fn took(&self, time: Duration) {
        let mut pace = self.pace();
        // The last few count most: a peer that recovers soon has its full share again.
        pace.each = (pace.each * 3 + time) / 4;
    }

    /// A notice waited for this time and had no permit: those before it take at least as long.
    pub(super) fn took_at_least(&self, time: Duration) {
        let mut pace = self.pace();
        pace.each = pace.each.max(time);
    }

    /// Goes on after a panic: any pace is corrected by the notices to come.
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one notice, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// Counts one less when this is dropped, and lets the next look begin.
    pub(super) held: Arc<HeldNotices>,
    /// The peer whose share it is part of.
    pub(super) peer: Arc<PeerNotices>,
}

impl Place {
    /// Takes a place for a notice to `peer`; `None` if the peer has its share.
    pub(super) fn take(held: &Arc<HeldNotices>, peer: &Arc<PeerNotices>) -> Option<Self> {
        // Only one look at a time takes places, so nobody else does between these two lines.
        if peer.held.load(Ordering::Relaxed) >= peer.held_max() {
            return None;
        }
        peer.held.fetch_add(1, Ordering::Relaxed);
        held.count.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            held: held.clone(),
            peer: peer.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peer.held.fetch_sub(1, Ordering::Relaxed);
        self.held.count.fetch_sub(1, Ordering::Relaxed);
        self.held.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn what_finds_no_place_is_put_off_at_the_pace_of_its_peer() {
        let now = Instant::now();
        let peer = PeerNotices {
            permits: Semaphore::new(8),
            permits_max: 8,
            held: AtomicUsize::new(0),
            pace: Mutex::new(Pace {
                each: EACH_FIRST,
                next: now,
            }),
        };
        assert_eq!(peer.held_max(), HELD_MAX / PEER_SHARE);
        let last = |peer: &PeerNotices, count: usize| {
            let all = (0..count).map(|_| peer.postpone(now));
            all.last().unwrap().as_secs()
        };
        assert_eq!(last(&peer, 16_000), 10, "a quick one is soon through");
        for _ in 0..100 {
            peer.took(Duration::from_secs(10));
        }
        assert_eq!(peer.held_max(), 8);
        assert!((100..115).contains(&last(&peer, 80)));
        assert_eq!(last(&peer, 20_000), 600, "and no later than this");
    }

    #[tokio::test]
    async fn a_peer_has_its_share_of_the_places_and_gives_them_back() {
        let held = Arc::new(HeldNotices::new(256, 8));
        let (one, other) = (held.peer(None), held.peer(None));
        assert!(Arc::ptr_eq(&one, &other), "one peer has one share");
        let places: Vec<_> = std::iter::from_fn(|| Place::take(&held, &one)).collect();
        assert_eq!(places.len(), HELD_MAX / PEER_SHARE);
        assert_eq!(held.room(), HELD_MAX - places.len());
        drop(places);
        assert_eq!(held.room(), HELD_MAX);
        assert!(Place::take(&held, &one).is_some());
    }
}
