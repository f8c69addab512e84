//! The plain door (`docs/plain.md`): publishing with nothing but HTTP and a token.
//!
//! - `explain` says who would get a message. `publish` takes one, `door` has what its requests share: the tokens that are believed
//!   and the idempotency keys that were used.
//! - `token` finds the token of a request, `digest` verifies announced digests, `event` judges the
//!   headers of a CloudEvent, `keys` remembers idempotency keys.
//! - `refused` is what only this door refuses.

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
