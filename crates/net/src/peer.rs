//! A peer that is posted to: its connections, and the turns that requests take there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use httppubsub_proto::url::{Endpoint, Origin};
use tokio::time::Instant;

use crate::breaker::{Breaker, BreakerConfig, UrlBreakers};
use crate::http1::Connection;
use crate::turns::PeerTurns;

/// Whether a message of so many bytes has to leave room for others: more than 1 MiB.
pub fn is_large(message_bytes: u64) -> bool {
    message_bytes > SMALL_BYTES_MAX
}

/// What is longer takes more than a moment even if the peer is fast.
const SMALL_BYTES_MAX: u64 = 1024 * 1024;

/// Large messages have one turn for so many of small ones.
pub(crate) const LARGE_SHARE: usize = 4;

/// All that is shared between requests to one origin.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) origin: Origin,
    pub(crate) breaker: Breaker,
    pub(crate) url_breakers: UrlBreakers,
    /// Whether any delivery to it was confirmed.
    has_confirmed: AtomicBool,
    /// Those of small messages and those of large ones, so that the former need not wait for the
    /// latter.
    small: PeerTurns,
    large: PeerTurns,
    pub(crate) waiting: AtomicUsize,
    /// Deliveries that have a place at it.
    pending: AtomicUsize,
    /// Value of the `Host` header.
    pub(crate) host: String,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// One of those that wait for a turn.
pub(crate) struct Waiting<'a> {
    count: &'a AtomicUsize,
    pub(crate) before: usize,
}

impl<'a> Waiting<'a> {
    pub(crate) fn join(count: &'a AtomicUsize) -> Self {
        Self {
            count,
            before: count.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peer {
    pub(crate) fn new(
        endpoint: &Endpoint,
        in_flight_max: usize,
        breaker: Option<&BreakerConfig>,
    ) -> Self {
        let is_proven = breaker.is_none_or(|it| it.unproven.is_none());
        let turns = |max| PeerTurns::new(if is_proven { max } else { 1 }, max);
        Self {
            origin: endpoint.origin().clone(),
            host: endpoint.host_header().to_owned(),
            breaker: Breaker::new(breaker),
            url_breakers: UrlBreakers::default(),
            has_confirmed: AtomicBool::new(false),
            small: turns(in_flight_max),
            large: turns(in_flight_max.div_ceil(LARGE_SHARE)),
            waiting: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// The turns of messages of this length.
    pub(crate) fn turns(&self, message_bytes: u64) -> &PeerTurns {
        match is_large(message_bytes) {
            true => &self.large,
            false => &self.small,
        }
    }

    /// It has confirmed something for the first time, and is treated like all others from now on.
    pub(crate) fn proven(&self) {
        self.small.all();
        self.large.all();
    }

    /// Reserves places for up to `wanted` deliveries, and says for how many: for all if nothing else is
    /// pending, otherwise for no more than make `share` of them.
    pub(crate) fn reserve(&self, wanted: usize, share: usize) -> usize {
        let before = self.pending.fetch_add(wanted, Ordering::Relaxed);
        if before == 0 {
            return wanted;
        }
        let reserved = wanted.min(share.saturating_sub(before));
        if reserved < wanted {
            self.release(wanted - reserved);
        }
        reserved
    }

    /// Gives places back.
    pub(crate) fn release(&self, reserved: usize) {
        self.pending.fetch_sub(reserved, Ordering::Relaxed);
    }

    /// Whether any delivery to it was confirmed.
    pub(crate) fn has_confirmed(&self) -> bool {
        self.has_confirmed.load(Ordering::Relaxed)
    }

    /// A delivery to one of its urls was confirmed, of which `url` keeps note as well.
    pub(crate) fn confirmed(&self, url: &AtomicBool) {
        for it in [&self.has_confirmed, url] {
            // Written once only: all threads read it.
            if !it.load(Ordering::Relaxed) {
                it.store(true, Ordering::Relaxed);
            }
        }
    }

    /// A connection kept from before, if one is still open: the one used last, and for how long it was
    /// not used.
    pub(crate) fn kept_connection(
        &self,
        now: Instant,
        idle_timeout: Duration,
    ) -> Option<(Box<Connection>, Duration)> {
        loop {
            let mut kept = self.idle().pop()?;
            if kept.is_fresh(now, idle_timeout) {
                let idle = now.saturating_duration_since(kept.since);
                return Some((kept.connection, idle));
            }
        }
    }

    /// Keeps a connection for what comes next, unless there are enough or it is older than `age_max`:
    /// what the peer's name resolves to may be something else by now.
    pub(crate) fn keep(&self, connection: Box<Connection>, idle_max: usize, age_max: Duration) {
        let since = Instant::now();
        let is_old = since.saturating_duration_since(connection.opened()) >= age_max;
        let mut idle = self.idle();
        if idle.len() < idle_max && !is_old {
            idle.push(Idle { connection, since });
        }
    }

    /// Closes the kept connections that have not been used for `idle_timeout`, or that the peer
    /// closed.
    pub(crate) fn close_idle(&self, idle_timeout: Duration) {
        let now = Instant::now();
        self.idle()
            .retain_mut(|kept| kept.is_fresh(now, idle_timeout));
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_fresh(&mut self, now: Instant, idle_timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) < idle_timeout && self.connection.is_open()
    }
}
