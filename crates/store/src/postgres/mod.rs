//! Subscriptions in one PostgreSQL database that several broadcasters share.

mod address;

mod failure;

mod row;

mod schema;

mod feed;

mod store;

pub use store::{PostgresOptions, PostgresStore};
