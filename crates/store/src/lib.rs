//! Where a broadcaster keeps its subscriptions, and the notices it still owes.

mod store;

pub use store::{
    Change, Changed, ClaimedNotice, InFlight, Missed, NoticeOutcome, Observer, Store, StoreError,
    Subscribed, Unsubscribed,
};

mod lock;

mod memory;

pub use memory::MemoryStore;

mod sqlite;

pub use sqlite::{SqliteOptions, SqliteStore};

pub mod conformance;
