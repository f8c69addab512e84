//! Changes of what is subscribed: counted here, told to the broadcasters where it makes a
//! difference (`docs/protocol/stateless.md` §9).
//!
//! Each runs as a task of the client, so that a caller who stops waiting leaves nothing half done.
//!
//! | change | counted | asked for |
//! |---|---|---|
//! | the first to want an interest | before, undone if it fails | SUBSCRIBE, or SET of all |
//! | a further one | at once | nothing |
//! | the last but one to let go | at once | nothing |
//! | the last to let go | before, and stays so if it fails | UNSUBSCRIBE, or SET of all |
//!
//! Failing to subscribe undoes the count, because the caller has no subscription then. Failing to
//! unsubscribe does not bring it back, because nobody wants it: reconciliation tries again.

use std::collections::BTreeSet;
use std::sync::Arc;

use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::url::ClientUrls;
use tokio::sync::MutexGuard;

use crate::desired::{Desired, is_better_told_by_set};
use crate::error::{RequestError, SubscribeError, UnsubscribeError};
use crate::receive::inbox::{EndReason, Inbox};
use crate::requests::Change;
use crate::state::{ClientState, Transport};
use crate::websocket::Link;

/// Opens a subscription to `interests`.
pub(crate) async fn open(
    state: &ClientState,
    interests: BTreeSet<Interest>,
) -> Result<Arc<Inbox>, SubscribeError> {
    let transport = state.transport().ok_or(SubscribeError::CannotReceive)?;
    let mut desired = state.desired.lock().await;
    if desired.closed || state.closing.is_cancelled() {
        return Err(SubscribeError::Closed);
    }
    let inbox = state.dispatch.open();
    let told = if interests.is_empty() && desired.handles() == 0 {
        // Even a subscription to nothing clears what a client before this one left behind.
        match transport {
            Transport::Http(urls) => set(state, urls, &mut desired).await,
            // Nothing outlives a websocket.
            Transport::WebSocket(_) => Ok(()),
        }
    } else {
        begin(state, transport, desired, &inbox, &interests).await
    };
    match told {
        Ok(()) => Ok(inbox),
        Err(error) => {
            state.dispatch.close(&inbox);
            Err(error.into())
        }
    }
}

/// The subscription wants this as well.
pub(crate) async fn add(
    state: &ClientState,
    inbox: &Inbox,
    interest: Interest,
) -> Result<(), SubscribeError> {
    let transport = state.transport().ok_or(SubscribeError::CannotReceive)?;
    let desired = state.desired.lock().await;
    if desired.closed || inbox.is_ended() {
        return Err(SubscribeError::Closed);
    }
    let interests = BTreeSet::from([interest]);
    Ok(begin(state, transport, desired, inbox, &interests).await?)
}

/// The subscription no longer wants this.
pub(crate) async fn remove(
    state: &ClientState,
    inbox: &Inbox,
    interest: &Interest,
) -> Result<(), UnsubscribeError> {
    let transport = state.transport().ok_or(UnsubscribeError::Closed)?;
    let desired = state.desired.lock().await;
    if desired.closed || inbox.is_ended() {
        return Err(UnsubscribeError::Closed);
    }
    if !state.dispatch.remove(inbox, interest) {
        return Ok(());
    }
    let interests = BTreeSet::from([interest.clone()]);
    Ok(end(state, transport, desired, &interests).await?)
}

/// The subscription no longer wants anything.
pub(crate) async fn close(state: &ClientState, inbox: &Inbox) -> Result<(), UnsubscribeError> {
    let transport = state.transport().ok_or(UnsubscribeError::Closed)?;
    // Before the lock: a broadcaster that is slow must not keep messages coming to somebody who
    // left.
    inbox.end(EndReason::Closed).wake();
    let desired = state.desired.lock().await;
    let interests = state.dispatch.close(inbox);
    if desired.closed {
        return Ok(());
    }
    Ok(end(state, transport, desired, &interests).await?)
}

/// Counts what the subscription wants in addition, and tells the broadcasters what is new. If they
/// do not do it, nothing is counted.
///
/// Requests end within their time-outs, so the lock is held until they do. Over a websocket an
/// answer may take for ever, while there is no connection: what is asked is put in order under the
/// lock, and waited for without it.
async fn begin(
    state: &ClientState,
    transport: Transport<'_>,
    mut desired: MutexGuard<'_, Desired>,
    inbox: &Inbox,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let before = desired.handles();
    // Messages may arrive before the answer does.
    let mut added = interests.clone();
    added.retain(|interest| state.dispatch.add(inbox, interest.clone()));
    let mut new = added.clone();
    new.retain(|interest| desired.add(interest));
    for interest in &new {
        if let Interest::Glob(glob) = interest
            && let Some(doubt) = glob.doubt()
        {
            tracing::warn!(?glob, %doubt, "a glob may not mean what was meant");
        }
    }
    let told = match transport {
        Transport::WebSocket(link) => {
            // What others want already may not be confirmed to them yet.
            let asked = link.ask(&added, true).await;
            drop(desired);
            let told = match asked {
                Ok(asked) => asked.answered().await,
                Err(error) => Err(error),
            };
            if told.is_err() {
                take_back(state, link, inbox, &added).await;
            }
            return told;
        }
        Transport::Http(_) if new.is_empty() => Ok(()),
        Transport::Http(urls) if is_better_told_by_set(before + new.len(), new.len()) => {
            set(state, urls, &mut desired).await
        }
        Transport::Http(urls) => subscribe_each(state, urls, &mut desired, &new).await,
    };
    if let Err(error) = &told {
        for interest in &added {
            desired.remove(interest);
            state.dispatch.remove(inbox, interest);
        }
        // The broadcasters may have it, and nobody here wants it.
        if error.is_ambiguous() {
            reconcile_soon(state, &mut desired, error);
        }
    }
    told
}

/// No longer counts what was asked for in one call of which a part was refused, and has the rest
/// unsubscribed, which is not waited for: what is not subscribed by now will not be.
async fn take_back(state: &ClientState, link: &Link, inbox: &Inbox, added: &BTreeSet<Interest>) {
    let mut desired = state.desired.lock().await;
    let mut gone = added.clone();
    // In the meantime the subscription may have let go of some of it.
    gone.retain(|interest| state.dispatch.remove(inbox, interest) && desired.remove(interest));
    if let Err(error) = link.ask(&gone, false).await {
        tracing::debug!(%error, "nothing is subscribed over a websocket that is given up");
    }
}

/// No longer counts these for one subscription, and tells the broadcasters what nobody wants now.
async fn end(
    state: &ClientState,
    transport: Transport<'_>,
    mut desired: MutexGuard<'_, Desired>,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let mut gone = interests.clone();
    gone.retain(|interest| desired.remove(interest));
    if desired.is_empty() {
        // What comes from now on is not wanted, so nobody misses it.
        state.numbers.forget();
    }
    let told = match transport {
        _ if gone.is_empty() => Ok(()),
        Transport::Http(urls) if is_better_told_by_set(desired.handles(), gone.len()) => {
            set(state, urls, &mut desired).await
        }
        Transport::Http(urls) => unsubscribe_each(state, urls, &gone).await,
        Transport::WebSocket(link) => {
            let asked = link.ask(&gone, false).await?;
            drop(desired);
            return asked.answered().await;
        }
    };
    if let Err(error) = &told {
        // Nobody here wants it, so whatever went wrong, the broadcasters have too much.
        desired.unsure = true;
        reconcile_soon(state, &mut desired, error);
    }
    told
}

/// Whatever is not clear now is put right by the next reconciliation.
fn reconcile_soon(state: &ClientState, desired: &mut Desired, error: &RequestError) {
    if !matches!(
        error,
        RequestError::Refused { .. } | RequestError::NotSent { .. }
    ) {
        desired.unsure = true;
        state.reconcile_now.notify_one();
    }
}

/// Tells all that is desired.
pub(crate) async fn set(
    state: &ClientState,
    urls: &ClientUrls,
    desired: &mut Desired,
) -> Result<(), RequestError> {
    state
        .requests
        .set(urls, &desired.set(&urls.recovery))
        .await?;
    // The list was taken as a whole, so both sides are the same now.
    desired.unsure = false;
    Ok(())
}

/// All of them, or none as far as that can be told. What a broadcaster says it had already, maybe
/// with another recovery url, is checked afterwards.
async fn subscribe_each(
    state: &ClientState,
    urls: &ClientUrls,
    desired: &mut Desired,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let mut done = BTreeSet::new();
    for interest in interests {
        match state.requests.subscribe(urls, interest).await {
            Ok(Change::Done) => {}
            Ok(Change::AlreadySo | Change::BecameSo) => state.reconcile_now.notify_one(),
            Err(error) => {
                if let Err(undone) = unsubscribe_each(state, urls, &done).await {
                    desired.unsure = true;
                    reconcile_soon(state, desired, &undone);
                }
                return Err(error);
            }
        }
        done.insert(interest.clone());
    }
    Ok(())
}

/// As many of them as possible. Returns the first error; those after a broadcaster that could not
/// be reached are not tried.
async fn unsubscribe_each(
    state: &ClientState,
    urls: &ClientUrls,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let mut first_error = None;
    for interest in interests {
        match state.requests.unsubscribe(urls, interest).await {
            Ok(Change::Done) => {}
            Ok(Change::AlreadySo | Change::BecameSo) => state.reconcile_now.notify_one(),
            Err(error) => {
                let refused = matches!(error, RequestError::Refused { .. });
                first_error.get_or_insert(error);
                if !refused {
                    break;
                }
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// The client no longer wants anything. Returns why something may be left at the broadcasters.
pub(crate) async fn close_all(state: &ClientState) -> Vec<RequestError> {
    let mut desired = state.desired.lock().await;
    if std::mem::replace(&mut desired.closed, true) {
        return Vec::new();
    }
    let left = std::mem::take(&mut *desired);
    desired.closed = true;
    let Some(urls) = &state.urls else {
        return Vec::new();
    };
    if left.is_empty() && !left.unsure {
        return Vec::new();
    }
    // One request for all. If that is refused or lost, each by itself may still work.
    let Err(error) = state.requests.set(urls, &SubscriptionSet::default()).await else {
        return Vec::new();
    };
    let each = left.set(&urls.recovery);
    let each = each.iter().map(|(interest, _)| interest).collect();
    match unsubscribe_each(state, urls, &each).await {
        Ok(()) if !left.unsure => Vec::new(),
        Ok(()) => vec![error],
        Err(second) => vec![error, second],
    }
}
