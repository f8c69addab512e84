//! Messages of the stateful protocol, as they travel over a websocket.

mod message;
mod refusal;
mod url;

mod codec;

pub use message::{
    BodyHead, Configure, ConfirmConfigure, ConfirmNotify, ConfirmReceive, Continue, DisableCustom,
    EnableCustom, EnablePreset, HeaderStyle, InterestMessage, MissedMessage, Notify, Part,
    StreamPart, ToBroadcaster, ToSubscriber,
};
pub use refusal::Refusal;
pub use url::{ConnectionNonce, Counter};
