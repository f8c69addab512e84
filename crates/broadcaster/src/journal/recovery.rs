//! Recovery: tells as missed what this broadcaster, an earlier life of it or another one left
//! unfinished.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_store::StoreError;

use crate::journal::journal::{AT_ONCE, BETWEEN_LOOKS, Journal};
use crate::journal::topics::InUse;
use crate::notices::notices::When;

impl Journal {
    /// Tells what an earlier life of this broadcaster had begun as missed. To be called before the
    /// first notification; the telling goes on behind it.
    ///
    /// A kill leaves the topics, not the messages: subscribers hear that they missed something,
    /// also those whose delivery was confirmed a moment before.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let left = self.store.in_flight(self.own.clone(), now, usize::MAX);
        let left = left.await?.into_iter();
        let left: Vec<_> = left
            .filter(|it| it.broadcaster == self.own)
            .map(|it| {
                let in_use = Arc::<InUse>::default();
                // In use until notices are owed, so that the record stays for as long.
                in_use.notifications.store(1, Ordering::Relaxed);
                let mut topics = self.topics.lock();
                topics.insert(it.topic.clone(), in_use.clone());
                drop(topics);
                (it.topic, in_use)
            })
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            topics = left.len(),
            "this broadcaster was killed while it delivered; telling who may have missed something"
        );
        // Behind the start: there may be many, and new notifications need not wait for them.
        let journal = self.clone();
        self.background.tasks.spawn(async move {
            for (topic, in_use) in left {
                journal.clone().settle_as_missed(topic, in_use).await;
            }
        });
        Ok(())
    }

    /// Tells what other broadcasters had begun that have not said for too long that they live.
    pub(super) async fn take_over(&self, now: Now) -> Result<(), StoreError> {
        let kept = self.store.in_flight(self.own.clone(), now, usize::MAX);
        for it in kept.await? {
            if it.broadcaster == self.own {
                continue;
            }
            let (broadcaster, topic) = (&it.broadcaster, &it.topic);
            tracing::warn!(
                %broadcaster,
                ?topic,
                "another broadcaster ended while it delivered; \
                 telling who may have missed something"
            );
            self.owe_notices(topic).await?;
            // Forgotten only now: if this one is killed as well, a third takes over.
            let topics = vec![it.topic];
            self.store.forget_in_flight(it.broadcaster, topics).await?;
        }
        Ok(())
    }

    /// Ends the entry of a notification whose deliveries are not accounted for: everybody who may
    /// have missed something is owed a notice, however long that takes to record.
    pub(super) async fn settle_as_missed(self: Arc<Self>, topic: Topic, in_use: Arc<InUse>) {
        while let Err(error) = self.owe_notices(&topic).await {
            tracing::error!(%error, "cannot write down what was missed; trying again");
            tokio::select! {
                // The record stays, and is found at the next start.
                () = self.background.shutdown.cancelled() => return,
                () = tokio::time::sleep(BETWEEN_LOOKS) => {}
            }
        }
        self.leave(&in_use);
    }

    /// Owes everybody who may have missed something on `topic` a notice.
    async fn owe_notices(&self, topic: &Topic) -> Result<(), StoreError> {
        for found in self.index.matching(topic).await {
            // One notice tells of all rows of a group.
            let told = found.groups();
            let told = told.filter_map(|rows| rows.iter().find(|row| row.is_journaled()));
            let told: Vec<_> = told.cloned().collect();
            stream::iter(told)
                .map(|row| async move { self.notices.record(&row, topic, When::AsScheduled).await })
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }
}
