//! The order and the pauses of connection attempts (`docs/protocol/stateful.md` §15).

use std::collections::VecDeque;
use std::time::Duration;

use httppubsub_proto::backoff::before_pass;

use crate::requests::pass;

/// Reconnect over the broadcasters: within one each is tried once, at once; before a further one
/// there is a pause, the longer the more there were.
#[derive(Debug)]
pub(crate) struct Reconnect {
    priorities: Vec<Option<u32>>,
    /// Number of passes that may follow the first.
    retries: u32,
    /// A connection that was open for this time was a success.
    stable_after: Duration,
    /// Draws from [0, 1).
    random: fn() -> f64,
    /// The pass under way; the first is 0.
    number: u32,
    /// Broadcasters that were not tried in it yet.
    left: VecDeque<usize>,
    attempts: u32,
    /// `true` if there ever was a connection.
    was_open: bool,
    /// Number of attempts in a row that were refused until then.
    refusals: usize,
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ConnectionAttempt {
    /// There was a connection for this time.
    Open(Duration),
    /// A broadcaster was there, and refuses this client.
    Refused,
    /// There was no connection.
    Failed,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    /// Try this broadcaster.
    Connect(usize),
    /// Wait for this time.
    Pause(Duration),
    /// Nothing: `attempts` led to no connection that lasted.
    GiveUp { attempts: u32 },
}

/// The longest pause between two passes.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A client that never had a connection, and that all broadcasters refused in this many passes,
/// gives up however many more there may be: other secrets, or another url, do not come by waiting.
const REFUSED_PASSES_MAX: usize = 3;

impl Reconnect {
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
            was_open: false,
            refusals: 0,
        };
        passes.begin(0);
        passes
    }

    fn begin(&mut self, number: u32) {
        self.number = number;
        self.left = pass(&self.priorities, self.random).into();
    }

    /// The next step; after a pause, too, and after [`Reconnect::ended`].
    pub(crate) fn next(&mut self) -> Next {
        if let Some(at) = self.left.pop_front() {
            return Next::Connect(at);
        }
        // A pass is over when nobody is left in it, so a client with one broadcaster pauses each
        // time.
        if self.number >= self.retries || self.is_refused() {
            return Next::GiveUp {
                attempts: self.attempts,
            };
        }
        self.begin(self.number + 1);
        Next::Pause(before_pass(self.number, (self.random)()).min(PAUSE_MAX))
    }

    /// `true` if all broadcasters refuse a client that never had a connection.
    fn is_refused(&self) -> bool {
        !self.was_open && self.refusals >= REFUSED_PASSES_MAX * self.priorities.len()
    }

    /// Takes note of how the last attempt ended. Returns `true` if all begins anew, because it was
    /// a success.
    pub(crate) fn ended(&mut self, attempt: ConnectionAttempt) -> bool {
        let was_stable = match attempt {
            ConnectionAttempt::Open(open_for) => {
                self.was_open = true;
                open_for >= self.stable_after
            }
            ConnectionAttempt::Refused => {
                self.refusals = self.refusals.saturating_add(1);
                false
            }
            // Nobody refused: the broadcaster may be starting, so the count of refusals begins
            // again.
            ConnectionAttempt::Failed => {
                self.refusals = 0;
                false
            }
        };
        // A connection that is lost at once is no success, or a broadcaster that accepts and closes
        // would be asked without pause.
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

    const TENTATIVE: ConnectionAttempt = ConnectionAttempt::Open(Duration::from_millis(999));
    const STABLE: ConnectionAttempt = ConnectionAttempt::Open(Duration::from_secs(1));

    fn passes(broadcasters: u32, retries: u32) -> Reconnect {
        let priorities = (0..broadcasters).map(Some).collect();
        Reconnect::new(priorities, retries, Duration::from_secs(1), || 0.25)
    }

    /// All that is done while every attempt ends like this.
    fn all(passes: &mut Reconnect, attempt: ConnectionAttempt) -> Vec<Next> {
        let mut all = Vec::new();
        loop {
            let next = passes.next();
            all.push(next);
            match next {
                Next::Connect(_) => {
                    passes.ended(attempt);
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
        assert_eq!(all(&mut passes(2, 2), ConnectionAttempt::Failed), want);
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
        assert!(!passes.ended(ConnectionAttempt::Failed));
        assert_eq!(passes.next(), Next::Connect(1));
        passes.ended(ConnectionAttempt::Failed);
        passes.next();
        passes.ended(ConnectionAttempt::Failed);
        assert_eq!(passes.next(), pause(1.25));
        // In a later pass, too, there is no pause after a success, and all passes are left again.
        assert_eq!(passes.next(), Next::Connect(0));
        assert!(passes.ended(STABLE));
        let again = all(&mut passes, ConnectionAttempt::Failed);
        assert_eq!(again[0], Next::Connect(0));
        assert_eq!(again.last(), Some(&Next::GiveUp { attempts: 6 }));
    }

    #[test]
    fn without_retries_there_is_one_pass() {
        let want = [Next::Connect(0), Next::GiveUp { attempts: 1 }];
        assert_eq!(all(&mut passes(1, 0), ConnectionAttempt::Failed), want);
    }

    #[test]
    fn wrong_secrets_over_ws_are_not_tried_for_ever_before_the_first_connection() {
        let mut passes = passes(2, u32::MAX);
        let refused = all(&mut passes, ConnectionAttempt::Refused);
        assert_eq!(refused.last(), Some(&Next::GiveUp { attempts: 6 }));
        // One that cannot be reached may come back and take the client.
        let mut passes = self::passes(2, u32::MAX);
        for _ in 0..10 {
            for attempt in [ConnectionAttempt::Refused, ConnectionAttempt::Failed] {
                assert!(matches!(passes.next(), Next::Connect(_)));
                passes.ended(attempt);
            }
            assert!(matches!(passes.next(), Next::Pause(_)));
        }
        // So may one that had it before: while its secrets are changed, say.
        assert!(matches!(passes.next(), Next::Connect(_)));
        passes.ended(TENTATIVE);
        for _ in 0..10 * REFUSED_PASSES_MAX {
            assert!(!matches!(passes.next(), Next::GiveUp { .. }));
            passes.ended(ConnectionAttempt::Refused);
        }
    }

    #[test]
    fn the_pauses_stop_growing_and_the_attempts_do_not_end_unless_they_should() {
        let mut passes = passes(1, u32::MAX);
        let mut longest = Duration::ZERO;
        for _ in 0..1_000 {
            match passes.next() {
                Next::Connect(_) => assert!(!passes.ended(ConnectionAttempt::Failed)),
                Next::Pause(pause) => longest = longest.max(pause),
                Next::GiveUp { .. } => panic!("there are retries left"),
            }
        }
        assert_eq!(longest, PAUSE_MAX);
    }
}
