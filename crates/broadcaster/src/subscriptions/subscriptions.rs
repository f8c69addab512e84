//! Subscriptions of urls, as requests may change them.

use std::sync::Arc;

use httppubsub_net::egress::Egress;
use httppubsub_net::outbound::Poster;
use httppubsub_proto::subscription::StrongEtag;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{Store, StoreError};
use tokio_util::task::TaskTracker;

use crate::index::globs::GlobLimits;

/// The use cases SUBSCRIBE, UNSUBSCRIBE, CHECK and SET, a file each. Every door calls them with
/// what it has decoded and authorized.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    /// Keeps the subscriptions; the index hears of changes from it.
    pub(crate) store: Arc<dyn Store>,
    /// Told of a url that asks for something: its circuit breaker is reset.
    pub(crate) poster: Poster,
    /// The policy by which urls are judged.
    pub(crate) egress: Egress,
    /// Limits of globs that may be subscribed.
    pub(crate) glob_limits: GlobLimits,
    /// Changes are tasks of the broadcaster: it stops after them.
    pub(crate) tasks: TaskTracker,
}

impl Subscriptions {
    /// CHECK: the strong etag of all subscriptions of `url`.
    pub(crate) async fn check(&self, url: &SubscriberUrl) -> Result<StrongEtag, StoreError> {
        let etag = self.store.etag(url.clone()).await?;
        self.poster.reset_breaker(url);
        Ok(etag)
    }

    /// Runs `change` to its end even if the peer goes away: it is done, or it is not, but it is not
    /// half done.
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self.tasks.spawn(change).await;
        done.expect("the store does not panic in its caller's task")
    }
}
