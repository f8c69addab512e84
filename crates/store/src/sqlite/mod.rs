//! A store in one SQLite file, with the tables of the published Python broadcaster.
//!
//! Three threads own a connection each: the writer commits what waits in groups, the reader
//! answers questions, and the feeder looks for what other processes wrote.

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

mod glance;

mod store;

pub use store::{SqliteOptions, SqliteStore};
