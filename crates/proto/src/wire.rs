//! The only code that touches raw bytes of the wire: a reader that names what is missing and a
//! writer that cannot write a length it has not counted.

use crate::digest::Sha512;
use crate::limits::SHA512_BYTES;

/// The reason why bytes are not the message they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the field does. More bytes may cure it.
    #[error("cut short in {field}: {need} more bytes needed at offset {at}, {left} left")]
    Short {
        /// The field that is not whole.
        field: &'static str,
        /// Offset of the missing part, in bytes from the start.
        at: usize,
        /// Bytes the field needs from there.
        need: usize,
        /// Bytes there are from there.
        left: usize,
    },
    /// A text field is not UTF-8.
    #[error("{field} at offset {at} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
        /// Offset of its first byte.
        at: usize,
    },
    /// The message is of another type than was asked for.
    #[error("message type {got} where {want} was expected")]
    Type {
        /// The number found.
        got: u16,
        /// The number expected.
        want: u16,
    },
    /// The etag's format is not one this protocol knows (`docs/protocol/subscriptions.md` §4).
    #[error("etag format {got} is unknown, 0 was expected")]
    EtagFormat {
        /// The number found.
        got: u8,
    },
    /// A field holds a value that its type does not allow.
    #[error("{field} at offset {at}: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Offset of its first byte.
        at: usize,
        /// The problem, as the end of a sentence.
        problem: &'static str,
    },
}

impl DecodeError {
    /// `true` if more bytes may make the message whole.
    pub fn is_short(&self) -> bool {
        matches!(self, Self::Short { .. })
    }
}

/// Reads the fields of a message one after the other, never past the end.
///
/// ```
/// use httppubsub_proto::wire::{DecodeError, Reader, Writer};
///
/// let mut writer = Writer::default();
/// writer.field16(b"jobs/7").u32(3);
/// let bytes = writer.into_bytes();
///
/// let mut reader = Reader::new(&bytes);
/// assert_eq!(reader.field16("topic")?, b"jobs/7");
/// assert_eq!(reader.u32("count")?, 3);
/// let error = reader.u8("flags").unwrap_err();
/// assert!(error.is_short());
/// assert_eq!(error.to_string(), "cut short in flags: 1 more bytes needed at offset 12, 0 left");
/// # Ok::<(), DecodeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Number of bytes that have been read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The bytes that have not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        // `at` cannot be behind the end: it moves only past bytes that are there.
        &self.bytes[self.at..]
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let rest = self.rest();
        // `count` is from the wire and may be anything.
        let Some(bytes) = rest.get(..count) else {
            return Err(DecodeError::Short {
                field,
                at: self.at,
                need: count,
                left: rest.len(),
            });
        };
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes(N, field)?;
        Ok(bytes.try_into().expect("exactly N bytes were asked for"))
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// 64 bytes of a digest.
    pub fn sha512(&mut self, field: &'static str) -> Result<Sha512, DecodeError> {
        self.array::<SHA512_BYTES>(field).map(Sha512::from_bytes)
    }

    /// Bytes behind a length of one byte.
    pub fn field8(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u8(field)?;
        self.bytes(usize::from(length), field)
    }

    /// Bytes behind a length of two bytes.
    pub fn field16(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.u16(field)?;
        self.bytes(usize::from(length), field)
    }

    /// UTF-8 behind a length of two bytes.
    pub fn text16(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.field16(field)?;
        // The offset of the text, behind its length.
        let at = self.at - bytes.len();
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { field, at })
    }

    /// The number of the message's type, which must be `want`.
    pub fn message_type(&mut self, want: u16) -> Result<(), DecodeError> {
        match self.u16("message type")? {
            got if got == want => Ok(()),
            got => Err(DecodeError::Type { got, want }),
        }
    }
}

/// Writes the fields of a message one after the other.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty message with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(capacity),
        }
    }

    /// The bytes that were written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Bytes behind a length of one byte.
    ///
    /// # Panics
    ///
    /// If there are more than 255: the types that are written so cannot hold more.
    pub fn field8(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u8::try_from(bytes.len()).expect("the field's type holds at most 255 bytes");
        self.u8(length).bytes(bytes)
    }

    /// Bytes behind a length of two bytes.
    ///
    /// # Panics
    ///
    /// If there are more than 65,535: the types that are written so cannot hold more.
    pub fn field16(&mut self, bytes: &[u8]) -> &mut Self {
        let length =
            u16::try_from(bytes.len()).expect("the field's type holds at most 65535 bytes");
        self.u16(length).bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_read_names_the_field() {
        let mut reader = Reader::new(&[0, 5, b'a']);
        let error = reader.field16("topic").unwrap_err();
        assert_eq!(
            error,
            DecodeError::Short {
                field: "topic",
                at: 2,
                need: 5,
                left: 1
            }
        );
        assert!(error.is_short());
    }

    #[test]
    fn what_was_written_reads_back() {
        let mut writer = Writer::default();
        writer
            .u8(1)
            .u16(2)
            .u32(3)
            .u64(4)
            .field8(b"five")
            .field16("séx".as_bytes());
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(2));
        assert_eq!(reader.u32("c"), Ok(3));
        assert_eq!(reader.u64("d"), Ok(4));
        assert_eq!(reader.field8("e"), Ok(&b"five"[..]));
        assert_eq!(reader.text16("f"), Ok("séx"));
        assert_eq!(reader.rest(), b"");
    }
}
