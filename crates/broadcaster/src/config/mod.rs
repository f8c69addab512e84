//! The configuration of a broadcaster.
//!
//! Every field has a default that serves, and says its unit and its reason. Relations between
//! settings are made to hold once, before any part sees them; only the program reads flags, files
//! and the environment.

mod cluster;
mod config;
mod delivery;
mod timeouts;
mod websocket;

pub use cluster::ClusterConfig;
pub use config::{Authorizations, Config};
pub use delivery::{AdmissionConfig, QuarantineConfig};
pub(crate) use timeouts::NotifyTimeouts;
pub use websocket::{Preset, WebSocketConfig};
