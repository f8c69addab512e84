//! The answers of both ends. An authorization of `None` is a field of length 0.

use bytes::Bytes;

use crate::http::request::{read_etag, read_tracing};
use crate::subscription::{ETAG_FORMAT, StrongEtag};
use crate::topic::Identifier;
use crate::wire::{DecodeError, Reader, Writer};

/// The two bytes by which a subscriber ends the subscription that a delivery was for
/// (`docs/protocol/stateless.md` §6).
pub const UNSUBSCRIBE_IMMEDIATE: [u8; 2] = [0, 10];

/// The answer to SUBSCRIBE, UNSUBSCRIBE and SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenericResponse {
    /// To-subscriber.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

impl GenericResponse {
    const TYPE: u16 = 3;

    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        begin(Self::TYPE, self.authorization.as_deref(), &self.tracing).into_bytes()
    }

    /// What `body` says; bytes behind it are ignored.
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
    /// To-subscriber.
    pub authorization: Option<String>,
    /// Must be a [`NotifyTrace`](crate::http::NotifyTrace), or published clients fail.
    pub tracing: Bytes,
    /// How many confirmed, in all.
    pub subscribers: u32,
    /// Of the request.
    pub identifier: Identifier,
}

impl NotifyResponse {
    const TYPE: u16 = 4;

    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(Self::TYPE, self.authorization.as_deref(), &self.tracing);
        out.u32(self.subscribers).field8(self.identifier.as_bytes());
        out.into_bytes()
    }

    /// What `body` says; bytes behind it are ignored.
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
    /// To-subscriber.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
    /// Of the subscriptions there are.
    pub etag: StrongEtag,
}

impl CheckResponse {
    const TYPE: u16 = 5;

    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(Self::TYPE, self.authorization.as_deref(), &self.tracing);
        out.u8(ETAG_FORMAT).bytes(self.etag.0.as_bytes());
        out.into_bytes()
    }

    /// What `body` says; bytes behind it are ignored.
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
    /// To-broadcaster.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
    /// Of the delivery.
    pub identifier: Identifier,
    /// How many subscribers it stands for: 1, unless a forwarder says otherwise.
    pub subscribers: u32,
}

impl ConfirmReceive {
    const TYPE: u16 = 8;

    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(Self::TYPE, self.authorization.as_deref(), &self.tracing);
        out.field8(self.identifier.as_bytes()).u32(self.subscribers);
        out.into_bytes()
    }
}

/// What a subscriber answers to RECEIVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReceiveAnswer {
    /// It has the message.
    Confirm(ConfirmReceive),
    /// It does not want this subscription any more.
    UnsubscribeImmediate,
}

impl ReceiveAnswer {
    /// What `body` says; bytes behind it are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
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
    /// To-broadcaster.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

impl ConfirmMissed {
    const TYPE: u16 = 9;

    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        begin(Self::TYPE, self.authorization.as_deref(), &self.tracing).into_bytes()
    }

    /// What `body` says; bytes behind it are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (authorization, tracing) = read_begin(&mut reader, Self::TYPE)?;
        Ok(Self {
            authorization,
            tracing,
        })
    }
}

/// What every answer begins with.
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
