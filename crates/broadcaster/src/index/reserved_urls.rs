//! The urls that are reserved for broadcasters: where they receive for their websockets.
//!
//! A subscriber with such a url would send copies to all websockets of a broadcaster, or end their
//! rows. Its text alone does not tell: hosts have several names, and paths
//! may be spelled with escapes and empty segments.

use httppubsub_proto::paths::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};
use httppubsub_proto::url::{Endpoint, SubscriberUrl};

/// `true` if broadcasters receive for their websockets at urls like this one. The path decides,
/// because a broadcaster is reached by several names, addresses, ports, prefixes and spellings.
/// Broadcasters subscribe such urls themselves, in the store.
pub(crate) fn is_for_websockets(url: &SubscriberUrl) -> bool {
    let may_be = |text: &str| {
        let mut parts = text.as_bytes().windows(COMMON_PART.len());
        text.contains('%') || parts.any(|part| part.eq_ignore_ascii_case(COMMON_PART))
    };
    if !may_be(url.as_str()) {
        return false;
    }
    let Ok(endpoint) = Endpoint::parse(url) else {
        return false;
    };
    let path = endpoint.path_and_query().split('?').next();
    let path = percent_decoded(path.unwrap_or_default().as_bytes());
    let segments: Vec<_> = path
        .split(|byte| *byte == b'/')
        .filter(|segment| !segment.is_empty())
        .collect();
    let ends_with = |known: &str| {
        let known: Vec<_> = known.split('/').skip(1).collect();
        let end = segments.len().checked_sub(known.len());
        end.is_some_and(|end| {
            let mut pairs = segments[end..].iter().zip(known);
            pairs.all(|(segment, known)| segment.eq_ignore_ascii_case(known.as_bytes()))
        })
    };
    ends_with(RECEIVE_FOR_WEBSOCKETS) || ends_with(MISSED_FOR_WEBSOCKETS)
}

/// Nothing else needs to be taken apart.
const COMMON_PART: &[u8] = b"_for_websockets";

/// The path with its escapes decoded, once.
fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let escaped = match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(byte));
        rest = &after[if escaped.is_some() { 2 } else { 0 }..];
    }
    decoded
}

/// `true` if a stored `url` leads to the websockets of a broadcaster but is spelled otherwise.
/// `own` is the url of this broadcaster.
pub(crate) fn is_another_spelling(url: &SubscriberUrl, own: &SubscriberUrl) -> bool {
    if url == own || !is_for_websockets(url) {
        return false;
    }
    let is_own = || match (Endpoint::parse(url), Endpoint::parse(own)) {
        (Ok(one), Ok(other)) => one == other,
        (Err(_), _) | (_, Err(_)) => false,
    };
    !url.is_broadcaster_receiver() || is_own()
}

/// `true` if a subscriber at `url` may have `recovery` as its recovery url. The recovery urls of
/// broadcasters' websockets are reserved for them.
pub(crate) fn may_recover_at(url: &SubscriberUrl, recovery: &SubscriberUrl) -> bool {
    !is_for_websockets(recovery) || url.is_broadcaster_receiver()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn own_url_is_known_however_it_is_spelled() {
        let url = |text: &str| SubscriberUrl::new(text).unwrap();
        for text in [
            "http://127.0.0.1:3003/v1/receive_for_websockets",
            "HTTP://LocalHost.:3003/v1/receive_for_websockets#1",
            "http://[::1]/v1/missed_for_websockets",
            "https://x/pubsub/v1//receive_for_websockets?q=/x",
            "http://x/v1/%72eceive%5Ffor%5fwebsockets",
            "http://x/v1%2freceive_for_websockets",
            "http://x/v1/a/../receive_for_websockets/",
            "http://x/v1/.%2e/v1/Receive_For_WebSockets",
            "http://x\\v1\\receive_for_websockets",
        ] {
            assert!(is_for_websockets(&url(text)), "{text}");
        }
        for text in [
            "http://x/v1/receive",
            "http://x/receive_for_websockets",
            "http://x/v1/receive_for_websockets/x",
            "http://x/v1/xreceive_for_websockets",
            "http://x/?/v1/receive_for_websockets",
            "http://x/%",
            "/v1/receive_for_websockets",
        ] {
            assert!(!is_for_websockets(&url(text)), "{text}");
        }
    }
}
