//! Every path of a broadcaster on one screen.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use httppubsub_proto::http as paths;
use httppubsub_proto::ws::WEBSOCKET;

use crate::core::Core;
use crate::http::{health, notify, subscriptions, upgrade, websockets};

pub(crate) fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route(paths::NOTIFY, post(notify::notify))
        .route(paths::SUBSCRIBE_EXACT, post(subscriptions::subscribe_exact))
        .route(paths::SUBSCRIBE_GLOB, post(subscriptions::subscribe_glob))
        .route(
            paths::UNSUBSCRIBE_EXACT,
            post(subscriptions::unsubscribe_exact),
        )
        .route(
            paths::UNSUBSCRIBE_GLOB,
            post(subscriptions::unsubscribe_glob),
        )
        .route(paths::CHECK_SUBSCRIPTIONS, post(subscriptions::check))
        .route(paths::SET_SUBSCRIPTIONS, post(subscriptions::set))
        .route(paths::RECEIVE_FOR_WEBSOCKETS, post(websockets::receive))
        .route(paths::MISSED_FOR_WEBSOCKETS, post(websockets::missed))
        .route(WEBSOCKET, get(upgrade::upgrade))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .with_state(core)
}
