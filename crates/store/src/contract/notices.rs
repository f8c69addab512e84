//! Notices of missed messages that are owed to subscribers.

use std::time::Duration;

use async_trait::async_trait;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::error::StoreError;

/// The notices a store owes. Any number of broadcasters may claim them at once.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use std::time::Duration;
/// use httppubsub_proto::time::Now;
/// use httppubsub_store::{MemoryStore, NoticeOutcome, Notices as _};
///
/// let store = MemoryStore::new();
/// let now = Now::from_unix(Duration::from_secs(1_800_000_000));
/// let lease = Duration::from_secs(30);
/// for notice in store.claim_missed(now, lease, 64).await? {
///     // Post the notice to `notice.recovery`; then:
///     store.settle_missed(&notice, NoticeOutcome::Done).await?;
/// }
/// assert_eq!(store.next_missed().await?, None, "nothing is owed");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait Notices: Send + Sync {
    /// Owes a notice to a subscription, due at `missed.due` with no attempt made. Replaces the one
    /// it is owed already, whose time it keeps if that is earlier and nobody holds it: many misses
    /// in a row must not put a notice off for ever. Does nothing for one that is gone or has no
    /// recovery url.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]: the notice may not be kept, so the publisher must not get a
    /// 200, which says that every message is accounted for.
    async fn record_missed(&self, missed: Missed) -> Result<(), StoreError>;

    /// Takes up to `limit` notices due `now`, earliest first, that nobody holds, and holds each
    /// until it is settled or `lease` has passed.
    ///
    /// A claim that is not settled, because its broadcaster was killed, ends with the lease, and
    /// the notice is sent by another one: at least once, not exactly once.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]. Notices may be held all the same, until the lease ends.
    async fn claim_missed(
        &self,
        now: Now,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ClaimedNotice>, StoreError>;

    /// Ends the hold on a notice. Does nothing if it is no longer held by this claim: it was
    /// replaced, taken over, or its subscription is gone. The subscription itself always stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]. The notice is then sent again when the lease has ended.
    async fn settle_missed(
        &self,
        notice: &ClaimedNotice,
        outcome: NoticeOutcome,
    ) -> Result<(), StoreError>;

    /// The time at which the earliest notice that nobody holds is due, or the earliest hold ends;
    /// `None` when none is owed. It may lie in the past.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the store cannot be read now.
    async fn next_missed(&self) -> Result<Option<Now>, StoreError>;
}

/// A notice to be owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The url of the subscriber.
    pub url: SubscriberUrl,
    /// The interest of the subscription that missed it.
    pub interest: Interest,
    /// The topic of the message that may have been missed.
    pub topic: Topic,
    /// The time of the first attempt. Stores keep whole seconds, rounded up.
    pub due: Now,
}

/// A notice that is held by the broadcaster that claimed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedNotice {
    /// The url of the subscriber.
    pub url: SubscriberUrl,
    /// The interest of the subscription that missed it.
    pub interest: Interest,
    /// The url to which the notice is posted.
    pub recovery: SubscriberUrl,
    /// The topic of the message that may have been missed.
    pub topic: Topic,
    /// Attempts made already, from 0.
    pub attempts: u32,
    /// Tells this hold from later ones.
    pub lock: i64,
}

/// The outcome of a claimed notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeOutcome {
    /// It was accepted, or it is given up: nothing is owed from now on.
    Done,
    /// It is to be sent again.
    Retry {
        /// Attempts made by now.
        attempts: u32,
        /// The time of the next attempt.
        due: Now,
    },
}
