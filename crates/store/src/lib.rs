//! The store of an httppubsub broadcaster: its subscriptions, and the notices that it owes.
//!
//! A broadcaster keeps all subscriptions in memory to match topics against them. The store keeps
//! them durably, tells the broadcaster of every change, and shares them with other broadcasters.
//!
//! ```text
//!     SUBSCRIBE, SET, ...        NOTIFY
//!            |                     | which rows match?
//!            v                     v
//!     +---------------+     +-------------+
//!     | Subscriptions |     | index       |  in memory, an `Observer`
//!     +---------------+     +-------------+
//!            | writes              ^ changes, in the order of their commits
//!            v                     |
//!     +-----------------------------------+
//!     | backend: memory, SQLite,          |<---> other processes
//!     | PostgreSQL                        |      on the same database
//!     +-----------------------------------+
//!            ^                     ^
//!            |                     |
//!     +---------------+     +---------------+
//!     | Notices       |     | InFlight      |
//!     +---------------+     +---------------+
//!       what was missed       what may be under way after a kill
//! ```
//!
//! # Contract
//!
//! [`Store`] is the sum of four traits, one for each subject: [`Subscriptions`], [`Feed`],
//! [`Notices`] and [`InFlight`]. A `dyn Store` has the methods of all four. A store that several
//! machines share also has a [`Cluster`]. A call that changes something returns when the change is
//! durable and the observer of this store knows it.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use httppubsub_proto::subscription::{Interest, Subscription};
//! use httppubsub_proto::{topic::Topic, url::SubscriberUrl};
//! use httppubsub_store::{MemoryStore, Store, Subscribed};
//!
//! let store: Box<dyn Store> = Box::new(MemoryStore::new());
//! let subscription = Subscription {
//!     url: SubscriberUrl::new("http://subscriber.example/hook")?,
//!     interest: Interest::Exact(Topic::new("orders/new")?),
//!     recovery: None,
//! };
//! assert_eq!(store.subscribe(subscription.clone()).await?, Subscribed::Added);
//! assert_eq!(store.subscribe(subscription).await?, Subscribed::Existed);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # Features
//!
//! | feature | what it adds | needs |
//! |---|---|---|
//! | none | the contract and [`MemoryStore`] | |
//! | `sqlite` (default) | `SqliteStore`: one file, processes on one machine | a C compiler |
//! | `postgres` | `PostgresStore`: broadcasters on many machines | PostgreSQL 15 or newer |
//! | `conformance` | `conformance::run`: the contract as tests for a backend of your own | |
//!
//! # Failures
//!
//! Calls of a database that is away wait for it, up to the patience of the store, and then fail as
//! [`StoreError::Unavailable`]. A broadcaster answers 503 then, which clients repeat. Nothing that
//! fails is acknowledged; something that failed may still have been done, so every method says what
//! a second call means.
//!
//! [`Store::trouble`] is the same for load balancers: a store that cannot be used says so without
//! being asked for anything: [`Store::probe`] looks about once a second, so that trouble is noticed
//! without traffic and its end as well.
//!
//! # A backend of your own
//!
//! Implement the four parts and [`Store`], and run `conformance::run` in a test. The order of
//! changes is what most attempts get wrong: an observer must get every change once, in the order of
//! the commits, also those made by other processes, and before the call that made it returns.
//!
//! # In scope
//!
//! - Durability: what was acknowledged survives the loss of power.
//! - One order of changes for all observers, also of changes by other processes.
//! - All or nothing: a SET of any size is applied whole or not at all.
//!
//! # Out of scope
//!
//! - Matching: what a glob matches is decided by the index of the broadcaster.
//! - Authorization: a caller that has the store may change everything in it.
//! - Time: `now` is an argument. Only [`Cluster`] has a clock, that of its database.
//! - Messages: their bytes are never stored.

mod contract;

// A store of your own needs it for each of the traits.
pub use async_trait::async_trait;

pub use contract::{
    Census, Change, Changed, ClaimedNotice, Cluster, Feed, Heartbeat, InFlight, Member, Missed,
    NoticeOutcome, Notices, Observer, Store, StoreError, Subscribed, Subscriptions, TopicInFlight,
    Unsubscribed, View,
};

mod lock;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod urls;

mod memory;

pub use memory::MemoryStore;

#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteStore, SqliteStoreBuilder};

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use postgres::{PostgresStore, PostgresStoreBuilder};

#[cfg(feature = "conformance")]
pub mod conformance;
