//! The kit that tests httppubsub through its public door: processes, raw connections, signed
//! requests, and subscribers that behave as badly as a test wants them to.
//!
//! Start at [`Home`]: it holds the secrets and the database of one test and starts broadcasters.
//! A [`Door`] is the way into one of them, a [`Subscriber`] is what it delivers to.

#![allow(clippy::print_stderr, reason = "for who looks into a test that failed")]

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}

mod address;
mod connection;
mod door;
mod hex;
mod home;
mod in_process;
mod message;
mod metrics;
mod namespace;
mod patience;
mod pgbouncer;
mod postgres;
mod process;
mod program;
mod proxy;
mod random;
mod signer;
mod subscriber;
mod terminal;

pub use address::own_address;
pub use connection::Connection;
pub use door::{Door, exact, glob, url};
pub use hex::unhex;
pub use home::{Home, Row, Server};
pub use httppubsub_proto::digest::hex;
pub use in_process::InProcess;
pub use message::Response;
pub use metrics::Metrics;
pub use namespace::Namespace;
pub use patience::{Gate, PATIENCE, eventually};
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use process::Process;
pub use program::httppubsub;
pub use proxy::{Fault, Proxy};
pub use random::{Filler, Random, seeded_runs};
pub use signer::{Asked, Signer};
pub use subscriber::{Act, Deaf, Delivery, Subscriber, http_answer};
pub use terminal::at_terminal;
