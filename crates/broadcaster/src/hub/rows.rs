//! Looks after the rows that stand for this broadcaster's websockets.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_store::{Store, StoreError};

use crate::background::Background;
use crate::hub::hub::Hub;
use crate::index::index::Index;

/// The rows in the store, compared with the interests of websockets.
#[derive(Clone, Debug)]
pub(crate) struct RowCheck {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) index: Arc<Index>,
    pub(crate) hub: Arc<Hub>,
}

impl RowCheck {
    /// Compares after each `pause` until the broadcaster stops. A database may lose rows when it
    /// goes on from an older copy, or when others remove them. Lost rows are made again, and their
    /// sessions get MISSED.
    pub(crate) async fn run(self, pause: Duration, background: Background) {
        let what = "looking after what websockets want";
        let round = || self.clone().mend();
        background.repeat(pause, what, round).await;
    }

    async fn mend(self) -> Result<(), StoreError> {
        // What is there now is known after this, and what is wanted now may be on its way.
        self.store.catch_up().await?;
        let Self { index, hub, .. } = self.clone();
        // There may be hundreds of thousands, and other tasks must not wait for the comparison.
        let lost = tokio::task::spawn_blocking(move || {
            let mut wanted = hub.wanted_rows();
            wanted.retain(|interest| !index.has(hub.url(), interest));
            wanted
        });
        let mut mended = 0;
        // Asked one by one under the lock of each row, because a session may just have left.
        for interest in lost.await.unwrap_or_default() {
            mended += u64::from(self.hub.mend(&interest).await?);
        }
        if mended > 0 {
            tracing::error!(
                subscriptions = mended,
                "the database had lost what websockets want; it is there again, and they are told"
            );
        }
        Ok(())
    }
}
