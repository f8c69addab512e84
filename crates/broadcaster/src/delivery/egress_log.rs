//! Tells the operator, once for each peer, that the egress policy forbids what is subscribed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use httppubsub_net::outbound::PostError;
use httppubsub_proto::url::Origin;

/// The peers that were in the log since the start.
#[derive(Debug, Default)]
pub(crate) struct EgressLog(Mutex<HashSet<Origin>>);

impl EgressLog {
    /// Warns if `error` is that nothing may be posted to a peer, once for each peer.
    pub(crate) fn warn_of(&self, error: &PostError) {
        let PostError::Forbidden { origin, source } = error else {
            return;
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Anybody who may subscribe can invent names: they must fill neither the memory nor the
        // log.
        if known.len() < PEERS_MAX && known.insert(origin.clone()) {
            tracing::warn!(
                %origin,
                why = %source,
                "the egress policy forbids a subscribed url; its deliveries fail"
            );
        }
    }
}

/// Peers that are logged; further ones are not.
const PEERS_MAX: usize = 1_000;
