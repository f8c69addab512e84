//! Rows of the database, where others may have written anything.
//!
//! Unlike SQLite's, columns have types here, so only lengths, UTF-8 and the kind are checked.

use std::time::Duration;

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use tokio_postgres::Row;

use crate::contract::StoreError;
use crate::urls::Urls;

/// A value that no subscription can have. Its row is passed over and a log tells of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("{what} has {bytes} bytes, which is too long")]
    TooLong { what: &'static str, bytes: usize },
    #[error("{0} is no kind of interest")]
    Kind(i16),
}

/// The column `kind`.
const EXACT: i16 = 0;
/// The column `kind`.
const GLOB: i16 = 1;

/// The number of the kind, as the column has it.
pub(super) fn kind_of(interest: &Interest) -> i16 {
    match interest {
        Interest::Exact(_) => EXACT,
        Interest::Glob(_) => GLOB,
    }
}

/// The url in a column, sharing memory with equal ones among `urls`.
pub(super) fn url_of(urls: &mut Urls, bytes: &[u8]) -> Result<SubscriberUrl, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8("the url"))?;
    urls.get(text).map_err(|it| Unreadable::TooLong {
        what: "the url",
        bytes: it.bytes,
    })
}

/// The topic in a column: any bytes, up to the length that a message can carry.
pub(super) fn topic_of(bytes: &[u8]) -> Result<Topic, Unreadable> {
    Topic::new(bytes).map_err(|it| Unreadable::TooLong {
        what: "the topic",
        bytes: it.bytes,
    })
}

/// The interest in the columns `kind` and `interest`.
pub(super) fn interest_of(kind: i16, bytes: &[u8]) -> Result<Interest, Unreadable> {
    match kind {
        EXACT => Ok(Interest::Exact(topic_of(bytes)?)),
        GLOB => {
            let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8("the glob"))?;
            let glob = GlobPattern::parse(text).map_err(|it| Unreadable::TooLong {
                what: "the glob",
                bytes: it.bytes,
            })?;
            Ok(Interest::Glob(glob))
        }
        other => Err(Unreadable::Kind(other)),
    }
}

/// The subscription in a row. An empty recovery url is none (`docs/protocol/subscriptions.md` §1).
pub(super) fn subscription_of(
    urls: &mut Urls,
    kind: i16,
    url: &[u8],
    interest: &[u8],
    recovery: Option<&[u8]>,
) -> Result<Subscription, Unreadable> {
    Ok(Subscription {
        interest: interest_of(kind, interest)?,
        url: url_of(urls, url)?,
        recovery: match recovery {
            Some(recovery) if !recovery.is_empty() => Some(url_of(urls, recovery)?),
            _ => None,
        },
    })
}

/// The first row; [`StoreError::Corrupt`] if there is none where the statement always gives one.
pub(super) fn one<'a>(rows: &'a [Row], doing: &'static str) -> Result<&'a Row, StoreError> {
    rows.first()
        .ok_or_else(|| StoreError::Corrupt(format!("{doing}: no row")))
}

/// As columns have it: `bytea`, because text in PostgreSQL cannot hold U+0000.
pub(super) fn bytes(url: &SubscriberUrl) -> &[u8] {
    url.as_str().as_bytes()
}

/// A notice is due in whole seconds, rounded up.
pub(super) fn seconds_up(due: Now) -> i64 {
    let since = due.since_unix();
    let seconds = since
        .as_secs()
        .saturating_add(u64::from(since.subsec_nanos() > 0));
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// The last whole second by `now`: a notice of that second is due.
pub(super) fn seconds_down(now: Now) -> i64 {
    i64::try_from(now.unix_seconds()).unwrap_or(i64::MAX)
}

/// The end of a hold, to fractions of a second.
pub(super) fn seconds(moment: Now) -> f64 {
    moment.since_unix().as_secs_f64()
}

/// The time of a column in seconds since the epoch. One before it is taken for the epoch.
pub(super) fn moment(seconds: f64) -> Now {
    Now::from_unix(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}
