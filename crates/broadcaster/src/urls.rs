//! Which urls are taken from those who subscribe.

use httppubsub_net::{Egress, Forbidden};
use httppubsub_proto::http::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::url::{Endpoint, EndpointError, SubscriberUrl};

/// Why a url is not taken. What it says does not repeat the url.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlRefused {
    #[error("nothing can be posted to {0}: its scheme is neither http nor https")]
    Scheme(Which),
    #[error("nothing can be posted to {which}")]
    Unusable { which: Which, source: EndpointError },
    #[error("the egress policy forbids {which}")]
    Forbidden { which: Which, source: Forbidden },
    #[error("{which} is where a broadcaster receives for its websockets: only that subscribes it")]
    ForWebSockets { which: Which },
}

/// Which of the two urls of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Receive,
    Recovery,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Receive => "the url",
            Self::Recovery => "the recovery url",
        })
    }
}

/// Judges the urls of one subscription.
pub(crate) fn judge(
    egress: &Egress,
    url: &SubscriberUrl,
    recovery: Option<&SubscriberUrl>,
) -> Result<(), UrlRefused> {
    judge_one(egress, url, Which::Receive)?;
    recovery.map_or(Ok(()), |url| judge_one(egress, url, Which::Recovery))
}

/// Judges the url of one that wants something no more: anybody may say so, but not on behalf of a
/// broadcaster's websockets.
pub(crate) fn judge_unsubscribe(url: &SubscriberUrl) -> Result<(), UrlRefused> {
    judge_whose(url, Which::Receive)
}

/// Judges the urls of all subscriptions of a url. One that wants none may always say so, except for
/// those of a broadcaster's websockets.
pub(crate) fn judge_set(
    egress: &Egress,
    url: &SubscriberUrl,
    set: &SubscriptionSet,
) -> Result<(), UrlRefused> {
    if set.is_empty() {
        return judge_unsubscribe(url);
    }
    judge_one(egress, url, Which::Receive)?;
    // There may be half a million of them, all with the same recovery url.
    let mut judged = None;
    for recovery in set.iter().filter_map(|(_, recovery)| recovery) {
        if judged != Some(recovery) {
            judge_one(egress, recovery, Which::Recovery)?;
            judged = Some(recovery);
        }
    }
    Ok(())
}

fn judge_one(egress: &Egress, url: &SubscriberUrl, which: Which) -> Result<(), UrlRefused> {
    let endpoint = Endpoint::parse(url).map_err(|error| match error {
        EndpointError::Scheme(_) => UrlRefused::Scheme(which),
        source => UrlRefused::Unusable { which, source },
    })?;
    judge_whose(url, which)?;
    match egress.judge_url(endpoint.origin()) {
        Ok(_) => Ok(()),
        Err(source) => Err(UrlRefused::Forbidden { which, source }),
    }
}

fn judge_whose(url: &SubscriberUrl, which: Which) -> Result<(), UrlRefused> {
    match is_for_websockets(url) {
        true => Err(UrlRefused::ForWebSockets { which }),
        false => Ok(()),
    }
}

/// Whether broadcasters receive for their websockets at urls like this one: by its path, so that it
/// does not matter by which name, address, port or prefix a broadcaster is reached, nor how any of
/// it is spelled. Broadcasters subscribe such urls themselves, in the store.
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

/// Whether a stored url leads to the websockets of a broadcaster without being spelled as that
/// broadcaster spells it; `receiver` is that of this one.
pub(crate) fn is_another_spelling(url: &SubscriberUrl, receiver: &SubscriberUrl) -> bool {
    if url == receiver || !is_for_websockets(url) {
        return false;
    }
    let is_own = || matches!((Endpoint::parse(url), Endpoint::parse(receiver)), (Ok(one), Ok(other)) if one == other);
    !url.as_str().ends_with(RECEIVE_FOR_WEBSOCKETS) || is_own()
}

/// Whether one that is subscribed at `url` may be told at `recovery` that it missed something. Where
/// broadcasters are told for their websockets only they may.
pub(crate) fn may_recover_at(url: &SubscriberUrl, recovery: &SubscriberUrl) -> bool {
    !is_for_websockets(recovery) || url.as_str().ends_with(RECEIVE_FOR_WEBSOCKETS)
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
            let refused = judge_unsubscribe(&url(text)).unwrap_err();
            assert!(!refused.to_string().contains("receive_for"), "{refused}");
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
