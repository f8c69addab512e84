//! Says that this broadcaster lives, hears of others on the same store, and shares with them what time it
//! is and which authorizations were used.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::Spent;
use httppubsub_proto::auth::{AuthError, REPLAY_MEMORY, Unspent};
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::time::Now;
use httppubsub_store::{Alive, Cluster, Seen, StoreError};

use crate::core::Core;
use crate::others::Known;

/// What time it is for all who share the store: leases and what is due go by it, whatever the clocks
/// of their machines say.
pub(crate) fn shared_now(core: &Core) -> Now {
    core.others.at(core.steady.now())
}

/// Why a broadcaster cannot join the others.
#[derive(Debug)]
pub(crate) enum JoinError {
    Store(StoreError),
    /// Another that lives has the url of this one.
    Taken,
}

impl From<StoreError> for JoinError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Says for the first time that this broadcaster lives. Nothing is left of an earlier life: its
/// websockets ended with it.
pub(crate) async fn join(core: &Core) -> Result<(), JoinError> {
    let (identity, url) = (core.others.identity(), core.receiver_url.clone());
    if let Some(before) = core.store.move_to(identity, url).await? {
        tracing::info!(%before, "removed what websockets wanted at the address of an earlier life");
    }
    let Some(cluster) = core.store.cluster() else {
        return Ok(());
    };
    take_url(core, cluster).await?;
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

/// Says that this broadcaster lives when no other says so of the same url. One that was killed is
/// believed to live until its lease ends, if it has left no identity that this one has; one that says
/// so again meanwhile does live.
async fn take_url(core: &Core, cluster: &dyn Cluster) -> Result<(), JoinError> {
    let mut seen = None;
    while let Some(holder) = say(core, cluster).await? {
        if seen.is_some_and(|seen| holder.seen > seen) {
            return Err(JoinError::Taken);
        }
        if seen.replace(holder.seen).is_none() {
            let url = &core.receiver_url;
            tracing::warn!(
                %url,
                "another broadcaster has this url; waiting whether it lives (--advertise)"
            );
        }
        tokio::time::sleep(BETWEEN_CLAIMS).await;
    }
    Ok(())
}

/// How often a url is claimed that another has.
const BETWEEN_CLAIMS: Duration = Duration::from_secs(1);

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
                Some(cluster) => say(&own, cluster).await.map(drop),
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
        Some(cluster) => {
            let url = core.receiver_url.clone();
            cluster.gone(url, core.others.identity()).await
        }
        None => Ok(()),
    }
}

/// Returns who has the url of this broadcaster, if that is another.
async fn say(core: &Core, cluster: &dyn Cluster) -> Result<Option<Seen>, StoreError> {
    let others = &core.others;
    let sessions_max = core.config.websockets.sessions_max;
    let alive = Alive {
        url: core.receiver_url.clone(),
        identity: others.identity(),
        instance: others.instance(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        websockets: sessions_max.saturating_sub(core.sessions.available_permits()),
    };
    let heard = cluster.alive(alive, core.config.cluster.lease).await?;
    // One that has not joined yet has no sessions.
    let was_displaced = others.displaced().is_some();
    match others.learn(&core.receiver_url, core.steady.now(), &heard) {
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
                "another broadcaster has the url of this one: give each its own (--advertise)"
            );
            if !was_displaced {
                // Nothing of what they want is delivered here any longer.
                core.hub.begin_anew().await;
            }
            return Ok(heard.holder);
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
    Ok(None)
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

/// The same for a request from `address`, within its share of what is remembered.
pub(crate) async fn spend_from(
    core: &Core,
    address: Option<IpAddr>,
    unspent: Unspent,
    now: Now,
) -> Result<Spent, AuthError> {
    let Some(address) = address else {
        return spend(core, unspent, now).await;
    };
    if !core.spenders.have_share(address, &core.guard, now) {
        return Err(AuthError::Unavailable(
            "this address has used its share of what the replay guard remembers",
        ));
    }
    let spent = spend(core, unspent, now).await?;
    if spent.code().is_some() {
        core.spenders.spent(address, now);
    }
    Ok(spent)
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
