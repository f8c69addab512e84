//! A message that is sent in parts (`docs/protocol/stateful.md` §8).

use std::num::NonZeroU64;

use bytes::Bytes;

use crate::session::io::{Outgoing, OutgoingBody};
use crate::stateful::{BodyHead, Part, StreamPart};
use crate::topic::{Identifier, Topic};

/// The parts of a message that are still to be sent.
#[derive(Debug)]
pub(super) struct OutgoingParts<B> {
    pub(super) identifier: Identifier,
    pub(super) topic: Topic,
    pub(super) head: BodyHead,
    body: B,
    next_part: u64,
    at: u64,
}

/// Fewest bytes of a body in a part that is not the last.
const BODY_BYTES_MIN: u64 = 512;

impl<B: Clone> OutgoingParts<B> {
    pub(super) fn new(identifier: Identifier, topic: Topic, head: BodyHead, body: B) -> Self {
        Self {
            identifier,
            topic,
            head,
            body,
            next_part: 0,
            at: 0,
        }
    }

    /// Number of the next part.
    pub(super) fn next_part(&self) -> u64 {
        self.next_part
    }

    /// The next part, in a websocket message of at most `message_bytes_max` bytes, and `true` if it
    /// is the last. `encode` writes flags, type and headers of the part.
    pub(super) fn next(
        &mut self,
        authorization: Option<String>,
        message_bytes_max: u64,
        encode: impl FnOnce(StreamPart) -> Vec<u8>,
    ) -> (Outgoing<B>, bool) {
        let part = match NonZeroU64::new(self.next_part) {
            Some(id) => Part::Later(id),
            None => Part::First {
                topic: self.topic.clone(),
                head: self.head,
            },
        };
        let head = encode(StreamPart {
            identifier: self.identifier.clone(),
            part,
            authorization,
            tracing: Bytes::new(),
            // The websocket writes the body from where it is: to put it into the head would copy it
            // for every subscriber.
            body: Bytes::new(),
        });
        let left = self.head.compressed_length - self.at;
        let room = message_bytes_max.saturating_sub(head.len() as u64);
        // Headers may take all of the limit; a part must still carry something (§8).
        let end = self.at + left.min(room.max(BODY_BYTES_MIN));
        let body = if end == self.at {
            OutgoingBody::Empty
        } else {
            OutgoingBody::Part {
                of: self.body.clone(),
                range: self.at..end,
            }
        };
        self.at = end;
        self.next_part += 1;
        let head = head.into();
        (Outgoing { head, body }, end == self.head.compressed_length)
    }
}
