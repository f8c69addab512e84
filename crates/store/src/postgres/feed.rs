//! The position of the observer in the change sequence, and how it learns the rest.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::poll_fn;
use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Row, Statement};

use crate::contract::{Change, Observer};
use crate::postgres::address::Address;
use crate::postgres::failure::{Done, Failure};
use crate::postgres::row::{Unreadable, interest_of, subscription_of, url_of};
use crate::postgres::sql;
use crate::urls::Urls;

/// The one connection over which changes are read, and how far the observer has come. A reader
/// holds the state meanwhile, so that the observer sees one order.
///
/// A change has the number that its transaction drew from a sequence. Transactions end in another
/// order than they drew, and one that is rolled back leaves its number unused, so a number that is
/// missing may still come. [`Known::gaps`] remembers each with the transaction before which it must
/// have been drawn; once all transactions up to that one have ended, it never comes.
pub(super) struct Feed {
    address: Address,
    /// Longest wait of one call, from [`super::PostgresStoreBuilder::patience`].
    patience: Duration,
    /// So long after a look began, nothing is acknowledged that it did not see.
    settled_after: Duration,
    /// The start of the last look that ended well, in nanoseconds since `epoch`; 0 if there was
    /// none.
    looked: AtomicU64,
    /// The zero of the times that are kept in atomics.
    epoch: Instant,
    /// A count of all requests to read what changed.
    asked: AtomicU64,
    state: Mutex<State>,
    /// The failure of the last look, for [`Feed::trouble`].
    trouble: std::sync::Mutex<Option<String>>,
    /// The start of the question under way, in nanoseconds since `epoch`; 0 if there is none.
    asking_since: AtomicU64,
    /// Number of the last change that the observer knows, for the census.
    pub(super) newest: AtomicI64,
    /// Woken when another says that something changed.
    pub(super) woken: Arc<Notify>,
}

/// What a reader needs to go on from where the last one stopped.
#[derive(Default)]
struct State {
    /// `None` before [`Feed::watch`]: then there is nobody to tell, and looks return at once.
    observer: Option<Arc<dyn Observer>>,
    /// The requests made before the last look began, counted as in `asked`.
    answered: u64,
    /// `None` when the observer must be told everything.
    known: Option<Known>,
    connected: Option<Connected>,
}

/// The position in the history of the database.
struct Known {
    /// The largest number that was read.
    newest: i64,
    /// Of the transaction that made the newest: another history has another one.
    newest_xid: i64,
    /// Numbers up to the newest that were not there yet. A transaction that has one of them has a
    /// transaction older than the one beside it.
    gaps: BTreeMap<i64, i64>,
}

/// A session that listens, with the statements it is asked again and again.
struct Connected {
    client: Client,
    /// [`sql::NEWER`], for the usual case that nothing is missing.
    newer: Statement,
    /// [`sql::NEWER_AND_LATE`], while there are gaps.
    newer_and_late: Statement,
    /// The task that reads from the socket; it ends with the session.
    driver: AbortHandle,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// More missing numbers than these are not waited for one by one.
/// Each is a parameter of every look and an entry in memory; reading all subscriptions is cheaper
/// then.
const GAPS_MAX: usize = 10_000;

/// The time that the database may take to say what changed before that is trouble.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// The most changes passed to the observer at a time.
const CHUNK: usize = 4_096;

impl Feed {
    /// A feed that connects when it is first asked.
    pub(super) fn new(address: Address, patience: Duration, settled_after: Duration) -> Self {
        Self {
            address,
            patience,
            settled_after,
            looked: AtomicU64::new(0),
            epoch: Instant::now(),
            asked: AtomicU64::new(0),
            state: Mutex::default(),
            trouble: std::sync::Mutex::default(),
            asking_since: AtomicU64::new(0),
            newest: AtomicI64::new(0),
            woken: Arc::default(),
        }
    }

    /// Tells `observer` everything there is, and from now on what changes.
    pub(super) async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        state.observer = Some(observer);
        state.known = None;
        // Everything takes as long as it takes.
        self.advance(&mut state).await
    }

    /// Returns when the observer knows all that anybody was told is durable before this was called.
    /// A store acknowledges a change only some time after it was committed (see
    /// [`Feed::settled_after`]), so a look that began no longer ago than that has seen it.
    pub(super) async fn catch_up(&self) -> Result<(), Failure> {
        let looked = self.looked.load(Ordering::Acquire);
        if looked > 0 {
            // No lock and no query on this path, which most notifications take under load.
            let looked = self.epoch + Duration::from_nanos(looked);
            let age = looked.elapsed();
            if age < self.settled_after {
                if age > self.settled_after / 2 {
                    // The next one need not wait for it.
                    self.woken.notify_one();
                }
                return Ok(());
            }
        }
        self.look().await
    }

    /// The time between the commit of a change and its acknowledgement: who looked before has to
    /// look again by then.
    pub(super) fn settled_after(&self) -> Duration {
        self.settled_after
    }

    /// Returns when the observer knows all that was durable when this was called. Those who wait at
    /// the same time share one look.
    pub(super) async fn look(&self) -> Result<(), Failure> {
        // Taken before the lock: a holder that reads `asked` from now on answers for this call.
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let give_up = Instant::now() + self.patience;
        let waited = |_| Failure::Waited(self.patience);
        let mut state = timeout_at(give_up, self.state.lock())
            .await
            .map_err(waited)?;
        if state.answered >= ticket || state.observer.is_none() {
            return Ok(());
        }
        // Doubled after each failure, so that a server that is starting is not flooded.
        let mut pause = Duration::from_millis(20);
        loop {
            // Read before the look begins: later calls may be after a commit that the look does not
            // see.
            let asked = self.asked.load(Ordering::SeqCst);
            let began = self.epoch.elapsed();
            // To read everything takes as long as it takes; a caller that cannot wait goes.
            let all = state.known.is_none();
            let looked = match all {
                true => self.advance(&mut state).await,
                false => {
                    self.asking_since
                        .store(nanoseconds(began), Ordering::Relaxed);
                    match timeout_at(give_up, self.advance(&mut state)).await {
                        Ok(looked) => looked,
                        Err(_) => Err(Failure::Waited(self.patience)),
                    }
                }
            };
            self.asking_since.store(0, Ordering::Relaxed);
            match looked {
                Ok(()) => {
                    state.answered = asked;
                    self.note(None);
                    self.looked.store(nanoseconds(began), Ordering::Release);
                    return Ok(());
                }
                Err(failure) => {
                    // Nobody goes by what was known before it.
                    self.looked.store(0, Ordering::Release);
                    state.connected = None;
                    self.note(Some(&failure));
                    if failure.done() == Done::Never || Instant::now() + pause >= give_up {
                        return Err(failure);
                    }
                    tracing::debug!(error = %failure, "cannot read what changed; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(Duration::from_millis(500));
                }
            }
        }
    }

    /// The failure of the last look, or that the one under way takes long; `None` for neither.
    pub(super) fn trouble(&self) -> Option<String> {
        let since = self.asking_since.load(Ordering::Relaxed);
        if since > 0 && (self.epoch + Duration::from_nanos(since)).elapsed() > SILENT_AFTER {
            return Some("the database does not answer".to_owned());
        }
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clone()
    }

    /// Remembers the outcome of a look.
    fn note(&self, failure: Option<&Failure>) {
        let trouble = failure.map(ToString::to_string);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Reads what the observer does not know yet.
    ///
    /// # Errors
    ///
    /// Those of the database; [`Failure::ReadOnly`] from a server that takes no writes, as a
    /// replica may be behind what was acknowledged; [`Failure::Observer`].
    async fn advance(&self, state: &mut State) -> Result<(), Failure> {
        let Some(observer) = state.observer.clone() else {
            return Ok(());
        };
        if state
            .connected
            .as_ref()
            .is_none_or(|it| it.client.is_closed())
        {
            let connected = self.connect().await?;
            // Another session may have come to another server: a restored backup, or a replica that
            // lost the last commits. Its numbers then mean other changes.
            if let Some(known) = &state.known
                && !is_continued(&connected.client, known).await?
            {
                tracing::warn!("the database is another than before: reading all subscriptions");
                state.known = None;
            }
            state.connected = Some(connected);
        }
        let newer = match (&state.known, &state.connected) {
            (Some(known), Some(connected)) => newer(&connected.client, connected, known).await?,
            _ => Newer::TooMuch,
        };
        let newest = match newer {
            Newer::Nothing => return Ok(()),
            Newer::Changes(changes, known) => {
                // Who panics may have taken in a part of it, so only everything will do then.
                state.known = None;
                for changes in changes.chunks(CHUNK) {
                    tell(&*observer, changes)?;
                }
                state.known.insert(known).newest
            }
            Newer::TooMuch => {
                state.known = None;
                // A reader that is dropped amid this leaves a transaction open.
                let connected = state.connected.take().ok_or(Failure::Busy)?;
                let known = tell_all(&connected.client, &*observer).await?;
                state.connected = Some(connected);
                state.known.insert(known).newest
            }
        };
        self.newest.store(newest, Ordering::Relaxed);
        Ok(())
    }

    /// A session of its own, outside the pool: LISTEN is bound to a session, and a look must not
    /// wait for a free connection.
    async fn connect(&self) -> Result<Connected, Failure> {
        let (client, mut connection) = self.address.connect().await?;
        let woken = self.woken.clone();
        let driver = tokio::spawn(async move {
            loop {
                match poll_fn(|context| connection.poll_message(context)).await {
                    Some(Ok(AsyncMessage::Notification(_))) => woken.notify_one(),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(%error, "the connection to the database ended");
                        break;
                    }
                    None => break,
                }
            }
            // To learn soon whether there is another.
            woken.notify_one();
        });
        let driver = driver.abort_handle();
        let prepared = async {
            // Before the first query, so that what changes after that wakes this one.
            client.batch_execute("LISTEN httppubsub_changes").await?;
            let newer = client.prepare(sql::NEWER).await?;
            Ok::<_, tokio_postgres::Error>((newer, client.prepare(sql::NEWER_AND_LATE).await?))
        };
        match prepared.await {
            Ok((newer, newer_and_late)) => Ok(Connected {
                client,
                newer,
                newer_and_late,
                driver,
            }),
            Err(error) => {
                driver.abort();
                Err(Failure::from(error))
            }
        }
    }
}

/// `true` if the history of the database goes through what is known.
async fn is_continued(client: &Client, known: &Known) -> Result<bool, Failure> {
    let sql = sql::XID_OF;
    let row = client.query_opt(sql, &[&known.newest]).await?;
    Ok(known.newest == 0 || row.is_some_and(|row| row.get::<_, i64>(0) == known.newest_xid))
}

/// The outcome of a question for changes.
enum Newer {
    /// There is none, and no gap was closed either.
    Nothing,
    /// These, in the order of their numbers, and the position behind them.
    Changes(Vec<Change>, Known),
    /// Changes are missing that are gone; only everything will do.
    TooMuch,
}

/// Asks for the changes behind `known` and for late ones that fill a gap. Changes what is
/// known only by its return value, so that a failure leaves the position as it was.
async fn newer(client: &Client, connected: &Connected, known: &Known) -> Result<Newer, Failure> {
    let mut gaps = known.gaps.clone();
    let rows = if gaps.is_empty() {
        client.query(&connected.newer, &[&known.newest]).await?
    } else {
        let late: Vec<i64> = gaps.keys().copied().collect();
        let rows = client
            .query(&connected.newer_and_late, &[&known.newest, &late])
            .await?;
        // The statement gives one row even without changes.
        let first = rows.first().ok_or_else(|| nonsense("no log"))?;
        let (xmin, xmax, trimmed_to): (i64, i64, i64) = (first.get(8), first.get(9), first.get(10));
        for row in &rows {
            if let Some(seq) = row.get::<_, Option<i64>>(0) {
                gaps.remove(&seq);
            }
        }
        // No transaction has the number of one that comes from another server, by a dump of it.
        // Closed without its change: every transaction that could have had the number has ended, in
        // the snapshot that was also asked for the change.
        let over = gaps.iter().filter(|(_, xid)| xmin >= **xid || **xid > xmax);
        let over: Vec<i64> = over.map(|(seq, _)| *seq).collect();
        for seq in over {
            if seq <= trimmed_to {
                tracing::info!(seq, "a late change is gone before it was read: reading all");
                return Ok(Newer::TooMuch);
            }
            // Its transaction was rolled back.
            gaps.remove(&seq);
        }
        rows
    };
    if rows.first().is_some_and(|row| row.get(7)) {
        return Err(Failure::ReadOnly);
    }
    let (mut newest, mut newest_xid) = (known.newest, known.newest_xid);
    let mut missing = Vec::new();
    let mut changes = Vec::new();
    let mut urls = Urls::default();
    for row in &rows {
        let Some(seq) = row.get::<_, Option<i64>>(0) else {
            continue;
        };
        if seq > newest {
            if missing.len() + usize::try_from(seq - newest).unwrap_or(usize::MAX) > GAPS_MAX {
                tracing::info!(seq, newest, "too many changes are missing: reading all");
                return Ok(Newer::TooMuch);
            }
            // Numbers passed over on the way to this one.
            missing.extend(newest + 1..seq);
            (newest, newest_xid) = (seq, row.get(1));
        }
        match change(&mut urls, row) {
            Ok(change) => changes.push(change),
            Err(why) => tracing::warn!(seq, %why, "passed over a change"),
        }
    }
    if !missing.is_empty() {
        // Drawn after the changes were read: a transaction that has one of the missing numbers
        // began before, so it is older than this one.
        let (xid, trimmed_to) = now_and_trimmed_to(client).await?;
        if trimmed_to > known.newest {
            let known = known.newest;
            tracing::info!(
                known,
                trimmed_to,
                "changes are gone before they were read: reading all"
            );
            return Ok(Newer::TooMuch);
        }
        gaps.extend(missing.into_iter().map(|seq| (seq, xid)));
    }
    if changes.is_empty() && newest == known.newest && gaps.len() == known.gaps.len() {
        return Ok(Newer::Nothing);
    }
    let known = Known {
        newest,
        newest_xid,
        gaps,
    };
    Ok(Newer::Changes(changes, known))
}

/// A transaction that is younger than any that has a number by now, and up to where changes are
/// gone.
async fn now_and_trimmed_to(client: &Client) -> Result<(i64, i64), Failure> {
    let sql = sql::WATERMARK;
    let row = client.query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

/// The change in a row of [`sql::NEWER`] or [`sql::NEWER_AND_LATE`].
fn change(urls: &mut Urls, row: &Row) -> Result<Change, Unreadable> {
    let (added, kind): (bool, i16) = (row.get(2), row.get(3));
    let (url, interest): (&[u8], &[u8]) = (row.get(4), row.get(5));
    if added {
        return subscription_of(urls, kind, url, interest, row.get(6)).map(Change::Added);
    }
    Ok(Change::Removed {
        url: url_of(urls, url)?,
        interest: interest_of(kind, interest)?,
    })
}

/// Tells all subscriptions, and returns the position at which they were read. Both come from one
/// snapshot: a change between them would reach the observer neither as a row nor as a change.
async fn tell_all(client: &Client, observer: &dyn Observer) -> Result<Known, Failure> {
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let counts = client.query_one(sql::COUNTS, &[]).await?;
    let count = |at| usize::try_from(counts.get::<_, i64>(at)).unwrap_or(0);
    let (exacts, globs) = (count(0), count(1));
    let trimmed_to: i64 = counts.get(2);
    let mut changes = vec![Change::ReloadBegan { exacts, globs }];
    let mut urls = Urls::default();
    let mut unreadable = 0_u64;
    let sql = sql::ALL;
    let nothing: [&(dyn ToSql + Sync); 0] = [];
    let mut rows = pin!(client.query_raw(sql, nothing).await?);
    while let Some(row) = rows.next().await {
        let row = row?;
        let (url, interest): (&[u8], &[u8]) = (row.get(1), row.get(2));
        match subscription_of(&mut urls, row.get(0), url, interest, row.get(3)) {
            Ok(it) => changes.push(Change::Added(it)),
            Err(why) => {
                unreadable += 1;
                if unreadable == 1 {
                    tracing::warn!(id = row.get::<_, i64>(4), %why, "passed over a row");
                }
            }
        }
        if changes.len() >= CHUNK {
            tell(observer, &changes)?;
            changes.clear();
            // An observer takes some milliseconds for a chunk, and the rows may all have arrived.
            tokio::task::yield_now().await;
        }
    }
    if unreadable > 1 {
        tracing::warn!(unreadable, "passed over rows that are no subscriptions");
    }
    changes.push(Change::ReloadEnded);
    tell(observer, &changes)?;
    let sql = sql::KEPT;
    // Numbers that are missing in the kept part of the log may belong to transactions that were
    // open in the snapshot, so they are gaps from the start.
    let (mut newest, mut newest_xid) = (trimmed_to, 0);
    let mut missing = Vec::new();
    let mut log = pin!(client.query_raw(sql, [trimmed_to]).await?);
    while let Some(row) = log.next().await {
        let row = row?;
        let seq: i64 = row.get(0);
        missing.extend(newest + 1..seq);
        (newest, newest_xid) = (seq, row.get(1));
    }
    client.batch_execute("COMMIT").await?;
    let (xid, _) = match missing.is_empty() {
        true => (0, 0),
        false => now_and_trimmed_to(client).await?,
    };
    let gaps = missing.into_iter().map(|seq| (seq, xid)).collect();
    Ok(Known {
        newest,
        newest_xid,
        gaps,
    })
}

/// Calls the observer. A panic there must not end the task that looks for changes.
fn tell(observer: &dyn Observer, changes: &[Change]) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(|| observer.observe(changes))).map_err(|_| {
        tracing::error!("the observer of changes panicked; it will be told everything again");
        Failure::Observer
    })
}

/// Enough for 584 years; 0 stands for none.
fn nanoseconds(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(0)
}

/// An answer that no statement of ours can have.
fn nonsense(what: &str) -> Failure {
    Failure::Nonsense(what.to_owned())
}
