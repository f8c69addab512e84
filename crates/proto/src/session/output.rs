//! What a machine hands to whoever drives it.

use std::ops::Range;

use bytes::Bytes;

use crate::auth::Stamp;
use crate::session::error::SessionError;
use crate::time::Now;

/// What to do next. Poll until [`Output::Timeout`]; only then give the next input.
#[derive(Debug)]
pub enum Output<B, E> {
    /// Send this as one binary websocket message.
    Send(Outgoing<B>),
    /// Something for whoever drives the machine.
    Event(E),
    /// The session is over: close the websocket with this reason's code, read no further. Comes
    /// once; after it only `Timeout(None)` comes.
    Close(SessionError),
    /// Nothing until the next input, or until this moment, at which `handle_timeout` is to be called.
    Timeout(Option<Now>),
}

/// A websocket message to send: `head`, then `body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<B> {
    /// Flags, type and headers.
    pub head: Bytes,
    /// What follows them.
    pub body: OutgoingBody<B>,
}

/// The body of a websocket message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutgoingBody<B> {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// These bytes of that body.
    Part {
        /// The body, as it was handed in.
        of: B,
        /// Offsets, in bytes.
        range: Range<u64>,
    },
}

/// Which RECEIVE_STREAM parts take a counter (`docs/protocol/stateful.md` §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamCounters {
    /// The first part of each message; the others are signed over the same url. What published
    /// subscribers expect.
    #[default]
    FirstPart,
    /// Every part. What published broadcasters do.
    EachPart,
}

/// Numbers used once: what makes each authorization of a connection different from all others.
/// They need not be secret.
#[derive(Clone, Debug)]
pub struct Nonces {
    start: u64,
    prefix: [u8; 4],
    drawn: u64,
}

impl Nonces {
    /// Numbers that begin at a random place.
    pub fn new(seed: [u8; 12]) -> Self {
        let (prefix, start) = seed.split_at(4);
        Self {
            start: u64::from_be_bytes(start.try_into().expect("8 bytes are left")),
            prefix: prefix.try_into().expect("4 bytes were split off"),
            drawn: 0,
        }
    }

    /// A stamp with the next number.
    pub fn stamp(&mut self, now: Now) -> Stamp {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.prefix);
        nonce[4..].copy_from_slice(&self.start.wrapping_add(self.drawn).to_be_bytes());
        self.drawn += 1;
        Stamp { now, nonce }
    }
}
