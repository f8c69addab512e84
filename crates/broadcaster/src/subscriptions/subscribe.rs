//! SUBSCRIBE: adds one subscription.

use httppubsub_proto::subscription::Subscription;
use httppubsub_store::{StoreError, Subscribed};

use crate::index::globs::GlobRefused;
use crate::subscriptions::subscriptions::Subscriptions;
use crate::subscriptions::url_policy::{self, UrlRefused};

/// A subscription is not added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubscribeError {
    #[error(transparent)]
    Url(#[from] UrlRefused),
    #[error(transparent)]
    Glob(#[from] GlobRefused),
    #[error("the url has this subscription already")]
    Existed,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Subscriptions {
    /// Adds `subscription`, unless the url has one of the same interest, whatever its recovery url.
    pub(crate) async fn subscribe(&self, subscription: Subscription) -> Result<(), SubscribeError> {
        let Subscription {
            url,
            interest,
            recovery,
        } = subscription.clone();
        url_policy::judge(&self.egress, &url, recovery.as_ref())?;
        self.glob_limits.judge(&interest)?;
        let store = self.store.clone();
        let subscribed = self.to_the_end(async move { store.subscribe(subscription).await });
        let subscribed = subscribed.await?;
        // It is there and asks for something: what failed before says nothing now.
        self.poster.reset_breaker(&url);
        match subscribed {
            Subscribed::Added => {
                tracing::debug!(subscriber = %url, %interest, "subscribed");
                Ok(())
            }
            Subscribed::Existed => Err(SubscribeError::Existed),
        }
    }
}
