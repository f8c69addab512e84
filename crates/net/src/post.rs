//! Posts to peers: bounded connections to each, deadlines over all that a peer could draw out,
//! answers of bounded size, redirects never followed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderValue, StatusCode};
use httppubsub_proto::auth::CannotAuthorize;
use httppubsub_proto::digest::{Sha512, encode_repr_digest};
use httppubsub_proto::time;
use httppubsub_proto::url::{Endpoint, EndpointError, Origin, Scheme, SubscriberUrl};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::agent::USER_AGENT;
use crate::breaker::{Blame, BreakerConfig, News, NotTried, TrialBy};
use crate::egress::Egress;
use crate::http1::{Broken, Connection, Exchanged};
use crate::payload::{Payload, PayloadReader};
use crate::peer::{LARGE_SHARE, Peer, Waiting, is_large};
use crate::post_error::{PostError, Told};
use crate::tls::Tls;
use crate::turns::{Turn, Turns};

/// Bounds on what is posted.
#[derive(Clone, Debug)]
pub struct PostConfig {
    /// Longest wait for a connection to be made, TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest time from the first byte to the end of the answer for an empty message. Default
    /// 30 s: a webhook may do its work before it answers.
    pub answer_timeout: Duration,
    /// By how many bytes per second a message lengthens that time. Default 1 MiB/s.
    pub rate_min: u64,
    /// A peer that takes nothing of a long message for this long is given up; that is noticed
    /// before it is twice as long. Default 15 s.
    pub stall_timeout: Duration,
    /// Requests under way at once, to all peers, and a quarter more with messages of more than
    /// 1 MiB. Default 4096.
    pub in_flight_max: usize,
    /// Requests under way at once to one peer (scheme, host and port), and a quarter more with
    /// messages of more than 1 MiB. There are fewer while a peer has too much to do. Default 64.
    pub in_flight_per_peer_max: usize,
    /// Requests that wait for their turn at one peer; one more fails at once. Default 10,000.
    pub waiting_per_peer_max: usize,
    /// Connections open at once to all peers, those that are kept included. When there are as many,
    /// those that are not used are closed. Default 16,384.
    pub connections_max: usize,
    /// When a peer gets no deliveries for a while. Default: never.
    pub breaker: Option<BreakerConfig>,
    /// Connections kept open to one peer while they are not used. Default 64.
    pub idle_per_peer_max: usize,
    /// For how long. Default 30 s.
    pub idle_timeout: Duration,
    /// How old a connection may be that is used again. One that is always in use would lead for ever
    /// to where the peer's name led once. Default 5 min.
    pub connection_age_max: Duration,
    /// Peers, by host and port as their urls say, that are reached at another address than their
    /// name resolves to. They are named by whoever runs the program, so `egress` is not asked.
    /// Default: none.
    pub pins: HashMap<(String, u16), SocketAddr>,
    /// Where connections may be made to. Default: the profile `internal` with loopback.
    pub egress: Egress,
    /// How much of an answer is read, in bytes. Default 132 KiB, which holds the longest one that
    /// makes sense; what follows is ignored.
    pub answer_bytes_max: usize,
}

impl PostConfig {
    /// The same with durations that can be added to a moment: more than [`time::FOREVER`] is that. And
    /// with counts that a semaphore can have.
    pub fn bounded(mut self) -> Self {
        for count in [
            &mut self.in_flight_max,
            &mut self.in_flight_per_peer_max,
            &mut self.connections_max,
        ] {
            *count = Semaphore::MAX_PERMITS.min(*count);
        }
        time::bound([
            &mut self.connect_timeout,
            &mut self.answer_timeout,
            &mut self.stall_timeout,
            &mut self.idle_timeout,
        ]);
        self.breaker = self.breaker.map(BreakerConfig::bounded);
        self
    }
}

impl Default for PostConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            rate_min: 1024 * 1024,
            stall_timeout: Duration::from_secs(15),
            in_flight_max: 4_096,
            in_flight_per_peer_max: 64,
            waiting_per_peer_max: 10_000,
            connections_max: 16_384,
            breaker: None,
            idle_per_peer_max: 64,
            idle_timeout: Duration::from_secs(30),
            connection_age_max: Duration::from_secs(300),
            pins: HashMap::new(),
            egress: Egress::default(),
            answer_bytes_max: 132 * 1024,
        }
    }
}

impl PostConfig {
    /// Longest time from the first byte to the end of the answer for a message of this length, at
    /// most [`time::FOREVER`].
    pub fn timeout(&self, message_bytes: u64) -> Duration {
        let timeout = self.answer_timeout;
        timeout
            .saturating_add(self.allowance(message_bytes))
            .min(time::FOREVER)
    }

    /// By how much a message of this length lengthens that time, in whole seconds.
    pub fn allowance(&self, message_bytes: u64) -> Duration {
        Duration::from_secs(message_bytes.checked_div(self.rate_min).unwrap_or(0))
    }
}

/// What is posted.
#[derive(Debug)]
pub struct Post {
    /// Value of the `Authorization` header.
    pub authorization: Option<String>,
    /// Value of the `Repr-Digest` header, see [`repr_digest`].
    pub repr_digest: Option<HeaderValue>,
    /// First part of the body.
    pub head: Bytes,
    /// Second part of the body.
    pub payload: Option<Payload>,
}

/// The value of the `Repr-Digest` header for a message with this digest.
pub fn repr_digest(digest: &Sha512) -> HeaderValue {
    HeaderValue::try_from(encode_repr_digest(digest)).expect("base64 is visible ASCII")
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whatever it is; redirects are not followed.
    pub status: StatusCode,
    /// As much of it as is read.
    pub body: Bytes,
}

/// A delivery that may be tried: see [`Poster::admit`].
#[derive(Debug)]
pub struct Admitted {
    message_bytes: u64,
    is_trial: bool,
    /// When it had its turn.
    began: Option<Instant>,
}

/// What a [`Poster`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostLoad {
    /// Requests under way.
    pub under_way: usize,
    /// Requests that wait for a turn.
    pub waiting: usize,
    /// Peers whose circuit breaker is open, and single urls of others.
    pub open_breakers: usize,
    /// Requests that were sent once more so far, because the connection had been closed before they can
    /// have been read.
    pub sent_again: u64,
}

/// Posts within the bounds of a [`PostConfig`]. Clones share connections and bounds. It must be
/// made inside a tokio runtime.
#[derive(Clone, Debug)]
pub struct Poster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: PostConfig,
    tls: Tls,
    in_flight: Semaphore,
    large_in_flight: Semaphore,
    connections: Arc<Semaphore>,
    sent_again: AtomicU64,
    peers: Mutex<Peers>,
}

#[derive(Debug, Default)]
struct Peers {
    by_origin: HashMap<Origin, Weak<Peer>>,
    /// When this many are known, those that nobody refers to are forgotten.
    forget_at: usize,
}

/// Where something is posted, prepared once. Connections are kept for as long as a target of their
/// peer is.
#[derive(Clone, Debug)]
pub struct Target {
    peer: Arc<Peer>,
    path: Arc<str>,
    /// Whether a delivery there was confirmed.
    has_confirmed: Arc<AtomicBool>,
}

impl Target {
    /// Whom requests go to.
    pub fn origin(&self) -> &Origin {
        &self.peer.origin
    }

    /// Reserves places at the peer for up to `wanted` deliveries, and returns for how many: for all if
    /// nothing else is pending there, otherwise for no more than make `share` of them.
    pub fn reserve(&self, wanted: usize, share: usize) -> usize {
        self.peer.reserve(wanted, share)
    }

    /// Gives places back that were reserved.
    pub fn release(&self, reserved: usize) {
        self.peer.release(reserved);
    }

    fn has_confirmed(&self) -> bool {
        self.has_confirmed.load(Ordering::Relaxed)
    }

    /// The same number for all clones of a target.
    fn url_id(&self) -> usize {
        Arc::as_ptr(&self.has_confirmed).addr()
    }

    /// The same number for all targets of one origin that are there at the same time.
    pub fn peer_id(&self) -> usize {
        Arc::as_ptr(&self.peer).addr()
    }
}

impl Poster {
    /// A poster with these bounds.
    pub fn new(config: PostConfig) -> Self {
        let config = config.bounded();
        let inner = Arc::new(Inner {
            in_flight: Semaphore::new(config.in_flight_max),
            large_in_flight: Semaphore::new(config.in_flight_max.div_ceil(LARGE_SHARE)),
            connections: Arc::new(Semaphore::new(config.connections_max.max(1))),
            tls: Tls::default(),
            sent_again: AtomicU64::new(0),
            peers: Mutex::default(),
            config,
        });
        tokio::spawn(close_idle(
            Arc::downgrade(&inner),
            inner.config.idle_timeout,
        ));
        Self(inner)
    }

    /// What it has to do at this moment.
    pub fn load(&self) -> PostLoad {
        let large_max = self.0.config.in_flight_max.div_ceil(LARGE_SHARE);
        let large_free = self.0.large_in_flight.available_permits();
        let small_free = self.0.in_flight.available_permits();
        let peers = self.0.peers();
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
                    false => peer.url_breakers.open(),
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
            peer: self.0.peer(&endpoint),
            path: endpoint.path_and_query().into(),
            has_confirmed: Arc::default(),
        })
    }

    /// Posts what `make` makes and returns the answer, whatever its status. If a kept connection turns
    /// out to have been closed before the peer can have read the request, what `make` makes then is
    /// posted over a fresh one: the same message by the same identifier, authorized anew. That is so if
    /// the connection took nothing of it, if the peer had closed it and its kernel refused what was sent,
    /// or if it broke off within 50 ms after it had been idle for more than a second; always before any of
    /// the answer. `message_bytes` is the length of the payload.
    pub async fn post(
        &self,
        target: &Target,
        message_bytes: u64,
        make: impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Answer, PostError> {
        let sent = Arc::default();
        self.post_counting(target, message_bytes, &sent, make).await
    }

    /// The same, counting in `sent` how many bytes of a long payload were handed to the connection;
    /// it starts again from 0 when all is posted again over a fresh one.
    pub async fn post_counting(
        &self,
        target: &Target,
        message_bytes: u64,
        sent: &Arc<AtomicU64>,
        mut make: impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Answer, PostError> {
        let wait = self.0.config.answer_timeout.min(time::FOREVER);
        let _turn = self.0.turn(&target.peer, message_bytes, wait).await?;
        let now = Instant::now();
        let deadline = now + time::FOREVER;
        self.post_now(target, message_bytes, sent, now, deadline, &mut make)
            .await
    }

    /// Whether a delivery of a message of this length may be tried now. `by` says how the peer is
    /// tried if its circuit breaker is open and it is time for a trial.
    pub fn admit(
        &self,
        target: &Target,
        message_bytes: u64,
        by: impl Fn() -> TrialBy,
    ) -> Result<Admitted, NotTried> {
        let Peer {
            breaker,
            url_breakers: urls,
            ..
        } = &*target.peer;
        let is_trial = match &self.0.config.breaker {
            Some(config) if !(breaker.is_closed() && urls.is_empty()) => {
                let now = Instant::now();
                let of_url = urls.admit(&target.path, config, now, message_bytes, &by)?;
                breaker.admit(config, now, message_bytes, &by)? || of_url
            }
            _ => false,
        };
        Ok(Admitted {
            message_bytes,
            is_trial,
            began: None,
        })
    }

    /// Posts an admitted delivery like [`Poster::post`], but not beyond `deadline` and unless the
    /// circuit breaker of its peer opens while it waits for its turn. What came of it is to be told to
    /// [`Poster::learn`].
    pub async fn deliver(
        &self,
        target: &Target,
        admitted: &mut Admitted,
        deadline: Instant,
        mut make: impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Answer, PostError> {
        let message_bytes = admitted.message_bytes;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.0.no_turn(&target.peer, left));
        }
        let _turn = self.0.turn(&target.peer, message_bytes, left).await?;
        let now = Instant::now();
        admitted.began = Some(now);
        if let (false, Some(config)) = (admitted.is_trial, &self.0.config.breaker) {
            let peer = &target.peer;
            let mut is_admitted = peer.breaker.is_still_admitted(config, now);
            if !peer.url_breakers.is_empty() {
                let of_url = || peer.url_breakers.is_still_admitted(&target.path);
                is_admitted = is_admitted.and_then(|()| of_url());
            }
            is_admitted.map_err(|source| PostError::NotTried {
                origin: target.origin().clone(),
                source,
            })?;
        }
        let sent = AtomicU64::new(0);
        self.post_now(target, message_bytes, &sent, now, deadline, &mut make)
            .await
    }

    /// Takes into account what came of a delivery: how much its peer is given, and when.
    pub fn learn(&self, target: &Target, admitted: &Admitted, told: Told) {
        let Some(config) = &self.0.config.breaker else {
            return;
        };
        let peer = &*target.peer;
        let turns = peer.turns(admitted.message_bytes);
        if matches!(told, Told::Confirmed | Told::Answered) {
            turns.answered();
        }
        if told == Told::Confirmed {
            peer.confirmed(&target.has_confirmed);
            tell(peer, None, peer.breaker.confirmed());
            if !peer.url_breakers.is_empty() {
                let news = peer.url_breakers.confirmed(&target.path);
                tell(peer, Some(&target.path), news);
            }
        }
        let blame = match told {
            Told::Confirmed | Told::Answered => return,
            // It may be that nobody there knows what this is about.
            _ if !peer.breaker.is_proven() => Some(Blame::All),
            Told::Unreachable => Some(Blame::All),
            Told::NotConfirmed => None,
            // A url that never worked says nothing of the others, which do.
            Told::TooMuch if peer.has_confirmed() && !target.has_confirmed() => None,
            Told::TooMuch => Some(Blame::Url(target.url_id())),
        };
        let now = Instant::now();
        let began = admitted.began.unwrap_or(now);
        let is_news = !admitted.is_trial && blame.is_some();
        if is_news && matches!(told, Told::TooMuch | Told::Unreachable) {
            turns.too_much(now, began);
        }
        if let Some(blame) = blame {
            tell(peer, None, peer.breaker.failed(config, now, began, blame));
        }
        if told != Told::Unreachable {
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
    pub fn heard_of(&self, url: &SubscriberUrl) {
        if let Some((peer, path)) = self.peer_of(url) {
            tell(&peer, None, peer.breaker.heard());
            tell(&peer, Some(&path), peer.url_breakers.heard(&path));
        }
    }

    /// The peer of a url, if it is known and may have failed, and the path.
    fn peer_of(&self, url: &SubscriberUrl) -> Option<(Arc<Peer>, Arc<str>)> {
        self.0.config.breaker.as_ref()?;
        let endpoint = Endpoint::parse(url).ok()?;
        let peer = self.0.known_peer(endpoint.origin())?;
        Some((peer, endpoint.path_and_query().into()))
    }

    async fn post_now(
        &self,
        target: &Target,
        message_bytes: u64,
        sent: &AtomicU64,
        now: Instant,
        deadline: Instant,
        make: &mut impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Answer, PostError> {
        let usual = self.0.config.timeout(message_bytes);
        let timeout = usual.min(deadline.saturating_duration_since(now));
        let exchange = self.exchange(target, message_bytes, sent, now, make);
        let origin = || target.origin().clone();
        match tokio::time::timeout_at(now + timeout, exchange).await {
            Ok(answer) => answer,
            // Others took most of the time.
            Err(_) if timeout < usual / ENOUGH => Err(PostError::OutOfTime { origin: origin() }),
            Err(_) => Err(PostError::Timeout {
                origin: origin(),
                timeout,
                is_whole: message_bytes <= JOINED_BYTES_MAX as u64
                    || sent.load(Ordering::Relaxed) >= message_bytes,
            }),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        message_bytes: u64,
        sent: &AtomicU64,
        now: Instant,
        make: &mut impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Answer, PostError> {
        let kept = target.peer.kept_connection(now, self.0.config.idle_timeout);
        if let Some((mut kept, idle)) = kept {
            let streamed = prepare(&mut kept, target, make)?;
            let exchange = self.exchange_over(kept, streamed, target, message_bytes, sent);
            match exchange.await {
                Err(NotDone::Broken(broken)) if broken.is_unread(idle) => {
                    self.0.sent_again.fetch_add(1, Ordering::Relaxed);
                }
                done => return done.map_err(|error| error.at(target)),
            }
        }
        // Boxed, so that those that need no connection need no room for it.
        let mut fresh = Box::pin(self.0.connect(&target.peer.origin)).await?;
        let streamed = prepare(&mut fresh, target, make)?;
        let exchange = self.exchange_over(fresh, streamed, target, message_bytes, sent);
        exchange.await.map_err(|error| error.at(target))
    }

    async fn exchange_over(
        &self,
        mut connection: Box<Connection>,
        streamed: Option<Box<PayloadReader>>,
        target: &Target,
        message_bytes: u64,
        sent: &AtomicU64,
    ) -> Result<Answer, NotDone> {
        sent.store(0, Ordering::Relaxed);
        let streamed = streamed.map(|payload| (payload, sent));
        let config = &self.0.config;
        let exchange = connection.exchange(streamed, config.answer_bytes_max);
        let exchanged = if message_bytes > WATCHED_BYTES_MIN {
            let stalled = Box::pin(stalled(sent, message_bytes, config.stall_timeout));
            match futures_util::future::select(Box::pin(exchange), stalled).await {
                Either::Left((exchanged, _)) => exchanged,
                Either::Right(((), _)) => {
                    return Err(NotDone::Stalled(config.stall_timeout));
                }
            }
        } else {
            exchange.await
        };
        let Exchanged {
            status,
            body,
            is_open,
        } = exchanged.map_err(NotDone::Broken)?;
        // Nobody waits for its place.
        let is_to_spare = self.0.connections.available_permits() > 0;
        if is_open && is_to_spare {
            let (idle_max, age_max) = (config.idle_per_peer_max, config.connection_age_max);
            target.peer.keep(connection, idle_max, age_max);
        }
        Ok(Answer { status, body })
    }
}

/// A peer that had this fraction of the usual time and did not answer is to blame for it.
const ENOUGH: u32 = 4;

/// Tells the operator what is new about a peer, or about one of its urls.
fn tell(peer: &Peer, path: Option<&str>, news: Option<News>) {
    let origin = &peer.origin;
    // What follows may be a secret.
    let path = path.map(|path| path.split('?').next().unwrap_or(path));
    match news {
        Some(News::Opened(failures)) => tracing::warn!(
            %origin,
            path,
            failures,
            "circuit breaker opened: deliveries fail again and again; those to come count as missed \
             until one is confirmed"
        ),
        Some(News::Closed) => {
            tracing::info!(%origin, path, "circuit breaker closed: it is delivered to again");
        }
        Some(News::Proven) => {
            peer.proven();
            tracing::debug!(%origin, "confirmed something for the first time");
        }
        None => {}
    }
}

/// How an exchange over one connection ended without an answer.
enum NotDone {
    Broken(Broken),
    Stalled(Duration),
}

impl NotDone {
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

/// What smaller messages need fits into the buffers of both kernels; the deadline is enough.
const WATCHED_BYTES_MIN: u64 = 1024 * 1024;

/// Returns when `sent` has not moved for `timeout` although it is short of `message_bytes`.
async fn stalled(sent: &AtomicU64, message_bytes: u64, timeout: Duration) {
    let mut before = 0;
    loop {
        tokio::time::sleep(timeout).await;
        let now = sent.load(Ordering::Relaxed);
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

/// Puts what `make` makes into the output of a connection, and gives what of it is still to follow.
fn prepare(
    connection: &mut Connection,
    target: &Target,
    make: &mut impl FnMut() -> Result<Post, CannotAuthorize>,
) -> Result<Option<Box<PayloadReader>>, PostError> {
    let post = make()?;
    let streamed =
        write(target, &post, connection.output()).map_err(|source| PostError::Malformed {
            origin: target.origin().clone(),
            source,
        })?;
    Ok(streamed.map(|payload| Box::new(payload.reader())))
}

/// Writes a request into `output`, and gives its payload where that has still to follow.
fn write<'a>(
    target: &Target,
    post: &'a Post,
    output: &mut Vec<u8>,
) -> http::Result<Option<&'a Payload>> {
    let Post {
        authorization,
        repr_digest,
        head,
        payload,
    } = post;
    let joined = match payload {
        None => Some(&[][..]),
        Some(payload) => payload
            .in_memory()
            .map(|bytes| &bytes[..])
            .filter(|bytes| bytes.len() <= JOINED_BYTES_MAX),
    };
    let body_bytes = head.len() as u64 + payload.as_ref().map_or(0, Payload::len);
    output.reserve(HEADERS_BYTES + target.path.len() + head.len() + joined.map_or(0, <[u8]>::len));
    for part in [
        "POST ",
        &target.path,
        " HTTP/1.1\r\nuser-agent: ",
        USER_AGENT,
        "\r\nhost: ",
        &target.peer.host,
        "\r\ncontent-type: application/octet-stream\r\ncontent-length: ",
    ] {
        output.extend_from_slice(part.as_bytes());
    }
    let _ = io::Write::write_fmt(output, format_args!("{body_bytes}"));
    if let Some(authorization) = authorization {
        // Nothing may end the header but we.
        let value = authorization.as_str();
        if value.bytes().any(|byte| byte.is_ascii_control()) {
            HeaderValue::from_str(value)?;
        }
        output.extend_from_slice(b"\r\nauthorization: ");
        output.extend_from_slice(authorization.as_bytes());
    }
    if let Some(digest) = repr_digest {
        output.extend_from_slice(b"\r\nrepr-digest: ");
        output.extend_from_slice(digest.as_bytes());
    }
    output.extend_from_slice(b"\r\n\r\n");
    output.extend_from_slice(head);
    match joined {
        Some(joined) => {
            output.extend_from_slice(joined);
            Ok(None)
        }
        None => Ok(payload.as_ref()),
    }
}

/// What the headers of a request take besides its path, about, in bytes.
const HEADERS_BYTES: usize = 512;

/// Up to this size one copy costs less than a second write.
const JOINED_BYTES_MAX: usize = 16 * 1024;

impl Inner {
    fn peer(&self, endpoint: &Endpoint) -> Arc<Peer> {
        let origin = endpoint.origin();
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.by_origin.get(origin).and_then(Weak::upgrade) {
            return peer;
        }
        if peers.by_origin.len() >= peers.forget_at {
            peers.by_origin.retain(|_, peer| peer.strong_count() > 0);
            peers.forget_at = (peers.by_origin.len() * 2).max(64);
        }
        let config = &self.config;
        let peer = Peer::new(
            endpoint,
            config.in_flight_per_peer_max,
            config.breaker.as_ref(),
        );
        let peer = Arc::new(peer);
        peers
            .by_origin
            .insert(origin.clone(), Arc::downgrade(&peer));
        peer
    }

    fn known_peer(&self, origin: &Origin) -> Option<Arc<Peer>> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.by_origin.get(origin).and_then(Weak::upgrade)
    }

    /// All that somebody refers to.
    fn peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.by_origin.values().filter_map(Weak::upgrade).collect()
    }

    /// Waits at most `timeout` for a turn, at the peer first and for one of all turns then: a
    /// peer that hangs holds no more of these than its own bound.
    async fn turn<'a>(
        &'a self,
        peer: &'a Peer,
        message_bytes: u64,
        timeout: Duration,
    ) -> Result<(Turn<&'a Turns>, SemaphorePermit<'a>), PostError> {
        let turns = peer.turns(message_bytes);
        let in_flight = match is_large(message_bytes) {
            true => &self.large_in_flight,
            false => &self.in_flight,
        };
        if let Some(own) = turns.try_take()
            && let Ok(any) = in_flight.try_acquire()
        {
            return Ok((own, any));
        }
        let waiting = Waiting::join(&peer.waiting);
        if waiting.before >= self.config.waiting_per_peer_max {
            return Err(PostError::Busy {
                origin: peer.origin.clone(),
                waiting: waiting.before,
            });
        }
        let both = async {
            let own = turns.take().await;
            let any = in_flight.acquire().await;
            (own, any.expect("the semaphore is never closed"))
        };
        let turn = tokio::time::timeout(timeout, both).await;
        turn.map_err(|_| self.no_turn(peer, timeout))
    }

    fn no_turn(&self, peer: &Peer, timeout: Duration) -> PostError {
        PostError::NoTurn {
            origin: peer.origin.clone(),
            timeout,
        }
    }

    /// A place for one more connection. If there is none, those that are not used make room.
    async fn connection_place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = self.connections.clone().try_acquire_owned() {
            return place;
        }
        for idle_timeout in [Duration::from_secs(1), Duration::ZERO] {
            for peer in self.peers() {
                peer.close_idle(idle_timeout);
            }
            if let Ok(place) = self.connections.clone().try_acquire_owned() {
                return place;
            }
        }
        let place = self.connections.clone().acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    async fn connect(&self, origin: &Origin) -> Result<Box<Connection>, PostError> {
        let failed = |error| PostError::unconnected(origin, error);
        let connecting = async {
            let place = self.connection_place().await;
            let stream = match self.config.pins.get(&(origin.host.clone(), origin.port)) {
                Some(address) => TcpStream::connect(address).await?,
                None => self.config.egress.connect(origin).await?,
            };
            stream.set_nodelay(true)?;
            match origin.scheme {
                Scheme::Http => Ok(Connection::plain(stream, place)),
                Scheme::Https => {
                    let name = rustls::pki_types::ServerName::try_from(origin.host.clone())
                        .map_err(io::Error::other)?;
                    let stream = self.tls.connector().connect(name, stream).await?;
                    Ok(Connection::tls(stream, place))
                }
            }
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
        tokio::time::sleep(idle_timeout.max(Duration::from_secs(1)) / 2).await;
        let Some(poster) = poster.upgrade() else {
            return;
        };
        for peer in poster.peers() {
            peer.close_idle(idle_timeout);
        }
    }
}
