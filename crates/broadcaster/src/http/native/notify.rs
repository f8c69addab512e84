//! NOTIFY (`docs/protocol/stateless.md` §5).
//!
//! The order of steps is that of what they cost: admission before anything is read, the
//! authorization before the message is, the message before anybody is asked for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use httppubsub_net::body::Payload;
use httppubsub_proto::auth::Claim;
use httppubsub_proto::stateless::{HEAD_BYTES_MAX, NotifyHead, NotifyResponse, NotifyTrace};

use crate::http::endpoints::Endpoints;
use crate::http::reception::{Incoming, Reception};
use crate::http::reply::{Asker, Failure, answer};
use crate::notify::notify::{IfFull, Notify};
use crate::notify::tally::Reached;

/// NOTIFY: delivers the message of the request, and answers how many subscribers have it.
pub(crate) async fn notify(State(endpoints): State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("NOTIFY", &request);
    let taken = take(&endpoints.reception, &endpoints.notify, request);
    asker.answer(&endpoints.refusals, taken.await)
}

/// Takes a notification and answers it.
async fn take(
    reception: &Reception,
    notify: &Arc<Notify>,
    request: Request,
) -> Result<Response, Failure> {
    let mut incoming = reception.take(request);
    // It is turned away before anything is read, and under way when somebody vouches for it.
    drop(notify.admit(0)?);
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
    // What nobody got may be sent again with the very same authorization.
    let reached = match take_and_deliver(notify, &mut incoming, &head).await {
        Ok(reached) => reached,
        Err(failure) => return Err(incoming.release(spent, failure)),
    };
    tracing::debug!(?topic, message_bytes, ?reached, "notified");
    // Both times, so that a publisher can tell the time on the wire from the time here.
    let trace = NotifyTrace {
        received: incoming.now,
        answered: reception.clock.now(),
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
        authorization: reception.vouch(&claim, &trace)?,
        tracing: trace.into(),
        subscribers,
        identifier: identifier.clone(),
    };
    Ok(answer(StatusCode::OK, response.encode()))
}

/// Takes the message that `head` announces, and delivers it.
async fn take_and_deliver(
    notify: &Arc<Notify>,
    incoming: &mut Incoming<'_>,
    head: &NotifyHead,
) -> Result<Reached, Failure> {
    let bytes = head.message_bytes;
    let _guard = notify.admit(bytes)?;
    let payload = Payload::fill(incoming.body(), bytes, &head.sha512).await?;
    let notifying = notify.notify(head.topic.clone(), payload, IfFull::Fail);
    Ok(notifying.await?)
}
