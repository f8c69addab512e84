//! The thread that answers questions about the database.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::call::Job;
use super::failure::Failure;
use super::feed::Feed;
use super::health::{Health, Part};
use super::place::Place;

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

    fn serve(&mut self) {
        while let Some(mut job) = self.jobs.blocking_recv() {
            if job.take() {
                let void = self.answer(&mut *job).err();
                self.health.note(Part::Reader, void.as_ref());
                job.answer(void);
            }
        }
    }

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
