//! Says that this broadcaster lives, hears of others on the same store, and shares with them what time it
//! is and which authorizations were used.

use std::sync::Arc;

use httppubsub_net::Spent;
use httppubsub_proto::auth::{AuthError, REPLAY_MEMORY, Unspent};
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::time::Now;
use httppubsub_store::{Alive, Cluster, StoreError};

use crate::core::Core;
use crate::others::Known;

/// What time it is for all who share the store: leases and what is due go by it, whatever the clocks
/// of their machines say.
pub(crate) fn shared_now(core: &Core) -> Now {
    core.others.at(core.clock.now())
}

/// Says for the first time that this broadcaster lives. Nothing is left of an earlier life: its
/// websockets ended with it.
pub(crate) async fn join(core: &Core) -> Result<(), StoreError> {
    let Some(cluster) = core.store.cluster() else {
        return Ok(());
    };
    say(core, cluster).await?;
    let of_nobody = core
        .store
        .set(core.receiver_url.clone(), SubscriptionSet::default())
        .await?;
    if of_nobody.removed > 0 {
        let subscriptions = of_nobody.removed;
        tracing::info!(
            subscriptions,
            "removed what the websockets of an earlier life wanted"
        );
    }
    Ok(())
}

/// Goes on to say so until the broadcaster stops.
pub(crate) async fn stay(core: Arc<Core>) {
    if core.store.cluster().is_none() {
        return;
    }
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(core.config.cluster.lease / 4) => {}
        }
        let own = core.clone();
        // A task of its own, so that a panic ends this time and not all.
        let said = core.tasks.spawn(async move {
            match own.store.cluster() {
                Some(cluster) => say(&own, cluster).await,
                None => Ok(()),
            }
        });
        match said.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot tell other broadcasters that this one lives");
            }
            Err(error) => {
                tracing::error!(%error, "telling others that this one lives broke off");
            }
        }
    }
}

/// Says that this broadcaster stops, and that nobody is to wait for it.
pub(crate) async fn leave(core: &Core) -> Result<(), StoreError> {
    match core.store.cluster() {
        Some(cluster) => cluster.gone(core.receiver_url.clone()).await,
        None => Ok(()),
    }
}

async fn say(core: &Core, cluster: &dyn Cluster) -> Result<(), StoreError> {
    let others = &core.others;
    let sessions_max = core.config.websockets.sessions_max;
    let alive = Alive {
        url: core.receiver_url.clone(),
        instance: others.instance(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        websockets: sessions_max.saturating_sub(core.sessions.available_permits()),
    };
    let heard = cluster.alive(alive, core.config.cluster.lease).await?;
    match others.learn(&core.receiver_url, core.clock.now(), &heard) {
        Known::AsItIs => {}
        Known::Forgotten => {
            tracing::warn!(
                "others have forgotten this broadcaster, which was silent for too long: \
                 its websockets are ended, so that they subscribe again"
            );
            core.hub.begin_anew().await;
        }
        Known::ByAnother => {
            tracing::error!(
                url = %core.receiver_url,
                "another broadcaster says that this is its url: give each its own (--advertise)"
            );
        }
    }
    core.hub
        .remove_unwanted(&*core.store, &core.receiver_url)
        .await?;
    for it in &heard.broadcasters {
        let silent_for = heard.now.since_unix().saturating_sub(it.until.since_unix());
        if it.url != core.receiver_url
            && silent_for > core.config.cluster.forget_after
            && cluster.forget(it.url.clone()).await?
        {
            let (broadcaster, seconds) = (&it.url, silent_for.as_secs());
            tracing::warn!(%broadcaster, seconds, "forgot a broadcaster that is silent");
        }
    }
    Ok(())
}

/// Spends an authorization here and, if that is wished for, at all other broadcasters.
pub(crate) async fn spend(core: &Core, unspent: Unspent, now: Now) -> Result<Spent, AuthError> {
    let spent = core.guard.spend(unspent, now).await?;
    let (Some(code), Some(cluster)) = (spent.code(), guard_of_all(core)) else {
        return Ok(spent);
    };
    match cluster.spend(*code.as_bytes(), REPLAY_MEMORY).await {
        Ok(true) => Ok(spent),
        Ok(false) => Err(AuthError::Replayed),
        Err(error) => {
            core.guard.release(spent, now);
            tracing::error!(%error, "cannot tell whether an authorization was used elsewhere");
            Err(AuthError::Unavailable("the store does not answer"))
        }
    }
}

/// Takes back that an authorization was spent: here at once, and soon everywhere.
pub(crate) fn release(core: &Core, spent: Spent, now: Now) {
    if let (Some(code), Some(_)) = (spent.code(), guard_of_all(core)) {
        let (code, store) = (*code.as_bytes(), core.store.clone());
        core.tasks.spawn(async move {
            if let Some(cluster) = store.cluster()
                && let Err(error) = cluster.release(code).await
            {
                tracing::warn!(%error, "cannot tell others that an authorization may be used again");
            }
        });
    }
    core.guard.release(spent, now);
}

fn guard_of_all(core: &Core) -> Option<&dyn Cluster> {
    let is_shared = core.config.cluster.replay_shared;
    core.store.cluster().filter(|_| is_shared)
}
