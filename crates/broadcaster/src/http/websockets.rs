//! RECEIVE and MISSED that other broadcasters post for the websocket sessions of this one
//! (`docs/protocol/stateless.md` §8).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{OriginalUri, Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, StatusCode};
use httppubsub_net::{Judge, Rejected, stamp};
use httppubsub_proto::auth::Claim;
use httppubsub_proto::http::{ConfirmMissed, ConfirmReceive, HEAD_BYTES_MAX, MissedHead};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::Endpoint;
use tokio::time::Instant;

use crate::core::Core;
use crate::http::reply::{Asker, Failure, answer, unsubscribe_immediate};
use crate::http::request::Incoming;
use crate::message::Message;

/// How long a message waits for room at a session: published broadcasters wait 5 s for the answer.
const ROOM_TIMEOUT: Duration = Duration::from_secs(4);

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

pub(crate) async fn receive(State(core): State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("RECEIVE", &request);
    match receive_or_fail(&core, request).await {
        Ok(response) => response,
        Err(failure) => {
            asker.count(&core, &failure);
            // Whatever else is wrong costs this delivery, and not the row of all websockets here.
            let ends_the_row = matches!(&failure, Failure::Rejected(Rejected::Unwanted));
            if ends_the_row {
                unsubscribe_immediate(failure.status())
            } else {
                failure.into_response()
            }
        }
    }
}

async fn receive_or_fail(core: &Arc<Core>, request: Request) -> Result<Response, Failure> {
    let mut incoming = Incoming::new(core, request);
    let here = asked_for(&incoming, &core.config.receiver_url);
    let repr_digest = incoming
        .parts
        .headers
        .get(REPR_DIGEST)
        .map(HeaderValue::as_bytes);
    let repr_digest = repr_digest.map(Bytes::copy_from_slice);
    if !here {
        return Err(Failure::WrongUrl);
    }
    let authorization = incoming.authorization().map(Bytes::copy_from_slice);
    let peer = incoming.peer().cloned();
    let judge = Judge {
        urls: &[&core.config.receiver_url],
        authorization: &*core.to_subscriber,
        guard: &core.guard,
        peer: peer.as_ref(),
    };
    let now = incoming.now;
    let wanted = |topic: Topic| async move { core.hub.wants(&topic).await };
    let received = httppubsub_net::receive(
        repr_digest.as_deref(),
        authorization.as_deref(),
        incoming.body(),
        &judge,
        wanted,
        now,
    )
    .await?;
    let identifier = &received.head.identifier;
    let message = Message::new(received.head.topic.clone(), received.payload.clone());
    let deadline = Instant::now() + ROOM_TIMEOUT;
    let subscribers = core.hub.deliver(&Arc::new(message), deadline).await;
    let claim = Claim::ConfirmReceive {
        identifier,
        subscribers,
        url: received.url,
    };
    let confirm = ConfirmReceive {
        authorization: core
            .to_broadcaster
            .authorize(&claim, &[], &stamp(core.clock.now()))?,
        tracing: Bytes::new(),
        identifier: identifier.clone(),
        subscribers,
    };
    Ok(answer(StatusCode::OK, confirm.encode()))
}

pub(crate) async fn missed(State(core): State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("MISSED", &request);
    asker.answer(&core, take_missed(&core, request).await)
}

async fn take_missed(core: &Arc<Core>, request: Request) -> Result<Response, Failure> {
    let mut incoming = Incoming::new(core, request);
    let url = core.config.missed_url.as_str();
    if !asked_for(&incoming, url) {
        return Err(Failure::WrongUrl);
    }
    let decode = |bytes: &[u8]| Ok((MissedHead::decode(bytes)?, bytes.len()));
    let MissedHead { tracing, topic } = incoming.body().head(HEAD_BYTES_MAX, decode).await?;
    let claim = Claim::Missed {
        recovery: url,
        topic: &topic,
    };
    let value = incoming.authorization();
    let unspent = core
        .to_subscriber
        .verify(&claim, &tracing, value, incoming.now)?;
    let _spent = core.guard.spend(unspent, incoming.now).await?;
    core.hub.missed(&topic).await;
    let claim = Claim::ConfirmMissed { topic: &topic, url };
    let confirm = ConfirmMissed {
        authorization: core
            .to_broadcaster
            .authorize(&claim, &[], &stamp(core.clock.now()))?,
        tracing: Bytes::new(),
    };
    Ok(answer(StatusCode::OK, confirm.encode()))
}

/// Whether the request asks for the path and query of `url`, of its host if it names one.
fn asked_for(incoming: &Incoming<'_>, url: &str) -> bool {
    let Ok(endpoint) = Endpoint::parse_str(url) else {
        return false;
    };
    let parts = &incoming.parts;
    let uri = parts
        .extensions
        .get::<OriginalUri>()
        .map_or(&parts.uri, |original| &original.0);
    let asked = uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    asked == Some(endpoint.path_and_query())
        && host.is_none_or(|host| host.eq_ignore_ascii_case(endpoint.host_header()))
}
