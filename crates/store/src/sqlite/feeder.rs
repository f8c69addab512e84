//! The thread that looks for changes made by other processes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::contract::Observer;
use crate::sqlite::call::{Nudge, WAITING_MAX};
use crate::sqlite::failure::Failure;
use crate::sqlite::feed::{Feed, Log};
use crate::sqlite::health::{Health, Part};
use crate::sqlite::operations;
use crate::sqlite::place::Place;

/// A request to the feeder.
pub(super) enum Ask {
    /// Tells this observer, instead of the one before, everything there is.
    Watch(Arc<dyn Observer>, Reply),
    /// Tells the observer what others have committed before now.
    CatchUp(Reply),
}

/// Gets the outcome, when the observer has been called.
pub(super) type Reply = oneshot::Sender<Result<(), Failure>>;

/// The state of the thread. It has a connection of its own so that reading never waits for a commit
/// of the writer.
pub(super) struct Feeder {
    pub(super) place: Place,
    pub(super) feed: Arc<Feed>,
    pub(super) asks: mpsc::Receiver<Ask>,
    /// `None` before the first ask and after a failure that casts doubt on it.
    pub(super) connected: Option<Connected>,
    /// The way to the writer, which trims the change log.
    pub(super) trimmer: Nudge,
    /// Entries that the change log keeps, from [`crate::SqliteStoreBuilder::changes_kept`].
    pub(super) changes_kept: i64,
    pub(super) health: Arc<Health>,
}

/// A connection that only reads.
pub(super) struct Connected {
    connection: Connection,
    /// SQLite's number for the state of the database of which the observer knows everything.
    version: Option<i64>,
}

impl Feeder {
    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            tracing::error!("the store's feeder panicked; it goes on with a new connection");
        }
    }

    /// Answers asks, all catch-ups that wait at the same time with one look. A watch in between is
    /// answered at once, before them.
    fn serve(&mut self) {
        while let Some(first) = self.asks.blocking_recv() {
            let mut waiting = Vec::new();
            let mut next = Some(first);
            // Who asks before the look begins shares it.
            while let Some(ask) = next {
                match ask {
                    Ask::CatchUp(reply) => waiting.push(reply),
                    Ask::Watch(observer, reply) => {
                        let _ = reply.send(self.watch(observer));
                    }
                }
                // Bounded, so that callers who come without pause cannot put off the look for ever.
                next = if waiting.len() < WAITING_MAX {
                    self.asks.try_recv().ok()
                } else {
                    None
                };
            }
            if !waiting.is_empty() {
                let done = self.catch_up();
                self.health.note(Part::Feeder, done.as_ref().err());
                for reply in waiting {
                    let _ = reply.send(done.clone());
                }
            }
        }
    }

    /// Reads everything. Takes as long as that takes; nobody else is answered meanwhile.
    fn watch(&mut self, observer: Arc<dyn Observer>) -> Result<(), Failure> {
        self.with_connection(|feeder, connected| feeder.feed.watch(&connected.connection, observer))
    }

    /// Looks at the database's version and, if that is another, at the log.
    fn catch_up(&mut self) -> Result<(), Failure> {
        self.with_connection(|feeder, connected| {
            // Changes with every commit of another connection, our writer's included, and costs no
            // more than a look into shared memory.
            let version = connected
                .connection
                .prepare_cached("PRAGMA data_version")?
                .query_row([], |row| row.get(0))?;
            if connected.version == Some(version) {
                return Ok(());
            }
            feeder.feed.advance(&connected.connection)?;
            // Noted only after the observer knows it, so that a failure leads to another look.
            connected.version = Some(version);
            // If only others write, nobody trims what they write.
            if operations::is_too_long(&Log::of(&connected.connection)?, feeder.changes_kept) {
                feeder.trimmer.send();
            }
            Ok(())
        })
    }

    /// Does `work` with the connection, opening one if there is none. A connection whose failure
    /// casts doubt on it is dropped, and the next ask opens another.
    fn with_connection(
        &mut self,
        work: impl FnOnce(&Self, &mut Connected) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.feed.is_closing() {
            return Err(Failure::Stopped);
        }
        let mut connected = match self.connected.take() {
            Some(connected) => connected,
            None => Connected {
                connection: self.place.connect_to_read()?,
                version: None,
            },
        };
        let done = work(self, &mut connected);
        if done.as_ref().err().is_none_or(Failure::spares_connection) {
            self.connected = Some(connected);
        }
        done
    }
}
