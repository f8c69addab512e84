//! The websocket sessions of this process, and the rows that stand for them.
//!
//! A row of the store stands for all sessions that want a topic or a glob: its url is that of this
//! broadcaster, so any broadcaster on the store delivers one copy to it, and [`hub`] hands that to
//! the sessions.
//!
//! ```text
//!   SUBSCRIBE over a websocket           a message, from this process or another broadcaster
//!            │                                              │
//!            ▼                                              ▼
//!   Hub::acquire_row ──▶ store           Hub::deliver ──▶ queue of each session ──▶ session
//!   Hub::attach                                        (bounded in bytes)
//! ```
//!
//! - [`session_places`] bounds the number of sessions, and of sessions that have not shown who they
//!   are.
//! - [`member`] and [`queue`] are the sending side of one session.
//! - [`rows`] compares the rows in the store with what sessions want, and makes lost ones anew.
//!
//! A row is made before the first session that wants it is confirmed, and removed after the last
//! one left. In between, no session has to ask the store.

mod by_interest;
pub(crate) mod hub;
pub(crate) mod member;
pub(crate) mod queue;
pub(crate) mod rows;
pub(crate) mod session_places;
