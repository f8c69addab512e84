//! The thread that looks for changes made by other processes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::call::{Nudge, WAITING_MAX};
use super::failure::Failure;
use super::feed::{Feed, Log};
use super::health::{Health, Part};
use super::operations;
use super::place::Place;
use crate::store::Observer;

pub(super) enum Ask {
    Watch(Arc<dyn Observer>, Reply),
    CatchUp(Reply),
}

pub(super) type Reply = oneshot::Sender<Result<(), Failure>>;

pub(super) struct Feeder {
    pub(super) place: Place,
    pub(super) feed: Arc<Feed>,
    pub(super) asks: mpsc::Receiver<Ask>,
    /// `None` before the first ask and after a failure that casts doubt on it.
    pub(super) connected: Option<Connected>,
    /// Who trims the change log.
    pub(super) trimmer: Nudge,
    pub(super) changes_kept: i64,
    pub(super) health: Arc<Health>,
}

pub(super) struct Connected {
    connection: Connection,
    /// What SQLite called the state of the database of which the observer knows everything.
    version: Option<i64>,
}

impl Feeder {
    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            tracing::error!("the store's feeder panicked; it goes on with a new connection");
        }
    }

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

    fn watch(&mut self, observer: Arc<dyn Observer>) -> Result<(), Failure> {
        self.with_connection(|feeder, connected| feeder.feed.watch(&connected.connection, observer))
    }

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
            connected.version = Some(version);
            // If only others write, nobody trims what they write.
            if operations::is_too_long(&Log::of(&connected.connection)?, feeder.changes_kept) {
                feeder.trimmer.send();
            }
            Ok(())
        })
    }

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
