//! The time for all broadcasters that share a store.

use std::sync::Arc;

use httppubsub_net::{Clock, SteadyClock};
use httppubsub_proto::time::Now;

use crate::cluster::membership::Membership;

/// The clock of the database, as far as heartbeats tell it. Leases and notices go by it, whatever
/// the clocks of single machines say.
#[derive(Debug)]
pub(crate) struct SharedClock {
    /// Knows how far the clock of the database is ahead.
    membership: Arc<Membership>,
    /// For what is due some time from now: it is not stepped with the time of day.
    steady: SteadyClock,
}

impl SharedClock {
    /// A clock that agrees with `clock` until the first heartbeat was answered.
    pub(crate) fn new(clock: Clock, membership: Arc<Membership>) -> Self {
        Self {
            membership,
            steady: SteadyClock::new(clock),
        }
    }

    /// The time for all who share the store.
    pub(crate) fn now(&self) -> Now {
        // Heartbeats tell how far the database's clock is ahead; between two of them this one goes
        // on.
        self.membership.at(self.local())
    }

    /// The time of this machine, to which [`Membership::apply`] relates that of the database.
    pub(crate) fn local(&self) -> Now {
        self.steady.now()
    }
}
