//! The stateful protocol: one websocket for requests out and deliveries in.

mod connection;
mod link;
mod pending;

pub(crate) use link::Link;
