//! Changes of what is subscribed: counted here, told to the broadcasters where it makes a
//! difference (`docs/protocol/stateless.md` §9).
//!
//! Each runs as a task of the client, so that a caller who stops waiting leaves nothing half done.

use std::collections::BTreeSet;
use std::sync::Arc;

use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::url::ClientUrls;

use crate::core::{Core, Way};
use crate::error::{RequestError, SubscribeError, UnsubscribeError};
use crate::http::Told;
use crate::inbox::Inbox;
use crate::wanted::{Wanted, is_better_told_by_set};

/// Opens a subscription to `interests`.
pub(crate) async fn open(
    core: &Core,
    interests: BTreeSet<Interest>,
) -> Result<Arc<Inbox>, SubscribeError> {
    let way = core.way().ok_or(SubscribeError::CannotReceive)?;
    let mut wanted = core.wanted.lock().await;
    if wanted.closed || core.closing.is_cancelled() {
        return Err(SubscribeError::Closed);
    }
    let inbox = core.dispatch.open();
    let told = if interests.is_empty() && wanted.handles() == 0 {
        // Even a subscription to nothing clears what a client before this one left behind.
        match way {
            Way::Http(urls) => set(core, urls, &mut wanted).await,
            // Nothing outlives a websocket.
            Way::WebSocket(_) => Ok(()),
        }
    } else {
        begin(core, way, &mut wanted, &inbox, &interests).await
    };
    match told {
        Ok(()) => Ok(inbox),
        Err(error) => {
            core.dispatch.close(&inbox);
            Err(error.into())
        }
    }
}

/// The subscription wants this as well.
pub(crate) async fn add(
    core: &Core,
    inbox: &Inbox,
    interest: Interest,
) -> Result<(), SubscribeError> {
    let way = core.way().ok_or(SubscribeError::CannotReceive)?;
    let mut wanted = core.wanted.lock().await;
    if wanted.closed || inbox.is_ended() {
        return Err(SubscribeError::Closed);
    }
    let interests = BTreeSet::from([interest]);
    Ok(begin(core, way, &mut wanted, inbox, &interests).await?)
}

/// The subscription does not want this any more.
pub(crate) async fn remove(
    core: &Core,
    inbox: &Inbox,
    interest: &Interest,
) -> Result<(), UnsubscribeError> {
    let way = core.way().ok_or(UnsubscribeError::Closed)?;
    let mut wanted = core.wanted.lock().await;
    if wanted.closed || inbox.is_ended() {
        return Err(UnsubscribeError::Closed);
    }
    if !core.dispatch.remove(inbox, interest) {
        return Ok(());
    }
    let interests = BTreeSet::from([interest.clone()]);
    Ok(end(core, way, &mut wanted, &interests).await?)
}

/// The subscription wants nothing any more.
pub(crate) async fn close(core: &Core, inbox: &Inbox) -> Result<(), UnsubscribeError> {
    let way = core.way().ok_or(UnsubscribeError::Closed)?;
    inbox.end();
    let mut wanted = core.wanted.lock().await;
    let interests = core.dispatch.close(inbox);
    if wanted.closed {
        return Ok(());
    }
    Ok(end(core, way, &mut wanted, &interests).await?)
}

/// Counts what the subscription wants in addition, and tells the broadcasters what is new. If they
/// do not do it, nothing is counted.
async fn begin(
    core: &Core,
    way: Way<'_>,
    wanted: &mut Wanted,
    inbox: &Inbox,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let before = wanted.handles();
    // Messages may arrive before the answer does.
    let mut added = interests.clone();
    added.retain(|interest| core.dispatch.add(inbox, interest.clone()));
    let mut new = added.clone();
    new.retain(|interest| wanted.add(interest));
    for interest in &new {
        if let Interest::Glob(glob) = interest
            && let Some(doubt) = glob.doubt()
        {
            tracing::warn!(?glob, %doubt, "a glob may not mean what was meant");
        }
    }
    let told = match way {
        _ if new.is_empty() => Ok(()),
        Way::Http(urls) if is_better_told_by_set(before + new.len(), new.len()) => {
            set(core, urls, wanted).await
        }
        Way::Http(urls) => subscribe_each(core, urls, wanted, &new).await,
        Way::WebSocket(link) => link.subscribe(&new).await,
    };
    if let Err(error) = &told {
        for interest in &added {
            wanted.remove(interest);
            core.dispatch.remove(inbox, interest);
        }
        if error.is_ambiguous() {
            doubt(core, wanted, error);
        }
    }
    told
}

/// No longer counts these for one subscription, and tells the broadcasters what nobody wants now.
async fn end(
    core: &Core,
    way: Way<'_>,
    wanted: &mut Wanted,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let mut gone = interests.clone();
    gone.retain(|interest| wanted.remove(interest));
    let told = match way {
        _ if gone.is_empty() => Ok(()),
        Way::Http(urls) if is_better_told_by_set(wanted.handles(), gone.len()) => {
            set(core, urls, wanted).await
        }
        Way::Http(urls) => unsubscribe_each(core, urls, &gone).await,
        Way::WebSocket(link) => link.unsubscribe(&gone).await,
    };
    if let Err(error) = &told {
        // Nobody here wants it, so whatever went wrong, the broadcasters have too much.
        wanted.unsure = true;
        doubt(core, wanted, error);
    }
    told
}

/// Whatever is not clear now is put right by the next reconciliation.
fn doubt(core: &Core, wanted: &mut Wanted, error: &RequestError) {
    if !matches!(
        error,
        RequestError::Refused { .. } | RequestError::NotSent { .. }
    ) {
        wanted.unsure = true;
        core.doubt.notify_one();
    }
}

/// Tells all that is wanted.
pub(crate) async fn set(
    core: &Core,
    urls: &ClientUrls,
    wanted: &mut Wanted,
) -> Result<(), RequestError> {
    core.requests.set(urls, &wanted.set(&urls.recovery)).await?;
    wanted.unsure = false;
    Ok(())
}

/// All of them, or none as far as that can be told. What a broadcaster says it had already, maybe
/// with another recovery url, is checked afterwards.
async fn subscribe_each(
    core: &Core,
    urls: &ClientUrls,
    wanted: &mut Wanted,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let mut done = BTreeSet::new();
    for interest in interests {
        match core.requests.subscribe(urls, interest).await {
            Ok(Told::Done) => {}
            Ok(Told::WasSo | Told::BecameSo) => core.doubt.notify_one(),
            Err(error) => {
                if let Err(undone) = unsubscribe_each(core, urls, &done).await {
                    wanted.unsure = true;
                    doubt(core, wanted, &undone);
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
    core: &Core,
    urls: &ClientUrls,
    interests: &BTreeSet<Interest>,
) -> Result<(), RequestError> {
    let mut first_error = None;
    for interest in interests {
        match core.requests.unsubscribe(urls, interest).await {
            Ok(Told::Done) => {}
            Ok(Told::WasSo | Told::BecameSo) => core.doubt.notify_one(),
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

/// The client wants nothing any more. Returns why something may be left at the broadcasters.
pub(crate) async fn close_all(core: &Core) -> Vec<RequestError> {
    let mut wanted = core.wanted.lock().await;
    if std::mem::replace(&mut wanted.closed, true) {
        return Vec::new();
    }
    let left = std::mem::take(&mut *wanted);
    wanted.closed = true;
    let Some(urls) = &core.urls else {
        return Vec::new();
    };
    if left.is_empty() && !left.unsure {
        return Vec::new();
    }
    let Err(error) = core.requests.set(urls, &SubscriptionSet::default()).await else {
        return Vec::new();
    };
    let each = left.set(&urls.recovery);
    let each = each.iter().map(|(interest, _)| interest).collect();
    match unsubscribe_each(core, urls, &each).await {
        Ok(()) if !left.unsure => Vec::new(),
        Ok(()) => vec![error],
        Err(second) => vec![error, second],
    }
}
