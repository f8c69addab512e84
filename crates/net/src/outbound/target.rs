//! Targets of posts: a path at a peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use httppubsub_proto::url::Origin;

use crate::outbound::peer::Peer;

/// A path at a peer, prepared once for many posts. Connections are kept for as long as a target of
/// their peer is.
#[derive(Clone, Debug)]
pub struct Target {
    /// Shared with all targets of its origin; keeps it and its connections.
    pub(crate) peer: Arc<Peer>,
    /// Path and query, as they go into the request line.
    pub(crate) path: Arc<str>,
    /// `true` if a delivery there was confirmed.
    pub(crate) has_confirmed: Arc<AtomicBool>,
}

impl Target {
    /// The origin that requests go to.
    pub fn origin(&self) -> &Origin {
        &self.peer.origin
    }

    /// Reserves places at the peer for up to `wanted` deliveries, and returns for how many: for all
    /// if nothing is pending there but `own` places of the same notification, otherwise for no more
    /// than make `share` of them.
    pub fn reserve(&self, wanted: usize, own: usize, share: usize) -> usize {
        self.peer.reserve(wanted, own, share)
    }

    /// Gives places back that were reserved.
    pub fn release(&self, reserved: usize) {
        self.peer.release(reserved);
    }

    /// `true` if the peer, or a url of it, failed and has not confirmed anything since: the next
    /// delivery may need a connection of its own, or come to nothing.
    pub fn is_in_doubt(&self) -> bool {
        !self.peer.breaker.is_closed() || !self.peer.url_breakers.is_empty()
    }

    /// `true` if a delivery by this target, or by a clone of it, was confirmed.
    pub(crate) fn has_confirmed(&self) -> bool {
        self.has_confirmed.load(Ordering::Relaxed)
    }

    /// The same number for all clones of a target.
    pub(crate) fn url_id(&self) -> usize {
        // The address of what clones share, so that no counter is needed.
        Arc::as_ptr(&self.has_confirmed).addr()
    }

    /// The same number for all targets of one origin that are there at the same time.
    pub fn peer_id(&self) -> usize {
        Arc::as_ptr(&self.peer).addr()
    }
}
