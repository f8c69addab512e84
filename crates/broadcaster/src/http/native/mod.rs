//! The endpoints of the protocol `docs/protocol/stateless.md`.

pub(crate) mod notify;
pub(crate) mod subscriptions;
