//! The use cases behind the endpoints.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::delivery::forwarded::Forwarded;
use crate::http::plain::PlainDoor;
use crate::http::reception::Reception;
use crate::hub::session_places::SessionPlaces;
use crate::notify::notify::Notify;
use crate::observe::refusals::Refusals;
use crate::readiness::Readiness;
use crate::subscriptions::subscriptions::Subscriptions;
use crate::websocket::sessions::Sessions;

/// What the endpoints of a broadcaster call. A handler passes on no more of it than what its
/// request is for.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// Begins every request that has a body.
    pub(crate) reception: Reception,
    /// The use case NOTIFY.
    pub(crate) notify: Arc<Notify>,
    /// Tokens and idempotency keys.
    pub(crate) plain: PlainDoor,
    /// The use cases SUBSCRIBE, UNSUBSCRIBE, CHECK and SET.
    pub(crate) subscriptions: Subscriptions,
    /// Hands on messages and notices that other broadcasters post for websockets of this one.
    pub(crate) forwarded: Forwarded,
    /// Has what a websocket session needs.
    pub(crate) sessions: Arc<Sessions>,
    /// Bounds the number of websockets.
    pub(crate) places: Arc<SessionPlaces>,
    /// Answers `/readyz`.
    pub(crate) readiness: Arc<Readiness>,
    /// Sessions run here, beside the requests that began them.
    pub(crate) tasks: TaskTracker,
    /// Refused requests, in the log once a second.
    pub(crate) refusals: Refusals,
}
