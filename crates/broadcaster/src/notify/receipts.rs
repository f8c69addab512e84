//! Receipts: tell a publisher of each outcome as it happens.
//!
//! A publisher that reads slowly holds up nobody: a bounded number of receipts waits for it, and
//! what does not fit is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::index::row::Row;
use crate::notify::tally::Outcome;

/// The way on which a publisher gets the outcomes of one notification. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Receipts(Arc<Inner>);

/// What all clones share.
#[derive(Debug)]
struct Inner {
    /// Never waited for.
    sender: mpsc::Sender<Receipt>,
    /// Receipts for which there was no room.
    left_out: AtomicU64,
    /// When the notification was accepted, or before.
    began: Instant,
}

/// One thing that a publisher gets.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// Deliveries begin, to the rows that were found by now.
    Accepted {
        /// Number of rows.
        matched: u64,
    },
    /// The outcome of one row.
    Delivered {
        /// The name of the outcome, as the counts have it.
        outcome: &'static str,
        /// Since the notification was accepted.
        after: Duration,
        /// Scheme, host and port of the subscriber, if anything can be posted there.
        origin: Option<String>,
        /// The reason for which it was missed.
        why: Option<String>,
    },
}

/// Receipts that wait for their reader.
const WAITING_MAX: usize = 1_024;

impl Receipts {
    /// A way to tell, and its other end.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Receipt>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let inner = Inner {
            sender,
            left_out: AtomicU64::new(0),
            began: Instant::now(),
        };
        (Self(Arc::new(inner)), receiver)
    }

    /// Receipts that were left out by now. They are of this notification alone, and never more than
    /// it has rows.
    pub(crate) fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }

    /// Deliveries begin.
    pub(super) fn accepted(&self, matched: u64) {
        self.tell(Receipt::Accepted { matched });
    }

    /// The outcome of these rows, which have it together.
    pub(super) fn delivered(
        &self,
        rows: &[Arc<Row>],
        outcome: Option<&Outcome>,
        why: Option<&str>,
    ) {
        let after = self.0.began.elapsed();
        for row in rows {
            self.tell(Receipt::Delivered {
                outcome: outcome.map_or("unrecorded", Outcome::name),
                after,
                origin: row.target().map(|it| it.origin().to_string()),
                why: why.map(str::to_owned),
            });
        }
    }

    /// Puts a receipt behind the others, if there is room.
    fn tell(&self, receipt: Receipt) {
        // Also if nobody reads any longer: nobody asks how many there were then.
        if self.0.sender.try_send(receipt).is_err() {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn receipts_for_a_slow_reader_are_counted_and_not_kept() {
        let (receipts, mut reader) = Receipts::new();
        for _ in 0..WAITING_MAX + 5 {
            receipts.accepted(1);
        }
        assert_eq!(receipts.left_out(), 5);
        let waiting = std::iter::from_fn(|| reader.try_recv().ok()).count();
        assert_eq!(waiting, WAITING_MAX);
    }
}
