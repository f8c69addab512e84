//! Hands a notification to every subscriber that matches, and accounts for each.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use httppubsub_net::{Payload, Target, chain};
use httppubsub_proto::http::RECEIVE_FOR_WEBSOCKETS;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{StoreError, Unsubscribed};
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::config::Deadlines;
use crate::core::Core;
use crate::index::Row;
use crate::load::{Overloaded, Spread};
use crate::measures;
use crate::message::Message;
use crate::missed::{self, When};
use crate::unfinished;
use crate::webhook::{self, Undelivered, Verdict};

/// What became of a notification: every row that matched is in exactly one of the counts of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Subscribers that the confirmations stand for, saturating.
    pub(crate) subscribers: u32,
    /// Rows that confirmed.
    pub(crate) confirmed: u64,
    /// Rows that asked to be removed.
    pub(crate) unsubscribed: u64,
    /// Rows that will be told that they missed something.
    pub(crate) missed: u64,
    /// Rows that missed it and did not ask to be told.
    pub(crate) dropped: u64,
    /// Rows that missed it, of which the store did not take note.
    pub(crate) unrecorded: u64,
}

impl Reached {
    fn measure(&self) {
        measures::delivered("confirmed", self.confirmed);
        measures::delivered("unsubscribed", self.unsubscribed);
        measures::delivered("missed", self.missed);
        measures::delivered("dropped", self.dropped);
        measures::delivered("unrecorded", self.unrecorded);
    }
}

/// Why a notification is not accounted for. Some subscribers may have it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotifyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    #[error("the store did not answer in time")]
    StoreTooSlow,
    #[error("it took too long to find out whom it goes to")]
    MatchingTooSlow,
    #[error("the broadcaster stopped while it delivered")]
    Stopped,
}

/// What is known of a notification while it is delivered, for an answer that cannot wait for the end.
#[derive(Debug, Default)]
struct SoFar {
    /// Subscribers that the confirmations stand for.
    subscribers: AtomicU64,
    /// Whether the store makes sure that a notice is owed to each row that it may be owed to.
    is_journaled: AtomicBool,
}

impl SoFar {
    fn subscribers(&self) -> u32 {
        let subscribers = self.subscribers.load(Ordering::Relaxed);
        u32::try_from(subscribers).unwrap_or(u32::MAX)
    }
}

/// What becomes of a notification when too many deliveries wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfFull {
    /// It fails, and nobody got it.
    Fail,
    /// It waits, and its time begins when it has its places.
    Wait,
}

/// Delivers `payload` to every row that matches `topic`, and returns when each has confirmed or is
/// accounted for, or when [`Config::notify_timeout`] is over: the deliveries have ended by then, and
/// what of the missed ones is not recorded yet is recorded behind the answer. A broadcaster that is
/// killed meanwhile makes good for that at its next start, so the answer stays true. It goes on to the
/// end even if nobody waits for it.
///
/// [`Config::notify_timeout`]: crate::Config::notify_timeout
pub(crate) async fn notify(
    core: &Arc<Core>,
    topic: Topic,
    payload: Payload,
    if_full: IfFull,
) -> Result<Reached, NotifyError> {
    let mut deadlines = core.config.deadlines(payload.len(), Instant::now());
    tokio::time::timeout_at(deadlines.deliveries, core.store.catch_up())
        .await
        .map_err(|_| NotifyError::StoreTooSlow)??;
    let rows = tokio::time::timeout_at(deadlines.deliveries, core.index.matching(&topic))
        .await
        .map_err(|_| NotifyError::MatchingTooSlow)?;
    if rows.is_empty() {
        return Ok(Reached::default());
    }
    let matched = rows.len() as u64;
    let is_told = rows.iter().any(|row| unfinished::is_told(core, row));
    let to = Addressees::new(rows, core.load.share_of_peer());
    let places = match if_full {
        IfFull::Fail => core.load.try_places(to.places)?,
        IfFull::Wait => {
            let places = core.load.places(to.places).await;
            deadlines = core.config.deadlines(payload.len(), Instant::now());
            places
        }
    };
    measures::matched(matched);
    let message = Arc::new(Message::new(topic, payload));
    let so_far = Arc::new(SoFar::default());
    let (own, known) = (core.clone(), so_far.clone());
    core.busy_poll.happened();
    // A task of its own: it must not end with who waits for it.
    let all = core.tasks.spawn(async move {
        let on_its_way = match is_told {
            true => Some(unfinished::begin(&own, &message.topic).await?),
            false => None,
        };
        known.is_journaled.store(true, Ordering::Relaxed);
        let reached = deliver_to_all(own, to, message, deadlines, known).await;
        drop(places);
        let reached = reached?;
        if let Some(on_its_way) = on_its_way {
            on_its_way.accounted_for();
        }
        Ok::<_, StoreError>(reached)
    });
    match tokio::time::timeout_at(deadlines.answer, all).await {
        Ok(Ok(reached)) => Ok(reached?),
        Ok(Err(error)) => {
            tracing::error!(%error, "the delivery of a notification ended early");
            Err(NotifyError::Stopped)
        }
        Err(_) if so_far.is_journaled.load(Ordering::Relaxed) => Ok(Reached {
            subscribers: so_far.subscribers(),
            ..Reached::default()
        }),
        Err(_) => Err(NotifyError::StoreTooSlow),
    }
}

async fn deliver_to_all(
    core: Arc<Core>,
    to: Addressees,
    message: Arc<Message>,
    deadlines: Deadlines,
    so_far: Arc<SoFar>,
) -> Result<Reached, StoreError> {
    let all = Arc::new(FanOut {
        spread: core.load.spread(to.all.len(), message.payload.len()),
        to,
        deadline: deadlines.deliveries,
        so_far,
    });
    let delivering = deliver_to_parts(&core, &all, &message);
    let Tally {
        mut reached,
        failed,
    } = all.spread.deliver(delivering).await;
    reached.subscribers = all.so_far.subscribers();
    reached.measure();
    failed.map_or(Ok(reached), Err)
}

async fn deliver_to_parts(core: &Arc<Core>, all: &Arc<FanOut>, message: &Arc<Message>) -> Tally {
    let (peers, in_flight_max) = (all.to.peers.len(), core.config.post.in_flight_max);
    let parts = (peers / PART_PEERS_MIN).clamp(1, core.threads);
    if parts == 1 {
        return deliver_to_peers(core, all, 0..peers, message, in_flight_max).await;
    }
    let (each, at_once) = (peers.div_ceil(parts), in_flight_max.div_ceil(parts));
    let part = |begin: usize| {
        let range = begin..peers.min(begin + each);
        let (core, all, message) = (core.clone(), all.clone(), message.clone());
        async move { deliver_to_peers(&core, &all, range, &message, at_once).await }
    };
    let running = (0..peers).step_by(each);
    let running: Vec<_> = running.map(|begin| core.tasks.spawn(part(begin))).collect();
    let mut tally = Tally::default();
    for part in running {
        match part.await {
            Ok(part) => tally.add(part),
            // It is not known what became of its rows.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    tally
}

/// Fewer peers than this are not worth another thread.
const PART_PEERS_MIN: usize = 128;

/// What became of some rows, and what could not be written down about others.
#[derive(Default)]
struct Tally {
    reached: Reached,
    failed: Option<StoreError>,
}

impl Tally {
    fn count(&mut self, outcome: Result<Outcome, StoreError>, rows: u64) {
        let reached = &mut self.reached;
        match outcome {
            Ok(Outcome::Confirmed(_)) => reached.confirmed += rows,
            Ok(Outcome::Unsubscribed) => reached.unsubscribed += rows,
            Ok(Outcome::Missed) => reached.missed += rows,
            Ok(Outcome::Dropped) => reached.dropped += rows,
            Err(error) => {
                reached.unrecorded += rows;
                self.failed = Some(error);
            }
        }
    }

    fn add(&mut self, other: Self) {
        let Reached {
            // Counted for all parts together.
            subscribers: _,
            confirmed,
            unsubscribed,
            missed,
            dropped,
            unrecorded,
        } = other.reached;
        let reached = &mut self.reached;
        reached.confirmed += confirmed;
        reached.unsubscribed += unsubscribed;
        reached.missed += missed;
        reached.dropped += dropped;
        reached.unrecorded += unrecorded;
        self.failed = self.failed.take().or(other.failed);
    }
}

/// A notification on its way to all its addressees.
struct FanOut {
    to: Addressees,
    spread: Spread,
    /// When the deliveries end.
    deadline: Instant,
    so_far: Arc<SoFar>,
}

/// Delivers to the addressees of `peers`, to as many of each peer at once as it may have, and to at
/// most `at_once` of all. Each peer has its turn before any has a second one: those that wait for a
/// peer that hangs do not keep the others waiting.
async fn deliver_to_peers(
    core: &Core,
    all: &FanOut,
    peers: Range<usize>,
    message: &Arc<Message>,
    at_once: usize,
) -> Tally {
    // Those of each peer whose delivery has not begun.
    let mut waiting = all.to.peers[peers].to_vec();
    let mut turns: VecDeque<usize> = (0..waiting.len()).collect();
    for (peer, of_peer) in waiting.iter().enumerate() {
        let at_once = of_peer
            .range
            .len()
            .min(core.config.post.in_flight_per_peer_max);
        turns.extend(std::iter::repeat_n(peer, at_once.saturating_sub(1)));
    }
    let deliver = |peer: usize| {
        let OfPeer { range, have_places } = &mut waiting[peer];
        let (addressee, has_place) = (&all.to.all[range.next()?], *have_places);
        Some(async move {
            let verdict = match has_place {
                true => webhook::deliver(core, &addressee.row, message, all.deadline).await,
                false => Verdict::Missed(Undelivered::NoPlace),
            };
            let outcome = take_account(core, addressee, message, verdict).await;
            if let Ok(Outcome::Confirmed(subscribers)) = outcome {
                let so_far = &all.so_far.subscribers;
                so_far.fetch_add(subscribers.into(), Ordering::Relaxed);
            }
            all.spread.ended();
            core.busy_poll.happened();
            (peer, outcome, 1 + addressee.others.len() as u64)
        })
    };
    deliver_in_step(turns, deliver, at_once).await
}

/// Begins a delivery for each of `turns`, at most `at_once` at once, and gives the turn of one that
/// has ended to the next of the same peer, behind all that wait. `deliver` makes the deliveries, for
/// as long as there are any of that peer.
///
/// Those of many begin in step with those that end: what is sent to hundreds before the first answer is
/// read has left the caches by then. Answers that take longer than a step are not worth waiting for: more
/// begin then, and twice as many each time.
async fn deliver_in_step<D>(
    mut turns: VecDeque<usize>,
    mut deliver: impl FnMut(usize) -> Option<D>,
    at_once: usize,
) -> Tally
where
    D: Future<Output = (usize, Result<Outcome, StoreError>, u64)>,
{
    let mut tally = Tally::default();
    let mut running = FuturesUnordered::new();
    let is_for_few = turns.len() <= FEW;
    let mut may_begin = if is_for_few { FEW } else { IN_STEP };
    let (mut more, mut ended) = (IN_STEP, 0);
    let mut next_step = std::pin::pin!(tokio::time::sleep(STEP));
    loop {
        while may_begin > 0
            && running.len() < at_once.max(1)
            && let Some(peer) = turns.pop_front()
        {
            if let Some(delivery) = deliver(peer) {
                running.push(delivery);
                may_begin -= 1;
            }
        }
        tokio::select! {
            biased;
            Some((peer, outcome, rows)) = running.next() => {
                tally.count(outcome, rows);
                turns.push_back(peer);
                may_begin += 1;
                ended += 1;
            }
            () = &mut next_step, if may_begin == 0 && !turns.is_empty() => {
                if ended < running.len() {
                    may_begin = more;
                    more *= 2;
                }
                ended = 0;
                next_step.as_mut().reset(Instant::now() + STEP);
            }
            else => return tally,
        }
    }
}

/// So many of many begin before the first has ended.
const IN_STEP: usize = 64;

/// So few begin at once: there is nothing to gain, and many such notifications at a time would get
/// into each other's way.
const FEW: usize = 2 * IN_STEP;

/// Longer than answers take where only processors are to be waited for; one or two milliseconds, as
/// time is counted in whole ones.
const STEP: Duration = Duration::from_millis(1);

/// A row, and those that the same delivery is for.
struct Addressee {
    row: Arc<Row>,
    others: Vec<Arc<Row>>,
}

/// The addressees of a notification, those of each peer together, and the places that they have at
/// their peers.
struct Addressees {
    all: Vec<Addressee>,
    peers: Vec<OfPeer>,
    /// How many places they need among those of all notifications.
    places: usize,
}

/// Addressees of one peer.
#[derive(Clone)]
struct OfPeer {
    range: Range<usize>,
    /// Whether there were places for them. All others are missed at once.
    have_places: bool,
}

impl Addressees {
    /// Those of `rows`. Beyond `share` deliveries that are pending at a peer, further ones have no place
    /// there; of one notification alone all have one, which count for no more than `share`.
    fn new(rows: Vec<Arc<Row>>, share: usize) -> Self {
        let mut all = one_for_each_broadcaster(rows);
        let peer_of = |it: &Addressee| it.target().map(Target::peer_id);
        all.sort_by_key(peer_of);
        let (mut peers, mut places, mut begin) = (Vec::new(), 0, 0);
        for of_one in all.chunk_by(|one, other| peer_of(one) == peer_of(other)) {
            let wanted = of_one.len();
            let target = of_one[0].target();
            let reserved = target.map_or(wanted, |target| target.reserve(wanted, share));
            places += reserved.min(share);
            let (middle, end) = (begin + reserved, begin + wanted);
            for (range, have_places) in [(begin..middle, true), (middle..end, false)] {
                if !range.is_empty() {
                    peers.push(OfPeer { range, have_places });
                }
            }
            begin = end;
        }
        Self { all, peers, places }
    }
}

impl Drop for Addressees {
    fn drop(&mut self) {
        for OfPeer { range, have_places } in &self.peers {
            if let (true, Some(target)) = (*have_places, self.all[range.start].target()) {
                target.release(range.len());
            }
        }
    }
}

impl Addressee {
    fn target(&self) -> Option<&Target> {
        self.row.subscriber.target.as_ref().ok()
    }
}

/// Broadcasters subscribe a url of their own for their websockets, which are to have one copy
/// however many rows of that url match (`docs/protocol/stateful.md` §13).
fn one_for_each_broadcaster(rows: Vec<Arc<Row>>) -> Vec<Addressee> {
    let mut all = Vec::with_capacity(rows.len());
    let mut broadcasters: FxHashMap<SubscriberUrl, usize> = FxHashMap::default();
    for row in rows {
        let url = &row.subscriber.url;
        if url.as_str().ends_with(RECEIVE_FOR_WEBSOCKETS) {
            match broadcasters.get(url) {
                Some(&at) => {
                    let first: &mut Addressee = &mut all[at];
                    first.others.push(row);
                    continue;
                }
                None => drop(broadcasters.insert(url.clone(), all.len())),
            }
        }
        let others = Vec::new();
        all.push(Addressee { row, others });
    }
    all
}

/// What became of one row.
enum Outcome {
    Confirmed(u32),
    Unsubscribed,
    Missed,
    Dropped,
}

/// Removes or records what the verdict on a delivery asks for.
async fn take_account(
    core: &Core,
    addressee: &Addressee,
    message: &Arc<Message>,
    verdict: Verdict,
) -> Result<Outcome, StoreError> {
    let Addressee { row, others } = addressee;
    let verdict = match verdict {
        Verdict::Unsubscribe if is_of_another_broadcaster(core, row) => {
            Verdict::Missed(Undelivered::Unwanted)
        }
        verdict => verdict,
    };
    match verdict {
        Verdict::Confirmed(subscribers) => Ok(Outcome::Confirmed(subscribers)),
        Verdict::Unsubscribe => {
            for row in std::iter::once(row).chain(others) {
                unsubscribe(core, row).await;
            }
            Ok(Outcome::Unsubscribed)
        }
        Verdict::Missed(why) => {
            let (subscriber, interest) = (&row.subscriber.url, &row.interest);
            if matches!(why, Undelivered::NoPlace) {
                measures::no_place();
            }
            let when = match why.asks_for_a_notice() {
                true => When::AtOnce,
                false => When::AsScheduled,
            };
            if why.is_not_tried() {
                let why = chain(&why);
                tracing::debug!(%subscriber, %interest, why, "a delivery was not tried");
            } else {
                let why = chain(&why);
                tracing::info!(%subscriber, %interest, why, "a delivery failed");
            }
            // One notice tells of all that was missed.
            let mut rows = std::iter::once(row).chain(others);
            match rows.find(|row| row.recovery.is_some()) {
                Some(row) => missed::record(core, row, &message.topic, when)
                    .await
                    .map(|()| Outcome::Missed),
                None => Ok(Outcome::Dropped),
            }
        }
    }
}

/// A broadcaster on the same store removes its rows by itself. It may have one again for another
/// websocket by the time that its answer is here.
fn is_of_another_broadcaster(core: &Core, row: &Row) -> bool {
    let url = &row.subscriber.url;
    core.store.cluster().is_some()
        && url.as_str().ends_with(RECEIVE_FOR_WEBSOCKETS)
        && *url != core.receiver_url
}

async fn unsubscribe(core: &Core, row: &Row) {
    let (subscriber, interest) = (&row.subscriber.url, &row.interest);
    if *subscriber == core.receiver_url {
        let removed = core.hub.remove_stale(&*core.store, subscriber, interest);
        if let Err(error) = removed.await {
            tracing::error!(%interest, %error, "cannot unsubscribe what no websocket wants");
        }
        return;
    }
    match core
        .store
        .unsubscribe(subscriber.clone(), interest.clone())
        .await
    {
        Ok(Unsubscribed::Removed) => {
            tracing::info!(%subscriber, %interest, "unsubscribed by its answer to a delivery");
        }
        Ok(Unsubscribed::Absent) => {}
        // It will answer so again.
        Err(error) => tracing::error!(%subscriber, %interest, %error, "cannot unsubscribe"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Deliveries to so many peers with so many subscribers each, which take as long as `takes` says of
    /// a peer, one after the other where they take no time at all; the most that ran at once, and
    /// which peers they were for in the order in which they began.
    async fn deliver(
        peers: usize,
        each: usize,
        at_once: usize,
        takes: impl Fn(usize) -> Duration,
    ) -> (usize, Vec<usize>) {
        let (running, most, takes) = (Cell::new(0), Cell::new(0), &takes);
        let mut left = vec![each; peers];
        let mut began = Vec::new();
        let delivery = async |peer: usize| {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            tokio::time::sleep(takes(peer)).await;
            running.set(running.get() - 1);
            (peer, Ok(Outcome::Confirmed(1)), 1)
        };
        let deliver = |peer: usize| {
            left[peer] = left[peer].checked_sub(1)?;
            began.push(peer);
            Some(delivery(peer))
        };
        let turns = (0..peers).chain(0..peers).collect();
        let tally = deliver_in_step(turns, deliver, at_once).await;
        assert_eq!(tally.reached.confirmed, (peers * each) as u64);
        (most.get(), began)
    }

    const SLOW: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn deliveries_begin_as_others_end_and_do_not_wait_for_those_that_are_slow() {
        let (most, _) = deliver(1_000, 1, 4_096, |_| Duration::ZERO).await;
        assert!(most <= IN_STEP, "{most} at once");
        let start = Instant::now();
        let (most, _) = deliver(1_000, 1, 4_096, |_| SLOW).await;
        assert_eq!(most, 1_000);
        let took = start.elapsed();
        assert!(took <= SLOW + 12 * STEP, "{took:?}");
        let (most, _) = deliver(1_000, 1, 100, |_| SLOW).await;
        assert_eq!(most, 100);
        let (most, _) = deliver(3, 1, 0, |_| SLOW).await;
        assert_eq!(most, 1, "one may always begin");
    }

    #[tokio::test(start_paused = true)]
    async fn each_peer_has_its_turn_before_any_has_a_second_and_keeps_its_turns() {
        let (most, began) = deliver(300, 10, 4_096, |_| Duration::ZERO).await;
        assert!(most <= IN_STEP, "{most} at once");
        assert_eq!(began[..300], (0..300).collect::<Vec<_>>());
        // The first hangs for longer than all others take together.
        let hangs = |peer| if peer == 0 { SLOW } else { STEP };
        let (most, began) = deliver(2, 500, 4_096, hangs).await;
        assert_eq!(most, 4, "two turns each");
        assert_eq!(began[..4], [0, 1, 0, 1]);
        let others = began.iter().take(502).filter(|peer| **peer == 1);
        assert_eq!(others.count(), 500, "they do not wait for it");
    }
}
