//! The thread that looks for changes made by other processes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::call::{Nudge, WAITING_MAX};
use super::failure::Failure;
use super::feed::{Feed, Log};
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
    pub(super) connection: Option<Connected>,
    /// Who trims the change log.
    pub(super) trimmer: Nudge,
    pub(super) changes_kept: i64,
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
            let mut ask = Some(first);
            while let Some(next) = ask {
                match next {
                    Ask::CatchUp(reply) => waiting.push(reply),
                    Ask::Watch(observer, reply) => {
                        let done = self.look(|feed, connected| feed.watch(&connected.connection, observer));
                        let _ = reply.send(done);
                    }
                }
                // Who asked before the look begins shares it.
                ask = if waiting.len() < WAITING_MAX { self.asks.try_recv().ok() } else { None };
            }
            if !waiting.is_empty() {
                let (trimmer, kept) = (&self.trimmer, self.changes_kept);
                let done = catch_up_done(self, kept);
                let _ = trimmer;
                for reply in waiting {
                    let _ = reply.send(done.clone());
                }
            }
        }
    }
}
