//! Reads the body of a message as it arrives: its head first, never faster than it is wanted, never
//! slower than allowed.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt as _;
use httppubsub_proto::error_chain::error_chain;
use httppubsub_proto::wire::DecodeError;
use tokio::time::Instant;

use crate::body::spool::{NoRoom, Reservation, Spool};
use crate::places::Place;

/// Bounds on the time in which a body arrives.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BodyLimits {
    /// Longest silence. Default 15 s. Only the time in which this end waits counts: a peer is not
    /// late while its last part is worked on.
    pub silence_max: Duration,
    /// Lowest average rate in bytes per second, after [`BodyLimits::rate_grace`]. Default 1 KiB/s.
    /// It stops peers that send a byte now and then, which no bound on silence does.
    pub rate_min: u64,
    /// For how long any rate will do. Default 10 s.
    pub rate_grace: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            silence_max: Duration::from_secs(15),
            rate_min: 1_024,
            rate_grace: Duration::from_secs(10),
        }
    }
}

/// Failure to read the rest of a body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or its framing did.
    #[error("the body broke off after {received} bytes: {}", error_chain(&**.source))]
    Broken {
        /// Bytes that had arrived.
        received: u64,
        /// The error of the connection.
        r#source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It came too slowly.
    #[error("the body came too slowly: {received} bytes in {seconds} s")]
    TooSlow {
        /// Bytes that had arrived.
        received: u64,
        /// Since the first was asked for.
        seconds: u64,
    },
    /// It is longer than allowed here.
    #[error("the body is longer than {bytes_max} bytes")]
    TooLong {
        /// The bound, in bytes.
        bytes_max: usize,
    },
    /// There is no memory for it now.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Too many long heads are arriving at once.
    #[error("too many long heads are arriving")]
    LongHeads,
}

impl BodyError {
    /// The status by which both ends answer a request with such a body: 400 (it broke off), 408
    /// (too slow), 413 (too long) or 503 (no room now).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Broken { .. } => StatusCode::BAD_REQUEST,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoRoom(_) | Self::LongHeads => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Failure to read the head at the beginning of a body.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// It could not be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It is not that head.
    #[error("the head does not parse: {0}")]
    Decode(DecodeError),
}

impl From<DecodeError> for HeadError {
    fn from(cause: DecodeError) -> Self {
        Self::Decode(cause)
    }
}

/// A body being read.
#[derive(Debug)]
pub struct BodyReader<B> {
    /// Polled only when more is wanted: what is not read stays in the kernel, and the peer has to
    /// wait.
    body: B,
    /// Bounds on silence and on the average rate.
    limits: BodyLimits,
    /// The moment from which the average rate is counted.
    began: Instant,
    /// Bytes that came so far, those of the head included.
    received: u64,
    /// Arrived and not yet taken.
    ahead: Bytes,
    /// `true` after the last frame or an error: the body must not be polled again.
    ended: bool,
    /// The spool that room for held bytes is taken of.
    spool: Spool,
}

/// Bytes of a body, and the memory taken for them.
#[derive(Debug)]
pub struct Held {
    /// The bytes.
    pub bytes: Bytes,
    /// Given back when it is dropped.
    pub room: Reservation,
}

impl<B> BodyReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Reads `body`, of which nothing was read yet. What it holds takes room of `spool`.
    pub fn new(body: B, limits: BodyLimits, spool: Spool) -> Self {
        let began = Instant::now();
        Self {
            body,
            limits,
            began,
            received: 0,
            ahead: Bytes::new(),
            ended: false,
            spool,
        }
    }

    /// The spool that room for held bytes is taken of.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Bytes still to come, if the peer has said how long the body is.
    pub fn bytes_left(&self) -> Option<u64> {
        let to_come = self.body.size_hint().exact()?;
        Some(self.ahead.len() as u64 + to_come)
    }

    /// The next part; `None` at the end.
    pub async fn part(&mut self) -> Result<Option<Bytes>, BodyError> {
        if !self.ahead.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ahead)));
        }
        self.next_frame().await
    }

    /// The next bytes as they arrive, not empty; `None` at the end.
    async fn next_frame(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.ended {
            // Only the wait for the peer is measured. While we are busy with what came, the peer is
            // not late.
            let silence = tokio::time::timeout(self.limits.silence_max, self.body.frame());
            match silence.await {
                Err(_) => return Err(self.too_slow()),
                Ok(None) => self.ended = true,
                Ok(Some(Err(error))) => {
                    self.ended = true;
                    return Err(BodyError::Broken {
                        received: self.received,
                        source: error.into(),
                    });
                }
                Ok(Some(Ok(frame))) => {
                    // Trailers have no meaning in this protocol.
                    let Ok(part) = frame.into_data() else {
                        continue;
                    };
                    self.received += part.len() as u64;
                    self.check_rate()?;
                    if !part.is_empty() {
                        return Ok(Some(part));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Fails if the body has come too slowly on average. Silence alone does not catch a peer that
    /// sends a byte now and then to hold a connection.
    fn check_rate(&self) -> Result<(), BodyError> {
        let elapsed = self.began.elapsed();
        match elapsed.checked_sub(self.limits.rate_grace) {
            // Rounded down, in favour of the peer.
            Some(counted)
                if self.received < self.limits.rate_min.saturating_mul(counted.as_secs()) =>
            {
                Err(self.too_slow())
            }
            _ => Ok(()),
        }
    }

    /// The error of a peer that is too slow, with what it managed until now.
    fn too_slow(&self) -> BodyError {
        BodyError::TooSlow {
            received: self.received,
            seconds: self.began.elapsed().as_secs(),
        }
    }

    /// Reads until `decode` is satisfied; what follows the head stays to be read. `decode` returns
    /// what it found and how many bytes that took. At most `bytes_max` bytes are held for it.
    ///
    /// Most heads come whole with the first part, and are decoded where they lie. Others are copied
    /// together, and decoded again only when all the bytes may be there that the last attempt asked
    /// for: a head sent byte by byte costs no more attempts than it has parts.
    pub async fn head<T>(
        &mut self,
        bytes_max: usize,
        decode: impl Fn(&[u8]) -> Result<(T, usize), DecodeError>,
    ) -> Result<T, HeadError> {
        let mut held = self.part().await?.unwrap_or_default();
        let mut error = match decode(&held) {
            Ok((head, bytes)) => {
                held.advance(bytes);
                self.ahead = held;
                return Ok(head);
            }
            Err(error) => error,
        };
        let mut room = self.spool.reservation();
        let mut place = None;
        // Copied, since a few bytes keep all of the buffer that they were read into.
        let mut held = BytesMut::from(&held[..]);
        loop {
            let DecodeError::Short { at, need, .. } = error else {
                return Err(error.into());
            };
            // It is not looked at again before all that is missing may be there.
            while held.len() < at.saturating_add(need) {
                // Decoded once more for its error: the field that is too long is what an operator
                // wants to know.
                if held.len() > bytes_max {
                    return Err(decode(&held).err().unwrap_or(error).into());
                }
                let Some(part) = self.next_part_of_head(held.len(), &mut place).await? else {
                    return Err(decode(&held).err().unwrap_or(error).into());
                };
                let more = (held.len() + part.len()) as u64;
                room.grow(more.saturating_sub(room.bytes()))
                    .map_err(BodyError::from)?;
                held.extend_from_slice(&part);
            }
            match decode(&held) {
                Ok((head, bytes)) => {
                    held.advance(bytes);
                    self.ahead = held.freeze();
                    return Ok(head);
                }
                Err(next) => error = next,
            }
        }
    }

    /// The next part of a head of which `held` bytes are there. Beyond what anybody may make this
    /// process hold it needs a place among long heads; the one that waits longest for the rest of
    /// one gives it up when others need it.
    async fn next_part_of_head(
        &mut self,
        held: usize,
        place: &mut Option<Place>,
    ) -> Result<Option<Bytes>, BodyError> {
        if held > SHORT_HEAD_BYTES_MAX && place.is_none() {
            // The same patience as for silence: the peer waits for us here.
            let entering = self.spool.enter_long_heads();
            let entered = tokio::time::timeout(self.limits.silence_max, entering).await;
            *place = Some(
                entered
                    .ok()
                    .and_then(Result::ok)
                    .ok_or(BodyError::LongHeads)?,
            );
        }
        match place {
            None => self.next_frame().await,
            Some(place) => tokio::select! {
                // What has arrived counts before an eviction that comes at the same moment.
                biased;
                frame = self.next_frame() => frame,
                () = place.evicted() => Err(BodyError::LongHeads),
            },
        }
    }

    /// All that is left, which must be at most `bytes_max` bytes. Memory is taken as it comes: a
    /// peer that announces much and sends little holds little.
    pub async fn rest(&mut self, bytes_max: usize) -> Result<Held, BodyError> {
        let mut room = self.spool.reservation();
        let share = self.spool.reservation_bytes_max();
        let bytes_max = bytes_max.min(usize::try_from(share).unwrap_or(usize::MAX));
        let too_long = BodyError::TooLong { bytes_max };
        // Refused by what is announced, before a byte of it is held.
        let announced = self.bytes_left().map(usize::try_from);
        if let Some(Err(_)) = announced {
            return Err(too_long);
        }
        let announced = announced.and_then(Result::ok);
        if announced.is_some_and(|announced| announced > bytes_max) {
            return Err(too_long);
        }
        let mut all = BytesMut::new();
        while let Some(part) = self.part().await? {
            let bytes = all.len() + part.len();
            if bytes > bytes_max {
                return Err(too_long);
            }
            if bytes > all.capacity() {
                // Twice as much as there is, never on account of what is only announced.
                let capacity = bytes.max(all.len() * 2).min(announced.unwrap_or(bytes_max));
                room.grow((capacity as u64).saturating_sub(room.bytes()))?;
                all.reserve(capacity - all.len());
            }
            all.extend_from_slice(&part);
        }
        // Doubling took more than there is.
        room.shrink_to(all.capacity() as u64);
        Ok(Held {
            bytes: all.freeze(),
            room,
        })
    }

    /// `true` if all of the body was read.
    pub fn is_at_end(&self) -> bool {
        self.ahead.is_empty() && (self.ended || self.body.is_end_stream())
    }
}

impl<B> BodyReader<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Lets go of a body whose rest nobody wants, so that the answer can still be read by a peer
    /// that is busy sending: the rest is read and dropped behind the answer, up to a bound.
    pub fn abandon(mut self) {
        if self.is_at_end() {
            return;
        }
        tokio::spawn(async move {
            let drained = async {
                let mut bytes = 0;
                while let Ok(Some(part)) = self.part().await {
                    bytes += part.len() as u64;
                    if bytes > ABANDONED_BYTES_MAX {
                        break;
                    }
                }
            };
            // Out of time is as good as done: the connection is closed then.
            let _ = tokio::time::timeout(ABANDONED_TIME_MAX, drained).await;
        });
    }
}

/// Longest head that is taken of anybody, in bytes.
const SHORT_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes of an unwanted body that are read and dropped: enough for what the peer has under way.
const ABANDONED_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// A peer that goes on sending for longer than this does not wait for the answer.
const ABANDONED_TIME_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;

    fn reader(
        parts: &[&'static [u8]],
    ) -> BodyReader<impl Body<Data = Bytes, Error = std::io::Error> + Unpin> {
        let frames: Vec<_> = parts
            .iter()
            .map(|part| Ok(http_body::Frame::data(Bytes::from_static(part))))
            .collect();
        BodyReader::new(
            StreamBody::new(futures_util::stream::iter(frames)),
            BodyLimits::default(),
            Spool::default(),
        )
    }

    fn decode(bytes: &[u8]) -> Result<(Vec<u8>, usize), DecodeError> {
        let mut reader = httppubsub_proto::wire::Reader::new(bytes);
        let field = reader.field16("field")?.to_vec();
        Ok((field, reader.position()))
    }

    #[tokio::test]
    async fn a_head_may_come_in_any_parts_and_leaves_the_rest() {
        for parts in [
            &[&b"\x00\x03abcrest"[..]][..],
            &[b"\x00", b"\x03a", b"bcre", b"st"],
            &[b"", b"\x00\x03abc", b"rest"],
        ] {
            let mut reader = reader(parts);
            assert_eq!(reader.head(100, decode).await.unwrap(), b"abc");
            assert_eq!(reader.rest(4).await.unwrap().bytes, "rest");
            assert!(reader.is_at_end());
        }
    }

    #[tokio::test]
    async fn head_drip_is_looked_at_once_a_field() {
        let fields: Vec<u8> = [[0xff, 0xff].as_slice(), &[b'a'; 65_535]]
            .concat()
            .repeat(2);
        let frames = fields.iter().map(|byte| {
            let byte = Bytes::copy_from_slice(&[*byte]);
            Ok::<_, std::io::Error>(http_body::Frame::data(byte))
        });
        let frames: Vec<_> = frames.collect();
        let spool = Spool::default();
        let mut reader = BodyReader::new(
            StreamBody::new(futures_util::stream::iter(frames)),
            BodyLimits::default(),
            spool.clone(),
        );
        let looks = std::cell::Cell::new(0);
        let most_held = std::cell::Cell::new(0);
        let decode = |bytes: &[u8]| {
            looks.set(looks.get() + 1);
            most_held.set(most_held.get().max(spool.memory_used()));
            let mut reader = httppubsub_proto::wire::Reader::new(bytes);
            let lengths = [reader.field16("one")?.len(), reader.field16("other")?.len()];
            Ok((lengths, reader.position()))
        };
        assert_eq!(reader.head(200_000, decode).await.unwrap(), [65_535; 2]);
        // The first byte, and then the length and the bytes of each field.
        assert_eq!(looks.get(), 5);
        assert_eq!(most_held.get(), fields.len() as u64);
        assert!(reader.rest(0).await.unwrap().bytes.is_empty());
        assert_eq!(spool.memory_used(), 0);
    }

    #[tokio::test]
    async fn memory_beside_of_lists_is_within_the_share_and_given_back() {
        use crate::body::spool::SpoolConfig;
        use crate::party::Party;

        let mib = 1024 * 1024;
        let spool = Spool::new(SpoolConfig {
            memory_total_max: 32 * mib as u64,
            ..SpoolConfig::default()
        });
        let address = Party::address([192, 0, 2, 1].into());
        let rest = async |bytes: usize, bytes_max| {
            let frames = std::iter::repeat_n(Bytes::from(vec![7; mib]), bytes / mib)
                .map(|part| Ok::<_, std::io::Error>(http_body::Frame::data(part)));
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let spool = spool.for_party(&address.connection());
            BodyReader::new(body, BodyLimits::default(), spool)
                .rest(bytes_max)
                .await
        };
        let lists = rest(6 * mib, 64 * mib).await.unwrap();
        let taken = spool.memory_used();
        assert!(taken >= 6 * mib as u64, "{taken}");
        // The address has no more, a quarter of all: of a body of unknown length twice as much is
        // taken as has come.
        let error = rest(5 * mib, 64 * mib).await.unwrap_err();
        assert!(matches!(error, BodyError::NoRoom(_)), "{error}");
        assert_eq!(spool.memory_used(), taken);
        drop(lists);
        assert_eq!(spool.memory_used(), 0);
        // More than it may ever have.
        let error = rest(9 * mib, 64 * mib).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLong { bytes_max } if bytes_max == 8 * mib));
    }

    #[tokio::test]
    async fn a_head_cut_short_names_the_field() {
        let error = reader(&[b"\x00", b"\x03a"])
            .head(100, decode)
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            HeadError::Decode(DecodeError::Short { field: "field", .. })
        ));
    }

    #[tokio::test]
    async fn no_more_than_allowed_is_held() {
        let error = reader(&[b"abc", b"def"]).rest(5).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLong { bytes_max: 5 }));
        let error = reader(&[b"\xff\xffabc", b"defg", b"h"])
            .head(6, decode)
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            HeadError::Decode(DecodeError::Short { left: 7, .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up() {
        let drips = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((
                Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"x"))),
                (),
            ))
        });
        let mut reader = BodyReader::new(
            StreamBody::new(Box::pin(drips)),
            BodyLimits::default(),
            Spool::default(),
        );
        let error = reader.rest(1_000_000).await.unwrap_err();
        assert!(
            matches!(
                error,
                BodyError::TooSlow {
                    received: 11,
                    seconds: 11
                }
            ),
            "{error:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_is_given_up() {
        let silent = futures_util::stream::pending::<Result<_, std::io::Error>>();
        let mut reader = BodyReader::new(
            StreamBody::new(silent),
            BodyLimits::default(),
            Spool::default(),
        );
        let error = reader.rest(10).await.unwrap_err();
        assert!(
            matches!(
                error,
                BodyError::TooSlow {
                    received: 0,
                    seconds: 15
                }
            ),
            "{error:?}"
        );
    }
}
