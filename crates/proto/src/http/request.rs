//! What a subscriber asks of a broadcaster (`docs/protocol/stateless.md` §3 to §5).

use bytes::Bytes;

use crate::digest::Sha512;
use crate::glob::GlobPattern;
use crate::subscription::{ETAG_FORMAT, Interest, NotAscending, StrongEtag, SubscriptionSet};
use crate::topic::{Identifier, Topic};
use crate::url::SubscriberUrl;
use crate::wire::{DecodeError, Reader, Writer};

/// Whether a request is about an exact topic or a glob; on HTTP the path says so.
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
    /// Where RECEIVE is to be posted.
    pub url: SubscriberUrl,
    /// Which messages.
    pub interest: Interest,
    /// Where MISSED is to be posted, if it is wanted.
    pub recovery: Option<SubscriberUrl>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

impl SubscribeRequest {
    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(self.url.as_str().as_bytes())
            .field16(self.interest.as_bytes());
        write_recovery(&mut out, self.recovery.as_ref());
        out.field16(&self.tracing);
        out.into_bytes()
    }

    /// What `body` says; bytes behind it are ignored.
    pub fn decode(kind: InterestKind, body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        Ok(Self {
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
    /// Where RECEIVE was posted.
    pub url: SubscriberUrl,
    /// Which messages are not wanted any more.
    pub interest: Interest,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

impl UnsubscribeRequest {
    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(self.url.as_str().as_bytes())
            .field16(self.interest.as_bytes())
            .field16(&self.tracing);
        out.into_bytes()
    }

    /// What `body` says; bytes behind it are ignored.
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
    /// At most 65,535 bytes.
    pub tracing: Bytes,
    /// Whose subscriptions.
    pub url: SubscriberUrl,
}

impl CheckRequest {
    /// The body that says this.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(&self.tracing)
            .field16(self.url.as_str().as_bytes());
        out.into_bytes()
    }

    /// What `body` says; bytes behind it are ignored.
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
    /// At most 65,535 bytes.
    pub tracing: Bytes,
    /// Whose subscriptions.
    pub url: SubscriberUrl,
    /// Of the lists that follow.
    pub etag: StrongEtag,
}

impl SetHead {
    /// The bytes that say this; the lists follow, see [`encode_set_lists`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(&self.tracing)
            .field16(self.url.as_str().as_bytes())
            .u8(ETAG_FORMAT)
            .bytes(self.etag.0.as_bytes());
        out.into_bytes()
    }

    /// What `bytes` begin with, and how many of them it takes; the lists follow.
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

/// Why the lists of a SET_SUBSCRIPTIONS are no set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetListsError {
    /// They do not parse.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// They are not in order, or hold something twice.
    #[error(transparent)]
    NotAscending(#[from] NotAscending),
}

/// The bytes of a SET_SUBSCRIPTIONS that follow its head.
pub fn encode_set_lists(set: &SubscriptionSet) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(count(set.exacts().len()));
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
    let mut reader = Reader::new(bytes);
    // Nearly every client registers one recovery url for all its subscriptions.
    let mut recovery_before = None;
    let exacts = read_list(&mut reader, &mut recovery_before, |reader| {
        Ok(Topic::from_field(reader.field16("topic")?))
    })?;
    let globs = read_list(&mut reader, &mut recovery_before, |reader| {
        Ok(GlobPattern::from_field(reader.text16("glob")?))
    })?;
    Ok(SubscriptionSet::from_ascending(exacts, globs)?)
}

fn read_list<T>(
    reader: &mut Reader<'_>,
    recovery_before: &mut Option<SubscriberUrl>,
    mut read_entry: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<(T, Option<SubscriberUrl>)>, DecodeError> {
    let mut entries = Vec::new();
    for _ in 0..reader.u32("number of entries")? {
        let entry = read_entry(reader)?;
        let recovery = match reader.text16("recovery url")? {
            "" => None,
            text => match recovery_before {
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
    /// What it is about.
    pub topic: Topic,
    /// Of the message.
    pub sha512: Sha512,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
    /// Returned in the answer.
    pub identifier: Identifier,
    /// Length of the message, which ends with the body.
    pub message_bytes: u64,
}

impl NotifyHead {
    /// The bytes that say this; the message follows.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.field16(self.topic.as_bytes())
            .bytes(self.sha512.as_bytes())
            .field16(&self.tracing)
            .field8(self.identifier.as_bytes())
            .u64(self.message_bytes);
        out.into_bytes()
    }

    /// What `bytes` begin with, and how many of them it takes; the message follows.
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
