//! Hands a notification to every subscriber that matches, and accounts for each.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use httppubsub_net::{Payload, chain};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::Origin;
use httppubsub_store::{StoreError, Unsubscribed};
use rustc_hash::FxHashMap;

use crate::core::Core;
use crate::index::Row;
use crate::missed;
use crate::webhook::{self, Message, Verdict};

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
    let mut outcomes = futures_util::stream::iter(by_peer(rows))
        .map(|rows| deliver_to_peer(&core, rows, &message))
        .flatten_unordered(peers_at_once);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(Outcome::Confirmed(subscribers)) => {
                reached.confirmed += 1;
                reached.subscribers = reached.subscribers.saturating_add(subscribers);
            }
            Ok(Outcome::Unsubscribed) => reached.unsubscribed += 1,
            Ok(Outcome::Missed) => reached.missed += 1,
            Ok(Outcome::Dropped) => reached.dropped += 1,
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

/// The rows of each peer together: those that wait for a turn at one peer must not take the place
/// of those that need not.
fn by_peer(rows: Vec<Arc<Row>>) -> impl Iterator<Item = Vec<Arc<Row>>> {
    let mut peers: FxHashMap<Option<Origin>, Vec<Arc<Row>>> = FxHashMap::default();
    for row in rows {
        let target = row.subscriber.target.as_ref().ok();
        let peer = target.map(|target| target.origin().clone());
        peers.entry(peer).or_default().push(row);
    }
    peers.into_values()
}

/// What becomes of the rows of one peer, as many at once as it may have.
fn deliver_to_peer(
    core: &Arc<Core>,
    rows: Vec<Arc<Row>>,
    message: &Arc<Message>,
) -> impl Stream<Item = Result<Outcome, StoreError>> + use<> {
    let at_once = core.config.post.in_flight_per_peer_max;
    let (core, message) = (core.clone(), message.clone());
    let outcomes = rows.into_iter().map(move |row| {
        let (core, message) = (core.clone(), message.clone());
        async move { deliver_to_one(&core, &row, &message).await }
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

async fn deliver_to_one(core: &Core, row: &Row, message: &Message) -> Result<Outcome, StoreError> {
    match webhook::deliver(core, row, message).await {
        Verdict::Confirmed(subscribers) => Ok(Outcome::Confirmed(subscribers)),
        Verdict::Unsubscribe => {
            unsubscribe(core, row).await;
            Ok(Outcome::Unsubscribed)
        }
        Verdict::Missed(why) => {
            let (subscriber, why) = (&row.subscriber.url, chain(&why));
            tracing::info!(%subscriber, interest = %row.interest, why, "a delivery failed");
            match &row.recovery {
                Some(_) => missed::record(core, row, &message.topic)
                    .await
                    .map(|()| Outcome::Missed),
                None => Ok(Outcome::Dropped),
            }
        }
    }
}

async fn unsubscribe(core: &Core, row: &Row) {
    let (subscriber, interest) = (&row.subscriber.url, &row.interest);
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
