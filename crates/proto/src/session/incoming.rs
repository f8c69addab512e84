//! A message that arrives in parts (`docs/protocol/stateful.md` §8, §9).

use bytes::Bytes;

use crate::stateful::BodyHead;
use crate::topic::{Identifier, Topic};

/// A message while its parts arrive.
#[derive(Debug)]
pub(super) struct IncomingParts {
    identifier: Identifier,
    topic: Topic,
    head: BodyHead,
    tracing: Bytes,
    next_part: u64,
    bytes: u64,
}

/// The state of a message after a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Complete,
}

impl IncomingParts {
    /// A message whose part 0 says this. The bytes of part 0 are still to be counted by
    /// [`IncomingParts::part`].
    pub(super) fn begin(
        identifier: Identifier,
        topic: Topic,
        head: BodyHead,
        tracing: Bytes,
    ) -> Self {
        Self {
            identifier,
            topic,
            head,
            tracing,
            next_part: 0,
            bytes: 0,
        }
    }

    pub(super) fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.topic
    }

    pub(super) fn head(&self) -> &BodyHead {
        &self.head
    }

    /// The tracing of part 0, which is signed with every part.
    pub(super) fn tracing(&self) -> &[u8] {
        &self.tracing
    }

    /// Checks that the part with this number and identifier is the next one.
    pub(super) fn expects(&self, id: u64, identifier: &Identifier) -> Result<(), &'static str> {
        if *identifier != self.identifier {
            return Err("the part is of another message than the one under way");
        }
        // A websocket keeps the order, so a gap is a defect of the sender and never a delay.
        if id != self.next_part {
            return Err("the part is not the next one");
        }
        Ok(())
    }

    /// Takes the next part, of this length.
    pub(super) fn part(&mut self, bytes: usize) -> Result<Progress, &'static str> {
        self.next_part += 1;
        // Saturating, as the peer chooses the lengths.
        self.bytes = self.bytes.saturating_add(bytes as u64);
        match self.bytes.cmp(&self.head.compressed_length) {
            std::cmp::Ordering::Less => Ok(Progress::More),
            std::cmp::Ordering::Equal => Ok(Progress::Complete),
            std::cmp::Ordering::Greater => Err("the parts are longer than announced"),
        }
    }
}
