//! Requests to broadcasters: their form, their order, and their repetition.

pub(crate) mod ask;
pub(crate) mod body;
pub(crate) mod network;
pub(crate) mod order;
pub(crate) mod outcome;
pub(crate) mod progress;
pub(crate) mod requests;

#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod vectors;

pub(crate) use ask::Change;
pub(crate) use network::Network;
#[cfg(feature = "websocket")]
pub(crate) use order::pass;
pub(crate) use requests::Requests;
