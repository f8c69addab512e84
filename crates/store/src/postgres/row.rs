//! What is read from the database, where others may have written anything.

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;

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

const EXACT: i16 = 0;
const GLOB: i16 = 1;

pub(super) fn kind_of(interest: &Interest) -> i16 {
    match interest {
        Interest::Exact(_) => EXACT,
        Interest::Glob(_) => GLOB,
    }
}

pub(super) fn url_of(
    urls: &mut Urls,
    bytes: &[u8],
) -> Result<httppubsub_proto::url::SubscriberUrl, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8("the url"))?;
    urls.get(text).map_err(|it| Unreadable::TooLong {
        what: "the url",
        bytes: it.bytes,
    })
}

pub(super) fn topic_of(bytes: &[u8]) -> Result<Topic, Unreadable> {
    Topic::new(bytes).map_err(|it| Unreadable::TooLong {
        what: "the topic",
        bytes: it.bytes,
    })
}

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
