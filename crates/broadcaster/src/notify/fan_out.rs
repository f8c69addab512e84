//! Delivers a notification to its addressees, each peer in turn.
//!
//! Every peer has its first delivery before any has its second, so a peer with ten thousand
//! subscribers that hang delays no other. Many peers are spread over the threads of the runtime,
//! because what one thread signs and sends in a second is soon too little.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use httppubsub_net::outbound::Target;
use httppubsub_store::StoreError;
use tokio::time::Instant;

use crate::admission::busy_poll::BusyPoll;
use crate::admission::fan_outs::FanOutGate;
use crate::background::Background;
use crate::delivery::deliver::Deliveries;
use crate::delivery::verdict::{Undelivered, Verdict};
use crate::message::Message;
use crate::notify::addressees::{Addressees, Next};
use crate::notify::receipts::Receipts;
use crate::notify::settle::Settlement;
use crate::notify::shared_copies::SharedCopies;
use crate::notify::tally::{Outcome, Reached, Tally};
use crate::notify::window::{Slot, deliver_in_window};

/// Delivers to many, and settles each delivery.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    /// Does a single one.
    pub(crate) deliveries: Deliveries,
    /// Writes down what a single one asks for.
    pub(crate) settlement: Settlement,
    /// Told when a delivery has ended, because more is about to arrive then.
    pub(crate) busy_poll: Arc<BusyPoll>,
    /// From the poster's configuration: it has no use for more deliveries than it has permits.
    pub(crate) limits: FanOutLimits,
    /// Fan-outs and their parts are tasks of the broadcaster: it stops after them.
    pub(crate) background: Background,
}

/// The most that a fan-out does at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FanOutLimits {
    /// Deliveries to all peers: what the poster has permits for. More would be made and kept
    /// waiting.
    pub(crate) in_flight_max: usize,
    /// Deliveries to one peer.
    pub(crate) in_flight_per_peer_max: usize,
    /// Threads of the runtime that a large fan-out may keep busy.
    pub(crate) threads: usize,
}

/// Progress of a notification, for an answer that cannot wait for the end.
#[derive(Debug, Default)]
pub(super) struct SoFar {
    /// Rows that were found.
    pub(super) matched: AtomicU64,
    /// Subscribers that the confirmations stand for.
    subscribers: AtomicU64,
    /// Rows by their outcomes.
    confirmed: AtomicU64,
    unsubscribed: AtomicU64,
    missed: AtomicU64,
    dropped: AtomicU64,
    unrecorded: AtomicU64,
    /// `true` once the store guarantees a notice to each row that may miss the message.
    pub(super) is_journaled: AtomicBool,
}

impl SoFar {
    /// Subscribers that the confirmations stand for by now.
    pub(super) fn subscribers(&self) -> u32 {
        let subscribers = self.subscribers.load(Ordering::Relaxed);
        u32::try_from(subscribers).unwrap_or(u32::MAX)
    }

    /// The outcomes by now, where deliveries have ended: what is not recorded yet was missed.
    pub(super) fn reached(&self) -> Reached {
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut reached = Reached {
            subscribers: self.subscribers(),
            confirmed: now(&self.confirmed),
            unsubscribed: now(&self.unsubscribed),
            missed: now(&self.missed),
            dropped: now(&self.dropped),
            unrecorded: now(&self.unrecorded),
        };
        reached.missed += now(&self.matched).saturating_sub(reached.rows());
        reached
    }

    /// Counts the outcome of one delivery, which was for `rows` rows.
    fn count(&self, outcome: &Result<Outcome, StoreError>, rows: u64) {
        let rows_by = match outcome {
            Ok(Outcome::Confirmed(_)) => &self.confirmed,
            Ok(Outcome::Unsubscribed) => &self.unsubscribed,
            Ok(Outcome::Missed) => &self.missed,
            Ok(Outcome::Dropped) => &self.dropped,
            Ok(Outcome::Unrecorded) | Err(_) => &self.unrecorded,
        };
        rows_by.fetch_add(rows, Ordering::Relaxed);
    }
}

/// The data that all deliveries of a notification share.
#[derive(Clone)]
pub(super) struct Delivery {
    /// The parts that deliver, which all notifications share.
    pub(super) dispatcher: Arc<Dispatcher>,
    /// One for all addressees.
    pub(super) message: Arc<Message>,
    /// Deadline of the deliveries.
    pub(super) deadline: Instant,
    /// Read at the publisher's deadline, while deliveries go on.
    pub(super) so_far: Arc<SoFar>,
    /// Told of each outcome, if the publisher asked for that.
    pub(super) receipts: Option<Receipts>,
}

/// A notification on its way to addressees. There are two of one notification where globs take long
/// to match: for the rows that are found at once, and for the others.
pub(super) struct FanOut {
    /// The same for rows that are found at once and later.
    delivery: Delivery,
    /// The addressees, whose places at peers are given back with this.
    to: Addressees,
    /// `None` for rows that were not found at once: they say nothing of how late this process is.
    gate: Option<FanOutGate>,
    /// The copies for websockets, if some rows are found later.
    copies: SharedCopies,
}

/// Fewer peers than this are not worth another thread.
const PART_PEERS_MIN: usize = 128;

impl FanOut {
    /// Nothing is delivered before [`FanOut::run`].
    pub(super) fn new(
        delivery: Delivery,
        to: Addressees,
        gate: Option<FanOutGate>,
        copies: SharedCopies,
    ) -> Self {
        Self {
            delivery,
            to,
            gate,
            copies,
        }
    }

    /// The rows that it delivers to.
    pub(super) fn addressees(&self) -> &Addressees {
        &self.to
    }

    /// Delivers to all addressees. `reservation` is given back when all deliveries have ended.
    pub(super) async fn run(self: Arc<Self>, reservation: impl Sized) -> Tally {
        let delivering = self.deliver_to_all();
        let mut tally = match &self.gate {
            Some(gate) => gate.pass(delivering).await,
            None => delivering.await,
        };
        // Before the metrics: who waits for places is let in first.
        drop(reservation);
        tally.reached.subscribers = self.delivery.so_far.subscribers();
        tally.reached.update_metrics();
        tally
    }

    /// Delivers to the peers on as many threads as they are worth.
    async fn deliver_to_all(self: &Arc<Self>) -> Tally {
        let dispatcher = &self.delivery.dispatcher;
        let FanOutLimits {
            in_flight_max,
            threads,
            ..
        } = dispatcher.limits;
        let peers = self.to.peers.len();
        let parts = (peers / PART_PEERS_MIN).clamp(1, threads);
        if parts == 1 {
            return self.deliver_to_peers(0..peers, in_flight_max).await;
        }
        let (each, at_once) = (peers.div_ceil(parts), in_flight_max.div_ceil(parts));
        let part = |begin: usize| {
            let range = begin..peers.min(begin + each);
            let own = self.clone();
            async move { own.deliver_to_peers(range, at_once).await }
        };
        let running = (0..peers).step_by(each);
        let tasks = &dispatcher.background.tasks;
        let running: Vec<_> = running.map(|begin| tasks.spawn(part(begin))).collect();
        let mut tally = Tally::default();
        for part in running {
            match part.await {
                Ok(part) => tally.add(part),
                // It is not known what became of its rows, so the whole notification fails, and
                // the journal owes a notice to all.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        tally
    }

    /// Delivers to the addressees of `peers`: to each peer at most as many at once as it may have,
    /// and to all at most `at_once`. Each peer has its turn before any has a second one, so that
    /// those waiting for a peer that hangs hold up no other.
    async fn deliver_to_peers(&self, peers: Range<usize>, at_once: usize) -> Tally {
        let groups = &*self.to.groups;
        let limits = &self.delivery.dispatcher.limits;
        // Those of each peer whose delivery has not begun.
        let mut waiting = self.to.peers[peers].to_vec();
        // Peers that failed come last: to make a connection again takes as long as ten deliveries
        // over connections that are kept, and would make all of them late.
        let is_in_doubt = |peer: &usize| {
            let first = waiting[*peer].first_row();
            let target = first.and_then(|at| groups.rows()[at].target());
            target.is_some_and(Target::is_in_doubt)
        };
        let (doubtful, well): (Vec<_>, Vec<_>) = (0..waiting.len()).partition(is_in_doubt);
        let mut slots: VecDeque<Slot> = well.into_iter().chain(doubtful).map(Slot::of).collect();
        for (peer, of_peer) in waiting.iter().enumerate() {
            // What has no place takes no time.
            let at_once = match of_peer.has_places {
                true => of_peer.deliveries.min(limits.in_flight_per_peer_max),
                false => 1,
            };
            let further = at_once.saturating_sub(1);
            slots.extend(std::iter::repeat_n(Slot::of(peer), further));
        }
        let deliver = |slot: Slot| {
            let of_peer = &mut waiting[slot.peer];
            if slot.gave_up.is_some() {
                of_peer.given_up = slot.gave_up;
            }
            let next = of_peer.next(groups, || Instant::now() >= self.delivery.deadline)?;
            let first = next.rows().start;
            Some(async move {
                let (outcome, rows, is_of_the_url) = self.deliver(next).await;
                let gave_up = is_of_the_url.then_some(first);
                let peer = slot.peer;
                (Slot { peer, gave_up }, outcome, rows)
            })
        };
        deliver_in_window(slots, deliver, at_once).await
    }

    /// Delivers to the rows that one delivery is for, or settles rows that get none. Returns with
    /// the outcome the number of rows, and whether the others of their url need not be tried.
    async fn deliver(&self, next: Next) -> (Result<Outcome, StoreError>, u64, bool) {
        let Delivery {
            dispatcher,
            message,
            deadline,
            so_far,
            receipts,
        } = &self.delivery;
        let mut why = None;
        let settlement = &dispatcher.settlement;
        let rows = &self.to.groups.rows()[next.rows().clone()];
        let further_copy = self.copies.outcome(&rows[0]).await;
        let mut is_of_the_url = false;
        let outcome = match further_copy {
            Some(outcome) => {
                if outcome == Outcome::Unsubscribed {
                    settlement.remove(rows).await;
                }
                Ok(outcome)
            }
            None => {
                // Before anything can go wrong, so that what is missed is a hole in its numbers.
                let number = rows[0].subscriber.numbers.give(next.deliveries());
                let verdict = match next {
                    Next::Deliver(_) => {
                        let deliveries = &dispatcher.deliveries;
                        let delivering = deliveries.deliver(&rows[0], message, number, *deadline);
                        delivering.await
                    }
                    Next::NoPlace(_) => Verdict::Missed(Undelivered::NoPlace),
                    Next::GivenUp(_) => Verdict::Missed(Undelivered::GivenUp),
                    Next::TooLate(_) => Verdict::Missed(Undelivered::TooLate),
                };
                if let (Some(_), Verdict::Missed(undelivered)) = (receipts, &verdict) {
                    why = Some(undelivered.to_string());
                }
                is_of_the_url = matches!(&verdict, Verdict::Missed(why) if why.is_of_the_url());
                settlement.settle(rows, message, verdict).await
            }
        };
        // The first copy was counted where it was delivered.
        if further_copy.is_none() {
            if let Ok(Outcome::Confirmed(subscribers)) = outcome {
                let confirmed = u64::from(subscribers);
                so_far.subscribers.fetch_add(confirmed, Ordering::Relaxed);
            }
            self.copies.settle(&rows[0], &outcome);
        }
        so_far.count(&outcome, rows.len() as u64);
        if let Some(receipts) = receipts {
            receipts.delivered(rows, outcome.as_ref().ok(), why.as_deref());
        }
        if let Some(gate) = &self.gate {
            gate.ended(next.deliveries());
        }
        dispatcher.busy_poll.happened();
        (outcome, rows.len() as u64, is_of_the_url)
    }
}
