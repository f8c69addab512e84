//! A glance at whether anything changed at all, on the caller's thread: in WAL mode it is a look into
//! shared memory, and waking another thread would cost ten times as much.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::failure::Failure;
use super::place::Place;

pub(super) struct Glance(Mutex<State>);

struct State {
    /// `None` when the store is being closed, or after a failure: the feeder finds out then.
    connection: Option<Connection>,
    /// What SQLite called the state of the database of which the observer knows everything.
    known: Option<i64>,
}

/// What was seen.
pub(super) enum Seen {
    /// Nothing that the observer does not know.
    Nothing,
    /// Something changed, perhaps; this is what SQLite calls the state now, if it can be told.
    Perhaps(Option<i64>),
}

impl Glance {
    pub(super) fn open(place: &Place) -> Result<Self, Failure> {
        let connection = place.connect_to_read()?;
        // It waits for nobody.
        connection.busy_timeout(Duration::ZERO)?;
        Ok(Self(Mutex::new(State {
            connection: Some(connection),
            known: None,
        })))
    }

    pub(super) fn look(&self) -> Seen {
        let mut state = self.state();
        let Some(connection) = &state.connection else {
            return Seen::Perhaps(None);
        };
        let version = connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
        match version {
            Ok(version) if state.known == Some(version) => Seen::Nothing,
            Ok(version) => Seen::Perhaps(Some(version)),
            Err(error) => {
                let failure = Failure::from(error);
                if !failure.spares_connection() {
                    state.connection = None;
                }
                Seen::Perhaps(None)
            }
        }
    }

    /// The observer knows everything of this state and of those before.
    pub(super) fn note(&self, version: Option<i64>) {
        self.state().known = version;
    }

    pub(super) fn close(&self) {
        self.state().connection = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
