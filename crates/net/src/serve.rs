//! Serves HTTP/1.1 to peers that may be slow, silent or many.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use httppubsub_proto::time;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::party::{AddressKey, Party};

/// Bounds on connections.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Connections open at once; others wait in the kernel's queue. Default 4096.
    pub connections_max: usize,
    /// Longest time from a connection's or a request's first byte to the end of its head. Default
    /// 10 s.
    pub head_timeout: Duration,
    /// Longest time between two requests on one connection. Default 75 s, longer than published
    /// clients keep a connection they do not use (15 s), so that it is they who close it.
    pub idle_timeout: Duration,
    /// Longest wait for requests under way when the server is shut down. Default 30 s.
    pub grace: Duration,
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
        }
    }
}

/// Who sent a request: an extension of all that [`serve`] hands to the service.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of the other end.
    pub address: SocketAddr,
    /// The connection, to count for what is taken in its name.
    pub party: Party,
}

impl Peer {
    /// By what it is told from other addresses: of IPv6 the network. `None` for this machine, where a
    /// proxy may speak for all.
    pub fn network(&self) -> Option<IpAddr> {
        let key = AddressKey::of(self.address.ip());
        (!key.is_loopback()).then(|| key.network())
    }
}

/// Serves `service` to all who connect to `listener`, until `shutdown` is cancelled and then until
/// the requests under way are answered or [`ServeConfig::grace`] is over. Returns how many
/// connections had to be cut off then.
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
    let places = Arc::new(Semaphore::new(config.connections_max));
    while let Some(stream) = accept(&listener, &places, &shutdown).await {
        let (stream, place) = stream;
        let connection = connection(stream, service.clone(), config.clone(), shutdown.clone());
        let abort = abort.clone();
        connections.spawn(async move {
            let _place = place;
            tokio::select! {
                () = connection => {}
                () = abort.cancelled() => {}
            }
        });
    }
    drop(listener);
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

/// The next connection and its place among all; `None` when the server shuts down.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let accepting = async {
        let place = places
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, place),
                // The peer is gone already.
                Err(error) if is_the_connections_own(&error) => {}
                Err(error) => {
                    // Out of file descriptors or memory: those who are served will give some back.
                    tracing::error!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        accepted = accepting => Some(accepted),
    }
}

fn is_the_connections_own(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn connection<S, B>(
    stream: TcpStream,
    service: S,
    config: ServeConfig,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was lost before it was served");
        return;
    }
    let phase = Arc::new(Phases::default());
    let stream = Watched {
        stream,
        phase: phase.clone(),
    };
    let service = Watching {
        service,
        phase: phase.clone(),
        peer: stream.stream.peer_addr().ok().map(|address| Peer {
            address,
            party: Party::address(address.ip()).connection(),
        }),
    };
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
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
            () = phase.overdue(&config) => {
                // Nothing was asked, so nothing is owed an answer.
                return;
            }
            () = shutdown.cancelled(), if !shutting_down => {
                shutting_down = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Holds the longest head of a request that makes sense: its two long fields are in the body.
const READ_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A request's head is arriving, or the first one is awaited.
    Head,
    /// A request is being answered.
    Busy,
    /// The next request is awaited.
    Idle,
}

/// What a connection is doing, and since when.
#[derive(Debug)]
struct Phases {
    now: Mutex<(Phase, Instant)>,
    /// Told when a head begins: that is the one change that brings a deadline nearer.
    head_began: Notify,
}

impl Default for Phases {
    fn default() -> Self {
        Self {
            now: Mutex::new((Phase::Head, Instant::now())),
            head_began: Notify::new(),
        }
    }
}

impl Phases {
    fn enter(&self, phase: Phase) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    fn current(&self) -> (Phase, Instant) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes_arrived(&self) {
        if self.current().0 == Phase::Idle {
            self.enter(Phase::Head);
            self.head_began.notify_one();
        }
    }

    /// Returns when the phase has lasted longer than it may.
    async fn overdue(&self, config: &ServeConfig) {
        loop {
            let (phase, since) = self.current();
            let look_again = match phase {
                Phase::Head => since + config.head_timeout,
                Phase::Idle => since + config.idle_timeout,
                // Bodies and answers have deadlines of their own.
                Phase::Busy => Instant::now() + config.head_timeout.min(config.idle_timeout),
            };
            if look_again <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(look_again) => {}
                () = self.head_began.notified() => {}
            }
        }
    }
}

/// A stream that tells when bytes arrive.
struct Watched {
    stream: TcpStream,
    phase: Arc<Phases>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.phase.bytes_arrived();
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
    service: S,
    phase: Arc<Phases>,
    peer: Option<Peer>,
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
        self.phase.enter(Phase::Busy);
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        WatchedFuture {
            future: Box::pin(self.service.call(request)),
            phase: self.phase.clone(),
        }
    }
}

struct WatchedFuture<F> {
    future: Pin<Box<F>>,
    phase: Arc<Phases>,
}

impl<F, B> Future for WatchedFuture<F>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
{
    type Output = Result<Response<WatchedBody<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let phase = self.phase.clone();
        self.future.as_mut().poll(cx).map(|Ok(response)| {
            Ok(response.map(|body| WatchedBody {
                body,
                answered: Answered(phase),
            }))
        })
    }
}

/// Tells, when it is dropped, that the next request may come.
struct Answered(Arc<Phases>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

struct WatchedBody<B> {
    body: B,
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
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
