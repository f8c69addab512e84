//! The stateful protocol: one websocket for requests out and deliveries in.

#[cfg(feature = "websocket")]
pub(crate) mod attempt;
#[cfg(feature = "websocket")]
pub(crate) mod closing;
#[cfg(feature = "websocket")]
pub(crate) mod command;
#[cfg(feature = "websocket")]
pub(crate) mod connection;
#[cfg(feature = "websocket")]
pub(crate) mod link;
#[cfg(not(feature = "websocket"))]
#[path = "no_link.rs"]
pub(crate) mod link;
#[cfg(feature = "websocket")]
pub(crate) mod over;
#[cfg(feature = "websocket")]
pub(crate) mod pending;
#[cfg(feature = "websocket")]
pub(crate) mod prepare;
#[cfg(feature = "websocket")]
pub(crate) mod reconnect;
#[cfg(feature = "websocket")]
pub(crate) mod refusal;
#[cfg(feature = "websocket")]
pub(crate) mod running;

pub(crate) use link::Link;
