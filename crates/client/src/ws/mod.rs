//! The stateful protocol: one websocket for requests out and deliveries in.

mod closing;
mod connection;
mod link;
mod passes;
mod pending;

pub(crate) use link::Link;
