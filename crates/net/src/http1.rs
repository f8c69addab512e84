//! One HTTP/1.1 connection to a peer, for one exchange at a time.
//!
//! Of our own, because it is what a delivery costs: hyper's client wants a task for each connection,
//! two hops between it and the caller for each exchange, and a map of headers each way.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;
use httparse::{Header, ParserConfig, Response, Status};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf, WriteHalf,
};
use tokio::net::{TcpStream, tcp};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::payload::{Payload, PayloadReader, blocking};

/// A connection to a peer. When it is dropped it is cut, whatever is under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    /// What was read and not used yet.
    input: BytesMut,
    /// What is to be sent first.
    output: Vec<u8>,
    opened: Instant,
    #[expect(dead_code, reason = "it is there to be given back with the connection")]
    place: OwnedSemaphorePermit,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Exchanged {
    pub(crate) status: StatusCode,
    /// As much of it as is read.
    pub(crate) body: Bytes,
    /// Whether everything was sent and read, so that another exchange may follow.
    pub(crate) is_open: bool,
}

/// How an exchange broke off.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) source: io::Error,
    /// Whether nothing of an answer had come.
    before_the_answer: bool,
    /// How much of the request was sent.
    sent: Sent,
    /// Whether what was sent met a connection that the peer had closed, so that its kernel refused it.
    is_refused: bool,
    /// How long after the first byte of the request was sent it broke off.
    after: Duration,
}

/// How much of a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// The connection took nothing, or not more than the head of a long message.
    Nothing,
    Some,
    All,
}

/// A connection that was idle for longer than this may be closed by the peer at the very moment at which
/// it is used again (RFC 9110 §9.3.1).
const IDLE_MIN: Duration = Duration::from_secs(1);

/// News of that comes within this time.
const RACE_MAX: Duration = Duration::from_millis(50);

impl Broken {
    /// Whether the peer had closed the connection, which was idle for so long, before it can have read
    /// the request.
    pub(crate) fn is_unread(&self, idle: Duration) -> bool {
        let was_closed = self.sent == Sent::Nothing || self.is_refused;
        let is_race = idle > IDLE_MIN && self.after <= RACE_MAX;
        self.before_the_answer && (was_closed || is_race)
    }

    /// Whether all of the request was sent.
    pub(crate) fn is_whole(&self) -> bool {
        self.sent == Sent::All
    }
}

/// Longest head of an answer, and longest head of one of its chunks, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How many headers an answer may have.
const HEADERS_MAX: usize = 100;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 4 * 1024;

/// What is kept of a buffer between exchanges, in bytes.
const KEPT_BYTES: usize = 4 * 1024;

impl Connection {
    pub(crate) fn plain(stream: TcpStream, place: OwnedSemaphorePermit) -> Self {
        Self::new(Either::Left(stream), place)
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>, place: OwnedSemaphorePermit) -> Self {
        Self::new(Either::Right(Box::new(stream)), place)
    }

    fn new(
        stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            place,
            opened: Instant::now(),
            input: BytesMut::new(),
            output: Vec::new(),
        }
    }

    /// When it was made.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Whether the peer has neither closed it nor said something unasked.
    pub(crate) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer);
        self.input.is_empty() && read.is_pending()
    }

    /// Whether the peer's kernel answered what was sent by a reset, after the peer had closed the
    /// connection: nobody was there to read it. One that reads and then closes causes no reset.
    fn is_refused(&self) -> bool {
        let socket = match &self.stream {
            Either::Left(plain) => plain,
            Either::Right(tls) => tls.get_ref().0,
        };
        matches!(socket.take_error(), Ok(Some(_)))
    }

    /// Where the beginning of a request is put: its head, and its body unless that is streamed.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Sends what was put into [`Connection::output`], then `body`, and reads the answer, of whose
    /// body so many bytes. What the peer has taken of `body` is counted.
    pub(crate) async fn exchange(
        &mut self,
        body: Option<(Box<PayloadReader>, &AtomicU64)>,
        answer_bytes_max: usize,
    ) -> Result<Exchanged, Broken> {
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
            Some((body, taken)) => {
                let bytes = body.payload().len();
                let answered = Box::pin(self.exchange_streamed(body, taken)).await;
                let sent = match taken.load(Ordering::Relaxed) {
                    0 => Sent::Nothing,
                    taken if taken < bytes => Sent::Some,
                    _ => Sent::All,
                };
                (sent, answered)
            }
        };
        self.output.clear();
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
        Ok(Exchanged {
            status: head.status,
            body,
            is_open: all_sent && all_read && head.keeps_alive && self.input.is_empty(),
        })
    }

    async fn exchange_streamed(
        &mut self,
        body: Box<PayloadReader>,
        taken: &AtomicU64,
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

    /// The body up to so many bytes, and whether that is all of it and where it ends is known.
    async fn read_body(&mut self, framing: Framing, max: usize) -> io::Result<(Bytes, bool)> {
        let length = match framing {
            Framing::Length(length) => length,
            Framing::Chunked => return Box::pin(self.read_chunks(max)).await,
            Framing::ToEnd => return Box::pin(self.read_to_end(max)).await,
        };
        let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(max);
        while self.input.len() < wanted {
            self.fill().await?;
        }
        let body = self.input.split_to(wanted).freeze();
        self.forget_long_input();
        Ok((body, wanted as u64 == length))
    }

    async fn read_to_end(&mut self, max: usize) -> io::Result<(Bytes, bool)> {
        let mut body = self.input.split();
        while body.len() <= max && read_some(&mut self.stream, &mut body).await? > 0 {}
        body.truncate(max);
        Ok((body.freeze(), false))
    }

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
                if self.input.split_to(2) != "\r\n" {
                    let problem = "a chunk of the answer does not end where it should";
                    return Err(invalid(problem));
                }
            }
        }
        body.truncate(max);
        Ok((body.freeze(), false))
    }

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

    async fn fill(&mut self) -> io::Result<()> {
        match read_some(&mut self.stream, &mut self.input).await? {
            0 => Err(cut_short()),
            _ => Ok(()),
        }
    }

    fn forget_long_input(&mut self) {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = BytesMut::new();
        }
    }
}

fn cut_short() -> io::Error {
    let problem = "the peer closed the connection before its answer was whole";
    io::Error::new(io::ErrorKind::UnexpectedEof, problem)
}

fn invalid(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

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

impl Outgoing for WriteHalf<&mut Box<TlsStream<TcpStream>>> {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

async fn exchange_over_halves(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl Outgoing,
    input: &mut BytesMut,
    head: &[u8],
    mut body: Box<PayloadReader>,
    taken: &AtomicU64,
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

/// Sends a payload from its file, which the kernel does without a copy for this process. `None` if it
/// cannot; then nothing was sent.
async fn send_file(
    socket: &TcpStream,
    payload: &Payload,
    taken: &AtomicU64,
) -> io::Result<Option<io::Result<()>>> {
    // For another thread: the disk may have to be waited for.
    let Ok(own) = socket.as_fd().try_clone_to_owned() else {
        return Ok(None);
    };
    let own = Arc::new(own);
    let mut at = 0;
    while at < payload.len() {
        let (shared, own) = (payload.clone(), own.clone());
        let filling = blocking(move || {
            let mut sent = 0;
            while sent < AT_ONCE_BYTES && at + (sent as u64) < shared.len() {
                match shared.send_to(&own, at + sent as u64, AT_ONCE_BYTES - sent) {
                    Ok(more) => sent += more,
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
                socket.async_io(Interest::WRITABLE, send).await
            }
            sent => sent,
        };
        match sent {
            Ok(sent) => {
                at += sent as u64;
                taken.fetch_add(sent as u64, Ordering::Relaxed);
            }
            Err(error) if at == 0 && error.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(error) if is_of_the_peer(&error) => return Ok(Some(Err(error))),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Ok(())))
}

/// Long enough that the hop to another thread does not count, in bytes.
const AT_ONCE_BYTES: usize = 4 * 1024 * 1024;

/// What is sent from a file on a thread that must not wait long, in bytes.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// Whether it was the socket that failed, and not the file.
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

async fn send_counting(
    writer: &mut (impl AsyncWrite + Unpin),
    mut part: Bytes,
    taken: &AtomicU64,
) -> io::Result<()> {
    while !part.is_empty() {
        let bytes = writer.write(&part).await?;
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        part.advance(bytes);
        taken.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// The head of the answer, and whether everything was sent: a peer may have answered before it broke
/// off.
async fn heard(
    sent: io::Result<()>,
    head: impl Future<Output = io::Result<Head>>,
) -> io::Result<(Head, bool)> {
    match (head.await, sent) {
        (Ok(head), sent) => Ok((head, sent.is_ok())),
        (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
    }
}

async fn read_some(
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> io::Result<usize> {
    input.reserve(READ_BYTES);
    reader.read_buf(input).await
}

/// What of the head of an answer matters here.
struct Head {
    status: StatusCode,
    framing: Framing,
    keeps_alive: bool,
}

/// How long the body of an answer is (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    ToEnd,
}

/// The head of the answer; those of interim ones before it are skipped.
async fn read_head(
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> io::Result<Head> {
    loop {
        while let Some((bytes, head)) = parse_head(input)? {
            input.advance(bytes);
            if !head.status.is_informational() {
                return Ok(head);
            }
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(invalid("the peer wants to speak another protocol"));
            }
        }
        if input.len() >= HEAD_BYTES_MAX {
            return Err(invalid("the head of the answer is too long"));
        }
        if read_some(reader, input).await? == 0 {
            return Err(cut_short());
        }
    }
}

fn parse_head(input: &[u8]) -> io::Result<Option<(usize, Head)>> {
    if input.is_empty() {
        return Ok(None);
    }
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, input, &mut headers)
        .map_err(invalid)?;
    let Status::Complete(bytes) = parsed else {
        return Ok(None);
    };
    let status = StatusCode::from_u16(response.code.unwrap_or(0)).map_err(invalid)?;
    let mut length = None;
    let mut chunked = None;
    let mut keeps_alive = response.version == Some(1);
    for Header { name, value } in response.headers {
        if name.eq_ignore_ascii_case("content-length") {
            let said = parse_length(value)?;
            if length.is_some_and(|it| it != said) {
                return Err(invalid("the answer has two lengths"));
            }
            length = Some(said);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            let last = tokens(value).last();
            chunked = Some(last.is_some_and(|it| it.eq_ignore_ascii_case(b"chunked")));
        } else if name.eq_ignore_ascii_case("connection") {
            for token in tokens(value) {
                if token.eq_ignore_ascii_case(b"close") {
                    keeps_alive = false;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    keeps_alive = true;
                }
            }
        }
    }
    let has_no_body = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = match (chunked, length) {
        _ if has_no_body => Framing::Length(0),
        (Some(is_chunked), said) => {
            // With both, somebody on the way may have taken the other for the end.
            keeps_alive &= is_chunked && said.is_none();
            if is_chunked {
                Framing::Chunked
            } else {
                Framing::ToEnd
            }
        }
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::ToEnd,
    };
    let head = Head {
        status,
        framing,
        keeps_alive,
    };
    Ok(Some((bytes, head)))
}

fn parse_length(value: &[u8]) -> io::Result<u64> {
    let digits = std::str::from_utf8(value).ok().map(str::trim);
    let digits = digits.filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|it| it.parse().ok());
    length.ok_or_else(|| invalid("the answer has a length that is none"))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}
