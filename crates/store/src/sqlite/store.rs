//! The store as callers see it: each method hands its work to a thread and awaits the answer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use httppubsub_proto::subscription::{Interest, StrongEtag, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::contract::{
    self, Changed, ClaimedNotice, InFlight, Missed, NoticeOutcome, Notices, Observer, Store,
    StoreError, Subscribed, Subscriptions, TopicInFlight, Unsubscribed,
};
use crate::sqlite::call::{GRACE, Queue, WAITING_MAX, unavailable};
use crate::sqlite::doors::Doors;
use crate::sqlite::failure::Failure;
use crate::sqlite::feed::Feed;
use crate::sqlite::feeder::{Ask, Feeder, Reply};
use crate::sqlite::files::Files;
use crate::sqlite::glance::{Glance, Glimpse};
use crate::sqlite::health::{Health, Part};
use crate::sqlite::operations;
use crate::sqlite::place::Place;
use crate::sqlite::reader::Reader;
use crate::sqlite::sets::{self, Sets};
use crate::sqlite::writer::Writer;

/// A [`SqliteStore`] before it is opened: settings, with their defaults.
///
/// ```no_run
/// # async fn example() -> Result<(), httppubsub_store::StoreError> {
/// use std::time::Duration;
/// use httppubsub_store::SqliteStore;
///
/// let builder = SqliteStore::builder().busy_timeout(Duration::from_secs(2));
/// let store = builder.open("subscriptions.db").await?;
/// store.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteStoreBuilder {
    busy_timeout: Duration,
    changes_kept: u32,
}

impl Default for SqliteStoreBuilder {
    fn default() -> Self {
        Self {
            busy_timeout: Duration::from_secs(5),
            changes_kept: 20_000,
        }
    }
}

impl SqliteStoreBuilder {
    /// Longest wait for a lock that another process holds; a call that waited so long fails as
    /// [`StoreError::Unavailable`] and can be repeated. At most a day. Default 5 s, as in the
    /// published broadcaster.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout.min(Duration::from_secs(86_400));
        self
    }

    /// The number of changes that the database remembers, in rows, for processes that share it: one
    /// that was busy for longer than these reads all subscriptions again. Up to a quarter more are
    /// kept. Default 20 000: some megabytes.
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
    /// For `Debug` only: the threads have a [`Place`] of their own.
    path: PathBuf,
    patience: Duration,
    feed: Arc<Feed>,
    files: Arc<Files>,
    health: Arc<Health>,
    glance: Glance,
    sets: Sets,
    /// `None` only while it is dropped.
    doors: Option<Doors>,
    /// In the order in which they end.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Begins a store with the default settings.
    pub fn builder() -> SqliteStoreBuilder {
        SqliteStoreBuilder::default()
    }

    /// Opens the database at `path`, or creates it, with the default settings.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::builder().open(path).await
    }

    /// Ends the store's threads, writes its log back into the database file and closes it. The
    /// same happens when the store is dropped, but there the thread that drops it waits.
    pub async fn close(self) {
        // A drop that panicked has closed all it could.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// The queues to the threads. There as long as a call can borrow the store.
    fn doors(&self) -> &Doors {
        self.doors
            .as_ref()
            .expect("a store has its doors until it is dropped")
    }

    /// Returns when the observer knows everything committed before the call, by anybody. Most calls
    /// end after the glance, without waking a thread.
    async fn look_for_changes(&self) -> Result<(), Failure> {
        let Glimpse::Perhaps(version) = self.glance.look() else {
            return Ok(());
        };
        let give_up = tokio::time::Instant::from_std(Instant::now() + self.patience);
        // The version was read before the feeder looks. A commit in between makes the next glance
        // look again, once for nothing; the other order would miss it.
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

    /// Has the feeder do what `ask` says. [`Failure::Stopped`] if its thread has ended.
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

/// Opens the files and starts the three threads. Blocks, so it belongs on a blocking thread.
///
/// | thread | does | connections |
/// |---|---|---|
/// | `store-writer` | changes, many calls in one commit | 1, writes |
/// | `store-reader` | etags, plans of large sets, what is owed or in flight | 1, reads |
/// | `store-feeder` | tells the observer of changes by other processes | 1, reads |
///
/// # Errors
///
/// As [`Place::prepare`], and [`StoreError::Unavailable`] if a thread cannot be started.
fn open(place: Place, changes_kept: i64) -> Result<SqliteStore, StoreError> {
    let connection = place.prepare()?;
    // Before anybody reads: a set of a killed process is half written now.
    let all_ended = sets::end_left(&place, &connection)
        .map_err(|failure| failure.doing("opening the database"))?;
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
        sets: Sets::new(&place, !all_ended),
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

impl SqliteStore {
    /// Starts a thread that is joined when the store is dropped, in the order of the calls.
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
        // First, so that an etag or a reload that is being computed ends at its next row.
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
impl Subscriptions for SqliteStore {
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
        self.sets.set(self.doors(), url, set).await
    }

    async fn etag(&self, url: SubscriberUrl) -> Result<StrongEtag, StoreError> {
        let feed = self.feed.clone();
        let work = move |connection: &_| operations::etag(connection, &url, &feed);
        self.doors().reader.call("computing an etag", work).await
    }
}

#[async_trait]
impl contract::Feed for SqliteStore {
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError> {
        let told = self.ask(|reply| Ask::Watch(observer, reply)).await;
        told.map_err(|failure| failure.doing("reading all subscriptions"))
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        let told = self.look_for_changes().await;
        told.map_err(|failure| failure.doing("looking for changes"))
    }
}

#[async_trait]
impl Notices for SqliteStore {
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
}

#[async_trait]
impl InFlight for SqliteStore {
    async fn record_in_flight(&self, in_flight: TopicInFlight) -> Result<(), StoreError> {
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
    ) -> Result<Vec<TopicInFlight>, StoreError> {
        let work =
            move |connection: &_| operations::in_flight(connection, &broadcaster, now, limit);
        self.doors()
            .reader
            .call("looking for what was in flight", work)
            .await
    }
}

#[async_trait]
impl Store for SqliteStore {
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
        self.sets.probe(doors).await;
        if self.health.is_troubled(Part::Reader) {
            let _ = doors.reader.call("probing", operations::next_missed).await;
        }
        if self.health.is_troubled(Part::Feeder) {
            let _ = self.look_for_changes().await;
        }
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
}
