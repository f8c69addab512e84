//! The circuit breaker of a peer: one that fails again and again is posted nothing for a while, and
//! then little until it confirms something.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Longest message that is sent for a trial, in bytes, unless none as short as this came for a
    /// further pause. Default 64 KiB.
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

/// The circuit breaker of an origin.
#[derive(Debug)]
pub(crate) struct Breaker {
    /// Nothing is wrong, so the rest need not be looked at.
    is_closed: AtomicBool,
    state: Mutex<State>,
}

/// The circuit breakers of single urls of one origin, by path: what a url alone is to blame for is held
/// against it and not against its neighbours. Only those that failed are here.
#[derive(Debug, Default)]
pub(crate) struct UrlBreakers {
    count: AtomicUsize,
    by_path: Mutex<HashMap<Arc<str>, State>>,
}

/// How many urls of an origin are remembered for their failures; when there are more, those that failed
/// least recently are forgotten.
const URLS_MAX: usize = 4_096;

/// What is known of the failures of an origin or of a url.
#[derive(Debug, Default)]
struct State {
    is_proven: bool,
    /// In a row.
    failures: u32,
    /// Since the last confirmation.
    first_failed_at: Option<Instant>,
    failed_at: Option<Instant>,
    /// For what those failures are held against.
    blamed: Blamed,
    open: Option<Open>,
    /// How long it is open the next time, if it was before and nothing was confirmed since.
    pause: Option<Duration>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    trials: u32,
    /// A notice was confirmed, which proves that the peer answers notices and nothing else.
    answers_notices: bool,
}

/// Whom failures are held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Blamed {
    #[default]
    Nobody,
    /// All of them came from this url.
    Url(usize),
    All,
}

impl Blamed {
    fn and(self, blamed: Blame) -> Self {
        match (self, blamed) {
            (Self::Nobody, Blame::Url(url)) => Self::Url(url),
            (Self::Url(before), Blame::Url(url)) if before == url => self,
            _ => Self::All,
        }
    }
}

/// What a failure may be the fault of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Of one url, known by this number, or of all.
    Url(usize),
    /// Not of one url.
    All,
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

    /// Whether a delivery may be tried now, and then whether that is a trial.
    fn admit(
        &mut self,
        config: &BreakerConfig,
        now: Instant,
        message_bytes: u64,
        by: impl FnOnce() -> TrialBy,
    ) -> Result<bool, NotTried> {
        let Some(open) = &mut self.open else {
            return Ok(false);
        };
        if now < open.until {
            return Err(NotTried::Open);
        }
        let with_notice =
            !open.answers_notices && open.trials < NOTICE_TRIALS_MAX && by() == TrialBy::Notice;
        // A short message is preferred, but there may never be one.
        let is_too_long = message_bytes > config.trial_bytes_max && now < open.until + open.pause;
        if !with_notice && is_too_long {
            return Err(NotTried::Open);
        }
        // One trial in each pause.
        open.until = now + open.pause;
        open.pause = (open.pause * 2).min(config.pause_max);
        open.trials += 1;
        match with_notice {
            true => Err(NotTried::NoticeFirst),
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

    /// A notice was confirmed: one delivery may be tried at once, and no more until that is confirmed.
    fn noticed(&mut self, now: Instant) {
        if let Some(open) = &mut self.open
            && !open.answers_notices
        {
            open.answers_notices = true;
            open.until = now;
        }
    }

    /// The peer asked for something: deliveries are tried, and the next that fails opens it again.
    fn heard(&mut self) -> Option<News> {
        let open = self.open.take()?;
        self.pause = Some(open.pause);
        Some(News::Closed)
    }

    fn failed(
        &mut self,
        config: &BreakerConfig,
        now: Instant,
        began: Instant,
        blame: Blame,
    ) -> Option<News> {
        if self.failed_at.is_some_and(|at| began < at) {
            return None;
        }
        self.failed_at = Some(now);
        self.failures = self.failures.saturating_add(1);
        self.blamed = self.blamed.and(blame);
        let since = *self.first_failed_at.get_or_insert(now);
        if let Some(open) = &mut self.open {
            // A trial that hung for longer than the pause.
            open.until = open.until.max(now + config.pause);
            return None;
        }
        let is_enough = self.failures >= config.failures && now >= since + config.lasting;
        if !is_enough || self.blamed != Blamed::All {
            return None;
        }
        let pause = self.pause.unwrap_or(config.pause);
        self.open = Some(Open {
            until: now + pause,
            pause: (pause * 2).min(config.pause_max),
            trials: 0,
            answers_notices: false,
        });
        Some(News::Opened(self.failures))
    }
}

impl Breaker {
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
        state.admit(config, now, message_bytes, by)
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

    /// Whether the peer need not show first that it wants what it gets.
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
        self.is_closed.store(false, Ordering::Relaxed);
        state.failed(config, now, began, blame)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UrlBreakers {
    /// `true` if no url has failed.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// How many are open at this moment.
    pub(crate) fn open(&self) -> usize {
        match self.is_empty() {
            true => 0,
            false => self
                .by_path()
                .values()
                .filter(|it| it.open.is_some())
                .count(),
        }
    }

    /// Whether a delivery to this path may be tried now, and then whether that is a trial.
    pub(crate) fn admit(
        &self,
        path: &str,
        config: &BreakerConfig,
        now: Instant,
        message_bytes: u64,
        by: impl FnOnce() -> TrialBy,
    ) -> Result<bool, NotTried> {
        match self.by_path().get_mut(path) {
            Some(state) => state.admit(config, now, message_bytes, by),
            None => Ok(false),
        }
    }

    /// Whether a delivery that was admitted may still be tried, now that it has its turn.
    pub(crate) fn is_still_admitted(&self, path: &str) -> Result<(), NotTried> {
        match self.by_path().get(path) {
            Some(state) if state.open.is_some() => Err(NotTried::Open),
            _ => Ok(()),
        }
    }

    /// A delivery to this path was confirmed.
    pub(crate) fn confirmed(&self, path: &str) -> Option<News> {
        let mut by_path = self.by_path();
        let state = by_path.remove(path)?;
        self.count.store(by_path.len(), Ordering::Relaxed);
        state.open.map(|_| News::Closed)
    }

    /// A notice for the subscriber at this path was confirmed.
    pub(crate) fn noticed(&self, path: &str, now: Instant) {
        if let Some(state) = self.by_path().get_mut(path) {
            state.noticed(now);
        }
    }

    /// The subscriber at this path asked for something.
    pub(crate) fn heard(&self, path: &str) -> Option<News> {
        self.by_path().get_mut(path)?.heard()
    }

    /// A delivery to this path that began then was not confirmed.
    pub(crate) fn failed(
        &self,
        path: &Arc<str>,
        config: &BreakerConfig,
        now: Instant,
        began: Instant,
    ) -> Option<News> {
        let mut by_path = self.by_path();
        if by_path.len() >= URLS_MAX && !by_path.contains_key(path) {
            let mut failed_at: Vec<_> = by_path.values().map(|it| it.failed_at).collect();
            let (_, middle, _) = failed_at.select_nth_unstable(URLS_MAX / 2);
            let middle = *middle;
            by_path.retain(|_, it| it.failed_at > middle);
        }
        let state = by_path.entry(path.clone()).or_default();
        let news = state.failed(config, now, began, Blame::All);
        self.count.store(by_path.len(), Ordering::Relaxed);
        news
    }

    fn by_path(&self) -> MutexGuard<'_, HashMap<Arc<str>, State>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_confirmed_notice_lets_one_delivery_through_and_proves_nothing_else() {
        let peer = Peer::open();
        assert_eq!(peer.admit(3.0, 1_000, Notice), Err(NotTried::NoticeFirst));
        assert_eq!(peer.breaker.noticed(peer.at(3.1)), None);
        assert!(peer.breaker.is_open());
        assert_eq!(peer.admit(3.1, 1_000, Notice), Err(NotTried::Open));
        assert_eq!(peer.admit(3.1, 100, Notice), Ok(true));
        assert_eq!(peer.admit(3.1, 100, Notice), Err(NotTried::Open));
        // It hangs for longer than the pause; further notices say nothing new.
        assert_eq!(peer.fail(3.1, 13.1), None);
        assert_eq!(peer.breaker.noticed(peer.at(13.2)), None);
        assert_eq!(peer.admit(15.0, 100, Notice), Err(NotTried::Open));
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
        assert_eq!(peer.admit(6.9, 101, Message), Err(NotTried::Open));
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
    fn a_url_has_a_breaker_of_its_own_and_so_many_are_remembered() {
        let urls = UrlBreakers::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let path = |number: usize| Arc::<str>::from(format!("/{number}"));
        for second in 0..3 {
            let opened = urls.failed(&path(0), &CONFIG, at(second), at(second));
            assert_eq!(opened.is_some(), second == 2);
        }
        let admit = |number, second| {
            urls.admit(&path(number), &CONFIG, at(second), 10, || TrialBy::Message)
        };
        assert_eq!((admit(0, 3), admit(1, 3)), (Err(NotTried::Open), Ok(false)));
        assert_eq!((urls.open(), admit(0, 4)), (1, Ok(true)));
        assert_eq!(urls.confirmed("/0"), Some(News::Closed));
        assert!(urls.is_empty());
        for number in 0..3 * URLS_MAX {
            let now = at(10 + number as u64);
            assert_eq!(urls.failed(&path(number), &CONFIG, now, now), None);
            assert!(urls.by_path().len() <= URLS_MAX);
        }
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
        // It has yet to confirm something.
        assert_eq!(peer.fail(1.1, 1.2), Some(News::Opened(5)));
        assert_eq!(peer.admit(5.1, 100, Message), Err(NotTried::Open));
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
