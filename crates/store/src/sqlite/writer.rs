//! The thread that changes the database: whatever waits is committed together.
//!
//! One commit costs one wait for the disk, whatever is in it. While the thread waits, calls queue
//! up, and all of them are in the next transaction: the longer the disk takes, the larger the
//! batch, so the rate of changes does not depend on the disk's latency alone.
//!
//! A job that fails for its own values is undone alone, by a savepoint. A failure of the database
//! fails the whole batch, as none of it is durable then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::sqlite::call::Job;
use crate::sqlite::failure::{self, Failure};
use crate::sqlite::feed::Feed;
use crate::sqlite::files::Files;
use crate::sqlite::health::{Health, Part};
use crate::sqlite::operations;
use crate::sqlite::place::Place;

/// The state of the thread. It is the only writer of this process: SQLite has one write lock, and a
/// queue before it is fairer than connections that poll for the lock.
pub(super) struct Writer {
    pub(super) place: Place,
    pub(super) feed: Arc<Feed>,
    pub(super) jobs: mpsc::Receiver<Box<dyn Job>>,
    /// `None` after a failure that casts doubt on it; the next batch opens another.
    pub(super) connection: Option<Connection>,
    /// Entries that the change log keeps, from [`crate::SqliteStoreBuilder::changes_kept`].
    pub(super) changes_kept: i64,
    pub(super) files: Arc<Files>,
    pub(super) health: Arc<Health>,
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            // The batch and the connection went with it: its callers know, and it is rolled back.
            tracing::error!("the store's writer panicked; it goes on with a new connection");
        }
        if let Some(connection) = self.connection {
            // Best effort: what is not checkpointed now is when the file is opened again.
            let _ = connection.busy_timeout(Duration::ZERO);
            let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }

    /// Commits what waits, batch after batch.
    fn serve(&mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            let mut batch = vec![first];
            fill(&mut batch, &mut self.jobs);
            self.commit(batch);
        }
    }

    /// Runs a batch in one transaction and answers its callers. Each of them waits for the same
    /// `fsync`, which is what makes many small changes a second possible.
    fn commit(&mut self, mut batch: Vec<Box<dyn Job>>) {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.place.connect_to_write() {
                Ok(connection) => connection,
                Err(failure) => {
                    self.health.note(Part::Writer, Some(&failure));
                    return answer_all(batch, Some(failure));
                }
            },
        };
        match self.transaction(&connection, &mut batch) {
            Ok(()) => {
                if !batch.is_empty() {
                    self.health.note(Part::Writer, None);
                }
                // Before the callers are answered, as the contract says: a caller whose change is
                // acknowledged may rely on the observer knowing it.
                let told = self.feed.advance(&connection);
                if let Err(failure) = &told {
                    // It is durable, and so it is said. The feeder sees that the database changed
                    // and tells the observer before anybody else has caught up.
                    tracing::warn!(%failure, "could not tell of what was committed");
                }
                if told.err().is_none_or(|failure| failure.spares_connection()) {
                    self.connection = Some(connection);
                }
                answer_all(batch, None);
            }
            Err(failure) => {
                tracing::warn!(%failure, calls = batch.len(), "rolled back");
                match &failure {
                    Failure::Gone(_) => self.health.note(Part::Files, Some(&failure)),
                    _ => self.health.note(Part::Writer, Some(&failure)),
                }
                // SQLite rolls some errors back by itself, and a ROLLBACK then is an error.
                let is_rolled_back =
                    connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
                if is_rolled_back && failure.spares_connection() {
                    self.connection = Some(connection);
                }
                answer_all(batch, Some(failure));
            }
        }
    }

    /// After `Ok` what is left of the batch is durable.
    fn transaction(
        &mut self,
        connection: &Connection,
        batch: &mut Vec<Box<dyn Job>>,
    ) -> Result<(), Failure> {
        if !self.begin(connection, batch)? {
            return Ok(());
        }
        // Under the write lock, just before writing: files that were replaced take the commit with
        // them when the last process closes them.
        self.files.check()?;
        // From here on callers wait for the outcome; calls given up before are not done at all.
        batch.retain(|job| job.take());
        operations::trim_changes(connection, self.changes_kept)?;
        match &mut batch[..] {
            // What it did is all there is to undo. A savepoint would make it remember every page.
            [job] => job.run(connection)?,
            jobs => {
                for job in jobs {
                    run_in_savepoint(connection, &mut **job)?;
                }
            }
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Waits for the write lock as long as a caller in the batch wants to. Who no longer does is
    /// answered and leaves it; who comes meanwhile joins it. `false` when nobody is left.
    fn begin(
        &mut self,
        connection: &Connection,
        batch: &mut Vec<Box<dyn Job>>,
    ) -> Result<bool, Failure> {
        loop {
            let Some(deadline) = batch.iter().map(|job| job.deadline()).min() else {
                return Ok(false);
            };
            let patience = deadline.saturating_duration_since(Instant::now());
            connection.busy_timeout(patience.min(LOCK_WAIT_MAX))?;
            let begun = connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]);
            connection.busy_timeout(self.place.busy_timeout)?;
            match begun {
                Ok(_) => {
                    // Calls that came while the lock was waited for.
                    fill(batch, &mut self.jobs);
                    return Ok(true);
                }
                Err(error) if failure::is_busy(&error) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            // Nobody hears the answer to a call that was given up.
            let done_waiting: Vec<_> = batch
                .extract_if(.., |job| job.is_taken() || job.deadline() <= now)
                .collect();
            if !done_waiting.is_empty() {
                tracing::warn!(calls = done_waiting.len(), "another process keeps the lock");
            }
            for job in done_waiting {
                let locked = Failure::Locked(self.place.busy_timeout);
                // A caller that gave up earlier does not say how long the lock is held.
                if !job.is_taken() {
                    self.health.note(Part::Writer, Some(&locked));
                }
                job.take();
                job.answer(Some(locked));
            }
            fill(batch, &mut self.jobs);
        }
    }
}

/// Takes the calls that wait already into `batch`, up to [`BATCH_MAX`].
fn fill(batch: &mut Vec<Box<dyn Job>>, jobs: &mut mpsc::Receiver<Box<dyn Job>>) {
    while batch.len() < BATCH_MAX
        && let Ok(job) = jobs.try_recv()
    {
        batch.push(job);
    }
}

/// An error of the job undoes the job; an error of the database is the whole transaction's.
fn run_in_savepoint(connection: &Connection, job: &mut dyn Job) -> Result<(), Failure> {
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    if let Err(failure) = job.run(connection) {
        if !failure.spares_transaction() || connection.is_autocommit() {
            return Err(failure);
        }
        connection.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    connection.prepare_cached("RELEASE job")?.execute([])?;
    Ok(())
}

/// Answers each caller with the outcome of its own call, or with `void`, which undid all of them.
fn answer_all(batch: Vec<Box<dyn Job>>, void: Option<Failure>) {
    for job in batch {
        job.answer(void.clone());
    }
}

/// The most calls committed together.
/// Bounds the time for which the write lock is held, which other processes wait for.
const BATCH_MAX: usize = 512;

/// The wait of one attempt for the write lock before newcomers are looked at.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(100);
