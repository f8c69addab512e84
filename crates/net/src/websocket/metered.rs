//! A connection that is read within bounds of time and memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::body::spool::Reservation;
use crate::websocket::frames::{FRAME_BYTES_MAX, FrameHeads};

/// Bytes read of a peer that has not shown who it is.
pub(crate) const UNTRUSTED_BYTES_MAX: u64 = 64 * 1024;

/// Messages up to this length take no room of their own while they come, in bytes.
const SMALL_BYTES: u64 = FRAME_BYTES_MAX as u64;

/// A message of which more than [`SMALL_BYTES`] are announced has to come at this rate, in bytes a
/// second, after a while.
const MESSAGE_RATE_MIN: u64 = 16 * 1024;
/// Packets that were lost have been sent again by then.
const MESSAGE_GRACE: Duration = Duration::from_secs(10);

/// The library allocates so much for each connection at once, in bytes. What is no longer is copied
/// out of it, so that a few bytes that somebody keeps do not keep all of it.
pub(crate) const READ_BUFFER_BYTES: usize = 4 * 1024;

/// The stream below a websocket: plain, with TLS, or upgraded by the server. As a trait object,
/// since the library's code for each kind would be there once more.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A connection that knows when something went over it.
pub(crate) struct MeteredStream {
    /// Everything that is read and written passes through here.
    inner: Box<dyn Connection>,
    /// Bytes that may still be read.
    pub(crate) read_left: Option<u64>,
    /// `true` if more came than might be read.
    pub(crate) is_too_much: bool,
    /// The last moment at which something came, or room was made for what waited to be sent.
    pub(crate) heard_at: Instant,
    /// The last moment at which something was taken of what is sent.
    pub(crate) taken_at: Instant,
    /// `true` if the stream took nothing the last time: that it takes more then shows that the peer
    /// reads.
    is_full: bool,
    /// Position in the frames of the peer, if what is read are frames only.
    frames: Option<FrameHeads>,
    /// Read already, and kept back.
    lookahead: Bytes,
    /// Room taken for the unfinished message, if that is counted.
    pub(crate) room: Option<Reservation>,
    /// Longest message that the library takes: no room is asked for a longer one.
    pub(crate) message_bytes_max: u64,
    /// Since when nothing is read because there is no memory, if that is so.
    pub(crate) short_of_room_since: Option<Instant>,
    /// The largest room there can be, if a message that comes needs more, in bytes.
    pub(crate) too_long_for: Option<u64>,
    /// Since when a long message comes, as far as only its peer is to blame.
    comes_since: Option<Instant>,
}

impl MeteredStream {
    /// Of a client, which reads an answer to its handshake first.
    pub(crate) fn connected(inner: Box<dyn Connection>) -> Self {
        let now = Instant::now();
        Self {
            inner,
            read_left: None,
            is_too_much: false,
            heard_at: now,
            taken_at: now,
            is_full: false,
            frames: None,
            lookahead: Bytes::new(),
            room: None,
            message_bytes_max: u64::MAX,
            short_of_room_since: None,
            too_long_for: None,
            comes_since: None,
        }
    }

    /// Of a server, which trusts nobody yet.
    pub(crate) fn accepted(inner: Box<dyn Connection>, message_bytes_max: u64) -> Self {
        Self {
            read_left: Some(UNTRUSTED_BYTES_MAX),
            frames: Some(FrameHeads::new(Instant::now())),
            message_bytes_max,
            ..Self::connected(inner)
        }
    }

    /// `true` if there is room for what has been announced of the message that comes. Parts of it
    /// may be short, and many: twice as much is taken each time.
    fn has_room(&mut self) -> bool {
        let (Some(frames), Some(room)) = (&self.frames, &mut self.room) else {
            return true;
        };
        let wanted = frames.message_bytes;
        // The library refuses more.
        if wanted <= SMALL_BYTES.max(room.bytes()) || wanted > self.message_bytes_max {
            return true;
        }
        let largest = room.spool().reservation_bytes_max();
        if wanted > largest {
            self.too_long_for = Some(largest);
            return false;
        }
        let doubled = wanted.max((2 * room.bytes()).min(self.message_bytes_max));
        let mut amounts = [doubled, wanted].into_iter();
        if !amounts.any(|it| room.grow(it - room.bytes()).is_ok()) {
            self.short_of_room_since.get_or_insert_with(Instant::now);
            return false;
        }
        if self.comes_since.is_none() || self.short_of_room_since.is_some() {
            self.goes_on();
        }
        self.short_of_room_since = None;
        true
    }

    /// Starts the time in which the peer has to send.
    fn goes_on(&mut self) {
        self.heard_at = Instant::now();
        self.comes_since = Some(self.heard_at);
    }

    /// Nothing was read from `since` to `now`, which is not to be held against anybody.
    pub(crate) fn was_held(&mut self, since: Instant, now: Instant) {
        self.heard_at = now;
        if let Some(comes_since) = &mut self.comes_since {
            *comes_since = now;
        }
        if let Some(short_since) = &mut self.short_of_room_since {
            *short_since += now.saturating_duration_since(since);
        }
    }

    /// The message is in other hands.
    pub(crate) fn taken(&mut self) {
        if let Some(room) = &mut self.room {
            room.shrink_to(0);
        }
        self.comes_since = None;
    }

    /// The bytes that have come of a long message and the time they took, if that is too long.
    pub(crate) fn comes_too_slowly(&self, now: Instant) -> Option<(u64, Duration)> {
        let frames = self.frames.as_ref()?;
        let bytes = frames.message_bytes.saturating_sub(frames.payload_left);
        let within = now - self.comes_since?;
        let allowed = MESSAGE_GRACE + Duration::from_secs(bytes / MESSAGE_RATE_MIN);
        (frames.message_bytes > SMALL_BYTES && within > allowed).then_some((bytes, within))
    }

    /// `true` if the peer sent more empty frames than it may.
    pub(crate) fn is_idle(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| frames.are_idle)
    }

    /// Reads what comes, as far as that is allowed at all, for nobody; ready at its end.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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

    /// Notes what became of an attempt to write.
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

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let too_much = Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        if !self.has_room() {
            return match self.too_long_for {
                Some(_) => too_much,
                // The socket looks again after a while.
                None => Poll::Pending,
            };
        }
        if !self.lookahead.is_empty() {
            let bytes = self.lookahead.len().min(buffer.remaining());
            buffer.put_slice(&self.lookahead.split_to(bytes));
            return Poll::Ready(Ok(()));
        }
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
            self.lookahead = Bytes::copy_from_slice(&read[begin..]);
            bytes = begin;
        }
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
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
