//! Notices to subscribers that missed something: owed, due, sent.
//!
//! - [`notices`] records that a notice is owed. That is durable before the publisher is answered.
//! - [`sweep`] claims what is due from the store, for a lease in which no other broadcaster on it
//!   does, and settles each by its outcome: done, or due again by the schedule.
//! - [`send`] posts one MISSED to a recovery url and verifies that it was taken.
//! - `held` bounds the notices that are in progress, and the share of one peer.
//!
//! One notice tells of everything that a url missed with one recovery url. It says that, not what:
//! a subscriber that hears of it reads what it needs from its own source.

mod held;
pub(crate) mod notices;
pub(crate) mod send;
pub(crate) mod sweep;

pub(crate) use held::HeldNotices;
