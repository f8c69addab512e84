//! Websockets of subscribers and publishers: one session each.
//!
//! [`session`] drives the state machine of `httppubsub_proto::session`, which knows the protocol
//! and touches nothing: what comes from the socket goes in, what it says goes out.
//!
//! - [`sessions`] is what all of them share: configuration, hub, use case.
//! - [`arrivals`] takes notifications in, part by part; [`requests`] works on them and on changes
//!   of subscriptions, one after the other.
//! - [`delivery`] makes a message ready for one subscriber; [`compressors`] and [`dictionaries`]
//!   are what it is compressed with.
//! - [`progress`] tells a session that is slow from one that is stuck; [`ended`] is how one ends.

pub(crate) mod arrivals;
pub(crate) mod compressors;
pub(crate) mod delivery;
pub(crate) mod dictionaries;
mod ended;
pub(crate) mod progress;
pub(crate) mod requests;
pub(crate) mod session;
pub(crate) mod sessions;
