//! `GET /v1/websocket`: the handshake (`docs/protocol/stateful.md` §1).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httppubsub_net::{Peer, Socket, accept_key};
use hyper_util::rt::TokioIo;

use crate::core::Core;
use crate::http::reply::{Asker, Failure};
use crate::session;

/// How long the connection may take from the answer to its websocket.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) async fn upgrade(State(core): State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("websocket", &request);
    asker.answer(&core, shake_hands(&core, request).await)
}

async fn shake_hands(core: &Arc<Core>, mut request: Request) -> Result<Response, Failure> {
    let headers = request.headers();
    if !has_token(headers, CONNECTION, "upgrade") || !has_token(headers, UPGRADE, "websocket") {
        return Err(Failure::NoUpgrade);
    }
    let version = headers
        .get(SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes);
    if version != Some(b"13") {
        return Err(Failure::WebSocketVersion);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let accept = accept_key(key.ok_or(Failure::WebSocketKey)?.as_bytes());
    if core.shutdown.is_cancelled() {
        return Err(Failure::NoMoreWebSockets("the broadcaster is stopping"));
    }
    let full = "there are as many websockets as may be";
    let session = core.sessions.clone().try_acquire_owned();
    let session = session.map_err(|_| Failure::NoMoreWebSockets(full))?;
    let (ip, peer, spool) = match request.extensions().get::<Peer>() {
        Some(peer) => {
            let spool = core.spool.for_party(&peer.party);
            (peer.address.ip(), peer.address.to_string(), spool)
        }
        // Somebody else's server.
        None => {
            let nowhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            (nowhere, "unknown".to_owned(), core.spool.clone())
        }
    };
    let full = "too many websockets have not shown yet who they are";
    let place = tokio::time::timeout(UPGRADE_TIMEOUT, core.unauthenticated.enter(ip)).await;
    let place = place
        .ok()
        .and_then(Result::ok)
        .ok_or(Failure::NoMoreWebSockets(full))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let config = core.config.websockets.socket.clone();
    let owner = core.clone();
    core.tasks.spawn(async move {
        let _session = session;
        match tokio::time::timeout(UPGRADE_TIMEOUT, upgrade).await {
            Ok(Ok(upgraded)) => {
                let socket = Socket::accepted(TokioIo::new(upgraded), config).await;
                session::serve(owner, socket, peer, spool, place).await;
            }
            Ok(Err(error)) => tracing::debug!(peer, %error, "a connection was not upgraded"),
            Err(_) => tracing::debug!(peer, "a connection was not upgraded in time"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = HeaderValue::from_str(&accept).map_err(|_| Failure::WebSocketKey)?;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Whether a header that lists tokens has this one.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let mut lists = headers.get_all(name).iter();
    lists.any(|list| {
        let list = list.to_str().unwrap_or_default();
        let mut tokens = list.split(',');
        tokens.any(|one| one.trim().eq_ignore_ascii_case(token))
    })
}
