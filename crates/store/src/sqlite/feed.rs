//! The position of the observer in the change log, and how it learns the rest.
//!
//! The change log has the last changes with ascending numbers. A position that the log still covers
//! is continued from there; anything else, such as a process that was stopped for long or a file
//! that was replaced, leads to a reload of all subscriptions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Row};

use crate::contract::{Change, Observer};
use crate::sqlite::failure::Failure;
use crate::sqlite::row::{Kind, Unreadable, interest_of, subscription_of, text, url_of};
use crate::urls::Urls;

/// The only way to the observer. The writer feeds after its commits and the feeder thread after the
/// commits of others; each holds the position meanwhile, so that the observer sees one order.
pub(super) struct Feed {
    position: Mutex<Position>,
    closing: AtomicBool,
}

/// How far the observer has come. There is no observer before [`Feed::watch`].
#[derive(Default)]
struct Position {
    observer: Option<Arc<dyn Observer>>,
    /// Number of the last change that the observer knows; `None` when it must be told everything.
    known: Option<i64>,
}

impl Feed {
    /// A feed without an observer: until one watches, commits are not told to anybody.
    pub(super) fn new() -> Self {
        Self {
            position: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    /// Makes whatever takes long end soon.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// `true` once the store is being dropped: long reads end with [`Failure::Stopped`].
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Tells `observer` everything there is, and from now on what changes.
    pub(super) fn watch(
        &self,
        connection: &Connection,
        observer: Arc<dyn Observer>,
    ) -> Result<(), Failure> {
        let mut position = self.position();
        *position = Position {
            observer: Some(observer),
            known: None,
        };
        self.tell(connection, &mut position)
    }

    /// Tells the observer what `connection` sees and it does not know yet.
    pub(super) fn advance(&self, connection: &Connection) -> Result<(), Failure> {
        self.tell(connection, &mut self.position())
    }

    /// Locked for as long as the observer is called, which is why an observer must be quick.
    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the observer what `connection` sees and `position` does not have: the entries of the
    /// log if it still has all of them, all subscriptions if not.
    fn tell(&self, connection: &Connection, position: &mut Position) -> Result<(), Failure> {
        let Some(observer) = position.observer.clone() else {
            return Ok(());
        };
        // One snapshot for all that is read; it ends when this is dropped.
        let snapshot = connection.unchecked_transaction()?;
        let log = Log::of(&snapshot)?;
        match position.known {
            // Commits that changed no subscription, such as those of notices, end here.
            Some(known) if known == log.newest => Ok(()),
            Some(known) if log.follows(known) => self.tell_changes(&snapshot, &*observer, position),
            known => {
                if known.is_some() {
                    tracing::info!(
                        known,
                        oldest = log.oldest,
                        newest = log.newest,
                        "changes are gone before they were read: reading all subscriptions"
                    );
                }
                // Unknown during the reload: if that fails, there must be another one.
                position.known = None;
                self.tell_all(&snapshot, &*observer)?;
                position.known = Some(log.newest);
                Ok(())
            }
        }
    }

    /// Tells the entries of the log after the known one, [`CHUNK`] at a time. Entries that no
    /// subscription can have are passed over and logged: another program wrote them, and stopping
    /// would withhold all changes that follow.
    fn tell_changes(
        &self,
        snapshot: &Connection,
        observer: &dyn Observer,
        position: &mut Position,
    ) -> Result<(), Failure> {
        let mut statement = snapshot.prepare_cached(
            "SELECT seq, added, kind, url, interest, missed_url FROM httppubsub_changes \
             WHERE seq > ?1 ORDER BY seq",
        )?;
        let mut rows = statement.query([position.known])?;
        let mut urls = Urls::default();
        let mut changes = Vec::new();
        let mut last = position.known;
        while let Some(row) = rows.next()? {
            last = Some(row.get(0)?);
            match change(&mut urls, row)? {
                Ok(change) => changes.push(change),
                Err(why) => tracing::warn!(seq = last, %why, "passed over a change"),
            }
            if changes.len() == CHUNK {
                // Who panics may have taken in a part of it, so only everything will do then.
                position.known = None;
                tell(observer, &changes)?;
                position.known = last;
                changes.clear();
            }
        }
        if !changes.is_empty() {
            position.known = None;
            tell(observer, &changes)?;
        }
        position.known = last;
        Ok(())
    }

    /// Tells all subscriptions of both tables, in chunks between [`Change::ReloadBegan`] and
    /// [`Change::ReloadEnded`].
    ///
    /// # Errors
    ///
    /// [`Failure::Damaged`] if a table and its indexes do not agree. SQLite itself reports a page
    /// that is broken, but not one that a disk replaced by an older version of the same page;
    /// silently fewer subscriptions would be messages lost without a trace.
    fn tell_all(&self, snapshot: &Connection, observer: &dyn Observer) -> Result<(), Failure> {
        let mut urls = Urls::default();
        // Counted in the same snapshot as the rows are read.
        let (exacts_listed, globs_listed) = (EXACTS.listed(snapshot)?, GLOBS.listed(snapshot)?);
        let about = |listed: [i64; 2]| usize::try_from(listed[0]).unwrap_or(0);
        let (exacts, globs) = (about(exacts_listed), about(globs_listed));
        let mut changes = vec![Change::ReloadBegan { exacts, globs }];
        // NOT INDEXED makes SQLite read the table itself and not a covering index, which would
        // compare an index with itself below.
        for (kind, table, listed, sql) in [
            (
                Kind::Exact,
                EXACTS.name,
                exacts_listed,
                "SELECT url, exact, missed_url, id FROM httppubsub_subscription_exacts NOT INDEXED",
            ),
            (
                Kind::Glob,
                GLOBS.name,
                globs_listed,
                "SELECT url, glob, missed_url, id FROM httppubsub_subscription_globs NOT INDEXED",
            ),
        ] {
            let mut unreadable = 0_u64;
            let (mut read, mut last_id) = (0, i64::MIN);
            let mut statement = snapshot.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let id = row.get(3)?;
                // The table is kept in this order. A page in the place of another breaks it.
                if read > 0 && id <= last_id {
                    let what = format!("{table} has row {id} behind row {last_id}");
                    return Err(Failure::Damaged(what));
                }
                (read, last_id) = (read + 1, id);
                let (url, interest, recovery) = (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?);
                match subscription_of(&mut urls, kind, url, interest, recovery) {
                    Ok(it) => changes.push(Change::Added(it)),
                    Err(why) => {
                        // One line says that there are some; a log line a row would fill the disk.
                        unreadable += 1;
                        if unreadable == 1 {
                            tracing::warn!(?kind, id, %why, "passed over a row");
                        }
                    }
                }
                if changes.len() >= CHUNK {
                    if self.is_closing() {
                        return Err(Failure::Stopped);
                    }
                    tell(observer, &changes)?;
                    changes.clear();
                }
            }
            drop(rows);
            // What a disk lost is missing in one of them only.
            if listed != [read; 2] {
                let what = format!("{table} has {read} rows, its indexes have {listed:?}");
                return Err(Failure::Damaged(what));
            }
            if unreadable > 1 {
                tracing::warn!(
                    ?kind,
                    unreadable,
                    "passed over rows that are no subscriptions"
                );
            }
        }
        changes.push(Change::ReloadEnded);
        tell(observer, &changes)
    }
}

/// A table of subscriptions and two of its indexes, which are other pages of the file.
struct Indexed {
    /// As in `schema_1.sql`.
    name: &'static str,
    indexes: [&'static str; 2],
}

const EXACTS: Indexed = Indexed {
    name: "httppubsub_subscription_exacts",
    indexes: [
        "idx_httppubsub_subscription_exacts_exact_url",
        "httppubsub_exacts_of_url",
    ],
};

const GLOBS: Indexed = Indexed {
    name: "httppubsub_subscription_globs",
    indexes: [
        "idx_httppubsub_subscription_globs_glob_url",
        "httppubsub_globs_of_url",
    ],
};

impl Indexed {
    /// The number of rows that each of the indexes lists.
    fn listed(&self, snapshot: &Connection) -> Result<[i64; 2], Failure> {
        let mut listed = [0; 2];
        for (index, listed) in self.indexes.iter().zip(&mut listed) {
            let sql = format!("SELECT count(*) FROM {} INDEXED BY {index}", self.name);
            *listed = snapshot.query_row(&sql, [], |row| row.get(0))?;
        }
        Ok(listed)
    }
}

/// The most changes passed to the observer at a time.
/// Bounds the memory that a reload of millions takes.
const CHUNK: usize = 4096;

/// The range of changes that the log holds.
pub(super) struct Log {
    /// Number of the oldest change that is kept, if any is.
    pub(super) oldest: Option<i64>,
    /// Number of the newest change there ever was, 0 for none.
    pub(super) newest: i64,
}

impl Log {
    /// The range as `connection` sees it. `sqlite_sequence` still has the newest number when all
    /// entries were trimmed.
    pub(super) fn of(connection: &Connection) -> Result<Self, Failure> {
        let mut statement = connection.prepare_cached(
            "SELECT (SELECT min(seq) FROM httppubsub_changes), \
             (SELECT seq FROM sqlite_sequence WHERE name = 'httppubsub_changes')",
        )?;
        let (oldest, newest): (_, Option<i64>) =
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Self {
            oldest,
            newest: newest.unwrap_or(0),
        })
    }

    /// The number of changes that are kept.
    pub(super) fn len(&self) -> i64 {
        self.oldest.map_or(0, |oldest| {
            self.newest.saturating_sub(oldest).saturating_add(1)
        })
    }

    /// `true` if every change after `known` is kept. A log that ends before `known` is not the one
    /// that was read: somebody put another file in its place.
    pub(super) fn follows(&self, known: i64) -> bool {
        known <= self.newest
            && self
                .oldest
                .is_some_and(|oldest| oldest <= known.saturating_add(1))
    }
}

/// The change in a row of the log; the inner error if no subscription can have these values.
fn change(urls: &mut Urls, row: &Row<'_>) -> rusqlite::Result<Result<Change, Unreadable>> {
    let added = row.get::<_, i64>(1)? != 0;
    let kind = if row.get::<_, i64>(2)? == 0 {
        Kind::Exact
    } else {
        Kind::Glob
    };
    let (url, interest, recovery) = (row.get_ref(3)?, row.get_ref(4)?, row.get_ref(5)?);
    if added {
        return Ok(subscription_of(urls, kind, url, interest, recovery).map(Change::Added));
    }
    let mut removed = || {
        let interest = interest_of(kind, interest)?;
        Ok(Change::Removed {
            url: url_of(urls, text(url, "the url")?)?,
            interest,
        })
    };
    Ok(removed())
}

/// Calls the observer. A panic there must end neither the writer nor the feeder, which would stop
/// the whole store; the caller has set the position to unknown, so the observer gets everything
/// again.
fn tell(observer: &dyn Observer, changes: &[Change]) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(|| observer.observe(changes))).map_err(|_| {
        tracing::error!("the observer of changes panicked; it will be told everything again");
        Failure::Observer
    })
}
