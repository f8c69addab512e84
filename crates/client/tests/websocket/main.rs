//! What a program sees of a client that holds a websocket, and a broadcaster of its connections.
#![allow(
    clippy::unwrap_used,
    reason = "whatever is not as it should be fails the test"
)]

mod calls;
mod connections;
mod messages;
mod refusals;
mod script;
