//! Bytes of messages (`docs/protocol/stateful.md` §2, §4).

use std::num::NonZeroU64;

use bytes::Bytes;

use crate::digest::Sha512;
use crate::glob::GlobPattern;
use crate::subscription::Interest;
use crate::topic::{Identifier, Topic};
use crate::wire::{DecodeError, Reader, Writer};
use crate::ws::message::{
    BodyHead, Configure, ConfirmConfigure, ConfirmNotify, ConfirmReceive, Continue, DisableCustom,
    EnableCustom, EnablePreset, HeaderStyle, InterestMessage, MissedMessage, Notify, Part,
    StreamPart, ToBroadcaster, ToSubscriber,
};

/// Set in the flags of messages with minimal headers.
const MINIMAL: u16 = 0x0001;

/// Longest identifier of a notification, in bytes.
const IDENTIFIER_BYTES_MAX: usize = 64;

const AUTHORIZATION: &str = "authorization";
const TRACING: &str = "x-tracing";
const SUBSCRIBER_NONCE: &str = "x-subscriber-nonce";
const BROADCASTER_NONCE: &str = "x-broadcaster-nonce";
const ENABLE_ZSTD: &str = "x-enable-zstd";
const ENABLE_TRAINING: &str = "x-enable-training";
const INITIAL_DICT: &str = "x-initial-dict";
const TOPIC: &str = "x-topic";
const GLOB: &str = "x-glob";
const IDENTIFIER: &str = "x-identifier";
const PART_ID: &str = "x-part-id";
const COMPRESSOR: &str = "x-compressor";
const COMPRESSED_LENGTH: &str = "x-compressed-length";
const DECOMPRESSED_LENGTH: &str = "x-decompressed-length";
const COMPRESSED_SHA512: &str = "x-compressed-sha512";
const SHA512: &str = "x-sha512";
const SUBSCRIBERS: &str = "x-subscribers";
const NUM_SUBSCRIBERS: &str = "x-num-subscribers";
const COMPRESSION_LEVEL: &str = "x-compression-level";
const MIN_SIZE: &str = "x-min-size";
const MAX_SIZE: &str = "x-max-size";

impl ToBroadcaster {
    /// Reads one websocket message. The body shares the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let message = Self::decode_unhashed(bytes)?;
        if let Self::Notify(Notify { head, body, .. }) = &message
            && Sha512::of(body) != head.compressed_sha512
        {
            return Err(DecodeError::Invalid {
                field: "body",
                at: bytes.len() - body.len(),
                problem: "has another digest than x-compressed-sha512",
            });
        }
        Ok(message)
    }

    /// The same, but the digest of a NOTIFY's body is not checked.
    pub(crate) fn decode_unhashed(bytes: &Bytes) -> Result<Self, DecodeError> {
        let (kind, mut headers) = Headers::open(bytes)?;
        match kind {
            1 => decode_configure(&mut headers).map(Self::Configure),
            2 => decode_interest(&mut headers, Order::ValueLast, exact).map(Self::Subscribe),
            3 => decode_interest(&mut headers, Order::ValueLast, glob).map(Self::Subscribe),
            4 => decode_interest(&mut headers, Order::ValueLast, exact).map(Self::Unsubscribe),
            5 => decode_interest(&mut headers, Order::ValueLast, glob).map(Self::Unsubscribe),
            6 => decode_notify(&mut headers).map(Self::Notify),
            7 => decode_stream_part(&mut headers).map(Self::NotifyStream),
            8 => decode_continue(&mut headers).map(Self::ContinueReceive),
            9 => decode_confirm_receive(&mut headers).map(Self::ConfirmReceive),
            _ => Err(unknown_type()),
        }
    }

    /// The message without its body (for types that have one), in the style asked for.
    pub fn encode_head(&self, style: HeaderStyle) -> Vec<u8> {
        match self {
            Self::Configure(it) => {
                let mut out = Head::new(style, 1, 6);
                out.bytes(SUBSCRIBER_NONCE, &it.subscriber_nonce)
                    .bytes(ENABLE_ZSTD, &[u8::from(it.enable_zstd)])
                    .bytes(ENABLE_TRAINING, &[u8::from(it.enable_training)])
                    .bytes(INITIAL_DICT, &it.initial_dict.to_be_bytes())
                    .vouch(it.authorization.as_deref(), &it.tracing);
                out.finish()
            }
            Self::Subscribe(it) => encode_interest(style, [2, 3], Order::ValueLast, it),
            Self::Unsubscribe(it) => encode_interest(style, [4, 5], Order::ValueLast, it),
            Self::Notify(it) => {
                let mut out = Head::new(style, 6, 8);
                out.vouch(it.authorization.as_deref(), &it.tracing)
                    .bytes(IDENTIFIER, it.identifier.as_bytes())
                    .bytes(TOPIC, it.topic.as_bytes())
                    .body_head(&it.head);
                out.finish()
            }
            Self::NotifyStream(it) => encode_stream_part(style, 7, it),
            Self::ContinueReceive(it) => encode_continue(style, 8, it),
            Self::ConfirmReceive(it) => {
                let mut out = Head::new(style, 9, 4);
                out.bytes(IDENTIFIER, it.identifier.as_bytes())
                    .vouch(it.authorization.as_deref(), &it.tracing)
                    .bytes(NUM_SUBSCRIBERS, &it.num_subscribers.to_be_bytes());
                out.finish()
            }
        }
    }

    /// The body; empty for types that have none.
    pub fn body(&self) -> Bytes {
        match self {
            Self::Notify(it) => it.body.clone(),
            Self::NotifyStream(it) => it.body.clone(),
            Self::Configure(_)
            | Self::Subscribe(_)
            | Self::Unsubscribe(_)
            | Self::ContinueReceive(_)
            | Self::ConfirmReceive(_) => Bytes::new(),
        }
    }

    /// The message, whole.
    pub fn encode(&self, style: HeaderStyle) -> Vec<u8> {
        let mut bytes = self.encode_head(style);
        bytes.extend_from_slice(&self.body());
        bytes
    }

    /// What it is called in `docs/protocol/stateful.md` §3, such as `SUBSCRIBE_GLOB`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Configure(_) => "CONFIGURE",
            Self::Subscribe(it) => it.named("SUBSCRIBE_EXACT", "SUBSCRIBE_GLOB"),
            Self::Unsubscribe(it) => it.named("UNSUBSCRIBE_EXACT", "UNSUBSCRIBE_GLOB"),
            Self::Notify(_) => "NOTIFY",
            Self::NotifyStream(_) => "NOTIFY_STREAM",
            Self::ContinueReceive(_) => "CONTINUE_RECEIVE",
            Self::ConfirmReceive(_) => "CONFIRM_RECEIVE",
        }
    }
}

impl ToSubscriber {
    /// Reads one websocket message. The body shares the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let (kind, mut headers) = Headers::open(bytes)?;
        match kind {
            1 => decode_confirm_configure(&mut headers).map(Self::ConfirmConfigure),
            2 => {
                decode_interest(&mut headers, Order::ValueFirst, exact).map(Self::ConfirmSubscribe)
            }
            3 => decode_interest(&mut headers, Order::ValueFirst, glob).map(Self::ConfirmSubscribe),
            4 => decode_interest(&mut headers, Order::ValueFirst, exact)
                .map(Self::ConfirmUnsubscribe),
            5 => {
                decode_interest(&mut headers, Order::ValueFirst, glob).map(Self::ConfirmUnsubscribe)
            }
            6 => decode_confirm_notify(&mut headers).map(Self::ConfirmNotify),
            7 => decode_continue(&mut headers).map(Self::ContinueNotify),
            8 => decode_stream_part(&mut headers).map(Self::ReceiveStream),
            9 => decode_enable_preset(&mut headers).map(Self::EnablePreset),
            10 => decode_enable_custom(&mut headers).map(Self::EnableCustom),
            11 => decode_disable_custom(&mut headers).map(Self::DisableCustom),
            12 => decode_missed(&mut headers).map(Self::Missed),
            _ => Err(unknown_type()),
        }
    }

    /// The message without its body (for types that have one), in the style asked for.
    pub fn encode_head(&self, style: HeaderStyle) -> Vec<u8> {
        match self {
            Self::ConfirmConfigure(it) => {
                let mut out = Head::new(style, 1, 3);
                out.bytes(BROADCASTER_NONCE, &it.broadcaster_nonce)
                    .vouch(it.authorization.as_deref(), &it.tracing);
                out.finish()
            }
            Self::ConfirmSubscribe(it) => encode_interest(style, [2, 3], Order::ValueFirst, it),
            Self::ConfirmUnsubscribe(it) => encode_interest(style, [4, 5], Order::ValueFirst, it),
            Self::ConfirmNotify(it) => {
                let mut out = Head::new(style, 6, 4);
                out.bytes(IDENTIFIER, it.identifier.as_bytes())
                    .umin(SUBSCRIBERS, it.subscribers)
                    .vouch(it.authorization.as_deref(), &it.tracing);
                out.finish()
            }
            Self::ContinueNotify(it) => encode_continue(style, 7, it),
            Self::ReceiveStream(it) => encode_stream_part(style, 8, it),
            Self::EnablePreset(it) => {
                let mut out = Head::new(style, 9, 6);
                out.umin(IDENTIFIER, it.compressor)
                    .bytes(COMPRESSION_LEVEL, &it.compression_level.to_be_bytes())
                    .umin(MIN_SIZE, it.min_size.into())
                    .umin(MAX_SIZE, it.max_size)
                    .vouch(it.authorization.as_deref(), &it.tracing);
                out.finish()
            }
            Self::EnableCustom(it) => {
                let mut out = Head::new(style, 10, 7);
                out.umin(IDENTIFIER, it.compressor)
                    .bytes(COMPRESSION_LEVEL, &it.compression_level.to_be_bytes())
                    .umin(MIN_SIZE, it.min_size.into())
                    .umin(MAX_SIZE, it.max_size)
                    .vouch(it.authorization.as_deref(), &it.tracing)
                    .bytes(SHA512, it.sha512.as_bytes());
                out.finish()
            }
            Self::DisableCustom(it) => {
                let mut out = Head::new(style, 11, 3);
                out.umin(IDENTIFIER, it.compressor)
                    .vouch(it.authorization.as_deref(), &it.tracing);
                out.finish()
            }
            Self::Missed(it) => {
                let mut out = Head::new(style, 12, 3);
                out.vouch(it.authorization.as_deref(), &it.tracing)
                    .bytes(TOPIC, it.topic.as_bytes());
                out.finish()
            }
        }
    }

    /// The body; empty for types that have none.
    pub fn body(&self) -> Bytes {
        match self {
            Self::ReceiveStream(it) => it.body.clone(),
            Self::EnableCustom(it) => it.dictionary.clone(),
            Self::ConfirmConfigure(_)
            | Self::ConfirmSubscribe(_)
            | Self::ConfirmUnsubscribe(_)
            | Self::ConfirmNotify(_)
            | Self::ContinueNotify(_)
            | Self::EnablePreset(_)
            | Self::DisableCustom(_)
            | Self::Missed(_) => Bytes::new(),
        }
    }

    /// The message, whole.
    pub fn encode(&self, style: HeaderStyle) -> Vec<u8> {
        let mut bytes = self.encode_head(style);
        bytes.extend_from_slice(&self.body());
        bytes
    }

    /// What it is called in `docs/protocol/stateful.md` §3, such as `RECEIVE_STREAM`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConfirmConfigure(_) => "CONFIRM_CONFIGURE",
            Self::ConfirmSubscribe(it) => {
                it.named("CONFIRM_SUBSCRIBE_EXACT", "CONFIRM_SUBSCRIBE_GLOB")
            }
            Self::ConfirmUnsubscribe(it) => {
                it.named("CONFIRM_UNSUBSCRIBE_EXACT", "CONFIRM_UNSUBSCRIBE_GLOB")
            }
            Self::ConfirmNotify(_) => "CONFIRM_NOTIFY",
            Self::ContinueNotify(_) => "CONTINUE_NOTIFY",
            Self::ReceiveStream(_) => "RECEIVE_STREAM",
            Self::EnablePreset(_) => "ENABLE_ZSTD_PRESET",
            Self::EnableCustom(_) => "ENABLE_ZSTD_CUSTOM",
            Self::DisableCustom(_) => "DISABLE_ZSTD_CUSTOM",
            Self::Missed(_) => "MISSED",
        }
    }
}

impl InterestMessage {
    fn named(&self, exact: &'static str, glob: &'static str) -> &'static str {
        match self.interest {
            Interest::Exact(_) => exact,
            Interest::Glob(_) => glob,
        }
    }
}

/// Writes flags, type and headers.
struct Head {
    out: Writer,
    style: HeaderStyle,
}

impl Head {
    fn new(style: HeaderStyle, kind: u16, headers: u16) -> Self {
        let mut out = Writer::with_capacity(192);
        match style {
            HeaderStyle::Minimal => out.u16(MINIMAL).u16(kind),
            HeaderStyle::Expanded => out.u16(0).u16(kind).u16(headers),
        };
        Self { out, style }
    }

    fn bytes(&mut self, name: &'static str, value: &[u8]) -> &mut Self {
        if self.style == HeaderStyle::Expanded {
            self.out.field16(name.as_bytes());
        }
        self.out.field16(value);
        self
    }

    /// Without leading zeros, and 0 as nothing.
    fn umin(&mut self, name: &'static str, value: u64) -> &mut Self {
        let zeros = value.leading_zeros() as usize / 8;
        self.bytes(name, &value.to_be_bytes()[zeros..])
    }

    /// Without leading zeros, and 0 as one zero byte.
    fn umin_or_zero(&mut self, name: &'static str, value: u64) -> &mut Self {
        match value {
            0 => self.bytes(name, &[0]),
            _ => self.umin(name, value),
        }
    }

    fn vouch(&mut self, authorization: Option<&str>, tracing: &[u8]) -> &mut Self {
        self.bytes(AUTHORIZATION, authorization.unwrap_or_default().as_bytes())
            .bytes(TRACING, tracing)
    }

    fn body_head(&mut self, head: &BodyHead) -> &mut Self {
        self.umin_or_zero(COMPRESSOR, head.compressor)
            .umin(COMPRESSED_LENGTH, head.compressed_length)
            .umin(DECOMPRESSED_LENGTH, head.decompressed_length)
            .bytes(COMPRESSED_SHA512, head.compressed_sha512.as_bytes())
    }

    fn finish(self) -> Vec<u8> {
        self.out.into_bytes()
    }
}

/// Where the topic or glob stands among the headers.
#[derive(Clone, Copy)]
enum Order {
    ValueFirst,
    ValueLast,
}

fn encode_interest(
    style: HeaderStyle,
    [exact, glob]: [u16; 2],
    order: Order,
    it: &InterestMessage,
) -> Vec<u8> {
    let (kind, name) = match it.interest {
        Interest::Exact(_) => (exact, TOPIC),
        Interest::Glob(_) => (glob, GLOB),
    };
    let mut out = Head::new(style, kind, 3);
    let (value, authorization) = (it.interest.as_bytes(), it.authorization.as_deref());
    match order {
        Order::ValueFirst => out.bytes(name, value).vouch(authorization, &it.tracing),
        Order::ValueLast => out.vouch(authorization, &it.tracing).bytes(name, value),
    };
    out.finish()
}

fn encode_stream_part(style: HeaderStyle, kind: u16, it: &StreamPart) -> Vec<u8> {
    let headers = match it.part {
        Part::First { .. } => 9,
        Part::Later(_) => 4,
    };
    let mut out = Head::new(style, kind, headers);
    out.vouch(it.authorization.as_deref(), &it.tracing)
        .bytes(IDENTIFIER, it.identifier.as_bytes())
        .umin_or_zero(PART_ID, it.part.id());
    if let Part::First { topic, head } = &it.part {
        out.bytes(TOPIC, topic.as_bytes()).body_head(head);
    }
    out.finish()
}

fn encode_continue(style: HeaderStyle, kind: u16, it: &Continue) -> Vec<u8> {
    let mut out = Head::new(style, kind, 4);
    out.bytes(IDENTIFIER, it.identifier.as_bytes())
        .umin(PART_ID, it.part_id)
        .vouch(it.authorization.as_deref(), &it.tracing);
    out.finish()
}

/// Reads headers of either style. Each is asked for by name, in the order of minimal headers.
struct Headers<'a> {
    message: &'a Bytes,
    reader: Reader<'a>,
    /// Expanded headers; `None` for minimal ones.
    named: Option<Vec<Named<'a>>>,
}

/// Name and value of an expanded header, and the offset of the value.
type Named<'a> = (&'a [u8], &'a [u8], usize);

/// The value of a header, with its place for errors.
#[derive(Clone, Copy)]
struct Value<'a> {
    bytes: &'a [u8],
    field: &'static str,
    at: usize,
}

impl<'a> Headers<'a> {
    fn open(message: &'a Bytes) -> Result<(u16, Self), DecodeError> {
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

    fn find(&mut self, field: &'static str) -> Result<Option<Value<'a>>, DecodeError> {
        let Some(named) = &self.named else {
            let bytes = self.reader.field16(field)?;
            let at = self.reader.position() - bytes.len();
            return Ok(Some(Value { bytes, field, at }));
        };
        let is_it = |(name, ..): &&Named<'_>| name.eq_ignore_ascii_case(field.as_bytes());
        let found = named.iter().rev().find(is_it);
        Ok(found.map(|&(_, bytes, at)| Value { bytes, field, at }))
    }

    fn value(&mut self, field: &'static str) -> Result<Value<'a>, DecodeError> {
        let at = self.reader.position();
        let problem = "is missing";
        self.find(field)?
            .ok_or(DecodeError::Invalid { field, at, problem })
    }

    fn vouch(&mut self) -> Result<(Option<String>, Bytes), DecodeError> {
        let authorization = match self.value(AUTHORIZATION)?.text()? {
            "" => None,
            text => Some(text.to_owned()),
        };
        let tracing = self.value(TRACING)?.bytes;
        let tracing = match tracing {
            [] => Bytes::new(),
            bytes => Bytes::copy_from_slice(bytes),
        };
        Ok((authorization, tracing))
    }

    fn identifier(&mut self) -> Result<Identifier, DecodeError> {
        let value = self.value(IDENTIFIER)?;
        if value.bytes.len() > IDENTIFIER_BYTES_MAX {
            return Err(value.invalid("has more than 64 bytes"));
        }
        Ok(Identifier::from_field(value.bytes))
    }

    fn topic(&mut self) -> Result<Topic, DecodeError> {
        Ok(Topic::from_field(self.value(TOPIC)?.bytes))
    }

    fn body_head(&mut self) -> Result<BodyHead, DecodeError> {
        let compressor = self.value(COMPRESSOR)?.unsigned(8)?;
        let compressed_length = self.value(COMPRESSED_LENGTH)?.unsigned(8)?;
        let decompressed = self.value(DECOMPRESSED_LENGTH)?;
        let decompressed_length = decompressed.unsigned(8)?;
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

    /// All that follows the headers.
    fn body(&self) -> Bytes {
        self.message.slice(self.reader.position()..)
    }
}

impl<'a> Value<'a> {
    fn invalid(&self, problem: &'static str) -> DecodeError {
        DecodeError::Invalid {
            field: self.field,
            at: self.at,
            problem,
        }
    }

    fn text(&self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes).map_err(|_| DecodeError::NotUtf8 {
            field: self.field,
            at: self.at,
        })
    }

    fn array<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        self.bytes
            .try_into()
            .map_err(|_| self.invalid("has another length than its type"))
    }

    /// A number of at most `bytes_max` bytes, at most 8; nothing is 0.
    fn unsigned(&self, bytes_max: usize) -> Result<u64, DecodeError> {
        if self.bytes.len() > bytes_max {
            return Err(self.invalid("is a number of too many bytes"));
        }
        Ok(self
            .bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn u16(&self) -> Result<u16, DecodeError> {
        let number = self.unsigned(2)?;
        Ok(u16::try_from(number).expect("two bytes make no more"))
    }

    fn u32(&self) -> Result<u32, DecodeError> {
        let number = self.unsigned(4)?;
        Ok(u32::try_from(number).expect("four bytes make no more"))
    }

    /// The sign is that of the first byte.
    fn i16(&self) -> Result<i16, DecodeError> {
        match *self.bytes {
            [] => Ok(0),
            [only] => Ok(i16::from(only.cast_signed())),
            [first, second] => Ok(i16::from_be_bytes([first, second])),
            _ => Err(self.invalid("is a number of too many bytes")),
        }
    }

    fn flag(&self) -> bool {
        self.bytes == [1]
    }
}

fn unknown_type() -> DecodeError {
    DecodeError::Invalid {
        field: "message type",
        at: 2,
        problem: "is unknown",
    }
}

fn exact(headers: &mut Headers<'_>) -> Result<Interest, DecodeError> {
    headers.topic().map(Interest::Exact)
}

fn glob(headers: &mut Headers<'_>) -> Result<Interest, DecodeError> {
    let value = headers.value(GLOB)?;
    match GlobPattern::parse(value.text()?) {
        Ok(glob) => Ok(Interest::Glob(glob)),
        Err(_) => Err(value.invalid("is too long")),
    }
}

fn decode_configure(headers: &mut Headers<'_>) -> Result<Configure, DecodeError> {
    let subscriber_nonce = headers.value(SUBSCRIBER_NONCE)?.array()?;
    let enable_zstd = headers.value(ENABLE_ZSTD)?.flag();
    let enable_training = headers.value(ENABLE_TRAINING)?.flag();
    // The only header that may be left out (§16 D19).
    let initial_dict = headers
        .find(INITIAL_DICT)?
        .map_or(Ok(0), |value| value.u16())?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(Configure {
        subscriber_nonce,
        enable_zstd,
        enable_training,
        initial_dict,
        authorization,
        tracing,
    })
}

fn decode_interest(
    headers: &mut Headers<'_>,
    order: Order,
    interest: impl FnOnce(&mut Headers<'_>) -> Result<Interest, DecodeError>,
) -> Result<InterestMessage, DecodeError> {
    let (interest, (authorization, tracing)) = match order {
        Order::ValueFirst => {
            let interest = interest(headers)?;
            (interest, headers.vouch()?)
        }
        Order::ValueLast => {
            let vouch = headers.vouch()?;
            (interest(headers)?, vouch)
        }
    };
    Ok(InterestMessage {
        interest,
        authorization,
        tracing,
    })
}

fn decode_notify(headers: &mut Headers<'_>) -> Result<Notify, DecodeError> {
    let (authorization, tracing) = headers.vouch()?;
    let identifier = headers.identifier()?;
    let topic = headers.topic()?;
    let head = headers.body_head()?;
    let body = headers.body();
    if body.len() as u64 != head.compressed_length {
        return Err(DecodeError::Invalid {
            field: "body",
            at: headers.reader.position(),
            problem: "has another length than x-compressed-length",
        });
    }
    Ok(Notify {
        identifier,
        topic,
        head,
        authorization,
        tracing,
        body,
    })
}

fn decode_stream_part(headers: &mut Headers<'_>) -> Result<StreamPart, DecodeError> {
    let (authorization, tracing) = headers.vouch()?;
    let identifier = headers.identifier()?;
    let id = headers.value(PART_ID)?.unsigned(8)?;
    let part = match NonZeroU64::new(id) {
        Some(id) => Part::Later(id),
        None => Part::First {
            topic: headers.topic()?,
            head: headers.body_head()?,
        },
    };
    Ok(StreamPart {
        identifier,
        part,
        authorization,
        tracing,
        body: headers.body(),
    })
}

fn decode_continue(headers: &mut Headers<'_>) -> Result<Continue, DecodeError> {
    let identifier = headers.identifier()?;
    let part_id = headers.value(PART_ID)?.unsigned(8)?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(Continue {
        identifier,
        part_id,
        authorization,
        tracing,
    })
}

fn decode_confirm_receive(headers: &mut Headers<'_>) -> Result<ConfirmReceive, DecodeError> {
    let identifier = headers.identifier()?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(ConfirmReceive {
        identifier,
        num_subscribers: headers.value(NUM_SUBSCRIBERS)?.u32()?,
        authorization,
        tracing,
    })
}

fn decode_confirm_configure(headers: &mut Headers<'_>) -> Result<ConfirmConfigure, DecodeError> {
    let broadcaster_nonce = headers.value(BROADCASTER_NONCE)?.array()?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(ConfirmConfigure {
        broadcaster_nonce,
        authorization,
        tracing,
    })
}

fn decode_confirm_notify(headers: &mut Headers<'_>) -> Result<ConfirmNotify, DecodeError> {
    let identifier = headers.identifier()?;
    let subscribers = headers.value(SUBSCRIBERS)?.unsigned(8)?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(ConfirmNotify {
        identifier,
        subscribers,
        authorization,
        tracing,
    })
}

fn decode_enable_preset(headers: &mut Headers<'_>) -> Result<EnablePreset, DecodeError> {
    let compressor = headers.value(IDENTIFIER)?.unsigned(8)?;
    let compression_level = headers.value(COMPRESSION_LEVEL)?.i16()?;
    let min_size = headers.value(MIN_SIZE)?.u32()?;
    let max_size = headers.value(MAX_SIZE)?.unsigned(8)?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(EnablePreset {
        compressor,
        compression_level,
        min_size,
        max_size,
        authorization,
        tracing,
    })
}

fn decode_enable_custom(headers: &mut Headers<'_>) -> Result<EnableCustom, DecodeError> {
    let EnablePreset {
        compressor,
        compression_level,
        min_size,
        max_size,
        authorization,
        tracing,
    } = decode_enable_preset(headers)?;
    Ok(EnableCustom {
        compressor,
        compression_level,
        min_size,
        max_size,
        authorization,
        tracing,
        sha512: Sha512::from_bytes(headers.value(SHA512)?.array()?),
        dictionary: headers.body(),
    })
}

fn decode_disable_custom(headers: &mut Headers<'_>) -> Result<DisableCustom, DecodeError> {
    let compressor = headers.value(IDENTIFIER)?.unsigned(8)?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(DisableCustom {
        compressor,
        authorization,
        tracing,
    })
}

fn decode_missed(headers: &mut Headers<'_>) -> Result<MissedMessage, DecodeError> {
    let (authorization, tracing) = headers.vouch()?;
    Ok(MissedMessage {
        topic: headers.topic()?,
        authorization,
        tracing,
    })
}
