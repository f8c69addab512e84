//! The store as callers see it: each method is one statement, and then a look at what changed.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use httppubsub_proto::subscription::Subscription;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::contract::{self, Cluster, Observer, Store, StoreError};
use crate::lock;
use crate::postgres::address::{Address, Purpose};
use crate::postgres::batch::{
    CHANGED_AT_ONCE, Changing, SPENT_AT_ONCE, Spending, Verb, change_in_groups, spend_in_groups,
};
use crate::postgres::database::Shared;
use crate::postgres::failure::{CONNECT_TIMEOUT, Failure};
use crate::postgres::feed::Feed;
use crate::postgres::options::PostgresStoreBuilder;
use crate::postgres::schema;
use crate::postgres::tasks::{look_for_changes, wake_others};

/// Subscriptions in one PostgreSQL database (15 or newer), which broadcasters on any number of
/// machines share. Calls need a tokio runtime with its timer.
///
/// A call that the database does not answer is repeated where that does no harm, for as long as the
/// store's patience; one that may have been done or not fails.
pub struct PostgresStore {
    /// Hosts and database, without password.
    name: String,
    pub(super) shared: Arc<Shared>,
    /// Codes to spend, which one task spends in groups.
    pub(super) spendings: mpsc::Sender<Spending>,
    /// Subscriptions to add, in groups.
    pub(super) adding: mpsc::Sender<Changing>,
    /// Subscriptions to remove, in groups.
    pub(super) removing: mpsc::Sender<Changing>,
    /// They end with the store.
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PostgresStore").field(&self.name).finish()
    }
}

impl PostgresStoreBuilder {
    /// Connects to the database at `url`, such as `postgres://user@host/database`, and makes the
    /// tables if they are not there. Without `sslmode` the way to another machine is verified TLS.
    ///
    /// # Errors
    ///
    /// [`StoreError::Address`] for a url that cannot be used, [`StoreError::Unsupported`] for a
    /// server older than PostgreSQL 15, [`StoreError::NewerSchema`] for tables of a newer program,
    /// and [`StoreError::Unavailable`] if nobody answers.
    pub async fn open(self, url: &str) -> Result<PostgresStore, StoreError> {
        let purpose = match self.may_make {
            true => Purpose::Write,
            false => Purpose::Look,
        };
        let address =
            Address::parse(url, purpose).map_err(|why| StoreError::Address(Box::new(why)))?;
        let failed = |failure: Failure| failure.doing("connecting to the database");
        let (client, connection) = address.connect().await.map_err(failed)?;
        let driver = tokio::spawn(connection);
        let prepared = match purpose {
            Purpose::Write => schema::migrate(&client).await,
            Purpose::Look => schema::check(&client).await,
        };
        // This session was for the tables only; the pool makes its own.
        driver.abort();
        prepared?;
        let manager = ManagerConfig {
            // A connection is not asked whether it still works before each use, which would double
            // the round trips: a statement that meets a dead one is made again.
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_connect(address.config.clone(), address.clone(), manager);
        let pool = Pool::builder(manager)
            .max_size(self.connections_max)
            .create_timeout(Some(CONNECT_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Unsupported(error.to_string()))?;
        let name = address.name();
        let shared = Arc::new(Shared {
            feed: Feed::new(address, self.patience, self.settled_after),
            pool,
            changed: Notify::new(),
            spender: lock::random(),
            trouble: Mutex::default(),
            options: self,
        });
        let mut tasks = JoinSet::new();
        // A store that only looks changes nothing, also not the log.
        if purpose == Purpose::Write {
            tasks.spawn(wake_others(shared.clone()));
            tasks.spawn(look_for_changes(shared.clone()));
        }
        let (spendings, waiting) = mpsc::channel(SPENT_AT_ONCE);
        tasks.spawn(spend_in_groups(shared.clone(), waiting));
        let (adding, waiting) = mpsc::channel(CHANGED_AT_ONCE);
        tasks.spawn(change_in_groups(shared.clone(), waiting, Verb::Add));
        let (removing, waiting) = mpsc::channel(CHANGED_AT_ONCE);
        tasks.spawn(change_in_groups(shared.clone(), waiting, Verb::Remove));
        Ok(PostgresStore {
            name,
            shared,
            spendings,
            adding,
            removing,
            _tasks: tasks,
        })
    }
}

impl PostgresStore {
    /// Begins a store with the default settings.
    pub fn builder() -> PostgresStoreBuilder {
        PostgresStoreBuilder::default()
    }

    /// Opens the database at `url` with the default settings.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::builder().open(url).await
    }

    /// Forgets the oldest changes, and codes that have expired. It happens by itself now
    /// and then.
    pub async fn trim(&self) -> Result<(), StoreError> {
        self.shared.trim().await
    }

    /// Waits out the time in which another broadcaster may still match by the state before. Who is
    /// told that a subscription was there already may go by that, as who has made it.
    pub(super) fn settled(&self) -> tokio::time::Sleep {
        tokio::time::sleep(self.shared.feed.settled_after())
    }

    /// Has one of the tasks make a change, together with others that wait; says whether there was
    /// anything to change.
    pub(super) async fn change(
        &self,
        changing: &mpsc::Sender<Changing>,
        subscription: Subscription,
    ) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        let give_up = self.shared.give_up();
        let it = Changing {
            subscription,
            give_up,
            reply,
        };
        let stopped = || Failure::Busy.doing("changing a subscription");
        let sent = timeout_at(give_up, changing.send(it)).await;
        sent.map_err(|_| stopped())?.map_err(|_| stopped())?;
        let changed = answer.await.unwrap_or_else(|_| Err(stopped()))?;
        if changed {
            self.changed().await;
        } else {
            self.settled().await;
        }
        Ok(changed)
    }

    /// Returns after a change when the observer of this store knows it.
    pub(super) async fn changed(&self) {
        let feed = &self.shared.feed;
        let settled = self.settled();
        self.shared.changed.notify_one();
        // The change is durable; if it cannot be read now, it will be before it matters.
        if let Err(error) = feed.look().await {
            tracing::warn!(%error, "cannot read what was just changed");
        }
        settled.await;
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn trouble(&self) -> Option<String> {
        let trouble = self.shared.feed.trouble();
        trouble.or_else(|| self.shared.trouble().known())
    }

    async fn probe(&self) {
        self.shared.probe().await;
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }
}

#[async_trait]
impl contract::Feed for PostgresStore {
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError> {
        let watched = self.shared.feed.watch(observer).await;
        watched.map_err(|failure| failure.doing("reading the subscriptions"))
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        let done = self.shared.feed.catch_up().await;
        done.map_err(|failure| failure.doing("reading what changed"))
    }
}
