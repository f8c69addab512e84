//! The outputs of a machine, for its driver.

use std::ops::Range;

use bytes::Bytes;

use crate::session::error::SessionError;
use crate::time::Now;

/// The next thing to do. Poll until [`Output::Timeout`]; only then give the next input.
#[derive(Debug)]
pub enum Output<B> {
    /// Send this as one binary websocket message.
    Send(Outgoing<B>),
    /// The session is over: close the websocket with this reason's code, read no further. Comes
    /// once; after it only `Timeout(None)` comes.
    Close(SessionError),
    /// Nothing until the next input, or until this moment, at which `handle_timeout` is to be
    /// called.
    Timeout(Option<Now>),
}

/// A websocket message to send: `head`, then `body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<B> {
    /// Flags, type and headers.
    pub head: Bytes,
    /// The bytes that follow them.
    pub body: OutgoingBody<B>,
}

impl<B> Outgoing<B> {
    /// A message that ends with its headers.
    pub(super) fn without_body(head: Vec<u8>) -> Self {
        let (head, body) = (head.into(), OutgoingBody::Empty);
        Self { head, body }
    }
}

/// The body of a websocket message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutgoingBody<B> {
    /// No body.
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
