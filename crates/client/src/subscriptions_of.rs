//! The subscriptions of another program, one that cannot look after them itself.

use std::sync::Arc;

use httppubsub_net::{Poster, ReplayGuard};
use httppubsub_proto::subscription::{Interest, StrongEtag, SubscriptionSet};
use httppubsub_proto::url::{ClientUrls, SubscriberUrl};

use crate::config::ClientConfig;
use crate::error::RequestError;
use crate::http::{Network, Requests, Told};

/// What broadcasters hold for one url, asked and changed directly.
#[derive(Debug)]
pub struct SubscriptionsOf {
    requests: Requests,
    urls: ClientUrls,
}

impl SubscriptionsOf {
    /// The subscriptions of `url` at the broadcasters that `config` names. Those that are added are
    /// told at `recovery`, if there is one, that they may have missed something. Must be called
    /// inside a tokio runtime.
    pub fn new(config: &ClientConfig, url: SubscriberUrl, recovery: Option<SubscriberUrl>) -> Self {
        let guard = Arc::new(ReplayGuard::in_memory(config.replay_codes_max));
        let network = Network::new(Poster::new(config.post.clone()), &config.broadcasters);
        let network = network.expect("the urls can be posted to: `build` checks it");
        // On the wire, none and an empty one are the same.
        let none = || SubscriberUrl::new("").expect("an empty url is not too long");
        let recovery = recovery.unwrap_or_else(none);
        Self {
            requests: Requests::new(network, config, guard, rand::random),
            urls: ClientUrls {
                receive: url,
                recovery,
            },
        }
    }

    /// Whose subscriptions these are.
    pub fn url(&self) -> &SubscriberUrl {
        &self.urls.receive
    }

    /// The etag of all of them.
    pub async fn etag(&self) -> Result<StrongEtag, RequestError> {
        self.requests.check(&self.urls).await
    }

    /// Makes them exactly `set`.
    pub async fn set(&self, set: &SubscriptionSet) -> Result<(), RequestError> {
        self.requests.set(&self.urls, set).await
    }

    /// Adds one. Returns `true` if it was added, and `false` if a broadcaster says that it was
    /// there already: then nothing was changed, and its recovery url may be another.
    pub async fn add(&self, interest: &Interest) -> Result<bool, RequestError> {
        let told = self.requests.subscribe(&self.urls, interest).await?;
        Ok(is_new(told))
    }

    /// Removes one. Returns `true` if it was removed, and `false` if a broadcaster says that it was
    /// not there.
    pub async fn remove(&self, interest: &Interest) -> Result<bool, RequestError> {
        let told = self.requests.unsubscribe(&self.urls, interest).await?;
        Ok(is_new(told))
    }
}

/// `true` if the request changed something, or if an attempt whose answer was lost did.
fn is_new(told: Told) -> bool {
    match told {
        Told::Done | Told::BecameSo => true,
        Told::WasSo => false,
    }
}
