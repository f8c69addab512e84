//! The circuit breaker of a peer: one that fails again and again is posted nothing for a while, and
//! then little until it confirms something.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::time;
use tokio::time::Instant;

/// When a peer is left alone, and what is posted to those that never confirmed anything.
#[derive(Clone, Copy, Debug)]
pub struct BreakerConfig {
    /// After how many failed deliveries in a row the breaker opens. Those that were under way at the
    /// same time count as one. Default 5.
    pub failures: u32,
    /// For how long it has to fail before the breaker opens: many subscribers may be at one peer, and
    /// some of them fail while others do not. Default 1 s.
    pub lasting: Duration,
    /// How long it is open the first time; twice as long after each trial that failed. Default 2 s.
    pub pause: Duration,
    /// Longest time it is open. Default 30 s.
    pub pause_max: Duration,
    /// Longest message that is sent for a trial where there is no notice to send, in bytes. Default
    /// 64 KiB.
    pub trial_bytes_max: u64,
    /// What is posted to a peer that never confirmed anything. Default: as to all others.
    pub unproven: Option<UnprovenLimits>,
}

impl BreakerConfig {
    /// The same with durations that can be added to a moment.
    pub(crate) fn bounded(mut self) -> Self {
        time::bound([&mut self.lasting, &mut self.pause, &mut self.pause_max]);
        if let Some(unproven) = &mut self.unproven {
            time::bound([&mut unproven.pause]);
        }
        self
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            lasting: Duration::from_secs(1),
            pause: Duration::from_secs(2),
            pause_max: Duration::from_secs(30),
            trial_bytes_max: 64 * 1024,
            unproven: None,
        }
    }
}

/// What is posted to a peer that never confirmed anything: it may not know that it was subscribed. It
/// gets one delivery at a time.
#[derive(Clone, Copy, Debug)]
pub struct UnprovenLimits {
    /// Longest message, in bytes. Default 1 MiB.
    pub bytes_max: u64,
    /// How long it is left alone after it did not confirm. Default 1 s.
    pub pause: Duration,
}

impl Default for UnprovenLimits {
    fn default() -> Self {
        Self {
            bytes_max: 1024 * 1024,
            pause: Duration::from_secs(1),
        }
    }
}

/// Why a delivery is not tried. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTried {
    /// The circuit breaker of the peer is open.
    #[error("it failed again and again and is left alone for a while")]
    Open,
    /// The same, and it is time to look whether it is back, by a notice and not by a message.
    #[error("it failed again and again; it is sent a notice first")]
    NoticeFirst,
    /// The peer never confirmed anything, and the message is longer than such a peer gets.
    #[error("it never confirmed anything, and gets no message of {bytes} bytes before it does")]
    TooLongForUnproven {
        /// Length of the message.
        bytes: u64,
    },
    /// The peer never confirmed anything, and has just failed to.
    #[error("it never confirmed anything, and is not tried again so soon")]
    Unproven,
}

/// By what a peer whose breaker is open can be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialBy {
    /// By a notice that something was missed, which is to be sent at once then.
    Notice,
    /// Only by the message itself.
    Message,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    /// Nothing is wrong, so the rest need not be looked at.
    is_closed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    is_proven: bool,
    /// In a row.
    failures: u32,
    /// Since the last confirmation.
    first_failed_at: Option<Instant>,
    failed_at: Option<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    trials: u32,
}

impl State {
    /// Fails while one that is not proven is left alone.
    fn rests(&self, limits: &UnprovenLimits, now: Instant) -> Result<(), NotTried> {
        let failed_at = self.failed_at;
        let rests = failed_at.is_some_and(|at| now < at + limits.pause);
        match self.open.is_none() && rests {
            true => Err(NotTried::Unproven),
            false => Ok(()),
        }
    }
}

/// After so many trials by a notice the message itself is tried: the recovery url may be what is wrong.
const NOTICE_TRIALS_MAX: u32 = 3;

/// What is new about a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It has opened after so many failures.
    Opened(u32),
    /// It is closed again.
    Closed,
    /// The peer has confirmed something for the first time.
    Proven,
}

impl Breaker {
    pub(crate) fn new(config: Option<&BreakerConfig>) -> Self {
        let is_proven = config.is_none_or(|config| config.unproven.is_none());
        Self {
            is_closed: AtomicBool::new(is_proven),
            state: Mutex::new(State {
                is_proven,
                failures: 0,
                first_failed_at: None,
                failed_at: None,
                open: None,
            }),
        }
    }

    /// Whether a delivery may be tried now, and then whether that is a trial.
    pub(crate) fn admit(
        &self,
        config: &BreakerConfig,
        now: Instant,
        message_bytes: u64,
        by: impl FnOnce() -> TrialBy,
    ) -> Result<bool, NotTried> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut state = self.state();
        if let (false, Some(limits)) = (state.is_proven, &config.unproven) {
            if message_bytes > limits.bytes_max {
                let bytes = message_bytes;
                return Err(NotTried::TooLongForUnproven { bytes });
            }
            state.rests(limits, now)?;
        }
        let Some(open) = &mut state.open else {
            return Ok(false);
        };
        if now < open.until {
            return Err(NotTried::Open);
        }
        let with_notice = open.trials < NOTICE_TRIALS_MAX && by() == TrialBy::Notice;
        if !with_notice && message_bytes > config.trial_bytes_max {
            return Err(NotTried::Open);
        }
        // One trial in each pause.
        open.until = now + open.pause;
        open.pause = (open.pause * 2).min(config.pause_max);
        open.trials += 1;
        if with_notice {
            return Err(NotTried::NoticeFirst);
        }
        Ok(true)
    }

    /// Whether a delivery that was admitted may still be tried, now that it has its turn.
    pub(crate) fn is_still_admitted(
        &self,
        config: &BreakerConfig,
        now: Instant,
    ) -> Result<(), NotTried> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let state = self.state();
        if state.open.is_some() {
            return Err(NotTried::Open);
        }
        match (state.is_proven, &config.unproven) {
            (false, Some(limits)) => state.rests(limits, now),
            _ => Ok(()),
        }
    }

    /// Whether nothing is wrong with the peer.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Whether it is open at this moment.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::Relaxed) && self.state().open.is_some()
    }

    /// The peer confirmed something.
    pub(crate) fn confirmed(&self) -> Option<News> {
        if self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state();
        let was_proven = std::mem::replace(&mut state.is_proven, true);
        let was_open = state.open.take().is_some();
        state.failures = 0;
        state.first_failed_at = None;
        self.is_closed.store(true, Ordering::Relaxed);
        match (was_proven, was_open) {
            (false, _) => Some(News::Proven),
            (true, true) => Some(News::Closed),
            (true, false) => None,
        }
    }

    /// The peer was heard of in another way: it is worth while to try it again.
    pub(crate) fn heard(&self) -> Option<News> {
        if self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state();
        state.failures = 0;
        state.first_failed_at = None;
        self.is_closed.store(state.is_proven, Ordering::Relaxed);
        state.open.take().map(|_| News::Closed)
    }

    /// A delivery that began then was not confirmed.
    pub(crate) fn failed(
        &self,
        config: &BreakerConfig,
        now: Instant,
        began: Instant,
    ) -> Option<News> {
        let mut state = self.state();
        if state.failed_at.is_some_and(|at| began < at) {
            return None;
        }
        self.is_closed.store(false, Ordering::Relaxed);
        state.failed_at = Some(now);
        state.failures = state.failures.saturating_add(1);
        let failures = state.failures;
        let since = *state.first_failed_at.get_or_insert(now);
        if failures < config.failures || now < since + config.lasting || state.open.is_some() {
            return None;
        }
        state.open = Some(Open {
            until: now + config.pause,
            pause: (config.pause * 2).min(config.pause_max),
            trials: 0,
        });
        Some(News::Opened(failures))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BreakerConfig = BreakerConfig {
        failures: 3,
        lasting: Duration::from_millis(800),
        pause: Duration::from_secs(2),
        pause_max: Duration::from_secs(5),
        trial_bytes_max: 100,
        unproven: None,
    };

    /// A breaker and its time, in seconds.
    struct Peer {
        breaker: Breaker,
        config: BreakerConfig,
        start: Instant,
    }

    impl Peer {
        fn new(config: BreakerConfig) -> Self {
            Self {
                breaker: Breaker::new(Some(&config)),
                config,
                start: Instant::now(),
            }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn admit(&self, seconds: f64, bytes: u64, by: TrialBy) -> Result<bool, NotTried> {
            let now = self.at(seconds);
            self.breaker.admit(&self.config, now, bytes, || by)
        }

        fn fail(&self, began: f64, ended: f64) -> Option<News> {
            let (began, ended) = (self.at(began), self.at(ended));
            self.breaker.failed(&self.config, ended, began)
        }

        fn open() -> Self {
            let peer = Self::new(CONFIG);
            assert_eq!(peer.fail(0.0, 0.1), None);
            assert_eq!(peer.fail(0.2, 0.3), None);
            assert_eq!(peer.fail(0.3, 0.8), None, "not for long enough");
            assert_eq!(peer.fail(0.9, 1.0), Some(News::Opened(4)));
            peer
        }
    }

    use TrialBy::{Message, Notice};

    #[test]
    fn it_opens_after_failures_in_a_row_of_which_simultaneous_ones_are_one() {
        let peer = Peer::new(CONFIG);
        for _ in 0..10 {
            assert_eq!(peer.fail(0.0, 1.0), None);
        }
        assert_eq!(peer.fail(1.5, 1.6), None);
        assert_eq!(peer.breaker.confirmed(), None);
        assert_eq!(peer.fail(2.0, 2.1), None);
        assert_eq!(peer.fail(2.2, 2.3), None);
        assert_eq!(peer.admit(2.4, 1_000, Notice), Ok(false));
        assert_eq!(peer.fail(2.4, 2.9), Some(News::Opened(3)));
        assert_eq!(peer.admit(3.0, 0, Notice), Err(NotTried::Open));
        assert_eq!(peer.fail(2.4, 3.0), None, "it was under way");
        assert!(peer.breaker.is_open());
    }

    #[test]
    fn an_open_one_is_tried_by_a_notice_and_never_by_the_message() {
        let peer = Peer::open();
        assert_eq!(peer.admit(2.9, 1_000, Notice), Err(NotTried::Open));
        assert_eq!(peer.admit(3.0, 1_000, Notice), Err(NotTried::NoticeFirst));
        // One in each pause, which grows: 2, 4, 5, 5 s.
        assert_eq!(peer.admit(3.0, 1_000, Notice), Err(NotTried::Open));
        assert_eq!(peer.admit(6.9, 1_000, Notice), Err(NotTried::Open));
        assert_eq!(peer.admit(7.0, 1_000, Notice), Err(NotTried::NoticeFirst));
        assert_eq!(peer.admit(11.9, 1_000, Notice), Err(NotTried::Open));
        assert_eq!(peer.admit(12.0, 1_000, Notice), Err(NotTried::NoticeFirst));
        // Its recovery url may be what does not work.
        assert_eq!(peer.admit(17.0, 1_000, Notice), Err(NotTried::Open));
        assert_eq!(peer.admit(17.0, 100, Notice), Ok(true));
        assert_eq!(peer.breaker.confirmed(), Some(News::Closed));
        assert_eq!(peer.admit(17.1, 1_000, Notice), Ok(false));
    }

    #[test]
    fn where_no_notice_can_be_sent_a_small_message_is_the_trial() {
        let peer = Peer::open();
        assert_eq!(peer.admit(3.0, 101, Message), Err(NotTried::Open));
        assert_eq!(peer.admit(3.0, 100, Message), Ok(true));
        assert_eq!(peer.admit(3.0, 100, Message), Err(NotTried::Open));
        assert_eq!(peer.fail(3.0, 3.5), None);
        assert_eq!(peer.admit(6.9, 100, Message), Err(NotTried::Open));
        assert_eq!(peer.admit(7.0, 100, Message), Ok(true));
    }

    #[test]
    fn one_that_is_heard_of_is_tried_at_once() {
        let peer = Peer::open();
        assert_eq!(peer.breaker.heard(), Some(News::Closed));
        assert_eq!(peer.breaker.heard(), None);
        assert_eq!(peer.admit(1.0, 1_000, Notice), Ok(false));
        assert_eq!(peer.fail(1.1, 1.2), None, "it is counted from the start");
    }

    #[test]
    fn one_that_never_confirmed_anything_gets_little_until_it_does() {
        let unproven = UnprovenLimits {
            bytes_max: 10,
            pause: Duration::from_secs(1),
        };
        let peer = Peer::new(BreakerConfig {
            unproven: Some(unproven),
            ..CONFIG
        });
        let too_long = Err(NotTried::TooLongForUnproven { bytes: 11 });
        assert_eq!(peer.admit(0.0, 11, Notice), too_long);
        assert_eq!(peer.admit(0.0, 10, Notice), Ok(false));
        assert_eq!(peer.fail(0.0, 0.1), None);
        assert_eq!(peer.admit(1.0, 10, Notice), Err(NotTried::Unproven));
        assert_eq!(peer.admit(1.1, 10, Notice), Ok(false));
        assert_eq!(peer.breaker.heard(), None, "that proves nothing");
        assert_eq!(peer.admit(1.1, 11, Notice), too_long);
        assert_eq!(peer.breaker.confirmed(), Some(News::Proven));
        assert_eq!(peer.fail(1.1, 1.2), None);
        assert_eq!(peer.admit(1.2, 11, Notice), Ok(false));
    }
}
