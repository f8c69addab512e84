//! Notices that are owed: a subscriber that may have missed something gets MISSED until it knows.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_proto::backoff::MissedSchedule;
use httppubsub_proto::topic::Topic;
use httppubsub_store::{Missed, Store, StoreError};
use tokio::sync::Notify;

use crate::background::LastTime;
use crate::cluster::shared_clock::SharedClock;
use crate::index::row::Row;

/// The notices that this broadcaster records, and the signs by which it finds what is due.
#[derive(Debug)]
pub(crate) struct Notices {
    /// Keeps what is owed. Other broadcasters on it may send it.
    pub(super) store: Arc<dyn Store>,
    /// All broadcasters on the store agree by it on what is due.
    pub(super) clock: Arc<SharedClock>,
    /// The delays before each attempt.
    pub(super) schedule: MissedSchedule,
    /// Notified when a notice was recorded that may be due before those known so far.
    pub(super) recorded: Notify,
    /// The last look for notices that are due. Nobody would notice otherwise that none is sent.
    pub(super) last_sweep: LastTime,
}

/// The time at which a notice is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// After the first delay of the schedule.
    AsScheduled,
    /// Now: a circuit breaker waits for a notice to be confirmed before it lets messages through.
    AtOnce,
}

impl Notices {
    /// Notices that are kept in `store`, and due by `schedule`.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Arc<SharedClock>,
        schedule: MissedSchedule,
    ) -> Self {
        Self {
            store,
            clock,
            schedule,
            recorded: Notify::new(),
            last_sweep: LastTime::new(),
        }
    }

    /// Owes the subscriber of `row` a notice about `topic`; returns when that is durable. One
    /// notice tells of all rows of the same url with the same recovery url.
    pub(crate) async fn record(
        &self,
        row: &Row,
        topic: &Topic,
        when: When,
    ) -> Result<(), StoreError> {
        // A schedule without any attempt sends no notices.
        let Some(scheduled) = self.schedule.delay(0, rand::random()) else {
            return Ok(());
        };
        let delay = match when {
            When::AsScheduled => scheduled,
            When::AtOnce => Duration::ZERO,
        };
        let missed = Missed {
            url: row.subscriber.url.clone(),
            interest: row.interest.clone(),
            topic: topic.clone(),
            due: self.clock.now() + delay,
        };
        self.store.record_missed(missed).await?;
        self.recorded.notify_one();
        Ok(())
    }

    /// The last look for notices that are due. For [`Readiness`](crate::readiness::Readiness).
    pub(crate) fn last_sweep(&self) -> &LastTime {
        &self.last_sweep
    }
}
