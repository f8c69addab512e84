//! Which broadcaster is tried when (`docs/protocol/stateful.md` §15).

use std::collections::VecDeque;
use std::time::Duration;

use httppubsub_proto::backoff::before_pass;

use crate::http::pass;

/// Passes over the broadcasters: within one each is tried once, at once; before a further one there
/// is a pause, the longer the more there were.
#[derive(Debug)]
pub(crate) struct Passes {
    priorities: Vec<Option<u32>>,
    /// How many passes may follow the first.
    retries: u32,
    /// A connection that was open for so long was a success.
    stable_after: Duration,
    /// Draws from [0, 1).
    random: fn() -> f64,
    /// The pass under way; the first is 0.
    number: u32,
    /// Who was not tried in it yet.
    left: VecDeque<usize>,
    attempts: u32,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    /// Try this broadcaster.
    Connect(usize),
    /// Wait for so long.
    Pause(Duration),
    /// Nothing: so many attempts led to no connection that lasted.
    GiveUp { attempts: u32 },
}

/// The longest pause between two passes.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Passes {
    /// Over broadcasters of these priorities.
    pub(crate) fn new(
        priorities: Vec<Option<u32>>,
        retries: u32,
        stable_after: Duration,
        random: fn() -> f64,
    ) -> Self {
        let mut passes = Self {
            priorities,
            retries,
            stable_after,
            random,
            number: 0,
            left: VecDeque::new(),
            attempts: 0,
        };
        passes.begin(0);
        passes
    }

    fn begin(&mut self, number: u32) {
        self.number = number;
        self.left = pass(&self.priorities, self.random).into();
    }

    /// What to do next; after a pause, too, and when [`Passes::ended`] was told.
    pub(crate) fn next(&mut self) -> Next {
        if let Some(at) = self.left.pop_front() {
            return Next::Connect(at);
        }
        if self.number >= self.retries {
            return Next::GiveUp {
                attempts: self.attempts,
            };
        }
        self.begin(self.number + 1);
        Next::Pause(before_pass(self.number, (self.random)()).min(PAUSE_MAX))
    }

    /// The last attempt is over, and was open for so long if it came to that. Whether all begins
    /// anew, because it was a success.
    pub(crate) fn ended(&mut self, open_for: Option<Duration>) -> bool {
        let was_stable = open_for.is_some_and(|it| it >= self.stable_after);
        if was_stable {
            self.attempts = 0;
            self.begin(0);
        } else {
            self.attempts = self.attempts.saturating_add(1);
        }
        was_stable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTATIVE: Option<Duration> = Some(Duration::from_millis(999));
    const STABLE: Option<Duration> = Some(Duration::from_secs(1));

    fn passes(broadcasters: u32, retries: u32) -> Passes {
        let priorities = (0..broadcasters).map(Some).collect();
        Passes::new(priorities, retries, Duration::from_secs(1), || 0.25)
    }

    /// All that is done while every attempt ends like this.
    fn all(passes: &mut Passes, open_for: Option<Duration>) -> Vec<Next> {
        let mut all = Vec::new();
        loop {
            let next = passes.next();
            all.push(next);
            match next {
                Next::Connect(_) => {
                    passes.ended(open_for);
                }
                Next::Pause(_) => {}
                Next::GiveUp { .. } => return all,
            }
        }
    }

    fn pause(seconds: f64) -> Next {
        Next::Pause(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn within_a_pass_nothing_is_waited_for_and_before_each_further_one_longer() {
        use Next::Connect;
        let want = [
            Connect(0),
            Connect(1),
            pause(1.25),
            Connect(0),
            Connect(1),
            pause(2.25),
            Connect(0),
            Connect(1),
            Next::GiveUp { attempts: 6 },
        ];
        assert_eq!(all(&mut passes(2, 2), None), want);
        // A connection that did not last is as good as none.
        assert_eq!(all(&mut passes(2, 2), TENTATIVE), want);
    }

    #[test]
    fn after_a_tentative_connection_the_pass_goes_on_and_after_a_stable_one_it_begins_anew() {
        let mut passes = passes(3, 1);
        assert_eq!(passes.next(), Next::Connect(0));
        assert!(!passes.ended(TENTATIVE));
        assert_eq!(passes.next(), Next::Connect(1));
        assert!(passes.ended(STABLE));
        assert_eq!(passes.next(), Next::Connect(0));
        assert!(!passes.ended(None));
        assert_eq!(passes.next(), Next::Connect(1));
        passes.ended(None);
        passes.next();
        passes.ended(None);
        assert_eq!(passes.next(), pause(1.25));
        // In a later pass, too, there is no pause after a success, and all passes are left again.
        assert_eq!(passes.next(), Next::Connect(0));
        assert!(passes.ended(STABLE));
        let again = all(&mut passes, None);
        assert_eq!(again[0], Next::Connect(0));
        assert_eq!(again.last(), Some(&Next::GiveUp { attempts: 6 }));
    }

    #[test]
    fn without_retries_there_is_one_pass() {
        let want = [Next::Connect(0), Next::GiveUp { attempts: 1 }];
        assert_eq!(all(&mut passes(1, 0), None), want);
    }

    #[test]
    fn the_pauses_stop_growing_and_the_attempts_do_not_end_unless_they_should() {
        let mut passes = passes(1, u32::MAX);
        let mut longest = Duration::ZERO;
        for _ in 0..1_000 {
            match passes.next() {
                Next::Connect(_) => assert!(!passes.ended(None)),
                Next::Pause(pause) => longest = longest.max(pause),
                Next::GiveUp { .. } => panic!("there are retries left"),
            }
        }
        assert_eq!(longest, PAUSE_MAX);
    }
}
