//! The messages that are sent: a send time and a number in front, then filler up to the size.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use httppubsub_proto::digest::{Sha512, Sha512Hasher};
use hyper::body::{Body, Frame, SizeHint};

/// What a message begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Label {
    /// Nanoseconds since the epoch, or 0 for one whose latency does not count.
    pub(crate) sent_at: u64,
    /// Which message of its turn it is.
    pub(crate) sequence: u64,
}

impl Label {
    /// Size on the wire; no message is shorter.
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.sent_at.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let (sent_at, sequence) = bytes.split_at(8);
        let number = |half: &[u8]| u64::from_be_bytes(half.try_into().expect("half of 16 bytes"));
        Self {
            sent_at: number(sent_at),
            sequence: number(sequence),
        }
    }
}

/// A message of any size that takes no memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    label: Label,
    bytes: u64,
}

impl Message {
    /// A message of `bytes` in all, at least [`Label::BYTES`].
    pub(crate) fn new(label: Label, bytes: u64) -> Self {
        Self {
            label,
            bytes: bytes.max(Label::BYTES as u64),
        }
    }

    pub(crate) fn label(&self) -> Label {
        self.label
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn sha512(&self) -> Sha512 {
        let mut hasher = Sha512Hasher::default();
        hasher.update(&self.label.encode());
        let mut left = self.filler_bytes();
        while left > 0 {
            let part = filler_part(left);
            hasher.update(part);
            left -= part.len() as u64;
        }
        hasher.finish()
    }

    /// The body that is `head` and then this message.
    pub(crate) fn behind(&self, head: &[u8]) -> Outgoing {
        let filler = filler_part(self.filler_bytes());
        let mut first = Vec::with_capacity(head.len() + Label::BYTES + filler.len());
        first.extend_from_slice(head);
        first.extend_from_slice(&self.label.encode());
        first.extend_from_slice(filler);
        let left = self.filler_bytes() - filler.len() as u64;
        Outgoing {
            first: Some(first.into()),
            left,
        }
    }

    /// All of it, in memory.
    #[cfg(test)]
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.label.encode().to_vec();
        let mut left = self.filler_bytes();
        while left > 0 {
            let part = filler_part(left);
            bytes.extend_from_slice(part);
            left -= part.len() as u64;
        }
        bytes
    }

    fn filler_bytes(&self) -> u64 {
        self.bytes - Label::BYTES as u64
    }
}

/// Tells whether bytes that come in parts are those of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparison {
    message: Message,
    compared: u64,
}

impl Comparison {
    pub(crate) fn with(message: Message) -> Self {
        let compared = 0;
        Self { message, compared }
    }

    /// Whether the next bytes of the message are these.
    pub(crate) fn goes_on_with(&mut self, mut part: &[u8]) -> bool {
        let label = self.message.label.encode();
        while !part.is_empty() {
            let wanted = match self.compared.checked_sub(Label::BYTES as u64) {
                None => &label[self.compared as usize..],
                Some(at) => {
                    let rest = &FILLER[(at % FILLER.len() as u64) as usize..];
                    let left = self.message.bytes - self.compared;
                    &rest[..rest.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
                }
            };
            let length = wanted.len().min(part.len());
            if length == 0 || part[..length] != wanted[..length] {
                return false;
            }
            self.compared += length as u64;
            part = &part[length..];
        }
        true
    }

    /// Whether all of the message has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.compared == self.message.bytes
    }
}

/// A body that is made while it is sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    first: Option<Bytes>,
    left: u64,
}

impl Outgoing {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            first: Some(bytes.into()),
            left: 0,
        }
    }

    /// The next part; `None` at the end.
    pub(crate) fn next_part(&mut self) -> Option<Bytes> {
        match self.first.take() {
            Some(first) => Some(first),
            None if self.left == 0 => None,
            None => {
                let part = filler_part(self.left);
                self.left -= part.len() as u64;
                Some(Bytes::from_static(part))
            }
        }
    }

    /// How long what is left of it is, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.first.as_ref().map_or(0, Bytes::len) as u64 + self.left
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.next_part().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes())
    }
}

/// As much filler as `left` allows.
fn filler_part(left: u64) -> &'static [u8] {
    let bytes = usize::try_from(left).map_or(FILLER.len(), |left| left.min(FILLER.len()));
    &FILLER[..bytes]
}

/// The bytes of a linear congruential generator: the same on every run, and no run of zeros that
/// anything on the way could treat as a special case.
static FILLER: [u8; 64 * 1024] = {
    let mut bytes = [0; 64 * 1024];
    let mut state = 1_u32;
    let mut at = 0;
    while at < bytes.len() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes[at] = state.to_be_bytes()[0];
        at += 1;
    }
    bytes
};

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_body_is_its_head_and_a_message_of_the_announced_digest() {
        for bytes in [16, 17, 65_552, 65_553, 200_000] {
            let label = Label {
                sent_at: 5,
                sequence: 9,
            };
            let message = Message::new(label, bytes);
            let body = message.behind(b"head");
            assert_eq!(body.size_hint().exact(), Some(4 + bytes));
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(&body[..4], b"head");
            assert_eq!(Sha512::of(&body[4..]), message.sha512(), "{bytes}");
            assert_eq!(Label::decode(body[4..20].try_into().unwrap()), label);
        }
    }

    #[test]
    fn a_comparison_sees_every_byte_that_differs() {
        let message = Message::new(Label::default(), 70_000);
        let bytes = message.to_bytes();
        for step in [1, 7, 65_536, 70_000] {
            let mut comparison = Comparison::with(message);
            assert!(bytes.chunks(step).all(|it| comparison.goes_on_with(it)));
            assert!(comparison.is_complete());
            assert!(!comparison.goes_on_with(&bytes[..1]));
        }
        for differs in [0, 15, 16, 65_552, 69_999] {
            let mut other = bytes.clone();
            other[differs] ^= 1;
            assert!(!Comparison::with(message).goes_on_with(&other), "{differs}");
        }
        let mut short = Comparison::with(message);
        assert!(short.goes_on_with(&bytes[..69_999]) && !short.is_complete());
    }
}
