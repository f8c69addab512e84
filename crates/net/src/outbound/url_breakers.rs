//! The circuit breakers of single urls of one origin.
//!
//! Most origins have none: a url is here only from its first failure to its next confirmation, or
//! until it is forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::outbound::breaker::{Blame, BreakerConfig, BreakerRejection, News, Probe, State};

/// The circuit breakers of single urls of one origin, by path: what a url alone is to blame for is
/// held against it and not against its neighbours. Only urls that failed are here, and only for
/// some time.
#[derive(Debug, Default)]
pub(crate) struct UrlBreakers {
    /// Length of `by_path`, to be read without its lock: most origins have none.
    count: AtomicUsize,
    /// At most [`URLS_MAX`].
    by_path: Mutex<HashMap<PathKey, State>>,
}

/// A path by its hash, since a path may have 64 KiB. The hash has a secret of this process, so that
/// nobody can choose two paths that are taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PathKey(u64);

impl PathKey {
    /// The key of `path`, which is another one in each process.
    fn of(path: &str) -> Self {
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(SEED.hash_one(path))
    }
}

/// A url is forgotten when it has not failed for this many times the longest pause: nobody posts
/// there, or it would have been tried and failed again.
const MEMORY_IN_PAUSES: u32 = 10;

/// Urls of an origin that are remembered for their failures; when there are more, the ones that
/// failed least recently are forgotten.
const URLS_MAX: usize = 4_096;

/// Number of urls from which on the ones that failed long ago are looked for.
const URLS_BEFORE_SWEEP: usize = 64;

impl UrlBreakers {
    /// `true` if no url has failed.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Number of open breakers at `now`, after those too old to matter were forgotten.
    pub(crate) fn open(&self, config: &BreakerConfig, now: Instant) -> usize {
        if self.is_empty() {
            return 0;
        }
        let mut by_path = self.by_path();
        self.forget_old(&mut by_path, config, now);
        by_path.values().filter(|it| it.open.is_some()).count()
    }

    /// Forgets urls whose last failure is longer ago than any pause could last.
    fn forget_old(
        &self,
        by_path: &mut HashMap<PathKey, State>,
        config: &BreakerConfig,
        now: Instant,
    ) {
        let memory = config.pause_max.saturating_mul(MEMORY_IN_PAUSES);
        by_path.retain(|_, it| {
            it.failed_at
                .is_none_or(|at| now.saturating_duration_since(at) < memory)
        });
        self.count.store(by_path.len(), Ordering::Relaxed);
    }

    /// Admits a delivery to this path; returns `true` if it is a probe.
    pub(crate) fn admit(
        &self,
        path: &str,
        config: &BreakerConfig,
        now: Instant,
        message_bytes: u64,
        by: impl FnOnce() -> Probe,
    ) -> Result<bool, BreakerRejection> {
        match self.by_path().get_mut(&PathKey::of(path)) {
            Some(state) => state.admit(config, now, message_bytes, by),
            None => Ok(false),
        }
    }

    /// The error with which a delivery to this path would be refused now. No probe is spent.
    pub(crate) fn outlook(
        &self,
        path: &str,
        config: &BreakerConfig,
        now: Instant,
        by: impl FnOnce() -> Probe,
    ) -> Result<(), BreakerRejection> {
        let state = self.by_path().get(&PathKey::of(path)).cloned();
        match state {
            Some(mut state) => state.admit(config, now, 0, by).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Fails if an admitted delivery must not be tried any longer, now that it has its permit.
    pub(crate) fn is_still_admitted(&self, path: &str) -> Result<(), BreakerRejection> {
        match self.by_path().get(&PathKey::of(path)) {
            Some(state) if state.open.is_some() => Err(BreakerRejection::Open),
            _ => Ok(()),
        }
    }

    /// A delivery to this path was confirmed.
    pub(crate) fn confirmed(&self, path: &str) -> Option<News> {
        let mut by_path = self.by_path();
        let state = by_path.remove(&PathKey::of(path))?;
        self.count.store(by_path.len(), Ordering::Relaxed);
        state.open.map(|_| News::Closed)
    }

    /// A notice for the subscriber at this path was confirmed.
    pub(crate) fn noticed(&self, path: &str, now: Instant) {
        if let Some(state) = self.by_path().get_mut(&PathKey::of(path)) {
            state.noticed(now);
        }
    }

    /// The subscriber at this path asked for something.
    pub(crate) fn heard(&self, path: &str) -> Option<News> {
        self.by_path().get_mut(&PathKey::of(path))?.heard()
    }

    /// A delivery to this path that began then was not confirmed.
    pub(crate) fn failed(
        &self,
        path: &str,
        config: &BreakerConfig,
        now: Instant,
        began: Instant,
    ) -> Option<News> {
        let (mut by_path, key) = (self.by_path(), PathKey::of(path));
        // At doubled numbers, so that to look at all of them stays rare.
        let is_new = !by_path.contains_key(&key);
        if is_new && by_path.len() >= URLS_BEFORE_SWEEP && by_path.len().is_power_of_two() {
            self.forget_old(&mut by_path, config, now);
        }
        if is_new && by_path.len() >= URLS_MAX {
            let mut failed_at: Vec<_> = by_path.values().map(|it| it.failed_at).collect();
            // Half of them at once, in linear time: one by one, each new url would cost a look at
            // all.
            let (_, middle, _) = failed_at.select_nth_unstable(URLS_MAX / 2);
            let middle = *middle;
            by_path.retain(|_, it| it.failed_at > middle);
        }
        let state = by_path.entry(key).or_default();
        // Within one url there is nobody else to blame.
        let news = state.failed(config, now, began, Blame::All);
        self.count.store(by_path.len(), Ordering::Relaxed);
        news
    }

    /// The same for the urls.
    fn by_path(&self) -> MutexGuard<'_, HashMap<PathKey, State>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn config() -> BreakerConfig {
        BreakerConfig {
            failures: 3,
            lasting: Duration::from_millis(800),
            pause: Duration::from_secs(2),
            pause_max: Duration::from_secs(5),
            ..BreakerConfig::default()
        }
    }

    #[test]
    fn a_url_has_a_breaker_of_its_own_and_so_many_are_remembered() {
        let urls = UrlBreakers::default();
        let (config, start) = (config(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let path = |number: usize| format!("/{number}");
        for second in 0..3 {
            let opened = urls.failed(&path(0), &config, at(second), at(second));
            assert_eq!(opened.is_some(), second == 2);
        }
        let admit =
            |number, second| urls.admit(&path(number), &config, at(second), 10, || Probe::Message);
        assert_eq!(
            (admit(0, 3), admit(1, 3)),
            (Err(BreakerRejection::Open), Ok(false))
        );
        assert_eq!((urls.open(&config, at(4)), admit(0, 4)), (1, Ok(true)));
        assert_eq!(urls.confirmed("/0"), Some(News::Closed));
        assert!(urls.is_empty());
        for number in 0..3 * URLS_MAX {
            let now = at(10 + number as u64);
            assert_eq!(urls.failed(&path(number), &config, now, now), None);
            assert!(urls.by_path().len() <= URLS_MAX);
        }
    }

    #[test]
    fn a_url_that_nobody_posts_to_any_longer_is_forgotten() {
        let urls = UrlBreakers::default();
        let (config, start) = (config(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..3 {
            urls.failed("/gone", &config, at(second), at(second));
        }
        let memory = (config.pause_max * MEMORY_IN_PAUSES).as_secs();
        assert_eq!(urls.open(&config, at(1 + memory)), 1);
        assert_eq!(urls.open(&config, at(2 + memory)), 0);
        assert!(urls.is_empty());
        // Also where nobody asks how many are open.
        for number in 0..=URLS_BEFORE_SWEEP as u64 {
            let now = at(number * memory);
            urls.failed(&format!("/{number}"), &config, now, now);
        }
        assert_eq!(urls.by_path().len(), 1);
    }
}
