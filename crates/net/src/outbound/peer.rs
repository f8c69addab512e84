//! A peer that is posted to: its connections, and the turns that requests take there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use httppubsub_proto::digest::Sha512;
use httppubsub_proto::url::{Endpoint, Origin};
use tokio::time::Instant;

use crate::outbound::breaker::{Breaker, BreakerConfig, News};
use crate::outbound::connection::Connection;
use crate::outbound::limit::PeerLimit;
use crate::outbound::url_breakers::UrlBreakers;

/// `true` if a message of `message_bytes` has to leave room for others: more than 1 MiB.
pub fn is_large(message_bytes: u64) -> bool {
    message_bytes > SMALL_BYTES_MAX
}

/// Longer messages take more than a moment even if the peer is fast.
const SMALL_BYTES_MAX: u64 = 1024 * 1024;

/// Permits of small messages for each permit of a large one.
pub(crate) const LARGE_SHARE: usize = 4;

/// All that is shared between requests to one origin.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Scheme, host and port: what makes it one peer.
    pub(crate) origin: Origin,
    /// For what concerns all of its urls.
    pub(crate) breaker: Breaker,
    /// For what a single url is to blame for.
    pub(crate) url_breakers: UrlBreakers,
    /// `true` if any delivery to it was confirmed.
    has_confirmed: AtomicBool,
    /// Those of small messages and those of large ones, so that the former need not wait for the
    /// latter.
    small: PeerLimit,
    /// A quarter as many.
    large: PeerLimit,
    /// Requests that wait for a permit, of both kinds.
    pub(crate) waiting: AtomicUsize,
    /// Deliveries that have a place at it.
    pending: AtomicUsize,
    /// Value of the `Host` header.
    pub(crate) host: String,
    /// Kept connections, the one used last at the end.
    idle: Mutex<Vec<Idle>>,
}

/// A connection that nothing goes over.
#[derive(Debug)]
struct Idle {
    /// Boxed, as it is moved in and out all the time.
    connection: Box<Connection>,
    /// The end of its last exchange.
    since: Instant,
}

/// A request that waits for a permit.
pub(crate) struct Waiting<'a> {
    /// One less when this is dropped.
    count: &'a AtomicUsize,
    /// Requests that waited when this one came.
    pub(crate) before: usize,
}

impl<'a> Waiting<'a> {
    /// Counts one more.
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
        // A peer that never confirmed anything may not know that it was subscribed: one at a time.
        let turns = |max| PeerLimit::new(if is_proven { max } else { 1 }, max);
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
    pub(crate) fn turns(&self, message_bytes: u64) -> &PeerLimit {
        match is_large(message_bytes) {
            true => &self.large,
            false => &self.small,
        }
    }

    /// It has confirmed something for the first time, and is treated like all others from now on.
    pub(crate) fn proven(&self) {
        self.small.restore();
        self.large.restore();
    }

    /// Reserves places for up to `wanted` deliveries, and says for how many: for all if nothing but
    /// `own` is pending, otherwise for no more than make `share` of them.
    pub(crate) fn reserve(&self, wanted: usize, own: usize, share: usize) -> usize {
        let fits = |before: usize| match before <= own {
            true => wanted,
            false => wanted.min(share.saturating_sub(before)),
        };
        // In one step: what is added and taken back again would look to others like a full peer.
        let before = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                Some(before + fits(before))
            });
        fits(before.unwrap_or_else(|before| before))
    }

    /// Gives places back.
    pub(crate) fn release(&self, reserved: usize) {
        self.pending.fetch_sub(reserved, Ordering::Relaxed);
    }

    /// `true` if any delivery to it was confirmed.
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

    /// A connection kept from before, if one is still open: the one used last, and for how long it
    /// was not used.
    pub(crate) fn kept_connection(
        &self,
        now: Instant,
        idle_timeout: Duration,
    ) -> Option<(Box<Connection>, Duration)> {
        loop {
            // The one used last is the most likely to be open still; the others grow old and are
            // closed.
            let mut kept = self.idle().pop()?;
            if kept.is_fresh(now, idle_timeout) {
                let idle = now.saturating_duration_since(kept.since);
                return Some((kept.connection, idle));
            }
        }
    }

    /// Keeps a connection for what comes next, unless there are enough or it is older than
    /// `age_max`: what the peer's name resolves to may be something else by now.
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

    /// Goes on after a panic: a list of connections is whole at any moment.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the operator what is new about a peer, or about one of its urls.
pub(crate) fn tell(peer: &Peer, path: Option<&str>, news: Option<News>) {
    let Some(news) = news else {
        return;
    };
    let origin = &peer.origin;
    // A path may hold a secret. By the first digits of its digest it can be told from others, and
    // found again by somebody who knows it.
    let path_sha512 = path.map(|path| {
        let [a, b, c, d, ..] = *Sha512::of(path.as_bytes()).as_bytes();
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    });
    match news {
        News::Opened(failures) => tracing::warn!(
            %origin,
            path_sha512,
            failures,
            "circuit breaker opened: deliveries fail again and again; those to come count as \
             missed until one is confirmed"
        ),
        News::Closed => {
            tracing::info!(%origin, path_sha512, "circuit breaker closed: deliveries go on");
        }
        News::Proven => {
            peer.proven();
            tracing::debug!(%origin, "confirmed something for the first time");
        }
    }
}

impl Idle {
    /// `true` if it can be used again: the peer has not closed it, and is not about to.
    fn is_fresh(&mut self, now: Instant, idle_timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) < idle_timeout && self.connection.is_open()
    }
}
