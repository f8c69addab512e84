//! Topics of which notifications may be on their way, kept for the case that a broadcaster is
//! killed.

use async_trait::async_trait;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::error::StoreError;

/// The topics in flight that a store remembers, by broadcaster.
#[async_trait]
pub trait InFlight: Send + Sync {
    /// Keeps that a notification may be on its way, and until when that is to be believed. Replaces
    /// what is kept of the same broadcaster and topic.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]: after a kill nobody would know of the notification, so it must
    /// not be begun.
    async fn record_in_flight(&self, in_flight: TopicInFlight) -> Result<(), StoreError>;

    /// Forgets that notifications on these topics may be on their way from this broadcaster.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]. The entries stay until they expire, and count as missed then.
    async fn forget_in_flight(
        &self,
        broadcaster: SubscriberUrl,
        topics: Vec<Topic>,
    ) -> Result<(), StoreError>;

    /// The topics in flight of this broadcaster, and those of all others that have expired `now`;
    /// up to `limit`, in any order.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the store cannot be read now.
    async fn in_flight(
        &self,
        broadcaster: SubscriberUrl,
        now: Now,
        limit: usize,
    ) -> Result<Vec<TopicInFlight>, StoreError>;
}

/// A notification that may be on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInFlight {
    /// The url at which its broadcaster receives for its websockets, which no other broadcaster
    /// has.
    pub broadcaster: SubscriberUrl,
    /// The topic of the notification.
    pub topic: Topic,
    /// The time after which the entry has expired, unless it was renewed. Stores keep whole
    /// seconds, rounded up.
    pub until: Now,
}
