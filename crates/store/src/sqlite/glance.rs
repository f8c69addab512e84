//! A glance at whether anything changed at all, on the caller's thread: in WAL mode it is a look
//! into shared memory, and waking another thread would cost ten times as much.
//!
//! It never says "nothing" wrongly: any doubt leads to a look by the feeder.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use crate::sqlite::failure::Failure;
use crate::sqlite::place::Place;

/// A connection of its own: `PRAGMA data_version` counts the commits of all other connections, so
/// one that writes itself would miss its own.
pub(super) struct Glance(Mutex<State>);

struct State {
    /// `None` when the store is being closed, or after a failure: the feeder finds out then.
    connection: Option<Connection>,
    /// SQLite's number for the state of the database of which the observer knows everything.
    known: Option<i64>,
}

/// The result of a glance.
pub(super) enum Glimpse {
    /// Nothing that the observer does not know.
    Nothing,
    /// Something changed, perhaps; this is what SQLite calls the state now, if it can be told.
    Perhaps(Option<i64>),
}

impl Glance {
    /// Opens the connection. The first look says [`Glimpse::Perhaps`], as nothing is known yet.
    pub(super) fn open(place: &Place) -> Result<Self, Failure> {
        let connection = place.connect_to_read()?;
        // It waits for nobody.
        connection.busy_timeout(Duration::ZERO)?;
        Ok(Self(Mutex::new(State {
            connection: Some(connection),
            known: None,
        })))
    }

    /// Compares the version with the noted one. Never waits: a failure counts as a change, and the
    /// feeder finds out what is wrong.
    pub(super) fn look(&self) -> Glimpse {
        let mut state = self.state();
        let Some(connection) = &state.connection else {
            return Glimpse::Perhaps(None);
        };
        let version = connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        match version {
            Ok(version) if state.known == Some(version) => Glimpse::Nothing,
            Ok(version) => Glimpse::Perhaps(Some(version)),
            Err(error) => {
                let failure = Failure::from(error);
                if !failure.spares_connection() {
                    state.connection = None;
                }
                Glimpse::Perhaps(None)
            }
        }
    }

    /// The observer knows everything of this state and of the states before.
    pub(super) fn note(&self, version: Option<i64>) {
        self.state().known = version;
    }

    /// Gives up the connection, so that the writer's is the last to be closed.
    pub(super) fn close(&self) {
        self.state().connection = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
