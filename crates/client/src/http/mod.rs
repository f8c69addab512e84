//! The stateless protocol: requests out, deliveries in.

mod ask;
mod inbound;
mod network;
mod order;
mod outcome;
mod requests;
mod router;

pub(crate) use inbound::Inbound;
pub(crate) use network::Network;
pub(crate) use requests::Requests;
pub(crate) use router::router;

#[cfg(test)]
mod script;
#[cfg(test)]
mod vectors;
