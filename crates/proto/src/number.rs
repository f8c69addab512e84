//! Numbers of deliveries: by them a subscriber finds out that it missed something.
//!
//! Each process of a broadcaster keeps one line for each subscriber, and gives everything that the
//! subscriber is due the next number of it, from 1 on, before it tries to deliver it. A number that
//! does not come was missed. The number of a RECEIVE is its identifier, which subscribers send back
//! as it is, and which signatures cover.
//!
//! ```
//! use httppubsub_proto::number::{Line, Number};
//!
//! let line = Line::from_bytes([0xe2, 0x8c, 0x2b, 0x4f, 0x90, 0xd1, 0xa3, 0x7c]);
//! let number = Number { line, number: 42 };
//! assert_eq!(line.to_string(), "4owrT5DRo3w");
//! assert_eq!(Number::of(&number.identifier()), Some(number));
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::topic::Identifier;

/// The line of numbers that one process of a broadcaster keeps for one subscriber: drawn at random,
/// so that a process that starts anew has another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Line([u8; LINE_BYTES]);

/// As many lines would have to be drawn as there are subscribers in 2^32 processes to meet two that
/// are alike.
const LINE_BYTES: usize = 8;

/// The first bytes of an identifier that is a number. Published broadcasters draw 4 bytes and other
/// versions of ours drew 8, so none has this length by chance.
const MAGIC: [u8; 4] = *b"hps1";

/// The place of one delivery in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    /// The line.
    pub line: Line,
    /// Counts from 1; one is left out only if it was missed.
    pub number: u64,
}

impl Line {
    /// The line of these bytes, which should be random.
    pub const fn from_bytes(bytes: [u8; LINE_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// As base64url, without padding.
impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({self})")
    }
}

impl Number {
    /// The identifier of a RECEIVE with this number: `hps1`, the line, and the number in 8 bytes,
    /// the highest first.
    pub fn identifier(&self) -> Identifier {
        let mut bytes = Vec::with_capacity(MAGIC.len() + LINE_BYTES + size_of::<u64>());
        bytes.extend(MAGIC);
        bytes.extend(self.line.0);
        bytes.extend(self.number.to_be_bytes());
        Identifier::new(bytes).expect("20 bytes fit")
    }

    /// The number that the identifier of a RECEIVE is; `None` if it is something else, as those of
    /// published broadcasters are.
    pub fn of(identifier: &Identifier) -> Option<Self> {
        let rest = identifier.as_bytes().strip_prefix(&MAGIC)?;
        let (line, number) = rest.split_first_chunk::<LINE_BYTES>()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        // No line has it, so nothing was numbered so by this protocol.
        (number > 0).then_some(Self {
            line: Line(*line),
            number,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line = Line::from_bytes([0xe2, 0x8c, 0x2b, 0x4f, 0x90, 0xd1, 0xa3, 0x7c]);

    #[test]
    fn the_identifier_is_that_of_the_vector() {
        let number = Number {
            line: LINE,
            number: 42,
        };
        let identifier = number.identifier();
        let hex = crate::digest::hex(identifier.as_bytes()).to_string();
        assert_eq!(hex, "68707331e28c2b4f90d1a37c000000000000002a");
        assert_eq!(Number::of(&identifier), Some(number));
    }

    #[test]
    fn what_is_no_number_is_none() {
        let number = Number {
            line: LINE,
            number: u64::MAX,
        };
        let good = number.identifier();
        assert_eq!(Number::of(&good), Some(number));
        let good = good.as_bytes();
        let mut longer = good.to_vec();
        longer.push(0);
        let mut other = good.to_vec();
        other[3] = b'2';
        let mut zero = good.to_vec();
        zero[12..].fill(0);
        for bytes in [
            &[][..],
            &good[..19],
            &longer,
            &other,
            &zero,
            b"hps1",
            &[7; 4],
        ] {
            let identifier = Identifier::new(bytes.to_vec()).unwrap();
            assert_eq!(Number::of(&identifier), None, "{bytes:?}");
        }
    }
}
