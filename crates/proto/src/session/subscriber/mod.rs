//! The subscriber's end of a websocket: a file for each state, and for what waits to be sent.

mod config;
mod event;

mod await_confirm;
mod open;
mod outbox;
mod session;

pub use config::SubscriberConfig;
pub use event::{Notification, ReceivePart, ReceiveTicket, SubscriberEvent};
pub use session::SubscriberSession;
