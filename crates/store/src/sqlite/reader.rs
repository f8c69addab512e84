//! The thread that answers questions about the database.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::sqlite::call::Job;
use crate::sqlite::failure::Failure;
use crate::sqlite::feed::Feed;
use crate::sqlite::health::{Health, Part};
use crate::sqlite::place::Place;

/// The state of the thread. Its connection is set to `query_only`, so that a mistake here cannot
/// change anything.
pub(super) struct Reader {
    pub(super) place: Place,
    pub(super) feed: Arc<Feed>,
    pub(super) jobs: mpsc::Receiver<Box<dyn Job>>,
    /// `None` before the first question and after a failure that casts doubt on it.
    pub(super) connection: Option<Connection>,
    pub(super) health: Arc<Health>,
}

impl Reader {
    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            tracing::error!("the store's reader panicked; it goes on with a new connection");
        }
    }

    /// Answers questions one after the other, in the order of the queue.
    fn serve(&mut self) {
        while let Some(mut job) = self.jobs.blocking_recv() {
            // A caller that gave up is not worth a query.
            if job.take() {
                let void = self.answer(&mut *job).err();
                self.health.note(Part::Reader, void.as_ref());
                job.answer(void);
            }
        }
    }

    /// Runs one question. Its connection is kept unless the failure casts doubt on it.
    fn answer(&mut self, job: &mut dyn Job) -> Result<(), Failure> {
        if self.feed.is_closing() {
            return Err(Failure::Stopped);
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.place.connect_to_read()?,
        };
        let done = job.run(&connection);
        if done.as_ref().err().is_none_or(Failure::spares_connection) {
            self.connection = Some(connection);
        }
        done
    }
}
