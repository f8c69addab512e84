//! A peer that is posted to: its connections, and the turns that requests take there.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use httppubsub_proto::url::Origin;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::payload::PayloadBody;

/// All that is shared between requests to one origin.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) origin: Origin,
    pub(crate) turns: Semaphore,
    pub(crate) waiting: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection to a peer. When it is dropped it is cut, whatever is under way on it: nothing of
/// it outlives the exchange that gave it up.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) requests: SendRequest<PostBody>,
    _task: AbortOnDropHandle<()>,
}

pub(crate) async fn hand_over<S>(stream: S) -> io::Result<Connection>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = http1::Builder::new()
        .max_buf_size(CONNECTION_BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let task = tokio::spawn(async move {
        // Whoever waits for an answer over it is told by its own future.
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a connection to a peer ended");
        }
    });
    let _task = AbortOnDropHandle::new(task);
    Ok(Connection { requests, _task })
}

/// Longest head of an answer, and what hyper reads ahead.
const CONNECTION_BUFFER_BYTES_MAX: usize = 64 * 1024;

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
    pub(crate) fn new(origin: &Origin, in_flight_max: usize) -> Self {
        Self {
            origin: origin.clone(),
            turns: Semaphore::new(in_flight_max),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// A connection kept from before, if one is still open: the one used last.
    pub(crate) async fn kept_connection(&self, idle_timeout: Duration) -> Option<Connection> {
        loop {
            let mut kept = self.idle().pop()?;
            if kept.since.elapsed() < idle_timeout && kept.connection.requests.ready().await.is_ok()
            {
                return Some(kept.connection);
            }
        }
    }

    pub(crate) fn keep(&self, connection: Connection, idle_max: usize) {
        let mut idle = self.idle();
        if idle.len() < idle_max && !connection.requests.is_closed() {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Closes the kept connections that have not been used for `idle_timeout`, or that the peer
    /// closed.
    pub(crate) fn close_idle(&self, idle_timeout: Duration) {
        self.idle().retain(|kept| {
            kept.since.elapsed() < idle_timeout && !kept.connection.requests.is_closed()
        });
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a request.
#[derive(Debug)]
pub(crate) enum PostBody {
    Whole(Full<Bytes>),
    Streamed(PayloadBody),
}

impl Body for PostBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Streamed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}
