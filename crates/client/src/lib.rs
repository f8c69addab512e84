//! The httppubsub client: subscribes at broadcasters, receives what they deliver, notifies others.
//!
//! A *broadcaster* keeps subscriptions and hands each notification to all subscribers that match
//! its topic. A [`Client`] is one program's end of that: it may publish, subscribe, or both.
//!
//! ```text
//!  your program                    broadcaster                    other subscribers
//! +--------------+   notify       +-------------+   deliver      +----------------+
//! |   Client     | -------------> |             | -------------> |                |
//! |              |   subscribe    |   topics    |                +----------------+
//! |              | -------------> |             |
//! | Subscription | <------------- |             |
//! +--------------+   deliver      +-------------+
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use httppubsub_client::Client;
//!
//! let client = Client::connect("http://127.0.0.1:3003").await?;
//! let mut builds = client.subscribe_glob("builds/*").await?;
//! client.notify("builds/7", "ready").await?;
//! while let Some(message) = builds.next().await {
//!     println!("{}: {:?}", message.topic, message.bytes().await?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Transports
//!
//! - **A websocket** ([`Client::connect`], [`ClientConfigBuilder::websocket`]): the client holds
//!   one connection open, so nobody needs to reach it. When the connection is lost, everything is
//!   subscribed again on the next one, and each subscription learns that it may have a gap.
//! - **HTTP** ([`Bind::To`]): the client listens, and broadcasters post to it. Subscriptions
//!   outlive the connection, and a broadcaster tells what was missed.
//! - **A server of yours** ([`Bind::Mounted`]): the same, on the paths of [`Client::router`].
//! - **None** ([`Bind::Nothing`]): the client only notifies.
//!
//! # Delivery
//!
//! [`Client::notify`] returns when the broadcaster has the confirmations of the subscribers, and
//! says how many there are. A message is delivered at most once: what a subscriber misses is not
//! sent again; it hears of the gap, and [`Subscription::on_gap`] runs. That is the
//! place to read anew what the messages are about. `docs/guarantees.md` has the promises in full.
//!
//! # Features
//!
//! | feature (both are on by default) | what it adds |
//! |---|---|
//! | `tls` | broadcasters whose urls begin with `https` or `wss` |
//! | `websocket` | [`Client::connect`] and [`ClientConfigBuilder::websocket`]; needs a C compiler |
//!
//! # Errors
//!
//! Each operation has its own error. `is_ambiguous` of an error is `true` if the operation may have
//! been done all the same; a notification that is repeated then may arrive twice. The text of an
//! error ends with its cause.
//!
//! # In scope
//!
//! - Reconnecting, reconciling what broadcasters hold with what the program wants, failing over to
//!   the next broadcaster.
//! - Bodies of any length: large ones are read from and written to files.
//! - Authorization by HMAC or token ([`ClientConfigBuilder::secrets_file`]), or by a scheme of
//!   yours ([`Authorization`]).
//!
//! # Out of scope
//!
//! - Messages that wait for a subscriber that is not there: nothing is stored for later.
//! - An order between topics, and exactly-once processing.
//! - A runtime: a client needs tokio, and stops when the runtime that it was started in ends.
//!
//! Tests of a program that uses this crate need no broadcaster: see [`testing`].

mod config;
mod desired;
mod error;

mod receive;
mod requests;
mod websocket;

mod state;
mod statuses;
mod subscriptions;

mod client;

pub mod plain;
pub mod testing;

pub use client::{Client, Notified, Router};
pub use config::{Bind, BroadcasterAddress, ClientConfig, ClientConfigBuilder, ConfigError};
#[cfg(feature = "websocket")]
pub use config::{PresetDictionary, WebSocketConfig};
pub use error::{
    AttemptError, CloseError, NotifyError, RequestError, StartError, SubscribeError,
    UnsubscribeError,
};
pub use receive::inbox::{EndReason, Event, Receiving};
pub use receive::message::{ConnectionStatus, Message};
pub use requests::body::NotifyBody;
pub use statuses::Statuses;
pub use subscriptions::admin::SubscriptionsAdmin;
pub use subscriptions::subscription::{
    Interests, Subscription, SubscriptionEndedError, WithTimeout,
};

// Types of other crates that this API names.
pub use bytes::Bytes;
pub use http::StatusCode;
#[cfg(feature = "websocket")]
pub use httppubsub_net::body::DecompressLimits;
pub use httppubsub_net::body::{BodyLimits, Payload, PayloadReader, SpoolConfig};
pub use httppubsub_net::egress::{Egress, EgressConfig, EgressProfile};
pub use httppubsub_net::inbound::ServeConfig;
pub use httppubsub_net::outbound::{PostConfig, PostError};
pub use httppubsub_net::{Clock, SecretsFileError, read_secrets};
pub use httppubsub_proto::auth::{
    AuthError, Authorization, HmacAuthorization, NoAuthorization, Scheme, Secrets, SecretsError,
    TokenAuthorization,
};
pub use httppubsub_proto::digest::Sha512;
pub use httppubsub_proto::glob::{GlobPattern, GlobTooLong};
pub use httppubsub_proto::number::{Line, Number};
pub use httppubsub_proto::stateful::HeaderStyle;
pub use httppubsub_proto::subscription::{Interest, StrongEtag, SubscriptionSet};
pub use httppubsub_proto::time::Now;
pub use httppubsub_proto::topic::{Topic, TopicTooLong};
pub use httppubsub_proto::url::{EndpointError, SubscriberUrl, UrlTooLong};
pub use httppubsub_proto::wire::DecodeError;
