//! An httppubsub broadcaster: keeps subscriptions and hands every notification to all that match.
//! [`Broadcaster::start`] makes one, [`Broadcaster::router`] mounts it in an axum app.

mod config;

mod measures;

mod refusals;

mod load;

mod busy_poll;

mod heartbeat;
mod quarantine;

mod in_flight;

mod globs;

mod urls;

mod index;

mod message;

mod queue;

mod spending;

mod hub;

mod training;

mod forbidden;

mod others;

mod core;

mod cluster;

mod own_rows;
mod readiness;

mod webhook;

mod missed;

mod unfinished;

mod notify;

mod subscriptions;

mod session;

mod http;

mod broadcaster;

#[cfg(test)]
mod vectors;

pub use broadcaster::{Broadcaster, StartError};
pub use config::{
    Authorizations, ClusterConfig, Config, LoadConfig, Preset, QuarantineConfig, WebSocketConfig,
};
