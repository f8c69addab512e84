//! Reasons for which a store does not do what it was asked.

use httppubsub_proto::error_chain::error_chain;

/// The reason for which a call of a store failed.
///
/// | variant | whose fault | repeat? |
/// |---|---|---|
/// | `Unavailable` | nobody's: load, a lock, a failover | yes, with the same arguments |
/// | `NewerSchema` | the operator's: an old program on a new database | no |
/// | `Corrupt` | the disk's, or another program's | no: restore a backup |
/// | `Unsupported` | the operator's: server, role or database | no |
/// | `Address` | the operator's: the url | no |
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be used now: locked, full, unreachable, or failing. The call may be repeated.
    #[error("the store cannot be used now: {doing}: {}", error_chain(&**.source))]
    Unavailable {
        /// The attempted operation.
        doing: &'static str,
        /// The cause.
        r#source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database was written by a newer version of this program.
    #[error(
        "the database has schema version {found}, this program knows up to {known}: use the newer \
         program"
    )]
    NewerSchema {
        /// The version in the database.
        found: i64,
        /// The newest version known to this program.
        known: i64,
    },
    /// The database holds something that cannot be there.
    #[error("the database holds something that cannot be there: {0}")]
    Corrupt(String),
    /// The database server cannot do what is needed.
    #[error("the database cannot be used: {0}")]
    Unsupported(String),
    /// The url of the database cannot be used.
    #[error("{}", error_chain(&**.0))]
    Address(Box<dyn std::error::Error + Send + Sync>),
}
