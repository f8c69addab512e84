//! Posting to peers: connections, limits and breakers of each.
//!
//! A delivery passes these in order. Each may end it with an error that says whether anything was
//! sent ([`PostError::nothing_sent`]):
//!
//! 1. [`Poster::admit`]: the circuit breakers of its url and of its peer, without waiting;
//! 2. [`Poster::deliver`]: a turn at its peer, then one of all turns; large messages have their
//!    own;
//! 3. a connection that is kept, or a fresh one (see [`egress`](crate::egress));
//! 4. the exchange, within a time that grows with the message; long ones are watched for a stall;
//! 5. [`Poster::record`]: what came of it moves the peer's limit and its breakers.
//!
//! A *peer* is an origin: scheme, host and port. It has a [limit](ConcurrencyLimit) on requests at
//! once that is halved under overload and grows again, a breaker, breakers of single urls, and its
//! kept connections. Peers are kept by their [`Target`]s and forgotten with the last one.
//!
//! [`Poster::post`] is for everything else (requests of clients, notices): it has no breaker.

pub(crate) mod agent;
pub(crate) mod breaker;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod error;
pub(crate) mod head;
pub(crate) mod limit;
pub(crate) mod peer;
pub(crate) mod peers;
pub(crate) mod poster;
pub(crate) mod request;
pub(crate) mod target;
pub(crate) mod url_breakers;

pub use breaker::{BreakerConfig, BreakerRejection, Probe, UnprovenLimits};
pub use config::{PostConfig, allowance};
pub use connection::Response;
pub use error::{PeerSignal, PostError};
pub use limit::{ConcurrencyLimit, Permit};
pub use peer::is_large;
pub use poster::{Admitted, PostLoad, Poster};
pub use request::{Post, repr_digest};
pub use target::Target;
