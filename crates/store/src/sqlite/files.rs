//! The files of a database, told from others that may take their names.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::sqlite::failure::Failure;

/// The database and its write-ahead log as they were when they were opened.
///
/// Looks at names only: to open and close a file of SQLite would end all locks that this process
/// has on it.
#[derive(Debug)]
pub(super) struct Files {
    database: (PathBuf, Identity),
    log: Mutex<(PathBuf, Option<Identity>)>,
}

/// Device and number of a file.
type Identity = (u64, u64);

impl Files {
    /// The files of the database at `path`, which is open.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        // SQLite follows links before it names the log.
        let path = std::fs::canonicalize(path)?;
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        let log = PathBuf::from(log);
        Ok(Self {
            database: (path.clone(), identity(&path)?),
            log: Mutex::new((log.clone(), identity(&log).ok())),
        })
    }

    /// An error if one of them was removed, or another file has its name: what is written now is
    /// gone when the last process that has it open ends.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let gone = |path: &Path| Failure::Gone(path.to_owned());
        let (path, opened) = &self.database;
        if identity(path).ok() != Some(*opened) {
            return Err(gone(path));
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, opened) = &mut *log;
        let found = identity(path).ok();
        match opened {
            // The log is made by the first write, perhaps after the store was opened.
            None => *opened = found,
            Some(_) if *opened == found => {}
            Some(_) => return Err(gone(path)),
        }
        Ok(())
    }
}

/// Follows links, as SQLite does.
fn identity(path: &Path) -> io::Result<Identity> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Makes an empty file for the database if there is none, for its owner only. SQLite gives the
/// files beside it the same mode.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::metadata(path)?.mode() & 0o077 != 0 {
                let path = path.display();
                tracing::warn!(
                    "other users of this machine may read or write {path}: `chmod 600 {path}*`"
                );
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}
