//! One delivery to one subscriber.
//!
//! - [`deliver`] goes by the route of a row: to the hub, or through `net::outbound::Poster`, whose
//!   circuit breaker it asks before and tells after.
//! - [`verdict`] says what the answer to a RECEIVE means.
//! - [`quarantine`] keeps a subscription of which somebody said that it is not wanted, over a
//!   connection that does not tell who said so.
//! - [`egress_log`] tells the operator which subscribed peers the egress policy forbids.
//!
//! [`forwarded`] is the other end of that: deliveries that other broadcasters post for websockets
//! of this one.
//!
//! Nothing is recorded or removed here: a verdict is all that comes out.

pub(crate) mod deliver;
pub(crate) mod egress_log;
pub(crate) mod forwarded;
pub(crate) mod quarantine;
pub(crate) mod verdict;
