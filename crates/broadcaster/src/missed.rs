//! Tells subscribers that they may have missed something, until they know.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
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
use crate::urls;

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
    let under_way = Arc::new(UnderWay::new(&core));
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

/// How many notices may be held at once: those under way, and those that wait for their turn.
const HELD_MAX: usize = 1_024;

/// One peer has this fraction of them: others have their turn whatever is due there.
const PEER_SHARE: usize = 4;

/// How many are written back at once.
const AT_ONCE: usize = 256;

/// Starts what is due and returns how long to wait for the next.
async fn look(core: Arc<Core>, under_way: Arc<UnderWay>) -> Result<Duration, StoreError> {
    tokio::time::sleep(BETWEEN_LOOKS).await;
    let lease = core.config.post.connect_timeout + 2 * core.config.post.answer_timeout;
    loop {
        let room = HELD_MAX.saturating_sub(under_way.count());
        if room == 0 {
            return Ok(core.config.sweep_interval);
        }
        let now = shared_now(&core);
        let due = core.store.claim_missed(now, lease, room).await?;
        let is_all = due.len() < room;
        let mut postponed = Vec::new();
        for notice in due {
            let target = core.poster.target(&notice.recovery).ok();
            let peer = under_way.peer(target.map(|target| target.origin().clone()));
            match Place::take(&under_way, &peer) {
                Some(place) => {
                    core.tasks
                        .spawn(announce_in_turn(core.clone(), notice, place));
                }
                None => postponed.push((notice, now + peer.postpone(Instant::now()))),
            }
        }
        settle(&core, postponed).await?;
        if is_all {
            break;
        }
    }
    let Some(next) = core.store.next_missed().await? else {
        return Ok(core.config.sweep_interval);
    };
    let now = shared_now(&core);
    if next > now + core.config.missed.delay_max().max(POSTPONED_MAX) + lease {
        make_due(&core, next, lease).await?;
        return Ok(Duration::ZERO);
    }
    Ok(next.since_unix().saturating_sub(now.since_unix()))
}

/// Makes notices due that are due later than any schedule has it: what wrote them down had a clock that
/// was ahead.
async fn make_due(core: &Core, until: Now, lease: Duration) -> Result<(), StoreError> {
    let now = shared_now(core);
    let ahead = core.store.claim_missed(until, lease, HELD_MAX).await?;
    let notices = ahead.len();
    tracing::warn!(
        notices,
        "notices are due later than they can be: the clock was set back; they are due now"
    );
    settle(core, ahead.into_iter().map(|notice| (notice, now))).await
}

/// Writes down when notices are due that were not sent.
async fn settle(
    core: &Core,
    notices: impl IntoIterator<Item = (ClaimedNotice, Now)>,
) -> Result<(), StoreError> {
    stream::iter(notices)
        .map(|(notice, due)| async move {
            let attempts = notice.attempts;
            let outcome = NoticeOutcome::Retry { attempts, due };
            core.store.settle_missed(&notice, outcome).await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Sends a notice, unless its peer has no turn for it: it has to wait then, but not to lose its turn.
async fn announce_in_turn(core: Arc<Core>, notice: ClaimedNotice, place: Place) {
    let Place { under_way, peer } = &place;
    let both = async {
        (
            peer.turns.acquire().await,
            under_way.sending.acquire().await,
        )
    };
    let outcome = match tokio::time::timeout(PEER_PATIENCE, both).await {
        Ok(_turns) => {
            let began = Instant::now();
            let outcome = announce(&core, &notice).await;
            peer.took(began.elapsed());
            outcome
        }
        Err(_) => {
            peer.took_at_least(PEER_PATIENCE);
            NoticeOutcome::Retry {
                attempts: notice.attempts,
                due: shared_now(&core) + peer.postpone(Instant::now()),
            }
        }
    };
    if let Err(error) = core.store.settle_missed(&notice, outcome).await {
        // Its lease ends, and it is sent once more than needed.
        tracing::error!(%error, "cannot write down what became of a notice");
    }
    drop(place);
}

/// For how long a notice keeps its place while it waits for a turn at its peer.
const PEER_PATIENCE: Duration = Duration::from_secs(1);

/// Longest time by which a notice is put off that found no place.
const POSTPONED_MAX: Duration = Duration::from_secs(600);

/// Sends one notice and says what is to become of it.
async fn announce(core: &Core, notice: &ClaimedNotice) -> NoticeOutcome {
    let (recovery, topic) = (&notice.recovery, &notice.topic);
    if !urls::may_recover_at(&notice.url, recovery) {
        tracing::warn!(subscriber = %notice.url, "a notice is passed over that would go to all websockets of a broadcaster");
        return NoticeOutcome::Done;
    }
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
            tracing::info!(%recovery, ?topic, attempts, "told a subscriber that it missed something");
            NoticeOutcome::Done
        }
        Err(NotTaken::Unwanted) if is_believed(core, notice) => {
            remove(core, notice).await;
            NoticeOutcome::Done
        }
        Err(error) => match core.config.missed.delay(attempts, rand::random()) {
            Some(delay) => {
                let why = chain(&error);
                tracing::info!(%recovery, ?topic, attempts, why, "a notice was not taken; trying again later");
                NoticeOutcome::Retry {
                    attempts,
                    due: shared_now(core) + delay,
                }
            }
            None => {
                measures::notice_given_up();
                tracing::warn!(%recovery, ?topic, attempts, "gave up telling a subscriber that it missed something");
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

/// The notices that are held, and the turns they take at each peer: one that hangs holds no more than
/// its share.
#[derive(Debug)]
struct UnderWay {
    count: AtomicUsize,
    sending: Semaphore,
    per_peer_max: usize,
    peers: Mutex<HashMap<Option<Origin>, Arc<PeerNotices>>>,
    ended: tokio::sync::Notify,
}

/// The notices of one peer.
#[derive(Debug)]
struct PeerNotices {
    turns: Semaphore,
    turns_max: usize,
    /// Those that have a turn or wait for one.
    held: AtomicUsize,
    pace: Mutex<Pace>,
}

/// How fast a peer takes notices.
#[derive(Debug)]
struct Pace {
    /// How long one takes, about.
    each: Duration,
    /// When there will be a turn for the next that finds no place.
    next: Instant,
}

/// What is assumed of a peer before its first.
const EACH_FIRST: Duration = Duration::from_millis(5);

impl UnderWay {
    fn new(core: &Core) -> Self {
        let sending = core.config.missed_in_flight_max;
        Self {
            count: AtomicUsize::new(0),
            sending: Semaphore::new(sending.clamp(1, Semaphore::MAX_PERMITS)),
            per_peer_max: core
                .config
                .missed_in_flight_per_peer_max
                .clamp(1, Semaphore::MAX_PERMITS),
            peers: Mutex::default(),
            ended: tokio::sync::Notify::new(),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn peer(&self, peer: Option<Origin>) -> Arc<PeerNotices> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(known) = peers.get(&peer) {
            return known.clone();
        }
        // Nobody waits at these, and nothing is put off.
        peers.retain(|_, it| Arc::strong_count(it) > 1 || it.pace().next > now);
        let new = Arc::new(PeerNotices {
            turns: Semaphore::new(self.per_peer_max),
            turns_max: self.per_peer_max,
            held: AtomicUsize::new(0),
            pace: Mutex::new(Pace {
                each: EACH_FIRST,
                next: now,
            }),
        });
        peers.insert(peer, new.clone());
        new
    }
}

impl PeerNotices {
    /// How many may be held: what the peer takes before patience ends.
    fn held_max(&self) -> usize {
        let each = self.pace().each.max(Duration::from_millis(1));
        let rounds = PEER_PATIENCE.as_millis() / each.as_millis().max(1);
        let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
        let most = HELD_MAX / PEER_SHARE;
        self.turns_max.saturating_mul(rounds + 1).min(most)
    }

    /// After what time a notice that finds no place will have a turn, at the pace of its peer.
    fn postpone(&self, now: Instant) -> Duration {
        let turns = u32::try_from(self.turns_max).unwrap_or(u32::MAX);
        let mut pace = self.pace();
        let next = pace.next.max(now + PEER_PATIENCE);
        let next = next.min(now + POSTPONED_MAX);
        pace.next = next + pace.each / turns;
        next - now
    }

    fn took(&self, time: Duration) {
        let mut pace = self.pace();
        pace.each = (pace.each * 3 + time) / 4;
    }

    fn took_at_least(&self, time: Duration) {
        let mut pace = self.pace();
        pace.each = pace.each.max(time);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Given back when it is dropped.
struct Place {
    under_way: Arc<UnderWay>,
    peer: Arc<PeerNotices>,
}

impl Place {
    /// `None` if the peer has its share.
    fn take(under_way: &Arc<UnderWay>, peer: &Arc<PeerNotices>) -> Option<Self> {
        // Only one look at a time takes places.
        if peer.held.load(Ordering::Relaxed) >= peer.held_max() {
            return None;
        }
        peer.held.fetch_add(1, Ordering::Relaxed);
        under_way.count.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            under_way: under_way.clone(),
            peer: peer.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peer.held.fetch_sub(1, Ordering::Relaxed);
        self.under_way.count.fetch_sub(1, Ordering::Relaxed);
        self.under_way.ended.notify_one();
    }
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

    #[test]
    fn what_finds_no_place_is_put_off_at_the_pace_of_its_peer() {
        let now = Instant::now();
        let peer = PeerNotices {
            turns: Semaphore::new(8),
            turns_max: 8,
            held: AtomicUsize::new(0),
            pace: Mutex::new(Pace {
                each: EACH_FIRST,
                next: now,
            }),
        };
        assert_eq!(peer.held_max(), HELD_MAX / PEER_SHARE);
        let last = |peer: &PeerNotices, count: usize| {
            let all = (0..count).map(|_| peer.postpone(now));
            all.last().unwrap().as_secs()
        };
        assert_eq!(last(&peer, 16_000), 10, "a quick one is soon through");
        for _ in 0..100 {
            peer.took(Duration::from_secs(10));
        }
        assert_eq!(peer.held_max(), 8);
        assert!((100..115).contains(&last(&peer, 80)));
        assert_eq!(last(&peer, 20_000), 600, "and no later than this");
    }

    #[tokio::test]
    async fn clock_back_while_it_was_down_puts_off_no_notice() {
        let now = Now::from_unix(Duration::from_secs(1_000_000));
        let store = Arc::new(MemoryStore::new());
        let url = |text: &str| SubscriberUrl::new(text).unwrap();
        let interest = Interest::Exact(Topic::new("t").unwrap());
        let subscription = Subscription {
            url: url("http://127.0.0.1:9/"),
            interest: interest.clone(),
            recovery: Some(url("http://127.0.0.1:9/recover")),
        };
        store.subscribe(subscription).await.unwrap();
        let missed = Missed {
            url: url("http://127.0.0.1:9/"),
            interest,
            topic: Topic::new("t").unwrap(),
            due: now + Duration::from_secs(3_600),
        };
        store.record_missed(missed).await.unwrap();
        let config = Config {
            clock: Clock::standing_at(now),
            ..Config::default()
        };
        let authorizations = Authorizations::from(&Secrets::NONE);
        let started = Broadcaster::start(config, store.clone(), authorizations);
        let _broadcaster = started.await.unwrap();
        let is_due_soon = async || {
            let next = store.next_missed().await.unwrap().unwrap();
            next < now + Duration::from_secs(60)
        };
        while !is_due_soon().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
