//! Finds out by the numbers of deliveries that something was missed.
//!
//! ```text
//!   line     1 2 3 . . 6 7        4 and 5 are a hole: if they do not come within the patience,
//!                  ^ ^            all subscriptions have a gap
//! ```
//!
//! Each process of a broadcaster numbers what this client is due ([`httppubsub_proto::number`]).
//! Deliveries overtake each other, so a hole has some time to be filled, and one that is being read
//! is not missing. A line that is new says that there is a process which may have missed something
//! before, unless it is the first one and begins at 1.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::number::{Line, Number};
use httppubsub_proto::time::FOREVER;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::receive::dispatch::Dispatch;

/// The numbers that arrived, of all lines.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Told of gaps.
    dispatch: Arc<Dispatch>,
    /// Time for which a hole may be filled; `None` if gaps are not looked for.
    patience: Option<Duration>,
    lines: Mutex<Lines>,
    /// Told when a hole comes to be.
    has_hole: Notify,
}

/// Lines by their names.
#[derive(Debug, Default)]
struct Lines {
    by_line: HashMap<Line, State>,
    /// Grows with each delivery, so that the line that was used longest ago can be told.
    deliveries: u64,
}

/// What is known of one line.
#[derive(Debug)]
struct State {
    /// The highest number that began to arrive.
    highest: u64,
    /// The numbers that were taken, of the last [`WINDOW`] up to the highest; the place of a number
    /// is its remainder.
    taken: Box<[u64; WINDOW as usize / 64]>,
    /// Numbers whose delivery is being read, in no order.
    arriving: Vec<u64>,
    /// Numbers that did not come, by the lowest of each row.
    holes: Vec<Hole>,
    /// [`Lines::deliveries`] when it was used last.
    used: u64,
}

/// A row of numbers that did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    first: u64,
    last: u64,
    /// The time at which a higher number came, or since which nothing of it is being read.
    since: Instant,
}

/// A delivery that is being read. If it is dropped before it was taken, it is missing.
#[derive(Debug)]
pub(crate) struct Arriving {
    numbers: Arc<Numbers>,
    number: Number,
    /// `false` once it was taken.
    is_missing: bool,
}

/// Numbers of a line that are distinguished. A delivery overtaken by more than these is taken
/// even if it came before.
const WINDOW: u64 = 4_096;

/// Lines that are remembered: as many processes may notify a client by turns.
const LINES_MAX: usize = 64;

/// Holes of one line that are waited for; beyond it, something is missing for certain.
const HOLES_MAX: usize = 4_096;

impl Numbers {
    /// Nothing has arrived; holes may be filled for as long as `patience`.
    pub(crate) fn new(dispatch: Arc<Dispatch>, patience: Option<Duration>) -> Self {
        Self {
            dispatch,
            patience: patience.map(|it| it.min(FOREVER)),
            lines: Mutex::default(),
            has_hole: Notify::new(),
        }
    }

    /// A delivery of this number, for which a broadcaster vouches, begins to arrive.
    pub(crate) fn begin(self: &Arc<Self>, number: Number) -> Arriving {
        let now = Instant::now();
        let mut lines = self.lines();
        let is_missed = lines.begin(number, now);
        drop(lines);
        if self.patience.is_some() {
            if is_missed {
                self.dispatch.gap();
            }
            self.has_hole.notify_one();
        }
        Arriving {
            numbers: self.clone(),
            number,
            is_missing: true,
        }
    }

    /// Nothing is wanted any longer: what comes before something is wanted again is not missed.
    pub(crate) fn forget(&self) {
        self.lines().by_line.clear();
    }

    /// Tells of holes that were not filled in time, until `stopped`.
    pub(crate) async fn look_for_holes(self: Arc<Self>, stopped: CancellationToken) {
        let Some(patience) = self.patience else {
            return;
        };
        loop {
            let (is_missed, next) = self.lines().due(Instant::now(), patience);
            if is_missed {
                self.dispatch.gap();
            }
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopped.cancelled() => return,
                () = self.has_hole.notified() => {}
                () = due => {}
            }
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arriving {
    /// It is here, whole. `false` if it was taken before: it is to be confirmed, and not to be
    /// handed out again.
    pub(crate) fn take(mut self) -> bool {
        self.is_missing = false;
        self.numbers.lines().take(self.number)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.is_missing {
            self.numbers.lines().fail(self.number, Instant::now());
            self.numbers.has_hole.notify_one();
        }
    }
}

impl Lines {
    /// Takes in that a number begins to arrive. Returns `true` if something was missed for certain.
    fn begin(&mut self, Number { line, number }: Number, now: Instant) -> bool {
        self.deliveries += 1;
        let used = self.deliveries;
        if let Some(state) = self.by_line.get_mut(&line) {
            state.used = used;
            state.arriving.push(number);
            return state.advance(number, now);
        }
        let is_first = self.by_line.is_empty();
        if self.by_line.len() >= LINES_MAX {
            let oldest = self.by_line.iter().min_by_key(|(_, it)| it.used);
            let oldest = oldest.map(|(line, _)| *line);
            oldest.and_then(|line| self.by_line.remove(&line));
        }
        let mut state = State {
            // Of what comes before the first number of a further line the gap is marked now.
            highest: if is_first { 0 } else { number },
            taken: Box::new([0; WINDOW as usize / 64]),
            arriving: vec![number],
            holes: Vec::new(),
            used,
        };
        if is_first {
            // The numbers before it may have been overtaken.
            state.advance(number, now);
        }
        self.by_line.insert(line, state);
        !is_first
    }

    /// Takes in that a number was taken. Returns `false` if it had been before.
    fn take(&mut self, Number { line, number }: Number) -> bool {
        // Forgotten meanwhile.
        let Some(state) = self.by_line.get_mut(&line) else {
            return true;
        };
        state.ends(number);
        state.fill(number);
        state.mark_taken(number)
    }

    /// Takes in that the delivery of a number came to nothing.
    fn fail(&mut self, Number { line, number }: Number, now: Instant) {
        let Some(state) = self.by_line.get_mut(&line) else {
            return;
        };
        state.ends(number);
        if state.is_taken(number) || state.arriving.contains(&number) {
            return;
        }
        // The hole it is in, if it is still waited for, goes on for as long as others have.
        state.fill(number);
        let hole = Hole {
            first: number,
            last: number,
            since: now,
        };
        state.add(hole);
    }

    /// Takes out the holes that were not filled within `patience`. Returns whether there were any,
    /// and the time at which the next may be due.
    fn due(&mut self, now: Instant, patience: Duration) -> (bool, Option<Instant>) {
        let (mut is_missed, mut next) = (false, None::<Instant>);
        for state in self.by_line.values_mut() {
            let arriving = &state.arriving;
            state.holes.retain(|hole| {
                // Looked at again when one of them fails.
                if hole.is_arriving(arriving) {
                    return true;
                }
                let due = hole.since + patience;
                if due <= now {
                    is_missed = true;
                    return false;
                }
                next = Some(next.map_or(due, |next| next.min(due)));
                true
            });
        }
        (is_missed, next)
    }
}

impl State {
    /// Takes in that `number` came. Returns `true` if holes are given up because there are too
    /// many.
    fn advance(&mut self, number: u64, now: Instant) -> bool {
        if number <= self.highest {
            return false;
        }
        let hole = Hole {
            first: self.highest + 1,
            last: number,
            since: now,
        };
        // The places of numbers that are too old to be told apart.
        if number - self.highest >= WINDOW {
            self.taken.fill(0);
        } else {
            (self.highest + 1..=number).for_each(|number| self.clear(number));
        }
        self.highest = number;
        // The number itself is a part of it until it was taken.
        self.add(hole);
        if self.holes.len() > HOLES_MAX {
            self.holes.clear();
            return true;
        }
        false
    }

    /// One reading of `number` has ended.
    fn ends(&mut self, number: u64) {
        if let Some(at) = self.arriving.iter().position(|it| *it == number) {
            self.arriving.swap_remove(at);
        }
    }

    /// Adds a hole, which overlaps no other.
    fn add(&mut self, hole: Hole) {
        let at = self.holes.partition_point(|it| it.first < hole.first);
        self.holes.insert(at, hole);
    }

    /// Takes `number` out of the hole that it is in.
    fn fill(&mut self, number: u64) {
        let at = self.holes.partition_point(|it| it.last < number);
        let Some(hole) = self.holes.get(at).copied() else {
            return;
        };
        if hole.first > number {
            return;
        }
        let before = (hole.first < number).then(|| Hole {
            last: number - 1,
            ..hole
        });
        let after = (number < hole.last).then(|| Hole {
            first: number + 1,
            ..hole
        });
        self.holes.splice(at..=at, before.into_iter().chain(after));
    }

    /// `true` if `number` was taken, as far as that is remembered.
    fn is_taken(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.is_told_apart(number) && self.taken[word] & bit != 0
    }

    /// Remembers that `number` was taken. Returns `false` if it had been.
    fn mark_taken(&mut self, number: u64) -> bool {
        if !self.is_told_apart(number) {
            return true;
        }
        let (word, bit) = place(number);
        let is_first = self.taken[word] & bit == 0;
        self.taken[word] |= bit;
        is_first
    }

    /// Makes the place of `number` one of a number that was not taken.
    fn clear(&mut self, number: u64) {
        let (word, bit) = place(number);
        self.taken[word] &= !bit;
    }

    fn is_told_apart(&self, number: u64) -> bool {
        self.highest - number.min(self.highest) < WINDOW
    }
}

impl Hole {
    /// `true` if every number of it is being read.
    fn is_arriving(&self, arriving: &[u64]) -> bool {
        let numbers = self.last - self.first;
        numbers < arriving.len() as u64
            && (self.first..=self.last).all(|number| arriving.contains(&number))
    }
}

/// The word and the bit of a number.
fn place(number: u64) -> (usize, u64) {
    let place = number % WINDOW;
    ((place / 64) as usize, 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::receive::inbox::{Event, Inbox, Receiving};

    const PATIENCE: Duration = Duration::from_secs(1);

    /// A client with one subscription, whose gaps are counted.
    struct Fixture {
        numbers: Arc<Numbers>,
        inbox: Arc<Inbox>,
        stopped: CancellationToken,
    }

    impl Fixture {
        fn new(patience: Option<Duration>) -> Self {
            let dispatch = Arc::new(Dispatch::new(10));
            let inbox = dispatch.open();
            let numbers = Arc::new(Numbers::new(dispatch, patience));
            let stopped = CancellationToken::new();
            tokio::spawn(numbers.clone().look_for_holes(stopped.clone()));
            let fixture = Self {
                numbers,
                inbox,
                stopped,
            };
            assert_eq!(fixture.marks(), [Receiving::First]);
            fixture
        }

        fn marks(&self) -> Vec<Receiving> {
            let mut cx = Context::from_waker(Waker::noop());
            let mut marks = Vec::new();
            while let Poll::Ready(Some(Event::Receiving(mark))) = self.inbox.poll_next(&mut cx) {
                marks.push(mark);
            }
            marks
        }

        fn begin(&self, line: u8, number: u64) -> Arriving {
            let line = Line::from_bytes([line; 8]);
            self.numbers.begin(Number { line, number })
        }

        fn take(&self, line: u8, number: u64) -> bool {
            self.begin(line, number).take()
        }

        /// Whether there is a gap now, before the patience is over and after it.
        async fn gaps(&self) -> [bool; 3] {
            let mut gaps = [false; 3];
            for (gap, pause) in gaps.iter_mut().zip([0, 900, 200]) {
                // Everything that is due has been done when this returns.
                tokio::time::sleep(Duration::from_millis(pause)).await;
                *gap = !self.marks().is_empty();
            }
            gaps
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            self.stopped.cancel();
        }
    }

    const NONE: [bool; 3] = [false; 3];
    const AT_ONCE: [bool; 3] = [true, false, false];
    const LATER: [bool; 3] = [false, false, true];

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_order_or_nearly_so_has_no_gap() {
        let fixture = Fixture::new(Some(PATIENCE));
        for number in [2, 1, 3, 6, 4, 5, 7] {
            assert!(fixture.take(1, number));
        }
        assert_eq!(fixture.gaps().await, NONE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_does_not_come_is_a_gap_after_the_patience_and_only_once() {
        let fixture = Fixture::new(Some(PATIENCE));
        for number in [1, 2, 5, 6] {
            assert!(fixture.take(1, number));
        }
        assert_eq!(fixture.gaps().await, LATER);
        assert_eq!(fixture.gaps().await, NONE);
        // Late, and still news.
        assert!(fixture.take(1, 3));
        assert!(!fixture.take(1, 3));
        assert_eq!(fixture.gaps().await, NONE);
        assert!(fixture.take(1, 8));
        assert_eq!(fixture.gaps().await, LATER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_seen_twice_is_handed_out_once() {
        let fixture = Fixture::new(Some(PATIENCE));
        assert!(fixture.take(1, 1));
        assert!(!fixture.take(1, 1));
        let (one, other) = (fixture.begin(1, 2), fixture.begin(1, 2));
        assert!(other.take());
        assert!(!one.take());
        assert!(fixture.take(1, 2 + WINDOW));
        assert!(fixture.take(1, 2), "it is too old to be told apart");
        assert!(!fixture.take(1, 2 + WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_new_is_a_gap_unless_it_is_the_first_and_begins_at_1() {
        let first = Fixture::new(Some(PATIENCE));
        assert!(first.take(1, 1));
        assert_eq!(first.gaps().await, NONE);
        assert!(first.take(2, 1));
        assert_eq!(first.gaps().await, AT_ONCE);
        assert!(first.take(1, 2) && first.take(2, 2));
        assert_eq!(first.gaps().await, NONE);
        let late = Fixture::new(Some(PATIENCE));
        assert!(late.take(1, 100_000));
        assert_eq!(late.gaps().await, LATER);
        // Nobody wanted anything meanwhile.
        late.numbers.forget();
        assert!(late.take(2, 1));
        assert_eq!(late.gaps().await, NONE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_being_read_is_not_missing_until_that_fails() {
        let fixture = Fixture::new(Some(PATIENCE));
        assert!(fixture.take(1, 1));
        let long = fixture.begin(1, 2);
        assert!(fixture.take(1, 3));
        assert_eq!(fixture.gaps().await, NONE);
        drop(long);
        assert_eq!(fixture.gaps().await, LATER);
        let (one, other) = (fixture.begin(1, 4), fixture.begin(1, 4));
        drop(one);
        assert_eq!(fixture.gaps().await, NONE);
        assert!(other.take());
        drop(fixture.begin(1, 4));
        assert_eq!(fixture.gaps().await, NONE, "a repetition that fails");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_looked_for_without_a_patience() {
        let fixture = Fixture::new(None);
        assert!(fixture.take(1, 7) && fixture.take(1, 9) && fixture.take(2, 1));
        assert!(!fixture.take(1, 9), "it is still handed out once");
        assert_eq!(fixture.gaps().await, NONE);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_whatever_comes() {
        let fixture = Fixture::new(Some(Duration::MAX));
        for line in 0..200 {
            assert!(fixture.take(line, 1));
        }
        assert_eq!(fixture.numbers.lines().by_line.len(), LINES_MAX);
        fixture.marks();
        let holes = HOLES_MAX as u64 + 1;
        for number in 1..=holes {
            assert!(fixture.take(199, 2 * number + 1));
        }
        assert!(!fixture.marks().is_empty(), "so many do not come any more");
        assert!(fixture.take(199, u64::MAX));
        assert!(!fixture.take(199, u64::MAX));
        let lines = fixture.numbers.lines();
        assert!(lines.by_line.values().all(|it| it.holes.len() <= HOLES_MAX));
    }

    /// Against a model that remembers everything: each number is handed out once, and a gap is
    /// marked if and only if a number did not come.
    #[tokio::test(start_paused = true)]
    async fn any_order_with_losses_and_repetitions_is_told_as_it_was() {
        for seed in 0..300_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut below = |bound: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % bound
            };
            let fixture = Fixture::new(Some(PATIENCE));
            let (sent, losing) = (below(200) + 2, below(3) == 0);
            let mut order: Vec<u64> = (1..=sent).collect();
            let lost = (losing && sent > 2).then(|| below(sent - 1) + 1);
            order.retain(|number| Some(*number) != lost);
            for at in 0..order.len() {
                let with = (at as u64 + below(8)).min(order.len() as u64 - 1);
                order.swap(at, with as usize);
                if below(10) == 0 {
                    order.push(order[at]);
                }
            }
            let mut taken = std::collections::HashSet::new();
            for number in order {
                assert_eq!(fixture.take(1, number), taken.insert(number), "seed {seed}");
            }
            let gaps = fixture.gaps().await;
            assert_eq!(
                gaps,
                if lost.is_some() { LATER } else { NONE },
                "seed {seed}"
            );
        }
    }
}
