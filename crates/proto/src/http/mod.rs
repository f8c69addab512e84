//! Heads and replies of the stateless protocol, in both directions.

mod answer;
mod delivery;
mod path;
mod request;
mod trace;

pub use answer::{
    CheckResponse, ConfirmMissed, ConfirmReceive, GenericResponse, NotifyResponse, ReceiveAnswer,
    UNSUBSCRIBE_IMMEDIATE,
};
pub use delivery::{MissedHead, ReceiveHead};
pub use path::{
    CHECK_SUBSCRIPTIONS, HEAD_BYTES_MAX, MISSED_FOR_WEBSOCKETS, NOTIFY, RECEIVE,
    RECEIVE_FOR_WEBSOCKETS, RECOVER, SET_SUBSCRIPTIONS, SUBSCRIBE_EXACT, SUBSCRIBE_GLOB,
    UNSUBSCRIBE_EXACT, UNSUBSCRIBE_GLOB, WEBSOCKET,
};
pub use request::{
    CheckRequest, InterestKind, NotifyHead, SetHead, SetListsError, SubscribeRequest,
    UnsubscribeRequest, decode_set_lists, encode_set_lists,
};
pub use trace::NotifyTrace;
