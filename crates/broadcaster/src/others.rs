//! What is known of other broadcasters on the same store: who lives, who fell silent, and what time it is
//! in the database.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use httppubsub_net::random_bytes;
use httppubsub_proto::http::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};
use httppubsub_proto::time::Now;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::Heard;

/// What is known of the others.
#[derive(Debug)]
pub(crate) struct Others {
    identity: [u8; 16],
    instance: i64,
    /// How far the clock of the database is ahead, in nanoseconds.
    ahead: AtomicI64,
    /// Urls at which somebody received for websockets who does not say any more that it lives.
    silent: RwLock<HashSet<SubscriberUrl>>,
    anybody_is_silent: AtomicBool,
    /// How many others live.
    alive: AtomicU64,
    /// Another has the url of this one.
    is_displaced: AtomicBool,
    /// Whether this one has said that it lives.
    is_known: AtomicBool,
    /// When it did so first, as the others have it.
    started: Mutex<Option<Now>>,
}

/// What a broadcaster hears of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing new.
    AsItIs,
    /// Others have forgotten it, and what its websockets wanted.
    Forgotten,
    /// Another one lives at this url.
    ByAnother,
}

impl Others {
    /// Nothing is known yet to the broadcaster `identity`.
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

    /// Whether a broadcaster received there that fell silent.
    pub(crate) fn is_silent(&self, url: &SubscriberUrl) -> bool {
        self.anybody_is_silent.load(Ordering::Relaxed)
            && self
                .silent
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(url)
    }

    /// That another broadcaster has the url of this one, if it has.
    pub(crate) fn displaced(&self) -> Option<String> {
        let is_displaced = self.is_displaced.load(Ordering::Relaxed);
        is_displaced.then(|| {
            "another broadcaster has the url of this one: give each its own (--advertise)"
                .to_owned()
        })
    }

    /// How many others live.
    pub(crate) fn alive(&self) -> u64 {
        self.alive.load(Ordering::Relaxed)
    }

    /// Tells this broadcaster from others, also after it was started again.
    pub(crate) fn identity(&self) -> [u8; 16] {
        self.identity
    }

    /// A random number that tells this broadcaster from its earlier lives.
    pub(crate) fn instance(&self) -> i64 {
        self.instance
    }

    /// What time it is in the database when it is `now` here.
    pub(crate) fn at(&self, now: Now) -> Now {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let by = Duration::from_nanos(ahead.unsigned_abs());
        match ahead {
            0.. => now + by,
            _ => Now::from_unix(now.since_unix().saturating_sub(by)),
        }
    }

    /// Takes in what the broadcaster at `own` heard when it was `here` on its clock; says what it heard
    /// of itself.
    pub(crate) fn learn(&self, own: &SubscriberUrl, here: Now, heard: &Heard) -> Known {
        let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let ahead = match nanos(since(here, heard.now)) {
            0 => -nanos(since(heard.now, here)),
            ahead => ahead,
        };
        self.ahead.store(ahead, Ordering::Relaxed);
        let mut alive = 0;
        let mut silent = HashSet::new();
        let others = heard.broadcasters.iter().filter(|it| it.url != *own);
        for it in others {
            if it.until > heard.now {
                alive += 1;
            } else {
                silent.insert(it.url.clone());
                // Where it is told what it missed.
                silent.extend(missed_url_of(&it.url));
            }
        }
        self.alive.store(alive, Ordering::Relaxed);
        self.replace_silent(silent);
        self.is_displaced
            .store(heard.holder.is_some(), Ordering::Relaxed);
        if heard.holder.is_some() {
            return Known::ByAnother;
        }
        let was_known = self.is_known.swap(true, Ordering::Relaxed);
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.before {
            None => {
                *started = None;
                match was_known {
                    true => Known::Forgotten,
                    false => Known::AsItIs,
                }
            }
            Some(instance) if instance != self.instance => match was_known {
                true => Known::ByAnother,
                false => Known::AsItIs,
            },
            // It may not have heard that it was new: the answer was lost.
            Some(_) => {
                let own = heard.broadcasters.iter().find(|it| it.url == *own);
                let now_started = own.map(|it| it.started);
                let before = std::mem::replace(&mut *started, now_started);
                match before.is_some() && before != now_started {
                    true => Known::Forgotten,
                    false => Known::AsItIs,
                }
            }
        }
    }

    fn replace_silent(&self, silent: HashSet<SubscriberUrl>) {
        let mut known = self.silent.write().unwrap_or_else(PoisonError::into_inner);
        let is_broadcaster = |url: &&SubscriberUrl| url.as_str().ends_with(RECEIVE_FOR_WEBSOCKETS);
        for broadcaster in silent.difference(&known).filter(is_broadcaster) {
            tracing::warn!(%broadcaster, "a broadcaster fell silent: nothing is delivered to it until it is back");
        }
        for broadcaster in known.difference(&silent).filter(is_broadcaster) {
            tracing::info!(%broadcaster, "a broadcaster is silent no more");
        }
        self.anybody_is_silent
            .store(!silent.is_empty(), Ordering::Relaxed);
        *known = silent;
    }
}

fn since(then: Now, now: Now) -> Duration {
    now.since_unix().saturating_sub(then.since_unix())
}

fn missed_url_of(receiver: &SubscriberUrl) -> Option<SubscriberUrl> {
    let base = receiver.as_str().strip_suffix(RECEIVE_FOR_WEBSOCKETS)?;
    let url = format!("{base}{}", MISSED_FOR_WEBSOCKETS);
    SubscriberUrl::new(url).ok()
}
