//! Pending work: the bound on deliveries that wait or are in progress, and on notifications that
//! are not matched at once.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::admission::overloaded::{Overloaded, Rejections};

/// The deliveries of all notifications that wait or are in progress. They bound memory: each holds
/// its row and a share of its message until its peer has answered or its time is over.
#[derive(Debug)]
pub(crate) struct PendingDeliveries {
    /// One for each delivery that may wait or be in progress.
    places: Arc<Semaphore>,
    /// The number of all places.
    places_max: u32,
    /// One for each notification that is not matched at once.
    unmatched: Arc<Semaphore>,
    /// Counts what is refused.
    rejections: Arc<Rejections>,
}

/// Places among all pending deliveries, given back when this is dropped.
#[derive(Debug)]
#[must_use = "the places are given back when this is dropped"]
pub(crate) struct Reservation(
    #[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

/// Room for one notification that is not matched at once, given back when this is dropped.
#[derive(Debug)]
#[must_use = "the room is given back when this is dropped"]
pub(crate) struct Unmatched(
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

/// Notifications that may wait, with their messages, for globs that take long to match.
const UNMATCHED_MAX: usize = 1_024;

/// One peer has this fraction of all places, so that others have some whatever it does.
const PEER_SHARE: usize = 4;

/// Nothing here closes a semaphore, so waiting for one cannot fail.
const NEVER_CLOSED: &str = "the semaphore is never closed";

impl PendingDeliveries {
    /// At most `deliveries_max` pending deliveries; `rejections` counts what is refused.
    pub(crate) fn new(deliveries_max: NonZeroUsize, rejections: Arc<Rejections>) -> Self {
        // Permits of many are taken with a number of 32 bits.
        let places_max = u32::try_from(deliveries_max.get().min(Semaphore::MAX_PERMITS));
        let places_max = places_max.unwrap_or(u32::MAX);
        Self {
            places: Arc::new(Semaphore::new(places_max as usize)),
            places_max,
            unmatched: Arc::new(Semaphore::new(UNMATCHED_MAX)),
            rejections,
        }
    }

    /// Deliveries that wait or are in progress.
    pub(crate) fn len(&self) -> usize {
        self.places_max as usize - self.places.available_permits()
    }

    /// Places that all deliveries to one peer may have together.
    pub(crate) fn share_of_peer(&self) -> usize {
        (self.places_max as usize / PEER_SHARE).max(1)
    }

    /// Reserves places for `deliveries` deliveries, if there are enough. A notification that is
    /// alone always gets them.
    pub(crate) fn try_reserve(&self, deliveries: usize) -> Result<Reservation, Overloaded> {
        let reservation = self.reserve_further(deliveries);
        reservation.ok_or_else(|| self.rejections.count(Overloaded::Deliveries))
    }

    /// The same for deliveries of a notification that is in progress already: without room they are
    /// missed, and nobody is turned away.
    pub(crate) fn reserve_further(&self, deliveries: usize) -> Option<Reservation> {
        let places = self.places.clone();
        let permit = places.try_acquire_many_owned(self.needed(deliveries));
        permit.ok().map(Reservation)
    }

    /// Reserves places as [`PendingDeliveries::try_reserve`] does, when there are enough.
    pub(crate) async fn reserve(&self, deliveries: usize) -> Reservation {
        let places = self.places.clone();
        let permit = places.acquire_many_owned(self.needed(deliveries)).await;
        Reservation(permit.expect(NEVER_CLOSED))
    }

    /// Takes room for a notification that is not matched at once, if there is some.
    pub(crate) fn try_queue_to_match(&self) -> Result<Unmatched, Overloaded> {
        let permit = self.unmatched.clone().try_acquire_owned();
        let permit = permit.map_err(|_| self.rejections.count(Overloaded::Matching))?;
        Ok(Unmatched(permit))
    }

    /// Takes room for a notification that is not matched at once, when there is some.
    pub(crate) async fn queue_to_match(&self) -> Unmatched {
        let permit = self.unmatched.clone().acquire_owned().await;
        Unmatched(permit.expect(NEVER_CLOSED))
    }

    /// The places that `deliveries` deliveries take: no more than there are, so that one large
    /// notification can be sent at all.
    fn needed(&self, deliveries: usize) -> u32 {
        let deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
        deliveries.min(self.places_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deliveries_have_places_and_one_notification_alone_always_has() {
        let deliveries_max = NonZeroUsize::new(10).expect("not zero");
        let pending = PendingDeliveries::new(deliveries_max, Arc::default());
        let pending = Arc::new(pending);
        let all = pending.try_reserve(1_000_000).expect("nothing is pending");
        assert_eq!(pending.len(), 10);
        let refused = pending.try_reserve(1).expect_err("there is no room");
        assert_eq!(refused, Overloaded::Deliveries);
        drop(all);
        let most = pending.try_reserve(8).expect("there is room");
        assert!(pending.try_reserve(3).is_err());
        assert!(pending.reserve_further(3).is_none());
        let waiting = tokio::spawn({
            let pending = pending.clone();
            async move { pending.reserve(3).await.0.num_permits() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(pending.rejections.take(), 2, "who waits is not turned away");
        drop(most);
        assert_eq!(waiting.await.expect("it does not panic"), 3);
    }

    #[tokio::test]
    async fn only_some_notifications_wait_to_be_matched() {
        let deliveries_max = NonZeroUsize::new(10).expect("not zero");
        let pending = PendingDeliveries::new(deliveries_max, Arc::default());
        let waiting = (0..UNMATCHED_MAX).map(|_| pending.try_queue_to_match());
        let mut waiting = waiting
            .collect::<Result<Vec<_>, _>>()
            .expect("there is room");
        let refused = pending.try_queue_to_match().expect_err("there is none");
        assert_eq!(refused, Overloaded::Matching);
        waiting.pop();
        let _further = pending.queue_to_match().await;
        assert!(pending.try_queue_to_match().is_err());
    }
}
