//! Heartbeats: say that this broadcaster lives, and hear of others on the same store.
//!
//! One statement does both: it renews the lease of this broadcaster and returns all others with the
//! time of the database. What follows from the response is done at once: sessions end when others
//! have forgotten this broadcaster, or when another has its url; broadcasters silent for long are
//! forgotten, with the rows of their websockets.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{Cluster, Heartbeat, Member, Store, StoreError};

use crate::background::Background;
use crate::cluster::membership::{Membership, Standing};
use crate::cluster::shared_clock::SharedClock;
use crate::config::ClusterConfig;
use crate::hub::hub::Hub;
use crate::hub::session_places::SessionPlaces;

/// The heartbeats of one broadcaster, and what follows from the responses.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    /// Has a [`Cluster`] part if it is shared. If not, no heartbeats are sent.
    pub(crate) store: Arc<dyn Store>,
    /// Learns from each response who lives.
    pub(crate) membership: Arc<Membership>,
    /// Tells the time at which a response was received.
    pub(crate) clock: Arc<SharedClock>,
    /// Its sessions end when others have forgotten this broadcaster, and its rows with it.
    pub(crate) hub: Arc<Hub>,
    /// The number of websockets is part of a heartbeat.
    pub(crate) places: Arc<SessionPlaces>,
    /// The lease, and when a silent broadcaster is forgotten.
    pub(crate) config: ClusterConfig,
    /// Ends the rounds when the broadcaster stops.
    pub(crate) background: Background,
}

/// A broadcaster cannot join the others.
#[derive(Debug)]
pub(crate) enum JoinError {
    /// The store does not answer, or refuses.
    Store(StoreError),
    /// Another that lives has the url of this one.
    Taken,
}

impl From<StoreError> for JoinError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Pause between two claims of a url that another has. One that lives renews its lease within 5 s
/// by default, so a few claims tell.
const BETWEEN_CLAIMS: Duration = Duration::from_secs(1);

impl Heartbeats {
    /// Says for the first time that this broadcaster lives. Nothing is left of an earlier life: its
    /// websockets ended with it. `keeps_identity` says that it comes back with the same identity.
    pub(crate) async fn join(&self, keeps_identity: bool) -> Result<(), JoinError> {
        // An identity that is not kept never comes back to say that it has moved.
        let (identity, own_url) = (self.membership.identity(), self.own_url().clone());
        if keeps_identity && let Some(before) = self.store.move_to(identity, own_url).await? {
            tracing::info!(
                %before,
                "removed what websockets wanted at the address of an earlier life"
            );
        }
        let Some(cluster) = self.store.cluster() else {
            return Ok(());
        };
        self.take_url(cluster).await?;
        // Nobody else removes them: others believe that they are wanted for as long as this one
        // lives.
        let nothing = SubscriptionSet::default();
        let of_nobody = self.store.set(self.own_url().clone(), nothing).await?;
        if of_nobody.removed > 0 {
            let subscriptions = of_nobody.removed;
            tracing::info!(
                subscriptions,
                "removed what the websockets of an earlier life wanted"
            );
        }
        Ok(())
    }

    /// Says that this broadcaster lives when no other says so of the same url. One that was killed
    /// is believed to live until its lease ends, if it has left no identity that this one has; one
    /// that says so again meanwhile does live.
    async fn take_url(&self, cluster: &dyn Cluster) -> Result<(), JoinError> {
        let mut seen = None;
        while let Some(holder) = self.beat(cluster).await? {
            // Only one that lives says so again: a lease that is left over is never renewed.
            if seen.is_some_and(|seen| holder.seen > seen) {
                return Err(JoinError::Taken);
            }
            if seen.replace(holder.seen).is_none() {
                tracing::warn!(
                    url = %self.own_url(),
                    "another broadcaster has this url; waiting whether it lives (--advertise)"
                );
            }
            tokio::time::sleep(BETWEEN_CLAIMS).await;
        }
        Ok(())
    }

    /// Sends a heartbeat four times in each lease until the broadcaster stops.
    pub(crate) async fn run(self: Arc<Self>) {
        if self.store.cluster().is_none() {
            return;
        }
        // Three may be lost before others believe that this one has ended.
        let pause = self.config.lease / 4;
        let what = "telling other broadcasters that this one lives";
        let round = || {
            let own = self.clone();
            async move {
                match own.store.cluster() {
                    Some(cluster) => own.beat(cluster).await.map(drop),
                    None => Ok(()),
                }
            }
        };
        self.background.repeat(pause, what, round).await;
    }

    /// Says that this broadcaster stops, and that nobody is to wait for it. Others then wait for no
    /// lease, and deliver nothing more to it.
    pub(crate) async fn leave(&self) -> Result<(), StoreError> {
        match self.store.cluster() {
            Some(cluster) => {
                let identity = self.membership.identity();
                cluster.leave(self.own_url().clone(), identity).await
            }
            None => Ok(()),
        }
    }

    /// Sends a heartbeat and acts on the response. Returns the other broadcaster that has the url
    /// of this one, if there is one.
    async fn beat(&self, cluster: &dyn Cluster) -> Result<Option<Member>, StoreError> {
        let membership = &self.membership;
        let heartbeat = Heartbeat {
            url: self.own_url().clone(),
            identity: membership.identity(),
            instance: membership.instance(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            websockets: self.places.taken(),
        };
        let view = cluster.heartbeat(heartbeat, self.config.lease).await?;
        // One that has not joined yet has no sessions.
        let was_displaced = membership.displaced().is_some();
        match membership.apply(self.own_url(), self.clock.local(), &view) {
            Standing::AsItIs => {}
            Standing::Forgotten => {
                tracing::warn!(
                    "others have forgotten this broadcaster, which was silent for too long: \
                     its websockets are ended, so that they subscribe again"
                );
                self.hub.begin_anew().await;
            }
            Standing::ByAnother => {
                tracing::error!(
                    url = %self.own_url(),
                    "another broadcaster has the url of this one: give each its own (--advertise)"
                );
                if !was_displaced {
                    // Nothing of what they want is delivered here any longer.
                    self.hub.begin_anew().await;
                }
                return Ok(view.holder);
            }
        }
        // Rows that could not be removed when the store failed; it answers now.
        self.hub.remove_unwanted().await?;
        for it in &view.broadcasters {
            let silent_for = view.now.since_unix().saturating_sub(it.until.since_unix());
            if it.url != *self.own_url()
                && silent_for > self.config.forget_after
                && cluster.forget(it.url.clone()).await?
            {
                let (broadcaster, seconds) = (&it.url, silent_for.as_secs());
                tracing::warn!(%broadcaster, seconds, "forgot a broadcaster that is silent");
            }
        }
        Ok(None)
    }

    /// The url that stands for this broadcaster in the store.
    fn own_url(&self) -> &SubscriberUrl {
        self.hub.url()
    }
}
