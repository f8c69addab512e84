//! Where a broadcaster keeps its subscriptions, and the notices it still owes.

mod store;

pub use store::{
    Alive, Census, Change, Changed, ClaimedNotice, Cluster, Heard, InFlight, Missed, NoticeOutcome,
    Observer, Seen, Store, StoreError, Subscribed, Unsubscribed,
};

mod lock;

mod urls;

mod memory;

pub use memory::MemoryStore;

mod sqlite;

pub use sqlite::{SqliteOptions, SqliteStore};

mod postgres;

pub use postgres::{PostgresOptions, PostgresStore};

pub mod conformance;
