//! Every path of a broadcaster on one screen.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::StatusCode;
use http::header::ALLOW;
use httppubsub_proto::paths;
use httppubsub_proto::paths::WEBSOCKET;

use crate::http::endpoints::Endpoints;
use crate::http::native::{notify, subscriptions};
use crate::http::plain::{explain, publish};
use crate::http::{forward, health, websocket};

/// All endpoints. No path but that of topics is a pattern: one look-up finds the handler.
pub(crate) fn router(endpoints: Arc<Endpoints>) -> Router {
    let topics = post(publish::publish).get(explain::explain);
    let topics = topics.fallback(publish::other_method);
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
        .route(paths::RECEIVE_FOR_WEBSOCKETS, post(forward::receive))
        .route(paths::MISSED_FOR_WEBSOCKETS, post(forward::missed))
        .route(paths::TOPICS, topics.clone())
        .route(ANY_TOPIC, topics.clone())
        .route(WEBSOCKET, get(websocket::upgrade))
        .route(LIVE, get(health::live))
        .route(READY, get(health::ready))
        .method_not_allowed_fallback(other_method)
        .with_state(endpoints)
}

/// The same where there is nothing else behind the paths of a broadcaster.
pub(crate) fn whole_router(endpoints: Arc<Endpoints>) -> Router {
    // Bodies of requests for other paths are read as well, or their answers would be lost.
    router(endpoints.clone()).fallback(move |request: Request| async move {
        endpoints.reception.abandon(request);
        StatusCode::NOT_FOUND
    })
}

/// The answer to a method that a path does not take.
async fn other_method(
    State(endpoints): State<Arc<Endpoints>>,
    request: Request,
) -> impl IntoResponse {
    let allowed = match request.uri().path() {
        WEBSOCKET | LIVE | READY => "GET,HEAD",
        _ => "POST",
    };
    endpoints.reception.abandon(request);
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, allowed)])
}

/// The path of every topic but the empty one.
const ANY_TOPIC: &str = "/v1/topics/{*topic}";
/// `GET` here answers for as long as the process does. It asks nothing: a process that answers
/// needs no restart, whatever its store does.
const LIVE: &str = "/healthz";
/// `GET` here says whether requests should be sent. 200 or 503, with the reasons in words that
/// anybody may read.
const READY: &str = "/readyz";
