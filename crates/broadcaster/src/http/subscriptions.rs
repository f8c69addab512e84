//! SUBSCRIBE, UNSUBSCRIBE, CHECK and SET (`docs/protocol/stateless.md` §3 and §4).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use httppubsub_proto::auth::Claim;
use httppubsub_proto::http::{
    CheckRequest, CheckResponse, GenericResponse, HEAD_BYTES_MAX, InterestKind, SetHead,
    SubscribeRequest, UnsubscribeRequest,
};
use httppubsub_proto::subscription::Subscription;
use httppubsub_store::{StoreError, Subscribed, Unsubscribed};

use crate::core::Core;
use crate::http::reply::{Asker, Failure, answer, vouch};
use crate::http::request::Incoming;
use crate::subscriptions::announced_set;
use crate::urls;

type Answer = Result<Response, Failure>;

pub(crate) async fn subscribe_exact(core: State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("SUBSCRIBE_EXACT", &request);
    asker.answer(&core, subscribe(&core, request, InterestKind::Exact).await)
}

pub(crate) async fn subscribe_glob(core: State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("SUBSCRIBE_GLOB", &request);
    asker.answer(&core, subscribe(&core, request, InterestKind::Glob).await)
}

pub(crate) async fn unsubscribe_exact(core: State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("UNSUBSCRIBE_EXACT", &request);
    asker.answer(
        &core,
        unsubscribe(&core, request, InterestKind::Exact).await,
    )
}

pub(crate) async fn unsubscribe_glob(core: State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("UNSUBSCRIBE_GLOB", &request);
    asker.answer(&core, unsubscribe(&core, request, InterestKind::Glob).await)
}

async fn subscribe(core: &Arc<Core>, request: Request, kind: InterestKind) -> Answer {
    let mut incoming = Incoming::new(core, request);
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
    urls::judge(&core.config.post.egress, url, recovery.as_ref())?;
    core.glob_limits.judge(interest)?;
    let subscription = Subscription {
        url: url.clone(),
        interest: interest.clone(),
        recovery: recovery.clone(),
    };
    let store = core.store.clone();
    let subscribed = to_the_end(core, async move { store.subscribe(subscription).await }).await;
    if subscribed.is_ok() {
        core.poster.heard_of(url);
    }
    match subscribed {
        Ok(Subscribed::Added) => {
            tracing::debug!(subscriber = %url, %interest, "subscribed");
            let confirm = Claim::ConfirmSubscribe {
                url: asked_url,
                recovery: asked_recovery,
                interest,
            };
            confirmed(core, &confirm)
        }
        Ok(Subscribed::Existed) => Err(Failure::Existed),
        Err(error) => Err(incoming.release(spent, error)),
    }
}

async fn unsubscribe(core: &Arc<Core>, request: Request, kind: InterestKind) -> Answer {
    let mut incoming = Incoming::new(core, request);
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
    urls::judge_unsubscribe(url)?;
    let (store, row) = (core.store.clone(), (url.clone(), interest.clone()));
    match to_the_end(core, async move { store.unsubscribe(row.0, row.1).await }).await {
        Ok(Unsubscribed::Removed) => {
            tracing::debug!(subscriber = %url, %interest, "unsubscribed");
            let confirm = Claim::ConfirmSubscribe {
                url: url.as_str(),
                recovery: None,
                interest,
            };
            confirmed(core, &confirm)
        }
        Ok(Unsubscribed::Absent) => Err(Failure::Absent),
        Err(error) => Err(incoming.release(spent, error)),
    }
}

pub(crate) async fn check(core: State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("CHECK_SUBSCRIPTIONS", &request);
    asker.answer(&core, check_all(&core, request).await)
}

async fn check_all(core: &Arc<Core>, request: Request) -> Answer {
    let mut incoming = Incoming::new(core, request);
    let decode = |bytes: &[u8]| Ok((CheckRequest::decode(bytes)?, bytes.len()));
    let CheckRequest { tracing, url } = incoming.body().head(HEAD_BYTES_MAX, decode).await?;
    let spent = incoming
        .authorize(&Claim::Check { url: url.as_str() }, &tracing)
        .await?;
    let etag = core.store.etag(url.clone()).await;
    let etag = etag.map_err(|error| incoming.release(spent, error.into()))?;
    core.poster.heard_of(&url);
    let authorization = vouch(core, &Claim::CheckResponse { etag: &etag }, &[])?;
    let response = CheckResponse {
        authorization,
        tracing: Bytes::new(),
        etag,
    };
    Ok(answer(StatusCode::OK, response.encode()))
}

pub(crate) async fn set(core: State<Arc<Core>>, request: Request) -> Response {
    let asker = Asker::of("SET_SUBSCRIPTIONS", &request);
    asker.answer(&core, set_all(&core, request).await)
}

async fn set_all(core: &Arc<Core>, request: Request) -> Answer {
    let mut incoming = Incoming::new(core, request);
    let head = incoming
        .body()
        .head(HEAD_BYTES_MAX, SetHead::decode)
        .await?;
    let claim = Claim::Set {
        url: head.url.as_str(),
        etag: &head.etag,
    };
    let spent = incoming.authorize(&claim, &head.tracing).await?;
    match replace_all(core, &mut incoming, &head).await {
        Ok(()) => confirmed(core, &Claim::SetResponse { etag: &head.etag }),
        Err(failure) => Err(incoming.release(spent, failure)),
    }
}

async fn replace_all(
    core: &Arc<Core>,
    incoming: &mut Incoming<'_>,
    head: &SetHead,
) -> Result<(), Failure> {
    let lists = incoming.body().rest(core.config.set_bytes_max).await?;
    // What is made of them takes as much again, and is kept until it is stored.
    let (lists, _room) = (lists.bytes, lists.room);
    let (announced, egress) = (head.clone(), core.config.post.egress.clone());
    let glob_limits = core.glob_limits;
    // Half a million entries take a while to read and to hash.
    let judged = tokio::task::spawn_blocking(move || {
        let set = announced_set(&announced, &lists)?;
        urls::judge_set(&egress, &announced.url, &set)?;
        for (glob, _) in set.globs() {
            glob_limits.judge_glob(glob)?;
        }
        Ok::<_, Failure>(set)
    })
    .await;
    let set = judged.expect("reading lists does not panic")?;
    let (store, url) = (core.store.clone(), head.url.clone());
    let changed = to_the_end(core, async move { store.set(url, set).await }).await?;
    core.poster.heard_of(&head.url);
    tracing::debug!(subscriber = %head.url, ?changed, "set all subscriptions");
    Ok(())
}

/// Runs a change to its end even if the peer goes away: it is done, or it is not, but it is not
/// half done.
async fn to_the_end<T: Send + 'static>(
    core: &Arc<Core>,
    change: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, Failure> {
    let done = core.tasks.spawn(change).await;
    Ok(done.expect("the store does not panic in its caller's task")?)
}

fn confirmed(core: &Core, claim: &Claim<'_>) -> Answer {
    let authorization = vouch(core, claim, &[])?;
    let response = GenericResponse {
        authorization,
        tracing: Bytes::new(),
    };
    Ok(answer(StatusCode::OK, response.encode()))
}
