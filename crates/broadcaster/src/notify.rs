//! Hands a notification to every subscriber that matches, and accounts for each.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use httppubsub_net::{Payload, chain};
use httppubsub_proto::http::RECEIVE_FOR_WEBSOCKETS;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{Origin, SubscriberUrl};
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
    let mut reached = Reached::default();
    let mut failed = None;
    let peers_at_once = core.config.post.in_flight_max;
    let mut outcomes = futures_util::stream::iter(by_peer(addressees(rows)))
        .map(|addressees| deliver_to_peer(&core, addressees, &message))
        .flatten_unordered(peers_at_once);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok((Outcome::Confirmed(subscribers), rows)) => {
                reached.confirmed += rows;
                reached.subscribers = reached.subscribers.saturating_add(subscribers);
            }
            Ok((Outcome::Unsubscribed, rows)) => reached.unsubscribed += rows,
            Ok((Outcome::Missed, rows)) => reached.missed += rows,
            Ok((Outcome::Dropped, rows)) => reached.dropped += rows,
            Err(error) => failed = Some(error),
        }
    }
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

/// Those of each peer together: those that wait for a turn at one peer must not take the place
/// of those that need not.
fn by_peer(addressees: Vec<Addressee>) -> impl Iterator<Item = Vec<Addressee>> {
    let mut peers: FxHashMap<Option<Origin>, Vec<Addressee>> = FxHashMap::default();
    for addressee in addressees {
        let target = addressee.row.subscriber.target.as_ref().ok();
        let peer = target.map(|target| target.origin().clone());
        peers.entry(peer).or_default().push(addressee);
    }
    peers.into_values()
}

/// What becomes of those of one peer, as many at once as it may have, and of how many rows.
fn deliver_to_peer(
    core: &Arc<Core>,
    addressees: Vec<Addressee>,
    message: &Arc<Message>,
) -> impl Stream<Item = Result<(Outcome, u64), StoreError>> + use<> {
    let at_once = core.config.post.in_flight_per_peer_max;
    let (core, message) = (core.clone(), message.clone());
    let outcomes = addressees.into_iter().map(move |addressee| {
        let (core, message) = (core.clone(), message.clone());
        async move {
            let outcome = deliver_to_one(&core, &addressee, &message).await?;
            Ok((outcome, 1 + addressee.others.len() as u64))
        }
    });
    futures_util::stream::iter(outcomes).buffer_unordered(at_once)
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
