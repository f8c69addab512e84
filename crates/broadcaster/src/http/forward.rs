//! RECEIVE and MISSED that other broadcasters post for the websocket sessions of this one
//! (`docs/protocol/stateless.md` §8).
//!
//! A broadcaster has the part of a subscriber here: it verifies what another one signed for
//! subscribers, and signs its confirmations as a subscriber does.

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, StatusCode};
use httppubsub_net::inbound::{Rejected, Verifier};
use httppubsub_proto::auth::Claim;
use httppubsub_proto::stateless::{ConfirmMissed, ConfirmReceive, HEAD_BYTES_MAX, MissedHead};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::Endpoint;

use crate::delivery::forwarded::Forwarded;
use crate::http::endpoints::Endpoints;
use crate::http::reception::{Incoming, Reception};
use crate::http::reply::{Asker, Failure, answer, unsubscribe_immediate};

/// The header with the digest of the message.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// RECEIVE: hands a message to the sessions that are subscribed to its topic, and confirms how many
/// they are.
pub(crate) async fn receive(State(endpoints): State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("RECEIVE", &request);
    match receive_or_fail(&endpoints.reception, &endpoints.forwarded, request).await {
        Ok(response) => response,
        Err(failure) => {
            asker.count(&endpoints.refusals, &failure);
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

/// Takes a message and hands it to sessions. Nothing of the message is read before it is known that
/// a session wants its topic.
async fn receive_or_fail(
    reception: &Reception,
    forwarded: &Forwarded,
    request: Request,
) -> Result<Response, Failure> {
    let mut incoming = reception.take(request);
    let url = forwarded.url().as_str();
    let here = asked_for(&incoming, url);
    let repr_digest = incoming
        .parts
        .headers
        .get(REPR_DIGEST)
        .map(HeaderValue::as_bytes);
    let repr_digest = repr_digest.map(Bytes::copy_from_slice);
    // The signature holds for one url: nobody can send on to this broadcaster what was for another.
    if !here {
        return Err(Failure::WrongUrl);
    }
    let authorization = incoming.authorization().map(Bytes::copy_from_slice);
    let peer = incoming.peer().cloned();
    let verifier = Verifier {
        urls: &[url],
        authorization: &*reception.authorizations.to_subscriber,
        guard: reception.replay.guard(),
        peer: peer.as_ref(),
    };
    let now = incoming.now;
    let wanted = |topic: Topic| async move { forwarded.wants(&topic).await };
    let received = httppubsub_net::inbound::receive(
        repr_digest.as_deref(),
        authorization.as_deref(),
        incoming.body(),
        &verifier,
        wanted,
        // Sessions need no numbers: what they miss, their connection tells.
        |_| {},
        now,
    )
    .await?;
    let identifier = &received.head.identifier;
    let topic = received.head.topic.clone();
    let subscribers = forwarded.deliver(topic, received.payload).await;
    let claim = Claim::ConfirmReceive {
        identifier,
        subscribers,
        url: received.url,
    };
    let confirm = ConfirmReceive {
        authorization: reception.vouch_as_subscriber(&claim)?,
        tracing: Bytes::new(),
        identifier: identifier.clone(),
        subscribers,
    };
    Ok(answer(StatusCode::OK, confirm.encode()))
}

/// MISSED: tells the sessions that are subscribed to a topic that they missed something.
pub(crate) async fn missed(State(endpoints): State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("MISSED", &request);
    let answer = take_missed(&endpoints.reception, &endpoints.forwarded, request);
    asker.answer(&endpoints.refusals, answer.await)
}

/// Takes a notice and tells the sessions.
async fn take_missed(
    reception: &Reception,
    forwarded: &Forwarded,
    request: Request,
) -> Result<Response, Failure> {
    let mut incoming = reception.take(request);
    let url = forwarded.missed_url().as_str();
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
    let unspent =
        reception
            .authorizations
            .to_subscriber
            .verify(&claim, &tracing, value, incoming.now)?;
    let _spent = reception
        .replay
        .guard()
        .spend(unspent, incoming.now)
        .await?;
    forwarded.missed(&topic).await;
    let claim = Claim::ConfirmMissed { topic: &topic, url };
    let confirm = ConfirmMissed {
        authorization: reception.vouch_as_subscriber(&claim)?,
        tracing: Bytes::new(),
    };
    Ok(answer(StatusCode::OK, confirm.encode()))
}

/// `true` if the request asks for the path and query of `url`, and of its host if it names one.
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
