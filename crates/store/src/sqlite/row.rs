//! Rows of the database, where others may have written anything.

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::limits::FIELD_BYTES_MAX;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::types::ValueRef;

use crate::urls::Urls;

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

/// The text in a column, named `what` in the error.
pub(super) fn text<'a>(value: ValueRef<'a>, what: &'static str) -> Result<&'a str, Unreadable> {
    let ValueRef::Text(bytes) = value else {
        return Err(Unreadable::NotText(what));
    };
    // Before the check for UTF-8, which would read a value of a gigabyte.
    let bytes = not_too_long(bytes, what)?;
    std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8(what))
}

/// The bytes in a column, named `what` in the error.
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

/// At most [`FIELD_BYTES_MAX`] bytes, which is what a message can carry: a longer value could be
/// stored but never sent.
fn not_too_long<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], Unreadable> {
    match bytes.len() {
        ..=FIELD_BYTES_MAX => Ok(bytes),
        bytes => Err(Unreadable::TooLong { what, bytes }),
    }
}

/// One of the two tables; the numbers are those of the column `kind` in the change log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Exact = 0,
    Glob = 1,
}

/// The subscription in a row.
pub(super) fn subscription_of(
    urls: &mut Urls,
    kind: Kind,
    url: ValueRef<'_>,
    interest: ValueRef<'_>,
    recovery_url: ValueRef<'_>,
) -> Result<Subscription, Unreadable> {
    let recovery = recovery(recovery_url)?;
    Ok(Subscription {
        interest: interest_of(kind, interest)?,
        url: url_of(urls, text(url, "the url")?)?,
        recovery: recovery.map(|url| url_of(urls, url)).transpose()?,
    })
}

/// The url `text`, sharing memory with equal ones among `urls`.
pub(super) fn url_of(urls: &mut Urls, text: &str) -> Result<SubscriberUrl, Unreadable> {
    urls.get(text).map_err(|it| Unreadable::TooLong {
        what: "the url",
        bytes: it.bytes,
    })
}

/// The interest in a column: a BLOB is a topic, TEXT a glob.
pub(super) fn interest_of(kind: Kind, value: ValueRef<'_>) -> Result<Interest, Unreadable> {
    match kind {
        Kind::Exact => Ok(Interest::Exact(topic_of(blob(value, "the topic")?)?)),
        Kind::Glob => Ok(Interest::Glob(glob_of(text(value, "the glob")?)?)),
    }
}

/// The topic of these bytes, from whichever column.
pub(super) fn topic_of(bytes: &[u8]) -> Result<Topic, Unreadable> {
    Topic::new(bytes).map_err(|it| Unreadable::TooLong {
        what: "the topic",
        bytes: it.bytes,
    })
}

/// The glob, also one that a broadcaster would not take today: what is stored stays readable.
fn glob_of(text: &str) -> Result<GlobPattern, Unreadable> {
    GlobPattern::parse(text).map_err(|it| Unreadable::TooLong {
        what: "the glob",
        bytes: it.bytes,
    })
}
