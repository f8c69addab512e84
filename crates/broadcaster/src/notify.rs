//! Hands a notification to every subscriber that matches, and accounts for each.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use httppubsub_net::{Payload, Target, chain};
use httppubsub_proto::http::RECEIVE_FOR_WEBSOCKETS;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{StoreError, Unsubscribed};
use rustc_hash::FxHashMap;

use crate::core::Core;
use crate::index::Row;
use crate::message::Message;
use crate::missed;
use crate::webhook::{self, Verdict};

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
}

/// Why a notification is not accounted for. Some subscribers may have it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotifyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the broadcaster stopped while it delivered")]
    Stopped,
}

/// Delivers `payload` to every row that matches `topic`, and returns when each has confirmed or is
/// accounted for. It goes on to the end even if nobody waits for it.
pub(crate) async fn notify(
    core: &Arc<Core>,
    topic: Topic,
    payload: Payload,
) -> Result<Reached, NotifyError> {
    core.store.catch_up().await?;
    let rows = if topic.as_bytes().len() > LONG_TOPIC_BYTES {
        core.index.matching_long(&topic).await
    } else {
        core.index.matching(&topic)
    };
    if rows.is_empty() {
        return Ok(Reached::default());
    }
    let message = Arc::new(Message::new(topic, payload));
    let all = core
        .tasks
        .spawn(deliver_to_all(core.clone(), rows, message));
    match all.await {
        Ok(reached) => Ok(reached?),
        Err(error) => {
            tracing::error!(%error, "the delivery of a notification ended early");
            Err(NotifyError::Stopped)
        }
    }
}

/// Topics longer than this are matched where it hurts nobody.
const LONG_TOPIC_BYTES: usize = 4_096;

async fn deliver_to_all(
    core: Arc<Core>,
    rows: Vec<Arc<Row>>,
    message: Arc<Message>,
) -> Result<Reached, StoreError> {
    let mut peers = by_peer(addressees(rows));
    let in_flight_max = core.config.post.in_flight_max;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let parts = (peers.len() / PART_PEERS_MIN).clamp(1, cores);
    let reached = if parts == 1 {
        deliver_to_peers(core, peers, message, in_flight_max).await
    } else {
        let (each, at_once) = (peers.len().div_ceil(parts), in_flight_max.div_ceil(parts));
        let mut running = Vec::with_capacity(parts);
        while !peers.is_empty() {
            let part = peers.split_off(peers.len().saturating_sub(each));
            let part = deliver_to_peers(core.clone(), part, message.clone(), at_once);
            running.push(core.tasks.spawn(part));
        }
        let mut all = Tally::default();
        for part in running {
            match part.await {
                Ok(part) => all.add(part),
                // It is not known what became of its rows.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        all
    };
    let Tally { reached, failed } = reached;
    metrics::counter!("httppubsub_deliveries_total", "outcome" => "confirmed")
        .increment(reached.confirmed);
    metrics::counter!("httppubsub_deliveries_total", "outcome" => "unsubscribed")
        .increment(reached.unsubscribed);
    metrics::counter!("httppubsub_deliveries_total", "outcome" => "missed")
        .increment(reached.missed);
    metrics::counter!("httppubsub_deliveries_total", "outcome" => "dropped")
        .increment(reached.dropped);
    failed.map_or(Ok(reached), Err)
}

/// Fewer peers than this are not worth another core.
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
            Ok(Outcome::Confirmed(subscribers)) => {
                reached.confirmed += rows;
                reached.subscribers = reached.subscribers.saturating_add(subscribers);
            }
            Ok(Outcome::Unsubscribed) => reached.unsubscribed += rows,
            Ok(Outcome::Missed) => reached.missed += rows,
            Ok(Outcome::Dropped) => reached.dropped += rows,
            Err(error) => self.failed = Some(error),
        }
    }

    fn add(&mut self, other: Self) {
        let Reached {
            subscribers,
            confirmed,
            unsubscribed,
            missed,
            dropped,
        } = other.reached;
        let reached = &mut self.reached;
        reached.subscribers = reached.subscribers.saturating_add(subscribers);
        reached.confirmed += confirmed;
        reached.unsubscribed += unsubscribed;
        reached.missed += missed;
        reached.dropped += dropped;
        self.failed = self.failed.take().or(other.failed);
    }
}

/// Those of one peer that are still to be delivered to.
type Waiting = Arc<Mutex<std::vec::IntoIter<Addressee>>>;

/// Delivers to these peers, to as many subscribers of each at once as it may have, and to at most
/// `at_once` of all. Each peer has its turn before any has a second one: those that wait for a peer
/// that hangs do not keep the others waiting.
async fn deliver_to_peers(
    core: Arc<Core>,
    peers: Vec<Vec<Addressee>>,
    message: Arc<Message>,
    at_once: usize,
) -> Tally {
    let per_peer = core.config.post.in_flight_per_peer_max;
    let mut turns = Vec::with_capacity(peers.len());
    let mut further = Vec::new();
    for peer in peers {
        let turns_there = peer.len().min(per_peer);
        let waiting = Arc::new(Mutex::new(peer.into_iter()));
        further.extend(std::iter::repeat_n(&waiting, turns_there - 1).cloned());
        turns.push(waiting);
    }
    turns.append(&mut further);
    let lanes = turns
        .into_iter()
        .map(|waiting: Waiting| deliver_in_turn(core.clone(), waiting, message.clone()));
    let mut lanes = futures_util::stream::iter(lanes).buffer_unordered(at_once);
    let mut tally = Tally::default();
    while let Some(lane) = lanes.next().await {
        tally.add(lane);
    }
    tally
}

async fn deliver_in_turn(core: Arc<Core>, waiting: Waiting, message: Arc<Message>) -> Tally {
    let mut tally = Tally::default();
    loop {
        let next = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next();
        let Some(addressee) = next else {
            return tally;
        };
        let outcome = deliver_to_one(&core, &addressee, &message).await;
        tally.count(outcome, 1 + addressee.others.len() as u64);
    }
}

/// A row, and those that the same delivery is for.
struct Addressee {
    row: Arc<Row>,
    others: Vec<Arc<Row>>,
}

/// Broadcasters subscribe a url of their own for their websockets, which are to have one copy
/// however many rows of that url match (`docs/protocol/stateful.md` §13).
fn addressees(rows: Vec<Arc<Row>>) -> Vec<Addressee> {
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

/// Those of each peer together.
fn by_peer(addressees: Vec<Addressee>) -> Vec<Vec<Addressee>> {
    let mut peers: Vec<Vec<Addressee>> = Vec::new();
    let mut known: FxHashMap<Option<usize>, usize> = FxHashMap::default();
    for addressee in addressees {
        let target = addressee.row.subscriber.target.as_ref().ok();
        let at = *known
            .entry(target.map(Target::peer_id))
            .or_insert(peers.len());
        match peers.get_mut(at) {
            Some(peer) => peer.push(addressee),
            None => peers.push(vec![addressee]),
        }
    }
    peers
}

/// What became of one row.
enum Outcome {
    Confirmed(u32),
    Unsubscribed,
    Missed,
    Dropped,
}

async fn deliver_to_one(
    core: &Core,
    addressee: &Addressee,
    message: &Arc<Message>,
) -> Result<Outcome, StoreError> {
    let Addressee { row, others } = addressee;
    match webhook::deliver(core, row, message).await {
        Verdict::Confirmed(subscribers) => Ok(Outcome::Confirmed(subscribers)),
        Verdict::Unsubscribe => {
            for row in std::iter::once(row).chain(others) {
                unsubscribe(core, row).await;
            }
            Ok(Outcome::Unsubscribed)
        }
        Verdict::Missed(why) => {
            let (subscriber, why) = (&row.subscriber.url, chain(&why));
            tracing::info!(%subscriber, interest = %row.interest, why, "a delivery failed");
            // One notice tells of all that was missed.
            let mut rows = std::iter::once(row).chain(others);
            match rows.find(|row| row.recovery.is_some()) {
                Some(row) => missed::record(core, row, &message.topic)
                    .await
                    .map(|()| Outcome::Missed),
                None => Ok(Outcome::Dropped),
            }
        }
    }
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
