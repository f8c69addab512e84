//! A store in one SQLite file, with the tables of the published Python broadcaster.
//!
//! Three threads own a connection each: the writer commits what waits in groups, the reader
//! answers questions, and the feeder looks for what other processes wrote.
//!
//! ```text
//!  subscribe, set, ...    etag, ...          catch_up, watch
//!          |                 |                      |
//!          |                 |               +-------------+  PRAGMA data_version, on the
//!          |                 |               |   glance    |  caller's thread: mostly nothing
//!          |                 |               +-------------+  is new
//!     bounded queue     bounded queue        bounded queue
//!          v                 v                      v
//!     +---------+       +---------+           +---------+
//!     | writer  |       | reader  |           | feeder  |
//!     +---------+       +---------+           +---------+
//!          |                 |                      |
//!          +--------- SQLite file in WAL mode ------+
//!          |                                        |
//!          +------------> feed (observer) <---------+
//! ```
//!
//! A change is one job of the writer: it runs in a transaction together with the jobs that wait
//! beside it, the transaction is committed with one `fsync`, the feed passes the new entries of the
//! change log to the observer, and only then the callers are answered. Triggers fill the log, so
//! changes by other programs are in it as well.
//!
//! Rows are read with suspicion: other programs may have written any value of any type. A row that
//! no subscription can have is passed over and logged, a file that lost something is reported, and
//! nothing is repaired silently.
//!
//! An I/O error makes a connection untrustworthy ([`failure::Failure::spares_connection`]): the
//! thread drops it and opens another for its next job. The job itself is answered as failed and is
//! never repeated here, because only its caller knows whether that is safe.

mod failure;

mod schema;

mod files;

mod health;

mod place;

mod row;

mod feed;

mod tables;

mod mark;

mod pieces;

mod operations;

mod shares;

mod call;

mod writer;

mod reader;

mod feeder;

mod doors;

mod sets;

mod glance;

mod store;

pub use store::{SqliteStore, SqliteStoreBuilder};
