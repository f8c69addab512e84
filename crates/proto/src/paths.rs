//! The path of each request below the url of a broadcaster or of a client.

/// SUBSCRIBE_EXACT, at a broadcaster (`docs/protocol/stateless.md` §1).
pub const SUBSCRIBE_EXACT: &str = "/v1/subscribe/exact";
/// SUBSCRIBE_GLOB, at a broadcaster (`docs/protocol/stateless.md` §1).
pub const SUBSCRIBE_GLOB: &str = "/v1/subscribe/glob";
/// UNSUBSCRIBE_EXACT, at a broadcaster (`docs/protocol/stateless.md` §1).
pub const UNSUBSCRIBE_EXACT: &str = "/v1/unsubscribe/exact";
/// UNSUBSCRIBE_GLOB, at a broadcaster (`docs/protocol/stateless.md` §1).
pub const UNSUBSCRIBE_GLOB: &str = "/v1/unsubscribe/glob";
/// CHECK_SUBSCRIPTIONS, at a broadcaster (`docs/protocol/stateless.md` §1).
pub const CHECK_SUBSCRIPTIONS: &str = "/v1/check_subscriptions";
/// SET_SUBSCRIPTIONS, at a broadcaster (`docs/protocol/stateless.md` §1).
pub const SET_SUBSCRIPTIONS: &str = "/v1/set_subscriptions";
/// NOTIFY, at a broadcaster (`docs/protocol/stateless.md` §1).
pub const NOTIFY: &str = "/v1/notify";
/// Publishing by the plain door, at a broadcaster; the topic follows.
pub const TOPICS: &str = "/v1/topics/";
/// RECEIVE from a broadcaster to another one that has websocket subscribers
/// (`docs/protocol/stateless.md` §1).
pub const RECEIVE_FOR_WEBSOCKETS: &str = "/v1/receive_for_websockets";
/// MISSED from a broadcaster to another one that has websocket subscribers
/// (`docs/protocol/stateless.md` §1).
pub const MISSED_FOR_WEBSOCKETS: &str = "/v1/missed_for_websockets";
/// The upgrade to a websocket, at a broadcaster (`docs/protocol/stateful.md` §1).
pub const WEBSOCKET: &str = "/v1/websocket";
/// RECEIVE, at a client (`docs/protocol/stateless.md` §9).
pub const RECEIVE: &str = "/v1/receive";
/// MISSED, at a client (`docs/protocol/stateless.md` §9).
pub const RECOVER: &str = "/v1/recover";
