//! The number of connections that the file descriptors of this process allow.
//!
//! The defaults ask for 4,096 served connections, 100,000 websockets and 16,384 posts, and many
//! systems start a process with 1,024 descriptors. The soft limit is raised to the hard one;
//! if that is still too little, all three shrink.

use httppubsub_net::inbound::PLACES_PER_REFUSED;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Limits of open connections, one for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connections {
    /// That are served.
    pub(crate) served: usize,
    /// That became websockets.
    pub(crate) websockets: usize,
    /// To subscribers.
    pub(crate) posted: usize,
}

impl Connections {
    /// These limits, reduced to the file descriptors of this process, after its soft limit was
    /// raised to the hard limit.
    ///
    /// Reduced at the start and not refused later: accepting a connection for which there is no
    /// descriptor fails in ways that no peer understands.
    pub(crate) fn that_fit(self) -> Self {
        let limit = raised();
        let fitting = limit.map_or(self, |limit| self.within(limit.saturating_sub(RESERVED)));
        if fitting != self {
            tracing::info!(
                descriptors = limit,
                connections = fitting.served,
                websockets = fitting.websockets,
                deliveries = fitting.posted,
                "file descriptors allow fewer than configured; a higher `ulimit -n` allows more"
            );
        }
        fitting
    }

    /// Websockets have half and the others a quarter each; what one does not need the others may
    /// have.
    fn within(self, mut room: usize) -> Self {
        // Refused connections stay open for a while: their descriptors are those of deliveries, so
        // that as many websockets fit as before.
        let refused = self.served / PLACES_PER_REFUSED;
        let mut shares = [self.served, self.websockets, self.posted + refused];
        let weights = [1, 2, 1];
        let mut weight: usize = weights.iter().sum();
        // The kind that needs less than its share comes first, so that its rest is divided again.
        let mut smallest_first = [0, 1, 2];
        smallest_first.sort_by_key(|at| shares[*at] / weights[*at]);
        for at in smallest_first {
            shares[at] = shares[at].min(room * weights[at] / weight).max(1);
            room = room.saturating_sub(shares[at]);
            weight -= weights[at];
        }
        let [served, websockets, posted] = shares;
        Self {
            served,
            websockets,
            posted: posted.saturating_sub(served / PLACES_PER_REFUSED).max(1),
        }
    }
}

/// For the database, temporary files, logs and listeners.
const RESERVED: usize = 96;

/// The limit, as high as it may be raised; `None` is no limit.
fn raised() -> Option<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    let raised = current == maximum || setrlimit(Resource::Nofile, wanted).is_ok();
    let limit = if raised { maximum } else { current };
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(room: usize, [served, websockets, posted]: [usize; 3]) -> [usize; 3] {
        let all = Connections {
            served,
            websockets,
            posted,
        };
        let Connections {
            served,
            websockets,
            posted,
        } = all.within(room);
        [served, websockets, posted]
    }

    #[test]
    fn what_fits_stays_and_what_does_not_is_shared() {
        assert_eq!(within(100, [10, 20, 30]), [10, 20, 30]);
        assert_eq!(within(90, [100, 1_000, 10_000]), [22, 45, 18]);
        assert_eq!(within(90, [10, 1_000, 20]), [10, 58, 20]);
        assert_eq!(within(90, [1_000, 10, 1_000]), [40, 10, 30]);
        assert_eq!(within(0, [5, 5, 5]), [1, 1, 1]);
        // 20,000 descriptors are enough for 10,000 websockets.
        let [_, websockets, _] = within(20_000 - RESERVED, [4_096, 100_000, 16_384]);
        assert!(websockets >= 10_000, "{websockets}");
    }
}
