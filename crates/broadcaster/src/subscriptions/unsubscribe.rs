//! UNSUBSCRIBE: removes one subscription.

use httppubsub_proto::subscription::Interest;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{StoreError, Unsubscribed};

use crate::subscriptions::subscriptions::Subscriptions;
use crate::subscriptions::url_policy::{self, UrlRefused};

/// A subscription is not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnsubscribeError {
    #[error(transparent)]
    Url(#[from] UrlRefused),
    #[error("the url has no such subscription")]
    Absent,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Subscriptions {
    /// Removes the subscription of `url` to `interest`.
    pub(crate) async fn unsubscribe(
        &self,
        url: &SubscriberUrl,
        interest: &Interest,
    ) -> Result<(), UnsubscribeError> {
        // Its egress is not judged: what may not be posted to may still be unsubscribed.
        url_policy::judge_unsubscribe(url)?;
        let (store, row) = (self.store.clone(), (url.clone(), interest.clone()));
        let unsubscribed = self.to_the_end(async move { store.unsubscribe(row.0, row.1).await });
        match unsubscribed.await? {
            Unsubscribed::Removed => {
                tracing::debug!(subscriber = %url, %interest, "unsubscribed");
                Ok(())
            }
            Unsubscribed::Absent => Err(UnsubscribeError::Absent),
        }
    }
}
