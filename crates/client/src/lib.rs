//! The httppubsub client: subscribes at broadcasters, receives what they post, notifies others.

mod body;
mod config;
mod error;
mod message;

mod dispatch;
mod inbox;
mod wanted;

mod http;
mod ws;

mod changes;
mod core;
mod reconcile;

mod client;
mod feed;
mod subscription;
mod subscriptions_of;

pub use body::NotifyBody;
pub use client::{Client, Notified, Statuses};
pub use config::{
    Bind, BroadcasterAddress, ClientConfig, ClientConfigBuilder, ConfigError, PresetDictionary,
    WebSocketOptions,
};
pub use error::{
    AttemptError, CloseError, NotifyError, RequestError, StartError, SubscribeError,
    UnsubscribeError,
};
pub use feed::Feed;
pub use inbox::Receiving;
pub use message::{ConnectionStatus, Message};
pub use subscription::{Ended, Interests, Subscription, WithTimeout};
pub use subscriptions_of::SubscriptionsOf;

pub use httppubsub_proto::glob::GlobPattern;
pub use httppubsub_proto::subscription::Interest;
pub use httppubsub_proto::topic::Topic;
