//! A websocket with bounds on what it holds and on how long it waits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use httppubsub_proto::session::{Outgoing, OutgoingBody};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::body::payload::Payload;
use crate::body::spool::Spool;
use crate::websocket::config::SocketConfig;
use crate::websocket::error::SocketError;
use crate::websocket::frames::FRAME_BYTES_MAX;
use crate::websocket::metered::{MeteredStream, READ_BUFFER_BYTES, UNTRUSTED_BYTES_MAX};

/// An event on a websocket.
#[derive(Debug)]
pub enum SocketEvent {
    /// A binary message came.
    Message(Bytes),
    /// Enough was sent for more to be added: [`Socket::is_writable`] has become true.
    Writable,
    /// The peer has closed, with this code if it gave one. Nothing more comes.
    Closed(Option<u16>),
}

/// A websocket. It answers pings, sends its own, and gives up on peers that do not answer or do not
/// read; all of that happens inside [`Socket::event`].
pub struct Socket {
    /// The library's state, over the stream that is measured.
    stream: WebSocketStream<MeteredStream>,
    /// With durations that can be added to a moment.
    config: SocketConfig,
    /// Frames that wait until those before are sent, and how long they are together, in bytes.
    frames: VecDeque<Message>,
    /// Together with `handed_on` it bounds what waits.
    frames_bytes: usize,
    /// Bytes handed on since everything was sent.
    handed_on: usize,
    /// `true` if nothing is left in the library's buffer.
    flushed: bool,
    /// `true` until [`SocketEvent::Writable`] said that there is room again.
    was_full: bool,
    /// The code of the peer's close frame, if it sent one with a code.
    close_code: Option<u16>,
    /// `true` if the library reads no more although the peer may send more.
    read_closed: bool,
    /// Since when nothing is read, if that is so.
    held_since: Option<Instant>,
    /// The last ping of this end, whose answer anything that comes counts for.
    pinged_at: Option<Instant>,
    /// Since when something waits to be sent.
    stuck_since: Option<Instant>,
    /// The last message, which keeps the library from making the buffer that it came in longer. A
    /// long one has the buffer to itself and is kept until the library has another.
    last: Bytes,
    /// One for all deadlines, set to the next of them: see [`Socket::look_at_the_clock`].
    timer: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Bytes that may wait unsent before [`Socket::is_writable`] turns false.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Bytes handed to the library to be sent together: what it buffers for a connection once,
/// it keeps.
const HANDED_ON_MAX: usize = 16 * 1024;

/// Longest wait of a message for memory, and the time between two looks for it.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// A look is cheap, and memory comes back at no moment that could be waited for.
const ROOM_LOOK: Duration = Duration::from_millis(20);

impl Socket {
    /// The server's end of a connection that was upgraded. Until [`Socket::trust`] it reads at most
    /// 64 KiB in all. Must be called inside a tokio runtime.
    pub async fn accepted(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        config: SocketConfig,
    ) -> Self {
        let stream = MeteredStream::accepted(Box::new(stream), config.message_bytes_max as u64);
        let settings = Some(settings(&config));
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, settings).await;
        Self::new(stream, config)
    }

    /// The part that both ends have alike.
    pub(super) fn new(stream: WebSocketStream<MeteredStream>, config: SocketConfig) -> Self {
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
            read_closed: false,
            held_since: None,
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

    /// From here on longer messages take room of `spool` while they come; without any, they wait. A
    /// message of more than the largest reservation of its party ends the connection as one beyond
    /// [`SocketConfig::message_bytes_max`] does: there will never be room for it.
    pub fn take_room_of(&mut self, spool: &Spool) {
        self.stream.get_mut().room = Some(spool.reservation());
    }

    /// Stops reading for now, or goes on: the peer has to wait, and may be silent meanwhile. What
    /// waits to be sent is sent nevertheless.
    pub fn hold(&mut self, is_held: bool) {
        let now = Instant::now();
        match (self.held_since, is_held) {
            (None, true) => self.held_since = Some(now),
            (Some(since), false) => {
                self.held_since = None;
                self.stream.get_mut().was_held(since, now);
            }
            _ => {}
        }
    }

    /// Waits for the next event. May be dropped at any time without losing anything.
    pub async fn event(&mut self) -> Result<SocketEvent, SocketError> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Sends first, then reads: a peer that reads slowly must not keep its own words from being
    /// read, and a deadline is looked at only when there is nothing else to do.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<SocketEvent, SocketError>> {
        loop {
            self.poll_send(cx)?;
            if self.was_full && self.is_writable() {
                self.was_full = false;
                return Poll::Ready(Ok(SocketEvent::Writable));
            }
            if self.held_since.is_some() {
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
                        // Polled, the timer knows which task to wake.
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

    /// Gives a message to the library, whose buffer takes it in any case. Errors that reading
    /// reports as well are left to it.
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

    /// Fails if a deadline is over, sends a ping if it is time for one, and sets the timer to the
    /// next. Time in which this end does not read, or has no memory for what comes, counts against
    /// no peer.
    fn look_at_the_clock(&mut self) -> Result<(), SocketError> {
        let now = Instant::now();
        let MeteredStream {
            heard_at,
            taken_at,
            short_of_room_since,
            ..
        } = *self.stream.get_ref();
        let is_held = self.held_since.is_some();
        if let Some(since) = short_of_room_since.filter(|since| *since + ROOM_TIMEOUT <= now)
            && !is_held
        {
            return Err(SocketError::NoRoom(now - since));
        }
        let waits = is_held || short_of_room_since.is_some();
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

    /// The meaning of an error of the library, or of the stream below it.
    fn failed(&mut self, error: Error) -> Result<SocketEvent, SocketError> {
        self.read_closed = true;
        if self.stream.get_ref().is_idle() {
            return Err(SocketError::Idle);
        }
        if let Some(max) = self.stream.get_ref().too_long_for {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            return Err(SocketError::TooLong { max });
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

    /// `true` if little enough waits to be sent that more may be added.
    pub fn is_writable(&self) -> bool {
        self.handed_on + self.frames_bytes < WAITING_BYTES_MAX
    }

    /// The last moment at which the peer took something of what is sent.
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

    /// One binary message, in frames of at most [`FRAME_BYTES_MAX`] if it is longer than that.
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
        // What comes is the peer's close, or thrown away.
        self.hold(false);
        let closing = async {
            self.push(Message::Close(Some(frame)))?;
            while let Ok(SocketEvent::Message(_) | SocketEvent::Writable) | Err(SocketError::Text) =
                self.event().await
            {}
            if self.read_closed {
                std::future::poll_fn(|cx| self.poll_see_off(cx)).await?;
            }
            Ok::<_, SocketError>(())
        };
        // A peer that does not close is left.
        let _ = tokio::time::timeout(timeout, closing).await;
    }

    /// Sends what waits while whatever comes is thrown away, until the peer has closed: a
    /// connection that is dropped before its end was read may take the close frame with it.
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

/// Small buffers, of which a process has thousands, and the longest message that is read.
pub(super) fn settings(config: &SocketConfig) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(HANDED_ON_MAX)
        // Far more than is ever handed on; answers to pings come on top.
        .max_write_buffer_size(8 * (HANDED_ON_MAX + FRAME_BYTES_MAX))
        .max_message_size(Some(config.message_bytes_max))
        .max_frame_size(Some(config.message_bytes_max))
}

#[cfg(test)]
mod tests;
