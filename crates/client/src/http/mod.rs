//! The stateless protocol: requests out, deliveries in.

mod order;
mod outcome;

mod ask;
mod network;
mod requests;

mod inbound;
mod router;

#[cfg(test)]
mod script;
#[cfg(test)]
mod vectors;

pub(crate) use ask::Told;
pub(crate) use inbound::Inbound;
pub(crate) use network::Network;
pub(crate) use order::pass;
pub(crate) use requests::Requests;
pub(crate) use router::router;
