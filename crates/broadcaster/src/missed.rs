//! Tells subscribers that they may have missed something, until they know.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use httppubsub_net::{Post, PostError, chain, stamp};
use httppubsub_proto::auth::{AuthError, Claim};
use httppubsub_proto::http::{ConfirmMissed, MissedHead, UNSUBSCRIBE_IMMEDIATE};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{EndpointError, Origin};
use httppubsub_proto::wire::DecodeError;
use httppubsub_store::{ClaimedNotice, Missed, NoticeOutcome, StoreError};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cluster::shared_now;
use crate::core::Core;
use crate::index::Row;
use crate::measures;
use crate::quarantine::Verdict;

/// When a notice is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    AsScheduled,
    AtOnce,
}

/// Owes the subscriber of `row` a notice about `topic`; returns when that is durable.
pub(crate) async fn record(
    core: &Core,
    row: &Row,
    topic: &Topic,
    when: When,
) -> Result<(), StoreError> {
    let Some(scheduled) = core.config.missed.delay(0, rand::random()) else {
        return Ok(());
    };
    let delay = match when {
        When::AsScheduled => scheduled,
        When::AtOnce => Duration::ZERO,
    };
    let missed = Missed {
        url: row.subscriber.url.clone(),
        interest: row.interest.clone(),
        topic: topic.clone(),
        due: shared_now(core) + delay,
    };
    core.store.record_missed(missed).await?;
    core.missed_recorded.notify_one();
    Ok(())
}

/// Sends what is due, as it falls due, until the broadcaster stops. Whatever happens to one look,
/// the next one comes.
pub(crate) async fn sweep(core: Arc<Core>) {
    let under_way = Arc::new(UnderWay::default());
    loop {
        // A task of its own, so that a panic ends this look and not all looks.
        let look = core.tasks.spawn(look(core.clone(), under_way.clone()));
        let pause = match look.await {
            Ok(Ok(pause)) => pause,
            Ok(Err(error)) => {
                tracing::error!(%error, "cannot look for notices that are due; trying again");
                AFTER_FAILURE
            }
            Err(error) => {
                tracing::error!(%error, "the look for notices that are due broke off; trying again");
                AFTER_FAILURE
            }
        };
        core.swept.beat();
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = core.missed_recorded.notified() => {}
            () = under_way.ended.notified() => {}
            () = tokio::time::sleep(pause.min(core.config.sweep_interval)) => {}
        }
    }
}

const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Notices are due at whole seconds, so there is no use in looking more often.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// Starts what is due and returns how long to wait for the next.
async fn look(core: Arc<Core>, under_way: Arc<UnderWay>) -> Result<Duration, StoreError> {
    tokio::time::sleep(BETWEEN_LOOKS).await;
    let now = shared_now(&core);
    let room = core
        .config
        .missed_in_flight_max
        .saturating_sub(under_way.count());
    if room == 0 {
        return Ok(core.config.sweep_interval);
    }
    let lease = core.config.post.connect_timeout + 2 * core.config.post.answer_timeout;
    for notice in core.store.claim_missed(now, lease, room).await? {
        let target = core.poster.target(&notice.recovery).ok();
        let peer = target.map(|target| target.origin().clone());
        let turns = under_way.turns(peer, core.config.missed_in_flight_per_peer_max);
        let place = Place::take(&under_way);
        core.tasks
            .spawn(announce_in_turn(core.clone(), notice, turns, place));
    }
    let next = core.store.next_missed().await?;
    Ok(next.map_or(core.config.sweep_interval, |next| {
        next.since_unix()
            .saturating_sub(shared_now(&core).since_unix())
    }))
}

/// Sends a notice, unless its peer has no turn for it: it has to wait then, but not to lose its turn.
async fn announce_in_turn(
    core: Arc<Core>,
    notice: ClaimedNotice,
    turns: Arc<Semaphore>,
    place: Place,
) {
    let outcome = match tokio::time::timeout(PEER_PATIENCE, turns.acquire()).await {
        Ok(_turn) => announce(&core, &notice).await,
        Err(_) => NoticeOutcome::Retry {
            attempts: notice.attempts,
            due: shared_now(&core) + PEER_BUSY_DELAY,
        },
    };
    if let Err(error) = core.store.settle_missed(&notice, outcome).await {
        // Its lease ends, and it is sent once more than needed.
        tracing::error!(%error, "cannot write down what became of a notice");
    }
    drop(place);
}

/// For how long a notice keeps its place while it waits for a turn at its peer.
const PEER_PATIENCE: Duration = Duration::from_secs(1);

/// How long it waits then before it is claimed again.
const PEER_BUSY_DELAY: Duration = Duration::from_secs(3);

/// Sends one notice and says what is to become of it.
async fn announce(core: &Core, notice: &ClaimedNotice) -> NoticeOutcome {
    let (recovery, topic) = (&notice.recovery, &notice.topic);
    if core.others.is_silent(recovery) {
        return NoticeOutcome::Retry {
            attempts: notice.attempts,
            due: shared_now(core) + core.config.cluster.lease,
        };
    }
    let attempts = notice.attempts.saturating_add(1);
    match send(core, notice).await {
        Ok(()) => {
            let (url, interest) = (&notice.url, &notice.interest);
            let quarantine = core.quarantine.as_ref();
            if quarantine.is_some_and(|it| it.confirmed(url, interest)) {
                tracing::info!(%recovery, %interest, "out of quarantine");
            }
            tracing::info!(%recovery, %topic, attempts, "told a subscriber that it missed something");
            NoticeOutcome::Done
        }
        Err(NotTaken::Unwanted) if is_believed(core, notice) => {
            remove(core, notice).await;
            NoticeOutcome::Done
        }
        Err(error) => match core.config.missed.delay(attempts, rand::random()) {
            Some(delay) => {
                let why = chain(&error);
                tracing::info!(%recovery, %topic, attempts, why, "a notice was not taken; trying again later");
                NoticeOutcome::Retry {
                    attempts,
                    due: shared_now(core) + delay,
                }
            }
            None => {
                measures::notice_given_up();
                tracing::warn!(%recovery, %topic, attempts, "gave up telling a subscriber that it missed something");
                NoticeOutcome::Done
            }
        },
    }
}

/// Whether it was said often enough that the subscription is not wanted. The protocol has no such
/// answer to a notice, so it means something only of one that is in quarantine.
fn is_believed(core: &Core, notice: &ClaimedNotice) -> bool {
    let ClaimedNotice { url, interest, .. } = notice;
    let quarantine = core.quarantine.as_ref();
    let verdict = quarantine.and_then(|it| it.asked_again(url, interest, Instant::now()));
    verdict == Some(Verdict::Remove)
}

async fn remove(core: &Core, notice: &ClaimedNotice) {
    let ClaimedNotice { url, interest, .. } = notice;
    let removed = core.store.unsubscribe(url.clone(), interest.clone()).await;
    match removed {
        Ok(_) => {
            tracing::info!(subscriber = %url, %interest, "unsubscribed by its answer to a notice");
        }
        // It will answer so again.
        Err(error) => tracing::error!(subscriber = %url, %interest, %error, "cannot unsubscribe"),
    }
}

/// Why a notice may not have been taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("nothing can be posted to the recovery url")]
    Url(#[from] EndpointError),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("it answered with status {0}")]
    Status(http::StatusCode),
    #[error("it answered that this subscription is not wanted any more")]
    Unwanted,
    #[error("its answer makes no sense")]
    Answer(#[from] DecodeError),
    #[error("its confirmation is not vouched for")]
    Auth(#[from] AuthError),
}

async fn send(core: &Core, notice: &ClaimedNotice) -> Result<(), NotTaken> {
    let (recovery, topic) = (&notice.recovery, &notice.topic);
    let target = core.poster.target(recovery)?;
    let body = MissedHead {
        tracing: Default::default(),
        topic: topic.clone(),
    }
    .encode();
    let make = || {
        let claim = Claim::Missed {
            recovery: recovery.without_fragment(),
            topic,
        };
        Ok(Post {
            authorization: core
                .to_subscriber
                .authorize(&claim, &[], &stamp(core.clock.now()))?,
            repr_digest: None,
            head: body.clone().into(),
            payload: None,
        })
    };
    let answer = core.poster.post(&target, 0, make).await;
    let answer = answer.inspect_err(|error| core.forbidden.warn_of(error))?;
    if answer.body.starts_with(&UNSUBSCRIBE_IMMEDIATE) {
        return Err(NotTaken::Unwanted);
    }
    if !answer.status.is_success() {
        return Err(NotTaken::Status(answer.status));
    }
    let confirm = ConfirmMissed::decode(&answer.body)?;
    let now: Now = core.clock.now();
    let urls = [recovery.as_str(), recovery.without_fragment()];
    let (unspent, _) = httppubsub_net::first_that_verifies(&urls, |url| {
        let value = confirm.authorization.as_ref().map(String::as_bytes);
        let claim = Claim::ConfirmMissed { topic, url };
        core.to_broadcaster
            .verify(&claim, &confirm.tracing, value, now)
    })?;
    let _spent = core.guard.spend(unspent, now).await?;
    core.poster.notice_confirmed(&target, &notice.url);
    Ok(())
}

/// The notices being sent, and the turns they take at each peer: one that hangs holds no more than its
/// share.
#[derive(Debug, Default)]
struct UnderWay {
    count: AtomicUsize,
    turns: Mutex<HashMap<Option<Origin>, Arc<Semaphore>>>,
    ended: tokio::sync::Notify,
}

impl UnderWay {
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn turns(&self, peer: Option<Origin>, max: usize) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits at the others.
        turns.retain(|_, turns| Arc::strong_count(turns) > 1);
        let of_peer = turns.entry(peer);
        of_peer
            .or_insert_with(|| Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS))))
            .clone()
    }
}

/// Given back when it is dropped.
struct Place(Arc<UnderWay>);

impl Place {
    fn take(under_way: &Arc<UnderWay>) -> Self {
        under_way.count.fetch_add(1, Ordering::Relaxed);
        Self(under_way.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_one();
    }
}
