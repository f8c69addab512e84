//! Subscriptions, and how the broadcasters learn of them.

pub(crate) mod admin;
pub(crate) mod changes;
pub(crate) mod reconcile;
pub(crate) mod subscription;
