//! The subscriptions of another program, one that cannot look after them itself.

use std::sync::Arc;

use httppubsub_net::inbound::ReplayGuard;
use httppubsub_net::outbound::Poster;
use httppubsub_proto::subscription::{Interest, StrongEtag, SubscriptionSet};
use httppubsub_proto::url::{ClientUrls, SubscriberUrl};

use crate::config::ClientConfig;
use crate::error::RequestError;
use crate::requests::{Change, Network, Requests};

/// The subscriptions that broadcasters hold for one url, asked for and changed directly.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use httppubsub_client::{
///     Bind, ClientConfig, Interest, SubscriberUrl, SubscriptionsAdmin, Topic,
/// };
///
/// let config = ClientConfig::builder(["http://127.0.0.1:3003"])
///     .bind(Bind::Nothing)
///     .build()?;
/// let url = SubscriberUrl::new("http://10.0.0.7:8080/hook")?;
/// let admin = SubscriptionsAdmin::new(&config, url, None);
/// let was_added = admin.add(&Interest::Exact(Topic::new("orders")?)).await?;
/// # let _: bool = was_added;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SubscriptionsAdmin {
    /// By HTTP, whatever the configuration says of websockets: those have no subscriptions of
    /// others.
    requests: Requests,
    /// Of the program whose subscriptions these are.
    urls: ClientUrls,
}

impl SubscriptionsAdmin {
    /// The subscriptions of `url` at the broadcasters that `config` names. Subscriptions that are
    /// added have `recovery`, if there is one, as the url for notices of missed messages. Must be
    /// called inside a tokio runtime.
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
    ///
    /// # Errors
    ///
    /// See [`RequestError`]; likewise for all other methods.
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
fn is_new(told: Change) -> bool {
    match told {
        Change::Done | Change::BecameSo => true,
        Change::AlreadySo => false,
    }
}
