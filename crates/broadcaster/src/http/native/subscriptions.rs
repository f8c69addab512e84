//! SUBSCRIBE, UNSUBSCRIBE, CHECK and SET (`docs/protocol/stateless.md` §3 and §4).
//!
//! Each handler decodes, authorizes, calls the use case and signs the answer. If the use case fails
//! in a way that changed nothing, the authorization is released, so that the very same request can
//! be sent again.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use httppubsub_proto::auth::Claim;
use httppubsub_proto::stateless::{
    CheckRequest, CheckResponse, GenericResponse, HEAD_BYTES_MAX, InterestKind, SetHead,
    SubscribeRequest, UnsubscribeRequest,
};
use httppubsub_proto::subscription::Subscription;

use crate::http::endpoints::Endpoints;
use crate::http::reception::{Incoming, Reception};
use crate::http::reply::{Asker, Failure, answer};
use crate::subscriptions::set::announced_set;
use crate::subscriptions::subscriptions::Subscriptions;

/// The answer to one of these requests.
type Answer = Result<Response, Failure>;

/// SUBSCRIBE to a topic.
pub(crate) async fn subscribe_exact(
    endpoints: State<Arc<Endpoints>>,
    request: Request,
) -> Response {
    let asker = Asker::of("SUBSCRIBE_EXACT", &request);
    let answer = subscribe(&endpoints, request, InterestKind::Exact);
    asker.answer(&endpoints.refusals, answer.await)
}

/// SUBSCRIBE to a glob.
pub(crate) async fn subscribe_glob(endpoints: State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("SUBSCRIBE_GLOB", &request);
    let answer = subscribe(&endpoints, request, InterestKind::Glob);
    asker.answer(&endpoints.refusals, answer.await)
}

/// UNSUBSCRIBE from a topic.
pub(crate) async fn unsubscribe_exact(
    endpoints: State<Arc<Endpoints>>,
    request: Request,
) -> Response {
    let asker = Asker::of("UNSUBSCRIBE_EXACT", &request);
    let answer = unsubscribe(&endpoints, request, InterestKind::Exact);
    asker.answer(&endpoints.refusals, answer.await)
}

/// UNSUBSCRIBE from a glob.
pub(crate) async fn unsubscribe_glob(
    endpoints: State<Arc<Endpoints>>,
    request: Request,
) -> Response {
    let asker = Asker::of("UNSUBSCRIBE_GLOB", &request);
    let answer = unsubscribe(&endpoints, request, InterestKind::Glob);
    asker.answer(&endpoints.refusals, answer.await)
}

/// Adds the subscription of the request.
async fn subscribe(endpoints: &Endpoints, request: Request, kind: InterestKind) -> Answer {
    let Endpoints {
        reception,
        subscriptions,
        ..
    } = endpoints;
    let mut incoming = reception.take(request);
    let decode = |bytes: &[u8]| Ok((SubscribeRequest::decode(kind, bytes)?, bytes.len()));
    let asked = incoming.body().head(HEAD_BYTES_MAX, decode).await?;
    let SubscribeRequest {
        url,
        interest,
        recovery,
        tracing,
    } = &asked;
    let (asked_url, asked_recovery) = (url.as_str(), recovery.as_ref().map(|it| it.as_str()));
    let claim = Claim::Subscribe {
        url: asked_url,
        recovery: asked_recovery,
        interest,
    };
    let spent = incoming.authorize(&claim, tracing).await?;
    let subscription = Subscription {
        url: url.clone(),
        interest: interest.clone(),
        recovery: recovery.clone(),
    };
    if let Err(error) = subscriptions.subscribe(subscription).await {
        return Err(incoming.release(spent, error.into()));
    }
    let confirm = Claim::ConfirmSubscribe {
        url: asked_url,
        recovery: asked_recovery,
        interest,
    };
    confirmed(reception, &confirm)
}

/// Removes the subscription of the request.
async fn unsubscribe(endpoints: &Endpoints, request: Request, kind: InterestKind) -> Answer {
    let Endpoints {
        reception,
        subscriptions,
        ..
    } = endpoints;
    let mut incoming = reception.take(request);
    let decode = |bytes: &[u8]| Ok((UnsubscribeRequest::decode(kind, bytes)?, bytes.len()));
    let asked = incoming.body().head(HEAD_BYTES_MAX, decode).await?;
    let UnsubscribeRequest {
        url,
        interest,
        tracing,
    } = &asked;
    // Signed like a SUBSCRIBE without a recovery url (`docs/protocol/auth.md` §5).
    let claim = Claim::Subscribe {
        url: url.as_str(),
        recovery: None,
        interest,
    };
    let spent = incoming.authorize(&claim, tracing).await?;
    if let Err(error) = subscriptions.unsubscribe(url, interest).await {
        return Err(incoming.release(spent, error.into()));
    }
    let confirm = Claim::ConfirmSubscribe {
        url: url.as_str(),
        recovery: None,
        interest,
    };
    confirmed(reception, &confirm)
}

/// CHECK: the strong etag of all subscriptions of a url.
pub(crate) async fn check(endpoints: State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("CHECK_SUBSCRIPTIONS", &request);
    let answer = check_all(&endpoints, request);
    asker.answer(&endpoints.refusals, answer.await)
}

/// Answers with the etag of the url of the request.
async fn check_all(endpoints: &Endpoints, request: Request) -> Answer {
    let Endpoints {
        reception,
        subscriptions,
        ..
    } = endpoints;
    let mut incoming = reception.take(request);
    let decode = |bytes: &[u8]| Ok((CheckRequest::decode(bytes)?, bytes.len()));
    let CheckRequest { tracing, url } = incoming.body().head(HEAD_BYTES_MAX, decode).await?;
    let spent = incoming
        .authorize(&Claim::Check { url: url.as_str() }, &tracing)
        .await?;
    // The answer names no subscription, only whether the asker knows them all.
    let etag = subscriptions.check(&url).await;
    let etag = etag.map_err(|error| incoming.release(spent, error.into()))?;
    let authorization = reception.vouch(&Claim::CheckResponse { etag: &etag }, &[])?;
    let response = CheckResponse {
        authorization,
        tracing: Bytes::new(),
        etag,
    };
    Ok(answer(StatusCode::OK, response.encode()))
}

/// SET: replaces all subscriptions of a url.
pub(crate) async fn set(endpoints: State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("SET_SUBSCRIPTIONS", &request);
    let answer = set_all(&endpoints, request);
    asker.answer(&endpoints.refusals, answer.await)
}

/// Replaces the subscriptions of the url of the request.
async fn set_all(endpoints: &Endpoints, request: Request) -> Answer {
    let Endpoints {
        reception,
        subscriptions,
        ..
    } = endpoints;
    let mut incoming = reception.take(request);
    let head = incoming
        .body()
        .head(HEAD_BYTES_MAX, SetHead::decode)
        .await?;
    let claim = Claim::Set {
        url: head.url.as_str(),
        etag: &head.etag,
    };
    let spent = incoming.authorize(&claim, &head.tracing).await?;
    match replace_all(subscriptions, &mut incoming, &head).await {
        Ok(()) => confirmed(reception, &Claim::SetResponse { etag: &head.etag }),
        Err(failure) => Err(incoming.release(spent, failure)),
    }
}

/// Takes the lists that `head` announces, and replaces the subscriptions by them.
async fn replace_all(
    subscriptions: &Subscriptions,
    incoming: &mut Incoming<'_>,
    head: &SetHead,
) -> Result<(), Failure> {
    let lists = incoming.set_lists().await?;
    // What is made of them takes as much again, and is kept until it is stored.
    let (lists, _room) = (lists.bytes, lists.room);
    let announced = head.clone();
    // Read where it may take its time: half a million entries are not read between two requests.
    let read = move || announced_set(&announced, &lists);
    Ok(subscriptions.set(&head.url, read).await?)
}

/// The answer that what was asked is done, with the authorization of `claim`.
fn confirmed(reception: &Reception, claim: &Claim<'_>) -> Answer {
    let authorization = reception.vouch(claim, &[])?;
    let response = GenericResponse {
        authorization,
        tracing: Bytes::new(),
    };
    Ok(answer(StatusCode::OK, response.encode()))
}
