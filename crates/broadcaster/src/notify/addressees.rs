//! The addressees of a notification, and their places at their peers.
//!
//! A peer has a bounded number of places, so that one that hangs cannot hold all deliveries of this
//! broadcaster. The addressees of a notification reserve places at their peers when they are
//! matched: what finds none is missed at once instead of waiting in memory for a peer that is
//! behind already. A notification that is alone at a peer always has places there for all.

use std::ops::Range;
use std::sync::Arc;

use httppubsub_net::outbound::Target;

use crate::admission::pending::{PendingDeliveries, Reservation};
use crate::index::groups::Groups;

/// The addressees of a notification, and the places that they have at their peers. The places are
/// given back when this is dropped.
pub(super) struct Addressees {
    /// The rows, in the order in which they are delivered to.
    pub(super) groups: Arc<Groups>,
    /// The rows of each peer: those with places, and after them those of the same peer without.
    pub(super) peers: Vec<OfPeer>,
    /// Places that they need among those of all notifications.
    pub(super) places: usize,
}

/// Rows of one peer that have places there, or that have none.
#[derive(Clone)]
pub(super) struct OfPeer {
    /// The rows that are not delivered to yet, by their indexes among all.
    rows: Range<usize>,
    /// The group of the first.
    group: usize,
    /// Number of deliveries that the rows are, when none has begun.
    pub(super) deliveries: usize,
    /// `true` if there were places for them. All others are missed at once.
    pub(super) has_places: bool,
    /// A row of the url that need not be tried.
    pub(super) given_up: Option<usize>,
}

/// Rows that have the same outcome, by their indexes.
#[derive(Clone, Debug)]
pub(super) enum Next {
    /// One delivery is for them.
    Deliver(Range<usize>),
    /// There was no place for them at their peer.
    NoPlace(Range<usize>),
    /// Another row of their url was not tried, and neither would they be.
    GivenUp(Range<usize>),
    /// The deadline is over.
    TooLate(Range<usize>),
}

impl Next {
    /// The rows, by their indexes among all of the notification.
    pub(super) fn rows(&self) -> &Range<usize> {
        match self {
            Self::Deliver(rows) | Self::NoPlace(rows) => rows,
            Self::GivenUp(rows) | Self::TooLate(rows) => rows,
        }
    }

    /// Number of deliveries that they would have been.
    pub(super) fn deliveries(&self) -> usize {
        match self {
            Self::Deliver(_) => 1,
            missed => missed.rows().len(),
        }
    }
}

impl OfPeer {
    /// The first row that is not delivered to yet, by its index among all.
    pub(super) fn first_row(&self) -> Option<usize> {
        (!self.rows.is_empty()).then_some(self.rows.start)
    }

    /// The next rows to deliver to; if delivery is useless, all rows of one notice.
    pub(super) fn next(&mut self, groups: &Groups, is_late: impl Fn() -> bool) -> Option<Next> {
        if self.rows.is_empty() {
            return None;
        }
        let (first, all) = (self.rows.start, groups.rows());
        // A group has one recovery url, so one notice tells of all that is left of it.
        let group_end = groups.end(self.group).min(self.rows.end);
        let is_given_up = |at: usize| Arc::ptr_eq(&all[at].subscriber, &all[first].subscriber);
        let next = if !self.has_places {
            Next::NoPlace(first..group_end)
        } else if self.given_up.is_some_and(is_given_up) {
            Next::GivenUp(first..group_end)
        // A single row is tried even late: the poster refuses it by the same deadline.
        } else if group_end > first + 1 && is_late() {
            Next::TooLate(first..group_end)
        } else if group_end == first + 1 || all[first].is_one_copy() {
            Next::Deliver(first..group_end)
        } else {
            Next::Deliver(first..first + 1)
        };
        // Taken now, so that the next call finds what comes after them.
        self.rows.start = next.rows().end;
        if self.rows.start == group_end {
            self.group += 1;
        }
        Some(next)
    }
}

impl Addressees {
    /// Those of `groups`. Beyond `share` deliveries that are pending at a peer, further ones have
    /// no place there; of one notification alone all have one, which count for no more than
    /// `share`.
    pub(super) fn new(groups: Arc<Groups>, share: usize) -> Self {
        Self::beside(groups, share, |_| 0)
    }

    /// The same where the notification has places at its peers already, as many as `own` says of
    /// one.
    fn beside(groups: Arc<Groups>, share: usize, own: impl Fn(&Target) -> usize) -> Self {
        let mut peers = Vec::with_capacity(groups.peers().len());
        let mut places = 0;
        for of_peer in groups.peers() {
            let first = of_peer.groups.start;
            let (begin, end) = (groups.begin(first), groups.end(of_peer.groups.end - 1));
            let wanted = of_peer.deliveries;
            let target = groups.rows()[begin].target();
            // Where nothing can be posted, deliveries fail at once and wait for nobody.
            let reserved = target.map_or(wanted, |it| it.reserve(wanted, own(it), share));
            // More than its share it has only where it is alone, and then nobody else needs them.
            places += reserved.min(share);
            let (group, middle) = match reserved < wanted {
                true => after(&groups, first, reserved),
                false => (of_peer.groups.end, end),
            };
            let parts = [
                (first, begin..middle, reserved, true),
                (group, middle..end, wanted - reserved, false),
            ];
            for (group, rows, deliveries, has_places) in parts {
                if !rows.is_empty() {
                    peers.push(OfPeer {
                        rows,
                        group,
                        deliveries,
                        has_places,
                        given_up: None,
                    });
                }
            }
        }
        Self {
            groups,
            peers,
            places,
        }
    }

    /// Those of `groups`, which are found while `self` are delivered to, with their places. Where
    /// there are none for all, all are missed.
    pub(super) fn further(
        &self,
        groups: Arc<Groups>,
        pending: &PendingDeliveries,
    ) -> (Self, Option<Reservation>) {
        let own = |target: &Target| self.places_at(target);
        let mut to = Self::beside(groups, pending.share_of_peer(), own);
        let reservation = pending.reserve_further(to.places);
        // They are missed, because the first of the notification are on their way already.
        if reservation.is_none() {
            to.release();
            for of_peer in &mut to.peers {
                of_peer.has_places = false;
            }
        }
        (to, reservation)
    }

    /// Number of their places at a peer.
    fn places_at(&self, of: &Target) -> usize {
        let peer = |it: &OfPeer| {
            self.groups.rows()[it.rows.start]
                .target()
                .map(Target::peer_id)
        };
        let of = Some(of.peer_id());
        // Addressees with places precede those of the same peer without.
        let first = self.peers.partition_point(|it| peer(it) < of);
        let first = self.peers.get(first);
        let first = first.filter(|it| it.has_places && peer(it) == of);
        first.map_or(0, |it| it.deliveries)
    }

    /// Gives the places at all peers back.
    fn release(&self) {
        for of_peer in self.peers.iter().filter(|it| it.has_places) {
            if let Some(target) = self.groups.rows()[of_peer.rows.start].target() {
                target.release(of_peer.deliveries);
            }
        }
    }
}

impl Drop for Addressees {
    fn drop(&mut self) {
        self.release();
    }
}

/// The group and the row after as many deliveries from `group` on.
fn after(groups: &Groups, mut group: usize, mut deliveries: usize) -> (usize, usize) {
    loop {
        let (begin, end) = (groups.begin(group), groups.end(group));
        let of_group = match groups.rows()[begin].is_one_copy() {
            true => 1,
            false => end - begin,
        };
        if deliveries < of_group {
            return (group, begin + deliveries);
        }
        deliveries -= of_group;
        group += 1;
    }
}
