//! Settings of broadcasters that share a store.

use std::time::Duration;

/// Timing between broadcasters that share a store; for stores that are made to be shared.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ClusterConfig {
    /// Time for which a broadcaster is taken to live after a heartbeat; four are sent in it. Beyond
    /// it nothing is delivered to that broadcaster until it is back: what its websockets miss
    /// meanwhile is recorded. At least 100 ms; default 20 s.
    pub lease: Duration,
    /// Time after the lease until a silent broadcaster is forgotten, with what its websockets
    /// wanted. Default 1 h.
    pub forget_after: Duration,
    /// `true` if authorizations of requests that were used at one broadcaster are refused by the
    /// others: a round trip to the store for each. Default: no.
    pub replay_shared: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            forget_after: Duration::from_secs(3_600),
            replay_shared: false,
        }
    }
}
