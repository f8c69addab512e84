//! The circuit breaker of a peer: one that fails again and again is posted nothing for a while, and
//! then little until it confirms something.
//!
//! ```text
//!            `failures` in a row, for `lasting`
//! ┌────────┐ ──────────────────────────────────▶ ┌──────┐ ──┐ every `pause` a probe, which fails:
//! │ closed │                                      │ open │   │ the pause doubles up to `pause_max`
//! └────────┘ ◀────────────────────────────────── └──────┘ ◀─┘
//!            a delivery is confirmed, or the
//!            peer asks for something
//! ```
//!
//! A probe is a notice first, if the subscriber has a recovery url at the same peer: it is short,
//! and the subscriber learns that it missed something. Only a confirmed *message*, or a request of
//! the peer itself, closes the breaker.
//!
//! The breaker of an origin opens only if more than one url is to blame. A url that fails alone has
//! its own breaker (`url_breakers`), so that one broken subscriber does not cost its neighbours
//! their messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::time;
use tokio::time::Instant;

/// Settings of circuit breakers, and limits for peers that never confirmed anything.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BreakerConfig {
    /// Failed deliveries in a row that open the breaker. Deliveries that were under way at the
    /// same time count as one. Default 5.
    pub failures: u32,
    /// For how long it has to fail before the breaker opens: many subscribers may be at one peer,
    /// and some of them fail while others do not. Default 1 s.
    pub lasting: Duration,
    /// First time it stays open; twice as long after each probe that failed. Default 2 s.
    pub pause: Duration,
    /// Longest time it is open. Default 30 s.
    pub pause_max: Duration,
    /// Longest message that is sent for a probe, in bytes, unless none as short as this came for a
    /// further pause. Default 64 KiB.
    pub probe_bytes_max: u64,
    /// Limits for a peer that never confirmed anything. Default: as for all others.
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
            probe_bytes_max: 64 * 1024,
            unproven: None,
        }
    }
}

/// Limits for a peer that never confirmed anything: it may not know that it was subscribed. It
/// gets one delivery at a time.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UnprovenLimits {
    /// Longest message, in bytes. Default 1 MiB.
    pub bytes_max: u64,
    /// Time for which it is left alone after it did not confirm. Default 1 s.
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

/// Refusal of a delivery by a circuit breaker. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakerRejection {
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
pub enum Probe {
    /// By a notice that something was missed, which is to be sent at once then.
    Notice,
    /// Only by the message itself.
    Message,
}

/// The circuit breaker of an origin.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// Nothing is wrong, so the rest need not be looked at.
    /// Read by every delivery, and the lock is not: nearly all peers are well.
    is_closed: AtomicBool,
    /// Everything else. Looked at only while `is_closed` is `false`.
    state: Mutex<State>,
}

/// Failures of an origin or of a url.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// `true` once anything was confirmed, or if that need not be shown.
    is_proven: bool,
    /// In a row.
    failures: u32,
    /// Since the last confirmation.
    first_failed_at: Option<Instant>,
    /// The last failure that counted.
    pub(super) failed_at: Option<Instant>,
    /// For what those failures are held against.
    blamed: Blamed,
    /// `None` while it is closed.
    pub(super) open: Option<Open>,
    /// Time it stays open next, if it was open before and nothing was confirmed since.
    pause: Option<Duration>,
}

/// The state of a breaker that lets nothing through but probes.
#[derive(Clone, Debug)]
pub(super) struct Open {
    /// The moment of the next probe.
    until: Instant,
    /// The time from that probe to the one after it.
    pause: Duration,
    /// Probes so far, of both kinds.
    probes: u32,
    /// A notice was confirmed, which proves that the peer answers notices and nothing else.
    answers_notices: bool,
}

/// Subject that failures are held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Blamed {
    /// There was no failure.
    #[default]
    Nobody,
    /// All of them came from this url.
    Url(usize),
    /// They came from several urls, or concern none.
    All,
}

impl Blamed {
    /// The subject of the failures until here together with one more.
    fn and(self, blamed: Blame) -> Self {
        match (self, blamed) {
            (Self::Nobody, Blame::Url(url)) => Self::Url(url),
            (Self::Url(before), Blame::Url(url)) if before == url => self,
            _ => Self::All,
        }
    }
}

/// Possible origin of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Of one url, known by this number, or of all.
    Url(usize),
    /// Not of one url.
    All,
}

/// Probes by a notice after which the message itself is tried: the recovery url may be what is
/// wrong.
const NOTICE_PROBES_MAX: u32 = 3;

/// Change of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// It has opened after this number of failures.
    Opened(u32),
    /// It is closed again.
    Closed,
    /// The peer has confirmed something for the first time.
    Proven,
}

impl State {
    /// Fails while one that is not proven is left alone.
    fn rests(&self, limits: &UnprovenLimits, now: Instant) -> Result<(), BreakerRejection> {
        let failed_at = self.failed_at;
        // An open breaker has a pause of its own.
        let rests = failed_at.is_some_and(|at| now < at + limits.pause);
        match self.open.is_none() && rests {
            true => Err(BreakerRejection::Unproven),
            false => Ok(()),
        }
    }

    /// Admits a delivery; returns `true` if it is a probe.
    pub(super) fn admit(
        &mut self,
        config: &BreakerConfig,
        now: Instant,
        message_bytes: u64,
        by: impl FnOnce() -> Probe,
    ) -> Result<bool, BreakerRejection> {
        let Some(open) = &mut self.open else {
            return Ok(false);
        };
        if now < open.until {
            return Err(BreakerRejection::Open);
        }
        let with_notice =
            // Three of them at most: then it may be the recovery url that does not work.
            !open.answers_notices && open.probes < NOTICE_PROBES_MAX && by() == Probe::Notice;
        // A short message is preferred, but there may never be one.
        let is_too_long = message_bytes > config.probe_bytes_max && now < open.until + open.pause;
        if !with_notice && is_too_long {
            return Err(BreakerRejection::Open);
        }
        // One probe in each pause.
        open.until = now + open.pause;
        open.pause = (open.pause * 2).min(config.pause_max);
        open.probes += 1;
        match with_notice {
            true => Err(BreakerRejection::NoticeFirst),
            false => Ok(true),
        }
    }

    /// A delivery was confirmed; `true` if it was open.
    fn confirmed(&mut self) -> bool {
        let was_open = self.open.is_some();
        *self = Self {
            is_proven: true,
            failed_at: self.failed_at,
            ..Self::default()
        };
        was_open
    }

    /// A notice was confirmed: one delivery may be tried at once, and no more until that is
    /// confirmed.
    pub(super) fn noticed(&mut self, now: Instant) {
        if let Some(open) = &mut self.open
            && !open.answers_notices
        {
            open.answers_notices = true;
            open.until = now;
        }
    }

    /// The peer asked for something: deliveries are tried, and the next that fails opens it again.
    pub(super) fn heard(&mut self) -> Option<News> {
        let open = self.open.take()?;
        self.pause = Some(open.pause);
        Some(News::Closed)
    }

    /// A delivery that began at `began` failed. Returns the news if that opens the breaker.
    pub(super) fn failed(
        &mut self,
        config: &BreakerConfig,
        now: Instant,
        began: Instant,
        blame: Blame,
    ) -> Option<News> {
        // Of deliveries that were under way together the first failure counts: a moment without a
        // network would open the breaker otherwise.
        if self.failed_at.is_some_and(|at| began < at) {
            return None;
        }
        self.failed_at = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.blamed = self.blamed.and(blame);
        let since = *self.first_failed_at.get_or_insert(now);
        if let Some(open) = &mut self.open {
            // A probe that hung for longer than the pause.
            open.until = open.until.max(now + config.pause);
            return None;
        }
        let is_enough = self.failures >= config.failures && now >= since + config.lasting;
        // One url that fails again and again has a breaker of its own.
        if !is_enough || self.blamed != Blamed::All {
            return None;
        }
        // A peer that was tried because it asked for something, and failed again, goes on with the
        // pause that it had.
        let pause = self.pause.unwrap_or(config.pause);
        self.open = Some(Open {
            until: now + pause,
            pause: (pause * 2).min(config.pause_max),
            probes: 0,
            answers_notices: false,
        });
        Some(News::Opened(self.failures))
    }
}

impl Breaker {
    /// A closed one; with limits for unproven peers, one whose peer has still to prove itself.
    pub(crate) fn new(config: Option<&BreakerConfig>) -> Self {
        let is_proven = config.is_none_or(|config| config.unproven.is_none());
        Self {
            is_closed: AtomicBool::new(is_proven),
            state: Mutex::new(State {
                is_proven,
                ..State::default()
            }),
        }
    }

    /// Admits a delivery; returns `true` if it is a probe.
    pub(crate) fn admit(
        &self,
        config: &BreakerConfig,
        now: Instant,
        message_bytes: u64,
        by: impl FnOnce() -> Probe,
    ) -> Result<bool, BreakerRejection> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut state = self.state();
        if let (false, Some(limits)) = (state.is_proven, &config.unproven) {
            if message_bytes > limits.bytes_max {
                let bytes = message_bytes;
                return Err(BreakerRejection::TooLongForUnproven { bytes });
            }
            state.rests(limits, now)?;
        }
        state.admit(config, now, message_bytes, by)
    }

    /// The error with which a delivery would be refused now, if it would be. No probe is spent.
    pub(crate) fn outlook(
        &self,
        config: &BreakerConfig,
        now: Instant,
        by: impl FnOnce() -> Probe,
    ) -> Result<(), BreakerRejection> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let state = self.state();
        if let (false, Some(limits)) = (state.is_proven, &config.unproven) {
            state.rests(limits, now)?;
        }
        state.clone().admit(config, now, 0, by).map(|_| ())
    }

    /// Fails if an admitted delivery must not be tried any longer, now that it has its permit.
    pub(crate) fn is_still_admitted(
        &self,
        config: &BreakerConfig,
        now: Instant,
    ) -> Result<(), BreakerRejection> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let state = self.state();
        if state.open.is_some() {
            return Err(BreakerRejection::Open);
        }
        match (state.is_proven, &config.unproven) {
            (false, Some(limits)) => state.rests(limits, now),
            _ => Ok(()),
        }
    }

    /// `true` if nothing is wrong with the peer.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// `true` if it is open at this moment.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::Relaxed) && self.state().open.is_some()
    }

    /// `true` if the peer need not show first that it wants what it gets.
    pub(crate) fn is_proven(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed) || self.state().is_proven
    }

    /// The peer confirmed a delivery.
    pub(crate) fn confirmed(&self) -> Option<News> {
        if self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state();
        let was_proven = state.is_proven;
        let was_open = state.confirmed();
        self.is_closed.store(true, Ordering::Relaxed);
        match (was_proven, was_open) {
            (false, _) => Some(News::Proven),
            (true, true) => Some(News::Closed),
            (true, false) => None,
        }
    }

    /// The peer confirmed a notice, which says nothing of deliveries.
    pub(crate) fn noticed(&self, now: Instant) -> Option<News> {
        if self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.state();
        state.noticed(now);
        let was_proven = std::mem::replace(&mut state.is_proven, true);
        // A notice proves that the peer knows of its subscription, not that deliveries work.
        let is_closed = state.failures == 0 && state.open.is_none();
        self.is_closed.store(is_closed, Ordering::Relaxed);
        (!was_proven).then_some(News::Proven)
    }

    /// The peer asked for something: it is worth while to try it again.
    pub(crate) fn heard(&self) -> Option<News> {
        match self.is_closed.load(Ordering::Relaxed) {
            true => None,
            false => self.state().heard(),
        }
    }

    /// A delivery that began then was not confirmed.
    pub(crate) fn failed(
        &self,
        config: &BreakerConfig,
        now: Instant,
        began: Instant,
        blame: Blame,
    ) -> Option<News> {
        let mut state = self.state();
        // Under the lock, so that a confirmation at the same moment is not undone.
        self.is_closed.store(false, Ordering::Relaxed);
        state.failed(config, now, began, blame)
    }

    /// Goes on after a panic: the worst is a failure that was counted or not.
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
        probe_bytes_max: 100,
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

        fn admit(&self, seconds: f64, bytes: u64, by: Probe) -> Result<bool, BreakerRejection> {
            let now = self.at(seconds);
            self.breaker.admit(&self.config, now, bytes, || by)
        }

        fn fail(&self, began: f64, ended: f64) -> Option<News> {
            let (began, ended) = (self.at(began), self.at(ended));
            self.breaker.failed(&self.config, ended, began, Blame::All)
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

    use Probe::{Message, Notice};

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
        assert_eq!(peer.admit(3.0, 0, Notice), Err(BreakerRejection::Open));
        assert_eq!(peer.fail(2.4, 3.0), None, "it was under way");
        assert!(peer.breaker.is_open());
    }

    #[test]
    fn an_open_one_is_tried_by_a_notice_and_never_by_the_message() {
        let peer = Peer::open();
        assert_eq!(peer.admit(2.9, 1_000, Notice), Err(BreakerRejection::Open));
        assert_eq!(
            peer.admit(3.0, 1_000, Notice),
            Err(BreakerRejection::NoticeFirst)
        );
        // One in each pause, which grows: 2, 4, 5, 5 s.
        assert_eq!(peer.admit(3.0, 1_000, Notice), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(6.9, 1_000, Notice), Err(BreakerRejection::Open));
        assert_eq!(
            peer.admit(7.0, 1_000, Notice),
            Err(BreakerRejection::NoticeFirst)
        );
        assert_eq!(peer.admit(11.9, 1_000, Notice), Err(BreakerRejection::Open));
        assert_eq!(
            peer.admit(12.0, 1_000, Notice),
            Err(BreakerRejection::NoticeFirst)
        );
        // Its recovery url may be what does not work.
        assert_eq!(peer.admit(17.0, 1_000, Notice), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(17.0, 100, Notice), Ok(true));
        assert_eq!(peer.breaker.confirmed(), Some(News::Closed));
        assert_eq!(peer.admit(17.1, 1_000, Notice), Ok(false));
    }

    #[test]
    fn a_confirmed_notice_lets_one_delivery_through_and_proves_nothing_else() {
        let peer = Peer::open();
        assert_eq!(
            peer.admit(3.0, 1_000, Notice),
            Err(BreakerRejection::NoticeFirst)
        );
        assert_eq!(peer.breaker.noticed(peer.at(3.1)), None);
        assert!(peer.breaker.is_open());
        assert_eq!(peer.admit(3.1, 1_000, Notice), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(3.1, 100, Notice), Ok(true));
        assert_eq!(peer.admit(3.1, 100, Notice), Err(BreakerRejection::Open));
        // It hangs for longer than the pause; further notices say nothing new.
        assert_eq!(peer.fail(3.1, 13.1), None);
        assert_eq!(peer.breaker.noticed(peer.at(13.2)), None);
        assert_eq!(peer.admit(15.0, 100, Notice), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(15.1, 100, Notice), Ok(true));
        assert_eq!(peer.breaker.confirmed(), Some(News::Closed));
        // Before it is open they do not make good for deliveries that fail.
        assert_eq!(peer.fail(20.0, 21.0), None);
        assert_eq!(peer.breaker.noticed(peer.at(21.5)), None);
        assert_eq!(peer.fail(22.0, 23.0), None);
        assert_eq!(peer.breaker.noticed(peer.at(23.5)), None);
        assert_eq!(peer.fail(24.0, 25.0), Some(News::Opened(3)));
    }

    #[test]
    fn a_long_message_is_the_trial_where_no_short_one_comes() {
        let peer = Peer::open();
        assert_eq!(peer.admit(6.9, 101, Message), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(7.0, 101, Message), Ok(true));
    }

    #[test]
    fn an_origin_is_to_blame_for_what_comes_from_more_than_one_url() {
        let peer = Peer::new(CONFIG);
        let fail = |at: f64, url| {
            let (began, ended) = (peer.at(at), peer.at(at + 0.5));
            peer.breaker.failed(&CONFIG, ended, began, Blame::Url(url))
        };
        for at in 0..10 {
            assert_eq!(fail(f64::from(at), 7), None);
        }
        assert!(!peer.breaker.is_open());
        assert_eq!(fail(20.0, 8), Some(News::Opened(11)));
    }

    #[test]
    fn where_no_notice_can_be_sent_a_small_message_is_the_trial() {
        let peer = Peer::open();
        assert_eq!(peer.admit(3.0, 101, Message), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(3.0, 100, Message), Ok(true));
        assert_eq!(peer.admit(3.0, 100, Message), Err(BreakerRejection::Open));
        assert_eq!(peer.fail(3.0, 3.5), None);
        assert_eq!(peer.admit(6.9, 100, Message), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(7.0, 100, Message), Ok(true));
    }

    #[test]
    fn one_that_is_heard_of_is_tried_at_once() {
        let peer = Peer::open();
        assert_eq!(peer.breaker.heard(), Some(News::Closed));
        assert_eq!(peer.breaker.heard(), None);
        assert_eq!(peer.admit(1.0, 1_000, Notice), Ok(false));
        // It has yet to confirm something.
        assert_eq!(peer.fail(1.1, 1.2), Some(News::Opened(5)));
        assert_eq!(peer.admit(5.1, 100, Message), Err(BreakerRejection::Open));
        assert_eq!(peer.admit(5.2, 100, Message), Ok(true));
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
        let too_long = Err(BreakerRejection::TooLongForUnproven { bytes: 11 });
        assert_eq!(peer.admit(0.0, 11, Notice), too_long);
        assert_eq!(peer.admit(0.0, 10, Notice), Ok(false));
        assert_eq!(peer.fail(0.0, 0.1), None);
        assert_eq!(peer.admit(1.0, 10, Notice), Err(BreakerRejection::Unproven));
        assert_eq!(peer.admit(1.1, 10, Notice), Ok(false));
        assert_eq!(peer.breaker.heard(), None, "that proves nothing");
        assert_eq!(peer.admit(1.1, 11, Notice), too_long);
        assert_eq!(peer.breaker.confirmed(), Some(News::Proven));
        assert_eq!(peer.fail(1.1, 1.2), None);
        assert_eq!(peer.admit(1.2, 11, Notice), Ok(false));
    }
}
