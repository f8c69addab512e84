//! The path of the database, and the settings of a connection to it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::contract::StoreError;
use crate::sqlite::failure::{self, Failure};
use crate::sqlite::files;
use crate::sqlite::schema;

/// One database file; opening it again gives connections with the same settings.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Longest wait for the lock of another process.
    pub(super) busy_timeout: Duration,
}

impl Place {
    /// Creates the file and its tables where they are missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] for what may pass, such as a full disk or a lock;
    /// [`StoreError::Corrupt`] and [`StoreError::NewerSchema`] for what will not.
    pub(super) fn prepare(&self) -> Result<Connection, StoreError> {
        check_library(rusqlite::version_number())?;
        // Before SQLite creates it, which would use the umask: urls may hold secrets of
        // subscribers.
        files::make_private(&self.path).map_err(|source| StoreError::Unavailable {
            doing: "making the file of the database",
            source: Box::new(source),
        })?;
        let flags = OpenFlags::SQLITE_OPEN_CREATE | READ_WRITE;
        let connection = Connection::open_with_flags(&self.path, flags)
            .and_then(|connection| self.set_up(connection))
            .and_then(|connection| enlarge_cache(&connection).map(|()| connection))
            .map_err(|error| Failure::from(error).doing("opening the database"))?;
        self.check_encoding(&connection)?;
        self.enter_wal_mode(&connection)?;
        schema::migrate(&connection)?;
        Ok(connection)
    }

    /// A connection to a database that was prepared. It does not create one: if the file is gone,
    /// so are the subscriptions, and an empty one in its place would hide that.
    pub(super) fn connect_to_write(&self) -> Result<Connection, Failure> {
        let connection = self.set_up(Connection::open_with_flags(&self.path, READ_WRITE)?)?;
        enlarge_cache(&connection)?;
        Ok(connection)
    }

    /// The same, for questions only.
    pub(super) fn connect_to_read(&self) -> Result<Connection, Failure> {
        let connection = self.set_up(Connection::open_with_flags(&self.path, READ_WRITE)?)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    /// The settings of every connection.
    fn set_up(&self, mut connection: Connection) -> rusqlite::Result<Connection> {
        connection.busy_timeout(self.busy_timeout)?;
        // What was acknowledged survives the loss of power: commits wait for the disk.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "fullfsync", true)?;
        connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        connection.progress_handler(STEPS_AT_ONCE, Some(yield_now_and_then()))?;
        // Of 16, the default, a batch of mixed calls would evict those of its next batch.
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }

    /// In UTF-16 the order of globs would not be that of etags.
    fn check_encoding(&self, connection: &Connection) -> Result<(), StoreError> {
        let encoding: String = connection
            .pragma_query_value(None, "encoding", |row| row.get(0))
            .map_err(|error| Failure::from(error).doing("reading the encoding"))?;
        match encoding.as_str() {
            "UTF-8" => Ok(()),
            other => Err(StoreError::Corrupt(format!(
                "text as {other}, wanted is UTF-8"
            ))),
        }
    }

    /// Makes readers independent of the writer: in any other journal mode a reload would hold up
    /// every commit, and every commit the reload. WAL stays set in the file.
    fn enter_wal_mode(&self, connection: &Connection) -> Result<(), StoreError> {
        let doing = "entering WAL mode";
        let started = Instant::now();
        loop {
            let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| {
                row.get::<_, String>(0)
            });
            match mode {
                Ok(mode) if mode == "wal" => return Ok(()),
                Ok(mode) => {
                    let why = format!("the database cannot leave journal mode {mode:?}");
                    return Err(StoreError::Unavailable {
                        doing,
                        source: why.into(),
                    });
                }
                // SQLite does not wait here by itself, and two who open a new file collide.
                Err(error) if failure::is_busy(&error) && started.elapsed() < self.busy_timeout => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(Failure::from(error).doing(doing)),
            }
        }
    }
}

/// Topics come in any order, so the pages that the index of them takes them to do, too.
fn enlarge_cache(connection: &Connection) -> rusqlite::Result<()> {
    const KIBIBYTES: i64 = 16_384;
    connection.pragma_update(None, "cache_size", -KIBIBYTES)
}

/// Each connection is used by one thread at a time, so SQLite's own mutex is left out. Readers open
/// it for writing as well: in WAL mode they write the shared index.
const READ_WRITE: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Steps of SQLite's virtual machine between two looks at the clock: some ten microseconds.
const STEPS_AT_ONCE: i32 = 200;

/// The longest time for which a thread of the store keeps its core.
const AT_A_TIME: Duration = Duration::from_micros(250);

/// Lets other threads go first every now and then.
///
/// Linux since 6.6 lets a thread that has a core keep it for some 3 ms, whatever wakes up meanwhile
/// (`RUN_TO_PARITY` of its scheduler EEVDF): without this, the pieces of a large set would delay
/// deliveries by as much. Where another process keeps the cores busy, a thread that yields waits
/// for all of its slices; so after it waited for long it goes on for as long.
fn yield_now_and_then() -> impl FnMut() -> bool {
    let (mut since, mut before) = (Instant::now(), Instant::now());
    let mut at_a_time = AT_A_TIME;
    move || {
        let now = Instant::now();
        // After a wait, for work or for the disk, others have gone first already.
        if now - before >= AT_A_TIME {
            since = now;
        }
        before = now;
        if now - since >= at_a_time {
            std::thread::yield_now();
            since = Instant::now();
            at_a_time = AT_A_TIME.max(since - now);
            before = since;
        }
        // Goes on with the statement.
        false
    }
}

/// Before this version, connections that reset the write-ahead log at the same time could corrupt
/// the database (<https://sqlite.org/wal.html#walresetbug>).
const LIBRARY_VERSION_MIN: i32 = 3_051_003;

/// Refuses a library that can lose data; `version` is SQLite's number, such as 3051003.
fn check_library(version: i32) -> Result<(), StoreError> {
    if version >= LIBRARY_VERSION_MIN {
        return Ok(());
    }
    let why = format!(
        "SQLite {version} can corrupt databases in WAL mode, wanted is {LIBRARY_VERSION_MIN} or \
         later"
    );
    Err(StoreError::Unavailable {
        doing: "checking the SQLite library",
        source: why.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_can_corrupt_databases_is_refused() {
        assert!(check_library(3_051_002).is_err());
        assert!(check_library(3_051_003).is_ok());
    }
}
