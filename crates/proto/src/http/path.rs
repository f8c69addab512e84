//! Where each message of the stateless protocol is posted (`docs/protocol/stateless.md` §1).

/// SUBSCRIBE_EXACT.
pub const SUBSCRIBE_EXACT: &str = "/v1/subscribe/exact";
/// SUBSCRIBE_GLOB.
pub const SUBSCRIBE_GLOB: &str = "/v1/subscribe/glob";
/// UNSUBSCRIBE_EXACT.
pub const UNSUBSCRIBE_EXACT: &str = "/v1/unsubscribe/exact";
/// UNSUBSCRIBE_GLOB.
pub const UNSUBSCRIBE_GLOB: &str = "/v1/unsubscribe/glob";
/// CHECK_SUBSCRIPTIONS.
pub const CHECK_SUBSCRIPTIONS: &str = "/v1/check_subscriptions";
/// SET_SUBSCRIPTIONS.
pub const SET_SUBSCRIPTIONS: &str = "/v1/set_subscriptions";
/// NOTIFY.
pub const NOTIFY: &str = "/v1/notify";
/// RECEIVE from a broadcaster to another one that has websocket subscribers.
pub const RECEIVE_FOR_WEBSOCKETS: &str = "/v1/receive_for_websockets";
/// MISSED from a broadcaster to another one that has websocket subscribers.
pub const MISSED_FOR_WEBSOCKETS: &str = "/v1/missed_for_websockets";
/// The upgrade to a websocket.
pub const WEBSOCKET: &str = "/v1/websocket";
/// RECEIVE, at a client.
pub const RECEIVE: &str = "/v1/receive";
/// MISSED, at a client.
pub const RECOVER: &str = "/v1/recover";

/// No head is longer, in bytes: the four fields of SUBSCRIBE fit in, and so do two fields, a digest
/// and an identifier.
pub const HEAD_BYTES_MAX: usize = 4 * (65_535 + 2) + 1_024;
