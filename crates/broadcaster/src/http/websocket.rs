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
use httppubsub_net::inbound::Peer;
use httppubsub_net::websocket::{Socket, accept_key};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::http::endpoints::Endpoints;
use crate::http::reply::{Asker, Failure};
use crate::websocket::session;
use crate::websocket::sessions::Sessions;

/// Longest time from the answer to the handshake until the connection is a websocket, and the time
/// for which a handshake waits for a place.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers a handshake, and begins a session on its connection.
pub(crate) async fn upgrade(
    State(endpoints): State<Arc<Endpoints>>,
    mut request: Request,
) -> Response {
    let asker = Asker::of("websocket", &request);
    let shaken = shake_hands(&endpoints, &mut request).await;
    if shaken.is_err() {
        endpoints.reception.abandon(request);
    }
    asker.answer(&endpoints.refusals, shaken)
}

/// Judges a handshake, takes its places and answers it.
///
/// Two places are taken: one among all sessions, kept to its end, and one among sessions that have
/// not shown who they are. Without either, the handshake is refused after a while.
async fn shake_hands(endpoints: &Endpoints, request: &mut Request) -> Result<Response, Failure> {
    let Endpoints {
        reception,
        sessions,
        places,
        ..
    } = endpoints;
    let headers = request.headers();
    if !has_token(headers, CONNECTION, "upgrade") || !has_token(headers, UPGRADE, "websocket") {
        return Err(Failure::NoUpgrade);
    }
    // Before a place is taken: what is no handshake must not cost one.
    let version = headers
        .get(SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes);
    if version != Some(b"13") {
        return Err(Failure::WebSocketVersion);
    }
    // Base64 of 16 bytes has 24 digits. They are hashed as they are, and never decoded.
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let accept = accept_key(key.ok_or(Failure::WebSocketKey)?.as_bytes());
    if sessions.shutdown.is_cancelled() {
        return Err(Failure::NoMoreWebSockets("the broadcaster is stopping"));
    }
    let began = Instant::now();
    let full = "there are as many websockets as may be";
    let Some(session) = places.take() else {
        return Err(refuse_later(sessions, began, full).await);
    };
    let peer = request.extensions().get::<Peer>();
    let spool = reception.spool_for(peer);
    let (ip, peer) = match peer {
        Some(peer) => (peer.address.ip(), peer.address.to_string()),
        // Somebody else's server.
        None => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), "unknown".to_owned()),
    };
    let full = "too many websockets have not shown yet who they are";
    let entering = places.take_unauthenticated(ip);
    let place = tokio::time::timeout(UPGRADE_TIMEOUT, entering).await;
    let Some(place) = place.ok().flatten() else {
        drop(session);
        return Err(refuse_later(sessions, began, full).await);
    };
    // It is a websocket only after the answer was sent, which is after this returns.
    let upgrade = hyper::upgrade::on(&mut *request);
    let config = sessions.config.socket.clone();
    let owner = sessions.clone();
    endpoints.tasks.spawn(async move {
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

/// The failure of a handshake that `began` then and found no place, when it has waited for as long
/// as for a place: who is refused at once would come again at once, and would be served for nothing
/// but refusals. Its connection has its place among all, and makes room for others.
async fn refuse_later(sessions: &Sessions, began: Instant, why: &'static str) -> Failure {
    let waiting = tokio::time::sleep_until(began + UPGRADE_TIMEOUT);
    sessions.shutdown.run_until_cancelled(waiting).await;
    Failure::NoMoreWebSockets(why)
}

/// `true` if a header `name` that lists tokens has `token`. Browsers and proxies send `Connection:
/// keep-alive, Upgrade`, and headers may be split over several lines.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let mut lists = headers.get_all(name).iter();
    lists.any(|list| {
        let list = list.to_str().unwrap_or_default();
        let mut tokens = list.split(',');
        tokens.any(|one| one.trim().eq_ignore_ascii_case(token))
    })
}
