//! Serves HTTP/1.1 to peers that may be slow, silent or many.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use http::header::{CONNECTION, RETRY_AFTER, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use httppubsub_proto::time;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inbound::accept::{Accepted, Acceptor};
use crate::inbound::framing::Framing;
use crate::log_limit::LogLimit;
use crate::party::{AddressKey, Party};
use crate::places::{Doing, Places, Seat};

/// Bounds on connections.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeConfig {
    /// Connections open at once. Default 4096. An address holds at most three times as many as are
    /// left free; further ones from there are answered 503. When there is no place, the
    /// connections that are silent or between two requests make room: the oldest first, of the
    /// address that has most. If all are in use, newcomers wait in the kernel's queue. A quarter as
    /// many refused ones ([`crate::inbound::PLACES_PER_REFUSED`]) are open for a second.
    pub connections_max: usize,
    /// Longest time from a connection's or a request's first byte to the end of its head. Default
    /// 10 s.
    pub head_timeout: Duration,
    /// Longest time between two requests on one connection. Default 75 s, longer than published
    /// clients keep a connection they do not use (15 s), so that it is they who close it.
    pub idle_timeout: Duration,
    /// Longest wait for requests under way when the server is shut down. Default 30 s.
    pub grace: Duration,
    /// The counters of the server.
    pub counts: ServeCounts,
}

impl ServeConfig {
    /// The same with durations that can be added to a moment: more than [`time::FOREVER`] is that.
    pub fn bounded(mut self) -> Self {
        let Self {
            head_timeout,
            idle_timeout,
            grace,
            ..
        } = &mut self;
        time::bound([head_timeout, idle_timeout, grace]);
        self.connections_max = self.connections_max.min(Semaphore::MAX_PERMITS);
        self
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            grace: Duration::from_secs(30),
            counts: ServeCounts::default(),
        }
    }
}

/// Counters of a server, to be read while it serves. Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub struct ServeCounts(Arc<Counts>);

/// Shared by all handles.
#[derive(Debug, Default)]
struct Counts {
    /// Set when serving begins: places know how many are held, evicted and refused.
    places: OnceLock<Places>,
    /// Requests that were answered 400 by their framing.
    malformed: AtomicU64,
    /// Strangers choose how often that happens, and must not fill the log.
    malformed_log: LogLimit,
}

impl ServeCounts {
    /// Connections open.
    pub fn open(&self) -> usize {
        self.0.places.get().map_or(0, Places::held)
    }

    /// Connections closed to make room for others.
    pub fn evicted(&self) -> u64 {
        self.0.places.get().map_or(0, Places::evicted)
    }

    /// Connections answered 503 because their address had too many.
    pub fn refused(&self) -> u64 {
        self.0.places.get().map_or(0, Places::refused)
    }

    /// Requests answered 400 because of their framing.
    pub fn malformed(&self) -> u64 {
        self.0.malformed.load(Ordering::Relaxed)
    }
}

/// The sender of a request: an extension of all that [`serve`] hands to the service.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of the other end.
    pub address: SocketAddr,
    /// The connection, to count for what is taken in its name.
    pub party: Party,
    /// Its place among the connections: see [`Peer::vouched`].
    seat: Arc<Seat>,
}

impl Peer {
    /// An authorization vouches for the request that is answered: its connection is not closed to
    /// make room for others until it is.
    pub fn vouched(&self) {
        self.seat.vouched();
    }

    /// The network that it is counted for: of IPv6 the network. `None` for this machine, where a
    /// proxy may speak for all.
    pub fn network(&self) -> Option<IpAddr> {
        let key = AddressKey::of(self.address.ip());
        (!key.is_loopback()).then(|| key.network())
    }
}

/// Serves `service` to all who connect to `listener`, until `shutdown` is cancelled and then until
/// the requests under way are answered or [`ServeConfig::grace`] is over. Returns how many
/// connections had to be cut off then.
///
/// Each connection has a task of its own. An answer is not bound in time here: the service does
/// that, which knows what it waits for. A connection that is upgraded leaves with its stream, and
/// gives its place back.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    config: ServeConfig,
    shutdown: CancellationToken,
) -> usize
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let config = config.bounded();
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    let places = Places::new(config.connections_max);
    // Of two servers with the same counts, those of the first are seen.
    let _ = config.counts.0.places.set(places.clone());
    let mut acceptor = Acceptor::new(listener, places);
    while let Some(accepted) = shutdown.run_until_cancelled(acceptor.next()).await {
        let connection = connection(accepted, service.clone(), config.clone(), shutdown.clone());
        let abort = abort.clone();
        connections.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = abort.cancelled() => {}
            }
        });
    }
    drop(acceptor);
    connections.close();
    let finished = tokio::time::timeout(config.grace, connections.wait()).await;
    let cut_off = if finished.is_ok() {
        0
    } else {
        connections.len()
    };
    abort.cancel();
    connections.wait().await;
    cut_off
}

/// Serves one connection to its end. Three things end it before that: the deadlines of its seat, an
/// eviction, and a shutdown, which lets a request under way be answered.
async fn connection<S, B>(
    accepted: Accepted,
    service: S,
    config: ServeConfig,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted {
        stream,
        address,
        place,
        serve_at,
    } = accepted;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was lost before it was served");
        return;
    }
    let seat = place.seat().clone();
    if let Some(serve_at) = serve_at {
        tokio::select! {
            () = tokio::time::sleep_until(serve_at) => {}
            () = overdue(&seat, &config) => return,
        }
    }
    let stream = Watched {
        stream,
        seat: seat.clone(),
        framing: Framing::default(),
        poison: None,
        address,
        counts: config.counts.clone(),
    };
    let service = Watching {
        service,
        peer: Peer {
            address,
            party: place.party().clone(),
            seat: seat.clone(),
        },
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        // Who has sent a request whole may say that nothing follows, and wait for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut shutting_down = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return;
            }
            () = overdue(&seat, &config) => {
                // Nothing was asked that is owed an answer.
                return;
            }
            () = shutdown.cancelled(), if !shutting_down => {
                shutting_down = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Holds the longest head of a request that makes sense: its two long fields are in the body. So
/// much may anybody who connects make this process keep.
const READ_BUFFER_BYTES_MAX: usize = 32 * 1024;

/// Returns when what the holder of a seat does has lasted longer than it may, or it is evicted.
async fn overdue(seat: &Seat, config: &ServeConfig) {
    loop {
        let (doing, since) = seat.current();
        let look_again = match doing {
            Doing::Head => since + config.head_timeout,
            Doing::Idle => since + config.idle_timeout,
            // Bodies and answers have deadlines of their own.
            Doing::Asked | Doing::Busy => {
                Instant::now() + config.head_timeout.min(config.idle_timeout)
            }
            Doing::Evicted => return,
        };
        if look_again <= Instant::now() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(look_again) => {}
            () = seat.changed.notified() => {}
        }
    }
}

/// A stream that tells when bytes arrive, and passes on no malformed request.
struct Watched {
    /// Owned here, so that a connection that is evicted is closed by being dropped.
    stream: TcpStream,
    /// Learns when bytes arrive, and says whether the sender is known.
    seat: Arc<Seat>,
    /// Reads along.
    framing: Framing,
    /// Bytes still to be read in place of what is malformed.
    poison: Option<&'static [u8]>,
    /// For the log.
    address: SocketAddr,
    /// For the number of malformed requests.
    counts: ServeCounts,
}

/// Read in place of the first byte that makes a request malformed, this is what no parser takes:
/// the request is answered 400 where its turn is.
const POISON: &[u8] = b"\0\r\n\r\n";

impl Watched {
    /// Reads along what came behind `before` in `buffer`, and puts [`POISON`] in the place of what
    /// no parser must see.
    fn check(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Err((at, malformed)) = self.framing.feed(&buffer.filled()[before..]) else {
            return;
        };
        self.counts.0.malformed.fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.counts.0.malformed_log.pass() {
            let (peer, reason) = (self.address, malformed);
            tracing::warn!(%peer, %reason, held_back, "a request is malformed");
        }
        buffer.set_filled(before + at);
        self.poison = Some(POISON);
        self.pour(buffer);
    }

    /// Puts into `buffer` what fits of the poison, and says whether there is any at all. Behind it
    /// the stream is at its end.
    fn pour(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some(poison) = &mut self.poison else {
            return false;
        };
        let (now, later) = poison.split_at(poison.len().min(buffer.remaining()));
        buffer.put_slice(now);
        *poison = later;
        true
    }
}

/// Bytes read at once of an unknown peer: what is read is kept until it is judged. A body that goes
/// to a file is read by larger pieces once its sender is known.
const UNKNOWN_READ_BYTES_MAX: usize = 12 * 1024;

/// Reads at most [`UNKNOWN_READ_BYTES_MAX`] into a buffer that has more room.
fn poll_read_some(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_read_buf(&mut buffer.limit(UNKNOWN_READ_BYTES_MAX)) {
            Ok(_) => return Poll::Ready(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pour(buffer) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let is_known = self.seat.current().0 == Doing::Busy;
        let read = if is_known || buffer.remaining() <= UNKNOWN_READ_BYTES_MAX {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        } else {
            poll_read_some(&self.stream, cx, buffer)
        };
        if buffer.filled().len() > before {
            self.seat.bytes_arrived();
            self.check(buffer, before);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}

/// A service that tells when a request begins and when its answer is out.
struct Watching<S> {
    /// Gets every request of the connection.
    service: S,
    /// Goes with each of them.
    peer: Peer,
}

impl<S, B> Service<Request<Incoming>> for Watching<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send,
{
    type Response = Response<WatchedBody<B>>;
    type Error = Infallible;
    type Future = WatchedFuture<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let seat = self.peer.seat.clone();
        let asks_for_upgrade = request.headers().contains_key(UPGRADE);
        // Of a connection that is evicted at this moment nothing is begun, since it would be
        // dropped half done.
        let future = seat.enter(Doing::Asked).then(|| {
            request.extensions_mut().insert(self.peer.clone());
            Box::pin(self.service.call(request))
        });
        WatchedFuture {
            future,
            seat,
            asks_for_upgrade,
        }
    }
}

/// The answer to a request, on its way.
struct WatchedFuture<F> {
    /// `None` if the connection was evicted.
    future: Option<Pin<Box<F>>>,
    /// Told by [`Answered`] when the body is out or dropped.
    seat: Arc<Seat>,
    /// `true` if bytes that are not HTTP may follow.
    asks_for_upgrade: bool,
}

impl<F, B> Future for WatchedFuture<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<WatchedBody<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let seat = self.seat.clone();
        let asks_for_upgrade = self.asks_for_upgrade;
        let Some(future) = &mut self.future else {
            let mut response = Response::new(WatchedBody {
                body: None,
                answered: Answered(seat),
            });
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return Poll::Ready(Ok(response));
        };
        future.as_mut().poll(cx).map(|Ok(mut response)| {
            if asks_for_upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                // What follows such a request is not looked at.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response.map(|body| WatchedBody {
                body: Some(body),
                answered: Answered(seat),
            }))
        })
    }
}

/// Tells, when it is dropped, that the next request may come.
struct Answered(Arc<Seat>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.enter(Doing::Idle);
    }
}

/// The body of an answer; with its end the request is over.
struct WatchedBody<B> {
    /// `None` has no bytes.
    body: Option<B>,
    /// Dropped after the last byte was taken, or with a connection that broke.
    #[expect(dead_code, reason = "it is there to be dropped with the body")]
    answered: Answered,
}

impl<B: Body + Unpin> Body for WatchedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(none, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// The status of the answer to a request, and how often the service was called.
    async fn asked(was_evicted: bool) -> (StatusCode, u64) {
        let places = Places::new(1);
        let place = places.enter([192, 0, 2, 1].into()).await.unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        let service = service_fn(move |_: Request<Incoming>| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok(Response::new(Empty::<Bytes>::new())))
        });
        let peer = Peer {
            address: ([192, 0, 2, 1], 1).into(),
            party: place.party().clone(),
            seat: place.seat().clone(),
        };
        if was_evicted {
            tokio::time::advance(Duration::from_secs(1)).await;
            places.make_room();
        }
        let (one, mut other) = tokio::io::duplex(1_024);
        let watching = Watching { service, peer };
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(one), watching);
        let asking = async {
            let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            other.write_all(request).await.unwrap();
            let mut answer = String::new();
            other.read_to_string(&mut answer).await.unwrap();
            let status = answer.split(' ').nth(1).unwrap();
            status.parse().unwrap()
        };
        let (ended, status) = tokio::join!(served, asking);
        ended.unwrap();
        (status, calls.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_begun_for_a_request_of_a_connection_that_was_evicted() {
        assert_eq!(asked(false).await, (StatusCode::OK, 1));
        assert_eq!(asked(true).await, (StatusCode::SERVICE_UNAVAILABLE, 0));
    }
}
