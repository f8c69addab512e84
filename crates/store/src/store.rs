//! What every backend can do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use httppubsub_proto::reason::chain;
use httppubsub_proto::subscription::{Interest, StrongEtag, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

/// Subscriptions and owed notices, kept.
///
/// A method that changes something returns when the change is durable, and an observer that
/// watches has been told by then. Methods may be called from anywhere at once and never block the
/// caller's thread. A failed call has changed nothing, unless its error says otherwise.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Tells `observer` of all subscriptions there are and then, in order, of every change, made
    /// through this store or by others in the same database. Returns when it knows all there are.
    /// Called once, before anything else.
    async fn watch(&self, observer: Arc<dyn Observer>) -> Result<(), StoreError>;

    /// Returns when the observer knows every change that anybody, in any process, was told is
    /// durable before this call. Callers that wait at the same time share the work.
    async fn catch_up(&self) -> Result<(), StoreError>;

    /// Why the store cannot be used now, as its latest calls found it; `None` if they succeeded.
    /// Answers at once, from memory.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Looks for trouble that no call would meet, and whether the trouble that is known is over, so that
    /// [`Store::trouble`] stays true without traffic. Called about once a second.
    async fn probe(&self) {}

    /// Adds a subscription, unless the url has one of this interest, whatever its recovery url.
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed, StoreError>;

    /// Removes a subscription and the notice that was owed to it.
    async fn unsubscribe(
        &self,
        url: SubscriberUrl,
        interest: Interest,
    ) -> Result<Unsubscribed, StoreError>;

    /// Makes the subscriptions of `url` exactly `set`, all or nothing. One that stays keeps the
    /// notice it is owed and takes the recovery url of `set`. Writes in proportion to what differs.
    async fn set(&self, url: SubscriberUrl, set: SubscriptionSet) -> Result<Changed, StoreError>;

    /// The etag of the subscriptions of `url`, in constant memory.
    async fn etag(&self, url: SubscriberUrl) -> Result<StrongEtag, StoreError>;

    /// Owes a notice to a subscription, due at `missed.due` with no attempt made. Replaces the one
    /// it is owed already, whose time it keeps if that is earlier and nobody holds it: many misses in
    /// a row must not put a notice off for ever. Does nothing for one that is gone or has no recovery
    /// url.
    async fn record_missed(&self, missed: Missed) -> Result<(), StoreError>;

    /// Takes up to `limit` notices due `now`, earliest first, that nobody holds, and holds each
    /// until it is settled or `lease` has passed.
    async fn claim_missed(
        &self,
        now: Now,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ClaimedNotice>, StoreError>;

    /// Ends the hold on a notice. Does nothing if it is not held by this claim any more: it was
    /// replaced, taken over, or its subscription is gone. The subscription itself always stays.
    async fn settle_missed(
        &self,
        notice: &ClaimedNotice,
        outcome: NoticeOutcome,
    ) -> Result<(), StoreError>;

    /// When the earliest notice that nobody holds is due, or the earliest hold ends; `None` when
    /// none is owed. It may lie in the past.
    async fn next_missed(&self) -> Result<Option<Now>, StoreError>;

    /// Keeps that a notification may be on its way, and until when that is to be believed. Replaces
    /// what is kept of the same broadcaster and topic.
    async fn record_in_flight(&self, in_flight: InFlight) -> Result<(), StoreError>;

    /// Forgets that notifications on these topics may be on their way from this broadcaster.
    async fn forget_in_flight(
        &self,
        broadcaster: SubscriberUrl,
        topics: Vec<Topic>,
    ) -> Result<(), StoreError>;

    /// What is kept of this broadcaster, and of any other what is not to be believed any more `now`;
    /// up to `limit`, in any order.
    async fn in_flight(
        &self,
        broadcaster: SubscriberUrl,
        now: Now,
        limit: usize,
    ) -> Result<Vec<InFlight>, StoreError>;

    /// Says that the broadcaster `identity` receives for its websockets at `url` from now on. What is kept
    /// of another url, at which it did so before, goes: its subscriptions are removed, and notifications
    /// in flight count as those of `url`. Returns that other url. A store whose broadcasters say that they
    /// live ([`Store::cluster`]) leaves this to [`Cluster::forget`].
    async fn move_to(
        &self,
        _identity: [u8; 16],
        _url: SubscriberUrl,
    ) -> Result<Option<SubscriberUrl>, StoreError> {
        Ok(None)
    }

    /// What broadcasters that share this store have in common besides; `None` for a store that is
    /// not made to be shared between machines.
    fn cluster(&self) -> Option<&dyn Cluster> {
        None
    }
}

/// What several broadcasters on one store know of each other. Its clock is that of the database.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Says that a broadcaster lives and will say so again within `lease`, and hears of the others. It has
    /// no effect while one of another identity lives at the same url (see [`Heard::holder`]).
    async fn alive(&self, alive: Alive, lease: Duration) -> Result<Heard, StoreError>;

    /// What is known of all broadcasters.
    async fn census(&self) -> Result<Census, StoreError>;

    /// Says that a broadcaster lives no more: it stopped in good order. Does nothing to one of another
    /// identity.
    async fn gone(&self, url: SubscriberUrl, identity: [u8; 16]) -> Result<(), StoreError>;

    /// Forgets a broadcaster, with its subscriptions for its websockets, unless it has said meanwhile
    /// that it lives; says whether it is forgotten.
    async fn forget(&self, url: SubscriberUrl) -> Result<bool, StoreError>;

    /// Spends the code of an authorization, for at least `memory`. `false`: another broadcaster has
    /// spent it.
    async fn spend(&self, code: [u8; 16], memory: Duration) -> Result<bool, StoreError>;

    /// Takes back that a code was spent.
    async fn release(&self, code: [u8; 16]) -> Result<(), StoreError>;
}

/// What a broadcaster says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Where others reach it for its websockets.
    pub url: SubscriberUrl,
    /// Tells it from others, also after it was started again.
    pub identity: [u8; 16],
    /// A random number that tells it from others, and from its earlier lives.
    pub instance: i64,
    /// Of its program.
    pub version: String,
    /// How many websockets it has.
    pub websockets: usize,
}

/// What a broadcaster hears when it says that it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What time it is in the database.
    pub now: Now,
    /// Who said last that it lives at this url, if that is not forgotten.
    pub before: Option<i64>,
    /// Who has this url, if that is another that lives.
    pub holder: Option<Seen>,
    /// All that are known, by url.
    pub broadcasters: Vec<Seen>,
}

/// What there is to know about the broadcasters of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// What time it is in the database.
    pub now: Now,
    /// Number of the newest change of subscriptions.
    pub newest: i64,
    /// How many subscriptions there are.
    pub subscriptions: u64,
    /// How many notices are owed.
    pub owed: u64,
    /// How many of them somebody holds.
    pub held: u64,
    /// All that are known, by url.
    pub broadcasters: Vec<Seen>,
}

/// A broadcaster, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where others reach it for its websockets.
    pub url: SubscriberUrl,
    /// Of its program.
    pub version: String,
    /// When it started.
    pub started: Now,
    /// When it said last that it lives.
    pub seen: Now,
    /// Until when it is believed to live.
    pub until: Now,
    /// Number of the last change of subscriptions that it knew then.
    pub known: i64,
    /// How many websockets it had then.
    pub websockets: usize,
}

/// A notification that may be on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Whose it is: the url at which this broadcaster receives for its websockets, which no other
    /// has.
    pub broadcaster: SubscriberUrl,
    /// What it is about.
    pub topic: Topic,
    /// When its broadcaster must have ended if it did not say so again. Stores keep whole seconds,
    /// rounded up.
    pub until: Now,
}

/// Is told of changes, in the order in which they became durable. Called on the store's threads:
/// it must be quick and must not call the store.
pub trait Observer: Send + Sync {
    /// What changed.
    fn observe(&self, changes: &[Change]);
}

/// One change of the subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All that is there follows as [`Change::Added`], in any number of calls, up to
    /// [`Change::ReloadEnded`]; what does not come is not there any more.
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
        /// Whose.
        url: SubscriberUrl,
        /// Which.
        interest: Interest,
    },
}

/// What became of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribed {
    /// It was added.
    Added,
    /// It was there; nothing changed.
    Existed,
}

/// What became of an UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubscribed {
    /// It was removed.
    Removed,
    /// It was not there; nothing changed.
    Absent,
}

/// How much a SET changed, in subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// New ones.
    pub added: u64,
    /// Ones that were not in the set.
    pub removed: u64,
    /// Ones whose recovery url is another now.
    pub updated: u64,
}

/// A notice to be owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// To whom.
    pub url: SubscriberUrl,
    /// For which of its subscriptions.
    pub interest: Interest,
    /// What may have been missed.
    pub topic: Topic,
    /// When it is to be sent first. Stores keep whole seconds, rounded up.
    pub due: Now,
}

/// A notice that is held by whoever claimed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedNotice {
    /// To whom.
    pub url: SubscriberUrl,
    /// For which of its subscriptions.
    pub interest: Interest,
    /// Where the notice is posted.
    pub recovery: SubscriberUrl,
    /// What may have been missed.
    pub topic: Topic,
    /// How many were sent already, from 0.
    pub attempts: u32,
    /// Tells this hold from later ones.
    pub lock: i64,
}

/// What became of a claimed notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeOutcome {
    /// It was accepted, or it is given up: nothing is owed any more.
    Done,
    /// It is to be sent again.
    Retry {
        /// How many were sent by now.
        attempts: u32,
        /// When the next is due.
        due: Now,
    },
}

/// Why a store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be used now: locked, full, unreachable, or failing. The call may be repeated.
    #[error("the store cannot be used now: {doing}: {}", chain(&**.source))]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        r#source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database was written by a newer version of this program.
    #[error(
        "the database has schema version {found}, this program knows up to {known}: use the newer program"
    )]
    NewerSchema {
        /// Of the database.
        found: i64,
        /// Of this program.
        known: i64,
    },
    /// The database holds something that cannot be there.
    #[error("the database holds something that cannot be there: {0}")]
    Corrupt(String),
    /// The database server cannot do what is needed.
    #[error("the database cannot be used: {0}")]
    Unsupported(String),
    /// The url of the database cannot be used.
    #[error("{}", chain(&**.0))]
    Address(Box<dyn std::error::Error + Send + Sync>),
}
