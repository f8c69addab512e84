//! The pool of connections, and statements that are made again for as long as the patience lasts.

use std::sync::{Mutex, MutexGuard, PoisonError};

use deadpool_postgres::{Object, Pool};
use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::{Duration, Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::contract::StoreError;
use crate::postgres::failure::{Done, Failure, Trouble};
use crate::postgres::feed::Feed;
use crate::postgres::options::PostgresStoreBuilder;
use crate::postgres::sql;

/// What all calls and the background tasks of one store have in common.
pub(super) struct Shared {
    pub(super) feed: Feed,
    /// Connections for everything but the feed.
    pub(super) pool: Pool,
    /// Woken when this store changed something, for others to hear of it.
    pub(super) changed: Notify,
    /// Under which it spends codes.
    pub(super) spender: i64,
    /// Known from calls of the pool; the feed has its own.
    pub(super) trouble: Mutex<Trouble>,
    pub(super) options: PostgresStoreBuilder,
}

/// The effect of a second execution of a statement that may have been done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// The second time finds all as the first has left it, and says the same.
    Harmless,
    /// The second time would say something else.
    No,
}

/// The values of `$1`, `$2` and so on.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The attempts at one statement, which end with the store's patience.
///
/// A statement is repeated if it was certainly not done, or if doing it twice is harmless. One
/// whose answer was lost and that is neither fails, and its caller answers 503: guessing would
/// acknowledge what was not done, or do twice what was counted once.
pub(super) struct Attempts<'a> {
    pub(super) shared: &'a Shared,
    /// The operation, as the error names it.
    pub(super) doing: &'static str,
    pub(super) again: Again,
    /// No attempt begins after this.
    pub(super) give_up: Instant,
    /// Before the next attempt: 20 ms, doubled each time up to 500 ms.
    pub(super) pause: Duration,
}

impl<'a> Attempts<'a> {
    /// Attempts that may go on for the store's patience from now.
    pub(super) fn new(shared: &'a Shared, doing: &'static str, again: Again) -> Self {
        Self {
            shared,
            doing,
            again,
            give_up: shared.give_up(),
            pause: Duration::from_millis(20),
        }
    }

    /// A connection on which nothing was said yet.
    pub(super) async fn connection(&mut self) -> Result<Object, StoreError> {
        loop {
            match self.shared.connection(self.give_up).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => {
                    self.shared.note(&failure);
                    self.wait(failure).await?;
                }
            }
        }
    }

    /// The result of an attempt; `None` if the statement is to be made again.
    pub(super) async fn after<T>(
        &mut self,
        connection: Object,
        made: Result<Result<T, Failure>, Elapsed>,
    ) -> Result<Option<T>, StoreError> {
        let failure = match made {
            Ok(Ok(made)) => return Ok(Some(made)),
            Ok(Err(failure)) => failure,
            Err(_) => {
                // Nobody knows what else it has to do.
                drop(Object::take(connection));
                let failure = Failure::Waited(self.shared.options.patience);
                self.shared.note(&failure);
                return self.judge(failure).await;
            }
        };
        if failure.condemns_session() {
            drop(Object::take(connection));
            if matches!(failure, Failure::ReadOnly) {
                // Sessions that wait in the pool were made before, with the same server.
                self.shared.pool.retain(|_, _| false);
            }
        }
        self.shared.note(&failure);
        self.judge(failure).await
    }

    /// Waits if the statement is to be made again.
    pub(super) async fn judge<T>(&mut self, failure: Failure) -> Result<Option<T>, StoreError> {
        let is_repeated = match failure.done() {
            Done::No => true,
            Done::Never => false,
            Done::Perhaps => self.again == Again::Harmless,
        };
        if !is_repeated {
            return Err(failure.doing(self.doing));
        }
        self.wait(failure).await?;
        Ok(None)
    }

    /// Pauses before the next attempt.
    ///
    /// # Errors
    ///
    /// `failure`, if the patience would be over by then: it says more than that time ran out.
    pub(super) async fn wait(&mut self, failure: Failure) -> Result<(), StoreError> {
        if Instant::now() + self.pause >= self.give_up {
            return Err(failure.doing(self.doing));
        }
        tracing::debug!(doing = self.doing, error = %failure, "it failed; trying again");
        tokio::time::sleep(self.pause).await;
        // Bounded, so that a database that is back is used within half a second.
        self.pause = (2 * self.pause).min(Duration::from_millis(500));
        Ok(())
    }
}

impl Shared {
    /// Makes a statement, within the store's patience.
    pub(super) async fn query(
        &self,
        doing: &'static str,
        again: Again,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut attempts = Attempts::new(self, doing, again);
        loop {
            let connection = attempts.connection().await?;
            // Prepared once for each connection: plans take longer than most of these statements.
            let statement = async {
                let statement = connection.prepare_cached(sql).await?;
                Ok(connection.query(&statement, parameters).await?)
            };
            let made = timeout_at(attempts.give_up, statement).await;
            if let Some(rows) = attempts.after(connection, made).await? {
                return Ok(rows);
            }
        }
    }

    /// Until when a call that begins now waits.
    pub(super) fn give_up(&self) -> Instant {
        Instant::now() + self.options.patience
    }

    /// A connection of the pool, or a new one if all are in use and there may be more.
    ///
    /// # Errors
    ///
    /// [`Failure::Busy`] if none became free by `give_up`.
    pub(super) async fn connection(&self, give_up: Instant) -> Result<Object, Failure> {
        match timeout_at(give_up, self.pool.get()).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(Failure::Busy),
        }
    }

    /// Remembers the failure of a call, for [`crate::Store::trouble`].
    pub(super) fn note(&self, failure: &Failure) {
        self.trouble().note(failure);
    }

    /// The trouble that calls have met, locked.
    pub(super) fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for something that only a server that takes writes does, and that changes nothing.
    pub(super) async fn probe(&self) {
        // Without suspicion there is no query: a probe a second for each broadcaster adds up.
        if !self.trouble().is_suspected() {
            return;
        }
        let sql = sql::PROBE;
        let probed = self.query("probing", Again::Harmless, sql, &[]).await;
        self.trouble().probed(probed.err());
    }

    /// Forgets old entries of the change log, and codes whose authorizations have expired anyway.
    pub(super) async fn trim(&self) -> Result<(), StoreError> {
        let kept = i64::from(self.options.changes_kept);
        let sql = sql::TRIM_CHANGES;
        let doing = "forgetting old changes";
        self.query(doing, Again::Harmless, sql, &[&kept]).await?;
        let sql = sql::TRIM_SPENT;
        let doing = "forgetting old authorizations";
        self.query(doing, Again::Harmless, sql, &[]).await?;
        Ok(())
    }
}
