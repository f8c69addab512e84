//! Explains who would get a notification, and what stands in the way, without sending anything.
//!
//! It is asked by people and by programs that check a configuration, where messages are routed. It
//! is of one moment: a breaker may open, and a subscription may come, before the notification does.

use std::sync::Arc;

use httppubsub_proto::topic::Topic;

use crate::delivery::verdict::Undelivered;
use crate::index::index::Found;
use crate::index::row::Row;
use crate::notify::notify::{NotBegun, Notify};

/// A row that matches a topic, and the reason for which a delivery would not be tried, if there is
/// one.
#[derive(Debug)]
pub(crate) struct Explained {
    /// The row.
    pub(crate) row: Arc<Row>,
    /// `None` if it would be delivered to.
    pub(crate) why_not: Option<Undelivered>,
}

impl Notify {
    /// The rows that match `topic` at this moment: at most `rows_max` of them, in no order, and how
    /// many there are.
    ///
    /// Nothing is written, no probe of a breaker is spent, and nothing counts as a notification. A
    /// message is meant that is short enough for every breaker.
    ///
    /// # Errors
    ///
    /// Those of a notification that does not begin.
    pub(crate) async fn explain(
        &self,
        topic: &Topic,
        rows_max: usize,
    ) -> Result<(Vec<Explained>, u64), NotBegun> {
        // As before a notification: what was acknowledged is there.
        self.store.catch_up().await?;
        let Found { rows, rest } = self.index.begin_to_match(topic);
        let further = match rest {
            Some(rest) => {
                // Globs that take long are matched in turn, and explaining waits as notifying does.
                let _unmatched = self.pending.try_queue_to_match()?;
                rest.groups().await
            }
            None => Arc::default(),
        };
        let rows = || rows.iter().chain(further.rows());
        let deliveries = &self.dispatcher.deliveries;
        // Asked of shown rows only: a look at a breaker takes its lock.
        let explain = |row: &Arc<Row>| Explained {
            row: row.clone(),
            why_not: deliveries.outlook(row).err(),
        };
        let shown = rows().take(rows_max).map(explain).collect();
        Ok((shown, rows().count() as u64))
    }
}
