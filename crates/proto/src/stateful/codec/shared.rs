//! The bytes of messages that both ends send (`docs/protocol/stateful.md` §4).

use std::num::NonZeroU64;

use crate::glob::GlobPattern;
use crate::stateful::codec::headers::{GLOB, Head, Headers, IDENTIFIER, PART_ID, TOPIC};
use crate::stateful::message::{Continue, HeaderStyle, InterestMessage, Part, StreamPart};
use crate::subscription::Interest;
use crate::wire::DecodeError;

/// The place of the topic or glob among the headers.
#[derive(Clone, Copy)]
pub(super) enum Order {
    ValueFirst,
    ValueLast,
}

pub(super) fn encode_interest(
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
        // Requests and their confirmations have the same headers in another order (§4).
        Order::ValueFirst => out.bytes(name, value).vouch(authorization, &it.tracing),
        Order::ValueLast => out.vouch(authorization, &it.tracing).bytes(name, value),
    };
    out.finish()
}

pub(super) fn encode_stream_part(style: HeaderStyle, kind: u16, it: &StreamPart) -> Vec<u8> {
    // Expanded headers are counted before the first of them is written.
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

pub(super) fn encode_continue(style: HeaderStyle, kind: u16, it: &Continue) -> Vec<u8> {
    let mut out = Head::new(style, kind, 4);
    out.bytes(IDENTIFIER, it.identifier.as_bytes())
        .umin(PART_ID, it.part_id)
        .vouch(it.authorization.as_deref(), &it.tracing);
    out.finish()
}

impl InterestMessage {
    pub(super) fn named(&self, exact: &'static str, glob: &'static str) -> &'static str {
        match self.interest {
            Interest::Exact(_) => exact,
            Interest::Glob(_) => glob,
        }
    }
}

pub(super) fn decode_interest(
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

pub(super) fn exact(headers: &mut Headers<'_>) -> Result<Interest, DecodeError> {
    headers.topic().map(Interest::Exact)
}

pub(super) fn glob(headers: &mut Headers<'_>) -> Result<Interest, DecodeError> {
    let value = headers.value(GLOB)?;
    match GlobPattern::parse(value.text()?) {
        Ok(glob) => Ok(Interest::Glob(glob)),
        Err(_) => Err(value.invalid("is too long")),
    }
}

pub(super) fn decode_stream_part(headers: &mut Headers<'_>) -> Result<StreamPart, DecodeError> {
    let (authorization, tracing) = headers.vouch()?;
    let identifier = headers.identifier()?;
    let id = headers.value(PART_ID)?.unsigned(8)?;
    // Only part 0 has a head. In a later part the bytes of the body follow here.
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

pub(super) fn decode_continue(headers: &mut Headers<'_>) -> Result<Continue, DecodeError> {
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
