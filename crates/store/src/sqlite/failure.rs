//! Failures of the threads of a store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::contract::StoreError;

/// One failure may be the answer to many calls, so it can be cloned.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// SQLite's own error.
    #[error(transparent)]
    Sql(Arc<rusqlite::Error>),
    /// The write lock was not to be had in time.
    #[error("another connection held the database locked for {0:?}")]
    Locked(Duration),
    /// The thread did not answer in time: it is busy with other calls, or the disk is stuck.
    #[error("the database did not get to it within {0:?}")]
    Waited(Duration),
    /// Nobody is there to do it.
    #[error("the store's thread failed or the store is being closed")]
    Stopped,
    /// The change is durable all the same; the observer gets everything again.
    #[error("the observer of changes panicked")]
    Observer,
    /// Somebody moved or deleted the database or its log while it was open.
    #[error(
        "{} was removed or replaced while it is in use: nothing is written any longer, as it would \
         be lost; put it back, or start the broadcaster again", .0.display()
    )]
    Gone(PathBuf),
    /// SQLite noticed nothing, our own checks did.
    #[error("{0}; {DAMAGED}")]
    Damaged(String),
    /// May be repeated: the other set ends, or is ended by a probe.
    #[error("another set of this url is under way")]
    SetUnderWay,
    /// The lock file `-sets` beside the database.
    #[error("cannot lock the file beside the database")]
    Mark(#[source] Arc<std::io::Error>),
}

/// Advice for a database that lost something.
pub(super) const DAMAGED: &str = "the file is damaged: stop everything that uses it and restore a \
     backup, or rescue what is left with `sqlite3 FILE .recover` (docs/operating.md, \"Back up\")";

impl Failure {
    /// The error for the caller of the store, who was `doing` something.
    pub(super) fn doing(self, doing: &'static str) -> StoreError {
        match &self {
            Self::Sql(error) if is_corruption(error) => {
                StoreError::Corrupt(format!("{doing}: {error}; {DAMAGED}"))
            }
            Self::Damaged(_) => StoreError::Corrupt(format!("{doing}: {self}")),
            _ => StoreError::Unavailable {
                doing,
                source: Box::new(self),
            },
        }
    }

    /// `true` if the connection that failed so can be trusted further. After an I/O error it
    /// cannot: a failed `fsync` says nothing about what the next one will say.
    pub(super) fn spares_connection(&self) -> bool {
        match self {
            Self::Sql(error) => {
                is_of_statement(error)
                    || is_busy(error)
                    || error.sqlite_error_code() == Some(ErrorCode::DiskFull)
            }
            // What is in a file without a name can still be rescued while it is open.
            Self::Gone(_) => true,
            Self::Damaged(_) => false,
            Self::SetUnderWay | Self::Mark(_) => true,
            Self::Locked(_) | Self::Waited(_) | Self::Stopped | Self::Observer => true,
        }
    }

    /// `true` if it is about one statement and not about the database, so that the rest of the
    /// transaction can be believed.
    pub(super) fn spares_transaction(&self) -> bool {
        matches!(self, Self::Sql(error) if is_of_statement(error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Mark(Arc::new(error))
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

/// `true` if another connection has the lock, so that waiting may help.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// `true` if the file is not what it should be; no retry will help.
fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// `true` if only this statement failed, for its own values; the connection and the transaction go
/// on. `None` is an error of rusqlite itself, such as a column of another type.
fn is_of_statement(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        None | Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}
