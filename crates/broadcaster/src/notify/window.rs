//! The window of a fan-out: deliveries that begin before others have ended.
//!
//! A fan-out to thousands that begins all deliveries at once sends far more than the processor's
//! caches hold before it reads the first answer. In step, each delivery is done while what it needs
//! is still there. But a step must not wait for subscribers: when answers take longer than the time
//! of a step, the window grows until they no longer hold it up.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use httppubsub_store::StoreError;
use tokio::time::Instant;

use crate::notify::tally::{Outcome, Tally};

/// One of the deliveries that a peer may have at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The index of the peer among those of the fan-out.
    pub(super) peer: usize,
    /// The row of a delivery that was not tried, if others of its url would not be either.
    pub(super) gave_up: Option<usize>,
}

impl Slot {
    /// A slot of `peer` in which nothing was delivered yet.
    pub(super) fn of(peer: usize) -> Self {
        let gave_up = None;
        Self { peer, gave_up }
    }
}

/// Begins a delivery for each of `slots`, at most `at_once` at once, and gives the slot of one that
/// has ended to the next of the same peer, behind all that wait. `deliver` makes the deliveries,
/// for as long as there are any of that peer.
///
/// Deliveries of a large fan-out begin in step with the ends of others: data sent to hundreds
/// before the first answer is read has left the caches by then. Answers that take longer than a
/// step are not waited for: more deliveries begin then, and twice as many each time.
pub(super) async fn deliver_in_window<D>(
    mut slots: VecDeque<Slot>,
    mut deliver: impl FnMut(Slot) -> Option<D>,
    at_once: usize,
) -> Tally
where
    D: Future<Output = (Slot, Result<Outcome, StoreError>, u64)>,
{
    let mut tally = Tally::default();
    let mut running = FuturesUnordered::new();
    let is_for_few = slots.len() <= FEW;
    let mut may_begin = if is_for_few { FEW } else { IN_STEP };
    let (mut more, mut ended) = (IN_STEP, 0);
    let mut missed = 0;
    let mut next_step = std::pin::pin!(tokio::time::sleep(STEP));
    loop {
        // One may always begin, or nothing would ever end.
        while may_begin > 0
            && running.len() < at_once.max(1)
            && let Some(slot) = slots.pop_front()
        {
            if let Some(delivery) = deliver(slot) {
                running.push(delivery);
                may_begin -= 1;
            }
        }
        tokio::select! {
            // Ends first: each makes room for the next without a step.
            biased;
            Some((slot, outcome, rows)) = running.next() => {
                missed += usize::from(!matches!(outcome, Ok(Outcome::Confirmed(_))));
                tally.count(outcome, rows);
                slots.push_back(slot);
                may_begin += 1;
                ended += 1;
                // Deliveries that fail at once never yield by themselves.
                if missed == MISSED_AT_ONCE {
                    missed = 0;
                    tokio::task::yield_now().await;
                }
            }
            () = &mut next_step, if may_begin == 0 && !slots.is_empty() => {
                // Most are still waited for, so processors are not what holds it up.
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

/// Rows missed in a row after which the thread is yielded. Each takes little, but thousands of them
/// would keep the other tasks of the thread waiting.
const MISSED_AT_ONCE: usize = 32;

/// Deliveries of a large fan-out that start before any has finished.
const IN_STEP: usize = 64;

/// Fan-outs of this size begin at once: there is nothing to gain, and many such notifications at a
/// time would get into each other's way.
const FEW: usize = 2 * IN_STEP;

/// Longer than answers take where only processors are to be waited for; one or two milliseconds, as
/// time is counted in whole ones.
const STEP: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Delivers to `peers` peers with `each` subscribers each; a delivery takes as long as `takes`
    /// says of its peer, and deliveries that take no time run one after the other. Returns the most
    /// that ran at once, and the peers in the order in which their deliveries began.
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
            (Slot::of(peer), Ok(Outcome::Confirmed(1)), 1)
        };
        let deliver = |Slot { peer, .. }| {
            left[peer] = left[peer].checked_sub(1)?;
            began.push(peer);
            Some(delivery(peer))
        };
        let slots = (0..peers).chain(0..peers).map(Slot::of).collect();
        let tally = deliver_in_window(slots, deliver, at_once).await;
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
    async fn each_peer_has_its_turn_before_any_has_a_second_and_keeps_its_slots() {
        let (most, began) = deliver(300, 10, 4_096, |_| Duration::ZERO).await;
        assert!(most <= IN_STEP, "{most} at once");
        assert_eq!(began[..300], (0..300).collect::<Vec<_>>());
        // The first hangs for longer than all others take together.
        let hangs = |peer| if peer == 0 { SLOW } else { STEP };
        let (most, began) = deliver(2, 500, 4_096, hangs).await;
        assert_eq!(most, 4, "two slots each");
        assert_eq!(began[..4], [0, 1, 0, 1]);
        let others = began.iter().take(502).filter(|peer| **peer == 1);
        assert_eq!(others.count(), 500, "they do not wait for it");
    }
}
