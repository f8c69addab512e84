//! Subscriptions in one PostgreSQL database that several broadcasters share.
//!
//! ```text
//!  subscribe, unsubscribe     spend            set, notices, in flight, etag
//!         |                     |                        |
//!    groups of 128         groups of 1,024               |
//!         |                     |                        |
//!         +---------------------+------- pool -----------+      one session that LISTENs
//!                                          |                            |
//!                                     PostgreSQL --- changes, numbers --+--> feed (observer)
//! ```
//!
//! # How a change comes to be known
//!
//! 1. The statement commits. Triggers have written its entries into the change sequence, each with
//!    a number and its transaction.
//! 2. This store looks for changes itself, so that its own observer knows before the call returns.
//! 3. The call returns [`PostgresStoreBuilder::settled_after`] after its commit. A broadcaster that
//!    has looked within that time need not look again: nothing was acknowledged that it has not
//!    seen.
//! 4. One `NOTIFY` for all changes of the last moments wakes the others, so that their next look
//!    finds little to do. If it is lost, they look after [`PostgresStoreBuilder::poll_interval`] at
//!    the latest.
//!
//! # Failures
//!
//! A statement that was certainly not done is made again until [`PostgresStoreBuilder::patience`]
//! is over; one that may have been done only if the second time says the same. A server that takes
//! no writes is treated as one that is away: after a failover the old primary must not be believed.
//! A session that comes to another server compares one transaction number with what it knows, and
//! reads all subscriptions anew if the histories differ.
//!
//! # Clocks
//!
//! Leases and spent authorizations go by the clock of the database, because broadcasters compare
//! them with each other. Notices and topics in flight go by the `now` of the caller.

mod address;

mod failure;

mod row;

mod sql;

mod schema;

mod options;

mod feed;

mod database;

mod tasks;

mod batch;

mod store;

mod subscriptions;

mod notices;

mod in_flight;

mod cluster;

pub use options::PostgresStoreBuilder;
pub use store::PostgresStore;
