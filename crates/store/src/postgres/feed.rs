//! What the observer knows of the change sequence, and how it learns the rest.

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

use super::address::Address;
use super::failure::{Done, Failure};
use super::row::{Unreadable, interest_of, subscription_of, url_of};
use crate::store::{Change, Observer};
use crate::urls::Urls;

/// The one connection over which changes are read. Whoever reads holds the state meanwhile, so that
/// the observer sees one order.
pub(super) struct Feed {
    address: Address,
    patience: Duration,
    /// So long after a look began, nothing is acknowledged that it did not see.
    settled_after: Duration,
    /// When the last look that ended well began, in nanoseconds since `epoch`; 0 if there was none.
    looked: AtomicU64,
    epoch: Instant,
    /// How often somebody asked to have it all read.
    asked: AtomicU64,
    state: Mutex<State>,
    trouble: std::sync::Mutex<Option<String>>,
    /// When the question under way was asked, in nanoseconds since `epoch`; 0 if there is none.
    asking_since: AtomicU64,
    /// Number of the last change that the observer knows, for whoever is curious.
    pub(super) newest: AtomicI64,
    /// Woken when another says that something changed.
    pub(super) woken: Arc<Notify>,
}

#[derive(Default)]
struct State {
    observer: Option<Arc<dyn Observer>>,
    /// All who had asked when the last look began, of those who asked.
    answered: u64,
    /// `None` when the observer must be told everything.
    known: Option<Known>,
    connected: Option<Connected>,
}

struct Known {
    newest: i64,
    /// Of the transaction that made the newest: another history has another one.
    newest_xid: i64,
    /// Numbers up to the newest that were not there yet. Whoever has one of them, if anybody, has a
    /// transaction older than the one beside it.
    gaps: BTreeMap<i64, i64>,
}

struct Connected {
    client: Client,
    newer: Statement,
    newer_and_late: Statement,
    driver: AbortHandle,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// More missing numbers than these are not waited for one by one.
const GAPS_MAX: usize = 10_000;

/// How long the database may take to say what changed before that is trouble.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// How many changes the observer is told at a time.
const CHUNK: usize = 4_096;

/// There is a row also if nothing changed, as it says whether the server takes writes: one that does
/// not any longer may not know what was acknowledged.
const NEWER: &str = "SELECT it.seq, it.xid::text::bigint, it.added, it.kind, it.url, it.interest, \
     it.recovery, at.is_read_only \
     FROM (SELECT current_setting('transaction_read_only')::bool AS is_read_only) at \
     LEFT JOIN httppubsub_changes it ON it.seq > $1 ORDER BY it.seq";

/// All in one snapshot: what is not there when nobody is left who could have it never comes. `xmax` is
/// larger than the number of any transaction that has begun.
const NEWER_AND_LATE: &str = "SELECT it.seq, it.xid::text::bigint, it.added, it.kind, it.url, \
     it.interest, it.recovery, at.is_read_only, at.xmin, at.xmax, at.trimmed_to \
     FROM (SELECT current_setting('transaction_read_only')::bool AS is_read_only, \
     pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xmin, \
     pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xmax, \
     (SELECT trimmed_to FROM httppubsub_log) AS trimmed_to) at \
     LEFT JOIN httppubsub_changes it ON it.seq > $1 OR it.seq = ANY($2) ORDER BY it.seq";

impl Feed {
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
    /// Whoever changes something says so only some time after it was committed (see
    /// [`Feed::settled_after`]), so a look that began no longer ago than that has seen it.
    pub(super) async fn catch_up(&self) -> Result<(), Failure> {
        let looked = self.looked.load(Ordering::Acquire);
        if looked > 0 {
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

    /// How long after a change was committed it may be acknowledged: whoever looked before has to look
    /// again by then.
    pub(super) fn settled_after(&self) -> Duration {
        self.settled_after
    }

    /// Returns when the observer knows all that was durable when this was called. Those who wait at
    /// the same time share one look.
    pub(super) async fn look(&self) -> Result<(), Failure> {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let give_up = Instant::now() + self.patience;
        let waited = |_| Failure::Waited(self.patience);
        let mut state = timeout_at(give_up, self.state.lock())
            .await
            .map_err(waited)?;
        if state.answered >= ticket || state.observer.is_none() {
            return Ok(());
        }
        let mut pause = Duration::from_millis(20);
        loop {
            let asked = self.asked.load(Ordering::SeqCst);
            let began = self.epoch.elapsed();
            // To read everything takes as long as it takes; whoever does not want to wait goes.
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

    /// Why the last look failed, if it did, or that the one under way takes long.
    pub(super) fn trouble(&self) -> Option<String> {
        let since = self.asking_since.load(Ordering::Relaxed);
        if since > 0 && (self.epoch + Duration::from_nanos(since)).elapsed() > SILENT_AFTER {
            return Some("the database does not answer".to_owned());
        }
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clone()
    }

    fn note(&self, failure: Option<&Failure>) {
        let trouble = failure.map(ToString::to_string);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Reads what the observer does not know yet.
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
            client.batch_execute("LISTEN httppubsub_changes").await?;
            let newer = client.prepare(NEWER).await?;
            Ok::<_, tokio_postgres::Error>((newer, client.prepare(NEWER_AND_LATE).await?))
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

/// Whether the history of the database goes through what is known.
async fn is_continued(client: &Client, known: &Known) -> Result<bool, Failure> {
    let sql = "SELECT xid::text::bigint FROM httppubsub_changes WHERE seq = $1";
    let row = client.query_opt(sql, &[&known.newest]).await?;
    Ok(known.newest == 0 || row.is_some_and(|row| row.get::<_, i64>(0) == known.newest_xid))
}

enum Newer {
    Nothing,
    Changes(Vec<Change>, Known),
    /// What is missing is gone; only everything will do.
    TooMuch,
}

async fn newer(client: &Client, connected: &Connected, known: &Known) -> Result<Newer, Failure> {
    let mut gaps = known.gaps.clone();
    let rows = if gaps.is_empty() {
        client.query(&connected.newer, &[&known.newest]).await?
    } else {
        let late: Vec<i64> = gaps.keys().copied().collect();
        let rows = client
            .query(&connected.newer_and_late, &[&known.newest, &late])
            .await?;
        let first = rows.first().ok_or_else(|| nonsense("no log"))?;
        let (xmin, xmax, trimmed_to): (i64, i64, i64) = (first.get(8), first.get(9), first.get(10));
        for row in &rows {
            if let Some(seq) = row.get::<_, Option<i64>>(0) {
                gaps.remove(&seq);
            }
        }
        // No transaction has the number of one that comes from another server, by a dump of it.
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
            missing.extend(newest + 1..seq);
            (newest, newest_xid) = (seq, row.get(1));
        }
        match change(&mut urls, row) {
            Ok(change) => changes.push(change),
            Err(why) => tracing::warn!(seq, %why, "passed over a change"),
        }
    }
    if !missing.is_empty() {
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

/// A transaction that is younger than any that has a number by now, and up to where changes are gone.
async fn now_and_trimmed_to(client: &Client) -> Result<(i64, i64), Failure> {
    let sql = "SELECT pg_current_xact_id()::text::bigint, trimmed_to FROM httppubsub_log";
    let row = client.query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

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

async fn tell_all(client: &Client, observer: &dyn Observer) -> Result<Known, Failure> {
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let counts = client
        .query_one(
            "SELECT (SELECT count(*) FROM httppubsub_subscriptions WHERE kind = 0), \
             (SELECT count(*) FROM httppubsub_subscriptions WHERE kind = 1), \
             (SELECT trimmed_to FROM httppubsub_log)",
            &[],
        )
        .await?;
    let count = |at| usize::try_from(counts.get::<_, i64>(at)).unwrap_or(0);
    let (exacts, globs) = (count(0), count(1));
    let trimmed_to: i64 = counts.get(2);
    let mut changes = vec![Change::ReloadBegan { exacts, globs }];
    let mut urls = Urls::default();
    let mut unreadable = 0_u64;
    let sql = "SELECT kind, url, interest, recovery, id FROM httppubsub_subscriptions";
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
            tokio::task::yield_now().await;
        }
    }
    if unreadable > 1 {
        tracing::warn!(unreadable, "passed over rows that are no subscriptions");
    }
    changes.push(Change::ReloadEnded);
    tell(observer, &changes)?;
    let sql = "SELECT seq, xid::text::bigint FROM httppubsub_changes \
         WHERE seq > $1 ORDER BY seq";
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

fn tell(observer: &dyn Observer, changes: &[Change]) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(|| observer.observe(changes))).map_err(|_| {
        tracing::error!("the observer of changes panicked; it will be told everything again");
        Failure::Observer
    })
}

fn nanoseconds(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(0)
}

fn nonsense(what: &str) -> Failure {
    Failure::Nonsense(what.to_owned())
}
