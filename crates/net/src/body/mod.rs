//! The bytes of a message: read within limits, checked, kept in memory or on disk, compressed.
//!
//! A body goes one way through here, and each step has a bound:
//!
//! | step | type | bound |
//! |---|---|---|
//! | it arrives | [`BodyReader`] | silence, average rate ([`BodyLimits`]) |
//! | its head is read | [`BodyReader::head`] | length of the head; places for heads over 16 KiB |
//! | its rest is hashed and counted | [`PayloadWriter`] | announced length and digest |
//! | it is held | [`Spool`] | memory and disk, of all and of one party ([`SpoolConfig`]) |
//! | it is read again, by many at once | [`Payload`], [`PayloadReader`] | chunks of 256 KiB, or of 16 KiB when memory is short |
//!
//! Room is taken before the bytes are there, and given back when the value that holds it is
//! dropped: there is no call to forget, whatever fails or is cancelled in between. Bodies beyond
//! [`SpoolConfig::memory_each_max`] go to files that have no name, so that a crash leaves none.
//!
//! All waiting for the disk is done on threads made for it. A body in memory is never copied on its
//! way to subscribers.

pub(crate) mod payload;
pub(crate) mod reader;
pub(crate) mod spool;
pub(crate) mod writer;
#[cfg(feature = "websocket")]
pub(crate) mod zstd;

pub use payload::{Payload, PayloadReader};
pub use reader::{BodyError, BodyLimits, BodyReader, HeadError, Held};
pub use spool::{NoRoom, Reservation, Spool, SpoolConfig};
pub use writer::{FillError, PayloadWriter};
#[cfg(feature = "websocket")]
pub use zstd::{DecompressError, DecompressLimits, TrainError, Zstd, train};
