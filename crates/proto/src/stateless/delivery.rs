//! Messages that a broadcaster posts to a subscriber (`docs/protocol/stateless.md` §6, §7).

use bytes::Bytes;

use crate::stateless::request::read_tracing;
use crate::topic::{Identifier, Topic};
use crate::wire::{DecodeError, Reader, Writer};

/// RECEIVE up to its message. The digest of the message is in the `Repr-Digest` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveHead {
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The topic of the message.
    pub topic: Topic,
    /// The identifier of this delivery.
    pub identifier: Identifier,
    /// Length of the message, which ends with the body.
    pub message_bytes: u64,
}

impl ReceiveHead {
    /// Encodes the head; the message follows.
    pub fn encode(&self) -> Vec<u8> {
        let fields = self.tracing.len() + self.topic.as_bytes().len();
        // 13 bytes of lengths. A head is written for every delivery, so the room is counted
        // exactly.
        let mut out = Writer::with_capacity(fields + self.identifier.as_bytes().len() + 13);
        out.field16(&self.tracing)
            .field16(self.topic.as_bytes())
            .field8(self.identifier.as_bytes())
            .u64(self.message_bytes);
        out.into_bytes()
    }

    /// Decodes the head at the start of `bytes`, and returns its length; the message follows.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader::new(bytes);
        let head = Self {
            tracing: read_tracing(&mut reader)?,
            topic: Topic::from_field(reader.field16("topic")?),
            identifier: Identifier::from_field(reader.field8("identifier")?),
            message_bytes: reader.u64("message length")?,
        };
        Ok((head, reader.position()))
    }
}

/// MISSED: the whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedHead {
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The topic of the messages that may have been missed.
    pub topic: Topic,
}

impl MissedHead {
    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(&self.tracing).field16(self.topic.as_bytes());
        out.into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        Ok(Self {
            tracing: read_tracing(&mut reader)?,
            topic: Topic::from_field(reader.field16("topic")?),
        })
    }
}
