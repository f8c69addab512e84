//! Posts to peers: bounded connections to each, deadlines over all that a peer could draw out,
//! answers of bounded size, redirects never followed.
//!
//! A connection that was kept may have been closed by the peer a moment ago. If the peer cannot
//! have read the request ([`Poster::post`] says when that is so), it is sent once more over a fresh
//! connection; in all other cases a request is sent at most once, as nobody can know what the peer
//! has done with it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::Either;
use httppubsub_proto::auth::CannotAuthorize;
use httppubsub_proto::time;
use httppubsub_proto::url::{Endpoint, EndpointError, Origin, SubscriberUrl};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::body::payload::PayloadReader;
use crate::egress::dial::dial;
use crate::egress::tls::Tls;
use crate::outbound::breaker::{Blame, BreakerRejection, Probe};
use crate::outbound::config::PostConfig;
use crate::outbound::connection::{Broken, Connection, Progress, Response};
use crate::outbound::error::{PeerSignal, PostError};
use crate::outbound::limit::{ConcurrencyLimit, Permit};
use crate::outbound::peer::{LARGE_SHARE, Peer, Waiting, is_large, tell};
use crate::outbound::peers::Peers;
use crate::outbound::request::{JOINED_BYTES_MAX, Post, prepare};
use crate::outbound::target::Target;

/// A delivery that may be tried: see [`Poster::admit`].
#[derive(Debug)]
pub struct Admitted {
    /// Decides which permit it takes, and by how much its deadline grows.
    message_bytes: u64,
    /// A probe is sent although the breaker is open, and its failure is no news.
    is_probe: bool,
    /// The moment at which it had its permit.
    began: Option<Instant>,
}

/// Load of a [`Poster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostLoad {
    /// Requests under way.
    pub under_way: usize,
    /// Requests that wait for a turn.
    pub waiting: usize,
    /// Peers whose circuit breaker is open, and single urls of others.
    pub open_breakers: usize,
    /// Requests that were sent once more so far, because the connection had been closed before they
    /// can have been read.
    pub sent_again: u64,
}

/// Posts within the bounds of a [`PostConfig`]. Clones share connections and bounds. It must be
/// made inside a tokio runtime.
///
/// ```no_run
/// use httppubsub_net::outbound::{Post, PostConfig, Poster};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let poster = Poster::new(PostConfig::default());
/// let target = poster.target_str("http://127.0.0.1:3003/v1/check")?;
/// let make = || {
///     Ok(Post {
///         authorization: None,
///         repr_digest: None,
///         headers: Vec::new(),
///         head: "what the path expects".into(),
///         payload: None,
///     })
/// };
/// let response = poster.post(&target, 0, make).await?;
/// println!("{} and {} bytes", response.status, response.body.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Poster(Arc<Inner>);

/// Shared by all clones.
#[derive(Debug)]
struct Inner {
    /// With counts that a semaphore can have, and durations that can be added.
    config: PostConfig,
    /// One for all peers: they trust the same authorities.
    tls: Tls,
    /// Turns of small messages at all peers together.
    in_flight: Semaphore,
    /// Turns of large ones, a quarter as many: what takes long does not hold up what does not.
    large_in_flight: Semaphore,
    /// Places for connections, kept ones included; each connection owns one.
    connections: Arc<Semaphore>,
    /// For [`PostLoad::sent_again`].
    sent_again: AtomicU64,
    /// Found by origin when a target is made, never during a post.
    peers: Peers,
}

impl Poster {
    /// A poster with these bounds.
    pub fn new(config: PostConfig) -> Self {
        let config = config.bounded();
        let inner = Arc::new(Inner {
            in_flight: Semaphore::new(config.in_flight_max),
            large_in_flight: Semaphore::new(config.in_flight_max.div_ceil(LARGE_SHARE)),
            connections: Arc::new(Semaphore::new(config.connections_max.max(1))),
            tls: Tls::new(),
            sent_again: AtomicU64::new(0),
            peers: Peers::default(),
            config,
        });
        // Weakly, so that the task does not keep what it looks after.
        tokio::spawn(close_idle(
            Arc::downgrade(&inner),
            inner.config.idle_timeout,
        ));
        Self(inner)
    }

    /// The load at this moment.
    pub fn load(&self) -> PostLoad {
        let large_max = self.0.config.in_flight_max.div_ceil(LARGE_SHARE);
        let large_free = self.0.large_in_flight.available_permits();
        let small_free = self.0.in_flight.available_permits();
        let peers = self.0.peers.all();
        let now = Instant::now();
        let open_urls = |peer: &Peer| {
            let config = self.0.config.breaker.as_ref();
            config.map_or(0, |config| peer.url_breakers.open(config, now))
        };
        PostLoad {
            under_way: (self.0.config.in_flight_max + large_max)
                .saturating_sub(small_free + large_free),
            waiting: peers
                .iter()
                .map(|peer| peer.waiting.load(Ordering::Relaxed))
                .sum(),
            open_breakers: peers
                .iter()
                .map(|peer| match peer.breaker.is_open() {
                    true => 1,
                    false => open_urls(peer),
                })
                .sum(),
            sent_again: self.0.sent_again.load(Ordering::Relaxed),
        }
    }

    /// The target that `url` names.
    pub fn target(&self, url: &SubscriberUrl) -> Result<Target, EndpointError> {
        self.target_str(url.as_str())
    }

    /// The target that the url spelled `url` names.
    pub fn target_str(&self, url: &str) -> Result<Target, EndpointError> {
        let endpoint = Endpoint::parse_str(url)?;
        Ok(Target {
            peer: self.0.peers.peer(&endpoint, &self.0.config),
            path: endpoint.path_and_query().into(),
            has_confirmed: Arc::default(),
        })
    }

    /// Posts what `make` makes and returns the answer, whatever its status. If a kept connection
    /// turns out to have been closed before the peer can have read the request, what `make` makes
    /// then is posted over a fresh one: the same message by the same identifier, authorized anew.
    /// That is so if the connection took nothing of it, if the peer had closed it and its kernel
    /// refused what was sent, or if it broke off within 50 ms after it had been idle for more than
    /// a second; always before any of the answer. `message_bytes` is the length of the payload.
    pub async fn post(
        &self,
        target: &Target,
        message_bytes: u64,
        make: impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Response, PostError> {
        let progress = Progress::default();
        self.post_with(target, message_bytes, progress, make).await
    }

    /// The same, counting in `sent` how many bytes of a long payload were handed to the connection;
    /// it starts again from 0 when all is posted again over a fresh one.
    pub async fn post_counting(
        &self,
        target: &Target,
        message_bytes: u64,
        sent: &Arc<AtomicU64>,
        make: impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Response, PostError> {
        let progress = Progress::counting(sent);
        self.post_with(target, message_bytes, progress, make).await
    }

    /// The common part of [`Poster::post`] and [`Poster::post_counting`].
    async fn post_with(
        &self,
        target: &Target,
        message_bytes: u64,
        progress: Progress,
        mut make: impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Response, PostError> {
        let wait = self.0.config.answer_timeout.min(time::FOREVER);
        let _turn = self.0.turn(&target.peer, message_bytes, wait).await?;
        let now = Instant::now();
        // Only the time-out of the post bounds it: no other deliveries wait for this one.
        let deadline = now + time::FOREVER;
        self.post_now(target, message_bytes, &progress, now, deadline, &mut make)
            .await
    }

    /// Admits a delivery of a message of this length, or not. `by` says how the peer is
    /// tried if its circuit breaker is open and it is time for a probe.
    pub fn admit(
        &self,
        target: &Target,
        message_bytes: u64,
        by: impl Fn() -> Probe,
    ) -> Result<Admitted, BreakerRejection> {
        let Peer {
            breaker,
            url_breakers: urls,
            ..
        } = &*target.peer;
        let is_probe = match &self.0.config.breaker {
            Some(config) if !(breaker.is_closed() && urls.is_empty()) => {
                let now = Instant::now();
                // The url first: if it is left alone, the peer's probe is not spent on it.
                let of_url = urls.admit(&target.path, config, now, message_bytes, &by)?;
                breaker.admit(config, now, message_bytes, &by)? || of_url
            }
            _ => false,
        };
        Ok(Admitted {
            message_bytes,
            is_probe,
            began: None,
        })
    }

    /// The error with which [`Poster::admit`] would refuse a short message now. Nothing changes.
    pub fn outlook(&self, target: &Target, by: impl Fn() -> Probe) -> Result<(), BreakerRejection> {
        let (peer, now) = (&target.peer, Instant::now());
        self.0.config.breaker.as_ref().map_or(Ok(()), |config| {
            peer.url_breakers.outlook(&target.path, config, now, &by)?;
            peer.breaker.outlook(config, now, &by)
        })
    }

    /// Posts an admitted delivery like [`Poster::post`], but not beyond `deadline` and unless the
    /// circuit breaker of its peer opens while it waits for its turn. What came of it is to be told
    /// to [`Poster::record`].
    pub async fn deliver(
        &self,
        target: &Target,
        admitted: &mut Admitted,
        deadline: Instant,
        mut make: impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Response, PostError> {
        let message_bytes = admitted.message_bytes;
        let left = deadline.saturating_duration_since(Instant::now());
        // A turn that is free would be granted without a look at the time.
        if left.is_zero() {
            return Err(self.0.no_turn(&target.peer, left));
        }
        let _turn = self.0.turn(&target.peer, message_bytes, left).await?;
        let now = Instant::now();
        // From here on, not from when it was admitted: time spent waiting is no fault of the peer.
        admitted.began = Some(now);
        // Hundreds may wait here when the breaker opens; each would wait for its own time-out. A
        // probe is sent for the very reason that it is open.
        if let (false, Some(config)) = (admitted.is_probe, &self.0.config.breaker) {
            let peer = &target.peer;
            let mut is_admitted = peer.breaker.is_still_admitted(config, now);
            if !peer.url_breakers.is_empty() {
                let of_url = || peer.url_breakers.is_still_admitted(&target.path);
                is_admitted = is_admitted.and_then(|()| of_url());
            }
            is_admitted.map_err(|source| PostError::BreakerRejection {
                origin: target.origin().clone(),
                source,
            })?;
        }
        let progress = Progress::default();
        self.post_now(target, message_bytes, &progress, now, deadline, &mut make)
            .await
    }

    /// Takes into account what came of a delivery: how much its peer is given, and when.
    pub fn record(&self, target: &Target, admitted: &Admitted, signal: PeerSignal) {
        let Some(config) = &self.0.config.breaker else {
            return;
        };
        let peer = &*target.peer;
        let turns = peer.turns(admitted.message_bytes);
        if matches!(signal, PeerSignal::Confirmed | PeerSignal::Answered) {
            turns.on_success();
        }
        if signal == PeerSignal::Confirmed {
            peer.confirmed(&target.has_confirmed);
            tell(peer, None, peer.breaker.confirmed());
            if !peer.url_breakers.is_empty() {
                let news = peer.url_breakers.confirmed(&target.path);
                tell(peer, Some(&target.path), news);
            }
        }
        let blame = match signal {
            PeerSignal::Confirmed | PeerSignal::Answered => return,
            // It may be that nobody there knows what this is about.
            _ if !peer.breaker.is_proven() => Some(Blame::All),
            PeerSignal::Unreachable => Some(Blame::All),
            PeerSignal::NotConfirmed => None,
            // A url that never worked says nothing of the others, which do.
            PeerSignal::TooMuch if peer.has_confirmed() && !target.has_confirmed() => None,
            PeerSignal::TooMuch => Some(Blame::Url(target.url_id())),
        };
        let now = Instant::now();
        let began = admitted.began.unwrap_or(now);
        // A probe that fails says what is known, and the limit is not what stops it.
        let is_news = !admitted.is_probe && blame.is_some();
        if is_news && matches!(signal, PeerSignal::TooMuch | PeerSignal::Unreachable) {
            turns.on_overload(now, began);
        }
        if let Some(blame) = blame {
            tell(peer, None, peer.breaker.failed(config, now, began, blame));
        }
        // Without a connection it never came to the url.
        if signal != PeerSignal::Unreachable {
            let urls = &peer.url_breakers;
            let news = urls.failed(&target.path, config, now, began);
            tell(peer, Some(&target.path), news);
        }
    }

    /// A notice that was posted to `recovery` for the subscriber at `url` was confirmed.
    pub fn notice_confirmed(&self, recovery: &Target, url: &SubscriberUrl) {
        let now = Instant::now();
        let peer = &recovery.peer;
        tell(peer, None, peer.breaker.noticed(now));
        if let Some((peer, path)) = self.peer_of(url) {
            peer.url_breakers.noticed(&path, now);
        }
    }

    /// The subscriber at `url` asked for something, so it is worth while to try it again.
    pub fn reset_breaker(&self, url: &SubscriberUrl) {
        if let Some((peer, path)) = self.peer_of(url) {
            tell(&peer, None, peer.breaker.heard());
            tell(&peer, Some(&path), peer.url_breakers.heard(&path));
        }
    }

    /// The peer of a url, if it is known and may have failed, and the path.
    fn peer_of(&self, url: &SubscriberUrl) -> Option<(Arc<Peer>, Arc<str>)> {
        self.0.config.breaker.as_ref()?;
        let endpoint = Endpoint::parse(url).ok()?;
        let peer = self.0.peers.known(endpoint.origin())?;
        Some((peer, endpoint.path_and_query().into()))
    }

    /// Posts with a turn taken, within the time for a message of this length and not beyond
    /// `deadline`.
    async fn post_now(
        &self,
        target: &Target,
        message_bytes: u64,
        progress: &Progress,
        now: Instant,
        deadline: Instant,
        make: &mut impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Response, PostError> {
        let usual = self.0.config.timeout(message_bytes);
        let timeout = usual.min(deadline.saturating_duration_since(now));
        let exchange = self.exchange(target, message_bytes, progress, now, make);
        let origin = || target.origin().clone();
        match tokio::time::timeout_at(now + timeout, exchange).await {
            Ok(answer) => answer,
            // Others took most of the time.
            Err(_) if timeout < usual / ENOUGH => Err(PostError::OutOfTime { origin: origin() }),
            // There was no connection yet, so the peer knows nothing of it.
            Err(_) if !progress.has_begun() => Err(PostError::Connect {
                origin: origin(),
                source: io::ErrorKind::TimedOut.into(),
            }),
            Err(_) => Err(PostError::Timeout {
                origin: origin(),
                timeout,
                is_whole: message_bytes <= JOINED_BYTES_MAX as u64
                    || progress.taken() >= message_bytes,
            }),
        }
    }

    /// One exchange over a kept connection, and if the peer had closed that, over a fresh one.
    async fn exchange(
        &self,
        target: &Target,
        message_bytes: u64,
        progress: &Progress,
        now: Instant,
        make: &mut impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Response, PostError> {
        let kept = target.peer.kept_connection(now, self.0.config.idle_timeout);
        if let Some((mut kept, idle)) = kept {
            let streamed = prepare(&mut kept, target, make)?;
            let exchange = self.exchange_over(kept, streamed, target, message_bytes, progress);
            match exchange.await {
                Err(NotDone::Broken(broken)) if broken.is_unread(idle) => {
                    self.0.sent_again.fetch_add(1, Ordering::Relaxed);
                    progress.start_again();
                }
                done => return done.map_err(|error| error.at(target)),
            }
        }
        // Boxed, so that posts over a kept connection need no room for it.
        let mut fresh = Box::pin(self.0.connect(&target.peer.origin)).await?;
        let streamed = prepare(&mut fresh, target, make)?;
        let exchange = self.exchange_over(fresh, streamed, target, message_bytes, progress);
        exchange.await.map_err(|error| error.at(target))
    }

    /// One exchange over this connection, which is kept afterwards if another one can follow.
    async fn exchange_over(
        &self,
        mut connection: Box<Connection>,
        streamed: Option<Box<PayloadReader>>,
        target: &Target,
        message_bytes: u64,
        progress: &Progress,
    ) -> Result<Response, NotDone> {
        progress.begin();
        let config = &self.0.config;
        let exchange = connection.exchange(streamed, progress, config.answer_bytes_max);
        // The deadline grows with the length: a peer that takes nothing of a gigabyte would hold a
        // turn for a quarter of an hour.
        let exchanged = if message_bytes > WATCHED_BYTES_MIN {
            let stalled = Box::pin(stalled(progress, message_bytes, config.stall_timeout));
            match futures_util::future::select(Box::pin(exchange), stalled).await {
                Either::Left((exchanged, _)) => exchanged,
                Either::Right(((), _)) => {
                    return Err(NotDone::Stalled(config.stall_timeout));
                }
            }
        } else {
            exchange.await
        };
        let (response, is_open) = exchanged.map_err(NotDone::Broken)?;
        // Nobody waits for its place.
        let is_to_spare = self.0.connections.available_permits() > 0;
        if is_open && is_to_spare {
            let (idle_max, age_max) = (config.idle_per_peer_max, config.connection_age_max);
            target.peer.keep(connection, idle_max, age_max);
        }
        Ok(response)
    }
}

/// A peer that had this fraction of the usual time and did not answer is to blame for it.
const ENOUGH: u32 = 4;

/// End of an exchange over one connection without an answer.
enum NotDone {
    /// It broke off, which says how much of the request was sent.
    Broken(Broken),
    /// The peer took nothing of a long message for this time.
    Stalled(Duration),
}

impl NotDone {
    /// The error for the caller, which names the peer.
    fn at(self, target: &Target) -> PostError {
        let origin = target.origin().clone();
        match self {
            Self::Broken(broken) => PostError::Broken {
                origin,
                is_whole: broken.is_whole(),
                source: broken.source,
            },
            Self::Stalled(timeout) => PostError::Stalled { origin, timeout },
        }
    }
}

/// Smaller messages fit into the buffers of both kernels; the deadline is enough for them.
const WATCHED_BYTES_MIN: u64 = 1024 * 1024;

/// Returns when `progress` has not moved for `timeout` although it is short of `message_bytes`.
async fn stalled(progress: &Progress, message_bytes: u64, timeout: Duration) {
    let mut before = 0;
    loop {
        tokio::time::sleep(timeout).await;
        let now = progress.taken();
        if now >= message_bytes {
            // The rest is up to the deadline of the answer.
            std::future::pending::<()>().await;
        }
        if now == before {
            return;
        }
        before = now;
    }
}

impl Inner {
    /// Waits at most `timeout` for a turn, at the peer first and for one of all turns then: a
    /// peer that hangs holds no more of these than its own bound.
    async fn turn<'a>(
        &'a self,
        peer: &'a Peer,
        message_bytes: u64,
        timeout: Duration,
    ) -> Result<(Permit<&'a ConcurrencyLimit>, SemaphorePermit<'a>), PostError> {
        let turns = peer.turns(message_bytes);
        let in_flight = match is_large(message_bytes) {
            true => &self.large_in_flight,
            false => &self.in_flight,
        };
        if let Some(own) = turns.try_acquire()
            && let Ok(any) = in_flight.try_acquire()
        {
            return Ok((own, any));
        }
        // Counted only if it has to wait, as most need not.
        let waiting = Waiting::join(&peer.waiting);
        if waiting.before >= self.config.waiting_per_peer_max {
            return Err(PostError::Busy {
                origin: peer.origin.clone(),
                waiting: waiting.before,
            });
        }
        let both = async {
            // In this order: a request that waits for its peer must not hold one of all turns
            // meanwhile.
            let own = turns.acquire().await;
            let any = in_flight.acquire().await;
            (own, any.expect("the semaphore is never closed"))
        };
        let turn = tokio::time::timeout(timeout, both).await;
        turn.map_err(|_| self.no_turn(peer, timeout))
    }

    /// The error of a request that had no turn within `timeout`.
    fn no_turn(&self, peer: &Peer, timeout: Duration) -> PostError {
        PostError::NoTurn {
            origin: peer.origin.clone(),
            timeout,
        }
    }

    /// A place for one more connection. If there is none, unused ones make room.
    async fn connection_place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = self.connections.clone().try_acquire_owned() {
            return place;
        }
        // First the ones that have been unused for a while, then all.
        for idle_timeout in [Duration::from_secs(1), Duration::ZERO] {
            for peer in self.peers.all() {
                peer.close_idle(idle_timeout);
            }
            if let Ok(place) = self.connections.clone().try_acquire_owned() {
                return place;
            }
        }
        let place = self.connections.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// A fresh connection to `origin`. The wait for a place counts towards its time-out.
    async fn connect(&self, origin: &Origin) -> Result<Box<Connection>, PostError> {
        let failed = |error| PostError::unconnected(origin, error);
        let connecting = async {
            let place = self.connection_place().await;
            let pin = self.config.pins.get(&(origin.host.clone(), origin.port));
            let stream = dial(origin, &self.config.egress, pin.copied(), &self.tls).await?;
            Ok(Connection::new(stream, place))
        };
        match tokio::time::timeout(self.config.connect_timeout, connecting).await {
            Ok(connected) => connected.map(Box::new).map_err(failed),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Closes connections that have not been used for `idle_timeout`, for as long as the poster lives.
async fn close_idle(poster: Weak<Inner>, idle_timeout: Duration) {
    loop {
        // Half, so that none is open for longer than one and a half of it.
        tokio::time::sleep(idle_timeout.max(Duration::from_secs(1)) / 2).await;
        let Some(poster) = poster.upgrade() else {
            return;
        };
        for peer in poster.peers.all() {
            peer.close_idle(idle_timeout);
        }
    }
}
