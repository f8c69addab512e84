//! Settings of a store before it is opened, with their defaults.

use std::time::Duration;

use httppubsub_proto::time::FOREVER;

/// A [`PostgresStore`](crate::PostgresStore) before it is opened: settings, with their defaults.
///
/// ```no_run
/// # async fn example() -> Result<(), httppubsub_store::StoreError> {
/// use httppubsub_store::{Cluster as _, PostgresStore};
///
/// // To look only, as a role that may not write.
/// let store = PostgresStore::builder()
///     .connections_max(1)
///     .existing()
///     .open("postgres://reader@db.example/pubsub")
///     .await?;
/// println!("{} subscriptions", store.census().await?.subscriptions);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PostgresStoreBuilder {
    pub(super) connections_max: usize,
    pub(super) patience: Duration,
    pub(super) poll_interval: Duration,
    pub(super) changes_kept: u32,
    pub(super) settled_after: Duration,
    pub(super) may_make: bool,
}

impl Default for PostgresStoreBuilder {
    fn default() -> Self {
        Self {
            connections_max: 8,
            patience: Duration::from_secs(5),
            poll_interval: Duration::from_secs(1),
            changes_kept: 20_000,
            settled_after: Duration::from_millis(10),
            may_make: true,
        }
    }
}

impl PostgresStoreBuilder {
    /// Connections open at once, besides the one over which changes are read. Default 8.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections.max(1);
        self
    }

    /// Longest wait for the database, also while it restarts; a call that waited so long fails as
    /// [`crate::StoreError::Unavailable`] and can be repeated. Default 5 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(FOREVER);
        self
    }

    /// Longest time between two looks for the changes of others, which wake this one as soon as
    /// they change something, unless that is lost. Default 1 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval.min(FOREVER);
        self
    }

    /// The number of changes that the database remembers, in rows; a broadcaster that was away for
    /// longer than these reads all subscriptions again. Up to a quarter more are kept, and more
    /// while a transaction of anybody in the same database server stays open. Default 20,000.
    pub fn changes_kept(mut self, changes: u32) -> Self {
        self.changes_kept = changes.max(1);
        self
    }

    /// The time between the commit of a change and its acknowledgement. A store that has looked for
    /// changes within this time need not look again to know all that was acknowledged: calls of
    /// [`crate::Feed::catch_up`] that come soon after each other cost one query together. All
    /// stores that share a database must have the same time; with none every call is a query.
    /// Default 10 ms.
    pub fn settled_after(mut self, time: Duration) -> Self {
        self.settled_after = time.min(FOREVER);
        self
    }

    /// Opens a database only if a broadcaster has used it, to look at it: a replica will do, and a
    /// role that may only read.
    pub fn existing(mut self) -> Self {
        self.may_make = false;
        self
    }
}
