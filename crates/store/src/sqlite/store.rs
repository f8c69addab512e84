//! The store as callers see it: each method hands its work to a thread and awaits the answer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use httppubsub_proto::subscription::{Interest, StrongEtag, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::call::{GRACE, Queue, WAITING_MAX};
use super::failure::Failure;
use super::feed::Feed;
use super::feeder::{Ask, Feeder, Reply};
use super::files::Files;
use super::glance::{Glance, Seen};
use super::health::{Health, Part};
use super::mark::Mark;
use super::operations;
use super::pieces;
use super::place::Place;
use super::reader::Reader;
use super::shares::Shares;
use super::writer::Writer;
use crate::store::{
    Changed, ClaimedNotice, InFlight, Missed, NoticeOutcome, Observer, Store, StoreError,
    Subscribed, Unsubscribed,
};

/// How a [`SqliteStore`] is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    busy_timeout: Duration,
    changes_kept: u32,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            changes_kept: 20_000,
        }
    }
}

impl SqliteOptions {
    /// Longest wait for a lock that another process holds; a call that waited so long fails as
    /// [`StoreError::Unavailable`] and can be repeated. At most a day. Default 5 s, as in the
    /// published broadcaster.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(Duration::from_secs(86_400));
        self
    }

    /// How many changes the database remembers, in rows, for processes that share it: one that was
    /// busy for longer than these reads all subscriptions again. Up to a quarter more are kept.
    /// Default 20 000: some megabytes.
    pub fn changes_kept(mut self, changes: u32) -> Self {
        self.changes_kept = changes;
        self
    }

    /// Opens the database at `path`, or creates it.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<SqliteStore, StoreError> {
        let place = Place {
            path: path.as_ref().to_owned(),
            busy_timeout: self.busy_timeout,
        };
        let opened = tokio::task::spawn_blocking(move || open(place, i64::from(self.changes_kept)));
        opened
            .await
            .unwrap_or_else(|failed| Err(unavailable("opening the database", failed)))
    }
}

/// Subscriptions in one SQLite file, which other processes may use at the same time: other stores
/// of this kind, and the published Python broadcaster, whose tables it keeps.
///
/// Calls that wait together become durable together, with one wait for the disk. Calls need a
/// tokio runtime with its timer. Dropping the store waits for what is being committed; see
/// [`SqliteStore::close`].
pub struct SqliteStore {
    path: PathBuf,
    patience: Duration,
    feed: Arc<Feed>,
    files: Arc<Files>,
    health: Arc<Health>,
    glance: Glance,
    shares: Shares,
    /// Whether a large set of this store may be under way, or was given up.
    leftover: AtomicBool,
    /// `None` only while it is dropped.
    doors: Option<Doors>,
    /// In the order in which they end.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The ways to the threads. A thread ends when its way is gone.
struct Doors {
    writer: Queue,
    reader: Queue,
    feeder: mpsc::Sender<Ask>,
}

impl SqliteStore {
    /// Opens the database at `path`, or creates it, with the default [`SqliteOptions`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        SqliteOptions::default().open(path).await
    }

    /// Ends the store's threads, writes its log back into the database file and closes it. The
    /// same happens when the store is dropped, but there the thread that drops it waits.
    pub async fn close(self) {
        // A drop that panicked has closed all it could.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    fn doors(&self) -> &Doors {
        self.doors
            .as_ref()
            .expect("a store has its doors until it is dropped")
    }

    async fn look_for_changes(&self) -> Result<(), Failure> {
        let Seen::Perhaps(version) = self.glance.look() else {
            return Ok(());
        };
        let give_up = tokio::time::Instant::from_std(Instant::now() + self.patience);
        let asked = self.ask(Ask::CatchUp);
        let Ok(looked) = timeout_at(give_up, asked).await else {
            let waited = Failure::Waited(self.patience);
            self.health.note(Part::Feeder, Some(&waited));
            return Err(waited);
        };
        looked?;
        self.glance.note(version);
        Ok(())
    }

    async fn write<Done: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> Result<Done, Failure> + Send + 'static,
    ) -> Result<Done, StoreError> {
        self.doors().writer.call(doing, work).await
    }

    /// The same for a piece of something large, which has its turn with those of others.
    async fn write_piece<Done: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<Done, Failure> + Send + 'static,
    ) -> Result<Done, StoreError> {
        let _turn = self.shares.pieces.acquire().await;
        self.write(SETTING, work).await
    }

    /// What differs is found by the reader and written a piece at a time, so that what others write goes
    /// in between. It counts from one moment on: when it is decided.
    async fn set_in_pieces(
        &self,
        url: Arc<SubscriberUrl>,
        set: Arc<SubscriptionSet>,
    ) -> Result<Changed, StoreError> {
        let busy = || Failure::SetUnderWay.doing(SETTING);
        let plan = {
            let url = url.clone();
            let work = move |connection: &_| pieces::plan(connection, &url, &set);
            self.doors().reader.call(SETTING, work).await?
        };
        let changed = plan.changed();
        if plan.is_one_piece() {
            let work = move |connection: &_| pieces::apply(connection, &url, &plan);
            let is_done = self.write_piece(work).await?;
            return is_done.then_some(changed).ok_or_else(busy);
        }
        let mark = Mark::make(&self.path).map_err(|error| unavailable(SETTING, error))?;
        let mark = mark.ok_or_else(busy)?;
        self.leftover.store(true, Ordering::SeqCst);
        let begun = {
            let url = url.clone();
            self.write_piece(move |connection| pieces::begin(connection, &url))
        };
        let id = begun.await?.ok_or_else(busy)?;
        let written = self.write_and_decide(id, &url, plan).await;
        // Whether it is decided or not: nothing of it is left behind.
        let ended = self.end_set(id).await;
        drop(mark);
        written?;
        // It is decided, and finished later if that failed now: by this store or by the next.
        if let Err(error) = ended {
            tracing::warn!(%error, "a large set is not finished yet");
            return Err(error);
        }
        Ok(changed)
    }

    async fn write_and_decide(
        &self,
        id: i64,
        url: &Arc<SubscriberUrl>,
        plan: pieces::Plan,
    ) -> Result<(), StoreError> {
        let (all, nameless) = plan.into_pieces();
        for piece in all {
            let url = url.clone();
            self.write_piece(move |connection| pieces::write(connection, id, &url, &piece))
                .await?;
        }
        let url = url.clone();
        let decided = self.write_piece(move |connection| {
            pieces::remove_nameless(connection, &url, &nameless)?;
            pieces::decide(connection, id)
        });
        match decided.await? {
            true => Ok(()),
            false => Err(Failure::SetUnderWay.doing(SETTING)),
        }
    }

    async fn end_set(&self, id: i64) -> Result<(), StoreError> {
        while !self
            .write_piece(move |connection| pieces::end(connection, id))
            .await?
        {}
        Ok(())
    }

    /// Finishes or undoes what sets have left that were given up amid their pieces.
    async fn end_left_sets(&self) -> Result<(), StoreError> {
        let Some(_alone) = Mark::alone(&self.path).map_err(|error| unavailable(SETTING, error))?
        else {
            return Ok(());
        };
        for id in self.write(SETTING, pieces::under_way).await? {
            self.end_set(id).await?;
        }
        self.leftover.store(false, Ordering::SeqCst);
        Ok(())
    }

    async fn ask(&self, ask: impl FnOnce(Reply) -> Ask) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.doors()
            .feeder
            .send(ask(reply))
            .await
            .map_err(|_| Failure::Stopped)?;
        answer.await.unwrap_or(Err(Failure::Stopped))
    }
}

fn open(place: Place, changes_kept: i64) -> Result<SqliteStore, StoreError> {
    let connection = place.prepare()?;
    end_left_sets(&place, &connection).map_err(|failure| failure.doing("opening the database"))?;
    let glance = Glance::open(&place).map_err(|failure| failure.doing("opening the database"))?;
    let files =
        Files::of(&place.path).map_err(|error| unavailable("opening the database", error))?;
    let (files, health) = (Arc::new(files), Arc::new(Health::default()));
    let feed = Arc::new(Feed::new());
    let (writer, writer_jobs) = Queue::new(place.busy_timeout);
    let (reader, reader_jobs) = Queue::new(place.busy_timeout);
    let (feeder, asks) = mpsc::channel(WAITING_MAX);
    let trimmer = writer.nudge();
    let mut store = SqliteStore {
        path: place.path.clone(),
        patience: place.busy_timeout + GRACE,
        feed: feed.clone(),
        files: files.clone(),
        health: health.clone(),
        glance,
        shares: Shares::new(),
        leftover: AtomicBool::new(false),
        doors: Some(Doors {
            writer,
            reader,
            feeder,
        }),
        threads: Mutex::default(),
    };
    // The feeder can nudge the writer, so it ends first. The writer's connection is the last to be
    // closed: that removes the write-ahead log.
    store.spawn("store-feeder", {
        let (place, feed, health) = (place.clone(), feed.clone(), health.clone());
        let it = Feeder {
            place,
            feed,
            asks,
            connected: None,
            trimmer,
            changes_kept,
            health,
        };
        || it.run()
    })?;
    store.spawn("store-reader", {
        let (place, feed, health) = (place.clone(), feed.clone(), health.clone());
        let it = Reader {
            place,
            feed,
            jobs: reader_jobs,
            connection: None,
            health,
        };
        || it.run()
    })?;
    store.spawn("store-writer", {
        let connection = Some(connection);
        let it = Writer {
            place,
            feed,
            jobs: writer_jobs,
            connection,
            changes_kept,
            files,
            health,
        };
        || it.run()
    })?;
    Ok(store)
}

/// Finishes or undoes what sets have left whose process was killed.
fn end_left_sets(place: &Place, connection: &Connection) -> Result<(), Failure> {
    let left = pieces::under_way(connection)?;
    // Another process may be in the middle of them.
    if left.is_empty() {
        return Ok(());
    }
    let Some(_alone) = Mark::alone(&place.path).map_err(Failure::from)? else {
        return Ok(());
    };
    for id in left {
        loop {
            let piece = connection.unchecked_transaction()?;
            let is_over = pieces::end(&piece, id)?;
            piece.commit()?;
            if is_over {
                break;
            }
        }
    }
    Ok(())
}

impl SqliteStore {
    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|error| unavailable("starting a thread", error))?;
        self.threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.feed.close();
        self.glance.close();
        // No call is waiting: each holds the store. What was queued by calls that were given up is
        // not done.
        self.doors = None;
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // Whose observer was the last to hold the store drops it on one of them, and others may be
        // waiting for that one.
        let own = thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == own) {
            return;
        }
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError> {
        let told = self.ask(|reply| Ask::Watch(observer, reply)).await;
        told.map_err(|failure| failure.doing("reading all subscriptions"))
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        let told = self.look_for_changes().await;
        told.map_err(|failure| failure.doing("looking for changes"))
    }

    fn trouble(&self) -> Option<String> {
        self.health.trouble()
    }

    async fn probe(&self) {
        let (files, health) = (self.files.clone(), self.health.clone());
        let looked = tokio::task::spawn_blocking(move || {
            health.note(Part::Files, files.check().err().as_ref());
        });
        // A panic there is a bug of ours and says nothing about the files.
        let _ = looked.await;
        // What fails is noted where it fails.
        let doors = self.doors();
        if self.health.is_troubled(Part::Writer) {
            let _ = doors.writer.call("probing", operations::touch).await;
        }
        if self.leftover.load(Ordering::SeqCst)
            && let Err(error) = self.end_left_sets().await
        {
            tracing::warn!(%error, "cannot end large sets that were given up");
        }
        if self.health.is_troubled(Part::Reader) {
            let _ = doors.reader.call("probing", operations::next_missed).await;
        }
        if self.health.is_troubled(Part::Feeder) {
            let _ = self.look_for_changes().await;
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed, StoreError> {
        let work = move |connection: &_| operations::subscribe(connection, &subscription);
        self.doors()
            .writer
            .call("adding a subscription", work)
            .await
    }

    async fn unsubscribe(
        &self,
        url: SubscriberUrl,
        interest: Interest,
    ) -> Result<Unsubscribed, StoreError> {
        let work = move |connection: &_| operations::unsubscribe(connection, &url, &interest);
        self.doors()
            .writer
            .call("removing a subscription", work)
            .await
    }

    async fn set(&self, url: SubscriberUrl, set: SubscriptionSet) -> Result<Changed, StoreError> {
        let share = self.shares.of(&url);
        let (url, set) = (Arc::new(url), Arc::new(set));
        if set.exacts().len() + set.globs().len() <= SMALL_ROWS {
            let (url, set) = (url.clone(), set.clone());
            let _place = share.small.acquire().await;
            let work = move |connection: &_| operations::set(connection, &url, &set, SMALL_ROWS);
            if let Some(changed) = self.write(SETTING, work).await? {
                return Ok(changed);
            }
        }
        let _turn = share.large.lock().await;
        self.set_in_pieces(url, set).await
    }

    async fn etag(&self, url: SubscriberUrl) -> Result<StrongEtag, StoreError> {
        let feed = self.feed.clone();
        let work = move |connection: &_| operations::etag(connection, &url, &feed);
        self.doors().reader.call("computing an etag", work).await
    }

    async fn record_missed(&self, missed: Missed) -> Result<(), StoreError> {
        let work = move |connection: &_| operations::record_missed(connection, &missed);
        self.doors()
            .writer
            .call("recording a missed message", work)
            .await
    }

    async fn claim_missed(
        &self,
        now: Now,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ClaimedNotice>, StoreError> {
        let work = move |connection: &_| operations::claim_missed(connection, now, lease, limit);
        self.doors().writer.call("claiming notices", work).await
    }

    async fn settle_missed(
        &self,
        notice: &ClaimedNotice,
        outcome: NoticeOutcome,
    ) -> Result<(), StoreError> {
        let notice = notice.clone();
        let work = move |connection: &_| operations::settle_missed(connection, &notice, outcome);
        self.doors().writer.call("settling a notice", work).await
    }

    async fn next_missed(&self) -> Result<Option<Now>, StoreError> {
        let work = |connection: &_| operations::next_missed(connection);
        self.doors()
            .reader
            .call("looking for the next notice", work)
            .await
    }

    async fn move_to(
        &self,
        identity: [u8; 16],
        url: SubscriberUrl,
    ) -> Result<Option<SubscriberUrl>, StoreError> {
        let work = move |connection: &_| operations::move_to(connection, identity, &url);
        self.doors()
            .writer
            .call("moving to another url", work)
            .await
    }

    async fn record_in_flight(&self, in_flight: InFlight) -> Result<(), StoreError> {
        let work = move |connection: &_| operations::record_in_flight(connection, &in_flight);
        self.doors()
            .writer
            .call("recording a notification in flight", work)
            .await
    }

    async fn forget_in_flight(
        &self,
        broadcaster: SubscriberUrl,
        topics: Vec<Topic>,
    ) -> Result<(), StoreError> {
        let work =
            move |connection: &_| operations::forget_in_flight(connection, &broadcaster, &topics);
        self.doors()
            .writer
            .call("forgetting what is in flight no more", work)
            .await
    }

    async fn in_flight(
        &self,
        broadcaster: SubscriberUrl,
        now: Now,
        limit: usize,
    ) -> Result<Vec<InFlight>, StoreError> {
        let work =
            move |connection: &_| operations::in_flight(connection, &broadcaster, now, limit);
        self.doors()
            .reader
            .call("looking for what was in flight", work)
            .await
    }
}

/// A set that lists no more, of a url that has no more, is written at once.
const SMALL_ROWS: usize = 100;

const SETTING: &str = "setting subscriptions";

fn unavailable(
    doing: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unavailable {
        doing,
        source: Box::new(error),
    }
}
