//! Follows the frames of a websocket in the bytes that are read.

use std::io::Cursor;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

/// Length of the frames in which longer messages are sent, in bytes. The library makes its buffer
/// as long as a frame that is read, so longer ones have it to themselves.
pub(crate) const FRAME_BYTES_MAX: usize = 16 * 1024;

/// Frames without content that may come at once, and further ones each second.
pub(crate) const IDLE_FRAMES_MAX: u64 = 256;
/// An idle connection needs one ping and one pong in 20 s.
pub(crate) const IDLE_FRAMES_RATE: u64 = 16;

/// Follows the frames in what is read, and finds where long ones begin. The library makes its
/// buffer as long as a frame and then keeps it, unless the frame has it to itself: so nothing of
/// the payload may come together with the head, and nothing does come behind it.
pub(crate) struct FrameHeads {
    /// The head of a frame, as far as it is there: at most 14 bytes (RFC 6455 §5.2).
    head: Vec<u8>,
    /// Bytes of the present frame still to come.
    pub(crate) payload_left: u64,
    /// Length of the frames of the message that comes, the present one included, in bytes.
    pub(crate) message_bytes: u64,
    /// `true` if the present frame is its last.
    is_last: bool,
    /// Frames without content that may still come, and since when that is so.
    idle_left: u64,
    /// Moves when they are used up: idle frames come back with the time since then.
    idle_since: Instant,
    /// `true` if more came.
    pub(crate) are_idle: bool,
}

impl FrameHeads {
    /// Before the first frame.
    pub(crate) fn new(now: Instant) -> Self {
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

    /// Finds the beginning of the first long frame's payload in these next bytes. What follows
    /// belongs to that payload.
    pub(crate) fn long_payload_in(&mut self, bytes: &[u8]) -> Option<usize> {
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

    /// A frame with this head begins.
    fn begins(&mut self, header: &FrameHeader, length: u64) {
        self.payload_left = length;
        let is_data = matches!(header.opcode, OpCode::Data(_));
        if is_data {
            self.message_bytes = self.message_bytes.saturating_add(length);
            self.is_last = header.is_final;
        }
        // An empty frame says something if it is the end of a message that is not.
        if is_data && (length > 0 || self.is_last && self.message_bytes > 0) {
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
