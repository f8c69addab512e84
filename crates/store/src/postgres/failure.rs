//! Failures of statements, and what they say about the database.

use std::time::Duration;

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

use crate::contract::StoreError;

/// Longest wait for a session, from the look-up of the name to the first query, in which all hosts
/// are tried. A server that was stopped accepts connections and says nothing.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The failure of one attempt.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It has no source: this error says by itself what that would say again.
    #[error("{}", said(.0))]
    Sql(tokio_postgres::Error),
    /// All connections of the pool were in use.
    #[error("no connection became free")]
    Busy,
    /// A statement was sent and may have been done.
    #[error("the database did not answer within {0:?}")]
    Waited(Duration),
    /// No session came to be.
    #[error("the server at this address let nobody in within {0:?}")]
    Silent(Duration),
    /// After a failover the old primary, or a load balancer that picks any server.
    #[error("the database takes no writes: it is a replica, or it was made read-only")]
    ReadOnly,
    /// The change is durable all the same.
    #[error("the observer of changes panicked")]
    Observer,
    /// An answer or a row that no program of ours can have caused.
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

/// The message of a database error with its code, or the whole chain of another error. The library
/// repeats its source in some of its messages, which is left out.
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

/// The effect of a statement that failed.
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
    /// The error for the caller of the store, who was `doing` something.
    pub(super) fn doing(self, doing: &'static str) -> StoreError {
        match self {
            Self::Nonsense(what) => StoreError::Corrupt(format!("{doing}: {what}")),
            failure => StoreError::Unavailable {
                doing,
                source: Box::new(failure),
            },
        }
    }

    /// The effect that the failed statement may have had all the same.
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

    /// `true` if the session that failed so would go on to fail: the server is a replica now, is
    /// being stopped, or is another one than that which prepared the statements.
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

    /// `true` if the database, or this process, may only have too much to do.
    fn may_be_load(&self) -> bool {
        matches!(self, Self::Busy | Self::Waited(_))
    }

    /// `true` if the database cannot be used for now, whatever it is asked.
    fn is_trouble(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            Self::Busy | Self::Waited(_) => false,
            Self::Sql(error) if error.code().is_some_and(|it| it.code().starts_with("53")) => true,
            Self::Observer | Self::Nonsense(_) => false,
            failure => failure.condemns_session(),
        }
    }
}

/// The state of the database, as calls and probes found it.
///
/// A call that got no connection, or no answer, in time may have met nothing but load. All
/// broadcasters meet that together: if it made them not ready, the load balancer would have none
/// left. So it is trouble only if the next probe fails as well.
#[derive(Debug, Default)]
pub(super) enum Trouble {
    #[default]
    None,
    /// A probe has to find out.
    Suspected,
    /// Since the last probe, for this reason.
    Known(String),
}

impl Trouble {
    /// Takes in how a call failed.
    pub(super) fn note(&mut self, failure: &Failure) {
        if failure.is_trouble() {
            *self = Self::Known(failure.to_string());
        } else if failure.may_be_load() && matches!(self, Self::None) {
            *self = Self::Suspected;
        }
    }

    /// `true` if a probe is wanted.
    pub(super) fn is_suspected(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Takes in how a probe ended.
    pub(super) fn probed(&mut self, failed: Option<StoreError>) {
        match (failed, &self) {
            (None, _) => *self = Self::None,
            (Some(error), Self::None | Self::Suspected) => *self = Self::Known(error.to_string()),
            // The call that noted it said why.
            (Some(_), Self::Known(_)) => {}
        }
    }

    /// The trouble for [`crate::Store::trouble`]; a suspicion is not said.
    pub(super) fn known(&self) -> Option<String> {
        match self {
            Self::None | Self::Suspected => None,
            Self::Known(why) => Some(why.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_ready_for_load_only_if_a_probe_fails_as_well() {
        let patience = Duration::from_secs(5);
        for load in [Failure::Busy, Failure::Waited(patience)] {
            let mut trouble = Trouble::default();
            trouble.note(&load);
            assert_eq!(trouble.known(), None);
            assert!(trouble.is_suspected(), "a probe must look");
            // A probe fails by what it meets, which is noted, and then as a whole.
            trouble.note(&load);
            trouble.probed(Some(load.doing("probing")));
            assert!(trouble.known().is_some());
            trouble.probed(None);
            assert_eq!(trouble.known(), None);
            assert!(!trouble.is_suspected());
        }
    }

    #[test]
    fn what_cannot_be_load_is_trouble_at_once() {
        for failure in [Failure::Silent(CONNECT_TIMEOUT), Failure::ReadOnly] {
            let mut trouble = Trouble::default();
            trouble.note(&failure);
            assert_eq!(trouble.known(), Some(failure.to_string()));
            trouble.note(&Failure::Busy);
            assert_eq!(trouble.known(), Some(failure.to_string()));
        }
    }
}
