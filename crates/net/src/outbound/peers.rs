//! The peers of a poster: one for each origin, for as long as somebody refers to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use httppubsub_proto::url::{Endpoint, Origin};

use crate::outbound::config::PostConfig;
use crate::outbound::peer::Peer;

/// All peers that somebody refers to. It holds none of them itself: limits, breakers and kept
/// connections of a peer go with its last [`Target`](crate::outbound::Target).
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<ByOrigin>);

/// The peers and when to look through them.
#[derive(Debug, Default)]
struct ByOrigin {
    /// Entries stay when their peer is gone, until the next look through all of them.
    peers: HashMap<Origin, Weak<Peer>>,
    /// Number of entries at which those of peers that are gone are removed.
    forget_at: usize,
}

/// The least number of entries that is worth a look at all of them.
const FORGET_AT_MIN: usize = 64;

impl Peers {
    /// The peer of this endpoint, made with the bounds of `config` if there is none.
    pub(crate) fn peer(&self, endpoint: &Endpoint, config: &PostConfig) -> Arc<Peer> {
        let origin = endpoint.origin();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.peers.get(origin).and_then(Weak::upgrade) {
            return peer;
        }
        if known.peers.len() >= known.forget_at {
            known.peers.retain(|_, peer| peer.strong_count() > 0);
            // At doubled numbers, so that a look at all of them stays rare.
            known.forget_at = (known.peers.len() * 2).max(FORGET_AT_MIN);
        }
        let peer = Peer::new(
            endpoint,
            config.in_flight_per_peer_max,
            config.breaker.as_ref(),
        );
        let peer = Arc::new(peer);
        known.peers.insert(origin.clone(), Arc::downgrade(&peer));
        peer
    }

    /// The peer with this origin, if there is one.
    pub(crate) fn known(&self, origin: &Origin) -> Option<Arc<Peer>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.peers.get(origin).and_then(Weak::upgrade)
    }

    /// All peers at this moment. They are copied out of the lock, so that a caller may take the
    /// locks of single peers.
    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.peers.values().filter_map(Weak::upgrade).collect()
    }
}
