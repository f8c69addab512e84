//! The bytes of messages to a subscriber (`docs/protocol/stateful.md` §4).

use bytes::Bytes;

use crate::digest::Sha512;
use crate::stateful::codec::headers::{
    BROADCASTER_NONCE, COMPRESSION_LEVEL, Head, Headers, IDENTIFIER, MAX_SIZE, MIN_SIZE, SHA512,
    SUBSCRIBERS, TOPIC, unknown_type,
};
use crate::stateful::codec::shared::{
    Order, decode_continue, decode_interest, decode_stream_part, encode_continue, encode_interest,
    encode_stream_part, exact, glob,
};
use crate::stateful::message::{
    ConfirmConfigure, ConfirmNotify, DisableCustom, EnableCustom, EnablePreset, HeaderStyle,
    MissedMessage, ToSubscriber,
};
use crate::wire::DecodeError;

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

    /// The name in `docs/protocol/stateful.md` §3, such as `RECEIVE_STREAM`.
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
    // The same headers in the same order; the digest and the dictionary follow (§4).
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
