//! All that a backend promises.

use async_trait::async_trait;
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::cluster::Cluster;
use crate::contract::error::StoreError;
use crate::contract::feed::Feed;
use crate::contract::in_flight::InFlight;
use crate::contract::notices::Notices;
use crate::contract::subscriptions::Subscriptions;

/// Subscriptions and owed notices, kept.
///
/// A method that changes something returns when the change is durable, and an observer that
/// watches has been told by then. Methods may be called from anywhere at once and never block the
/// caller's thread. A failed call has changed nothing, unless its error says otherwise.
///
/// The trait can be used as `dyn Store`, which has the methods of all parts without further
/// imports.
#[async_trait]
pub trait Store: Subscriptions + Feed + Notices + InFlight + std::fmt::Debug + 'static {
    /// The reason for which the store cannot be used now, found by its latest calls; `None` if they
    /// succeeded. Answers at once, from memory: `GET /readyz` of a broadcaster is 503 while there
    /// is trouble, and is asked about once a second by a load balancer.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Looks for trouble that no call would meet, and whether the trouble that is known is over, so
    /// that [`Store::trouble`] stays true without traffic. Called about once a second.
    async fn probe(&self) {}

    /// Says that the broadcaster `identity` receives for its websockets at `url` from now on. What
    /// is kept of another url, at which it did so before, goes: its subscriptions are removed, and
    /// notifications in flight count as those of `url`. Returns that other url. A store whose
    /// broadcasters say that they live ([`Store::cluster`]) leaves this to [`Cluster::forget`].
    async fn move_to(
        &self,
        _identity: [u8; 16],
        _url: SubscriberUrl,
    ) -> Result<Option<SubscriberUrl>, StoreError> {
        Ok(None)
    }

    /// The state that broadcasters share beside subscriptions; `None` for a store that is
    /// not made to be shared between machines.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }
}
