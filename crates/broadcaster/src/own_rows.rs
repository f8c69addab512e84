//! Looks after the rows that stand for this broadcaster's websockets.

use std::sync::Arc;

use httppubsub_net::chain;
use httppubsub_proto::subscription::Subscription;
use httppubsub_store::StoreError;

use crate::core::Core;

/// Compares the rows with what the websockets want, again and again until the broadcaster stops: a
/// database may lose them that goes on from an older copy, or is shared with somebody who removes
/// them. What is lost is made again, and those who want it are told that they may have missed
/// something.
pub(crate) async fn look_after(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(core.config.sweep_interval) => {}
        }
        let own = core.clone();
        // A task of its own, so that a panic ends this time and not all.
        let mended = core.tasks.spawn(async move { mend(&own).await });
        match mended.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let reason = chain(&error);
                tracing::error!(reason, "cannot look after what websockets want");
            }
            Err(error) => tracing::error!(%error, "looking after what websockets want broke off"),
        }
    }
}

async fn mend(core: &Arc<Core>) -> Result<(), StoreError> {
    // What is there now is known after this, and what is wanted now may be on its way.
    core.store.catch_up().await?;
    let own = core.clone();
    let lost = tokio::task::spawn_blocking(move || {
        let mut wanted = own.hub.wanted_rows();
        wanted.retain(|interest| !own.index.has(&own.receiver_url, interest));
        wanted
    });
    let mut mended = 0;
    for interest in lost.await.unwrap_or_default() {
        let subscription = Subscription {
            url: core.receiver_url.clone(),
            interest,
            recovery: Some(core.missed_url.clone()),
        };
        mended += u64::from(core.hub.mend(&*core.store, subscription).await?);
    }
    if mended > 0 {
        tracing::error!(
            subscriptions = mended,
            "the database had lost what websockets want; it is there again, and they are told"
        );
    }
    Ok(())
}
