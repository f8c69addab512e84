//! Execution of a SET: at once if it is small, in pieces between those of others if not.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::Connection;
use tokio::time::timeout_at;

use crate::contract::{Changed, StoreError};
use crate::sqlite::call::{GRACE, unavailable};
use crate::sqlite::doors::Doors;
use crate::sqlite::failure::Failure;
use crate::sqlite::mark::Mark;
use crate::sqlite::operations;
use crate::sqlite::pieces::{self, Applied, Begun};
use crate::sqlite::place::Place;
use crate::sqlite::shares::Shares;

/// The SETs of a store.
///
/// A small set is one job of the writer. A large one is planned by the reader and written in
/// pieces, between which others write; `schema_4.sql` says how it stays all or nothing.
#[derive(Debug)]
pub(super) struct Sets {
    /// The database, beside which [`Mark`] has its file.
    path: PathBuf,
    /// The wait for a share, as long as for the database lock and [`GRACE`].
    patience: Duration,
    shares: Shares,
    /// `true` if rows of sets may have been left by a set that was given up or by a process that
    /// ended: the next probe looks for them.
    leftover: AtomicBool,
}

impl Sets {
    /// `leftover`: sets were found at the start that could not be ended then.
    pub(super) fn new(place: &Place, leftover: bool) -> Self {
        Self {
            path: place.path.clone(),
            patience: place.busy_timeout + GRACE,
            shares: Shares::new(),
            leftover: AtomicBool::new(leftover),
        }
    }

    /// Makes the subscriptions of `url` exactly `set`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]: nothing was changed, or the set was decided and will be
    /// finished by a later probe. SET is idempotent, so the caller may repeat it in both cases.
    pub(super) async fn set(
        &self,
        doors: &Doors,
        url: SubscriberUrl,
        set: SubscriptionSet,
    ) -> Result<Changed, StoreError> {
        let started = Instant::now();
        let share = self.shares.of(&url);
        let (url, set) = (Arc::new(url), Arc::new(set));
        // Most sets are small; comparing under the write lock is quicker than a plan and its check.
        if set.exacts().len() + set.globs().len() <= SMALL_ROWS {
            let (url, set) = (url.clone(), set.clone());
            let _place = self.turn(started, share.small.acquire()).await?;
            let work = move |connection: &_| operations::set(connection, &url, &set, SMALL_ROWS);
            let done = doors.writer.call_since(started, SETTING, work);
            if let Some(changed) = done.await? {
                return Ok(changed);
            }
        }
        // A large one at a time for each peer, or one subscriber with many urls would fill the
        // queue.
        let _turn = self.turn(started, share.large.lock()).await?;
        let done = self.set_in_pieces(doors, url, set.clone()).await;
        // It takes some ten milliseconds, for which deliveries would have to wait on this thread.
        tokio::task::spawn_blocking(move || drop(set));
        done
    }

    /// Ends sets that were given up amid their pieces, if there may be any.
    /// Called about once a second by [`crate::Store::probe`]; costs one load if there is nothing to
    /// do.
    pub(super) async fn probe(&self, doors: &Doors) {
        if !self.leftover.swap(false, Ordering::SeqCst) {
            return;
        }
        let unended = Unended(&self.leftover);
        match self.end_left_sets(doors).await {
            Ok(true) => unended.ended(),
            // Sets are under way; some of them may be nobody's.
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot end large sets that were given up"),
        }
    }

    /// Waits for a share, for as long after `started` as for the database.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] with [`Failure::Waited`].
    async fn turn<T>(
        &self,
        started: Instant,
        share: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let give_up = tokio::time::Instant::from_std(started + self.patience);
        let turn = timeout_at(give_up, share).await;
        turn.map_err(|_| Failure::Waited(self.patience).doing(SETTING))
    }

    /// Writes a piece of something large, which has its turn with those of others. Each piece has a
    /// deadline of its own: a large set may take longer than one wait.
    async fn write_piece<Done: Send + 'static>(
        &self,
        doors: &Doors,
        work: impl FnOnce(&Connection) -> Result<Done, Failure> + Send + 'static,
    ) -> Result<Done, StoreError> {
        let started = Instant::now();
        let _turn = self.turn(started, self.shares.pieces.acquire()).await?;
        doors.writer.call_since(started, SETTING, work).await
    }

    /// Has the reader find the differences and writes them a piece at a time, so that others write
    /// in between. The set counts from one moment on: when it is decided.
    async fn set_in_pieces(
        &self,
        doors: &Doors,
        url: Arc<SubscriberUrl>,
        set: Arc<SubscriptionSet>,
    ) -> Result<Changed, StoreError> {
        let under_way = || {
            // Perhaps nobody is at it: a process may have been killed.
            self.leftover.store(true, Ordering::SeqCst);
            Failure::SetUnderWay.doing(SETTING)
        };
        let mut plan = self.plan(doors, &url, &set).await?;
        if plan.is_one_piece() {
            let url = url.clone();
            let applying = self.write_piece(doors, move |connection| {
                Ok((pieces::apply(connection, &url, &plan)?, plan))
            });
            let (applied, unapplied) = applying.await?;
            plan = unapplied;
            match applied {
                Applied::Done => return Ok(plan.changed()),
                Applied::UnderWay => return Err(under_way()),
                // Another plan might be overtaken again. A set that has begun is not.
                Applied::Stale => {}
            }
        }
        // Held from before the set exists until it is ended: another process that finds the set
        // while nobody holds the mark takes it for the remains of a kill and undoes it.
        let mark = self.mark().await?;
        let unended = Unended(&self.leftover);
        let begun = {
            let url = url.clone();
            self.write_piece(doors, move |connection| {
                Ok((pieces::begin(connection, &url, &plan)?, plan))
            })
        };
        let (begun, begun_plan) = begun.await?;
        let Begun { id, is_stale } = begun.ok_or_else(under_way)?;
        let plan = match is_stale {
            // No other set of the url can begin now, but a single subscription may still have
            // changed.
            true => self.plan(doors, &url, &set).await,
            false => Ok(begun_plan),
        };
        let written = match plan {
            Ok(plan) => self.write_and_decide(doors, id, &url, plan).await,
            Err(error) => Err(error),
        };
        // Whether it is decided or not: nothing of it is left behind.
        let ended = self.end_set(doors, id).await;
        drop(mark);
        if ended.is_ok() {
            unended.ended();
        }
        let changed = written?;
        // It is decided, and finished later if that failed now: by this store or by the next.
        if let Err(error) = ended {
            tracing::warn!(%error, "a large set is not finished yet");
            return Err(error);
        }
        Ok(changed)
    }

    /// Marks that a set is under way. While others that were left are being ended, it waits.
    async fn mark(&self) -> Result<Mark, StoreError> {
        let started = Instant::now();
        loop {
            let mark = Mark::make(&self.path).map_err(|error| unavailable(SETTING, error))?;
            if let Some(mark) = mark {
                return Ok(mark);
            }
            if started.elapsed() >= self.patience {
                return Err(Failure::Waited(self.patience).doing(SETTING));
            }
            // Another process may hold it, which wakes nobody here.
            tokio::time::sleep(BETWEEN_MARKS).await;
        }
    }

    /// The changes that make the subscriptions of `url` those of `set`, found by the reader.
    async fn plan(
        &self,
        doors: &Doors,
        url: &Arc<SubscriberUrl>,
        set: &Arc<SubscriptionSet>,
    ) -> Result<pieces::Plan, StoreError> {
        let (url, set) = (url.clone(), set.clone());
        let work = move |connection: &_| pieces::plan(connection, &url, &set);
        doors.reader.call(SETTING, work).await
    }

    /// Notes and writes all pieces, then decides the set. After `Ok` the set counts.
    ///
    /// # Errors
    ///
    /// Those of the writer; [`Failure::SetUnderWay`] if another process has undone the set
    /// meanwhile.
    async fn write_and_decide(
        &self,
        doors: &Doors,
        id: i64,
        url: &Arc<SubscriberUrl>,
        plan: pieces::Plan,
    ) -> Result<Changed, StoreError> {
        let changed = plan.changed();
        let (all, nameless) = plan.into_pieces();
        for piece in all {
            let url = url.clone();
            self.write_piece(doors, move |connection| {
                pieces::write(connection, id, &url, &piece)
            })
            .await?;
        }
        let url = url.clone();
        // Nameless rows cannot be noted, so they go in the transaction that decides.
        let decided = self.write_piece(doors, move |connection| {
            pieces::remove_nameless(connection, &url, &nameless)?;
            pieces::decide(connection, id)
        });
        match decided.await? {
            true => Ok(changed),
            false => Err(Failure::SetUnderWay.doing(SETTING)),
        }
    }

    /// Finishes a decided set, or undoes another, piece by piece.
    async fn end_set(&self, doors: &Doors, id: i64) -> Result<(), StoreError> {
        while !self
            .write_piece(doors, move |connection| pieces::end(connection, id))
            .await?
        {}
        Ok(())
    }

    /// Finishes or undoes all sets, unless one may be under way; `false` if so.
    async fn end_left_sets(&self, doors: &Doors) -> Result<bool, StoreError> {
        let alone = Mark::alone(&self.path).map_err(|error| unavailable(SETTING, error))?;
        let Some(_alone) = alone else {
            return Ok(false);
        };
        for id in doors.writer.call(SETTING, pieces::under_way).await? {
            self.end_set(doors, id).await?;
        }
        Ok(true)
    }
}

/// A set that has to be ended by a probe unless it ends by itself, also when its caller gives it
/// up.
struct Unended<'a>(&'a AtomicBool);

impl Unended<'_> {
    /// The set is ended: forgets the guard without what its drop would do.
    fn ended(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Finishes or undoes what sets have left whose process was killed. `false` if another process may
/// be in the middle of them, so that they have to wait for a probe.
pub(super) fn end_left(place: &Place, connection: &Connection) -> Result<bool, Failure> {
    let left = pieces::under_way(connection)?;
    if left.is_empty() {
        return Ok(true);
    }
    // Only the exclusive lock proves that no process is in the middle of a set.
    let Some(_alone) = Mark::alone(&place.path).map_err(Failure::from)? else {
        return Ok(false);
    };
    for id in left {
        loop {
            // No thread of the store runs yet, so this connection commits by itself.
            let piece = connection.unchecked_transaction()?;
            let is_over = pieces::end(&piece, id)?;
            piece.commit()?;
            if is_over {
                break;
            }
        }
    }
    Ok(true)
}

/// The pause between two attempts to mark a set.
const BETWEEN_MARKS: Duration = Duration::from_millis(20);

/// A set that lists no more, of a url that has no more, is written at once.
/// It is also the limit of rows compared while the write lock is held.
const SMALL_ROWS: usize = 100;

/// The operation, as errors name it.
const SETTING: &str = "setting subscriptions";
