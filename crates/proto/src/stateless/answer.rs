//! The answers of both ends. An authorization of `None` is a field of length 0.

use bytes::Bytes;

use crate::stateless::request::{read_etag, read_tracing};
use crate::subscription::{ETAG_FORMAT, StrongEtag};
use crate::topic::Identifier;
use crate::wire::{DecodeError, Reader, Writer};

/// The two bytes by which a subscriber ends the subscription that a delivery was for
/// (`docs/protocol/stateless.md` §6).
pub const UNSUBSCRIBE_IMMEDIATE: [u8; 2] = [0, 10];

/// The answer to SUBSCRIBE, UNSUBSCRIBE and SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenericResponse {
    /// A value of the scheme to subscribers.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

impl GenericResponse {
    const TYPE: u16 = 3;

    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        begin(Self::TYPE, self.authorization.as_deref(), &self.tracing).into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (authorization, tracing) = read_begin(&mut reader, Self::TYPE)?;
        Ok(Self {
            authorization,
            tracing,
        })
    }
}

/// The answer to NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyResponse {
    /// A value of the scheme to subscribers.
    pub authorization: Option<String>,
    /// Must be a [`NotifyTrace`](crate::stateless::NotifyTrace), or published clients fail.
    pub tracing: Bytes,
    /// Number of subscribers that confirmed, in all.
    pub subscribers: u32,
    /// The identifier of the request.
    pub identifier: Identifier,
}

impl NotifyResponse {
    const TYPE: u16 = 4;

    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(Self::TYPE, self.authorization.as_deref(), &self.tracing);
        out.u32(self.subscribers).field8(self.identifier.as_bytes());
        out.into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (authorization, tracing) = read_begin(&mut reader, Self::TYPE)?;
        let subscribers = reader.u32("subscribers")?;
        let identifier = Identifier::from_field(reader.field8("identifier")?);
        Ok(Self {
            authorization,
            tracing,
            subscribers,
            identifier,
        })
    }
}

/// The answer to CHECK_SUBSCRIPTIONS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckResponse {
    /// A value of the scheme to subscribers.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The etag of the subscriptions there are.
    pub etag: StrongEtag,
}

impl CheckResponse {
    const TYPE: u16 = 5;

    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(Self::TYPE, self.authorization.as_deref(), &self.tracing);
        out.u8(ETAG_FORMAT).bytes(self.etag.0.as_bytes());
        out.into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (authorization, tracing) = read_begin(&mut reader, Self::TYPE)?;
        Ok(Self {
            authorization,
            tracing,
            etag: read_etag(&mut reader)?,
        })
    }
}

/// A subscriber's confirmation of RECEIVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmReceive {
    /// A value of the scheme to broadcasters.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The identifier of the delivery.
    pub identifier: Identifier,
    /// Number of subscribers that the answer stands for: 1, unless a forwarder says otherwise.
    pub subscribers: u32,
}

impl ConfirmReceive {
    const TYPE: u16 = 8;

    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(Self::TYPE, self.authorization.as_deref(), &self.tracing);
        // The other way round than in the answer to NOTIFY (§5, §6).
        out.field8(self.identifier.as_bytes()).u32(self.subscribers);
        out.into_bytes()
    }
}

/// The answer of a subscriber to RECEIVE.
///
/// ```
/// use httppubsub_proto::stateless::{ReceiveAnswer, UNSUBSCRIBE_IMMEDIATE};
///
/// let answer = ReceiveAnswer::decode(&UNSUBSCRIBE_IMMEDIATE)?;
/// assert!(matches!(answer, ReceiveAnswer::UnsubscribeImmediate));
///
/// // A webhook that answers 200 without a confirmation has not confirmed.
/// assert!(ReceiveAnswer::decode(b"ok").is_err());
/// # Ok::<(), httppubsub_proto::wire::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiveAnswer {
    /// The subscriber has the message.
    Confirm(ConfirmReceive),
    /// The subscriber no longer wants this subscription.
    UnsubscribeImmediate,
}

impl ReceiveAnswer {
    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        // A type without any field: there is no authorization to read.
        if body.starts_with(&UNSUBSCRIBE_IMMEDIATE) {
            return Ok(Self::UnsubscribeImmediate);
        }
        let mut reader = Reader::new(body);
        let (authorization, tracing) = read_begin(&mut reader, ConfirmReceive::TYPE)?;
        let identifier = Identifier::from_field(reader.field8("identifier")?);
        let subscribers = reader.u32("subscribers")?;
        Ok(Self::Confirm(ConfirmReceive {
            authorization,
            tracing,
            identifier,
            subscribers,
        }))
    }
}

/// A subscriber's confirmation of MISSED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmMissed {
    /// A value of the scheme to broadcasters.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

impl ConfirmMissed {
    const TYPE: u16 = 9;

    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        begin(Self::TYPE, self.authorization.as_deref(), &self.tracing).into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (authorization, tracing) = read_begin(&mut reader, Self::TYPE)?;
        Ok(Self {
            authorization,
            tracing,
        })
    }
}

/// The beginning of every answer: type and authorization.
fn begin(message_type: u16, authorization: Option<&str>, tracing: &[u8]) -> Writer {
    let authorization = authorization.unwrap_or_default().as_bytes();
    let mut out = Writer::with_capacity(authorization.len() + tracing.len() + 128);
    out.u16(message_type)
        .field16(authorization)
        .field16(tracing);
    out
}

fn read_begin(
    reader: &mut Reader<'_>,
    message_type: u16,
) -> Result<(Option<String>, Bytes), DecodeError> {
    reader.message_type(message_type)?;
    let authorization = match reader.text16("authorization")? {
        "" => None,
        text => Some(text.to_owned()),
    };
    Ok((authorization, read_tracing(reader)?))
}
