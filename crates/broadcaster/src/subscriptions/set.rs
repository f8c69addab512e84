//! SET: replaces all subscriptions of a url.

use httppubsub_proto::stateless::{SetHead, SetListsError, decode_set_lists_with};
use httppubsub_proto::subscription::{StrongEtag, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::StoreError;

use crate::index::globs::GlobRefused;
use crate::index::matching_threads::Yields;
use crate::subscriptions::subscriptions::Subscriptions;
use crate::subscriptions::url_policy::{self, UrlRefused};

/// The subscriptions of a url are not replaced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetError {
    #[error(transparent)]
    Lists(#[from] NotASet),
    #[error(transparent)]
    Url(#[from] UrlRefused),
    #[error(transparent)]
    Glob(#[from] GlobRefused),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The lists of a SET are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotASet {
    #[error(transparent)]
    Lists(#[from] SetListsError),
    #[error("the lists have the etag {got}, not the one announced")]
    Etag { got: StrongEtag },
}

impl Subscriptions {
    /// Replaces all subscriptions of `url` by the set that `read` makes, on a thread where it may
    /// take its time.
    pub(crate) async fn set(
        &self,
        url: &SubscriberUrl,
        read: impl FnOnce() -> Result<SubscriptionSet, NotASet> + Send + 'static,
    ) -> Result<(), SetError> {
        let (of, egress, glob_limits) = (url.clone(), self.egress.clone(), self.glob_limits);
        // Half a million entries take a while to read and to hash.
        let judged = tokio::task::spawn_blocking(move || {
            let set = read()?;
            url_policy::judge_set(&egress, &of, &set)?;
            for (glob, _) in set.globs() {
                glob_limits.judge_glob(glob)?;
            }
            Ok::<_, SetError>(set)
        });
        let set = judged.await.expect("reading lists does not panic")?;
        // Judged as a whole before any of it is stored: a set is taken or it is not.
        let (store, of) = (self.store.clone(), url.clone());
        let changed = self.to_the_end(async move { store.set(of, set).await });
        let changed = changed.await?;
        self.poster.reset_breaker(url);
        tracing::debug!(subscriber = %url, ?changed, "set all subscriptions");
        Ok(())
    }
}

/// The set that `lists` are, which must be the one that `head` announces.
pub(crate) fn announced_set(head: &SetHead, lists: &[u8]) -> Result<SubscriptionSet, NotASet> {
    let yields = Yields::new();
    let set = decode_set_lists_with(lists, || yields.between_steps())?;
    match set.etag_with(&head.url, || yields.between_steps()) {
        etag if etag == head.etag => Ok(set),
        got => Err(NotASet::Etag { got }),
    }
}
