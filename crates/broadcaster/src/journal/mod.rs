//! The journal of topics with notifications in progress.
//!
//! A publisher that got its answer believes that every subscriber has the message or will get
//! MISSED. A broadcaster that is killed while it delivers cannot keep that promise by itself, so it
//! writes down beforehand on which topics it delivers:
//!
//! - [`journal`] enters a topic before its first delivery, renews the record while a notification
//!   takes long, and forgets it some seconds after the last. Notifications on a topic in use write
//!   nothing.
//! - `recovery` finds the records of an earlier life at the start, and those of others whose
//!   records have ended, and owes all subscribers of these topics a notice.
//! - `topics` counts the notifications in progress on each topic.
//!
//! Only subscribers with a recovery url are covered, for only they can be told.

pub(crate) mod journal;
mod recovery;
mod topics;
