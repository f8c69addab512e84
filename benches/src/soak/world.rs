//! What all parts of a soak share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use httppubsub_proto::auth::Secrets;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::soak::front::Mode;
use crate::soak::oracle::Oracle;

/// The broadcaster and those around it.
pub(crate) struct World {
    pub(crate) program: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) secrets: Secrets,
    pub(crate) secrets_file: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) oracle: Oracle,
    /// Cancelled when nobody new comes.
    pub(crate) ending: CancellationToken,
    pub(crate) counts: Counts,
    numbers: AtomicU64,
    victims: Mutex<BTreeMap<u64, Victim>>,
}

/// What a fault may happen to.
#[derive(Clone)]
pub(crate) enum Victim {
    /// The front of a subscriber that is posted to.
    Http(watch::Sender<Mode>),
    /// The front of the broadcaster that a websocket goes through.
    WebSocket(watch::Sender<Mode>),
    /// A subscriber that is a process.
    Process(u32),
}

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) http: AtomicU64,
    pub(crate) websockets: AtomicU64,
    pub(crate) processes: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) not_subscribed: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) not_published: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) faults: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl World {
    pub(crate) fn new(
        program: PathBuf,
        address: SocketAddr,
        secrets: Secrets,
        secrets_file: PathBuf,
        database: PathBuf,
    ) -> Self {
        Self {
            program,
            address,
            secrets,
            secrets_file,
            database,
            oracle: Oracle::default(),
            ending: CancellationToken::new(),
            counts: Counts::default(),
            numbers: AtomicU64::new(0),
            victims: Mutex::default(),
        }
    }

    /// A number that nobody else has.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Faults may happen to this from now on, until what is returned is dropped.
    pub(crate) fn expose(&self, victim: Victim) -> Exposed<'_> {
        let number = self.number();
        self.victims().insert(number, victim);
        Exposed {
            world: self,
            number,
        }
    }

    /// One of those that `is_it` is true of; `random` says which.
    pub(crate) fn victim(&self, random: usize, is_it: fn(&Victim) -> bool) -> Option<Victim> {
        let victims = self.victims();
        let suitable: Vec<_> = victims.values().filter(|it| is_it(it)).collect();
        let victim = *suitable.get(random.checked_rem(suitable.len())?)?;
        Some(victim.clone())
    }

    fn victims(&self) -> MutexGuard<'_, BTreeMap<u64, Victim>> {
        self.victims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that faults may happen to.
pub(crate) struct Exposed<'a> {
    world: &'a World,
    number: u64,
}

impl Drop for Exposed<'_> {
    fn drop(&mut self) {
        self.world.victims().remove(&self.number);
    }
}
