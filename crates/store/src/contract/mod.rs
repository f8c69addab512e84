//! The contract between a broadcaster and the backends that keep its subscriptions, a file a
//! subject.

mod error;

mod subscriptions;

mod feed;

mod notices;

mod in_flight;

mod cluster;

mod store;

pub use cluster::{Census, Cluster, Heartbeat, Member, View};
pub use error::StoreError;
pub use feed::{Change, Feed, Observer};
pub use in_flight::{InFlight, TopicInFlight};
pub use notices::{ClaimedNotice, Missed, NoticeOutcome, Notices};
pub use store::Store;
pub use subscriptions::{Changed, Subscribed, Subscriptions, Unsubscribed};
