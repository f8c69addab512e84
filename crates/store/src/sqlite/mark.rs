//! A file lock that says whether large sets are under way in any process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Held while a large set is under way; the system lets go of it when the process ends, however that
/// ends.
#[derive(Debug)]
pub(super) struct Mark {
    _file: File,
}

impl Mark {
    /// A set is under way. Any number may be; `None` while those that were left are being ended.
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

fn if_locked(file: File, locked: Result<(), TryLockError>) -> io::Result<Option<Mark>> {
    match locked {
        Ok(()) => Ok(Some(Mark { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open(database: &Path) -> io::Result<File> {
    let mut path = database.as_os_str().to_owned();
    path.push("-sets");
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}
