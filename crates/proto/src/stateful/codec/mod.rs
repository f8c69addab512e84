//! The bytes of messages (`docs/protocol/stateful.md` §2, §4).

mod headers;
mod shared;

mod to_broadcaster;
mod to_subscriber;
