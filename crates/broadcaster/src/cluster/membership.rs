//! The other broadcasters on the same store: which of them live, which fell silent, and the time in
//! the database.
//!
//! It is asked on the way of every delivery to another broadcaster, so the usual answer, that
//! nobody is silent, is one load.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use httppubsub_net::random_bytes;
use httppubsub_proto::paths::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};
use httppubsub_proto::time::Now;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::View;

/// The others as this broadcaster knows them, and itself among them.
#[derive(Debug)]
pub(crate) struct Membership {
    /// Kept beside the replay guard: the same after a restart.
    identity: [u8; 16],
    /// Another one after each restart.
    instance: i64,
    /// Lead of the database's clock, in nanoseconds.
    ahead: AtomicI64,
    /// Urls of broadcasters that fell silent.
    silent: RwLock<HashSet<SubscriberUrl>>,
    /// `true` if that holds any url.
    anybody_is_silent: AtomicBool,
    /// The number of others that live.
    alive: AtomicU64,
    /// Another has the url of this one.
    is_displaced: AtomicBool,
    /// `true` if this one has sent a heartbeat.
    is_known: AtomicBool,
    /// The time of its first heartbeat, as the others have it.
    started: Mutex<Option<Now>>,
}

/// The standing of a broadcaster by the response to its heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing new.
    AsItIs,
    /// Others have forgotten it, and what its websockets wanted.
    Forgotten,
    /// Another one lives at this url.
    ByAnother,
}

impl Membership {
    /// The membership of the broadcaster `identity`, which knows of nobody yet.
    pub(crate) fn new(identity: [u8; 16]) -> Self {
        Self {
            identity,
            instance: i64::from_be_bytes(random_bytes()),
            ahead: AtomicI64::new(0),
            silent: RwLock::default(),
            anybody_is_silent: AtomicBool::new(false),
            alive: AtomicU64::new(0),
            is_displaced: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            started: Mutex::default(),
        }
    }

    /// `true` if `url` is that of a broadcaster that fell silent.
    pub(crate) fn is_silent(&self, url: &SubscriberUrl) -> bool {
        self.anybody_is_silent.load(Ordering::Relaxed)
            && self
                .silent
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(url)
    }

    /// The words for everybody that say that another broadcaster has the url of this one; `None` if
    /// none has.
    pub(crate) fn displaced(&self) -> Option<&'static str> {
        let is_displaced = self.is_displaced.load(Ordering::Relaxed);
        is_displaced.then_some(
            "another broadcaster has the url of this one: give each its own (--advertise)",
        )
    }

    /// The number of others that live.
    pub(crate) fn alive(&self) -> u64 {
        self.alive.load(Ordering::Acquire)
    }

    /// Tells this broadcaster from others, also after it was started again.
    pub(crate) fn identity(&self) -> [u8; 16] {
        self.identity
    }

    /// A random number that tells this broadcaster from its earlier lives.
    pub(crate) fn instance(&self) -> i64 {
        self.instance
    }

    /// The time in the database at local time `now`. Before the first response it is the same.
    pub(crate) fn at(&self, now: Now) -> Now {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let by = Duration::from_nanos(ahead.unsigned_abs());
        match ahead {
            0.. => now + by,
            _ => Now::from_unix(now.since_unix().saturating_sub(by)),
        }
    }

    /// Applies the response to a heartbeat of the broadcaster at `own`, received at local time
    /// `here`, and returns what it says of that broadcaster.
    pub(crate) fn apply(&self, own: &SubscriberUrl, here: Now, view: &View) -> Standing {
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        // The round trip is not taken into account: leases last far longer than that.
        let ahead = match nanos(since(here, view.now)) {
            0 => -nanos(since(view.now, here)),
            ahead => ahead,
        };
        self.ahead.store(ahead, Ordering::Relaxed);
        let mut alive = 0;
        let mut silent = HashSet::new();
        let others = view.broadcasters.iter().filter(|it| it.url != *own);
        for it in others {
            // By the clock of the database, which wrote down the lease.
            if it.until > view.now {
                alive += 1;
            } else {
                silent.insert(it.url.clone());
                // The url of its notices.
                silent.extend(missed_url_of(&it.url));
            }
        }
        self.replace_silent(silent);
        // Last: nothing is delivered to a broadcaster that is no longer counted.
        self.alive.store(alive, Ordering::Release);
        let standing = self.standing(own, view);
        self.is_displaced
            .store(standing == Standing::ByAnother, Ordering::Relaxed);
        standing
    }

    /// The standing of the broadcaster at `own` by `view`.
    fn standing(&self, own: &SubscriberUrl, view: &View) -> Standing {
        if view.holder.is_some() {
            return Standing::ByAnother;
        }
        // The first heartbeat of a life says nothing of what others forgot.
        let was_known = self.is_known.swap(true, Ordering::Relaxed);
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        match view.before {
            None => {
                *started = None;
                match was_known {
                    true => Standing::Forgotten,
                    false => Standing::AsItIs,
                }
            }
            Some(instance) if instance != self.instance => match was_known {
                true => Standing::ByAnother,
                false => Standing::AsItIs,
            },
            // It may not have heard that it was new: the answer was lost.
            Some(_) => {
                let own = view.broadcasters.iter().find(|it| it.url == *own);
                let now_started = own.map(|it| it.started);
                let before = std::mem::replace(&mut *started, now_started);
                match before.is_some() && before != now_started {
                    true => Standing::Forgotten,
                    false => Standing::AsItIs,
                }
            }
        }
    }

    /// Takes the urls of silent broadcasters in the place of the ones known, and tells the log of
    /// changes. One line for each broadcaster, though each has two urls: one where it receives, and
    /// one for what it missed.
    fn replace_silent(&self, silent: HashSet<SubscriberUrl>) {
        let mut known = self.silent.write().unwrap_or_else(PoisonError::into_inner);
        let is_broadcaster = |url: &&SubscriberUrl| url.is_broadcaster_receiver();
        for broadcaster in silent.difference(&known).filter(is_broadcaster) {
            tracing::warn!(
                %broadcaster,
                "a broadcaster fell silent: nothing is delivered to it until it is back"
            );
        }
        for broadcaster in known.difference(&silent).filter(is_broadcaster) {
            tracing::info!(%broadcaster, "a broadcaster is silent no more");
        }
        self.anybody_is_silent
            .store(!silent.is_empty(), Ordering::Relaxed);
        *known = silent;
    }
}

/// The time from `then` to `now`; zero if that is the other way round.
fn since(then: Now, now: Now) -> Duration {
    now.since_unix().saturating_sub(then.since_unix())
}

/// The recovery url of a broadcaster's rows, by the url at which it receives.
fn missed_url_of(receiver: &SubscriberUrl) -> Option<SubscriberUrl> {
    let base = receiver.as_str().strip_suffix(RECEIVE_FOR_WEBSOCKETS)?;
    let url = format!("{base}{}", MISSED_FOR_WEBSOCKETS);
    SubscriberUrl::new(url).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://a/v1/receive_for_websockets";

    /// The response to a heartbeat when `before` sent the last one of the same url.
    fn view(before: Option<i64>) -> View {
        View {
            now: Now::from_unix(Duration::from_secs(1_000)),
            before,
            holder: None,
            broadcasters: Vec::new(),
        }
    }

    #[test]
    fn two_that_live_with_one_identity_are_displaced_until_one_is_left() {
        let own = SubscriberUrl::new(URL).unwrap();
        let [one, copy] = [Membership::new([7; 16]), Membership::new([7; 16])];
        let apply =
            |it: &Membership, before| it.apply(&own, Now::from_unix(Duration::ZERO), &view(before));
        assert_eq!(apply(&one, None), Standing::AsItIs);
        assert_eq!(apply(&one, Some(one.instance())), Standing::AsItIs);
        // The copy starts, as one does that was killed and is started again.
        assert_eq!(apply(&copy, Some(one.instance())), Standing::AsItIs);
        assert_eq!(copy.displaced(), None);
        for _ in 0..3 {
            assert_eq!(apply(&one, Some(copy.instance())), Standing::ByAnother);
            assert_eq!(apply(&copy, Some(one.instance())), Standing::ByAnother);
            assert!(one.displaced().is_some() && copy.displaced().is_some());
        }
        // The copy is stopped: this one said so last, and says so again.
        assert_eq!(apply(&one, Some(copy.instance())), Standing::ByAnother);
        assert_eq!(apply(&one, Some(one.instance())), Standing::AsItIs);
        assert_eq!(one.displaced(), None);
    }
}
