//! Why the database did not do what it was asked.

use std::time::Duration;

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Sql(#[from] tokio_postgres::Error),
    #[error("no connection became free")]
    Busy,
    #[error("the database did not answer within {0:?}")]
    Waited(Duration),
    #[error("the observer of changes panicked")]
    Observer,
    #[error("the database holds what cannot be there: {0}")]
    Nonsense(String),
}

/// What is known about a statement that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It was not done; it may be, next time.
    No,
    /// It was not done and never will be.
    Never,
    /// It may have been done: the connection was lost before the answer came.
    Perhaps,
}

impl Failure {
    pub(super) fn doing(self, doing: &'static str) -> StoreError {
        match self {
            Self::Nonsense(what) => StoreError::Corrupt(format!("{doing}: {what}")),
            failure => StoreError::Unavailable {
                doing,
                source: Box::new(failure),
            },
        }
    }

    pub(super) fn done(&self) -> Done {
        match self {
            Self::Sql(error) => match error.code() {
                Some(code) if is_for_now(code) => Done::No,
                // The server says so when it is stopped, whatever it was doing.
                Some(code) if code.code().starts_with("57P") => Done::Perhaps,
                Some(_) => Done::Never,
                None => Done::Perhaps,
            },
            Self::Busy => Done::No,
            Self::Waited(_) => Done::Perhaps,
            Self::Observer | Self::Nonsense(_) => Done::Never,
        }
    }
}

/// Serialization failures, deadlocks, too many connections, starting up.
fn is_for_now(code: &SqlState) -> bool {
    code.code().starts_with("40")
        || code.code().starts_with("53")
        || *code == SqlState::CANNOT_CONNECT_NOW
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Sql(error),
            _ => Self::Busy,
        }
    }
}
