//! Explains who would get a notification, and what stands in the way, without sending anything.
//!
//! It is asked by people and by programs that check a configuration, where messages are routed. It
//! is of one moment: a breaker may open, and a subscription may come, before the notification does.

use std::sync::Arc;

use httppubsub_proto::topic::Topic;
use httppubsub_store::StoreError;

use crate::delivery::verdict::Undelivered;
use crate::index::row::Row;
use crate::notify::notify::Notify;

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
    /// The rows that match `topic` at this moment: at most `rows_max` of them, and how many there
    /// are. A message of any length is meant that a breaker would let through.
    pub(crate) async fn explain(
        &self,
        topic: &Topic,
        rows_max: usize,
    ) -> Result<(Vec<Explained>, u64), StoreError> {
        // As before a notification: what was acknowledged is there.
        self.store.catch_up().await?;
        let found = self.index.matching(topic).await;
        let rows = || found.iter().flat_map(|groups| groups.rows());
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
