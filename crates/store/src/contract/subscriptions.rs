//! Subscriptions: which url wants which topics.

use async_trait::async_trait;
use httppubsub_proto::subscription::{Interest, StrongEtag, Subscription, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::error::StoreError;

/// The subscriptions of a store. Each change is durable, and known to the observer of the store,
/// when its call returns.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use httppubsub_proto::subscription::{Interest, SubscriptionSet};
/// use httppubsub_proto::{topic::Topic, url::SubscriberUrl};
/// use httppubsub_store::{MemoryStore, Subscriptions as _};
///
/// let store = MemoryStore::new();
/// let url = SubscriberUrl::new("http://subscriber.example/hook")?;
/// let set: SubscriptionSet = [(Interest::Exact(Topic::new("orders/new")?), None)]
///     .into_iter()
///     .collect();
/// let etag = set.etag(&url);
/// assert_eq!(store.set(url.clone(), set).await?.added, 1);
/// // A subscriber that knows its etag need not send the whole set again.
/// assert_eq!(store.etag(url).await?, etag);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Adds a subscription, unless the url has one of this interest, whatever its recovery url.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the store cannot be used now. Whether the subscription was
    /// added is then unknown to a store behind a network; adding it again is harmless.
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed, StoreError>;

    /// Removes a subscription and the notice that was owed to it.
    ///
    /// # Errors
    ///
    /// As [`Subscriptions::subscribe`]. A second attempt may say [`Unsubscribed::Absent`] because
    /// the first one succeeded.
    async fn unsubscribe(
        &self,
        url: SubscriberUrl,
        interest: Interest,
    ) -> Result<Unsubscribed, StoreError>;

    /// Makes the subscriptions of `url` exactly `set`, all or nothing. One that stays keeps the
    /// notice it is owed and takes the recovery url of `set`. Writes in proportion to what differs.
    ///
    /// Notifications that are matched meanwhile may go by the old set or by the new one, topic by
    /// topic. Of two sets of one url at the same time, one is the last and the other was there
    /// before it.
    ///
    /// # Errors
    ///
    /// As [`Subscriptions::subscribe`]: either nothing has changed or all of it has, and repeating
    /// the call gives the same result.
    async fn set(&self, url: SubscriberUrl, set: SubscriptionSet) -> Result<Changed, StoreError>;

    /// The etag of the subscriptions of `url`, in constant memory.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the store cannot be read now.
    async fn etag(&self, url: SubscriberUrl) -> Result<StrongEtag, StoreError>;
}

/// The outcome of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// It was added.
    Added,
    /// It was there; nothing changed.
    Existed,
}

/// The outcome of an UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// It was removed.
    Removed,
    /// It was not there; nothing changed.
    Absent,
}

/// The changes made by a SET, counted in subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// New ones.
    pub added: u64,
    /// Ones that were not in the set.
    pub removed: u64,
    /// Ones whose recovery url is another now.
    pub updated: u64,
}
