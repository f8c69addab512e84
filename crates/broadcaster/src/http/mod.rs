//! The broadcaster's endpoints: decode, call the use case, encode.
//!
//! - `router` has every path on one screen; `endpoints` what the handlers call.
//! - `reception` takes a request in: its head is read and its authorization spent before any of
//!   the rest is.
//! - `native` is NOTIFY and the changes of subscriptions; `forward` what other broadcasters post
//!   for the websockets of this one; `websocket` the handshake; `health` `/healthz`, `/readyz`.
//! - `plain` is publishing by a token.
//! - `reply` has the one table from failures to statuses.
//!
//! No decision is made here that another door would have to make again.

mod endpoints;
mod forward;
mod health;
mod native;
mod plain;
mod reception;
mod reply;
mod router;
mod websocket;

pub use axum::Router;
pub(crate) use endpoints::Endpoints;
pub(crate) use plain::PlainDoor;
pub(crate) use reception::Reception;
pub(crate) use router::{router, whole_router};
