//! What is read from the database, where others may have written anything.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::limits::FIELD_BYTES_MAX;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::types::ValueRef;

/// A value that no subscription can have. Its row is passed over and a log tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0} is not text")]
    NotText(&'static str),
    #[error("{0} is not a blob")]
    NotBlob(&'static str),
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("{what} has {bytes} bytes, {FIELD_BYTES_MAX} are allowed")]
    TooLong { what: &'static str, bytes: usize },
}

pub(super) fn text<'a>(value: ValueRef<'a>, what: &'static str) -> Result<&'a str, Unreadable> {
    let ValueRef::Text(bytes) = value else {
        return Err(Unreadable::NotText(what));
    };
    let bytes = not_too_long(bytes, what)?;
    std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8(what))
}

pub(super) fn blob<'a>(value: ValueRef<'a>, what: &'static str) -> Result<&'a [u8], Unreadable> {
    let ValueRef::Blob(bytes) = value else {
        return Err(Unreadable::NotBlob(what));
    };
    not_too_long(bytes, what)
}

/// A recovery url; an empty one is none (`docs/protocol/subscriptions.md` §1).
pub(super) fn recovery(value: ValueRef<'_>) -> Result<Option<&str>, Unreadable> {
    match value {
        ValueRef::Null => Ok(None),
        value => Ok(Some(text(value, "the recovery url")?).filter(|text| !text.is_empty())),
    }
}

fn not_too_long<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], Unreadable> {
    match bytes.len() {
        ..=FIELD_BYTES_MAX => Ok(bytes),
        bytes => Err(Unreadable::TooLong { what, bytes }),
    }
}

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Exact,
    Glob,
}

/// Makes subscriptions of rows. Equal urls, topics and globs share their memory.
#[derive(Default)]
pub(super) struct Interner {
    urls: HashMap<Arc<str>, SubscriberUrl>,
    topics: HashMap<Bytes, Topic>,
    globs: HashMap<Box<str>, GlobPattern>,
}

impl Interner {
    pub(super) fn subscription(
        &mut self,
        kind: Kind,
        url: ValueRef<'_>,
        interest: ValueRef<'_>,
        recovery_url: ValueRef<'_>,
    ) -> Result<Subscription, Unreadable> {
        let recovery = recovery(recovery_url)?;
        Ok(Subscription {
            interest: self.interest(kind, interest)?,
            url: self.url(text(url, "the url")?)?,
            recovery: recovery.map(|url| self.url(url)).transpose()?,
        })
    }

    pub(super) fn interest(
        &mut self,
        kind: Kind,
        value: ValueRef<'_>,
    ) -> Result<Interest, Unreadable> {
        match kind {
            Kind::Exact => Ok(Interest::Exact(self.topic(blob(value, "the topic")?)?)),
            Kind::Glob => Ok(Interest::Glob(self.glob(text(value, "the glob")?)?)),
        }
    }

    pub(super) fn url(&mut self, text: &str) -> Result<SubscriberUrl, Unreadable> {
        if let Some(url) = self.urls.get(text) {
            return Ok(url.clone());
        }
        let shared: Arc<str> = text.into();
        let url = SubscriberUrl::new(shared.clone()).map_err(|it| Unreadable::TooLong {
            what: "the url",
            bytes: it.bytes,
        })?;
        self.urls.insert(shared, url.clone());
        Ok(url)
    }

    pub(super) fn topic(&mut self, bytes: &[u8]) -> Result<Topic, Unreadable> {
        if let Some(topic) = self.topics.get(bytes) {
            return Ok(topic.clone());
        }
        let shared = Bytes::copy_from_slice(bytes);
        let topic = Topic::new(shared.clone()).map_err(|it| Unreadable::TooLong {
            what: "the topic",
            bytes: it.bytes,
        })?;
        self.topics.insert(shared, topic.clone());
        Ok(topic)
    }

    fn glob(&mut self, text: &str) -> Result<GlobPattern, Unreadable> {
        if let Some(glob) = self.globs.get(text) {
            return Ok(glob.clone());
        }
        let glob = GlobPattern::parse(text).map_err(|it| Unreadable::TooLong {
            what: "the glob",
            bytes: it.bytes,
        })?;
        self.globs.insert(text.into(), glob.clone());
        Ok(glob)
    }
}
