//! One HTTP/1.1 connection to a peer, for one exchange at a time.
//!
//! Of our own, because it is what a delivery costs: hyper's client wants a task for each
//! connection, two hops between it and the caller for each exchange, and a map of headers each way.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;
use httparse::Status;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf, WriteHalf};
use tokio::net::{TcpStream, tcp};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::either::Either;

use crate::body::payload::{Payload, PayloadReader, blocking};
use crate::egress::dial::Dialed;
use crate::egress::tls::{self, TlsStream};
use crate::outbound::head::{
    Framing, HEAD_BYTES_MAX, HEADERS_MAX, Head, cut_short, invalid, read_head, read_some,
};

/// A connection to a peer. When it is dropped it is cut, whatever is under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Plain or with TLS. It is closed by being dropped.
    stream: Dialed,
    /// Bytes read and not used yet.
    input: BytesMut,
    /// Bytes to be sent first.
    output: Vec<u8>,
    /// For [`Connection::opened`], which bounds how long it is used again.
    opened: Instant,
    /// One of [`PostConfig::connections_max`](crate::outbound::PostConfig::connections_max).
    #[expect(dead_code, reason = "it is there to be given back with the connection")]
    place: OwnedSemaphorePermit,
}

/// The response to a request.
#[derive(Clone, Debug)]
pub struct Response {
    /// Whatever it is; redirects are not followed.
    pub status: StatusCode,
    /// As much of it as is read.
    pub body: Bytes,
}

/// Progress of a request, to be read while it is sent and after it was given up.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// `true` from the moment at which a connection is there to send over.
    has_begun: AtomicBool,
    /// Shared with threads that send from files. Made where something is streamed, so that short
    /// messages need no allocation.
    taken: OnceLock<Arc<AtomicU64>>,
}

impl Progress {
    /// Progress that is counted in `taken`.
    pub(crate) fn counting(taken: &Arc<AtomicU64>) -> Self {
        Self {
            has_begun: AtomicBool::new(false),
            taken: OnceLock::from(taken.clone()),
        }
    }

    /// The request is going to be sent from its beginning over a connection that is there.
    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
        if let Some(taken) = self.taken.get() {
            taken.store(0, Ordering::Relaxed);
        }
    }

    /// The peer cannot have read what was sent.
    pub(crate) fn start_again(&self) {
        self.has_begun.store(false, Ordering::Relaxed);
    }

    /// `true` if the peer may have read something of the request.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Bytes of a streamed payload that the connection took.
    pub(crate) fn taken(&self) -> u64 {
        let taken = self.taken.get();
        taken.map_or(0, |taken| taken.load(Ordering::Relaxed))
    }

    /// The counter, made when it is first needed.
    fn counter(&self) -> &Arc<AtomicU64> {
        self.taken.get_or_init(Arc::default)
    }
}

/// An exchange that broke off.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The error of sending if that failed, otherwise that of reading.
    pub(crate) source: io::Error,
    /// `true` if nothing of an answer had come.
    before_the_answer: bool,
    /// The part of the request that was sent.
    sent: Sent,
    /// `true` if what was sent met a connection that the peer had closed, so that its kernel
    /// refused it.
    is_refused: bool,
    /// Time from the first byte of the request to the break.
    after: Duration,
}

/// The part of a request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// The connection took nothing, or not more than the head of a long message.
    Nothing,
    /// A part of a long message.
    Some,
    /// All of it: the peer may act on it.
    All,
}

/// A connection that was idle for longer than this may be closed by the peer at the very moment at
/// which it is used again (RFC 9110 §9.3.1).
const IDLE_MIN: Duration = Duration::from_secs(1);

/// News of that comes within this time. Longer, and the peer may have read the request and broken
/// off because of it.
const RACE_MAX: Duration = Duration::from_millis(50);

impl Broken {
    /// `true` if the peer had closed the connection, which was unused for `idle`, before it can
    /// have read the request.
    pub(crate) fn is_unread(&self, idle: Duration) -> bool {
        // Servers close idle connections by their own clocks. Without a second attempt every such
        // race would count as a failed delivery, and as a missed message.
        let was_closed = self.sent == Sent::Nothing || self.is_refused;
        let is_race = idle > IDLE_MIN && self.after <= RACE_MAX;
        self.before_the_answer && (was_closed || is_race)
    }

    /// `true` if all of the request was sent.
    pub(crate) fn is_whole(&self) -> bool {
        self.sent == Sent::All
    }
}

/// Bytes kept of a buffer between exchanges.
const KEPT_BYTES: usize = 4 * 1024;

impl Connection {
    /// A connection that nothing was sent over yet, and the place that it takes.
    pub(crate) fn new(stream: Dialed, place: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            place,
            opened: Instant::now(),
            input: BytesMut::new(),
            output: Vec::new(),
        }
    }

    /// The moment at which it was made.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// `true` if the peer has neither closed it nor said something unasked.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        // A look, not a wait: what matters is whether the end of the stream is there already.
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer);
        self.input.is_empty() && read.is_pending()
    }

    /// `true` if the peer's kernel answered what was sent by a reset, after the peer had closed the
    /// connection: nobody was there to read it. One that reads and then closes causes no reset.
    fn is_refused(&self) -> bool {
        let socket = match &self.stream {
            Either::Left(plain) => plain,
            Either::Right(tls) => tls::socket(tls),
        };
        matches!(socket.take_error(), Ok(Some(_)))
    }

    /// Buffer for the beginning of a request: its head, and its body unless that is streamed.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Sends what was put into [`Connection::output`], then `body`, and reads the answer, of whose
    /// body at most `answer_bytes_max` bytes. What the peer has taken of `body` is counted. The
    /// response comes with `true` if everything was sent and read, so that another exchange may
    /// follow.
    ///
    /// Has no deadline: the caller drops it, and the connection with it, when it takes too long. An
    /// exchange that failed leaves bytes on the way, so such a connection is not to be used again.
    pub(crate) async fn exchange(
        &mut self,
        body: Option<Box<PayloadReader>>,
        progress: &Progress,
        answer_bytes_max: usize,
    ) -> Result<(Response, bool), Broken> {
        let began = Instant::now();
        let (sent, answered) = match body {
            None => {
                let sent = send(&mut self.stream, &self.output).await;
                let how_much = if sent.is_ok() {
                    Sent::All
                } else {
                    Sent::Nothing
                };
                let head = read_head(&mut self.stream, &mut self.input);
                (how_much, heard(sent, head).await)
            }
            // Boxed, so that the others need no room for it.
            Some(body) => {
                let (bytes, taken) = (body.payload().len(), progress.counter());
                let answered = Box::pin(self.exchange_streamed(body, taken)).await;
                let sent = match taken.load(Ordering::Relaxed) {
                    taken if taken >= bytes => Sent::All,
                    0 => Sent::Nothing,
                    _ => Sent::Some,
                };
                (sent, answered)
            }
        };
        self.output.clear();
        // A kept connection must not hold the longest message that it ever carried.
        self.output.shrink_to(KEPT_BYTES);
        let is_refused = match &answered {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.is_refused(),
            _ => false,
        };
        let broken = |source, before_the_answer| Broken {
            source,
            before_the_answer,
            sent,
            is_refused,
            after: began.elapsed(),
        };
        let (head, all_sent) = answered.map_err(|error| broken(error, self.input.is_empty()))?;
        let read = self.read_body(head.framing, answer_bytes_max).await;
        let (body, all_read) = read.map_err(|error| broken(error, false))?;
        // Anything left would be taken for the beginning of the next answer.
        let is_open = all_sent && all_read && head.keeps_alive && self.input.is_empty();
        let status = head.status;
        Ok((Response { status, body }, is_open))
    }

    /// The same with a body that is sent in parts while the answer is awaited.
    async fn exchange_streamed(
        &mut self,
        body: Box<PayloadReader>,
        taken: &Arc<AtomicU64>,
    ) -> io::Result<(Head, bool)> {
        let (input, head) = (&mut self.input, &self.output);
        match &mut self.stream {
            Either::Left(plain) => {
                let (reader, writer) = plain.split();
                exchange_over_halves(reader, writer, input, head, body, taken).await
            }
            Either::Right(tls) => {
                let (reader, writer) = tokio::io::split(tls);
                exchange_over_halves(reader, writer, input, head, body, taken).await
            }
        }
    }

    /// The body up to `max` bytes, with `true` if that is all of it and its end is known. What is
    /// longer is not read: the answer is cut there, and the connection given up.
    async fn read_body(&mut self, framing: Framing, max: usize) -> io::Result<(Bytes, bool)> {
        let length = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => return Box::pin(self.read_chunks(max)).await,
            Framing::ToEnd => return Box::pin(self.read_to_end(max)).await,
        };
        let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(max);
        // At most `max`, whatever length the peer announces.
        while self.input.len() < wanted {
            self.fill().await?;
        }
        let body = self.input.split_to(wanted).freeze();
        self.forget_long_input();
        Ok((body, wanted as u64 == length))
    }

    /// A body that ends with the connection, which cannot be used again then.
    async fn read_to_end(&mut self, max: usize) -> io::Result<(Bytes, bool)> {
        let mut body = self.input.split();
        while body.len() <= max && read_some(&mut self.stream, &mut body).await? > 0 {}
        body.truncate(max);
        Ok((body.freeze(), false))
    }

    /// A body in chunks (RFC 9112 §7.1). Extensions and trailers are read and ignored.
    async fn read_chunks(&mut self, max: usize) -> io::Result<(Bytes, bool)> {
        let mut body = BytesMut::new();
        while body.len() <= max {
            let mut left = self.chunk_head().await?;
            if left == 0 {
                self.trailers().await?;
                self.forget_long_input();
                return Ok((body.freeze(), true));
            }
            while left > 0 && body.len() <= max {
                if self.input.is_empty() {
                    self.fill().await?;
                }
                let here = self.input.len();
                let bytes = usize::try_from(left).map_or(here, |left| left.min(here));
                body.extend_from_slice(&self.input.split_to(bytes));
                left -= bytes as u64;
            }
            if left == 0 {
                while self.input.len() < 2 {
                    self.fill().await?;
                }
                // Lengths and bytes do not fit together: what follows cannot be told from an
                // answer.
                if self.input.split_to(2) != "\r\n" {
                    let problem = "a chunk of the answer does not end where it should";
                    return Err(invalid(problem));
                }
            }
        }
        body.truncate(max);
        Ok((body.freeze(), false))
    }

    /// The length of the next chunk, 0 for the last one. Its head is used up.
    async fn chunk_head(&mut self) -> io::Result<u64> {
        loop {
            match httparse::parse_chunk_size(&self.input) {
                Ok(Status::Complete((bytes, length))) => {
                    self.input.advance(bytes);
                    return Ok(length);
                }
                Ok(Status::Partial) if self.input.len() < HEAD_BYTES_MAX => self.fill().await?,
                Ok(Status::Partial) | Err(_) => {
                    return Err(invalid("a chunk of the answer has no length"));
                }
            }
        }
    }

    /// Uses up the trailers and the line that ends them.
    async fn trailers(&mut self) -> io::Result<()> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            match httparse::parse_headers(&self.input, &mut headers) {
                Ok(Status::Complete((bytes, _))) => {
                    self.input.advance(bytes);
                    return Ok(());
                }
                Ok(Status::Partial) if self.input.len() < HEAD_BYTES_MAX => self.fill().await?,
                Ok(Status::Partial) => {
                    return Err(invalid("the trailers of the answer are too long"));
                }
                Err(error) => return Err(invalid(error)),
            }
        }
    }

    /// Reads more; an error if the peer has closed its end.
    async fn fill(&mut self) -> io::Result<()> {
        match read_some(&mut self.stream, &mut self.input).await? {
            0 => Err(cut_short()),
            _ => Ok(()),
        }
    }

    /// Gives back a long buffer once it is used up.
    fn forget_long_input(&mut self) {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = BytesMut::new();
        }
    }
}

/// Sends `bytes`, all of them. The flush is for TLS, which collects.
async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// The half of a connection that is sent to.
trait Outgoing: AsyncWrite + Unpin {
    /// Set if it is a socket, and what is sent goes there as it is.
    fn socket(&self) -> Option<&TcpStream>;
}

impl Outgoing for tcp::WriteHalf<'_> {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self.as_ref())
    }
}

impl Outgoing for WriteHalf<&mut TlsStream> {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// Sends `head` and `body` and reads the head of the answer at the same time, since a peer may
/// refuse a long message before it has read it. `true` if everything was sent.
async fn exchange_over_halves(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl Outgoing,
    input: &mut BytesMut,
    head: &[u8],
    mut body: Box<PayloadReader>,
    taken: &Arc<AtomicU64>,
) -> io::Result<(Head, bool)> {
    let mut answer = std::pin::pin!(read_head(&mut reader, input));
    let sending = async {
        if let Err(error) = send(&mut writer, head).await {
            return Ok::<_, io::Error>(Err(error));
        }
        if let Some(socket) = writer.socket()
            && let Some(sent) = send_file(socket, body.payload(), taken).await?
        {
            return Ok(sent);
        }
        // What cannot be read ends the exchange: the peer waits for it, and would say nothing.
        while let Some(part) = body.part().await? {
            if let Err(error) = send_counting(&mut writer, part, taken).await {
                return Ok(Err(error));
            }
        }
        Ok(writer.flush().await)
    };
    tokio::select! {
        // A peer may answer before it has taken all; the rest is not sent.
        answer = &mut answer => answer.map(|head| (head, false)),
        sent = sending => heard(sent?, answer).await,
    }
}

/// Sends a payload from its file, which the kernel does without a copy for this process. `None` if
/// it cannot; then nothing was sent.
async fn send_file(
    socket: &TcpStream,
    payload: &Payload,
    taken: &Arc<AtomicU64>,
) -> io::Result<Option<io::Result<()>>> {
    // For another thread: the disk may have to be waited for.
    let Ok(own) = socket.as_fd().try_clone_to_owned() else {
        return Ok(None);
    };
    let own = Arc::new(own);
    let mut at = 0;
    while at < payload.len() {
        let (shared, own, counted) = (payload.clone(), own.clone(), taken.clone());
        let filling = blocking(move || {
            let mut sent = 0;
            while sent < AT_ONCE_BYTES && at + (sent as u64) < shared.len() {
                match shared.send_to(&own, at + sent as u64, AT_ONCE_BYTES - sent) {
                    // Counted here: whether a peer stalls is judged while this goes on. Unless the
                    // exchange was given up, since then the count is of another by now.
                    Ok(more) if Arc::strong_count(&own) > 1 => {
                        counted.fetch_add(more as u64, Ordering::Relaxed);
                        sent += more;
                    }
                    Ok(_) => return Err(io::ErrorKind::Interrupted.into()),
                    Err(error) if sent == 0 => return Err(error),
                    // It comes again.
                    Err(_) => break,
                }
            }
            Ok(sent)
        });
        let sent = match filling.await {
            // The next few have most likely been read ahead.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let send = || payload.send_to(socket, at, READ_AHEAD_BYTES);
                let sent = socket.async_io(Interest::WRITABLE, send).await;
                if let Ok(sent) = &sent {
                    taken.fetch_add(*sent as u64, Ordering::Relaxed);
                }
                sent
            }
            sent => sent,
        };
        match sent {
            Ok(sent) => at += sent as u64,
            // Nothing was sent yet, so reading and writing can begin at the start.
            Err(error) if at == 0 && error.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(error) if is_of_the_peer(&error) => return Ok(Some(Err(error))),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Ok(())))
}

/// Long enough that the hop to another thread does not count, in bytes.
const AT_ONCE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes sent from a file on a thread that must not wait long.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// `true` if the socket failed, and not the file.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Sends `part`, and counts in `taken` after each write what the kernel took.
async fn send_counting(
    writer: &mut (impl AsyncWrite + Unpin),
    mut part: Bytes,
    taken: &AtomicU64,
) -> io::Result<()> {
    while !part.is_empty() {
        // Not `write_all`: a peer that takes a little at a time must show in the count.
        let bytes = writer.write(&part).await?;
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        part.advance(bytes);
        taken.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// The head of the answer, and whether everything was sent: a peer may have answered before it
/// broke off.
async fn heard(
    sent: io::Result<()>,
    head: impl Future<Output = io::Result<Head>>,
) -> io::Result<(Head, bool)> {
    match (head.await, sent) {
        (Ok(head), sent) => Ok((head, sent.is_ok())),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}
