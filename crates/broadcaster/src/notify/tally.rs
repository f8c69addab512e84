//! The tally of a notification: the outcome for each row that matched, counted.
//!
//! When no notification is in progress, the sum of all outcomes in the metrics is the number of
//! rows that matched: no row is lost on the way, whatever fails.

use httppubsub_store::StoreError;

use crate::observe::metrics;

/// The outcomes of a notification: every row that matched is in exactly one of the counts of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Subscribers that the confirmations stand for, saturating.
    pub(crate) subscribers: u32,
    /// Rows that confirmed.
    pub(crate) confirmed: u64,
    /// Rows that asked to be removed.
    pub(crate) unsubscribed: u64,
    /// Rows that will be told that they missed something.
    pub(crate) missed: u64,
    /// Rows that missed it and did not ask to be told.
    pub(crate) dropped: u64,
    /// Rows that missed it, of which the store did not take note.
    pub(crate) unrecorded: u64,
}

impl Reached {
    /// All rows that are counted.
    pub(crate) fn rows(&self) -> u64 {
        self.confirmed + self.unsubscribed + self.missed + self.dropped + self.unrecorded
    }

    /// Adds these outcomes to the metrics.
    pub(super) fn update_metrics(&self) {
        metrics::delivered("confirmed", self.confirmed);
        metrics::delivered("unsubscribed", self.unsubscribed);
        metrics::delivered("missed", self.missed);
        metrics::delivered("dropped", self.dropped);
        metrics::delivered("unrecorded", self.unrecorded);
    }
}

/// What was missed could not be recorded, so some subscribers may never hear of it.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unrecorded {
    /// The outcomes, the rows that are not recorded among them.
    pub(crate) reached: Reached,
    /// The failure of the store, whose message has its causes.
    error: StoreError,
}

/// The outcomes of some rows, and the first failure to record others.
#[derive(Default)]
pub(super) struct Tally {
    /// Counts of rows; `subscribers` is filled in at the end.
    pub(super) reached: Reached,
    /// The first failure. The publisher gets a 503 for it.
    pub(super) failed: Option<StoreError>,
}

impl Tally {
    /// Counts the outcome of one delivery, which was for `rows` rows.
    pub(super) fn count(&mut self, outcome: Result<Outcome, StoreError>, rows: u64) {
        let reached = &mut self.reached;
        match outcome {
            Ok(Outcome::Confirmed(_)) => reached.confirmed += rows,
            Ok(Outcome::Unsubscribed) => reached.unsubscribed += rows,
            Ok(Outcome::Missed) => reached.missed += rows,
            Ok(Outcome::Dropped) => reached.dropped += rows,
            Ok(Outcome::Unrecorded) => reached.unrecorded += rows,
            Err(error) => {
                reached.unrecorded += rows;
                self.failed = Some(error);
            }
        }
    }

    /// Adds the outcomes of further rows of the same notification.
    pub(super) fn add(&mut self, other: Self) {
        let Reached {
            // Counted for all parts together.
            subscribers: _,
            confirmed,
            unsubscribed,
            missed,
            dropped,
            unrecorded,
        } = other.reached;
        let reached = &mut self.reached;
        reached.confirmed += confirmed;
        reached.unsubscribed += unsubscribed;
        reached.missed += missed;
        reached.dropped += dropped;
        reached.unrecorded += unrecorded;
        self.failed = self.failed.take().or(other.failed);
    }

    /// The outcomes; an error with the failure for which not all rows that missed it will get a
    /// notice.
    pub(super) fn into_reached(self) -> Result<Reached, Unrecorded> {
        let reached = self.reached;
        match self.failed {
            Some(error) => Err(Unrecorded { reached, error }),
            None => Ok(reached),
        }
    }
}

/// The outcome of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As many subscribers have the message.
    Confirmed(u32),
    /// It asked to be removed.
    Unsubscribed,
    /// It missed the message, and a notice is owed.
    Missed,
    /// It missed the message, and has no recovery url.
    Dropped,
    /// It missed the message, and the failure to record that is reported elsewhere.
    Unrecorded,
}

impl Outcome {
    /// Its name in metrics and answers.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Confirmed(_) => "confirmed",
            Self::Unsubscribed => "unsubscribed",
            Self::Missed => "missed",
            Self::Dropped => "dropped",
            Self::Unrecorded => "unrecorded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> StoreError {
        StoreError::Unavailable {
            doing: "writing",
            source: Box::new(std::io::Error::other("it fails")),
        }
    }

    #[test]
    fn every_row_is_counted_once_and_a_failure_is_kept() {
        let mut tally = Tally::default();
        for (outcome, rows) in [
            (Outcome::Confirmed(9), 1),
            (Outcome::Unsubscribed, 2),
            (Outcome::Missed, 3),
            (Outcome::Dropped, 4),
            (Outcome::Unrecorded, 5),
        ] {
            tally.count(Ok(outcome), rows);
        }
        let counts = |it: &Reached| {
            let missed = [it.missed, it.dropped, it.unrecorded];
            ([it.confirmed, it.unsubscribed], missed)
        };
        assert_eq!(counts(&tally.reached), ([1, 2], [3, 4, 5]));
        let mut other = Tally::default();
        other.count(Err(failure()), 6);
        tally.add(other);
        assert_eq!(counts(&tally.reached), ([1, 2], [3, 4, 11]));
        assert!(tally.into_reached().is_err());
    }
}
