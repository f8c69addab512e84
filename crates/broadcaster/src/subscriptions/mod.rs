//! The use cases that change subscriptions: SUBSCRIBE, UNSUBSCRIBE, CHECK and SET.
//!
//! Each takes what a door has decoded and authorized, judges it ([`url_policy`], the limits of
//! globs), and runs the change of the store to its end even if the peer goes away. The index hears
//! of it from the store, as every other broadcaster does.

pub(crate) mod set;
pub(crate) mod subscribe;
pub(crate) mod subscriptions;
pub(crate) mod unsubscribe;
pub(crate) mod url_policy;
