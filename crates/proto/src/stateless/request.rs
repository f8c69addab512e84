//! Requests of a subscriber to a broadcaster (`docs/protocol/stateless.md` §3 to §5).

use bytes::Bytes;

use crate::digest::Sha512;
use crate::glob::GlobPattern;
use crate::limits::FIELD_BYTES_MAX;
use crate::subscription::{ETAG_FORMAT, Interest, NotAscending, StrongEtag, SubscriptionSet};
use crate::topic::{Identifier, Topic};
use crate::url::SubscriberUrl;
use crate::wire::{DecodeError, Reader, Writer};

/// Longest head of any message of the stateless protocol, in bytes: the four fields of SUBSCRIBE
/// fit in, and so do two fields, a digest and an identifier.
pub const HEAD_BYTES_MAX: usize = 4 * (FIELD_BYTES_MAX + 2) + 1_024;

/// The kind of interest that a request is about; on HTTP the path says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterestKind {
    /// An exact topic.
    Exact,
    /// A glob.
    Glob,
}

impl InterestKind {
    fn decode(self, reader: &mut Reader<'_>) -> Result<Interest, DecodeError> {
        Ok(match self {
            Self::Exact => Interest::Exact(Topic::from_field(reader.field16("topic")?)),
            Self::Glob => Interest::Glob(GlobPattern::from_field(reader.text16("glob")?)),
        })
    }
}

/// SUBSCRIBE_EXACT and SUBSCRIBE_GLOB: the whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The url that RECEIVE is to be posted to.
    pub url: SubscriberUrl,
    /// The topic or glob.
    pub interest: Interest,
    /// The url that MISSED is to be posted to; `None` if MISSED is not wanted.
    pub recovery: Option<SubscriberUrl>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

impl SubscribeRequest {
    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(self.url.as_str().as_bytes())
            .field16(self.interest.as_bytes());
        write_recovery(&mut out, self.recovery.as_ref());
        out.field16(&self.tracing);
        out.into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(kind: InterestKind, body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        Ok(Self {
            // Fields are read in the order in which they are written here, which is that of the
            // wire.
            url: SubscriberUrl::from_field(reader.text16("url")?),
            interest: kind.decode(&mut reader)?,
            recovery: read_recovery(&mut reader)?,
            tracing: read_tracing(&mut reader)?,
        })
    }
}

/// UNSUBSCRIBE_EXACT and UNSUBSCRIBE_GLOB: the whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubscribeRequest {
    /// The url that RECEIVE was posted to.
    pub url: SubscriberUrl,
    /// The topic or glob that is no longer wanted.
    pub interest: Interest,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

impl UnsubscribeRequest {
    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(self.url.as_str().as_bytes())
            .field16(self.interest.as_bytes())
            .field16(&self.tracing);
        out.into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(kind: InterestKind, body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        Ok(Self {
            url: SubscriberUrl::from_field(reader.text16("url")?),
            interest: kind.decode(&mut reader)?,
            tracing: read_tracing(&mut reader)?,
        })
    }
}

/// CHECK_SUBSCRIPTIONS: the whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRequest {
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The url whose subscriptions are meant.
    pub url: SubscriberUrl,
}

impl CheckRequest {
    /// Encodes the whole body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(&self.tracing)
            .field16(self.url.as_str().as_bytes());
        out.into_bytes()
    }

    /// Decodes `body`; bytes behind the message are ignored.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        Ok(Self {
            tracing: read_tracing(&mut reader)?,
            url: SubscriberUrl::from_field(reader.text16("url")?),
        })
    }
}

/// SET_SUBSCRIPTIONS up to its lists: enough to judge the authorization by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetHead {
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The url whose subscriptions are meant.
    pub url: SubscriberUrl,
    /// The etag of the lists that follow.
    pub etag: StrongEtag,
}

impl SetHead {
    /// Encodes the head; the lists follow, see [`encode_set_lists`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(&self.tracing)
            .field16(self.url.as_str().as_bytes())
            .u8(ETAG_FORMAT)
            .bytes(self.etag.0.as_bytes());
        out.into_bytes()
    }

    /// Decodes the head at the start of `bytes`, and returns its length; the lists follow.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader::new(bytes);
        let head = Self {
            tracing: read_tracing(&mut reader)?,
            url: SubscriberUrl::from_field(reader.text16("url")?),
            etag: read_etag(&mut reader)?,
        };
        Ok((head, reader.position()))
    }
}

/// The reason why the lists of a SET_SUBSCRIPTIONS are no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetListsError {
    /// The lists do not parse.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The lists are not in order, or hold something twice.
    #[error(transparent)]
    NotAscending(#[from] NotAscending),
}

/// The bytes of a SET_SUBSCRIPTIONS that follow its head.
pub fn encode_set_lists(set: &SubscriptionSet) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(count(set.exacts().len()));
    // The set keeps its entries ascending, so the lists are in the order that the etag is made
    // over.
    for (topic, recovery) in set.exacts() {
        out.field16(topic.as_bytes());
        write_recovery(&mut out, recovery.as_ref());
    }
    out.u32(count(set.globs().len()));
    for (glob, recovery) in set.globs() {
        out.field16(glob.as_str().as_bytes());
        write_recovery(&mut out, recovery.as_ref());
    }
    out.into_bytes()
}

fn count(entries: usize) -> u32 {
    u32::try_from(entries).expect("a set of this many entries does not fit in memory")
}

/// The set in the bytes that follow the head; bytes behind it are ignored. Memory grows with what
/// is there, not with the counts that are claimed.
pub fn decode_set_lists(bytes: &[u8]) -> Result<SubscriptionSet, SetListsError> {
    decode_set_lists_with(bytes, || {})
}

/// [`decode_set_lists`] that calls `between` after each entry: half a million of them take so long
/// that a server may want to do something else in between.
pub fn decode_set_lists_with(
    bytes: &[u8],
    mut between: impl FnMut(),
) -> Result<SubscriptionSet, SetListsError> {
    let mut reader = Reader::new(bytes);
    // Nearly every client registers one recovery url for all its subscriptions.
    let mut recovery_before = None;
    let exacts = read_list(&mut reader, &mut recovery_before, |reader| {
        between();
        Ok(Topic::from_field(reader.field16("topic")?))
    })?;
    let globs = read_list(&mut reader, &mut recovery_before, |reader| {
        between();
        Ok(GlobPattern::from_field(reader.text16("glob")?))
    })?;
    Ok(SubscriptionSet::from_ascending(exacts, globs)?)
}

fn read_list<T>(
    reader: &mut Reader<'_>,
    recovery_before: &mut Option<SubscriberUrl>,
    mut read_entry: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<(T, Option<SubscriberUrl>)>, DecodeError> {
    // Grows with what is read. The announced number may be four billion in a body of ten bytes.
    let mut entries = Vec::new();
    for _ in 0..reader.u32("number of entries")? {
        let entry = read_entry(reader)?;
        let recovery = match reader.text16("recovery url")? {
            "" => None,
            text => match recovery_before {
                // Clones share the text: a set of 100,000 entries holds its recovery url once.
                Some(before) if before.as_str() == text => Some(before.clone()),
                _ => Some(SubscriberUrl::from_field(text)),
            },
        };
        if recovery.is_some() {
            recovery_before.clone_from(&recovery);
        }
        entries.push((entry, recovery));
    }
    Ok(entries)
}

/// NOTIFY up to its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyHead {
    /// The topic of the message.
    pub topic: Topic,
    /// The digest of the message.
    pub sha512: Sha512,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The identifier of the notification, which the answer repeats.
    pub identifier: Identifier,
    /// Length of the message, which ends with the body.
    pub message_bytes: u64,
}

impl NotifyHead {
    /// Encodes the head; the message follows.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(self.topic.as_bytes())
            .bytes(self.sha512.as_bytes())
            .field16(&self.tracing)
            .field8(self.identifier.as_bytes())
            .u64(self.message_bytes);
        out.into_bytes()
    }

    /// Decodes the head at the start of `bytes`, and returns its length; the message follows.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader::new(bytes);
        let head = Self {
            topic: Topic::from_field(reader.field16("topic")?),
            sha512: reader.sha512("sha512")?,
            tracing: read_tracing(&mut reader)?,
            identifier: Identifier::from_field(reader.field8("identifier")?),
            message_bytes: reader.u64("message length")?,
        };
        Ok((head, reader.position()))
    }
}

pub(super) fn read_tracing(reader: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    // A slice would keep the whole request in memory for as long as its tracing is kept.
    Ok(Bytes::copy_from_slice(reader.field16("tracing")?))
}

pub(super) fn read_etag(reader: &mut Reader<'_>) -> Result<StrongEtag, DecodeError> {
    match reader.u8("etag format")? {
        ETAG_FORMAT => Ok(StrongEtag(reader.sha512("etag")?)),
        got => Err(DecodeError::EtagFormat { got }),
    }
}

fn read_recovery(reader: &mut Reader<'_>) -> Result<Option<SubscriberUrl>, DecodeError> {
    Ok(match reader.text16("recovery url")? {
        "" => None,
        text => Some(SubscriberUrl::from_field(text)),
    })
}

fn write_recovery(out: &mut Writer, recovery: Option<&SubscriberUrl>) {
    out.field16(recovery.map_or("", SubscriberUrl::as_str).as_bytes());
}
