//! Receiving: both doors, and the subscriptions that want what arrives.

pub(crate) mod dispatch;
pub(crate) mod inbox;
pub(crate) mod message;
pub(crate) mod numbers;
pub(crate) mod router;
pub(crate) mod webhook;

pub(crate) use router::router;
pub(crate) use webhook::Inbound;
