//! Publish/subscribe over HTTP and websockets.
//!
//! A *subscriber* tells a *broadcaster* which topics it wants, one by one or by a glob such as
//! `builds/*`. A *publisher* notifies the broadcaster of a message; the broadcaster delivers it to
//! every subscriber that matches, and answers the publisher with the number of subscribers that
//! confirmed. A subscriber that could not be reached learns that it missed something.
//!
//! ```text
//!  publisher                    broadcaster                      subscriber
//! +---------+                  +-----------------------+        +--------------+
//! | Client  | -- notify -----> |                       | -----> | Client       |
//! |         | <- 3 confirmed - |  Broadcaster          |        | Subscription | over HTTP
//! +---------+                  |    subscriptions in   |        +--------------+
//!                              |    store: memory,     |        +--------------+
//!                              |    SQLite, PostgreSQL | -----> | Client       |
//!                              |                       |        | Subscription | over a websocket
//!                              +-----------------------+        +--------------+
//!                                 ^ a program of its own (`httppubsub serve`),
//!                                   or mounted in an axum app of yours
//! ```
//!
//! # A subscriber
//!
//! ```no_run
//! use httppubsub::Client;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::connect("http://127.0.0.1:3003").await?;
//!     let mut builds = client.subscribe_glob("builds/*").await?;
//!     builds.on_gap(|_| async { println!("reading the state of all builds anew") });
//!     while let Some(message) = builds.next().await {
//!         println!("{}: {:?}", message.topic, message.bytes().await?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # A publisher
//!
//! ```no_run
//! # async fn example(client: httppubsub::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let notified = client.notify("builds/7", "ready").await?;
//! println!("{} subscribers confirmed", notified.subscribers);
//! # Ok(())
//! # }
//! ```
//!
//! # A broadcaster
//!
//! `httppubsub serve` of the package `httppubsub-cli` is one. In a program of yours, with the
//! features `broadcaster` and `sqlite`:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "sqlite")] {
//! use std::sync::Arc;
//! use httppubsub::{Broadcaster, store::SqliteStore};
//! use tokio::net::TcpListener;
//!
//! let store = Arc::new(SqliteStore::open("subscriptions.db").await?);
//! let broadcaster = Broadcaster::builder(store)
//!     .secrets_file("broadcaster-secrets.json")
//!     .build()
//!     .await?;
//! let listener = TcpListener::bind("127.0.0.1:3003").await?;
//! let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
//! broadcaster.serve_until(listener, ctrl_c).await;
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | default | what it adds | needs |
//! |---|---|---|---|
//! | `client` | yes | [`Client`]: subscribe, receive, notify | |
//! | `tls` | yes | broadcasters whose urls begin with `https` or `wss` | |
//! | `websocket` | yes | `Client::connect`, one connection for everything | a C compiler (zstd) |
//! | `broadcaster` | | `Broadcaster`, to serve or mount, with TLS and websockets | a C compiler |
//! | `sqlite` | | `store::SqliteStore`: one file | a C compiler |
//! | `postgres` | | `store::PostgresStore`: broadcasters on many machines | PostgreSQL 15 |
//! | `conformance` | | the contract of stores as tests, for a store of yours | |
//!
//! A client alone, without TLS, websockets and stores, is
//! `httppubsub = { version = "0.1", default-features = false, features = ["client"] }`.
//!
//! # In scope
//!
//! - At-most-once delivery to everybody who wants a topic, with an account of each: confirmed, owed
//!   a notice that something was missed, or missed for good.
//! - Messages larger than memory, at both ends.
//! - Authorization in both directions, by HMAC, token, or a scheme of yours
//!   ([`auth::Authorization`]).
//! - Reconnection, failing over to other broadcasters, several broadcasters on one database.
//! - Bounds on everything that waits, and a share of it for each party.
//!
//! # Out of scope
//!
//! - A queue: messages are not stored for a subscriber that is away.
//! - An order between messages of different publishers, consumer groups, exactly-once processing.
//! - A runtime: everything runs on tokio.
//!
//! # Errors
//!
//! Each operation has its own error type. The text of an error (`{error}`) names its causes down to
//! the last one, so `{error:#}` says the same, and reports that append causes repeat nothing.
//! `is_ambiguous` of an error of the client is `true` if the operation may have been done.
//!
//! # Where to look
//!
//! - The types of every day are here at the top; [`client`] and [`broadcaster`] have all of theirs,
//!   with their settings.
//! - `examples/` has a program of at most 60 lines for each task.
//! - [`testing`] has what the tests of your program need, with and without a broadcaster.
//! - `docs/guarantees.md` of the repository says what is promised when something fails.
#![cfg_attr(
    not(all(feature = "client", feature = "broadcaster")),
    allow(rustdoc::broken_intra_doc_links)
)]

#[cfg(feature = "client")]
pub use httppubsub_client::{
    Bind, Client, ClientConfig, Message, Notified, NotifyBody, Receiving, Subscription,
};

#[cfg(feature = "broadcaster")]
pub use httppubsub_broadcaster::Broadcaster;

pub use httppubsub_proto::auth::Secrets;
pub use httppubsub_proto::glob::GlobPattern;
pub use httppubsub_proto::subscription::Interest;
pub use httppubsub_proto::topic::Topic;

/// The client in full: its settings, errors, and the types that they name.
#[cfg(feature = "client")]
pub mod client {
    pub use httppubsub_client::*;
}

/// The broadcaster in full: its settings, errors, and the types that they name.
#[cfg(feature = "broadcaster")]
pub mod broadcaster {
    pub use httppubsub_broadcaster::*;
}

/// The places where a broadcaster keeps its subscriptions, and their contract, for a store of
/// yours.
#[cfg(feature = "broadcaster")]
pub mod store {
    pub use httppubsub_proto::subscription::{
        Interest, NotAscending, StrongEtag, StrongEtagHasher, Subscription, SubscriptionSet,
    };
    pub use httppubsub_proto::time::Now;
    pub use httppubsub_proto::topic::Topic;
    pub use httppubsub_proto::url::SubscriberUrl;
    pub use httppubsub_store::*;
}

/// Authorization: secrets, the schemes there are, and what a scheme of yours is made of.
pub mod auth {
    pub use httppubsub_net::{Clock, SecretsFileError, read_secrets};
    pub use httppubsub_proto::auth::*;
    pub use httppubsub_proto::time::Now;
}

/// The places that may be connected to: the policy that every address is held to.
pub mod egress {
    pub use httppubsub_net::egress::*;
    pub use httppubsub_proto::url::Origin;
}

/// The content of messages, and the bounds on what it may take of memory, disk and time.
pub mod body {
    pub use httppubsub_net::body::{
        BodyLimits, NoRoom, Payload, PayloadReader, Reservation, Spool, SpoolConfig,
    };
    pub use httppubsub_proto::digest::Sha512;
}

/// The settings and errors of requests to peers.
pub mod outbound {
    pub use httppubsub_net::outbound::{
        BreakerConfig, BreakerRejection, PostConfig, PostError, UnprovenLimits,
    };
    pub use httppubsub_proto::url::Origin;
}

/// The settings of listeners.
pub mod inbound {
    pub use httppubsub_net::inbound::{ReplayGuardError, ServeConfig, ServeCounts};
}

/// Aids for tests: messages by hand without a broadcaster, and a broadcaster in memory.
pub mod testing {
    #[cfg(feature = "broadcaster")]
    pub use httppubsub_broadcaster::testing::*;
    #[cfg(feature = "client")]
    pub use httppubsub_client::testing::*;
}
