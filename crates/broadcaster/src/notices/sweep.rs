//! Sends the notices that are due, as they fall due.
//!
//! A look claims due notices from the store for a lease, gives each a place, and sends it beside
//! all others. What finds no place at its peer is written back with a later time, at the pace at
//! which that peer takes notices: it loses no attempt, and leaves room for those of other peers.
//!
//! The next look is when the next notice is due, or sooner: when one was recorded here, when one
//! was sent and left its place, and after the interval in any case, for what other processes
//! recorded.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use httppubsub_net::error_chain;
use httppubsub_proto::time::Now;
use httppubsub_store::{ClaimedNotice, NoticeOutcome, StoreError};
use tokio::time::Instant;

use crate::background::Background;
use crate::cluster::membership::Membership;
use crate::delivery::quarantine::{Quarantine, Verdict};
use crate::index::reserved_urls::may_recover_at;
use crate::notices::held::{HELD_MAX, HeldNotices, PEER_PATIENCE, POSTPONED_MAX, Place};
use crate::notices::notices::Notices;
use crate::notices::send::{NotTaken, NoticeSender};
use crate::observe::metrics;

/// Looks for notices that are due, and sends them.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// Has the store, the schedule and the shared clock.
    pub(crate) notices: Arc<Notices>,
    /// Posts one notice.
    pub(crate) sender: NoticeSender,
    /// Bounds what is claimed, and what one peer has of it.
    pub(crate) held: Arc<HeldNotices>,
    /// Notices to a broadcaster that fell silent are put off.
    pub(crate) membership: Arc<Membership>,
    /// A subscription in quarantine leaves it with a notice that is confirmed.
    pub(crate) quarantine: Option<Arc<Quarantine>>,
    /// How often it looks, and for how long a claim is good.
    pub(crate) timing: SweepTiming,
    /// Runs looks and sendings as tasks of the broadcaster.
    pub(crate) background: Background,
}

/// The times of a sweep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweepTiming {
    /// Longest time between two looks.
    pub(crate) interval: Duration,
    /// Time for which a notice is claimed: longer than sending it takes.
    pub(crate) lease: Duration,
    /// Time by which notices to a broadcaster are put off that fell silent.
    pub(crate) silence: Duration,
}

/// Pause after a look that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Notices are due at whole seconds, so there is no use in looking more often.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// Rounds of one look: it sends at most about this number times [`HELD_MAX`] notices.
const ROUNDS_MAX: usize = 16;

/// Notices that are written back at once.
const AT_ONCE: usize = 256;

impl Sweep {
    /// Sends what is due, as it falls due, until the broadcaster stops. Whatever happens to one
    /// look, the next one comes.
    pub(crate) async fn run(self: Arc<Self>) {
        let what = "looking for notices that are due";
        loop {
            let look = self.background.round(what, self.clone().look());
            let pause = look.await.unwrap_or(AFTER_FAILURE);
            self.notices.last_sweep.happens();
            tokio::select! {
                () = self.background.shutdown.cancelled() => return,
                () = self.notices.recorded.notified() => {}
                // It left room for another one that is due.
                () = self.held.ended.notified() => {}
                () = tokio::time::sleep(pause.min(self.timing.interval)) => {}
            }
        }
    }

    /// Starts what is due and returns how long to wait for the next.
    async fn look(self: Arc<Self>) -> Result<Duration, StoreError> {
        // Before the look and not behind it: it finds what is recorded until then.
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let notices = &self.notices;
        for _ in 0..ROUNDS_MAX {
            if self.background.shutdown.is_cancelled() {
                return Ok(self.timing.interval);
            }
            notices.last_sweep.happens();
            // No more is claimed than can be held: others on the store may have room for it.
            let room = self.held.room();
            if room == 0 {
                return Ok(self.timing.interval);
            }
            let now = notices.clock.now();
            let due = notices.store.claim_missed(now, self.timing.lease, room);
            let due = due.await?;
            // The store had no more that is due.
            let is_all = due.len() < room;
            let mut postponed = Vec::new();
            for notice in due {
                let peer = self.held.peer(self.sender.peer(&notice));
                match Place::take(&self.held, &peer) {
                    Some(place) => {
                        let sending = self.clone().send_in_turn(notice, place);
                        self.background.tasks.spawn(sending);
                    }
                    None => postponed.push((notice, now + peer.postpone(Instant::now()))),
                }
            }
            self.reschedule(postponed).await?;
            if is_all {
                return self.until_next().await;
            }
        }
        Ok(Duration::ZERO)
    }

    /// The time until the next notice is due.
    async fn until_next(&self) -> Result<Duration, StoreError> {
        let notices = &self.notices;
        let Some(next) = notices.store.next_missed().await? else {
            return Ok(self.timing.interval);
        };
        let now = notices.clock.now();
        // Nothing that this schedule wrote down can be due later than this.
        let latest = notices.schedule.delay_max().max(POSTPONED_MAX) + self.timing.lease;
        if next > now + latest {
            self.make_due(next).await?;
            return Ok(Duration::ZERO);
        }
        Ok(next.since_unix().saturating_sub(now.since_unix()))
    }

    /// Makes notices due that are due later than any schedule has it: what wrote them down had a
    /// clock that was ahead.
    async fn make_due(&self, until: Now) -> Result<(), StoreError> {
        let now = self.notices.clock.now();
        let store = &self.notices.store;
        let ahead = store.claim_missed(until, self.timing.lease, HELD_MAX);
        let ahead = ahead.await?;
        let notices = ahead.len();
        tracing::warn!(
            notices,
            "notices are due later than they can be: the clock was set back; they are due now"
        );
        let ahead = ahead.into_iter().map(|notice| (notice, now));
        self.reschedule(ahead).await
    }

    /// Writes down when notices are due that were not sent. It costs them no attempt. Their claim
    /// ends with it, so that others on the store may have them when they are due.
    async fn reschedule(
        &self,
        notices: impl IntoIterator<Item = (ClaimedNotice, Now)>,
    ) -> Result<(), StoreError> {
        let store = &self.notices.store;
        stream::iter(notices)
            .map(|(notice, due)| async move {
                let attempts = notice.attempts;
                let outcome = NoticeOutcome::Retry { attempts, due };
                store.settle_missed(&notice, outcome).await
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Sends a notice and writes its outcome down. If its peer has no free permit within
    /// [`PEER_PATIENCE`], the notice is rescheduled without counting an attempt.
    async fn send_in_turn(self: Arc<Self>, notice: ClaimedNotice, place: Place) {
        let Place { held, peer } = &place;
        // The permit of the peer first: who waits for that must not keep one of all peers.
        let both = async {
            let of_peer = peer.permits.acquire().await;
            (of_peer, held.sending.acquire().await)
        };
        let outcome = match tokio::time::timeout(PEER_PATIENCE, both).await {
            Ok(_permits) => {
                let began = Instant::now();
                let outcome = self.send(&notice).await;
                // Also if it failed: it had its permit for as long.
                peer.took(began.elapsed());
                outcome
            }
            Err(_) => {
                peer.took_at_least(PEER_PATIENCE);
                self.retry(notice.attempts, peer.postpone(Instant::now()))
            }
        };
        if let Err(error) = self.notices.store.settle_missed(&notice, outcome).await {
            // Its lease ends, and it is sent once more than needed.
            tracing::error!(%error, "cannot write down the outcome of a notice");
        }
        drop(place);
    }

    /// The outcome of a notice that is due again after `delay`, and had `attempts` by then.
    fn retry(&self, attempts: u32, delay: Duration) -> NoticeOutcome {
        let due = self.notices.clock.now() + delay;
        NoticeOutcome::Retry { attempts, due }
    }

    /// Sends one notice, and returns what is to be written down of it.
    async fn send(&self, notice: &ClaimedNotice) -> NoticeOutcome {
        let (recovery, topic) = (&notice.recovery, &notice.topic);
        if !may_recover_at(&notice.url, recovery) {
            tracing::warn!(
                subscriber = %notice.url,
                "a notice is passed over that would go to all websockets of a broadcaster"
            );
            return NoticeOutcome::Done;
        }
        // It would only time out, and hold a permit meanwhile.
        if self.membership.is_silent(recovery) {
            return self.retry(notice.attempts, self.timing.silence);
        }
        let attempts = notice.attempts.saturating_add(1);
        match self.sender.send(notice).await {
            Ok(()) => {
                let (url, interest) = (&notice.url, &notice.interest);
                let quarantine = self.quarantine.as_ref();
                if quarantine.is_some_and(|it| it.confirmed(url, interest)) {
                    tracing::info!(%recovery, %interest, "out of quarantine");
                }
                tracing::info!(
                    %recovery,
                    ?topic,
                    attempts,
                    "told a subscriber that it missed something"
                );
                NoticeOutcome::Done
            }
            Err(NotTaken::Unwanted) if self.is_believed(notice) => {
                self.unsubscribe(notice).await;
                NoticeOutcome::Done
            }
            Err(error) => match self.notices.schedule.delay(attempts, rand::random()) {
                Some(delay) => {
                    let why = error_chain(&error);
                    tracing::info!(
                        %recovery,
                        ?topic,
                        attempts,
                        why,
                        "a notice was not taken; trying again later"
                    );
                    self.retry(attempts, delay)
                }
                None => {
                    // The subscriber never hears of it: the operator should.
                    metrics::notice_given_up();
                    tracing::warn!(
                        %recovery,
                        ?topic,
                        attempts,
                        "gave up telling a subscriber that it missed something"
                    );
                    NoticeOutcome::Done
                }
            },
        }
    }

    /// `true` if enough answers said that the subscription is not wanted. The protocol has no such
    /// answer to a notice, so this matters only in quarantine.
    fn is_believed(&self, notice: &ClaimedNotice) -> bool {
        let ClaimedNotice { url, interest, .. } = notice;
        let quarantine = self.quarantine.as_ref();
        let verdict = quarantine.and_then(|it| it.asked_again(url, interest, Instant::now()));
        verdict == Some(Verdict::Remove)
    }

    /// Removes the subscription that a notice is for.
    async fn unsubscribe(&self, notice: &ClaimedNotice) {
        let (url, interest) = (&notice.url, &notice.interest);
        let store = &self.notices.store;
        match store.unsubscribe(url.clone(), interest.clone()).await {
            Ok(_) => {
                tracing::info!(
                    subscriber = %url,
                    %interest,
                    "unsubscribed by its answer to a notice"
                );
            }
            // It will answer so again.
            Err(error) => {
                tracing::error!(subscriber = %url, %interest, %error, "cannot unsubscribe");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use httppubsub_net::Clock;
    use httppubsub_net::inbound::ReplayGuard;
    use httppubsub_net::outbound::{PostConfig, Poster};
    use httppubsub_proto::auth::Secrets;
    use httppubsub_proto::backoff::MissedSchedule;
    use httppubsub_proto::subscription::{Interest, Subscription};
    use httppubsub_proto::topic::Topic;
    use httppubsub_proto::url::SubscriberUrl;
    use httppubsub_store::{MemoryStore, Missed, Notices as _, Subscriptions as _};

    use super::*;
    use crate::cluster::replay::Replay;
    use crate::cluster::shared_clock::SharedClock;
    use crate::config::Authorizations;

    const NOW: Now = Now::from_unix(Duration::from_secs(1_000_000));

    /// A sweep whose clock stands, and a store with one notice that is due `after` that time.
    async fn sweep(after: Duration) -> (Arc<Sweep>, Arc<MemoryStore>) {
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
            due: NOW + after,
        };
        store.record_missed(missed).await.unwrap();
        let (clock, background) = (Clock::standing_at(NOW), Background::default());
        let membership = Arc::new(Membership::new([0; 16]));
        let shared = Arc::new(SharedClock::new(clock.clone(), membership.clone()));
        let notices = Notices::new(store.clone(), shared, MissedSchedule::default());
        let guard = ReplayGuard::in_memory(10);
        let replay = Replay::new(guard, store.clone(), false, background.tasks.clone());
        let sender = NoticeSender {
            poster: Poster::new(PostConfig::default()),
            authorizations: Authorizations::from(&Secrets::NONE),
            replay: Arc::new(replay),
            clock,
            egress_log: Arc::default(),
        };
        let sweep = Sweep {
            notices: Arc::new(notices),
            sender,
            held: Arc::new(HeldNotices::new(8, 8)),
            membership,
            quarantine: None,
            timing: SweepTiming {
                interval: Duration::from_secs(10),
                lease: Duration::from_secs(30),
                silence: Duration::from_secs(20),
            },
            background,
        };
        (Arc::new(sweep), store)
    }

    /// The time until the next notice is due, and its attempts.
    async fn next(store: &MemoryStore) -> (Duration, u32) {
        let due = store.next_missed().await.unwrap().unwrap();
        let claimed = store.claim_missed(due, Duration::from_secs(1), 1);
        let attempts = claimed.await.unwrap()[0].attempts;
        let after = due.since_unix().saturating_sub(NOW.since_unix());
        (after, attempts)
    }

    #[tokio::test]
    async fn clock_back_while_it_was_down_puts_off_no_notice() {
        let (sweep, store) = sweep(Duration::from_secs(3_600)).await;
        assert_eq!(sweep.until_next().await.unwrap(), Duration::ZERO);
        assert_eq!(next(&store).await, (Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_that_gets_no_permit_is_put_off_and_loses_no_attempt() {
        let (sweep, store) = sweep(Duration::ZERO).await;
        let _all = sweep.held.sending.acquire_many(8).await.unwrap();
        let claimed = store.claim_missed(NOW, sweep.timing.lease, 1);
        let notice = claimed.await.unwrap().remove(0);
        let peer = sweep.held.peer(sweep.sender.peer(&notice));
        let place = Place::take(&sweep.held, &peer).unwrap();
        sweep.clone().send_in_turn(notice, place).await;
        assert_eq!(sweep.held.room(), HELD_MAX, "its place is free again");
        assert_eq!(next(&store).await, (PEER_PATIENCE, 0));
    }
}
