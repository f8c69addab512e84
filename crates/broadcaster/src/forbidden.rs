//! Tells the operator, once for each peer, that the egress policy forbids what is subscribed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use httppubsub_net::PostError;
use httppubsub_proto::url::Origin;

/// The peers that were told of since the start.
#[derive(Debug, Default)]
pub(crate) struct ForbiddenPeers(Mutex<HashSet<Origin>>);

impl ForbiddenPeers {
    /// Warns if that is why nothing could be posted, and if it is news.
    pub(crate) fn warn_of(&self, error: &PostError) {
        let PostError::Forbidden { origin, source } = error else {
            return;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever makes up names must not fill the memory or the log.
        if known.len() < PEERS_MAX && known.insert(origin.clone()) {
            tracing::warn!(
                %origin,
                why = %source,
                "the egress policy forbids a subscribed url; its deliveries fail"
            );
        }
    }
}

/// Of this many it is told.
const PEERS_MAX: usize = 1_000;
