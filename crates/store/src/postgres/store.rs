//! The store as callers see it: each method is one statement, and then a look at what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures_util::StreamExt as _;
use httppubsub_proto::subscription::{
    Interest, StrongEtag, StrongEtagHasher, Subscription, SubscriptionSet,
};
use httppubsub_proto::time::{FOREVER, Now};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::address::{Address, Purpose};
use super::failure::{CONNECT_TIMEOUT, Done, Failure};
use super::feed::Feed;
use super::row::{interest_of, kind_of, topic_of, url_of};
use super::schema;
use crate::lock;
use crate::store::{
    Alive, Census, Changed, ClaimedNotice, Cluster, Heard, InFlight, Missed, NoticeOutcome,
    Observer, Seen, Store, StoreError, Subscribed, Unsubscribed,
};
use crate::urls::Urls;

/// How a [`PostgresStore`] is opened.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    connections_max: usize,
    patience: Duration,
    poll_interval: Duration,
    changes_kept: u32,
    settled_after: Duration,
    may_make: bool,
}

impl Default for PostgresOptions {
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

impl PostgresOptions {
    /// Connections open at once, besides the one over which changes are read. Default 8.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections.max(1);
        self
    }

    /// Longest wait for the database, also while it restarts; a call that waited so long fails as
    /// [`StoreError::Unavailable`] and can be repeated. Default 5 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(FOREVER);
        self
    }

    /// Longest time between two looks for the changes of others, which wake this one as soon as they
    /// change something, unless that is lost. Default 1 s.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval.min(FOREVER);
        self
    }

    /// How many changes the database remembers, in rows; a broadcaster that was away for longer than
    /// these reads all subscriptions again. Up to a quarter more are kept, and more while a
    /// transaction of anybody in the same database server stays open. Default 20,000.
    pub fn changes_kept(mut self, changes: u32) -> Self {
        self.changes_kept = changes.max(1);
        self
    }

    /// How long after it was committed a change is acknowledged. A store that has looked for changes
    /// within this time need not look again to know all that was acknowledged: calls of
    /// [`Store::catch_up`] that come soon after each other cost one query together. All that share a
    /// database must have the same; with none every call is a query. Default 10 ms.
    pub fn settled_after(mut self, time: Duration) -> Self {
        self.settled_after = time.min(FOREVER);
        self
    }

    /// Opens a database only if a broadcaster has used it, to look at it: a replica will do, and a role
    /// that may only read.
    pub fn existing(mut self) -> Self {
        self.may_make = false;
        self
    }

    /// Connects to the database at `url`, such as `postgres://user@host/database`, and makes the
    /// tables if they are not there. Without `sslmode` the way to another machine is verified TLS.
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
        driver.abort();
        prepared?;
        let manager = ManagerConfig {
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

/// Subscriptions in one PostgreSQL database (15 or newer), which broadcasters on any number of machines
/// share. Calls need a tokio runtime with its timer.
///
/// A call that the database does not answer is repeated where that does no harm, for as long as the
/// store's patience; one that may have been done or not fails.
pub struct PostgresStore {
    name: String,
    shared: Arc<Shared>,
    spendings: mpsc::Sender<Spending>,
    adding: mpsc::Sender<Changing>,
    removing: mpsc::Sender<Changing>,
    /// They end with the store.
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PostgresStore").field(&self.name).finish()
    }
}

struct Shared {
    feed: Feed,
    pool: Pool,
    /// Woken when this store changed something, for others to hear of it.
    changed: Notify,
    /// Under which it spends codes.
    spender: i64,
    /// Why a statement failed, since the last probe.
    trouble: Mutex<Option<String>>,
    options: PostgresOptions,
}

/// Whether a statement is made again that may have been done already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// The second time finds all as the first has left it, and says the same.
    Harmless,
    /// The second time would say something else.
    No,
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Of each time the store is woken, others are not woken more often than this.
const BETWEEN_WAKES: Duration = Duration::from_millis(10);

/// How often what nobody needs any more is forgotten.
const BETWEEN_TRIMS: Duration = Duration::from_secs(10);

impl PostgresStore {
    /// Opens the database at `url` with the default [`PostgresOptions`].
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        PostgresOptions::default().open(url).await
    }

    /// Forgets the oldest changes, and codes that cannot be used any more. It happens by itself now
    /// and then.
    pub async fn trim(&self) -> Result<(), StoreError> {
        self.shared.trim().await
    }

    /// Waits until nobody goes any more by what was there before what was just read or written. Who is
    /// told that a subscription was there already may go by that, as who has made it.
    fn settled(&self) -> tokio::time::Sleep {
        tokio::time::sleep(self.shared.feed.settled_after())
    }

    /// Has one of the tasks make a change, together with others that wait; says whether there was
    /// anything to change.
    async fn change(
        &self,
        changing: &mpsc::Sender<Changing>,
        subscription: Subscription,
    ) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        let it = Changing {
            subscription,
            reply,
        };
        let stopped = || Failure::Busy.doing("changing a subscription");
        changing.send(it).await.map_err(|_| stopped())?;
        let changed = answer.await.unwrap_or_else(|_| Err(stopped()))?;
        if changed {
            self.changed().await;
        } else {
            self.settled().await;
        }
        Ok(changed)
    }

    /// After a change: whoever watches is told before the caller is.
    async fn changed(&self) {
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

/// What is made again when it fails, until the store's patience ends.
struct Attempts<'a> {
    shared: &'a Shared,
    doing: &'static str,
    again: Again,
    give_up: Instant,
    pause: Duration,
}

impl<'a> Attempts<'a> {
    fn new(shared: &'a Shared, doing: &'static str, again: Again) -> Self {
        Self {
            shared,
            doing,
            again,
            give_up: Instant::now() + shared.options.patience,
            pause: Duration::from_millis(20),
        }
    }

    /// A connection on which nothing was said yet.
    async fn connection(&mut self) -> Result<Object, StoreError> {
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

    /// What was made of it before the time was over; `None` if it is to be made again.
    async fn after<T>(
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
                // Those that wait in the pool were made before, with the same server.
                self.shared.pool.retain(|_, _| false);
            }
        }
        self.shared.note(&failure);
        self.judge(failure).await
    }

    /// Waits if the statement is to be made again.
    async fn judge<T>(&mut self, failure: Failure) -> Result<Option<T>, StoreError> {
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

    async fn wait(&mut self, failure: Failure) -> Result<(), StoreError> {
        if Instant::now() + self.pause >= self.give_up {
            return Err(failure.doing(self.doing));
        }
        tracing::debug!(doing = self.doing, error = %failure, "it failed; trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (2 * self.pause).min(Duration::from_millis(500));
        Ok(())
    }
}

impl Shared {
    /// Makes a statement, within the store's patience.
    async fn query(
        &self,
        doing: &'static str,
        again: Again,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut attempts = Attempts::new(self, doing, again);
        loop {
            let connection = attempts.connection().await?;
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

    async fn connection(&self, give_up: Instant) -> Result<Object, Failure> {
        match timeout_at(give_up, self.pool.get()).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(Failure::Busy),
        }
    }

    /// Keeps in mind that the database cannot be used, if that is what `failure` says.
    fn note(&self, failure: &Failure) {
        if failure.is_trouble() {
            *self.trouble() = Some(failure.to_string());
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for something that only a server that takes writes does, and that changes nothing.
    async fn probe(&self) {
        if self.trouble().is_none() {
            return;
        }
        let sql = "UPDATE httppubsub_log SET trimmed_to = trimmed_to WHERE false";
        let probed = self.query("probing", Again::Harmless, sql, &[]).await;
        if probed.is_ok() {
            *self.trouble() = None;
        }
    }

    async fn trim(&self) -> Result<(), StoreError> {
        let kept = i64::from(self.options.changes_kept);
        // One after the other; what one has forgotten the next need not. A mark in the future is that of
        // another server, whose dump this is: none of its transactions is open here.
        let sql = "WITH log AS MATERIALIZED (SELECT ctid, trimmed_to, mark_seq, mark_xid \
             FROM httppubsub_log FOR UPDATE SKIP LOCKED), \
             state AS MATERIALIZED (SELECT coalesce(max(seq), 0) AS newest, count(*) AS kept \
             FROM httppubsub_changes), \
             marked AS MATERIALIZED (SELECT log.ctid, log.trimmed_to, log.mark_seq, log.mark_xid, \
             pg_snapshot_xmin(pg_current_snapshot()) >= mark_xid \
             OR mark_xid > pg_snapshot_xmax(pg_current_snapshot()) AS is_over FROM log), \
             cut AS MATERIALIZED (SELECT marked.ctid, greatest(trimmed_to, CASE WHEN is_over \
             THEN least(mark_seq, state.newest - $1) ELSE 0 END) AS trimmed_to, \
             CASE WHEN is_over THEN state.newest ELSE mark_seq END AS mark_seq, \
             CASE WHEN is_over THEN pg_current_xact_id() ELSE mark_xid END AS mark_xid \
             FROM marked, state WHERE state.kept > $1 + $1 / 4), \
             set AS (UPDATE httppubsub_log SET trimmed_to = cut.trimmed_to, \
             mark_seq = cut.mark_seq, mark_xid = cut.mark_xid FROM cut \
             WHERE httppubsub_log.ctid = cut.ctid) \
             DELETE FROM httppubsub_changes USING cut WHERE seq <= cut.trimmed_to";
        let doing = "forgetting old changes";
        self.query(doing, Again::Harmless, sql, &[&kept]).await?;
        let sql = "DELETE FROM httppubsub_spent WHERE until < clock_timestamp()";
        let doing = "forgetting old authorizations";
        self.query(doing, Again::Harmless, sql, &[]).await?;
        Ok(())
    }
}

/// Says on the channel of the database that something changed. Not in the transactions that do: those
/// would end one after the other.
async fn wake_others(shared: Arc<Shared>) {
    loop {
        shared.changed.notified().await;
        let sql = "SELECT pg_notify('httppubsub_changes', '')";
        let woken = shared.query("waking others", Again::Harmless, sql, &[]);
        if let Err(error) = woken.await {
            tracing::debug!(%error, "cannot wake others; they will look by themselves");
        }
        tokio::time::sleep(BETWEEN_WAKES).await;
    }
}

/// Keeps the observer up to date also while nobody asks for it, and the tables short.
async fn look_for_changes(shared: Arc<Shared>) {
    let mut trimmed = Instant::now();
    let mut is_well = true;
    loop {
        tokio::select! {
            () = shared.feed.woken.notified() => {}
            () = tokio::time::sleep(shared.options.poll_interval) => {}
        }
        match shared.feed.look().await {
            Ok(()) if !is_well => {
                is_well = true;
                tracing::info!("the database is back");
            }
            Err(error) if is_well => {
                is_well = false;
                tracing::error!(%error, "the database cannot be reached; trying again");
            }
            _ => {}
        }
        if trimmed.elapsed() >= BETWEEN_TRIMS {
            trimmed = Instant::now();
            if let Err(error) = shared.trim().await {
                tracing::warn!(%error, "cannot forget what is old");
            }
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError> {
        let watched = self.shared.feed.watch(observer).await;
        watched.map_err(|failure| failure.doing("reading the subscriptions"))
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        let done = self.shared.feed.catch_up().await;
        done.map_err(|failure| failure.doing("reading what changed"))
    }

    fn trouble(&self) -> Option<String> {
        let trouble = self.shared.feed.trouble();
        trouble.or_else(|| self.shared.trouble().clone())
    }

    async fn probe(&self) {
        self.shared.probe().await;
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed, StoreError> {
        match self.change(&self.adding, subscription).await? {
            true => Ok(Subscribed::Added),
            false => Ok(Subscribed::Existed),
        }
    }

    async fn unsubscribe(
        &self,
        url: SubscriberUrl,
        interest: Interest,
    ) -> Result<Unsubscribed, StoreError> {
        let it = Subscription {
            url,
            interest,
            recovery: None,
        };
        match self.change(&self.removing, it).await? {
            true => Ok(Unsubscribed::Removed),
            false => Ok(Unsubscribed::Absent),
        }
    }

    async fn set(&self, url: SubscriberUrl, set: SubscriptionSet) -> Result<Changed, StoreError> {
        let (mut kinds, mut interests, mut recoveries) = (Vec::new(), Vec::new(), Vec::new());
        for (topic, recovery) in set.exacts() {
            kinds.push(0_i16);
            interests.push(topic.as_bytes());
            recoveries.push(recovery.as_ref().map_or(&b""[..], bytes));
        }
        for (glob, recovery) in set.globs() {
            kinds.push(1_i16);
            interests.push(glob.as_str().as_bytes());
            recoveries.push(recovery.as_ref().map_or(&b""[..], bytes));
        }
        let sql = "SELECT added, removed, updated FROM httppubsub_set($1, $2, $3, $4)";
        let parameters: Parameters<'_> = &[&bytes(&url), &kinds, &interests, &recoveries];
        let doing = "setting subscriptions";
        let rows = self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await?;
        let row = one(&rows, doing)?;
        let count = |at| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
        let changed = Changed {
            added: count(0),
            removed: count(1),
            updated: count(2),
        };
        if changed == Changed::default() {
            self.settled().await;
        } else {
            self.changed().await;
        }
        Ok(changed)
    }

    async fn etag(&self, url: SubscriberUrl) -> Result<StrongEtag, StoreError> {
        let shared = &self.shared;
        let mut attempts = Attempts::new(shared, "computing an etag", Again::Harmless);
        loop {
            let connection = attempts.connection().await?;
            let made = timeout_at(attempts.give_up, etag(&connection, &url)).await;
            if let Some(etag) = attempts.after(connection, made).await? {
                self.settled().await;
                return Ok(etag);
            }
        }
    }

    async fn record_missed(&self, missed: Missed) -> Result<(), StoreError> {
        let sql = "INSERT INTO httppubsub_notices AS it (subscription, topic, due, attempts) \
             SELECT id, CASE kind WHEN 0 THEN interest ELSE $4 END, $5, 0 \
             FROM httppubsub_subscriptions \
             WHERE sha256(url) = sha256($1) AND kind = $2 AND sha256(interest) = sha256($3) \
             AND recovery IS NOT NULL \
             ON CONFLICT (subscription) DO UPDATE SET topic = excluded.topic, attempts = 0, \
             due = CASE WHEN it.lock IS NULL THEN least(it.due, excluded.due) \
             ELSE excluded.due END, lock = NULL, held_until = NULL";
        let Missed {
            url,
            interest,
            topic,
            due,
        } = &missed;
        let parameters: Parameters<'_> = &[
            &bytes(url),
            &kind_of(interest),
            &interest.as_bytes(),
            &topic.as_bytes(),
            &seconds_up(*due),
        ];
        let doing = "recording a missed message";
        match self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await
        {
            // Its subscription is gone since it was looked up.
            Err(error) if is_of(&error, &SqlState::FOREIGN_KEY_VIOLATION) => Ok(()),
            done => done.map(drop),
        }
    }

    async fn claim_missed(
        &self,
        now: Now,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ClaimedNotice>, StoreError> {
        let sql = "WITH due AS MATERIALIZED (SELECT subscription FROM httppubsub_notices \
             WHERE due <= $5 AND (held_until IS NULL OR held_until <= $1) \
             ORDER BY due LIMIT $2 FOR UPDATE SKIP LOCKED) \
             UPDATE httppubsub_notices it SET lock = $3, held_until = $4 \
             FROM due, httppubsub_subscriptions of \
             WHERE it.subscription = due.subscription AND of.id = it.subscription \
             RETURNING it.due, it.attempts, it.topic, of.url, of.kind, of.interest, of.recovery, \
             of.id";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let lock = lock::random();
        let parameters: Parameters<'_> = &[
            &seconds(now),
            &limit,
            &lock,
            &seconds(now + lease),
            &seconds_down(now),
        ];
        let doing = "claiming notices";
        let rows = self.shared.query(doing, Again::No, sql, parameters).await?;
        let mut urls = Urls::default();
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut parse = || {
                Ok::<_, super::row::Unreadable>(ClaimedNotice {
                    url: url_of(&mut urls, row.get(3))?,
                    interest: interest_of(row.get(4), row.get(5))?,
                    recovery: url_of(&mut urls, row.get::<_, Option<&[u8]>>(6).unwrap_or(b""))?,
                    topic: topic_of(row.get(2))?,
                    attempts: u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX),
                    lock,
                })
            };
            match parse() {
                Ok(notice) => claimed.push((row.get::<_, i64>(0), notice)),
                Err(why) => {
                    let id: i64 = row.get(7);
                    tracing::warn!(id, %why, "dropped a notice that cannot be sent");
                    let sql = "DELETE FROM httppubsub_notices WHERE subscription = $1";
                    self.shared
                        .query(doing, Again::Harmless, sql, &[&id])
                        .await?;
                }
            }
        }
        claimed.sort_by_key(|(due, _)| *due);
        Ok(claimed.into_iter().map(|(_, notice)| notice).collect())
    }

    async fn settle_missed(
        &self,
        notice: &ClaimedNotice,
        outcome: NoticeOutcome,
    ) -> Result<(), StoreError> {
        let doing = "settling a notice";
        let (url, kind) = (bytes(&notice.url), kind_of(&notice.interest));
        let interest = notice.interest.as_bytes();
        let done = match outcome {
            NoticeOutcome::Done => {
                let sql = "DELETE FROM httppubsub_notices it USING httppubsub_subscriptions of \
                     WHERE of.id = it.subscription AND sha256(of.url) = sha256($1) \
                     AND of.kind = $2 AND sha256(of.interest) = sha256($3) AND it.lock = $4";
                let parameters: Parameters<'_> = &[&url, &kind, &interest, &notice.lock];
                self.shared
                    .query(doing, Again::Harmless, sql, parameters)
                    .await
            }
            NoticeOutcome::Retry { attempts, due } => {
                let sql = "UPDATE httppubsub_notices it SET lock = NULL, held_until = NULL, \
                     attempts = $5, due = $6 FROM httppubsub_subscriptions of \
                     WHERE of.id = it.subscription AND sha256(of.url) = sha256($1) \
                     AND of.kind = $2 AND sha256(of.interest) = sha256($3) AND it.lock = $4";
                let (attempts, due) = (i64::from(attempts), seconds_up(due));
                let parameters: Parameters<'_> =
                    &[&url, &kind, &interest, &notice.lock, &attempts, &due];
                self.shared
                    .query(doing, Again::Harmless, sql, parameters)
                    .await
            }
        };
        done.map(drop)
    }

    async fn next_missed(&self) -> Result<Option<Now>, StoreError> {
        let sql = "SELECT (SELECT min(due)::double precision FROM httppubsub_notices \
             WHERE held_until IS NULL), (SELECT min(greatest(due, held_until)) \
             FROM httppubsub_notices WHERE held_until IS NOT NULL)";
        let doing = "looking for the next notice";
        let rows = self.shared.query(doing, Again::Harmless, sql, &[]).await?;
        let row = one(&rows, doing)?;
        let moments: [Option<f64>; 2] = [row.get(0), row.get(1)];
        Ok(moments.into_iter().flatten().map(moment).min())
    }

    async fn record_in_flight(&self, in_flight: InFlight) -> Result<(), StoreError> {
        let InFlight {
            broadcaster,
            topic,
            until,
        } = &in_flight;
        let sql = "INSERT INTO httppubsub_in_flight (broadcaster, topic, until) \
             VALUES ($1, $2, $3) ON CONFLICT (sha256(broadcaster), sha256(topic)) \
             DO UPDATE SET until = excluded.until";
        let parameters: Parameters<'_> =
            &[&bytes(broadcaster), &topic.as_bytes(), &seconds_up(*until)];
        let doing = "recording a notification in flight";
        let done = self.shared.query(doing, Again::Harmless, sql, parameters);
        done.await.map(drop)
    }

    async fn forget_in_flight(
        &self,
        broadcaster: SubscriberUrl,
        topics: Vec<Topic>,
    ) -> Result<(), StoreError> {
        let sql = "DELETE FROM httppubsub_in_flight USING unnest($2::bytea[]) AS ended (topic) \
             WHERE sha256(broadcaster) = sha256($1) \
             AND sha256(httppubsub_in_flight.topic) = sha256(ended.topic)";
        let topics: Vec<_> = topics.iter().map(Topic::as_bytes).collect();
        let parameters: Parameters<'_> = &[&bytes(&broadcaster), &topics];
        let doing = "forgetting what is in flight no more";
        let done = self.shared.query(doing, Again::Harmless, sql, parameters);
        done.await.map(drop)
    }

    async fn in_flight(
        &self,
        broadcaster: SubscriberUrl,
        now: Now,
        limit: usize,
    ) -> Result<Vec<InFlight>, StoreError> {
        let sql = "SELECT broadcaster, topic, until FROM httppubsub_in_flight \
             WHERE sha256(broadcaster) = sha256($1) OR until <= $2 LIMIT $3";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: Parameters<'_> = &[&bytes(&broadcaster), &seconds_down(now), &limit];
        let doing = "looking for what was in flight";
        let rows = self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await?;
        let mut urls = Urls::default();
        let mut found = Vec::new();
        for row in &rows {
            let mut parse = || {
                Ok::<_, super::row::Unreadable>(InFlight {
                    broadcaster: url_of(&mut urls, row.get(0))?,
                    topic: topic_of(row.get(1))?,
                    until: Now::from_unix(Duration::from_secs(
                        u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
                    )),
                })
            };
            match parse() {
                Ok(it) => found.push(it),
                Err(why) => tracing::warn!(%why, "cannot tell what was in flight"),
            }
        }
        Ok(found)
    }

    fn cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }
}

#[async_trait]
impl Cluster for PostgresStore {
    async fn alive(&self, alive: Alive, lease: Duration) -> Result<Heard, StoreError> {
        let Alive {
            url,
            identity,
            instance,
            version,
            websockets,
        } = &alive;
        // The others are read as they were before this. Whether this one was forgotten is known only
        // by who has its row locked: of one that was updated `xmax` is not 0.
        let sql = "WITH me AS (INSERT INTO httppubsub_broadcasters AS it \
             (url, instance, version, alive_until, known, websockets, identity) \
             VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5, $6, $7) \
             ON CONFLICT (sha256(url)) DO UPDATE SET instance = excluded.instance, \
             identity = excluded.identity, \
             version = excluded.version, seen_at = clock_timestamp(), \
             alive_until = excluded.alive_until, known = excluded.known, \
             websockets = excluded.websockets, started_at = CASE \
             WHEN it.instance = excluded.instance THEN it.started_at \
             ELSE excluded.started_at END \
             WHERE it.identity IS NOT DISTINCT FROM excluded.identity \
             OR it.alive_until <= clock_timestamp() RETURNING xmax = 0 AS is_new) \
             SELECT extract(epoch FROM clock_timestamp())::double precision, it.url, it.version, \
             extract(epoch FROM it.started_at)::double precision, \
             extract(epoch FROM it.seen_at)::double precision, \
             extract(epoch FROM it.alive_until)::double precision, it.known, it.websockets, \
             it.instance, (SELECT is_new FROM me) \
             FROM (SELECT 1) one LEFT JOIN httppubsub_broadcasters it ON true ORDER BY it.url";
        let known = self.shared.feed.newest.load(Ordering::Relaxed);
        let websockets = i64::try_from(*websockets).unwrap_or(i64::MAX);
        let parameters: Parameters<'_> = &[
            &bytes(url),
            instance,
            version,
            &lease.as_secs_f64(),
            &known,
            &websockets,
            &&identity[..],
        ];
        let doing = "saying that this broadcaster lives";
        let rows = self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await?;
        let first = one(&rows, doing)?;
        // Nothing was written if another lives there.
        let is_new: Option<bool> = first.get(9);
        let before = rows
            .iter()
            .find(|row| is_new != Some(true) && row.get::<_, Option<&[u8]>>(1) == Some(bytes(url)));
        let broadcasters = broadcasters(&rows);
        let holder = broadcasters.iter().find(|it| it.url == *url);
        Ok(Heard {
            now: moment(first.get(0)),
            before: before.map(|row| row.get(8)),
            holder: holder.filter(|_| is_new.is_none()).cloned(),
            broadcasters,
        })
    }

    async fn census(&self) -> Result<Census, StoreError> {
        let sql = "SELECT extract(epoch FROM clock_timestamp())::double precision, it.url, \
             it.version, extract(epoch FROM it.started_at)::double precision, \
             extract(epoch FROM it.seen_at)::double precision, \
             extract(epoch FROM it.alive_until)::double precision, it.known, it.websockets, \
             (SELECT coalesce(max(seq), 0) FROM httppubsub_changes), \
             (SELECT count(*) FROM httppubsub_subscriptions), \
             (SELECT count(*) FROM httppubsub_notices), \
             (SELECT count(*) FROM httppubsub_notices WHERE held_until IS NOT NULL) \
             FROM (SELECT 1) one LEFT JOIN httppubsub_broadcasters it ON true ORDER BY it.url";
        let doing = "looking for broadcasters";
        let rows = self.shared.query(doing, Again::Harmless, sql, &[]).await?;
        let first = one(&rows, doing)?;
        let count = |at| u64::try_from(first.get::<_, i64>(at)).unwrap_or(0);
        Ok(Census {
            now: moment(first.get(0)),
            newest: first.get(8),
            subscriptions: count(9),
            owed: count(10),
            held: count(11),
            broadcasters: broadcasters(&rows),
        })
    }

    async fn gone(&self, url: SubscriberUrl, identity: [u8; 16]) -> Result<(), StoreError> {
        let sql = "DELETE FROM httppubsub_broadcasters \
             WHERE sha256(url) = sha256($1) AND identity = $2";
        let doing = "saying that this broadcaster stopped";
        self.shared
            .query(doing, Again::Harmless, sql, &[&bytes(&url), &&identity[..]])
            .await
            .map(drop)
    }

    async fn forget(&self, url: SubscriberUrl) -> Result<bool, StoreError> {
        let sql = "WITH gone AS (DELETE FROM httppubsub_broadcasters \
             WHERE sha256(url) = sha256($1) AND alive_until < clock_timestamp() RETURNING url), \
             theirs AS (DELETE FROM httppubsub_subscriptions it USING gone \
             WHERE sha256(it.url) = sha256(gone.url)) SELECT count(*) FROM gone";
        let doing = "forgetting a broadcaster";
        let rows = self
            .shared
            .query(doing, Again::No, sql, &[&bytes(&url)])
            .await?;
        let is_forgotten = one(&rows, doing)?.get::<_, i64>(0) > 0;
        if is_forgotten {
            self.changed().await;
        }
        Ok(is_forgotten)
    }

    async fn spend(&self, code: [u8; 16], memory: Duration) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        let spending = Spending {
            code,
            memory,
            reply,
        };
        let doing = "spending an authorization";
        self.spendings
            .send(spending)
            .await
            .map_err(|_| Failure::Busy.doing(doing))?;
        answer
            .await
            .unwrap_or_else(|_| Err(Failure::Busy.doing(doing)))
    }

    async fn release(&self, code: [u8; 16]) -> Result<(), StoreError> {
        let sql = "DELETE FROM httppubsub_spent WHERE code = $1 AND spender = $2";
        let doing = "releasing an authorization";
        self.shared
            .query(
                doing,
                Again::Harmless,
                sql,
                &[&&code[..], &self.shared.spender],
            )
            .await
            .map(drop)
    }
}

fn broadcasters(rows: &[Row]) -> Vec<Seen> {
    let mut urls = Urls::default();
    let mut all = Vec::new();
    for row in rows {
        let Some(url) = row.get::<_, Option<&[u8]>>(1) else {
            continue;
        };
        match url_of(&mut urls, url) {
            Ok(url) => all.push(Seen {
                url,
                version: row.get(2),
                started: moment(row.get(3)),
                seen: moment(row.get(4)),
                until: moment(row.get(5)),
                known: row.get(6),
                websockets: usize::try_from(row.get::<_, i64>(7)).unwrap_or(0),
            }),
            Err(why) => tracing::warn!(%why, "passed over a broadcaster"),
        }
    }
    all
}

/// A subscription that somebody wants to add or to remove.
struct Changing {
    subscription: Subscription,
    /// Whether there was anything to change.
    reply: oneshot::Sender<Result<bool, StoreError>>,
}

#[derive(Clone, Copy)]
enum Verb {
    Add,
    Remove,
}

/// How many subscriptions are added or removed with one statement.
const CHANGED_AT_ONCE: usize = 128;

/// Makes all changes that wait with one statement, which becomes durable with one wait for the disk.
async fn change_in_groups(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Changing>, verb: Verb) {
    // In one order, so that two who do the same wait for each other once.
    let (doing, sql) = match verb {
        Verb::Add => (
            "adding subscriptions",
            "INSERT INTO httppubsub_subscriptions (url, kind, interest, recovery) \
             SELECT url, kind, interest, nullif(recovery, '') \
             FROM unnest($1::bytea[], $2::smallint[], $3::bytea[], $4::bytea[]) \
             AS new (url, kind, interest, recovery) ORDER BY sha256(url), kind, sha256(interest) \
             ON CONFLICT (sha256(url), kind, sha256(interest)) DO NOTHING \
             RETURNING url, kind, interest",
        ),
        Verb::Remove => (
            "removing subscriptions",
            "WITH old AS MATERIALIZED (SELECT it.id FROM unnest($1::bytea[], $2::smallint[], \
             $3::bytea[], $4::bytea[]) AS old (url, kind, interest, recovery) \
             JOIN httppubsub_subscriptions it ON sha256(it.url) = sha256(old.url) \
             AND it.kind = old.kind AND sha256(it.interest) = sha256(old.interest) \
             ORDER BY it.id FOR UPDATE OF it) \
             DELETE FROM httppubsub_subscriptions it USING old WHERE it.id = old.id \
             RETURNING it.url, it.kind, it.interest",
        ),
    };
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, CHANGED_AT_ONCE).await > 0 {
        let key = |it: &Changing| {
            let Subscription { url, interest, .. } = &it.subscription;
            (
                bytes(url).to_vec(),
                kind_of(interest),
                interest.as_bytes().to_vec(),
            )
        };
        let mut keys = BTreeSet::new();
        let (mut urls, mut kinds) = (Vec::new(), Vec::new());
        let (mut interests, mut recoveries) = (Vec::new(), Vec::new());
        for it in &group {
            // Of two that ask for the same at once the first does it.
            if keys.insert(key(it)) {
                let Subscription {
                    url,
                    interest,
                    recovery,
                } = &it.subscription;
                urls.push(bytes(url));
                kinds.push(kind_of(interest));
                interests.push(interest.as_bytes());
                recoveries.push(recovery.as_ref().map_or(&b""[..], bytes));
            }
        }
        let parameters: Parameters<'_> = &[&urls, &kinds, &interests, &recoveries];
        let done = shared.query(doing, Again::No, sql, parameters).await;
        let mut done = done.map(|rows| {
            let keys = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2)));
            keys.collect::<BTreeSet<(Vec<u8>, i16, Vec<u8>)>>()
        });
        for it in group.drain(..) {
            let answer = match &mut done {
                Ok(done) => Ok(done.remove(&key(&it))),
                Err(error) => Err(again(doing, error)),
            };
            // A caller that is gone does not care.
            let _ = it.reply.send(answer);
        }
    }
}

/// The same failure for another who waited.
fn again(doing: &'static str, error: &StoreError) -> StoreError {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        why = format!("{why}: {error}");
        source = error.source();
    }
    StoreError::Unavailable {
        doing,
        source: why.into(),
    }
}

/// A code that somebody wants to spend.
struct Spending {
    code: [u8; 16],
    memory: Duration,
    reply: oneshot::Sender<Result<bool, StoreError>>,
}

/// How many codes are spent with one statement.
const SPENT_AT_ONCE: usize = 1_024;

/// Spends all codes that wait with one statement. It does not wait for the disk: what a crash of the
/// database server may undo are the last moments before it.
async fn spend_in_groups(shared: Arc<Shared>, mut spendings: mpsc::Receiver<Spending>) {
    let sql = "WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)) \
         INSERT INTO httppubsub_spent AS it (code, spender, until) \
         SELECT code, $2, clock_timestamp() + make_interval(secs => seconds) \
         FROM quick, unnest($1::bytea[], $3::double precision[]) AS new (code, seconds) \
         ON CONFLICT (code) DO UPDATE SET until = greatest(it.until, excluded.until) \
         WHERE it.spender = excluded.spender RETURNING code";
    let mut group = Vec::new();
    while spendings.recv_many(&mut group, SPENT_AT_ONCE).await > 0 {
        // Of two that spend the same the second is told by whoever asked, who remembers.
        let all: BTreeMap<_, _> = group.iter().map(|it| (&it.code[..], it.memory)).collect();
        let codes: Vec<_> = all.keys().copied().collect();
        let seconds: Vec<_> = all.values().map(Duration::as_secs_f64).collect();
        let doing = "spending authorizations";
        let parameters: Parameters<'_> = &[&codes, &shared.spender, &seconds];
        // This store may spend the same again: it is asked only if the first time came to nothing.
        let spent = shared.query(doing, Again::Harmless, sql, parameters).await;
        let spent = spent.map(|rows| {
            let codes = rows.iter().map(|row| row.get::<_, Vec<u8>>(0));
            codes.collect::<BTreeSet<_>>()
        });
        for Spending { code, reply, .. } in group.drain(..) {
            // A caller that is gone does not care.
            let _ = reply.send(match &spent {
                Ok(spent) => Ok(spent.contains(&code[..])),
                Err(error) => Err(again(doing, error)),
            });
        }
    }
}

async fn etag(connection: &Object, url: &SubscriberUrl) -> Result<StrongEtag, Failure> {
    let statement = connection
        .prepare_cached(
            "SELECT kind, interest, recovery FROM httppubsub_subscriptions \
             WHERE sha256(url) = sha256($1) ORDER BY kind, interest",
        )
        .await?;
    let mut etag = StrongEtagHasher::new(url);
    let rows = connection.query_raw(&statement, [bytes(url)]).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.next().await {
        let row = row?;
        let interest: &[u8] = row.get(1);
        let recovery = row.get::<_, Option<&[u8]>>(2).map(std::str::from_utf8);
        // The same rows as the observer is told of.
        let Ok(recovery) = recovery.transpose() else {
            continue;
        };
        match row.get(0) {
            0_i16 => etag.exact(interest, recovery),
            _ => {
                if let Ok(glob) = std::str::from_utf8(interest) {
                    etag.glob(glob, recovery);
                }
            }
        }
    }
    Ok(etag.finish())
}

fn one<'a>(rows: &'a [Row], doing: &'static str) -> Result<&'a Row, StoreError> {
    rows.first()
        .ok_or_else(|| StoreError::Corrupt(format!("{doing}: no row")))
}

fn bytes(url: &SubscriberUrl) -> &[u8] {
    url.as_str().as_bytes()
}

fn is_of(error: &StoreError, state: &SqlState) -> bool {
    let StoreError::Unavailable { source, .. } = error else {
        return false;
    };
    match source.downcast_ref::<Failure>() {
        Some(Failure::Sql(error)) => error.code() == Some(state),
        _ => false,
    }
}

/// A notice is due in whole seconds, rounded up.
fn seconds_up(due: Now) -> i64 {
    let since = due.since_unix();
    let seconds = since
        .as_secs()
        .saturating_add(u64::from(since.subsec_nanos() > 0));
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// What is due in whole seconds is due by then.
fn seconds_down(now: Now) -> i64 {
    i64::try_from(now.unix_seconds()).unwrap_or(i64::MAX)
}

fn seconds(moment: Now) -> f64 {
    moment.since_unix().as_secs_f64()
}

fn moment(seconds: f64) -> Now {
    Now::from_unix(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}
