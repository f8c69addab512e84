//! Makes a [`Payload`] of a body that arrives in parts: hashed, counted, and held in memory or in a
//! file.
//!
//! A body begins in memory. Once it is too long for that, or memory is short, all of it goes to a
//! file and stays there. Parts that come in small pieces are collected before they are written, as
//! each write is a hop to another thread.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use httppubsub_proto::digest::{Sha512, Sha512Hasher};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::body::payload::{CHUNK_BYTES, Kept, Payload, blocking};
use crate::body::reader::{BodyError, BodyReader};
use crate::body::spool::{DiskRoom, Reservation, Spool};

impl Spool {
    /// Reads all of `source`, whose length and digest are not known yet.
    ///
    /// ```
    /// use httppubsub_net::body::Spool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let payload = Spool::default().read(&b"from a pipe"[..]).await?;
    /// assert_eq!(payload.len(), 11);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read(&self, mut source: impl AsyncRead + Unpin) -> io::Result<Payload> {
        let mut filling = Filling::new(self);
        loop {
            // A fresh buffer for each part: it is handed on whole, without a copy.
            let mut part = BytesMut::with_capacity(CHUNK_BYTES);
            if source.read_buf(&mut part).await? == 0 {
                break;
            }
            filling.push(part.freeze()).await?;
        }
        filling.payload().await
    }
}

/// Failure to make a [`Payload`] of a body.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// It could not be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It has another length than its head says.
    #[error(
        "the head announces {announced} bytes, the body has {}{got}",
        if *.more { "more than " } else { "" }
    )]
    Length {
        /// As announced.
        announced: u64,
        /// As counted, up to where it was clear.
        got: u64,
        /// `true` if there were more.
        more: bool,
    },
    /// It has another digest than was announced.
    #[error("the message has the sha512 {got}, not the one announced")]
    Digest {
        /// As computed.
        got: Sha512,
    },
    /// Our disk, not their message: worth an alert.
    #[error("could not hold the body: {0}")]
    Spool(io::Error),
}

impl From<io::Error> for FillError {
    fn from(cause: io::Error) -> Self {
        Self::Spool(cause)
    }
}

impl Payload {
    /// Takes all that is left of a body, whose length and digest nobody has announced, into the
    /// spool of `body`; at most `bytes_max` bytes. That it is whole is for its framing to say.
    pub async fn take<B>(body: &mut BodyReader<B>, bytes_max: u64) -> Result<Self, FillError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let too_long = || BodyError::TooLong {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        };
        let mut filling = match body.bytes_left() {
            Some(bytes) if bytes > bytes_max => return Err(too_long().into()),
            Some(bytes) => Filling::announced(body.spool(), bytes)?,
            None => Filling::new(body.spool()),
        };
        while let Some(part) = body.part().await? {
            if filling.bytes + part.len() as u64 > bytes_max {
                return Err(too_long().into());
            }
            filling.push(part).await?;
        }
        Ok(filling.payload().await?)
    }

    /// Takes what is left of a body, which must be exactly `announced` bytes with the digest
    /// `sha512`, into the spool of `body`.
    pub async fn fill<B>(
        body: &mut BodyReader<B>,
        announced: u64,
        sha512: &Sha512,
    ) -> Result<Self, FillError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Nothing is taken for a length that cannot come.
        if let Some(got) = body.bytes_left()
            && got != announced
        {
            let more = got > announced;
            return Err(FillError::Length {
                announced,
                got: got.min(announced),
                more,
            });
        }
        let mut writer = PayloadWriter::new(body.spool(), announced, *sha512)?;
        while let Some(part) = body.part().await? {
            writer.push(part).await?;
        }
        writer.finish().await
    }
}

/// Takes a body part by part: hashes, counts and spools it. It is a [`Payload`] only if length and
/// digest are those announced.
///
/// ```
/// use httppubsub_net::body::{PayloadWriter, Spool};
/// use httppubsub_proto::digest::Sha512;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut writer = PayloadWriter::new(&Spool::default(), 5, Sha512::of(b"hello"))?;
/// writer.push("hel".into()).await?;
/// writer.push("lo".into()).await?;
/// assert_eq!(writer.finish().await?.to_bytes().await?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PayloadWriter {
    /// The part that came so far, hashed and held.
    filling: Filling,
    /// Length that the head of the message gave, in bytes.
    announced: u64,
    /// Digest that the head of the message gave; the authorization vouches for it.
    sha512: Sha512,
}

impl PayloadWriter {
    /// For a body that was announced so. Fails if it needs a file for which there is no room.
    pub fn new(spool: &Spool, announced: u64, sha512: Sha512) -> Result<Self, FillError> {
        let filling = Filling::announced(spool, announced)?;
        Ok(Self {
            filling,
            announced,
            sha512,
        })
    }

    /// The next part. Fails as soon as there is more than was announced. If it is dropped before it
    /// is done, there will be no payload.
    pub async fn push(&mut self, part: Bytes) -> Result<(), FillError> {
        // Before it is hashed or held: a peer that sends on does not fill the disk.
        if self.filling.bytes + part.len() as u64 > self.announced {
            return Err(FillError::Length {
                announced: self.announced,
                got: self.announced,
                more: true,
            });
        }
        Ok(self.filling.push(part).await?)
    }

    /// That was all.
    pub async fn finish(self) -> Result<Payload, FillError> {
        let got = self.filling.bytes;
        if got < self.announced {
            return Err(FillError::Length {
                announced: self.announced,
                got,
                more: false,
            });
        }
        // The digest is checked last, as it is known last. A payload that fails here is dropped,
        // and its room with it.
        let payload = self.filling.payload().await?;
        match *payload.sha512() {
            got if got == self.sha512 => Ok(payload),
            got => Err(FillError::Digest { got }),
        }
    }
}

/// A payload that is still arriving. It moves to a file at most once: when it is longer than
/// [`SpoolConfig::memory_each_max`](crate::body::SpoolConfig), or when memory is short.
#[derive(Debug)]
pub(crate) struct Filling {
    /// Has taken all bytes but those in `waiting`.
    hasher: Sha512Hasher,
    /// All that came, wherever it is, in bytes.
    bytes: u64,
    /// The part that is held in memory; empty once there is a file.
    memory: Blocks,
    /// Of what is in memory, or waits for the file.
    room: Reservation,
    /// There is none before the first byte goes to a file, or is announced for one.
    disk: Option<DiskRoom>,
    /// Without a name. Nothing goes back to memory once there is one.
    file: Option<File>,
    /// Arrived, not in the hasher and the file yet.
    waiting: Blocks,
    /// Bytes that wait before they are written together.
    waiting_max: usize,
    /// `true` while what arrived is elsewhere, from where it does not come back when a push is
    /// dropped before it is done.
    is_away: bool,
}

impl Filling {
    /// For a body of which nothing is known: room is taken as it comes.
    pub(crate) fn new(spool: &Spool) -> Self {
        Self {
            hasher: Sha512Hasher::default(),
            bytes: 0,
            memory: Blocks::default(),
            room: spool.reservation(),
            disk: None,
            file: None,
            waiting: Blocks::default(),
            waiting_max: 0,
            is_away: false,
        }
    }

    /// The room on disk, made when it is first needed.
    fn disk(&mut self) -> &mut DiskRoom {
        let spool = self.room.spool();
        self.disk
            .get_or_insert_with(|| DiskRoom::none(spool.clone()))
    }

    /// `true` if a part of `bytes` bytes, which are counted already, has room in memory.
    fn stays_in_memory(&mut self, bytes: usize) -> bool {
        self.file.is_none()
            && self.bytes <= self.room.spool().config().memory_each_max
            && self.room.grow_unless_file(bytes as u64)
    }

    /// For a body of `bytes` bytes. Fails if it needs a file for which there is no room.
    pub(crate) fn announced(spool: &Spool, bytes: u64) -> io::Result<Self> {
        // Only what certainly needs a file takes its room at once, so that a body that would not
        // fit is refused before it is sent.
        let needs_file = bytes > spool.config().memory_each_max;
        let mut filling = Self::new(spool);
        if needs_file {
            filling.disk().take(bytes)?;
        }
        Ok(filling)
    }

    /// Takes the next part, in memory or in the file. Not to be called again after it was dropped
    /// before it was done, or failed.
    pub(crate) async fn push(&mut self, part: Bytes) -> io::Result<()> {
        self.bytes += part.len() as u64;
        if self.is_away {
            return Err(given_up());
        }
        if self.stays_in_memory(part.len()) {
            // A quarter of a megabyte is hashed in half a millisecond; longer parts would keep
            // this thread from its other tasks.
            if part.len() <= CHUNK_BYTES {
                self.hasher.update(&part);
            } else {
                self.is_away = true;
                let (mut hasher, hashed) = (std::mem::take(&mut self.hasher), part.clone());
                let hashing = move || {
                    hasher.update(&hashed);
                    Ok(hasher)
                };
                self.hasher = blocking(hashing).await?;
                self.is_away = false;
            }
            self.memory.push(part);
            return Ok(());
        }
        let bytes = self.on_disk_with(part.len());
        self.disk().write(bytes)?;
        self.waiting.push(part);
        if self.file.is_none() || self.waiting.bytes >= self.waiting_max {
            self.write_waiting().await?;
        }
        Ok(())
    }

    /// The next part, on a thread that may wait.
    #[cfg(feature = "websocket")]
    pub(crate) fn push_blocking(&mut self, part: &[u8]) -> io::Result<()> {
        self.bytes += part.len() as u64;
        if self.stays_in_memory(part.len()) {
            self.hasher.update(part);
            self.memory.copy(part);
            return Ok(());
        }
        let bytes = self.on_disk_with(part.len());
        self.disk().write(bytes)?;
        // What is in memory goes to the file with the first part that has no room there.
        if self.file.is_none() {
            let written = self.unwritten().write();
            if written.is_err() {
                self.room.spool().note(&written);
            }
            self.written(written?);
        }
        self.hasher.update(part);
        let written = match &mut self.file {
            Some(file) => io::Write::write_all(file, part),
            None => Ok(()),
        };
        if written.is_err() {
            self.room.spool().note(&written);
        }
        written
    }

    /// Bytes that go to the file because of a part of `bytes` bytes, which is counted already: what
    /// is in memory goes along with the first.
    fn on_disk_with(&self, bytes: usize) -> u64 {
        match self.file {
            Some(_) => bytes as u64,
            None => self.bytes,
        }
    }

    /// Hashes and writes what waits, on a thread that may wait for the disk.
    async fn write_waiting(&mut self) -> io::Result<()> {
        let unwritten = self.unwritten();
        let written = blocking(move || unwritten.write()).await;
        if written.is_err() {
            self.room.spool().note(&written);
        }
        self.written(written?);
        Ok(())
    }

    /// Takes all that has to go to the file out of here; [`Filling::written`] brings back what is
    /// left of it.
    fn unwritten(&mut self) -> Unwritten {
        self.is_away = true;
        Unwritten {
            folder: self.room.spool().config().folder.clone(),
            file: self.file.take(),
            hashed: self.memory.take(),
            waiting: self.waiting.take(),
            hasher: std::mem::take(&mut self.hasher),
        }
    }

    /// Everything until here is in the file.
    fn written(&mut self, (file, hasher): (File, Sha512Hasher)) {
        self.file = Some(file);
        self.hasher = hasher;
        self.is_away = false;
        // After the first write nothing is in memory, so its room is given back, except for what is
        // to be collected before each further write.
        if self.waiting_max == 0 {
            self.room.shrink_to(0);
            self.waiting_max = match self.room.grow_unless_file(CHUNK_BYTES as u64) {
                true => CHUNK_BYTES,
                false => WAITING_BYTES_MIN,
            };
        }
    }

    /// The payload, of whatever length and digest it has.
    pub(crate) async fn payload(mut self) -> io::Result<Payload> {
        if self.waiting.bytes > 0 {
            self.write_waiting().await?;
        }
        self.finish()
    }

    /// The same after nothing but [`Filling::push_blocking`], which leaves nothing waiting.
    pub(crate) fn finish(mut self) -> io::Result<Payload> {
        if self.is_away {
            return Err(given_up());
        }
        let kept = match self.file {
            Some(file) => Kept::File {
                file,
                offset: 0,
                _room: self.disk,
            },
            None => {
                // Most bodies came in one piece and need no copy.
                let bytes = match <[Bytes; 1]>::try_from(self.memory.take()) {
                    Ok([only]) => only,
                    Err(parts) => parts.concat().into(),
                };
                Kept::Memory {
                    bytes,
                    _room: Some(self.room),
                }
            }
        };
        Ok(Payload::kept(self.bytes, self.hasher.finish(), kept))
    }
}

/// The error of a payload of which a part was lost in a push that was dropped.
fn given_up() -> io::Error {
    io::Error::other("a part of the body was given up")
}

/// Bytes of a body that wait to be written where memory has no room for more.
const WAITING_BYTES_MIN: usize = 4 * 1024;

/// Parts from this length on are kept as they came. Shorter ones are copied: each would keep the
/// whole buffer that it was read into.
const COPIED_BELOW_BYTES: usize = 16 * 1024;

/// Bytes in order, of which small parts are joined.
#[derive(Debug, Default)]
struct Blocks {
    /// Blocks that nothing is added to.
    whole: Vec<Bytes>,
    /// The bytes after `whole`, to which more can be added.
    last: BytesMut,
    /// Length of all blocks.
    bytes: usize,
}

impl Blocks {
    /// Adds `part` at the end, without a copy if it is long enough.
    fn push(&mut self, part: Bytes) {
        if part.len() < COPIED_BELOW_BYTES {
            return self.copy(&part);
        }
        self.bytes += part.len();
        self.end_last();
        self.whole.push(part);
    }

    /// Adds a copy of `part` at the end.
    fn copy(&mut self, part: &[u8]) {
        if self.last.capacity() - self.last.len() < part.len() {
            self.end_last();
            // The first is exactly as long as it must be, and never is more than half of all
            // unused.
            let capacity = part.len().max(self.bytes.min(CHUNK_BYTES));
            self.last = BytesMut::with_capacity(capacity);
        }
        self.bytes += part.len();
        self.last.extend_from_slice(part);
    }

    /// Closes the block to which copies are added, as a whole part follows.
    fn end_last(&mut self) {
        if !self.last.is_empty() {
            self.whole.push(std::mem::take(&mut self.last).freeze());
        }
    }

    /// All blocks in order; none is left.
    fn take(&mut self) -> Vec<Bytes> {
        self.end_last();
        self.bytes = 0;
        std::mem::take(&mut self.whole)
    }
}

/// The part of a body that has still to go to its file.
struct Unwritten {
    /// The folder in which the file is made, if there is none.
    folder: PathBuf,
    /// The file until here; `None` before the first byte goes to one.
    file: Option<File>,
    /// Parts that were in memory, and are in the hasher already.
    hashed: Vec<Bytes>,
    /// Parts that came since, and are not in the hasher.
    waiting: Vec<Bytes>,
    /// Moved along, so that hashing is done on the thread that writes.
    hasher: Sha512Hasher,
}

impl Unwritten {
    /// Hashes and writes everything. On failure the file is dropped, and with it what it holds.
    fn write(mut self) -> io::Result<(File, Sha512Hasher)> {
        let mut file = match self.file {
            Some(file) => file,
            // Without a name from the start: no crash leaves it behind, and nobody else can open
            // it.
            None => tempfile::tempfile_in(self.folder)?,
        };
        for part in &self.hashed {
            io::Write::write_all(&mut file, part)?;
        }
        for part in &self.waiting {
            self.hasher.update(part);
            io::Write::write_all(&mut file, part)?;
        }
        Ok((file, self.hasher))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::body::reader::BodyLimits;
    use crate::body::spool::SpoolConfig;

    fn small_spool() -> Spool {
        Spool::new(SpoolConfig {
            memory_each_max: 10,
            memory_total_max: 15,
            ..SpoolConfig::default()
        })
    }

    async fn fill(
        body: &'static [u8],
        announced: u64,
        sha512: Sha512,
    ) -> Result<Payload, FillError> {
        let mut body = BodyReader::new(
            Full::new(Bytes::from_static(body)),
            BodyLimits::default(),
            small_spool(),
        );
        Payload::fill(&mut body, announced, &sha512).await
    }

    #[tokio::test]
    async fn only_a_body_of_the_announced_length_and_digest_is_a_payload() {
        assert!(fill(b"hello", 5, Sha512::of(b"hello")).await.is_ok());
        let error = fill(b"hello", 4, Sha512::of(b"hell")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the head announces 4 bytes, the body has more than 4"
        );
        let error = fill(b"hello", u64::MAX, Sha512::of(b"hello"))
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                FillError::Length {
                    got: 5,
                    more: false,
                    ..
                }
            ),
            "{error}"
        );
        let error = fill(b"hello", 5, Sha512::of(b"hallo")).await.unwrap_err();
        assert!(matches!(error, FillError::Digest { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_too_large_for_memory_goes_to_a_file_and_reads_the_same() {
        for size in [0, 1, 10, 11, 300_000, 1_000_000] {
            let source: Vec<u8> = (0..size).map(|at: u32| at.to_be_bytes()[3]).collect();
            let spool = small_spool();
            let payload = spool.read(&source[..]).await.unwrap();
            assert_eq!(payload.in_memory().is_some(), size <= 10, "{size}");
            assert_eq!(
                spool.memory_used(),
                if size <= 10 { u64::from(size) } else { 0 }
            );
            assert_eq!(*payload.sha512(), Sha512::of(&source));
            assert_eq!(payload.to_bytes().await.unwrap(), source);
            for _ in 0..2 {
                let (mut reader, mut read) = (payload.reader(), Vec::new());
                while let Some(part) = reader.part().await.unwrap() {
                    read.extend_from_slice(&part);
                }
                assert_eq!(read, source);
            }
            drop(payload);
            assert_eq!(spool.memory_used(), 0);
        }
    }

    #[tokio::test]
    async fn a_body_that_comes_in_parts_is_a_payload_whatever_the_parts() {
        let source: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_be_bytes()[2]).collect();
        for spool in [small_spool(), Spool::default()] {
            for part_bytes in [7, 100_000, CHUNK_BYTES + 1, 1_000_000] {
                let mut writer =
                    PayloadWriter::new(&spool, source.len() as u64, Sha512::of(&source)).unwrap();
                for part in source.chunks(part_bytes) {
                    writer.push(Bytes::copy_from_slice(part)).await.unwrap();
                }
                let error = writer.push(Bytes::from_static(b"!")).await.unwrap_err();
                assert!(matches!(error, FillError::Length { more: true, .. }));
                let payload = writer.finish().await.unwrap();
                assert_eq!(payload.to_bytes().await.unwrap(), source, "{part_bytes}");
            }
            assert_eq!(spool.memory_used(), 0);
        }
    }

    #[test]
    fn a_part_that_was_given_up_is_not_left_out_unnoticed() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(parts_given_up());
    }

    async fn parts_given_up() {
        let part = Bytes::from(vec![7; CHUNK_BYTES + 1]);
        // Hashed elsewhere, and written to a file.
        for spool in [Spool::default(), small_spool()] {
            let announced = part.len() as u64 + 1;
            let mut writer = PayloadWriter::new(&spool, announced, Sha512::of(b"!")).unwrap();
            // The only thread that may wait does.
            let (release, released) = std::sync::mpsc::channel::<()>();
            let held = tokio::task::spawn_blocking(move || released.recv());
            tokio::select! {
                biased;
                pushed = writer.push(part.clone()) => panic!("{pushed:?}"),
                () = std::future::ready(()) => {}
            }
            drop(release);
            assert!(held.await.unwrap().is_err());
            let pushed = writer.push(Bytes::from_static(b"!")).await;
            assert!(matches!(pushed, Err(FillError::Spool(_))), "{pushed:?}");
            let error = writer.finish().await.unwrap_err();
            assert!(matches!(error, FillError::Spool(_)), "{error}");
            assert_eq!(spool.memory_used(), 0);
        }
    }

    #[tokio::test]
    async fn small_bodies_go_to_files_when_memory_is_used_up() {
        let spool = small_spool();
        let first = spool.read(&b"0123456789"[..]).await.unwrap();
        let second = spool.read(&b"0123456789"[..]).await.unwrap();
        assert!(first.in_memory().is_some() && second.in_memory().is_none());
        assert_eq!(second.to_bytes().await.unwrap(), "0123456789");
    }

    #[test]
    fn a_file_that_fails_later_is_trouble_of_the_spool_as_well() {
        let spool = Spool::new(SpoolConfig {
            memory_each_max: 10,
            ..SpoolConfig::default()
        });
        let mut filling = Filling::new(&spool);
        filling.push_blocking(&[7; 20]).unwrap();
        assert_eq!(spool.trouble(), None);
        // Not open for writing.
        filling.file = Some(File::open("/dev/null").unwrap());
        filling.push_blocking(&[7; 20]).unwrap_err();
        assert!(spool.trouble().is_some());
    }
}
