//! The bytes of messages to a broadcaster (`docs/protocol/stateful.md` §4).

use bytes::Bytes;

use crate::digest::Sha512;
use crate::stateful::codec::headers::{
    ENABLE_TRAINING, ENABLE_ZSTD, Head, Headers, IDENTIFIER, INITIAL_DICT, NUM_SUBSCRIBERS,
    SUBSCRIBER_NONCE, TOPIC, unknown_type,
};
use crate::stateful::codec::shared::{
    Order, decode_continue, decode_interest, decode_stream_part, encode_continue, encode_interest,
    encode_stream_part, exact, glob,
};
use crate::stateful::message::{Configure, ConfirmReceive, HeaderStyle, Notify, ToBroadcaster};
use crate::wire::DecodeError;

impl ToBroadcaster {
    /// Reads one websocket message. The body shares the memory of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let message = Self::decode_unhashed(bytes)?;
        if let Self::Notify(Notify { head, body, .. }) = &message
            // The authorization covers the digest and not the bytes, so this is what binds the two.
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

    /// Reads one websocket message without checking the digest of a NOTIFY's body.
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
                    // Four bytes, zeros included, unlike the number in CONFIRM_NOTIFY (§4).
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

    /// The name in `docs/protocol/stateful.md` §3, such as `SUBSCRIBE_GLOB`.
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

fn decode_notify(headers: &mut Headers<'_>) -> Result<Notify, DecodeError> {
    let (authorization, tracing) = headers.vouch()?;
    let identifier = headers.identifier()?;
    let topic = headers.topic()?;
    let head = headers.body_head()?;
    let body = headers.body();
    // Known from the head alone, so that a wrong length costs no hashing.
    if body.len() as u64 != head.compressed_length {
        return Err(headers.invalid_body("has another length than x-compressed-length"));
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

fn decode_confirm_receive(headers: &mut Headers<'_>) -> Result<ConfirmReceive, DecodeError> {
    let identifier = headers.identifier()?;
    let (authorization, tracing) = headers.vouch()?;
    Ok(ConfirmReceive {
        identifier,
        // Read last, as minimal headers are read in their order.
        num_subscribers: headers.value(NUM_SUBSCRIBERS)?.u32()?,
        authorization,
        tracing,
    })
}
