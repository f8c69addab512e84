//! The websocket state machines of both ends, without any I/O: one input, then poll outputs
//! (`docs/protocol/stateful.md`).

mod assembly;
mod compressors;
mod cut;
mod error;
mod ordered;
mod output;

mod broadcaster;
mod subscriber;

pub use broadcaster::{
    BroadcasterConfig, BroadcasterEvent, BroadcasterSession, Compressor, Delivery, InterestTicket,
    NotifyPart, NotifyTicket,
};
pub use compressors::CompressorSizes;
pub use error::SessionError;
pub use output::{Nonces, Outgoing, OutgoingBody, Output, StreamCounters};
pub use subscriber::{
    Notification, ReceivePart, ReceiveTicket, SubscriberConfig, SubscriberEvent, SubscriberSession,
};
