//! The broadcaster's end of a websocket: a file for each state, and for what waits to be sent.

mod config;
mod event;

mod await_configure;
mod compressors;
mod open;
mod outbox;
mod session;

pub use config::BroadcasterConfig;
pub use event::{BroadcasterEvent, Compressor, Delivery, InterestTicket, NotifyPart, NotifyTicket};
pub use session::BroadcasterSession;
