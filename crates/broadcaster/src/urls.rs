//! Which urls are taken from those who subscribe.

use httppubsub_net::{Egress, Forbidden};
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

/// Judges the urls of all subscriptions of a url. Whoever wants none may always say so.
pub(crate) fn judge_set(
    egress: &Egress,
    url: &SubscriberUrl,
    set: &SubscriptionSet,
) -> Result<(), UrlRefused> {
    if set.is_empty() {
        return Ok(());
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
    match egress.judge_url(endpoint.origin()) {
        Ok(_) => Ok(()),
        Err(source) => Err(UrlRefused::Forbidden { which, source }),
    }
}
