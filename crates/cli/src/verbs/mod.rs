//! The verbs, a file each.

pub(crate) mod check_url;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod notify;
pub(crate) mod setup;
pub(crate) mod subscriptions;
pub(crate) mod token;
