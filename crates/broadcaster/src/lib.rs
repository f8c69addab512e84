//! An httppubsub broadcaster: keeps subscriptions, and hands every notification to all that match.
//!
//! [`Broadcaster::builder`] makes one of a store (`httppubsub_store`), secrets and a [`Config`].
//! [`Broadcaster::serve_until`] serves it on a listener of its own and stops it in order;
//! [`Broadcaster::router`] is for an axum app that mounts it under a prefix. [`testing`] has one
//! for tests, in memory and on a free port.
//!
//! The way of a notification is the way of the folders, top to bottom:
//!
//! ```text
//!   publisher ── POST /v1/notify ──┐              ┌── websocket ── publisher or subscriber
//!                                  ▼              ▼
//!   http/        decode, authorize, encode   websocket/   one session each
//!                      │       │                  │
//!                      │       └─ subscriptions/  │       SUBSCRIBE, UNSUBSCRIBE, CHECK, SET
//!                      ▼                          ▼
//!   notify/      admit, match, deliver to all, account for each ── index/   who wants a topic
//!                      │                                        └─ admission/ how much at once
//!          ┌───────────┼─────────────┐
//!          ▼           ▼             ▼
//!   journal/     notices/       delivery/     one delivery and its verdict
//!   topics on    MISSED: owed,       │
//!   their way    due, sent      ┌────┴─────┐
//!          │           │        ▼          ▼
//!          ▼           ▼      hub/      net::outbound ──▶ subscribers, other broadcasters
//!        store       store    websockets of this process
//! ```
//!
//! Beside that way, `cluster/` keeps in touch with other broadcasters on the same store, and
//! `observe/` and `readiness` have what operators see. `composition` makes the parts of a
//! broadcaster; the fields of a part say what it may touch.
//!
//! # In scope
//!
//! - The endpoints of `docs/protocol/stateless.md` and `docs/protocol/stateful.md`.
//! - What is promised when something fails (`docs/guarantees.md`): a subscriber that is not
//!   reached gets a notice (MISSED), also after a kill.
//! - Bounds on everything that waits or is held for others, and a share of it for each party.
//! - Metrics through the crate `metrics`, and a log through `tracing`.
//!
//! # Out of scope
//!
//! - Messages are not stored: a subscriber that was away hears that it missed something, not what.
//! - Subscriptions are kept by a store (`httppubsub_store`), which decides no match.
//! - Flags, files, the environment and the terminal belong to the program (`httppubsub serve`).
//! - The subscriber's and the publisher's end is `httppubsub_client`.

pub mod testing;

mod builder;

mod broadcaster;
mod composition;

mod http;
mod readiness;
mod websocket;

mod notify;

mod journal;
mod notices;

mod delivery;

mod subscriptions;

mod cluster;
mod hub;

mod admission;
mod index;

mod background;
mod config;
mod message;
mod observe;

#[cfg(test)]
mod protocol_vectors;

pub use broadcaster::{Broadcaster, StartError};
pub use builder::BroadcasterBuilder;
pub use config::{
    AdmissionConfig, Authorizations, ClusterConfig, Config, Preset, QuarantineConfig,
    WebSocketConfig,
};

// Types of other crates that this API names.
pub use crate::http::Router;
pub use bytes::Bytes;
pub use httppubsub_net::body::{BodyLimits, DecompressLimits, SpoolConfig};
pub use httppubsub_net::egress::{Egress, EgressConfig, EgressProfile};
pub use httppubsub_net::inbound::{ReplayGuardError, ServeConfig, ServeCounts};
pub use httppubsub_net::outbound::{BreakerConfig, PostConfig, UnprovenLimits};
pub use httppubsub_net::websocket::SocketConfig;
pub use httppubsub_net::{Clock, SecretsFileError};
pub use httppubsub_proto::auth::{
    Authorization, HmacAuthorization, NoAuthorization, Scheme, Secrets, TokenAuthorization,
};
pub use httppubsub_proto::backoff::MissedSchedule;
pub use httppubsub_proto::plain::Tokens;
pub use httppubsub_proto::session::StreamCounters;
pub use httppubsub_proto::stateful::HeaderStyle;
pub use httppubsub_proto::url::UrlTooLong;
pub use httppubsub_store::{MemoryStore, Store, StoreError};
