//! The urls that are taken from subscribers, by the egress policy and by what they are for.
//!
//! A url is judged here by what it says, so that a subscriber hears at once that nothing would ever
//! be delivered. What its name resolves to is judged again with every connection
//! (`net::egress::dial`): a name may lead elsewhere later.

use httppubsub_net::egress::{Egress, Forbidden};
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::url::{Endpoint, EndpointError, SubscriberUrl};

use crate::index::reserved_urls::is_for_websockets;

/// A url is not taken. The words do not repeat the url.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlRefused {
    /// Something other than http or https.
    #[error("nothing can be posted to {0}: its scheme is neither http nor https")]
    Scheme(UrlRole),
    /// The url is malformed.
    #[error("nothing can be posted to {role}")]
    Unusable {
        role: UrlRole,
        source: EndpointError,
    },
    /// The operator does not want anything to be posted there.
    #[error("the egress policy forbids {role}")]
    Forbidden { role: UrlRole, source: Forbidden },
    /// Such urls are subscribed by broadcasters, in the store, and by nobody else.
    #[error("{role} is where a broadcaster receives for its websockets: only that subscribes it")]
    ForWebSockets { role: UrlRole },
}

/// The part that a url has in a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UrlRole {
    /// Messages are posted to it.
    Receive,
    /// Notices are posted to it.
    Recovery,
}

impl std::fmt::Display for UrlRole {
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
    judge_one(egress, url, UrlRole::Receive)?;
    recovery.map_or(Ok(()), |url| judge_one(egress, url, UrlRole::Recovery))
}

/// Judges the url of one that wants something no more: anybody may say so, but not on behalf of a
/// broadcaster's websockets.
pub(crate) fn judge_unsubscribe(url: &SubscriberUrl) -> Result<(), UrlRefused> {
    judge_whose(url, UrlRole::Receive)
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
    judge_one(egress, url, UrlRole::Receive)?;
    // There may be half a million of them, all with the same recovery url.
    let mut judged = None;
    for recovery in set.iter().filter_map(|(_, recovery)| recovery) {
        if judged != Some(recovery) {
            judge_one(egress, recovery, UrlRole::Recovery)?;
            judged = Some(recovery);
        }
    }
    Ok(())
}

/// Judges one url that is to be posted to.
fn judge_one(egress: &Egress, url: &SubscriberUrl, role: UrlRole) -> Result<(), UrlRefused> {
    let endpoint = Endpoint::parse(url).map_err(|error| match error {
        EndpointError::Scheme(_) => UrlRefused::Scheme(role),
        source => UrlRefused::Unusable { role, source },
    })?;
    judge_whose(url, role)?;
    match egress.judge_url(endpoint.origin()) {
        Ok(_) => Ok(()),
        Err(source) => Err(UrlRefused::Forbidden { role, source }),
    }
}

/// Refuses urls that are reserved for broadcasters.
fn judge_whose(url: &SubscriberUrl, role: UrlRole) -> Result<(), UrlRefused> {
    match is_for_websockets(url) {
        true => Err(UrlRefused::ForWebSockets { role }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn a_refusal_does_not_repeat_the_url() {
        let url = SubscriberUrl::new("http://[::1]/v1/missed_for_websockets").unwrap();
        let refused = judge_unsubscribe(&url).unwrap_err();
        assert!(!refused.to_string().contains("missed_for"), "{refused}");
    }
}
