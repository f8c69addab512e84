//! Keeps durably which topics have notifications on their way: what a broadcaster that was killed had
//! begun is told as missed when it is back (`docs/reliability.md` F7). One small write for each topic
//! that is in use, not for each notification.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_store::{InFlight, StoreError};

use crate::cluster::shared_now;
use crate::core::Core;
use crate::in_flight::InUse;
use crate::index::Row;
use crate::missed::{self, When};

/// A notification on its way. If it is dropped before it is accounted for, everybody who may have
/// missed it is told so.
#[derive(Debug)]
pub(crate) struct OnItsWay {
    core: Arc<Core>,
    topic: Topic,
    in_use: Arc<InUse>,
    is_accounted_for: bool,
}

impl OnItsWay {
    /// What became of it is known, and written down where somebody missed it.
    pub(crate) fn accounted_for(mut self) {
        self.is_accounted_for = true;
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if self.is_accounted_for {
            one_less(&self.core, &self.in_use);
        } else if tokio::runtime::Handle::try_current().is_ok() {
            let (core, topic) = (self.core.clone(), self.topic.clone());
            let in_use = self.in_use.clone();
            self.core.tasks.spawn(make_good(core, topic, in_use));
        }
        // Otherwise the record stays, and is found at the next start.
    }
}

/// Tells everybody who may have missed something, however long that takes.
async fn make_good(core: Arc<Core>, topic: Topic, in_use: Arc<InUse>) {
    while let Err(error) = tell(&core, &topic).await {
        tracing::error!(%error, "cannot write down what was missed; trying again");
        tokio::select! {
            // The record stays, and is found at the next start.
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(BETWEEN_LOOKS) => {}
        }
    }
    one_less(&core, &in_use);
}

/// How long a record is good.
const GOOD_FOR: Duration = Duration::from_secs(120);

/// How long before its end it is made again.
const RENEWED_BEFORE: u64 = 60;

/// How long it is kept after the last notification, in seconds.
const KEPT_FOR: u64 = 10;

/// How often records are looked at.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// How often those of other broadcasters are: at each look of so many.
const LOOKS_AT_OTHERS: u64 = 12;

/// How many records are changed, and how many subscribers told, at once.
const AT_ONCE: usize = 256;

/// A notification begins: when this returns, that is durable.
pub(crate) async fn begin(core: &Arc<Core>, topic: &Topic) -> Result<OnItsWay, StoreError> {
    let in_use = core.in_flight.one_more(topic);
    if let Err(error) = record(core, topic, &in_use).await {
        one_less(core, &in_use);
        return Err(error);
    }
    Ok(OnItsWay {
        core: core.clone(),
        topic: topic.clone(),
        in_use,
        is_accounted_for: false,
    })
}

/// Makes a record that is good for some time, unless there is one.
async fn record(core: &Core, topic: &Topic, in_use: &InUse) -> Result<(), StoreError> {
    let is_good = || {
        let good_until = in_use.until.load(Ordering::Relaxed);
        good_until > shared_now(core).unix_seconds() + RENEWED_BEFORE
    };
    if is_good() {
        return Ok(());
    }
    let _turn = in_use.turn.lock().await;
    if is_good() {
        return Ok(());
    }
    let until = shared_now(core) + GOOD_FOR;
    let record = InFlight {
        broadcaster: core.receiver_url.clone(),
        topic: topic.clone(),
        until,
    };
    core.store.record_in_flight(record).await?;
    in_use.until.store(until.unix_seconds(), Ordering::Relaxed);
    Ok(())
}

fn one_less(core: &Core, in_use: &InUse) {
    core.in_flight.one_less(in_use, shared_now(core));
}

/// Keeps the records true until the broadcaster stops, and takes up those of broadcasters that do
/// not do that any more. Whatever happens to one look, the next one comes.
pub(crate) async fn look_after(core: Arc<Core>) {
    for number in 1_u64.. {
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = tokio::time::sleep(BETWEEN_LOOKS) => {}
        }
        // A task of its own, so that a panic ends this look and not all looks.
        match core.tasks.spawn(look(core.clone(), number)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot write down what is in flight; trying again");
            }
            Err(error) => {
                tracing::error!(%error, "the look at what is in flight broke off; trying again");
            }
        }
    }
}

async fn look(core: Arc<Core>, number: u64) -> Result<(), StoreError> {
    let now = shared_now(&core);
    renew(&core, now).await?;
    forget(&core, now.unix_seconds().saturating_sub(KEPT_FOR)).await?;
    // Others are not given up that soon.
    match number % LOOKS_AT_OTHERS {
        0 => take_up(&core, now).await,
        _ => Ok(()),
    }
}

async fn renew(core: &Core, now: Now) -> Result<(), StoreError> {
    let soon = now.unix_seconds() + RENEWED_BEFORE;
    let ending: Vec<(Topic, Arc<InUse>)> = {
        let topics = core.in_flight.topics();
        let ending = topics.iter().filter(|(_, it)| {
            it.notifications.load(Ordering::Relaxed) > 0 && it.until.load(Ordering::Relaxed) <= soon
        });
        ending
            .map(|(topic, it)| (topic.clone(), it.clone()))
            .collect()
    };
    stream::iter(ending)
        .map(|(topic, in_use)| async move { record(core, &topic, &in_use).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Forgets the topics that had no notification since then.
async fn forget(core: &Core, since: u64) -> Result<(), StoreError> {
    loop {
        let (mut unused, mut turns) = (Vec::new(), Vec::new());
        {
            let topics = core.in_flight.topics();
            let idle = topics.iter().filter(|(_, it)| {
                it.notifications.load(Ordering::Relaxed) == 0
                    && it.last.load(Ordering::Relaxed) <= since
            });
            for (topic, in_use) in idle {
                // Whoever begins from now on waits, and records it anew.
                if let Ok(turn) = in_use.turn.clone().try_lock_owned() {
                    in_use.until.store(0, Ordering::Relaxed);
                    unused.push(topic.clone());
                    turns.push(turn);
                }
                if unused.len() == AT_ONCE {
                    break;
                }
            }
        }
        if unused.is_empty() {
            return Ok(());
        }
        let forgotten = core
            .store
            .forget_in_flight(core.receiver_url.clone(), unused.clone());
        forgotten.await?;
        let mut topics = core.in_flight.topics();
        for topic in &unused {
            let is_unused = |it: &Arc<InUse>| it.notifications.load(Ordering::Relaxed) == 0;
            if topics.get(topic).is_some_and(is_unused) {
                topics.remove(topic);
            }
        }
    }
}

/// Nothing is in flight any more: all that was is accounted for.
pub(crate) async fn end(core: &Core) -> Result<(), StoreError> {
    forget(core, u64::MAX).await
}

/// Tells what an earlier life of this broadcaster had begun as missed. To be called before the first
/// notification; the telling goes on behind it.
pub(crate) async fn recover(core: &Arc<Core>) -> Result<(), StoreError> {
    let now = shared_now(core);
    let url = core.receiver_url.clone();
    let left = core.store.in_flight(url, now, usize::MAX).await?;
    let left: Vec<_> = left
        .into_iter()
        .filter(|it| it.broadcaster == core.receiver_url)
        .map(|it| {
            let in_use = Arc::<InUse>::default();
            in_use.notifications.store(1, Ordering::Relaxed);
            let mut topics = core.in_flight.topics();
            topics.insert(it.topic.clone(), in_use.clone());
            drop(topics);
            (it.topic, in_use)
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let topics = left.len();
    tracing::warn!(
        topics,
        "this broadcaster was killed while it delivered; telling who may have missed something"
    );
    let core = core.clone();
    core.clone().tasks.spawn(async move {
        for (topic, in_use) in left {
            make_good(core.clone(), topic, in_use).await;
        }
    });
    Ok(())
}

/// Tells what other broadcasters had begun that have not said for too long that they live.
async fn take_up(core: &Core, now: Now) -> Result<(), StoreError> {
    let url = core.receiver_url.clone();
    let kept = core.store.in_flight(url, now, usize::MAX).await?;
    for it in kept {
        if it.broadcaster == core.receiver_url {
            continue;
        }
        let (broadcaster, topic) = (&it.broadcaster, &it.topic);
        tracing::warn!(%broadcaster, ?topic, "another broadcaster ended while it delivered; telling who may have missed something");
        tell(core, topic).await?;
        let topics = vec![it.topic];
        core.store.forget_in_flight(it.broadcaster, topics).await?;
    }
    Ok(())
}

/// Owes everybody who may have missed something on this topic a notice.
async fn tell(core: &Core, topic: &Topic) -> Result<(), StoreError> {
    let rows = core.index.matching(topic).await;
    stream::iter(rows)
        .filter(|row| std::future::ready(is_told(core, row)))
        .map(|row| async move { missed::record(core, &row, topic, When::AsScheduled).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Whether the subscriber of this row is told when a delivery to it cannot be accounted for. Websockets
/// of this broadcaster end with it, and know.
pub(crate) fn is_told(core: &Core, row: &Row) -> bool {
    row.recovery.is_some() && row.subscriber.url != core.receiver_url
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::broadcaster::Broadcaster;
    use crate::config::{Authorizations, Config};
    use httppubsub_net::Clock;
    use httppubsub_proto::auth::Secrets;
    use httppubsub_proto::subscription::{Interest, Subscription};
    use httppubsub_proto::url::SubscriberUrl;
    use httppubsub_store::{MemoryStore, Store as _};

    fn url(text: &str) -> SubscriberUrl {
        SubscriberUrl::new(text).unwrap()
    }

    fn topic() -> Topic {
        Topic::new("t").unwrap()
    }

    /// A broadcaster whose clock stands, on a store where `t` is subscribed with a recovery url.
    async fn broadcaster(left: Option<InFlight>) -> (Broadcaster, Arc<MemoryStore>, Clock) {
        let clock = Clock::standing_at(Now::from_unix(Duration::from_secs(1_000)));
        let store = Arc::new(MemoryStore::new());
        let subscription = Subscription {
            url: url("http://127.0.0.1:9/"),
            interest: Interest::Exact(topic()),
            recovery: Some(url("http://127.0.0.1:9/recover")),
        };
        store.subscribe(subscription).await.unwrap();
        if let Some(left) = left {
            store.record_in_flight(left).await.unwrap();
        }
        let config = Config {
            clock: clock.clone(),
            ..Config::default()
        };
        let authorizations = Authorizations::from(&Secrets::NONE);
        let started = Broadcaster::start(config, store.clone(), authorizations);
        (started.await.unwrap(), store, clock)
    }

    async fn is_owed_a_notice(store: &MemoryStore) -> bool {
        store.next_missed().await.unwrap().is_some()
    }

    async fn kept(store: &MemoryStore) -> usize {
        let anybody = Now::from_unix(Duration::from_secs(1_000_000));
        let kept = store.in_flight(url("http://nobody/"), anybody, 100).await;
        kept.unwrap().len()
    }

    #[tokio::test]
    async fn what_another_broadcaster_left_is_told_when_it_was_silent_for_too_long() {
        let other = InFlight {
            broadcaster: url("http://other/"),
            topic: topic(),
            until: Now::from_unix(Duration::from_secs(1_100)),
        };
        let (broadcaster, store, clock) = broadcaster(Some(other)).await;
        let core = &broadcaster.core;
        take_up(core, clock.now()).await.unwrap();
        assert!(!is_owed_a_notice(&store).await);
        assert_eq!(kept(&store).await, 1);
        clock.set(Now::from_unix(Duration::from_secs(1_100)));
        take_up(core, clock.now()).await.unwrap();
        assert!(is_owed_a_notice(&store).await);
        assert_eq!(kept(&store).await, 0);
    }

    #[tokio::test]
    async fn a_notification_that_is_given_up_is_told_and_one_that_is_accounted_for_is_not() {
        let (broadcaster, store, clock) = broadcaster(None).await;
        let core = &broadcaster.core;
        let first = begin(core, &topic()).await.unwrap();
        begin(core, &topic()).await.unwrap().accounted_for();
        first.accounted_for();
        tokio::task::yield_now().await;
        assert!(!is_owed_a_notice(&store).await);
        assert_eq!(kept(&store).await, 1);
        drop(begin(core, &topic()).await.unwrap());
        while !is_owed_a_notice(&store).await {
            tokio::task::yield_now().await;
        }
        // It is forgotten some seconds after the last.
        forget(core, 999).await.unwrap();
        assert_eq!(kept(&store).await, 1);
        clock.set(Now::from_unix(Duration::from_secs(1_011)));
        forget(core, 1_001).await.unwrap();
        assert_eq!(kept(&store).await, 0);
        assert!(core.in_flight.topics().is_empty());
    }

    #[tokio::test]
    async fn a_record_is_made_again_before_it_ends_while_a_notification_takes_long() {
        let (broadcaster, store, clock) = broadcaster(None).await;
        let core = &broadcaster.core;
        let long = begin(core, &topic()).await.unwrap();
        let until = || async {
            let kept = store.in_flight(core.receiver_url.clone(), clock.now(), 9);
            kept.await.unwrap()[0].until.unix_seconds()
        };
        assert_eq!(until().await, 1_120);
        for (now, good_until) in [(1_050, 1_120), (1_061, 1_181), (1_130, 1_250)] {
            clock.set(Now::from_unix(Duration::from_secs(now)));
            renew(core, clock.now()).await.unwrap();
            assert_eq!(until().await, good_until, "{now}");
        }
        long.accounted_for();
    }
}
