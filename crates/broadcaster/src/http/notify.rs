//! NOTIFY (`docs/protocol/stateless.md` §5).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use httppubsub_net::Payload;
use httppubsub_proto::auth::Claim;
use httppubsub_proto::http::{HEAD_BYTES_MAX, NotifyHead, NotifyResponse, NotifyTrace};

use crate::core::Core;
use crate::http::reply::{Asker, Failure, answer, vouch};
use crate::http::request::Incoming;
use crate::measures;
use crate::notify::{IfFull, Reached, notify as notify_all};

pub(crate) async fn notify(State(core): State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("NOTIFY", &request);
    asker.answer(&core, take(&core, request).await)
}

async fn take(core: &Arc<Core>, request: Request) -> Result<Response, Failure> {
    let mut incoming = Incoming::new(core, request);
    // It is turned away before anything is read, and counted when somebody vouches for it.
    drop(core.load.begin()?);
    let head = incoming
        .body()
        .head(HEAD_BYTES_MAX, NotifyHead::decode)
        .await?;
    let NotifyHead {
        topic,
        sha512,
        tracing,
        identifier,
        message_bytes,
    } = &head;
    let claim = Claim::Notify {
        topic,
        identifier,
        sha512,
    };
    let spent = incoming.authorize(&claim, tracing).await?;
    let reached = match take_and_deliver(core, &mut incoming, &head).await {
        Ok(reached) => reached,
        Err(failure) => return Err(incoming.release(spent, failure)),
    };
    measures::notified();
    tracing::debug!(?topic, message_bytes, ?reached, "notified");
    let trace = NotifyTrace {
        received: incoming.now,
        answered: core.clock.now(),
    }
    .encode();
    let subscribers = reached.subscribers;
    let claim = Claim::ConfirmNotify {
        identifier,
        subscribers,
        topic,
        sha512,
    };
    let response = NotifyResponse {
        authorization: vouch(core, &claim, &trace)?,
        tracing: trace.into(),
        subscribers,
        identifier: identifier.clone(),
    };
    Ok(answer(StatusCode::OK, response.encode()))
}

async fn take_and_deliver(
    core: &Arc<Core>,
    incoming: &mut Incoming<'_>,
    head: &NotifyHead,
) -> Result<Reached, Failure> {
    let _under_way = core.load.begin()?;
    let bytes = head.message_bytes;
    if let Some(bytes_max) = core.config.message_bytes_max
        && bytes > bytes_max
    {
        return Err(Failure::MessageTooLong { bytes, bytes_max });
    }
    let payload = Payload::fill(incoming.body(), bytes, &head.sha512).await?;
    Ok(notify_all(core, head.topic.clone(), payload, IfFull::Fail).await?)
}
