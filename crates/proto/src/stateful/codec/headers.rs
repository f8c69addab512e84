//! Headers of messages, minimal and expanded (`docs/protocol/stateful.md` §2).

use bytes::Bytes;

use crate::digest::Sha512;
use crate::stateful::message::{BodyHead, HeaderStyle};
use crate::topic::{Identifier, Topic};
use crate::wire::{DecodeError, Reader, Writer};

/// Set in the flags of messages with minimal headers.
pub(super) const MINIMAL: u16 = 0x0001;

/// Longest identifier of a notification, in bytes.
pub(super) const IDENTIFIER_BYTES_MAX: usize = 64;

pub(super) const AUTHORIZATION: &str = "authorization";
pub(super) const TRACING: &str = "x-tracing";
pub(super) const SUBSCRIBER_NONCE: &str = "x-subscriber-nonce";
pub(super) const BROADCASTER_NONCE: &str = "x-broadcaster-nonce";
pub(super) const ENABLE_ZSTD: &str = "x-enable-zstd";
pub(super) const ENABLE_TRAINING: &str = "x-enable-training";
pub(super) const INITIAL_DICT: &str = "x-initial-dict";
pub(super) const TOPIC: &str = "x-topic";
pub(super) const GLOB: &str = "x-glob";
pub(super) const IDENTIFIER: &str = "x-identifier";
pub(super) const PART_ID: &str = "x-part-id";
pub(super) const COMPRESSOR: &str = "x-compressor";
pub(super) const COMPRESSED_LENGTH: &str = "x-compressed-length";
pub(super) const DECOMPRESSED_LENGTH: &str = "x-decompressed-length";
pub(super) const COMPRESSED_SHA512: &str = "x-compressed-sha512";
pub(super) const SHA512: &str = "x-sha512";
pub(super) const SUBSCRIBERS: &str = "x-subscribers";
pub(super) const NUM_SUBSCRIBERS: &str = "x-num-subscribers";
pub(super) const COMPRESSION_LEVEL: &str = "x-compression-level";
pub(super) const MIN_SIZE: &str = "x-min-size";
pub(super) const MAX_SIZE: &str = "x-max-size";

/// Writes flags, type and headers.
pub(super) struct Head {
    out: Writer,
    style: HeaderStyle,
}

impl Head {
    pub(super) fn new(style: HeaderStyle, kind: u16, headers: u16) -> Self {
        // Room for a head with a signature, so that most messages are written into one allocation.
        let mut out = Writer::with_capacity(192);
        match style {
            // Not counted: the type says which headers follow (§2).
            HeaderStyle::Minimal => out.u16(MINIMAL).u16(kind),
            HeaderStyle::Expanded => out.u16(0).u16(kind).u16(headers),
        };
        Self { out, style }
    }

    pub(super) fn bytes(&mut self, name: &'static str, value: &[u8]) -> &mut Self {
        if self.style == HeaderStyle::Expanded {
            self.out.field16(name.as_bytes());
        }
        self.out.field16(value);
        self
    }

    /// Writes a number without leading zeros, and 0 as nothing.
    pub(super) fn umin(&mut self, name: &'static str, value: u64) -> &mut Self {
        // For 0 all eight bytes are zeros and nothing is written.
        let zeros = value.leading_zeros() as usize / 8;
        self.bytes(name, &value.to_be_bytes()[zeros..])
    }

    /// Writes a number without leading zeros, and 0 as one zero byte.
    pub(super) fn umin_or_zero(&mut self, name: &'static str, value: u64) -> &mut Self {
        match value {
            0 => self.bytes(name, &[0]),
            _ => self.umin(name, value),
        }
    }

    pub(super) fn vouch(&mut self, authorization: Option<&str>, tracing: &[u8]) -> &mut Self {
        self.bytes(AUTHORIZATION, authorization.unwrap_or_default().as_bytes())
            .bytes(TRACING, tracing)
    }

    pub(super) fn body_head(&mut self, head: &BodyHead) -> &mut Self {
        self.umin_or_zero(COMPRESSOR, head.compressor)
            .umin(COMPRESSED_LENGTH, head.compressed_length)
            .umin(DECOMPRESSED_LENGTH, head.decompressed_length)
            .bytes(COMPRESSED_SHA512, head.compressed_sha512.as_bytes())
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out.into_bytes()
    }
}

/// Reads headers of either style. Each is asked for by name, in the order of minimal headers.
pub(super) struct Headers<'a> {
    message: &'a Bytes,
    reader: Reader<'a>,
    /// Expanded headers; `None` for minimal ones.
    named: Option<Vec<Named<'a>>>,
}

/// Name and value of an expanded header, and the offset of the value.
type Named<'a> = (&'a [u8], &'a [u8], usize);

/// The value of a header, with its place for errors.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    bytes: &'a [u8],
    field: &'static str,
    at: usize,
}

impl<'a> Headers<'a> {
    pub(super) fn open(message: &'a Bytes) -> Result<(u16, Self), DecodeError> {
        let mut reader = Reader::new(message);
        let flags = reader.u16("flags")?;
        let kind = reader.u16("message type")?;
        let named = if flags & MINIMAL != 0 {
            None
        } else {
            let count = reader.u16("number of headers")?;
            // Not trusted for the capacity.
            let mut named = Vec::with_capacity(usize::from(count).min(16));
            for _ in 0..count {
                let name = reader.field16("name of a header")?;
                let at = reader.position();
                if !name.is_ascii() {
                    let at = at - name.len();
                    let problem = "is not ASCII";
                    let field = "name of a header";
                    return Err(DecodeError::Invalid { field, at, problem });
                }
                let value = reader.field16("value of a header")?;
                // The value begins behind the two bytes of its length.
                named.push((name, value, at + 2));
            }
            Some(named)
        };
        let headers = Self {
            message,
            reader,
            named,
        };
        Ok((kind, headers))
    }

    pub(super) fn find(&mut self, field: &'static str) -> Result<Option<Value<'a>>, DecodeError> {
        // Minimal headers have no names: the next one is the one that is asked for, which is why
        // callers keep the order of §4.
        let Some(named) = &self.named else {
            let bytes = self.reader.field16(field)?;
            let at = self.reader.position() - bytes.len();
            return Ok(Some(Value { bytes, field, at }));
        };
        let is_it = |(name, ..): &&Named<'_>| name.eq_ignore_ascii_case(field.as_bytes());
        // Of a repeated name the last counts (§2).
        let found = named.iter().rev().find(is_it);
        Ok(found.map(|&(_, bytes, at)| Value { bytes, field, at }))
    }

    pub(super) fn value(&mut self, field: &'static str) -> Result<Value<'a>, DecodeError> {
        let at = self.reader.position();
        let problem = "is missing";
        self.find(field)?
            .ok_or(DecodeError::Invalid { field, at, problem })
    }

    pub(super) fn vouch(&mut self) -> Result<(Option<String>, Bytes), DecodeError> {
        let authorization = match self.value(AUTHORIZATION)?.text()? {
            // The header is always there. Without an authorization it has length 0.
            "" => None,
            text => Some(text.to_owned()),
        };
        let tracing = self.value(TRACING)?.bytes;
        let tracing = match tracing {
            [] => Bytes::new(),
            // A slice would keep the whole message in memory for as long as its tracing is kept.
            bytes => Bytes::copy_from_slice(bytes),
        };
        Ok((authorization, tracing))
    }

    pub(super) fn identifier(&mut self) -> Result<Identifier, DecodeError> {
        let value = self.value(IDENTIFIER)?;
        if value.bytes.len() > IDENTIFIER_BYTES_MAX {
            return Err(value.invalid("has more than 64 bytes"));
        }
        Ok(Identifier::from_field(value.bytes))
    }

    pub(super) fn topic(&mut self) -> Result<Topic, DecodeError> {
        Ok(Topic::from_field(self.value(TOPIC)?.bytes))
    }

    pub(super) fn body_head(&mut self) -> Result<BodyHead, DecodeError> {
        let compressor = self.value(COMPRESSOR)?.unsigned(8)?;
        let compressed_length = self.value(COMPRESSED_LENGTH)?.unsigned(8)?;
        let decompressed = self.value(DECOMPRESSED_LENGTH)?;
        let decompressed_length = decompressed.unsigned(8)?;
        // Settled here, so that nobody later has to choose which of the two lengths to believe.
        if compressor == 0 && compressed_length != decompressed_length {
            return Err(
                decompressed.invalid("differs from x-compressed-length without a compressor")
            );
        }
        Ok(BodyHead {
            compressor,
            compressed_length,
            decompressed_length,
            compressed_sha512: Sha512::from_bytes(self.value(COMPRESSED_SHA512)?.array()?),
        })
    }

    /// The error of a body that is not as the headers say.
    pub(super) fn invalid_body(&self, problem: &'static str) -> DecodeError {
        DecodeError::Invalid {
            field: "body",
            at: self.reader.position(),
            problem,
        }
    }

    /// The bytes that follow the headers.
    pub(super) fn body(&self) -> Bytes {
        self.message.slice(self.reader.position()..)
    }
}

impl<'a> Value<'a> {
    pub(super) fn invalid(&self, problem: &'static str) -> DecodeError {
        DecodeError::Invalid {
            field: self.field,
            at: self.at,
            problem,
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes).map_err(|_| DecodeError::NotUtf8 {
            field: self.field,
            at: self.at,
        })
    }

    pub(super) fn array<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        self.bytes
            .try_into()
            .map_err(|_| self.invalid("has another length than its type"))
    }

    /// A number of at most `bytes_max` bytes, at most 8; nothing is 0.
    pub(super) fn unsigned(&self, bytes_max: usize) -> Result<u64, DecodeError> {
        if self.bytes.len() > bytes_max {
            return Err(self.invalid("is a number of too many bytes"));
        }
        Ok(self
            .bytes
            .iter()
            // Nothing is shifted out, as there are at most eight bytes.
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub(super) fn u16(&self) -> Result<u16, DecodeError> {
        let number = self.unsigned(2)?;
        Ok(u16::try_from(number).expect("two bytes make no more"))
    }

    pub(super) fn u32(&self) -> Result<u32, DecodeError> {
        let number = self.unsigned(4)?;
        Ok(u32::try_from(number).expect("four bytes make no more"))
    }

    /// The sign is that of the first byte.
    pub(super) fn i16(&self) -> Result<i16, DecodeError> {
        match *self.bytes {
            [] => Ok(0),
            [only] => Ok(i16::from(only.cast_signed())),
            [first, second] => Ok(i16::from_be_bytes([first, second])),
            _ => Err(self.invalid("is a number of too many bytes")),
        }
    }

    pub(super) fn flag(&self) -> bool {
        // Every other value is `false`, to published peers as well (§2).
        self.bytes == [1]
    }
}

pub(super) fn unknown_type() -> DecodeError {
    DecodeError::Invalid {
        field: "message type",
        at: 2,
        problem: "is unknown",
    }
}
