//! A file lock that says whether large sets are under way in any process.
//!
//! A row in `httppubsub_sets` says that a set was begun, not whether its process still lives. The
//! lock says that: shared while a set is written, exclusive while remains are ended.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Held while a large set is under way; the system lets go of it when the process ends, however
/// that ends.
#[derive(Debug)]
pub(super) struct Mark {
    _file: File,
}

impl Mark {
    /// A set is under way. Any number may be; `None` while left sets are being ended.
    pub(super) fn make(database: &Path) -> io::Result<Option<Self>> {
        let file = open(database)?;
        let locked = file.try_lock_shared();
        if_locked(file, locked)
    }

    /// None is, and none begins as long as this is held; `None` if one is.
    pub(super) fn alone(database: &Path) -> io::Result<Option<Self>> {
        let file = open(database)?;
        let locked = file.try_lock();
        if_locked(file, locked)
    }
}

/// The mark, or `None` if another process has a lock that excludes it.
fn if_locked(file: File, locked: Result<(), TryLockError>) -> io::Result<Option<Mark>> {
    match locked {
        Ok(()) => Ok(Some(Mark { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The file `-sets` beside the database. A file of its own, because closing any handle of the
/// database would end SQLite's locks on it. It stays empty and is never removed: a process that
/// removed it would leave others with a lock on a file nobody else finds.
fn open(database: &Path) -> io::Result<File> {
    let mut path = database.as_os_str().to_owned();
    path.push("-sets");
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}
