//! The stream of changes, for an observer that keeps a copy in memory.

use std::sync::Arc;

use async_trait::async_trait;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::error::StoreError;

/// The changes of the subscriptions of a store, told to one observer.
#[async_trait]
pub trait Feed: Send + Sync {
    /// Tells `observer` of all subscriptions there are and then, in order, of every change, made
    /// through this store or by others in the same database. Returns when it knows all there are.
    /// Called once, before anything else.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if the store cannot be read now, or `observer` panicked. It may
    /// have been told a part of the subscriptions by then; the next [`Feed::catch_up`] begins with
    /// a reload.
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError>;

    /// Returns when the observer knows every change that anybody, in any process, was told is
    /// durable before this call. Callers that wait at the same time share the work.
    ///
    /// It is called before each notification is matched, so it must be cheap when nothing has
    /// changed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if that cannot be found out now. What the observer knows may be
    /// behind then, and a notification matched by it could miss a subscriber who was acknowledged.
    async fn catch_up(&self) -> Result<(), StoreError>;
}

/// Receives changes, in the order in which they became durable. Called on the store's threads:
/// it must be quick and must not call the store.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use httppubsub_store::{Change, Feed as _, MemoryStore, Observer};
///
/// #[derive(Default)]
/// struct Count(AtomicUsize);
///
/// impl Observer for Count {
///     fn observe(&self, changes: &[Change]) {
///         self.0.fetch_add(changes.len(), Ordering::Relaxed);
///     }
/// }
///
/// let count = Arc::new(Count::default());
/// MemoryStore::new().watch(count.clone()).await?;
/// // An empty store: the reload begins and ends.
/// assert_eq!(count.0.load(Ordering::Relaxed), 2);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub trait Observer: Send + Sync {
    /// Takes in `changes`, in their order.
    fn observe(&self, changes: &[Change]);
}

/// One change of the subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All that is there follows as [`Change::Added`], in any number of calls, up to
    /// [`Change::ReloadEnded`]; what does not come has been removed.
    ReloadBegan {
        /// About how many of them are to exact topics.
        exacts: usize,
        /// About how many are to globs.
        globs: usize,
    },
    /// See [`Change::ReloadBegan`].
    ReloadEnded,
    /// A subscription was added, or it was there and has this recovery url now.
    Added(Subscription),
    /// A subscription was removed.
    Removed {
        /// The url that had it.
        url: SubscriberUrl,
        /// The interest that was removed.
        interest: Interest,
    },
}
