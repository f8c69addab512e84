//! Compresses and decompresses bodies as the websocket protocol wants it
//! (`docs/protocol/stateful.md` §11), within limits.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, Operation, OutBuffer};
use zstd::zstd_safe::InBuffer;

use crate::body::payload::Payload;
use crate::body::spool::Spool;
use crate::body::writer::Filling;

/// A way to compress: zstd at a level, perhaps with a dictionary. Clones are the same one, and
/// prepare the dictionary once. Both ends of a connection must have the same dictionary, which is
/// agreed on by number (`docs/protocol/stateful.md` §11).
#[derive(Clone, Debug)]
pub struct Zstd(Arc<Inner>);

/// Shared by all clones.
struct Inner {
    /// From -131,072 (fast) to 22 (small); only the end that compresses needs it.
    level: i32,
    /// `None` compresses each body by itself.
    dictionary: Option<Dictionary>,
}

/// Peers send dictionaries: `None` stands for what begins like a trained one and is none.
struct Dictionary {
    /// As it came. Prepared copies are made when a body first needs them, as preparing takes
    /// milliseconds and many dictionaries are used in one direction only.
    bytes: Bytes,
    /// For this level; `Some(None)` if zstd takes it for none.
    encoder: OnceLock<Option<EncoderDictionary<'static>>>,
    /// The same for bodies that come.
    decoder: OnceLock<Option<DecoderDictionary<'static>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dictionary_bytes = self.dictionary.as_ref().map(|it| it.bytes.len());
        f.debug_struct("Zstd")
            .field("level", &self.level)
            .field("dictionary_bytes", &dictionary_bytes)
            .finish()
    }
}

/// Bounds on decompression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecompressLimits {
    /// Largest window of a frame, in bytes, rounded down to a power of two; 0: 128 MiB. Default 8
    /// MiB. A sender chooses the window, and this end allocates it: a frame of a few bytes can ask
    /// for all that is allowed.
    pub window_bytes_max: u64,
}

impl Default for DecompressLimits {
    fn default() -> Self {
        Self {
            window_bytes_max: 8 * 1024 * 1024,
        }
    }
}

/// Failure to decompress a body.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// It is not what this compressor writes, or is cut short, or has something behind it, or needs
    /// a window that is too large.
    #[error("the body cannot be decompressed: {0}")]
    Zstd(io::Error),
    /// It is not as long as announced.
    #[error(
        "the body was announced to have {announced} bytes and has {}{got}",
        if *.more { "more than " } else { "" }
    )]
    Length {
        /// As announced, in bytes.
        announced: u64,
        /// As found so far, in bytes.
        got: u64,
        /// `true` if there was more.
        more: bool,
    },
    /// Our disk, not their message.
    #[error("could not hold the body: {0}")]
    Spool(io::Error),
}

/// Failure to train a dictionary.
#[derive(Debug, thiserror::Error)]
#[error("cannot train a dictionary on {samples} samples of {bytes} bytes: {source}")]
pub struct TrainError {
    /// Number of samples.
    pub samples: usize,
    /// Length of all samples, in bytes.
    pub bytes: usize,
    /// The message of zstd.
    pub r#source: io::Error,
}

impl Zstd {
    /// Without a dictionary.
    pub fn new(level: i32) -> Self {
        Self(Arc::new(Inner {
            level,
            dictionary: None,
        }))
    }

    /// With this dictionary, trained or raw, as zstd tells them apart.
    pub fn with_dictionary(dictionary: Bytes, level: i32) -> Self {
        Self(Arc::new(Inner {
            level,
            dictionary: Some(Dictionary {
                bytes: dictionary,
                encoder: OnceLock::new(),
                decoder: OnceLock::new(),
            }),
        }))
    }

    /// `true` if both are the same one, so that what one made the other made too.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The body, compressed into one frame without content size, checksum and dictionary id. Short
    /// bodies are compressed on this thread, in half a millisecond at most; others on a thread that
    /// may wait.
    pub async fn compress(&self, plain: &Payload, spool: &Spool) -> io::Result<Payload> {
        if plain.in_memory().is_some() && plain.len() <= self.0.compressed_inline_max() {
            let mut wire = Vec::new();
            self.0.compress(plain, |part| {
                wire.extend_from_slice(part);
                Ok(())
            })?;
            return kept(wire, spool).await;
        }
        let (inner, plain) = (self.0.clone(), plain.clone());
        elsewhere(
            Filling::new(spool),
            |error| error,
            move |sink| inner.compress(&plain, sink),
        )
        .await
    }

    /// The body `wire` stands for, which was announced to have `plain_bytes`. If they need a file,
    /// room for all of them is taken before anything is written. However much longer than `wire`
    /// they are, honest bodies compress so well. It is read and written by parts: neither form
    /// needs to be in memory as a whole.
    pub async fn decompress(
        &self,
        wire: &Payload,
        plain_bytes: u64,
        limits: &DecompressLimits,
        spool: &Spool,
    ) -> Result<Payload, DecompressError> {
        let longest = wire.len().max(plain_bytes);
        if wire.in_memory().is_some() && longest <= INLINE_BYTES_MAX {
            let mut plain = Vec::new();
            self.0.decompress(wire, plain_bytes, limits, |part| {
                plain.extend_from_slice(part);
                Ok(())
            })?;
            return kept(plain, spool).await.map_err(DecompressError::Spool);
        }
        let filling = Filling::announced(spool, plain_bytes);
        let filling = filling.map_err(DecompressError::Spool)?;
        let (inner, wire, limits) = (self.0.clone(), wire.clone(), *limits);
        elsewhere(filling, DecompressError::Spool, move |sink| {
            inner.decompress(&wire, plain_bytes, &limits, |part| {
                sink(part).map_err(DecompressError::Spool)
            })
        })
        .await
    }
}

/// Bodies up to this length are decompressed at once, in bytes; others on a thread that may wait.
const INLINE_BYTES_MAX: u64 = 64 * 1024;

/// Bytes read and written at once.
const CHUNK_BYTES: u64 = 128 * 1024;

/// Bodies worked on elsewhere at once, each with some megabytes of tables. Beyond that they wait,
/// in order.
const ELSEWHERE_MAX: usize = 16;

/// Bytes that were made here as a payload of `spool`.
async fn kept(bytes: Vec<u8>, spool: &Spool) -> io::Result<Payload> {
    let mut filling = Filling::new(spool);
    filling.push(bytes.into()).await?;
    filling.payload().await
}

/// Does the work on a thread that may wait, which keeps what it makes as it comes. Nobody needs to
/// look after it; once nobody waits for the result, it ends.
async fn elsewhere<E: Send + 'static>(
    mut filling: Filling,
    ours: fn(io::Error) -> E,
    work: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), E> + Send + 'static,
) -> Result<Payload, E> {
    static PLACES: Semaphore = Semaphore::const_new(ELSEWHERE_MAX);
    // Before the thread is taken: those are shared with the disk, which must not wait for
    // compression.
    let place = PLACES.acquire().await;
    let place = place.expect("the semaphore is never closed");
    let (sender, receiver) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let worked = work(&mut |part| match sender.is_closed() {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => filling.push_blocking(part),
        });
        let made = worked.and_then(|()| filling.finish().map_err(ours));
        drop(place);
        // The one that wanted it may be gone.
        let _ = sender.send(made);
    });
    match receiver.await {
        Ok(made) => made,
        // The runtime ends.
        Err(_) => Err(ours(io::Error::other("the work was given up"))),
    }
}

/// The parts of a body, one behind the other.
fn parts(payload: &Payload) -> impl Iterator<Item = io::Result<Bytes>> {
    let parts = payload.len().div_ceil(CHUNK_BYTES);
    (0..parts).map(|part| {
        let start = part * CHUNK_BYTES;
        payload.read_range_blocking(start..payload.len().min(start + CHUNK_BYTES))
    })
}

/// The error of bytes that begin like a trained dictionary and do not go on like one.
fn no_dictionary() -> io::Error {
    let problem = "the dictionary is not one";
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl Inner {
    /// Bodies up to this length are compressed at once, in bytes: half a millisecond of work, as
    /// was measured.
    fn compressed_inline_max(&self) -> u64 {
        let is_prepared = |it: &Dictionary| it.encoder.get().is_some();
        // Preparing it takes longer than the longest body that is compressed here.
        if !self.dictionary.as_ref().is_none_or(is_prepared) {
            return 0;
        }
        match self.level {
            ..=4 => INLINE_BYTES_MAX,
            5..=9 => 16 * 1024,
            10..=12 => 4 * 1024,
            13.. => 1024,
        }
    }

    /// Compresses `plain` part by part into `sink`. May wait for the disk if `plain` is in a file.
    fn compress(
        &self,
        plain: &Payload,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut encoder = match &self.dictionary {
            None => Encoder::new(self.level)?,
            Some(it) => {
                let prepare = || EncoderDictionary::try_copy(&it.bytes, self.level).ok();
                let prepared = it.encoder.get_or_init(prepare).as_ref();
                Encoder::with_prepared_dictionary(prepared.ok_or_else(no_dictionary)?)?
            }
        };
        // The heads of messages say all three; published peers write none of them (§11).
        encoder.set_parameter(CParameter::ContentSizeFlag(false))?;
        encoder.set_parameter(CParameter::ChecksumFlag(false))?;
        encoder.set_parameter(CParameter::DictIdFlag(false))?;
        // Not written, but it keeps the tables of small bodies small.
        encoder.set_pledged_src_size(Some(plain.len()))?;
        let mut out = vec![0; buffer_bytes(plain.len())];
        for part in parts(plain) {
            let part = part?;
            let mut input = InBuffer::around(&part);
            while input.pos() < part.len() {
                let mut output = OutBuffer::around(&mut out);
                encoder.run(&mut input, &mut output)?;
                sink(output.as_slice())?;
            }
        }
        loop {
            let mut output = OutBuffer::around(&mut out);
            let left = encoder.finish(&mut output, true)?;
            sink(output.as_slice())?;
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// Decompresses `wire` part by part into `sink`, never more than `announced` bytes. May wait
    /// for the disk if `wire` is in a file.
    fn decompress(
        &self,
        wire: &Payload,
        announced: u64,
        limits: &DecompressLimits,
        mut sink: impl FnMut(&[u8]) -> Result<(), DecompressError>,
    ) -> Result<(), DecompressError> {
        let mut decoder = self.decoder(limits).map_err(DecompressError::Zstd)?;
        let mut out = vec![0; buffer_bytes(announced)];
        let (mut written, mut frame_ended) = (0_u64, false);
        for part in parts(wire) {
            let part = part.map_err(DecompressError::Spool)?;
            let mut input = InBuffer::around(&part);
            loop {
                let mut output = OutBuffer::around(&mut out);
                let hint = decoder.run(&mut input, &mut output);
                frame_ended = hint.map_err(DecompressError::Zstd)? == 0;
                let (came, is_full) = (output.as_slice().len(), output.pos() == output.capacity());
                let so_far = written + came as u64;
                // Before it is kept: the peer's few bytes may stand for gigabytes.
                if so_far > announced {
                    return Err(DecompressError::Length {
                        announced,
                        got: announced,
                        more: true,
                    });
                }
                sink(output.as_slice())?;
                written = so_far;
                // A full output may have more behind it although the input is used up.
                if input.pos() == part.len() && (frame_ended || !is_full) {
                    break;
                }
            }
        }
        // Otherwise a body that was cut off between two blocks would count as whole.
        if !frame_ended {
            let problem = "it is cut short";
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, problem);
            return Err(DecompressError::Zstd(error));
        }
        if written < announced {
            return Err(DecompressError::Length {
                announced,
                got: written,
                more: false,
            });
        }
        Ok(())
    }

    /// A decoder that refuses frames whose window is larger than allowed: the window is memory that
    /// the sender chooses.
    fn decoder(&self, limits: &DecompressLimits) -> io::Result<Decoder<'_>> {
        let mut decoder = match &self.dictionary {
            None => Decoder::new()?,
            Some(it) => {
                let prepare = || DecoderDictionary::try_copy(&it.bytes).ok();
                let prepared = it.decoder.get_or_init(prepare).as_ref();
                Decoder::with_prepared_dictionary(prepared.ok_or_else(no_dictionary)?)?
            }
        };
        if let Some(log) = limits.window_bytes_max.checked_ilog2() {
            let log = log.clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
            decoder.set_parameter(DParameter::WindowLogMax(log))?;
        }
        Ok(decoder)
    }
}

/// The bounds that zstd has for its bound.
const WINDOW_LOG_MIN: u32 = 10;
/// 2 GiB, the most that the format can say.
const WINDOW_LOG_MAX: u32 = 31;

/// Enough for a body that is this long, within bounds.
fn buffer_bytes(bytes: u64) -> usize {
    usize::try_from(bytes.clamp(512, CHUNK_BYTES)).expect("it was clamped")
}

/// Trains a dictionary of at most `dictionary_bytes` on `samples`, off the async threads, one at a
/// time in this process. It takes as much memory again as the samples, and some megabytes.
///
/// Samples should be like the bodies that will come, and together about a hundred times as long as
/// the dictionary. zstd fails if there are too few of them; the connection goes on without one
/// then.
pub async fn train(samples: Vec<Bytes>, dictionary_bytes: usize) -> Result<Bytes, TrainError> {
    // Training keeps a processor busy for seconds, and there may be one for each connection.
    static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);
    let (count, bytes) = (samples.len(), samples.iter().map(Bytes::len).sum());
    let failed = |source| TrainError {
        samples: count,
        bytes,
        source,
    };
    let turn = ONE_AT_A_TIME.acquire().await;
    let turn = turn.expect("the semaphore is never closed");
    let training = move || {
        let trained = zstd::dict::from_samples(&samples, dictionary_bytes);
        // Training goes on when nobody waits for it; so does the turn.
        drop(turn);
        trained
    };
    match tokio::task::spawn_blocking(training).await {
        Ok(dictionary) => Ok(dictionary.map_err(failed)?.into()),
        Err(error) => Err(failed(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::spool::SpoolConfig;

    /// Bytes that compress somewhat, and are others for each seed.
    fn text(bytes: usize, seed: u64) -> Bytes {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut text = Vec::with_capacity(bytes + 16);
        while text.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.extend_from_slice(format!("{{\"id\":{}}}", state % 10_000).as_bytes());
        }
        text.truncate(bytes);
        text.into()
    }

    async fn trained() -> Bytes {
        let samples = (0..1_000).map(|seed| text(200, seed)).collect();
        train(samples, 4_096).await.unwrap()
    }

    async fn every_kind() -> Vec<Zstd> {
        vec![
            Zstd::new(3),
            Zstd::new(10),
            Zstd::with_dictionary(text(2_000, 7), 5),
            Zstd::with_dictionary(Bytes::new(), 3),
            Zstd::with_dictionary(trained().await, 3),
            Zstd::with_dictionary(trained().await, 10),
        ]
    }

    async fn decompress(
        zstd: &Zstd,
        wire: &[u8],
        announced: u64,
    ) -> Result<Payload, DecompressError> {
        let wire = Payload::from_bytes(wire.to_vec());
        let limits = DecompressLimits::default();
        zstd.decompress(&wire, announced, &limits, &Spool::default())
            .await
    }

    #[tokio::test]
    async fn bodies_of_every_length_come_back() {
        for zstd in every_kind().await {
            for bytes in [0, 1, 31, 65_535, 65_536, 65_537, 5 << 20] {
                let plain = Payload::from_bytes(text(bytes, 1));
                let wire = zstd.compress(&plain, &Spool::default()).await.unwrap();
                let wire = wire.to_bytes().await.unwrap();
                assert_eq!(&wire[..4], b"\x28\xb5\x2f\xfd");
                assert_eq!(wire[4], 0, "the frame header descriptor");
                let back = decompress(&zstd, &wire, plain.len()).await.unwrap();
                assert_eq!(back.sha512(), plain.sha512(), "{bytes}");
            }
        }
    }

    #[tokio::test]
    async fn bodies_in_files_come_back() {
        let spool = Spool::new(SpoolConfig {
            memory_each_max: 1_000_000,
            ..SpoolConfig::default()
        });
        let plain = spool.read(&text(40 << 20, 3)[..]).await.unwrap();
        assert!(plain.in_memory().is_none());
        let zstd = Zstd::new(3);
        let wire = zstd.compress(&plain, &spool).await.unwrap();
        let limits = DecompressLimits::default();
        let back = zstd.decompress(&wire, plain.len(), &limits, &spool).await;
        let back = back.unwrap();
        assert!(back.in_memory().is_none());
        assert_eq!(back.sha512(), plain.sha512());
    }

    #[tokio::test]
    async fn what_is_made_takes_room_of_the_spool() {
        let spool = Spool::new(SpoolConfig {
            memory_total_max: 100_000,
            ..SpoolConfig::default()
        });
        let zstd = Zstd::new(3);
        let plain = Payload::from_bytes(text(60_000, 1));
        let wire = zstd.compress(&plain, &spool).await.unwrap();
        assert_eq!(spool.memory_used(), wire.len());
        let limits = DecompressLimits::default();
        let decompress = || zstd.decompress(&wire, 60_000, &limits, &spool);
        let (one, other) = (decompress().await.unwrap(), decompress().await.unwrap());
        assert!(one.in_memory().is_some() && other.in_memory().is_none());
        assert_eq!(spool.memory_used(), wire.len() + 60_000);
        let again = zstd.compress(&other, &spool).await.unwrap();
        assert_eq!(again.sha512(), wire.sha512());
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_leaves_nothing_behind() {
        let spool = Spool::default();
        let plain = Payload::from_bytes(text(20 << 20, 1));
        let zstd = Zstd::new(3);
        for _ in 0..2 * ELSEWHERE_MAX {
            let mut work = Box::pin(zstd.compress(&plain, &spool));
            tokio::select! {
                biased;
                _ = &mut work => {}
                () = std::future::ready(()) => {}
            }
        }
        // Nothing of it is in the way.
        let wire = zstd.compress(&plain, &spool).await.unwrap();
        drop(wire);
        while Arc::strong_count(&zstd.0) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(spool.memory_used(), 0);
    }

    #[tokio::test]
    async fn a_dictionary_that_is_none_is_an_error_and_no_panic() {
        let mut broken = b"\x37\xa4\x30\xec".to_vec();
        broken.resize(500, 0xff);
        for bytes in [100, 300_000] {
            let zstd = Zstd::with_dictionary(broken.clone().into(), 3);
            let plain = Payload::from_bytes(text(bytes, 1));
            for _ in 0..2 {
                let error = zstd.compress(&plain, &Spool::default()).await.unwrap_err();
                assert_eq!(error.to_string(), "the dictionary is not one");
                let error = decompress(&zstd, &text(bytes, 1), 1).await.unwrap_err();
                assert!(matches!(error, DecompressError::Zstd(_)), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn several_frames_and_skippable_ones_are_one_body() {
        let zstd = Zstd::new(3);
        let plain = Payload::from_bytes(text(1_000, 1));
        let wire = zstd.compress(&plain, &Spool::default()).await.unwrap();
        let wire = wire.to_bytes().await.unwrap();
        let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
        let joined = [&wire[..], skippable, &wire[..]].concat();
        let both = decompress(&zstd, &joined, 2_000).await.unwrap();
        assert_eq!(both.to_bytes().await.unwrap(), text(1_000, 1).repeat(2));
        let (first, last) = ([skippable, &wire[..]], [&wire[..], skippable]);
        for joined in [first.concat(), last.concat()] {
            let one = decompress(&zstd, &joined, 1_000).await.unwrap();
            assert_eq!(one.sha512(), plain.sha512());
        }
    }

    #[tokio::test]
    async fn what_other_encoders_say_in_frames_is_understood() {
        let dictionary = trained().await;
        let zstd = Zstd::with_dictionary(dictionary.clone(), 3);
        let plain = text(5_000, 1);
        let mut encoder = Encoder::with_dictionary(3, &dictionary).unwrap();
        encoder
            .set_parameter(CParameter::ChecksumFlag(true))
            .unwrap();
        encoder.set_pledged_src_size(Some(5_000)).unwrap();
        let mut wire = vec![0; 10_000];
        let (mut input, mut output) = (InBuffer::around(&plain), OutBuffer::around(&mut wire[..]));
        encoder.run(&mut input, &mut output).unwrap();
        assert_eq!(encoder.finish(&mut output, true).unwrap(), 0);
        let mut wire = output.as_slice().to_vec();
        assert_ne!(wire[4] & 0b100, 0, "it has a checksum");
        assert_ne!(wire[4] & 0b11, 0, "it names the dictionary");
        assert_ne!(wire[4] & 0b1110_0000, 0, "it says its length");
        let back = decompress(&zstd, &wire, 5_000).await.unwrap();
        assert_eq!(back.to_bytes().await.unwrap(), plain);
        *wire.last_mut().unwrap() ^= 1;
        assert!(decompress(&zstd, &wire, 5_000).await.is_err(), "checksum");
    }

    #[tokio::test]
    async fn what_is_cut_short_or_has_something_behind_it_is_refused() {
        for zstd in every_kind().await {
            let plain = Payload::from_bytes(text(300, 1));
            let wire = zstd.compress(&plain, &Spool::default()).await.unwrap();
            let wire = wire.to_bytes().await.unwrap();
            for end in 0..wire.len() {
                let cut = decompress(&zstd, &wire[..end], 300).await;
                assert!(cut.is_err(), "{end} of {}", wire.len());
            }
            for behind in [&b"x"[..], b"xxxx", b"\x28\xb5\x2f", &[0; 200]] {
                let more = [&wire[..], behind].concat();
                assert!(decompress(&zstd, &more, 300).await.is_err(), "{behind:?}");
            }
        }
    }

    #[tokio::test]
    async fn another_length_than_announced_is_refused() {
        let zstd = Zstd::new(3);
        for bytes in [300_u64, 300_000] {
            let plain = Payload::from_bytes(text(bytes as usize, 1));
            let wire = zstd.compress(&plain, &Spool::default()).await.unwrap();
            let wire = wire.to_bytes().await.unwrap();
            for announced in [0, bytes - 1, bytes + 1] {
                let refused = decompress(&zstd, &wire, announced).await.unwrap_err();
                assert!(
                    matches!(refused, DecompressError::Length { .. }),
                    "{refused}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_window_that_is_too_large_is_refused() {
        let frame = |log: u8| {
            // Descriptor without anything, a window of 2^log bytes, and one last raw block of "a".
            let mut frame = b"\x28\xb5\x2f\xfd\x00".to_vec();
            frame.extend([(log - 10) << 3, 0b1001, 0, 0, b'a']);
            frame
        };
        let zstd = Zstd::new(3);
        assert_eq!(decompress(&zstd, &frame(23), 1).await.unwrap().len(), 1);
        for log in [24, 28, 31] {
            let refused = decompress(&zstd, &frame(log), 1).await.unwrap_err();
            assert!(matches!(refused, DecompressError::Zstd(_)), "{refused}");
        }
        let limits = DecompressLimits {
            window_bytes_max: 0,
        };
        for (log, is_fine) in [(24, true), (27, true), (28, false)] {
            let wire = Payload::from_bytes(frame(log));
            let got = zstd.decompress(&wire, 1, &limits, &Spool::default()).await;
            assert_eq!(got.is_ok(), is_fine, "{log}");
        }
    }

    /// A GiB of nothing, which is 32 KiB of zstd at its best.
    async fn bomb(zstd: &Zstd) -> Payload {
        let zeros = Payload::from_bytes(vec![0; 1 << 30]);
        let wire = zstd.compress(&zeros, &Spool::default()).await.unwrap();
        assert!(wire.len() < 200_000);
        wire
    }

    #[tokio::test]
    async fn compressible_messages_are_made_whole_and_bombs_write_no_more_than_they_announced() {
        let zstd = Zstd::new(3);
        let limits = DecompressLimits::default();
        let line = "the very same line, again and again\n";
        let honest = Payload::from_bytes(line.repeat((64 << 20) / line.len()));
        let wire = zstd.compress(&honest, &Spool::default()).await.unwrap();
        assert!(honest.len() / wire.len() > 1_000);
        let spool = Spool::default();
        let back = zstd.decompress(&wire, honest.len(), &limits, &spool);
        assert_eq!(back.await.unwrap().sha512(), honest.sha512());
        drop(honest);
        let bomb = bomb(&zstd).await;
        for announced in [0, 1_000_000, (8 << 20) - 1] {
            let mut written = 0;
            let refused = zstd.0.decompress(&bomb, announced, &limits, |part| {
                written += part.len() as u64;
                Ok(())
            });
            let refused = refused.unwrap_err();
            let is_longer = matches!(refused, DecompressError::Length { more: true, .. });
            assert!(is_longer && written <= announced, "{refused}, {written}");
        }
        // For what it announces there is no room: nothing of it is even tried.
        let small = Spool::new(SpoolConfig {
            disk_total_max: 1 << 20,
            ..SpoolConfig::default()
        });
        let refused = zstd.decompress(&bomb, 1 << 30, &limits, &small).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, DecompressError::Spool(_)), "{refused}");
        assert_eq!((small.disk_used(), small.memory_used()), (0, 0));
    }

    #[tokio::test]
    async fn a_trained_dictionary_makes_small_messages_smaller() {
        let sample = |seed| {
            Bytes::from(format!(
                "{{\"event\":\"updated\",\"account\":\"acct-{seed}\",\"path\":\"/v1/{}\"}}",
                seed * 7919 % 1_000
            ))
        };
        let dictionary = train((0..2_000).map(sample).collect(), 4_096)
            .await
            .unwrap();
        assert!(dictionary.len() <= 4_096);
        assert_eq!(&dictionary[..4], b"\x37\xa4\x30\xec");
        let plain = Payload::from_bytes(sample(5_000));
        let spool = Spool::default();
        let with = Zstd::with_dictionary(dictionary, 3);
        let wire = with.compress(&plain, &spool).await.unwrap();
        let without = Zstd::new(3).compress(&plain, &spool).await.unwrap();
        assert!(
            wire.len() < without.len(),
            "{} {}",
            wire.len(),
            without.len()
        );
        let back = decompress(&with, &wire.to_bytes().await.unwrap(), plain.len()).await;
        assert_eq!(back.unwrap().sha512(), plain.sha512());
    }

    #[tokio::test]
    async fn too_few_samples_make_no_dictionary() {
        let error = train(vec![Bytes::from_static(b"a")], 4_096)
            .await
            .unwrap_err();
        let want = "cannot train a dictionary on 1 samples of 1 bytes: ";
        assert!(error.to_string().starts_with(want), "{error}");
        for samples in [vec![], vec![Bytes::new(); 5], vec![text(100_000, 1)]] {
            assert!(train(samples, 4_096).await.is_err());
        }
        for dictionary_bytes in [0, 10, 255] {
            let samples = (0..1_000).map(|seed| text(100, seed)).collect();
            assert!(train(samples, dictionary_bytes).await.is_err());
        }
    }
}
