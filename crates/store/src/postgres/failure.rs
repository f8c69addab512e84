//! Why the database did not do what it was asked.

use std::time::Duration;

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// Longest wait for a session, from the look-up of the name to the first query, in which all hosts are
/// tried. A server that was stopped accepts connections and says nothing.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It has no source: this error says by itself what that would say again.
    #[error("{}", said(.0))]
    Sql(tokio_postgres::Error),
    #[error("no connection became free")]
    Busy,
    #[error("the database did not answer within {0:?}")]
    Waited(Duration),
    #[error("the server at this address let nobody in within {0:?}")]
    Silent(Duration),
    #[error("the database takes no writes: it is a replica, or it was made read-only")]
    ReadOnly,
    #[error("the observer of changes panicked")]
    Observer,
    #[error("the database holds what cannot be there: {0}")]
    Nonsense(String),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.code() {
            Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Self::ReadOnly,
            _ => Self::Sql(error),
        }
    }
}

fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(it) => format!("{} ({})", it.message(), it.code().code()),
        None => {
            let mut said = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(error) = source {
                let part = error.to_string();
                if !said.ends_with(&part) {
                    said = format!("{said}: {part}");
                }
                source = error.source();
            }
            said
        }
    }
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
                Some(code) if is_for_now(code) || is_of_plans(code) => Done::No,
                // The server says so when it is stopped, whatever it was doing.
                Some(code) if is_of_connections(code) => Done::Perhaps,
                Some(_) => Done::Never,
                None => Done::Perhaps,
            },
            Self::Busy | Self::Silent(_) | Self::ReadOnly => Done::No,
            Self::Waited(_) => Done::Perhaps,
            Self::Observer | Self::Nonsense(_) => Done::Never,
        }
    }

    /// Whether the session that failed so would go on to fail: the server is a replica now, is being
    /// stopped, or is another one than that which prepared the statements.
    pub(super) fn condemns_session(&self) -> bool {
        match self {
            Self::ReadOnly => true,
            Self::Sql(error) => error
                .code()
                .is_none_or(|code| is_of_plans(code) || is_of_connections(code)),
            Self::Busy | Self::Waited(_) | Self::Silent(_) | Self::Observer | Self::Nonsense(_) => {
                false
            }
        }
    }

    /// Whether the database cannot be used for now, whatever it is asked.
    pub(super) fn is_trouble(&self) -> bool {
        match self {
            Self::Busy | Self::Waited(_) | Self::Silent(_) => true,
            Self::Sql(error) if error.code().is_some_and(|it| it.code().starts_with("53")) => true,
            Self::Observer | Self::Nonsense(_) => false,
            failure => failure.condemns_session(),
        }
    }
}

/// A statement that this session does not know, or that has to be prepared anew.
fn is_of_plans(code: &SqlState) -> bool {
    *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::FEATURE_NOT_SUPPORTED
}

/// The server, or a pooler before it, ends the session.
fn is_of_connections(code: &SqlState) -> bool {
    code.code().starts_with("57P") || code.code().starts_with("08")
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
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(TimeoutType::Create) => Self::Silent(CONNECT_TIMEOUT),
            _ => Self::Busy,
        }
    }
}
