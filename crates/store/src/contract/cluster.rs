//! Broadcasters that share a store, and what they know of each other.

use std::time::Duration;

use async_trait::async_trait;
use httppubsub_proto::time::Now;
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::error::StoreError;

/// The broadcasters that share one store, and their leases. Its clock is that of the database.
///
/// ```text
///            heartbeat, every few seconds
///      +-----------------------------------+
///      v                                   |
///   member ---- leave (stopped) ----> gone |
///      |                                   |
///      | no heartbeat for `lease`          |
///      v                                   |
///   silent ---- forget, by another ---> gone, with the rows of its websockets
///      |                                   ^
///      +----- heartbeat: member again -----+
/// ```
///
/// # Errors
///
/// All methods fail with [`StoreError::Unavailable`] if the database does not answer in time. A
/// call that failed may be repeated without harm, except for [`Cluster::forget`], whose second call
/// may say `false` because the first one succeeded.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Says that a broadcaster lives and will say so again within `lease`, and hears of the others.
    /// It has no effect while one of another identity lives at the same url (see
    /// [`View::holder`]).
    async fn heartbeat(&self, heartbeat: Heartbeat, lease: Duration) -> Result<View, StoreError>;

    /// Reads all broadcasters and counts what the tables hold.
    async fn census(&self) -> Result<Census, StoreError>;

    /// Says that a broadcaster lives no more: it stopped in good order. Does nothing to one of
    /// another identity.
    async fn leave(&self, url: SubscriberUrl, identity: [u8; 16]) -> Result<(), StoreError>;

    /// Forgets a broadcaster, with its subscriptions for its websockets, unless it has said
    /// meanwhile that it lives; says whether it is forgotten.
    ///
    /// Its subscriptions stand for sessions that ended with it: kept, they would cost every
    /// notification an attempt at a url where nobody is.
    async fn forget(&self, url: SubscriberUrl) -> Result<bool, StoreError>;

    /// Spends the code of an authorization, for at least `memory`. `false`: another broadcaster has
    /// spent it.
    ///
    /// Codes that this store has spent itself are spent again without an error: its broadcaster
    /// asks only after its own replay guard has passed the code.
    async fn spend(&self, code: [u8; 16], memory: Duration) -> Result<bool, StoreError>;

    /// Takes back that a code was spent.
    ///
    /// Called when a request came to nothing (503), so that the very same request can be sent
    /// again.
    async fn release(&self, code: [u8; 16]) -> Result<(), StoreError>;
}

/// The heartbeat of a broadcaster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The url at which others reach it for its websockets.
    pub url: SubscriberUrl,
    /// Tells it from others, also after it was started again.
    pub identity: [u8; 16],
    /// A random number that tells it from others, and from its earlier lives.
    pub instance: i64,
    /// Of its program.
    pub version: String,
    /// Websockets connected to it.
    pub websockets: usize,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The time in the database.
    pub now: Now,
    /// The instance that sent the previous heartbeat of this url, unless it was forgotten.
    pub before: Option<i64>,
    /// The broadcaster that has this url, if another one lives there.
    pub holder: Option<Member>,
    /// All known broadcasters, by url.
    pub broadcasters: Vec<Member>,
}

/// The broadcasters of one store, and the size of its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// The time in the database.
    pub now: Now,
    /// Number of the newest change of subscriptions.
    pub newest: i64,
    /// Subscriptions in the store.
    pub subscriptions: u64,
    /// Notices owed.
    pub owed: u64,
    /// Notices owed that a broadcaster holds.
    pub held: u64,
    /// All known broadcasters, by url.
    pub broadcasters: Vec<Member>,
}

/// A broadcaster, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The url at which others reach it for its websockets.
    pub url: SubscriberUrl,
    /// Of its program.
    pub version: String,
    /// The time of its start.
    pub started: Now,
    /// The time of its last heartbeat.
    pub seen: Now,
    /// The end of its lease.
    pub until: Now,
    /// Number of the last change of subscriptions that it knew then.
    pub known: i64,
    /// Websockets connected to it then.
    pub websockets: usize,
}
