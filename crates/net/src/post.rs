//! Posts to peers: bounded connections to each, deadlines over all that a peer could draw out,
//! answers of bounded size, redirects never followed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use httppubsub_proto::auth::CannotAuthorize;
use httppubsub_proto::digest::{Sha512, encode_repr_digest};
use httppubsub_proto::url::{Endpoint, EndpointError, Origin, Scheme, SubscriberUrl};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::egress::{Egress, Forbidden};
use crate::payload::Payload;
use crate::peer::{Connection, Peer, PostBody, Waiting, hand_over};
use crate::tls::Tls;

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
    /// Requests under way at once, to all peers. Default 4096.
    pub in_flight_max: usize,
    /// Requests under way at once to one peer (scheme, host and port). Default 64.
    pub in_flight_per_peer_max: usize,
    /// Requests that wait for their turn at one peer; one more fails at once. Default 10,000.
    pub waiting_per_peer_max: usize,
    /// Connections kept open to one peer while they are not used. Default 64.
    pub idle_per_peer_max: usize,
    /// For how long. Default 30 s.
    pub idle_timeout: Duration,
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
            idle_per_peer_max: 64,
            idle_timeout: Duration::from_secs(30),
            pins: HashMap::new(),
            egress: Egress::default(),
            answer_bytes_max: 132 * 1024,
        }
    }
}

impl PostConfig {
    /// Longest time from the first byte to the end of the answer for a message of this length.
    pub fn timeout(&self, message_bytes: u64) -> Duration {
        let longer = message_bytes.checked_div(self.rate_min).unwrap_or(0);
        self.answer_timeout + Duration::from_secs(longer)
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

/// Why no answer came back. Unless it says otherwise, the peer may have acted on the request.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// No value for the `Authorization` header could be made. Nothing was sent.
    #[error(transparent)]
    Authorize(#[from] CannotAuthorize),
    /// Too many requests wait for this peer. Nothing was sent.
    #[error("{waiting} requests wait for {origin} already")]
    Busy {
        /// The peer.
        origin: Origin,
        /// How many wait.
        waiting: usize,
    },
    /// Others took all the turns for too long. Nothing was sent.
    #[error("no turn at {origin} within {} s", .timeout.as_secs())]
    NoTurn {
        /// The peer.
        origin: Origin,
        /// How long it waited.
        timeout: Duration,
    },
    /// No connection could be made. Nothing was sent.
    #[error("cannot connect to {origin}")]
    Connect {
        /// The peer.
        origin: Origin,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The egress policy forbids it. Nothing was sent.
    #[error("{origin} must not be posted to")]
    Forbidden {
        /// The peer.
        origin: Origin,
        /// Why not.
        #[source]
        source: Forbidden,
    },
    /// The request cannot be put into HTTP. Nothing was sent.
    #[error("the request to {origin} cannot be written")]
    Malformed {
        /// The peer.
        origin: Origin,
        /// Why not.
        #[source]
        source: http::Error,
    },
    /// The exchange broke off.
    #[error("the exchange with {origin} broke off")]
    Broken {
        /// The peer.
        origin: Origin,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// The answer took too long.
    #[error("no whole answer from {origin} within {} s", .timeout.as_secs())]
    Timeout {
        /// The peer.
        origin: Origin,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// The peer stopped taking the message.
    #[error("{origin} took nothing of the message for {} s", .timeout.as_secs())]
    Stalled {
        /// The peer.
        origin: Origin,
        /// For how long.
        timeout: Duration,
    },
}

impl PostError {
    /// No connection to `origin` came about.
    fn unconnected(origin: &Origin, error: io::Error) -> Self {
        let origin = origin.clone();
        match error.downcast() {
            Ok(source) => Self::Forbidden { origin, source },
            Err(source) => Self::Connect { origin, source },
        }
    }

    /// Whether the peer cannot have seen any of the request.
    pub fn nothing_sent(&self) -> bool {
        match self {
            Self::Authorize(_)
            | Self::Busy { .. }
            | Self::NoTurn { .. }
            | Self::Connect { .. }
            | Self::Forbidden { .. }
            | Self::Malformed { .. } => true,
            Self::Broken { .. } | Self::Timeout { .. } | Self::Stalled { .. } => false,
        }
    }
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
    uri: Uri,
    host: HeaderValue,
}

impl Target {
    /// Whom requests go to.
    pub fn origin(&self) -> &Origin {
        &self.peer.origin
    }
}

impl Poster {
    /// A poster with these bounds.
    pub fn new(config: PostConfig) -> Self {
        let inner = Arc::new(Inner {
            in_flight: Semaphore::new(config.in_flight_max),
            tls: Tls::default(),
            peers: Mutex::default(),
            config,
        });
        tokio::spawn(close_idle(
            Arc::downgrade(&inner),
            inner.config.idle_timeout,
        ));
        Self(inner)
    }

    /// The target that `url` names.
    pub fn target(&self, url: &SubscriberUrl) -> Result<Target, EndpointError> {
        self.target_str(url.as_str())
    }

    /// The target that the url spelled `url` names.
    pub fn target_str(&self, url: &str) -> Result<Target, EndpointError> {
        let endpoint = Endpoint::parse_str(url)?;
        let uri = endpoint
            .path_and_query()
            .parse()
            .map_err(|_| EndpointError::Control)?;
        let host = endpoint
            .host_header()
            .parse()
            .map_err(|_| EndpointError::Control)?;
        Ok(Target {
            peer: self.0.peer(endpoint.origin()),
            uri,
            host,
        })
    }

    /// Posts what `make` makes and returns the answer, whatever its status. If a kept connection
    /// turns out to have been closed before any of the answer came, what `make` makes then is
    /// posted over a fresh one: it must be authorized anew. `message_bytes` is the length of the
    /// payload.
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
        let config = &self.0.config;
        let _turn = self.0.turn(&target.peer).await?;
        let timeout = config.timeout(message_bytes);
        let exchange = self.exchange(target, message_bytes, sent, &mut make);
        match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(PostError::Timeout {
                origin: target.origin().clone(),
                timeout,
            }),
        }
    }

    async fn exchange(
        &self,
        target: &Target,
        message_bytes: u64,
        sent: &Arc<AtomicU64>,
        make: &mut impl FnMut() -> Result<Post, CannotAuthorize>,
    ) -> Result<Answer, PostError> {
        if let Some(kept) = target
            .peer
            .kept_connection(self.0.config.idle_timeout)
            .await
        {
            match self
                .exchange_over(kept, target, message_bytes, sent, make()?)
                .await
            {
                Err(PostError::Broken { source, .. }) if broke_before_the_answer(&source) => {}
                done => return done,
            }
        }
        let fresh = self.0.connect(&target.peer.origin).await?;
        self.exchange_over(fresh, target, message_bytes, sent, make()?)
            .await
    }

    async fn exchange_over(
        &self,
        mut connection: Connection,
        target: &Target,
        message_bytes: u64,
        sent: &Arc<AtomicU64>,
        post: Post,
    ) -> Result<Answer, PostError> {
        let origin = || target.origin().clone();
        sent.store(0, Ordering::Relaxed);
        let request = request(target, post, sent).map_err(|source| PostError::Malformed {
            origin: origin(),
            source,
        })?;
        let streamed = matches!(request.body(), PostBody::Streamed(_));
        let broken = |source| PostError::Broken {
            origin: origin(),
            source,
        };
        let exchange = async {
            let response = connection
                .requests
                .send_request(request)
                .await
                .map_err(broken)?;
            let status = response.status();
            let read = read_answer(response.into_body(), self.0.config.answer_bytes_max).await;
            let (body, whole) = read.map_err(broken)?;
            Ok::<_, PostError>((Answer { status, body }, whole))
        };
        let (answer, whole) = if message_bytes > WATCHED_BYTES_MIN {
            let timeout = self.0.config.stall_timeout;
            tokio::select! {
                done = exchange => done?,
                () = stalled(sent, message_bytes, timeout) => {
                    return Err(PostError::Stalled { origin: origin(), timeout });
                }
            }
        } else {
            exchange.await?
        };
        // A peer may answer before it has taken all; nobody else should wait for the rest.
        let all_sent = !streamed || sent.load(Ordering::Relaxed) == message_bytes;
        if whole && all_sent {
            target
                .peer
                .keep(connection, self.0.config.idle_per_peer_max);
        }
        Ok(answer)
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

/// Whether a connection was gone before the peer answered: the peer closed it while it was idle, or
/// broke it off without a word.
fn broke_before_the_answer(error: &hyper::Error) -> bool {
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        return true;
    }
    let source = std::error::Error::source(error).and_then(|it| it.downcast_ref::<io::Error>());
    source.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        )
    })
}

fn request(target: &Target, post: Post, sent: &Arc<AtomicU64>) -> http::Result<Request<PostBody>> {
    let Post {
        authorization,
        repr_digest,
        head,
        payload,
    } = post;
    let body = match payload {
        None => PostBody::Whole(Full::new(head)),
        Some(payload) => match payload.in_memory() {
            Some(bytes) if bytes.len() <= JOINED_BYTES_MAX => {
                let mut joined = BytesMut::with_capacity(head.len() + bytes.len());
                joined.extend_from_slice(&head);
                joined.extend_from_slice(bytes);
                PostBody::Whole(Full::new(joined.freeze()))
            }
            _ => PostBody::Streamed(payload.to_body(head).counting(sent.clone())),
        },
    };
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.uri.clone();
    let headers = request.headers_mut();
    headers.insert(HOST, target.host.clone());
    headers.insert(CONTENT_TYPE, OCTET_STREAM);
    if let Some(authorization) = authorization {
        let mut value = HeaderValue::from_maybe_shared(Bytes::from(authorization))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    if let Some(digest) = repr_digest {
        headers.insert(REPR_DIGEST, digest);
    }
    Ok(request)
}

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// Up to this size one copy costs less than a second write.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// The answer's body up to `bytes_max`, and whether that is all of it.
async fn read_answer(mut body: Incoming, bytes_max: usize) -> hyper::Result<(Bytes, bool)> {
    let mut all = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame?.into_data() else {
            continue;
        };
        if all.is_empty() {
            all = part;
        } else {
            let mut longer = BytesMut::from(all);
            longer.extend_from_slice(&part);
            all = longer.freeze();
        }
        if all.len() > bytes_max {
            all.truncate(bytes_max);
            return Ok((all, false));
        }
    }
    Ok((all, true))
}

impl Inner {
    fn peer(&self, origin: &Origin) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.by_origin.get(origin).and_then(Weak::upgrade) {
            return peer;
        }
        if peers.by_origin.len() >= peers.forget_at {
            peers.by_origin.retain(|_, peer| peer.strong_count() > 0);
            peers.forget_at = (peers.by_origin.len() * 2).max(64);
        }
        let peer = Arc::new(Peer::new(origin, self.config.in_flight_per_peer_max));
        peers
            .by_origin
            .insert(origin.clone(), Arc::downgrade(&peer));
        peer
    }

    /// Waits for a turn at the peer first, and for one of all turns then: a peer that hangs holds
    /// no more of these than its own bound.
    async fn turn<'a>(
        &'a self,
        peer: &'a Peer,
    ) -> Result<(SemaphorePermit<'a>, SemaphorePermit<'a>), PostError> {
        if let (Ok(own), Ok(any)) = (peer.turns.try_acquire(), self.in_flight.try_acquire()) {
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
            let own = peer
                .turns
                .acquire()
                .await
                .expect("the semaphore is never closed");
            (
                own,
                self.in_flight
                    .acquire()
                    .await
                    .expect("the semaphore is never closed"),
            )
        };
        let timeout = self.config.answer_timeout;
        let turn = tokio::time::timeout(timeout, both).await;
        turn.map_err(|_| PostError::NoTurn {
            origin: peer.origin.clone(),
            timeout,
        })
    }

    async fn connect(&self, origin: &Origin) -> Result<Connection, PostError> {
        let failed = |error| PostError::unconnected(origin, error);
        let connecting = async {
            let stream = match self.config.pins.get(&(origin.host.clone(), origin.port)) {
                Some(address) => TcpStream::connect(address).await?,
                None => self.config.egress.connect(origin).await?,
            };
            stream.set_nodelay(true)?;
            match origin.scheme {
                Scheme::Http => hand_over(stream).await,
                Scheme::Https => {
                    let name = rustls::pki_types::ServerName::try_from(origin.host.clone())
                        .map_err(io::Error::other)?;
                    hand_over(self.tls.connector().connect(name, stream).await?).await
                }
            }
        };
        match tokio::time::timeout(self.config.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(failed),
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
        let peers: Vec<_> = {
            let peers = poster.peers.lock().unwrap_or_else(PoisonError::into_inner);
            peers.by_origin.values().filter_map(Weak::upgrade).collect()
        };
        for peer in peers {
            peer.close_idle(idle_timeout);
        }
    }
}
