//! Heads and replies of the stateless protocol, in both directions.

mod answer;
mod delivery;
mod request;
mod trace;

pub use answer::{
    CheckResponse, ConfirmMissed, ConfirmReceive, GenericResponse, NotifyResponse, ReceiveAnswer,
    UNSUBSCRIBE_IMMEDIATE,
};
pub use delivery::{MissedHead, ReceiveHead};
pub use request::{
    CheckRequest, HEAD_BYTES_MAX, InterestKind, NotifyHead, SetHead, SetListsError,
    SubscribeRequest, UnsubscribeRequest, decode_set_lists, decode_set_lists_with,
    encode_set_lists,
};
pub use trace::NotifyTrace;
