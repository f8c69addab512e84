//! A websocket with bounds on what it holds and on how long it waits.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use httppubsub_proto::session::{Outgoing, OutgoingBody};
use httppubsub_proto::url::{Endpoint, Scheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, handshake};

use crate::payload::Payload;
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
    /// Nothing came, not even the answer to a ping.
    #[error("the peer answered no ping for {0:?}")]
    Silent(Duration),
    /// The peer does not read.
    #[error("the peer took nothing for {0:?}")]
    NotReading(Duration),
    /// The body of what was to be sent cannot be read.
    #[error("cannot read what is to be sent")]
    Body(#[source] io::Error),
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
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The peer does not speak websocket here.
    #[error("the websocket handshake failed: {0}")]
    Handshake(String),
    /// It took too long.
    #[error("no websocket within {0:?}")]
    TooLate(Duration),
}

impl SocketError {
    /// Code of the close frame that tells the peer, where one can.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Text => Some(1003),
            Self::TooLong { .. } => Some(1009),
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
    /// Frames that wait until those before are sent.
    frames: VecDeque<Message>,
    /// What was handed on since everything was sent, in bytes.
    handed_on: usize,
    flushed: bool,
    /// Whether nobody was told yet that there is room again.
    was_full: bool,
    close_code: Option<u16>,
    heard_at: Instant,
    /// How much had been read when that was last looked at, in bytes.
    heard: u64,
    pinged_at: Option<Instant>,
    /// Since when nothing more was taken, and how much had been until then, in bytes.
    stuck: Option<(Instant, u64)>,
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

/// Longer messages are sent in frames of this length, in bytes: what the library buffers for a
/// connection, it keeps.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// What is read of a peer that has not shown who it is, in bytes.
const UNTRUSTED_BYTES_MAX: u64 = 64 * 1024;

/// The library allocates so much for each connection at once, in bytes.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// What is added between two calls of [`Socket::event`] is sent together up to this, in bytes.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

impl Socket {
    /// Opens one at `url` (`ws://…` or `wss://…`, with its path), within `timeout` for connection,
    /// TLS and handshake together.
    pub async fn connect(
        url: &str,
        timeout: Duration,
        config: SocketConfig,
    ) -> Result<Self, ConnectError> {
        let endpoint = endpoint(url)?;
        match tokio::time::timeout(timeout, open(url, &endpoint, config)).await {
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
        let stream = Metered::new(Box::new(stream), Some(UNTRUSTED_BYTES_MAX));
        let settings = Some(settings(&config));
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, settings).await;
        Self::new(stream, config)
    }

    fn new(stream: WebSocketStream<Metered>, config: SocketConfig) -> Self {
        let now = Instant::now();
        Self {
            stream,
            frames: VecDeque::new(),
            handed_on: 0,
            flushed: true,
            was_full: false,
            close_code: None,
            heard_at: now,
            heard: 0,
            pinged_at: None,
            stuck: None,
            timer: Box::pin(tokio::time::sleep_until(now + config.ping_interval)),
            config,
        }
    }

    /// The peer has shown who it is: from here on only the limits of the configuration hold.
    pub fn trust(&mut self) {
        self.stream.get_mut().read_left = None;
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
            match Pin::new(&mut self.stream).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    self.heard_at = Instant::now();
                    self.pinged_at = None;
                    match message {
                        Message::Binary(bytes) => {
                            return Poll::Ready(Ok(SocketEvent::Message(bytes)));
                        }
                        Message::Text(_) => return Poll::Ready(Err(SocketError::Text)),
                        // The library has queued the answer.
                        Message::Ping(_) | Message::Close(None) => self.flushed = false,
                        Message::Close(Some(frame)) => {
                            self.close_code = Some(frame.code.into());
                            self.flushed = false;
                        }
                        Message::Pong(_) | Message::Frame(_) => {}
                    }
                    continue;
                }
                Poll::Ready(None) => return Poll::Ready(Ok(SocketEvent::Closed(self.close_code))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(error)),
                Poll::Pending => {}
            }
            ready!(self.timer.as_mut().poll(cx));
            self.look_at_the_clock()?;
        }
    }

    /// Sends what waits, as far as the peer takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), SocketError> {
        loop {
            while self.handed_on < WAITING_BYTES_MAX {
                let Some(frame) = self.frames.pop_front() else {
                    break;
                };
                self.hand_on(frame)?;
            }
            if self.flushed {
                return Ok(());
            }
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.flushed = true;
                    self.handed_on = 0;
                    self.stuck = None;
                }
                // Whatever it is, reading says it as well, after what was still received.
                Poll::Ready(Err(_)) => {
                    self.flushed = true;
                    self.handed_on = 0;
                    self.stuck = None;
                    self.frames.clear();
                    return Ok(());
                }
                Poll::Pending => {
                    if self.stuck.is_none() {
                        let now = Instant::now();
                        self.stuck = Some((now, self.stream.get_ref().written));
                        let look = now + self.config.write_timeout;
                        if look < self.timer.deadline() {
                            self.timer.as_mut().reset(look);
                            // The timer must know whom to wake.
                            let _ = self.timer.as_mut().poll(cx);
                        }
                    }
                    return Ok(());
                }
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
        let Metered { read, written, .. } = *self.stream.get_ref();
        if read != self.heard {
            // A long message, perhaps, that is still on its way.
            if self.heard_at + self.config.ping_interval <= now {
                self.heard_at = now;
            }
            self.heard = read;
            self.pinged_at = None;
        }
        // A ping waits behind whatever the peer is still taking.
        if self
            .stuck
            .is_some_and(|(_, until_then)| written != until_then)
        {
            self.heard_at = now;
            self.pinged_at = None;
        }
        let mut look = match self.pinged_at {
            Some(at) if at + self.config.pong_timeout <= now => {
                return Err(SocketError::Silent(now - self.heard_at));
            }
            Some(at) => at + self.config.pong_timeout,
            None if self.heard_at + self.config.ping_interval <= now => {
                self.pinged_at = Some(now);
                self.hand_on(Message::Ping(Bytes::new()))?;
                now + self.config.pong_timeout
            }
            None => self.heard_at + self.config.ping_interval,
        };
        if let Some((since, until_then)) = &mut self.stuck {
            if written != *until_then {
                (*since, *until_then) = (now, written);
            } else if *since + self.config.write_timeout <= now {
                return Err(SocketError::NotReading(now - *since));
            }
            look = look.min(*since + self.config.write_timeout);
        }
        self.timer.as_mut().reset(look);
        Ok(())
    }

    fn failed(&self, error: Error) -> Result<SocketEvent, SocketError> {
        if self.stream.get_ref().read_left == Some(0) {
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
        self.frames.is_empty() && self.handed_on < WAITING_BYTES_MAX
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
        if self.is_writable() {
            self.hand_on(message)
        } else {
            self.frames.push_back(message);
            Ok(())
        }
    }

    /// Sends what waits and a close frame with this code, and waits at most `timeout` for the peer
    /// to close as well.
    pub async fn close(mut self, code: u16, timeout: Duration) {
        let frame = CloseFrame {
            code: code.into(),
            reason: "".into(),
        };
        self.frames.push_back(Message::Close(Some(frame)));
        let closing = async {
            while let Ok(SocketEvent::Message(_) | SocketEvent::Writable) = self.event().await {}
        };
        // A peer that does not close is left.
        let _ = tokio::time::timeout(timeout, closing).await;
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

async fn open(
    url: &str,
    endpoint: &Endpoint,
    config: SocketConfig,
) -> Result<Socket, ConnectError> {
    static TLS: OnceLock<Tls> = OnceLock::new();
    let origin = endpoint.origin();
    let stream = TcpStream::connect((origin.host.as_str(), origin.port)).await;
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
    let stream = Metered::new(stream, None);
    let settings = Some(settings(&config));
    match tokio_tungstenite::client_async_with_config(url, stream, settings).await {
        Ok((stream, _)) => Ok(Socket::new(stream, config)),
        Err(Error::Http(response)) => {
            let status = response.status();
            Err(ConnectError::Handshake(format!("the answer is {status}")))
        }
        Err(error) => Err(ConnectError::Handshake(error.to_string())),
    }
}

fn settings(config: &SocketConfig) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        // Far more than is ever handed on.
        .max_write_buffer_size(8 * (WAITING_BYTES_MAX + FRAME_BYTES_MAX))
        .max_message_size(Some(config.message_bytes_max))
        .max_frame_size(Some(config.message_bytes_max))
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A connection that knows how much went over it, in bytes.
struct Metered {
    inner: Box<dyn Connection>,
    read: u64,
    written: u64,
    /// How much may still be read.
    read_left: Option<u64>,
}

impl Metered {
    fn new(inner: Box<dyn Connection>, read_left: Option<u64>) -> Self {
        Self {
            inner,
            read: 0,
            written: 0,
            read_left,
        }
    }

    fn count_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written += *bytes as u64;
        }
        written
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self
            .read_left
            .map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        if left == Some(0) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let bytes = match left {
            Some(left) if left < buffer.remaining() => {
                let unfilled = buffer.initialize_unfilled_to(left);
                let mut part = ReadBuf::new(unfilled);
                ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
                let bytes = part.filled().len();
                buffer.advance(bytes);
                bytes
            }
            _ => {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
                buffer.filled().len() - before
            }
        };
        self.read += bytes as u64;
        if let Some(left) = &mut self.read_left {
            *left -= bytes as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.count_written(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
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
        let stream = Metered::new(Box::new(other), None);
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
    async fn a_peer_that_does_not_read_is_given_up() {
        let (stream, deaf) = tokio::io::duplex(1_024);
        let mut server = Socket::accepted(stream, SocketConfig::default()).await;
        server.send(message(vec![0; 10_000])).await.unwrap();
        let error = server.event().await.unwrap_err();
        assert!(matches!(error, SocketError::NotReading(_)), "{error}");
        drop(deaf);
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
    async fn both_ends_may_send_at_once_more_than_fits_between_them() {
        let config = SocketConfig::default();
        let (mut server, mut client) = pair(config.clone(), config, 1_024).await;
        let body = Payload::from_bytes(vec![7; 12 << 20]);
        for socket in [&mut server, &mut client] {
            let part = Outgoing {
                head: Bytes::from_static(b"head"),
                body: OutgoingBody::Part {
                    of: body.clone(),
                    range: 0..body.len(),
                },
            };
            socket.send(part).await.unwrap();
            assert!(!socket.is_writable());
        }
        let (one, other) = tokio::join!(next(&mut server), next(&mut client));
        for got in [one, other] {
            assert_eq!(got.len(), 4 + (12 << 20));
            assert!(got.starts_with(b"head\x07") && got.ends_with(b"\x07"));
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
        let stream = Metered::new(Box::new(other), None);
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
