//! Why a thread of the store did not do what it was asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// One failure may be the answer to many calls, so it can be cloned.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Sql(Arc<rusqlite::Error>),
    #[error("another connection held the database locked for {0:?}")]
    Locked(Duration),
    #[error("the database did not get to it within {0:?}")]
    Waited(Duration),
    #[error("the store's thread failed or the store is being closed")]
    Stopped,
    #[error("the observer of changes panicked")]
    Observer,
    #[error(
        "{} was removed or replaced while it is in use: nothing is written any longer, as it would \
         be lost; put it back, or start the broadcaster again", .0.display()
    )]
    Gone(PathBuf),
    #[error("{0}; {DAMAGED}")]
    Damaged(String),
    #[error("another set of this url is under way")]
    SetUnderWay,
    #[error("cannot lock the file beside the database")]
    Mark(#[source] Arc<std::io::Error>),
}

/// What to do with a database that lost something.
pub(super) const DAMAGED: &str = "the file is damaged: stop everything that uses it and restore a \
     backup, or rescue what is left with `sqlite3 FILE .recover` (docs/operating.md, \"Back up\")";

impl Failure {
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

    /// Whether the connection that failed so can be trusted further. After an I/O error it cannot:
    /// a failed `fsync` says nothing about what the next one will say.
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

    /// Whether it is about one statement and not about the database, so that the rest of the
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

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

fn is_of_statement(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        None | Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
    )
}
