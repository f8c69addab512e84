//! How many connections the file descriptors of this process allow.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many may be open at once, of each kind.
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
    /// As many of these as file descriptors allow, after this process has allowed itself as many of
    /// those as it may.
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

    /// Websockets have half and the others a quarter each; what one does not need the others may have.
    fn within(self, mut room: usize) -> Self {
        let mut shares = [self.served, self.websockets, self.posted];
        let weights = [1, 2, 1];
        let mut weight: usize = weights.iter().sum();
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
            posted,
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
        assert_eq!(within(90, [100, 1_000, 10_000]), [22, 45, 23]);
        assert_eq!(within(90, [10, 1_000, 20]), [10, 60, 20]);
        assert_eq!(within(90, [1_000, 10, 1_000]), [40, 10, 40]);
        assert_eq!(within(0, [5, 5, 5]), [1, 1, 1]);
        // 20,000 descriptors are enough for 10,000 websockets.
        let [_, websockets, _] = within(20_000 - RESERVED, [4_096, 100_000, 16_384]);
        assert!(websockets >= 10_000, "{websockets}");
    }
}
