//! A websocket with bounds on what it holds and on how long it waits.

use std::collections::VecDeque;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use http::{HeaderValue, StatusCode, header};
use httppubsub_proto::reason::chain;
use httppubsub_proto::session::{Outgoing, OutgoingBody};
use httppubsub_proto::time;
use httppubsub_proto::url::{Endpoint, Scheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, handshake};

use crate::agent::USER_AGENT;
use crate::egress::Egress;
use crate::payload::Payload;
use crate::spool::{Reservation, Spool};
use crate::tls::Tls;

/// Bounds of a websocket.
#[derive(Clone, Debug)]
pub struct SocketConfig {
    /// Longest message that is read, in bytes; a longer one ends the connection with code 1009.
    /// Default 16 MiB.
    pub message_bytes_max: usize,
    /// A ping is sent when nothing came for so long. Default 20 s.
    pub ping_interval: Duration,
    /// The connection is lost when nothing came for so long after a ping. Default 20 s.
    pub pong_timeout: Duration,
    /// The connection is lost when the peer takes none of what waits for it for so long. Default
    /// 15 s.
    pub write_timeout: Duration,
}

impl SocketConfig {
    /// The same with durations that can be added to a moment: more than [`time::FOREVER`] is that.
    pub fn bounded(mut self) -> Self {
        time::bound([
            &mut self.ping_interval,
            &mut self.pong_timeout,
            &mut self.write_timeout,
        ]);
        self
    }
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 * 1024 * 1024,
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(15),
        }
    }
}

/// What happened on a websocket.
#[derive(Debug)]
pub enum SocketEvent {
    /// A binary message came.
    Message(Bytes),
    /// What waited is sent far enough for more: [`Socket::is_writable`] has become true.
    Writable,
    /// The peer has closed, with this code if it gave one. Nothing more comes.
    Closed(Option<u16>),
}

/// How a websocket failed. It is closed as far as can be; nothing more comes.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The connection, or what came over it.
    #[error("the websocket failed: {0}")]
    Broken(String),
    /// A text message.
    #[error("the peer sent a text message")]
    Text,
    /// More than this end reads.
    #[error("the peer sent a message of more than {max} bytes")]
    TooLong {
        /// The bound, in bytes.
        max: usize,
    },
    /// A message of which some is here comes too slowly.
    #[error("the peer sent {bytes} bytes of a message in {within:?}")]
    TooSlow {
        /// How much of it came.
        bytes: u64,
        /// In which time.
        within: Duration,
    },
    /// Frames that carry nothing: empty ones, pings and pongs.
    #[error("the peer sends nothing but frames without content")]
    Idle,
    /// For a message of which some is here there is no memory.
    #[error("there was no memory for a message for {0:?}")]
    NoRoom(Duration),
    /// Nothing came, not even the answer to a ping.
    #[error("the peer answered no ping for {0:?}")]
    Silent(Duration),
    /// The peer does not read.
    #[error("the peer took nothing for {0:?}")]
    NotReading(Duration),
    /// The body of what was to be sent cannot be read.
    #[error("cannot read what is to be sent: {0}")]
    Body(io::Error),
}

/// Why no websocket could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `ws://…` or `wss://…` of a host.
    #[error("{url:?} is not the url of a websocket: {problem}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No connection, or no TLS over it.
    #[error("cannot connect: {}", chain(.0))]
    Connect(io::Error),
    /// The peer does not speak websocket here.
    #[error("the websocket handshake failed: {0}")]
    Handshake(String),
    /// The peer answers as one that does not open a websocket.
    #[error("the websocket handshake failed: the answer is {0}")]
    Refused(StatusCode),
    /// It took too long.
    #[error("no websocket within {0:?}")]
    TooLate(Duration),
}

impl SocketError {
    /// Code of the close frame that tells the peer, where one can.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Text => Some(1003),
            Self::TooSlow { .. } | Self::Idle => Some(1008),
            Self::TooLong { .. } => Some(1009),
            Self::NoRoom(_) => Some(1013),
            Self::Body(_) => Some(1011),
            Self::Broken(_) | Self::Silent(_) | Self::NotReading(_) => None,
        }
    }
}

/// A websocket. It answers pings, sends its own, and gives up on peers that do not answer or do not
/// read; all of that happens inside [`Socket::event`].
pub struct Socket {
    stream: WebSocketStream<Metered>,
    config: SocketConfig,
    /// Frames that wait until those before are sent, and how long they are together, in bytes.
    frames: VecDeque<Message>,
    frames_bytes: usize,
    /// What was handed on since everything was sent, in bytes.
    handed_on: usize,
    flushed: bool,
    /// Whether nobody was told yet that there is room again.
    was_full: bool,
    close_code: Option<u16>,
    /// Whether the library reads no more although the peer may send more.
    is_deaf: bool,
    is_held: bool,
    pinged_at: Option<Instant>,
    /// Since when something waits to be sent.
    stuck_since: Option<Instant>,
    /// The last message, which keeps the library from making the buffer that it came in longer. A
    /// long one has the buffer to itself and is kept until the library has another.
    last: Bytes,
    timer: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What may wait unsent before [`Socket::is_writable`] turns false, in bytes.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// What is handed to the library to be sent together, in bytes, and how long the frames are in which
/// longer messages are sent: what it buffers for a connection once, it keeps.
const HANDED_ON_MAX: usize = 16 * 1024;
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// What is read of a peer that has not shown who it is, in bytes.
const UNTRUSTED_BYTES_MAX: u64 = 64 * 1024;

/// Messages up to this length take no room of their own while they come, in bytes.
const SMALL_BYTES: u64 = FRAME_BYTES_MAX as u64;

/// How long a message waits for memory, and how often that is looked for.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
const ROOM_LOOK: Duration = Duration::from_millis(20);

/// A message of which more than [`SMALL_BYTES`] are announced has to come at this rate, in bytes a
/// second, after a while.
const MESSAGE_RATE_MIN: u64 = 16 * 1024;
const MESSAGE_GRACE: Duration = Duration::from_secs(10);

/// How many frames without content may come at once, and how many more each second.
const IDLE_FRAMES_MAX: u64 = 256;
const IDLE_FRAMES_RATE: u64 = 16;

/// The library allocates so much for each connection at once, in bytes. What is no longer is copied
/// out of it, so that a few bytes that somebody keeps do not keep all of it.
const READ_BUFFER_BYTES: usize = 4 * 1024;

impl Socket {
    /// Opens one at `url` (`ws://…` or `wss://…`, with its path), within `timeout` for connection,
    /// TLS and handshake together.
    pub async fn connect(
        url: &str,
        timeout: Duration,
        config: SocketConfig,
    ) -> Result<Self, ConnectError> {
        let endpoint = endpoint(url)?;
        match tokio::time::timeout(timeout, open(&endpoint, config)).await {
            Ok(opened) => opened,
            Err(_) => Err(ConnectError::TooLate(timeout)),
        }
    }

    /// The server's end of a connection that was upgraded. Until [`Socket::trust`] it reads at most
    /// 64 KiB in all. Must be called inside a tokio runtime.
    pub async fn accepted(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        config: SocketConfig,
    ) -> Self {
        let stream = Metered::accepted(Box::new(stream), &config);
        let settings = Some(settings(&config));
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, settings).await;
        Self::new(stream, config)
    }

    fn new(stream: WebSocketStream<Metered>, config: SocketConfig) -> Self {
        let config = config.bounded();
        let first_look = Instant::now() + config.ping_interval;
        Self {
            stream,
            frames: VecDeque::new(),
            frames_bytes: 0,
            handed_on: 0,
            flushed: true,
            was_full: false,
            close_code: None,
            is_deaf: false,
            is_held: false,
            pinged_at: None,
            stuck_since: None,
            last: Bytes::new(),
            timer: Box::pin(tokio::time::sleep_until(first_look)),
            config,
        }
    }

    /// The peer has shown who it is: from here on only the limits of the configuration hold.
    pub fn trust(&mut self) {
        self.stream.get_mut().read_left = None;
    }

    /// From here on longer messages take room of `spool` while they come; without any, they wait.
    pub fn take_room_of(&mut self, spool: &Spool) {
        self.stream.get_mut().room = Some(spool.reservation());
    }

    /// Whether nothing more is read for now: the peer has to wait, and may be silent meanwhile. What
    /// waits to be sent is sent nevertheless.
    pub fn hold(&mut self, is_held: bool) {
        if self.is_held && !is_held {
            self.stream.get_mut().goes_on();
        }
        self.is_held = is_held;
    }

    /// What happens next. May be dropped at any time without losing anything.
    pub async fn event(&mut self) -> Result<SocketEvent, SocketError> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<SocketEvent, SocketError>> {
        loop {
            self.poll_send(cx)?;
            if self.was_full && self.is_writable() {
                self.was_full = false;
                return Poll::Ready(Ok(SocketEvent::Writable));
            }
            if self.is_held {
                ready!(self.timer.as_mut().poll(cx));
                self.look_at_the_clock()?;
                continue;
            }
            let read = Pin::new(&mut self.stream).poll_next(cx);
            if self.last.len() > FRAME_BYTES_MAX {
                self.last = Bytes::new();
            }
            match read {
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => {
                    self.stream.get_mut().taken();
                    let message = match bytes.len() {
                        ..=READ_BUFFER_BYTES => Bytes::copy_from_slice(&bytes),
                        _ => bytes.clone(),
                    };
                    self.last = bytes;
                    return Poll::Ready(Ok(SocketEvent::Message(message)));
                }
                Poll::Ready(Some(Ok(message))) => {
                    match message {
                        Message::Text(_) => return Poll::Ready(Err(SocketError::Text)),
                        // The library has queued the answer.
                        Message::Ping(_) | Message::Close(None) => self.flushed = false,
                        Message::Close(Some(frame)) => {
                            self.close_code = Some(frame.code.into());
                            self.flushed = false;
                        }
                        Message::Binary(_) | Message::Pong(_) | Message::Frame(_) => {}
                    }
                    continue;
                }
                Poll::Ready(None) => return Poll::Ready(Ok(SocketEvent::Closed(self.close_code))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(error)),
                Poll::Pending => {}
            }
            if self.stream.get_ref().short_of_room_since.is_some() {
                let look = Instant::now() + ROOM_LOOK;
                if look < self.timer.deadline() {
                    self.timer.as_mut().reset(look);
                }
            }
            ready!(self.timer.as_mut().poll(cx));
            self.look_at_the_clock()?;
        }
    }

    /// Sends what waits, as far as the peer takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), SocketError> {
        loop {
            while self.handed_on < HANDED_ON_MAX {
                let Some(frame) = self.frames.pop_front() else {
                    break;
                };
                self.frames_bytes -= frame.len();
                self.hand_on(frame)?;
            }
            if self.flushed {
                return Ok(());
            }
            let flushing = Pin::new(&mut self.stream).poll_flush(cx);
            if flushing.is_pending() {
                if self.stuck_since.is_none() {
                    let now = Instant::now();
                    self.stuck_since = Some(now);
                    let look = now + self.config.write_timeout;
                    if look < self.timer.deadline() {
                        self.timer.as_mut().reset(look);
                        // The timer must know whom to wake.
                        let _ = self.timer.as_mut().poll(cx);
                    }
                }
                return Ok(());
            }
            self.flushed = true;
            self.handed_on = 0;
            self.stuck_since = None;
            if let Poll::Ready(Err(_)) = flushing {
                // Whatever it is, reading says it as well, after what was still received.
                self.frames.clear();
                self.frames_bytes = 0;
            }
        }
    }

    fn hand_on(&mut self, message: Message) -> Result<(), SocketError> {
        self.handed_on += message.len();
        self.flushed = false;
        match Pin::new(&mut self.stream).start_send(message) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
            // The peer has closed: reading says so.
            Err(Error::Protocol(ProtocolError::SendAfterClosing)) | Err(Error::Io(_)) => Ok(()),
            Err(error) => Err(SocketError::Broken(error.to_string())),
        }
    }

    fn look_at_the_clock(&mut self) -> Result<(), SocketError> {
        let now = Instant::now();
        let Metered {
            heard_at,
            taken_at,
            short_of_room_since,
            ..
        } = *self.stream.get_ref();
        if let Some(since) = short_of_room_since.filter(|since| *since + ROOM_TIMEOUT <= now) {
            return Err(SocketError::NoRoom(now - since));
        }
        let waits = self.is_held || short_of_room_since.is_some();
        if let Some((bytes, within)) = self.stream.get_ref().comes_too_slowly(now)
            && !waits
        {
            return Err(SocketError::TooSlow { bytes, within });
        }
        let heard_at = if waits { now } else { heard_at };
        let mut look = match self.pinged_at.filter(|at| *at > heard_at) {
            Some(at) if at + self.config.pong_timeout <= now => {
                return Err(SocketError::Silent(now - heard_at));
            }
            Some(at) => at + self.config.pong_timeout,
            None if heard_at + self.config.ping_interval <= now => {
                self.pinged_at = Some(now);
                self.hand_on(Message::Ping(Bytes::new()))?;
                now + self.config.pong_timeout
            }
            None => heard_at + self.config.ping_interval,
        };
        if let Some(since) = self.stuck_since {
            let since = since.max(taken_at);
            if since + self.config.write_timeout <= now {
                return Err(SocketError::NotReading(now - since));
            }
            look = look.min(since + self.config.write_timeout);
        }
        self.timer.as_mut().reset(look);
        Ok(())
    }

    fn failed(&mut self, error: Error) -> Result<SocketEvent, SocketError> {
        self.is_deaf = true;
        if self.stream.get_ref().is_idle() {
            return Err(SocketError::Idle);
        }
        if self.stream.get_ref().is_too_much {
            let max = usize::try_from(UNTRUSTED_BYTES_MAX).unwrap_or(usize::MAX);
            return Err(SocketError::TooLong { max });
        }
        match error {
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Ok(SocketEvent::Closed(self.close_code))
            }
            Error::Capacity(CapacityError::MessageTooLong { .. }) => Err(SocketError::TooLong {
                max: self.config.message_bytes_max,
            }),
            Error::Utf8(_) => Err(SocketError::Text),
            error => Err(SocketError::Broken(error.to_string())),
        }
    }

    /// Whether little enough waits to be sent that more may be added.
    pub fn is_writable(&self) -> bool {
        self.handed_on + self.frames_bytes < WAITING_BYTES_MAX
    }

    /// When the peer last took something of what is sent.
    pub fn taken_at(&self) -> Instant {
        self.stream.get_ref().taken_at
    }

    /// Adds a message to what waits to be sent, reading the part of the body it names. It is sent
    /// inside [`Socket::event`], together with what else was added since.
    pub async fn send(&mut self, message: Outgoing<Payload>) -> Result<(), SocketError> {
        let Outgoing { head, body } = message;
        let body = match body {
            OutgoingBody::Empty => Bytes::new(),
            OutgoingBody::Bytes(bytes) => bytes,
            OutgoingBody::Part { of, range } => {
                of.read_range(range).await.map_err(SocketError::Body)?
            }
        };
        self.add(head, body)?;
        self.was_full = !self.is_writable();
        Ok(())
    }

    fn add(&mut self, head: Bytes, body: Bytes) -> Result<(), SocketError> {
        if head.len() + body.len() <= FRAME_BYTES_MAX {
            let bytes = match body.len() {
                0 => head,
                _ => [&head[..], &body].concat().into(),
            };
            return self.push(Message::Binary(bytes));
        }
        let mut opcode = OpCode::Data(Data::Binary);
        let mut rest = [head, body]
            .into_iter()
            .filter(|it| !it.is_empty())
            .peekable();
        while let Some(mut bytes) = rest.next() {
            while !bytes.is_empty() {
                let part = bytes.split_to(bytes.len().min(FRAME_BYTES_MAX));
                let is_last = bytes.is_empty() && rest.peek().is_none();
                self.push(Message::Frame(Frame::message(part, opcode, is_last)))?;
                opcode = OpCode::Data(Data::Continue);
            }
        }
        Ok(())
    }

    /// In the order of the calls.
    fn push(&mut self, message: Message) -> Result<(), SocketError> {
        if self.frames.is_empty() && self.handed_on < HANDED_ON_MAX {
            return self.hand_on(message);
        }
        self.frames_bytes += message.len();
        self.frames.push_back(message);
        Ok(())
    }

    /// Sends what waits and a close frame with this code, and waits at most `timeout` for the peer
    /// to close as well.
    pub async fn close(mut self, code: u16, timeout: Duration) {
        let frame = CloseFrame {
            code: code.into(),
            reason: "".into(),
        };
        let closing = async {
            self.push(Message::Close(Some(frame)))?;
            while let Ok(SocketEvent::Message(_) | SocketEvent::Writable) | Err(SocketError::Text) =
                self.event().await
            {}
            if self.is_deaf {
                std::future::poll_fn(|cx| self.poll_see_off(cx)).await?;
            }
            Ok::<_, SocketError>(())
        };
        // A peer that does not close is left.
        let _ = tokio::time::timeout(timeout, closing).await;
    }

    /// Sends what waits while whatever comes is thrown away, until the peer has closed: a connection
    /// that is dropped before its end was read may take the close frame with it.
    fn poll_see_off(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.poll_send(cx)?;
        let is_sent = self.flushed && self.frames.is_empty();
        let stream = self.stream.get_mut();
        if is_sent {
            let _ = Pin::new(&mut *stream).poll_shutdown(cx);
        }
        stream.poll_discard(cx).map(Ok)
    }
}

/// Whom a url of a websocket means.
fn endpoint(url: &str) -> Result<Endpoint, ConnectError> {
    let wrong = |problem: String| ConnectError::Url {
        url: url.to_owned(),
        problem,
    };
    let as_http = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => format!("http://{rest}"),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => format!("https://{rest}"),
        _ => return Err(wrong("it begins with neither ws:// nor wss://".to_owned())),
    };
    if url.contains('#') {
        return Err(wrong("it has a fragment".to_owned()));
    }
    Endpoint::parse_str(&as_http).map_err(|error| wrong(error.to_string()))
}

async fn open(endpoint: &Endpoint, config: SocketConfig) -> Result<Socket, ConnectError> {
    static TLS: OnceLock<Tls> = OnceLock::new();
    let origin = endpoint.origin();
    let stream = Egress::anything().connect(origin).await;
    let stream = stream.map_err(ConnectError::Connect)?;
    stream.set_nodelay(true).map_err(ConnectError::Connect)?;
    let stream: Box<dyn Connection> = match origin.scheme {
        Scheme::Http => Box::new(stream),
        Scheme::Https => {
            let name = rustls::pki_types::ServerName::try_from(origin.host.clone());
            let name = name.map_err(|error| ConnectError::Connect(io::Error::other(error)))?;
            let connector = TLS.get_or_init(Tls::default).connector();
            let stream = connector.connect(name, stream).await;
            Box::new(stream.map_err(ConnectError::Connect)?)
        }
    };
    let stream = Metered::connected(stream);
    let settings = Some(settings(&config));
    let scheme = match origin.scheme {
        Scheme::Http => "ws",
        Scheme::Https => "wss",
    };
    let (host, path) = (endpoint.host_header(), endpoint.path_and_query());
    let url = format!("{scheme}://{host}{path}");
    let failed = |error: Error| ConnectError::Handshake(error.to_string());
    let mut request = url.into_client_request().map_err(failed)?;
    let agent = HeaderValue::from_static(USER_AGENT);
    request.headers_mut().insert(header::USER_AGENT, agent);
    match tokio_tungstenite::client_async_with_config(request, stream, settings).await {
        Ok((stream, _)) => Ok(Socket::new(stream, config)),
        Err(Error::Http(response)) => Err(ConnectError::Refused(response.status())),
        Err(error) => Err(failed(error)),
    }
}

fn settings(config: &SocketConfig) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(HANDED_ON_MAX)
        // Far more than is ever handed on; answers to pings come on top.
        .max_write_buffer_size(8 * (HANDED_ON_MAX + FRAME_BYTES_MAX))
        .max_message_size(Some(config.message_bytes_max))
        .max_frame_size(Some(config.message_bytes_max))
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A connection that knows when something went over it.
struct Metered {
    inner: Box<dyn Connection>,
    /// How much may still be read.
    read_left: Option<u64>,
    /// Whether more came than might be read.
    is_too_much: bool,
    /// When something came, or when room was made for what waited to be sent.
    heard_at: Instant,
    /// When something was taken of what is sent.
    taken_at: Instant,
    is_full: bool,
    /// Where in the frames of the peer the reading is, if what is read are frames only.
    frames: Option<FrameHeads>,
    /// Read already, and kept back.
    ahead: Bytes,
    /// What the unfinished message takes, if that is counted.
    room: Option<Reservation>,
    message_bytes_max: u64,
    short_of_room_since: Option<Instant>,
    /// Since when a long message comes, as far as only its peer is to blame.
    comes_since: Option<Instant>,
}

impl Metered {
    /// Of a client, which reads an answer to its handshake first.
    fn connected(inner: Box<dyn Connection>) -> Self {
        let now = Instant::now();
        Self {
            inner,
            read_left: None,
            is_too_much: false,
            heard_at: now,
            taken_at: now,
            is_full: false,
            frames: None,
            ahead: Bytes::new(),
            room: None,
            message_bytes_max: u64::MAX,
            short_of_room_since: None,
            comes_since: None,
        }
    }

    /// Of a server, which trusts nobody yet.
    fn accepted(inner: Box<dyn Connection>, config: &SocketConfig) -> Self {
        Self {
            read_left: Some(UNTRUSTED_BYTES_MAX),
            frames: Some(FrameHeads::new(Instant::now())),
            message_bytes_max: config.message_bytes_max as u64,
            ..Self::connected(inner)
        }
    }

    /// Whether there is room for what has been announced of the message that comes. Parts of it may
    /// be short, and many: twice as much is taken each time.
    fn has_room(&mut self) -> bool {
        let (Some(frames), Some(room)) = (&self.frames, &mut self.room) else {
            return true;
        };
        let wanted = frames.message_bytes;
        // The library refuses more.
        if wanted <= SMALL_BYTES.max(room.bytes()) || wanted > self.message_bytes_max {
            return true;
        }
        let wanted = wanted.max((2 * room.bytes()).min(self.message_bytes_max));
        if room.grow(wanted - room.bytes()).is_err() {
            self.short_of_room_since.get_or_insert_with(Instant::now);
            return false;
        }
        if self.comes_since.is_none() || self.short_of_room_since.is_some() {
            self.goes_on();
        }
        self.short_of_room_since = None;
        true
    }

    /// What the peer does not do counts from now on.
    fn goes_on(&mut self) {
        self.heard_at = Instant::now();
        self.comes_since = Some(self.heard_at);
    }

    /// The message is in other hands.
    fn taken(&mut self) {
        if let Some(room) = &mut self.room {
            room.shrink_to(0);
        }
        self.comes_since = None;
    }

    /// How much has come of a long message and in which time, if that is too long.
    fn comes_too_slowly(&self, now: Instant) -> Option<(u64, Duration)> {
        let frames = self.frames.as_ref()?;
        let bytes = frames.message_bytes.saturating_sub(frames.payload_left);
        let within = now - self.comes_since?;
        let allowed = MESSAGE_GRACE + Duration::from_secs(bytes / MESSAGE_RATE_MIN);
        (frames.message_bytes > SMALL_BYTES && within > allowed).then_some((bytes, within))
    }

    fn is_idle(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| frames.are_idle)
    }

    /// Reads what comes, as far as that is allowed at all, for nobody; ready at its end.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.frames = None;
        let mut scratch = [0; READ_BUFFER_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *self).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn sent<T>(&mut self, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &sent {
            Poll::Ready(Ok(_)) => {
                self.taken_at = Instant::now();
                if self.is_full {
                    // Only the peer can have made room.
                    self.heard_at = self.taken_at;
                }
                self.is_full = false;
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.is_full = true,
        }
        sent
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever waits for room looks again by itself.
        if !self.has_room() {
            return Poll::Pending;
        }
        if !self.ahead.is_empty() {
            let bytes = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
        let too_much = Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        if self.is_too_much || self.is_idle() {
            return too_much;
        }
        let room = buffer.initialize_unfilled();
        let left = self.read_left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        // One more, to see whether there is more.
        let end = room.len().min(left.saturating_add(1));
        let mut part = ReadBuf::new(&mut room[..end]);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let mut bytes = part.filled().len();
        if bytes > 0 {
            self.heard_at = Instant::now();
        }
        if bytes > left {
            self.is_too_much = true;
            bytes = left;
        }
        if bytes == 0 && self.is_too_much {
            return too_much;
        }
        if let Some(left) = &mut self.read_left {
            *left -= bytes as u64;
        }
        let read = &room[..bytes];
        if let Some(begin) = self.frames.as_mut().and_then(|it| it.long_payload_in(read)) {
            self.ahead = Bytes::copy_from_slice(&read[begin..]);
            bytes = begin;
        }
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.sent(sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.inner).poll_flush(cx);
        self.sent(sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Follows the frames in what is read, and finds where long ones begin. The library makes its buffer as
/// long as a frame and then keeps it, unless the frame has it to itself: so nothing of the payload may
/// come together with the head, and nothing does come behind it.
struct FrameHeads {
    head: Vec<u8>,
    payload_left: u64,
    /// Length of the frames of the message that comes, the present one included, in bytes.
    message_bytes: u64,
    /// Whether the present frame is its last.
    is_last: bool,
    /// How many frames without content may come, and since when that is so.
    idle_left: u64,
    idle_since: Instant,
    /// Whether more came.
    are_idle: bool,
}

impl FrameHeads {
    fn new(now: Instant) -> Self {
        Self {
            head: Vec::new(),
            payload_left: 0,
            message_bytes: 0,
            is_last: false,
            idle_left: IDLE_FRAMES_MAX,
            idle_since: now,
            are_idle: false,
        }
    }

    /// Where the payload of the first long frame begins in these next bytes. What follows belongs to
    /// that payload.
    fn long_payload_in(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let here = (bytes.len() - at) as u64;
            let skipped = self.payload_left.min(here);
            self.payload_left -= skipped;
            if self.payload_left == 0 && self.is_last {
                self.message_bytes = 0;
                self.is_last = false;
            }
            if skipped == here {
                return None;
            }
            at += usize::try_from(skipped).ok()?;
            self.head.push(bytes[at]);
            at += 1;
            match FrameHeader::parse(&mut Cursor::new(&self.head)) {
                Ok(None) => continue,
                Ok(Some((header, length))) => self.begins(&header, length),
                // The library refuses it as well, and reads no more.
                Err(_) => self.payload_left = u64::MAX,
            }
            self.head.clear();
            if self.payload_left > FRAME_BYTES_MAX as u64 {
                self.payload_left -= (bytes.len() - at) as u64;
                return Some(at);
            }
        }
    }

    fn begins(&mut self, header: &FrameHeader, length: u64) {
        self.payload_left = length;
        let is_data = matches!(header.opcode, OpCode::Data(_));
        if is_data {
            self.message_bytes = self.message_bytes.saturating_add(length);
            self.is_last = header.is_final;
        }
        if is_data && length > 0 {
            return;
        }
        if self.idle_left == 0 {
            let now = Instant::now();
            let seconds = (now - self.idle_since).as_secs();
            self.idle_left = (seconds * IDLE_FRAMES_RATE).min(IDLE_FRAMES_MAX);
            self.idle_since = now;
        }
        match self.idle_left {
            0 => self.are_idle = true,
            _ => self.idle_left -= 1,
        }
    }
}

/// The value of `Sec-WebSocket-Accept` for this value of `Sec-WebSocket-Key`.
pub fn accept_key(key: &[u8]) -> String {
    handshake::derive_accept_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's end, and a client's.
    async fn pair(server: SocketConfig, client: SocketConfig, bytes: usize) -> (Socket, Socket) {
        let (one, other) = tokio::io::duplex(bytes);
        let mut accepted = Socket::accepted(one, server).await;
        accepted.trust();
        let stream = Metered::connected(Box::new(other));
        let config = Some(settings(&client));
        let stream = WebSocketStream::from_raw_socket(stream, Role::Client, config).await;
        (accepted, Socket::new(stream, client))
    }

    fn small() -> SocketConfig {
        SocketConfig {
            message_bytes_max: 1_000,
            ..SocketConfig::default()
        }
    }

    fn message(head: impl Into<Bytes>) -> Outgoing<Payload> {
        Outgoing {
            head: head.into(),
            body: OutgoingBody::Empty,
        }
    }

    async fn next(socket: &mut Socket) -> Bytes {
        loop {
            match socket.event().await.unwrap() {
                SocketEvent::Message(message) => return message,
                SocketEvent::Writable => {}
                SocketEvent::Closed(code) => panic!("closed with {code:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pings_keep_a_connection_that_says_nothing() {
        let config = SocketConfig::default();
        let (mut server, mut client) = pair(config.clone(), config, 1_024).await;
        tokio::select! {
            event = server.event() => panic!("{event:?}"),
            event = client.event() => panic!("{event:?}"),
            () = tokio::time::sleep(Duration::from_secs(3_600)) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_no_ping_is_given_up() {
        let (stream, silent) = tokio::io::duplex(1_024);
        let mut server = Socket::accepted(stream, SocketConfig::default()).await;
        let began = Instant::now();
        let error = server.event().await.unwrap_err();
        assert!(matches!(error, SocketError::Silent(_)), "{error}");
        assert_eq!(began.elapsed().as_secs(), 40);
        drop(silent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_is_held_reads_nothing_sends_and_gives_nobody_up_for_being_silent() {
        let (config, hour) = (SocketConfig::default(), Duration::from_secs(3_600));
        let (mut server, mut client) = pair(config.clone(), config, 1_024).await;
        client.send(message("up")).await.unwrap();
        server.send(message("down")).await.unwrap();
        server.hold(true);
        let down = async {
            tokio::select! {
                event = server.event() => panic!("{event:?}"),
                message = next(&mut client) => message,
            }
        };
        assert_eq!(down.await, "down");
        let held = tokio::time::timeout(hour, server.event()).await;
        assert!(held.is_err(), "{held:?}");
        server.hold(false);
        assert_eq!(next(&mut server).await, "up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (stream, deaf) = tokio::io::duplex(1_024);
        let mut server = Socket::accepted(stream, SocketConfig::default()).await;
        server.send(message(vec![0; 10_000])).await.unwrap();
        let began = Instant::now();
        let error = server.event().await.unwrap_err();
        assert!(matches!(error, SocketError::NotReading(_)), "{error}");
        assert_eq!(began.elapsed().as_secs(), 15);
        drop(deaf);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_is_given_up_from_then_on() {
        use tokio::io::AsyncReadExt as _;
        let (stream, mut peer) = tokio::io::duplex(1_024);
        let mut server = Socket::accepted(stream, SocketConfig::default()).await;
        server.send(message(vec![0; 10_000])).await.unwrap();
        let began = Instant::now();
        let reading = async {
            tokio::time::sleep(Duration::from_secs(14)).await;
            peer.read_exact(&mut [0; 1_024]).await.unwrap();
            std::future::pending().await
        };
        let error = tokio::select! {
            event = server.event() => event.unwrap_err(),
            () = reading => unreachable!(),
        };
        assert!(matches!(error, SocketError::NotReading(_)), "{error}");
        assert_eq!(began.elapsed().as_secs(), 14 + 15);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_gets_all_of_it() {
        use tokio::io::AsyncReadExt as _;
        let (stream, mut slow) = tokio::io::duplex(1_024);
        let mut server = Socket::accepted(stream, SocketConfig::default()).await;
        server.send(message(vec![0; 30_000])).await.unwrap();
        let reading = async {
            let mut read = 0;
            while read < 30_000 {
                tokio::time::sleep(Duration::from_secs(5)).await;
                let mut buffer = [0; 512];
                read += slow.read(&mut buffer).await.unwrap();
            }
        };
        tokio::select! {
            event = server.event() => panic!("{event:?}"),
            () = reading => {}
        }
    }

    #[tokio::test]
    async fn what_is_longer_than_allowed_is_not_read() {
        let (mut server, mut client) = pair(small(), SocketConfig::default(), 65_536).await;
        client.send(message(vec![0; 1_000])).await.unwrap();
        let reading = async {
            tokio::select! {
                message = next(&mut server) => message,
                event = client.event() => panic!("{event:?}"),
            }
        };
        assert_eq!(reading.await.len(), 1_000);
        client.send(message(vec![0; 1_001])).await.unwrap();
        let refused = async {
            tokio::select! {
                event = server.event() => event,
                event = client.event() => panic!("{event:?}"),
            }
        };
        let error = refused.await.unwrap_err();
        assert!(
            matches!(error, SocketError::TooLong { max: 1_000 }),
            "{error}"
        );
        assert_eq!(error.close_code(), Some(1009));
    }

    #[tokio::test]
    async fn a_peer_that_is_not_trusted_sends_no_more_than_64_kib() {
        let (one, other) = tokio::io::duplex(1 << 20);
        let config = SocketConfig::default();
        let mut server = Socket::accepted(one, config.clone()).await;
        let stream = Metered::connected(Box::new(other));
        let settings = Some(settings(&config));
        let stream = WebSocketStream::from_raw_socket(stream, Role::Client, settings).await;
        let mut client = Socket::new(stream, config);
        for _ in 0..70 {
            client.send(message(vec![0; 1_000])).await.unwrap();
            // What fits is sent at once.
            tokio::select! {
                biased;
                event = client.event() => assert!(matches!(event, Ok(SocketEvent::Writable))),
                () = std::future::ready(()) => {}
            }
        }
        let mut messages = 0;
        let error = loop {
            match server.event().await {
                Ok(_) => messages += 1,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, SocketError::TooLong { max: 65_536 }),
            "{error}"
        );
        assert!((60..=65).contains(&messages), "{messages}");
    }

    #[tokio::test(start_paused = true)]
    async fn exactly_64_kib_are_read_of_a_peer_that_is_not_trusted() {
        use tokio::io::AsyncWriteExt as _;
        // A masked frame with its length in two bytes, that many times.
        let frame = [&[0x82, 0xfe, 0x07, 0xf8, 0, 0, 0, 0][..], &[7; 2_040]].concat();
        for more in [false, true] {
            let (stream, mut peer) = tokio::io::duplex(1 << 20);
            let mut server = Socket::accepted(stream, SocketConfig::default()).await;
            peer.write_all(&frame.repeat(32)).await.unwrap();
            if more {
                peer.write_all(&[0x82]).await.unwrap();
            }
            for _ in 0..32 {
                assert_eq!(next(&mut server).await, vec![7; 2_040]);
            }
            let error = server.event().await.unwrap_err();
            match more {
                true => assert!(matches!(error, SocketError::TooLong { max: 65_536 })),
                false => assert!(matches!(error, SocketError::Silent(_)), "{error}"),
            }
        }
    }

    /// A server's end, and a peer that writes frames by hand.
    async fn by_hand(config: SocketConfig) -> (Socket, tokio::io::DuplexStream) {
        let (stream, peer) = tokio::io::duplex(64 * 1024);
        let mut server = Socket::accepted(stream, config).await;
        server.trust();
        (server, peer)
    }

    /// How a server ends that is sent `begins`, and then `goes_on` again and again.
    async fn flooded(begins: &[u8], goes_on: &[u8]) -> SocketError {
        use tokio::io::AsyncWriteExt as _;
        let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
        peer.write_all(begins).await.unwrap();
        let flooding = async {
            loop {
                peer.write_all(goes_on).await.unwrap();
            }
        };
        tokio::select! {
            biased;
            event = server.event() => event.unwrap_err(),
            () = flooding => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn empty_frames_and_pings_without_end_end_the_websocket() {
        use tokio::io::AsyncWriteExt as _;
        // Masked with nothing: a message that begins and goes on with nothing; pings; pongs.
        for (begins, goes_on) in [
            (&b"\x02\x81\0\0\0\0x"[..], b"\x00\x80\0\0\0\0"),
            (b"", b"\x89\x80\0\0\0\0"),
            (b"", b"\x8a\x80\0\0\0\0"),
        ] {
            let ended = flooded(begins, goes_on).await;
            assert!(matches!(ended, SocketError::Idle), "{ended}");
        }
        // As many as ever are needed, at a time.
        let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
        let pinging = async {
            for _ in 0..10 * IDLE_FRAMES_MAX {
                peer.write_all(b"\x8a\x80\0\0\0\0").await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            event = server.event() => panic!("{event:?}"),
            () = pinging => {}
        }
    }

    fn spool(bytes: u64) -> Spool {
        Spool::new(crate::spool::SpoolConfig {
            memory_total_max: bytes,
            ..Default::default()
        })
    }

    /// The head of a frame that is all of a message of `bytes` bytes.
    fn frame_head(bytes: u64) -> Vec<u8> {
        [&b"\x82\xff"[..], &bytes.to_be_bytes(), &[0; 4]].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn memory_beside_a_message_that_comes_is_taken_of_the_spool_and_waited_for() {
        use tokio::io::AsyncWriteExt as _;
        let mib = 1 << 20;
        let spool = spool(16 * mib);
        let (mut first, mut one) = by_hand(SocketConfig::default()).await;
        let (mut second, mut other) = by_hand(SocketConfig::default()).await;
        first.take_room_of(&spool);
        second.take_room_of(&spool);
        one.write_all(&frame_head(10 * mib)).await.unwrap();
        other.write_all(&frame_head(10 * mib)).await.unwrap();
        let a_moment = Duration::from_secs(1);
        assert!(tokio::time::timeout(a_moment, first.event()).await.is_err());
        assert_eq!(spool.memory_used(), 10 * mib);
        assert!(
            tokio::time::timeout(a_moment, second.event())
                .await
                .is_err()
        );
        assert_eq!(spool.memory_used(), 10 * mib);
        // The first is whole and taken: there is room.
        let body = vec![7; 10 << 20];
        let (message, _) = tokio::join!(next(&mut first), one.write_all(&body));
        assert_eq!((message.len(), spool.memory_used()), (10 << 20, 0));
        let (message, _) = tokio::join!(next(&mut second), other.write_all(&body));
        assert_eq!((message.len(), spool.memory_used()), (10 << 20, 0));
        // Nobody waits for ever.
        let _all = spool.reserve(16 * mib).unwrap();
        one.write_all(&frame_head(10 * mib)).await.unwrap();
        let error = first.event().await.unwrap_err();
        assert!(matches!(error, SocketError::NoRoom(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_beside_a_message_in_short_frames_is_taken_as_they_come() {
        let spool = spool(64 << 20);
        let config = SocketConfig::default();
        let (mut server, mut client) = pair(config.clone(), config, 4_096).await;
        server.take_room_of(&spool);
        for bytes in [1_000_000, 100, 3_000_000] {
            client.send(message(vec![7; bytes])).await.unwrap();
            let received = async {
                tokio::select! {
                    message = next(&mut server) => message,
                    event = async { loop { client.event().await.unwrap(); } } => event,
                }
            };
            assert_eq!(received.await.len(), bytes);
            assert_eq!(spool.memory_used(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_go_on_is_given_up() {
        use tokio::io::AsyncWriteExt as _;
        let spool = spool(64 << 20);
        let (mut server, mut peer) = by_hand(SocketConfig::default()).await;
        server.take_room_of(&spool);
        peer.write_all(&frame_head(1 << 20)).await.unwrap();
        let dripping = async {
            loop {
                peer.write_all(b"x").await.unwrap();
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        };
        let error = tokio::select! {
            event = server.event() => event.unwrap_err(),
            () = dripping => unreachable!(),
        };
        assert!(matches!(error, SocketError::TooSlow { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_text_is_refused_and_a_close_is_told_with_its_code() {
        let config = SocketConfig::default();
        let (mut server, mut client) = pair(config.clone(), config.clone(), 1_024).await;
        client.push(Message::text("text")).unwrap();
        let event = async {
            tokio::select! {
                event = server.event() => event,
                event = client.event() => panic!("{event:?}"),
            }
        };
        let error = event.await.unwrap_err();
        assert!(matches!(error, SocketError::Text), "{error}");
        let (mut server, client) = pair(config.clone(), config, 1_024).await;
        let closing = client.close(1_001, Duration::from_secs(60));
        let closed = async {
            let event = server.event().await.unwrap();
            drop(server);
            event
        };
        let (event, ()) = tokio::join!(closed, closing);
        assert!(
            matches!(event, SocketEvent::Closed(Some(1_001))),
            "{event:?}"
        );
    }

    #[tokio::test]
    async fn a_url_that_is_none_of_a_websocket_is_told_apart() {
        for url in [
            "http://h/",
            "h:1",
            "ws://",
            "ws://u@h/",
            "ws://h/#f",
            "ftp://h/",
        ] {
            let timeout = Duration::from_secs(1);
            let error = Socket::connect(url, timeout, SocketConfig::default()).await;
            let error = error.unwrap_err();
            assert!(matches!(error, ConnectError::Url { .. }), "{url}: {error}");
        }
    }
}
