//! Input and output for both ends of httppubsub: the clock, message bodies, requests to peers,
//! connections from peers, and websockets. The protocol itself is in `httppubsub-proto`, which
//! touches nothing of the world; the broadcaster and the client are in crates of their own, which
//! use this one.
//!
//! Everything here has a bound: on bytes, on time, on how many at once, and on what a single peer
//! may take of what all share. What happens at a bound is part of the documentation of each item.
//!
//! ```text
//!              posting to peers                             being posted to
//!
//!       outbound::Poster                              inbound::serve
//!         limits, breakers, kept connections            accept loop, deadlines, shares
//!            |                                             |
//!            v                                             v
//!       egress::Egress, resolve                       inbound::receive, ReplayGuard
//!         rules, names, TLS; one dial                   head, authorization, body
//!            |                                             |
//!            +------------------+          +---------------+
//!                               v          v
//!                      body::Payload, Spool, Zstd
//!                        memory or a nameless file, within one budget
//!
//!       websocket::Socket is a connection of either side, within the same bounds.
//! ```
//!
//! # Modules
//!
//! - [`body`]: a message's bytes. [`body::Payload`] is a body whose length and SHA-512 were
//!   checked; [`body::Spool`] is the budget of memory and disk that all bodies take from.
//! - [`egress`]: where this program may connect to. Every address is judged where the connection is
//!   made; a name is resolved once for each connection, and what was judged is what is connected
//!   to.
//! - [`outbound`]: [`outbound::Poster`] posts a request to a peer and returns the response. Each
//!   peer has its own concurrency limit, circuit breaker and kept connections.
//! - [`inbound`]: [`inbound::serve`] is the accept loop, [`inbound::receive`] takes one RECEIVE,
//!   and [`inbound::ReplayGuard`] makes sure that an authorization counts once, also after a
//!   restart.
//! - [`websocket`]: [`websocket::Socket`], a websocket with deadlines and bounds on memory.
//!
//! # In scope
//!
//! - Everything that waits for the network, for a disk or for the clock.
//! - Bounds and shares: who may hold how much, and who makes room when there is none.
//! - HTTP/1.1 and websocket framing, TLS, name look-ups.
//!
//! # Out of scope
//!
//! - The meaning of a message, a subscription or a topic beyond the head that carries it.
//! - Routes and status codes of the broadcaster, and retries of a client.
//! - HTTP/2, redirects and proxies: a redirect would lead past the egress policy.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `tls` | connections to urls that begin with `https` or `wss` |
//! | `websocket` | the module `websocket`, and compression of bodies, which only websockets know |
//!
//! # Example
//!
//! ```
//! use httppubsub_net::outbound::{PostConfig, Poster};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let poster = Poster::new(PostConfig::default());
//! let target = poster.target_str("http://hooks.example:8080/v1/receive")?;
//! assert_eq!(target.origin().port, 8080);
//! assert_eq!(poster.load().under_way, 0);
//! # Ok(())
//! # }
//! ```

mod clock;
mod identity;
mod log_limit;
mod party;
mod places;
mod random;
mod secrets_file;

pub mod body;
pub mod egress;
pub mod inbound;
pub mod outbound;
#[cfg(feature = "websocket")]
pub mod websocket;

pub use clock::{Clock, SteadyClock};
pub use httppubsub_proto::error_chain::error_chain;
pub use identity::identity;
pub use log_limit::LogLimit;
pub use party::Party;
pub use places::{Place, Places, ShareTaken};
pub use random::{random_bytes, stamp};
pub use secrets_file::{SecretsFileError, read_secrets, read_secrets_with_unknown_keys};
