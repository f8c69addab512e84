//! The broadcaster's endpoints: decode, call the use case, encode.

mod health;
mod notify;
mod reply;
mod request;
mod router;
mod subscriptions;
mod upgrade;
mod websockets;

pub(crate) use router::router;
