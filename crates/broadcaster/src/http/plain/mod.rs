//! The plain door (`docs/plain.md`): publishing with nothing but HTTP and a token.
//!
//! - `publish` takes a message, `explain` says who would get one.
//! - `door` has what their requests share: the tokens that are believed and the idempotency keys
//!   that were used.
//! - `token` finds the token of a request, `digest` verifies announced digests, `event` judges the
//!   headers of a CloudEvent, `keys` remembers idempotency keys.
//! - `refused` is what only this door refuses; `reply` has its statuses among all others.
//!
//! The order of steps is everywhere the same: is there too much to do, whose request is it, is it
//! well-formed, and only then the body. What is decided about a message is decided by the use case
//! behind all doors.

mod digest;
mod door;
mod event;
pub(crate) mod explain;
mod keys;
pub(crate) mod publish;
mod refused;
mod token;

pub(crate) use door::PlainDoor;
pub(crate) use refused::Refused;
