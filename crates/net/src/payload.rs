//! The body of a message, known to have the length and the digest that were announced: in memory,
//! or in a temporary file that no folder names any more.

use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Body;
use httppubsub_proto::digest::{Sha512, Sha512Hasher};
#[cfg(target_os = "linux")]
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::body::{BodyError, BodyReader};
use crate::spool::{DiskRoom, Reservation, Spool};

impl Spool {
    /// Reads all of `source`, whose length and digest are not known yet.
    pub async fn read(&self, mut source: impl AsyncRead + Unpin) -> io::Result<Payload> {
        let mut filling = Filling::new(self);
        loop {
            let mut part = BytesMut::with_capacity(CHUNK_BYTES);
            if source.read_buf(&mut part).await? == 0 {
                break;
            }
            filling.push(part.freeze()).await?;
        }
        filling.payload().await
    }
}

/// Why a body did not become a [`Payload`].
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// It could not be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It has another length than its head says.
    #[error("the head announces {announced} bytes, the body has {}{got}", if *.more { "more than " } else { "" })]
    Length {
        /// As announced.
        announced: u64,
        /// As counted, up to where it was clear.
        got: u64,
        /// Whether there were more.
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

/// A message's body that has the length and the digest that were announced for it. Clones share it.
#[derive(Clone, Debug)]
pub struct Payload(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: u64,
    sha512: Sha512,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Memory {
        bytes: Bytes,
        _room: Option<Reservation>,
    },
    /// The payload is what follows `offset`.
    File {
        file: File,
        offset: u64,
        _room: Option<DiskRoom>,
    },
}

impl Payload {
    /// The payload that these bytes are.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Arc::new(Inner {
            bytes: bytes.len() as u64,
            sha512: Sha512::of(&bytes),
            kept: Kept::Memory { bytes, _room: None },
        }))
    }

    /// The payload that `file` holds from byte `offset` to its end, read once for its digest. It
    /// must not change while the payload is in use.
    pub async fn from_file(file: File, offset: u64) -> io::Result<Self> {
        blocking(move || {
            let mut hasher = Sha512Hasher::default();
            let mut buffer = vec![0; CHUNK_BYTES];
            let mut bytes = 0;
            loop {
                match file.read_at(&mut buffer, offset + bytes)? {
                    0 => break,
                    read => {
                        hasher.update(&buffer[..read]);
                        bytes += read as u64;
                    }
                }
            }
            let kept = Kept::File {
                file,
                offset,
                _room: None,
            };
            Ok(Self(Arc::new(Inner {
                bytes,
                sha512: hasher.finish(),
                kept,
            })))
        })
        .await
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

    /// The payload of bytes whose digest the caller has just checked.
    pub fn checked(bytes: Bytes, sha512: Sha512) -> Self {
        Self(Arc::new(Inner {
            bytes: bytes.len() as u64,
            sha512,
            kept: Kept::Memory { bytes, _room: None },
        }))
    }

    /// The same of bytes that `room` was taken for: it is given back with the last clone.
    pub fn checked_within(bytes: Bytes, sha512: Sha512, room: Reservation) -> Self {
        Self(Arc::new(Inner {
            bytes: bytes.len() as u64,
            sha512,
            kept: Kept::Memory {
                bytes,
                _room: Some(room),
            },
        }))
    }

    /// These bytes of it, which must lie inside.
    pub async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.start > range.end || range.end > self.0.bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the range does not lie inside the body",
            ));
        }
        match &self.0.kept {
            Kept::Memory { .. } => self.read_range_blocking(range),
            Kept::File { .. } => {
                let payload = self.clone();
                blocking(move || payload.read_range_blocking(range)).await
            }
        }
    }

    /// The same on a thread that may wait; the range must lie inside.
    pub(crate) fn read_range_blocking(&self, range: Range<u64>) -> io::Result<Bytes> {
        let too_long = |_| io::Error::new(io::ErrorKind::OutOfMemory, "the range is too long");
        match &self.0.kept {
            Kept::Memory { bytes, .. } => {
                let at = |offset: u64| usize::try_from(offset).map_err(too_long);
                Ok(bytes.slice(at(range.start)?..at(range.end)?))
            }
            Kept::File { offset, .. } => {
                let length = usize::try_from(range.end - range.start).map_err(too_long)?;
                self.read_exact(offset + range.start, length)
            }
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.0.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.bytes == 0
    }

    /// Its digest.
    pub fn sha512(&self) -> &Sha512 {
        &self.0.sha512
    }

    /// Its bytes, if it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.0.kept {
            Kept::Memory { bytes, .. } => Some(bytes),
            Kept::File { .. } => None,
        }
    }

    /// Reads the payload from its start. Any number of readers may be used at once.
    pub fn reader(&self) -> PayloadReader {
        PayloadReader {
            payload: self.clone(),
            at: 0,
            state: ReaderState::default(),
            room: None,
        }
    }

    /// Reads all of it into memory.
    pub async fn to_bytes(&self) -> io::Result<Bytes> {
        if let Some(bytes) = self.in_memory() {
            return Ok(bytes.clone());
        }
        let mut all = Vec::new();
        self.reader().read_to_end(&mut all).await?;
        Ok(all.into())
    }
}

/// Large enough that the hop to a blocking thread does not count.
const CHUNK_BYTES: usize = 256 * 1024;

/// Takes a body part by part: hashes, counts and spools it. It is a [`Payload`] only if length and
/// digest are those announced.
#[derive(Debug)]
pub struct PayloadWriter {
    filling: Filling,
    announced: u64,
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
        let payload = self.filling.payload().await?;
        match *payload.sha512() {
            got if got == self.sha512 => Ok(payload),
            got => Err(FillError::Digest { got }),
        }
    }
}

/// A payload that is still arriving.
#[derive(Debug)]
pub(crate) struct Filling {
    hasher: Sha512Hasher,
    bytes: u64,
    memory: Blocks,
    /// Of what is in memory, or waits for the file.
    room: Reservation,
    /// There is none before the first byte goes to a file, or is announced for one.
    disk: Option<DiskRoom>,
    file: Option<File>,
    /// Arrived, not in the hasher and the file yet.
    waiting: Blocks,
    /// How much waits before it is written, in bytes.
    waiting_max: usize,
    /// Whether what arrived is elsewhere, from where it does not come back when a push is dropped
    /// before it is done.
    is_away: bool,
}

impl Filling {
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

    fn disk(&mut self) -> &mut DiskRoom {
        let spool = self.room.spool();
        self.disk
            .get_or_insert_with(|| DiskRoom::none(spool.clone()))
    }

    /// Whether a part of `bytes` bytes, which are counted already, has room in memory.
    fn stays_in_memory(&mut self, bytes: usize) -> bool {
        self.file.is_none()
            && self.bytes <= self.room.spool().config().memory_each_max
            && self.room.grow_unless_file(bytes as u64)
    }

    /// For a body of `bytes` bytes. Fails if it needs a file for which there is no room.
    pub(crate) fn announced(spool: &Spool, bytes: u64) -> io::Result<Self> {
        let needs_file = bytes > spool.config().memory_each_max;
        let mut filling = Self::new(spool);
        if needs_file {
            filling.disk().take(bytes)?;
        }
        Ok(filling)
    }

    pub(crate) async fn push(&mut self, part: Bytes) -> io::Result<()> {
        self.bytes += part.len() as u64;
        if self.is_away {
            return Err(given_up());
        }
        if self.stays_in_memory(part.len()) {
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
    pub(crate) fn push_blocking(&mut self, part: &[u8]) -> io::Result<()> {
        self.bytes += part.len() as u64;
        if self.stays_in_memory(part.len()) {
            self.hasher.update(part);
            self.memory.copy(part);
            return Ok(());
        }
        let bytes = self.on_disk_with(part.len());
        self.disk().write(bytes)?;
        if self.file.is_none() {
            let written = self.unwritten().write();
            if written.is_err() {
                self.room.spool().note(&written);
            }
            self.written(written?);
        }
        self.hasher.update(part);
        match &mut self.file {
            Some(file) => io::Write::write_all(file, part),
            None => Ok(()),
        }
    }

    /// How much goes to the file because of a part of so many bytes, which is counted already: what is
    /// in memory goes along with the first.
    fn on_disk_with(&self, bytes: usize) -> u64 {
        match self.file {
            Some(_) => bytes as u64,
            None => self.bytes,
        }
    }

    async fn write_waiting(&mut self) -> io::Result<()> {
        let unwritten = self.unwritten();
        let written = blocking(move || unwritten.write()).await;
        if written.is_err() {
            self.room.spool().note(&written);
        }
        self.written(written?);
        Ok(())
    }

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

    fn written(&mut self, (file, hasher): (File, Sha512Hasher)) {
        self.file = Some(file);
        self.hasher = hasher;
        self.is_away = false;
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
        Ok(Payload(Arc::new(Inner {
            bytes: self.bytes,
            sha512: self.hasher.finish(),
            kept,
        })))
    }
}

fn given_up() -> io::Error {
    io::Error::other("a part of the body was given up")
}

/// How much is read of a file at once where memory has no room for more.
const SMALL_CHUNK_BYTES: usize = 16 * 1024;

/// How much of a body waits to be written where memory has no room for more.
const WAITING_BYTES_MIN: usize = 4 * 1024;

/// Parts from this length on are kept as they came. Shorter ones are copied: each would keep the
/// whole buffer that it was read into.
const COPIED_BELOW_BYTES: usize = 16 * 1024;

/// Bytes in order, of which small parts are joined.
#[derive(Debug, Default)]
struct Blocks {
    whole: Vec<Bytes>,
    /// What follows `whole`, and more can be added to.
    last: BytesMut,
    bytes: usize,
}

impl Blocks {
    fn push(&mut self, part: Bytes) {
        if part.len() < COPIED_BELOW_BYTES {
            return self.copy(&part);
        }
        self.bytes += part.len();
        self.end_last();
        self.whole.push(part);
    }

    fn copy(&mut self, part: &[u8]) {
        if self.last.capacity() - self.last.len() < part.len() {
            self.end_last();
            // The first is exactly as long as it must be, and never is more than half of all unused.
            let capacity = part.len().max(self.bytes.min(CHUNK_BYTES));
            self.last = BytesMut::with_capacity(capacity);
        }
        self.bytes += part.len();
        self.last.extend_from_slice(part);
    }

    fn end_last(&mut self) {
        if !self.last.is_empty() {
            self.whole.push(std::mem::take(&mut self.last).freeze());
        }
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.end_last();
        self.bytes = 0;
        std::mem::take(&mut self.whole)
    }
}

/// What of a body has still to go to its file.
struct Unwritten {
    folder: PathBuf,
    file: Option<File>,
    hashed: Vec<Bytes>,
    waiting: Vec<Bytes>,
    hasher: Sha512Hasher,
}

impl Unwritten {
    fn write(mut self) -> io::Result<(File, Sha512Hasher)> {
        let mut file = match self.file {
            Some(file) => file,
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

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Reads a payload from its start.
#[derive(Debug)]
pub struct PayloadReader {
    payload: Payload,
    at: u64,
    state: ReaderState,
    /// Of what is read of a file at once.
    room: Option<Reservation>,
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

#[derive(Default)]
enum ReaderState {
    #[default]
    Idle,
    Reading(Reading),
    /// Read from the file, not handed out yet.
    Ahead(Bytes),
}

impl std::fmt::Debug for ReaderState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Reading(_) => "Reading",
            Self::Ahead(_) => "Ahead",
        })
    }
}

impl PayloadReader {
    pub(crate) fn payload(&self) -> &Payload {
        &self.payload
    }

    /// How many bytes were handed out.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next part, not empty; `None` at the end.
    pub(crate) async fn part(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_part(cx))
            .await
            .transpose()
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let left = self.payload.0.bytes - self.at;
        loop {
            if left == 0 {
                return Poll::Ready(None);
            }
            match &mut self.state {
                ReaderState::Ahead(ahead) => {
                    let part = std::mem::take(ahead);
                    self.state = ReaderState::Idle;
                    self.at += part.len() as u64;
                    return Poll::Ready(Some(Ok(part)));
                }
                ReaderState::Reading(reading) => match ready!(reading.as_mut().poll(cx)) {
                    Ok(part) => self.state = ReaderState::Ahead(part),
                    Err(error) => {
                        self.state = ReaderState::Idle;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                ReaderState::Idle => match &self.payload.0.kept {
                    // In parts as well, so that it can be told how much a peer has taken.
                    Kept::Memory { bytes, .. } => {
                        let start = usize::try_from(self.at).expect("memory holds it");
                        let end = bytes.len().min(start + CHUNK_BYTES);
                        self.state = ReaderState::Ahead(bytes.slice(start..end));
                    }
                    Kept::File { offset, .. } => {
                        let payload = self.payload.clone();
                        let at = offset + self.at;
                        let chunk_bytes = self.payload.take_chunk(&mut self.room);
                        self.state = ReaderState::Reading(Box::pin(blocking(move || {
                            let bytes = usize::try_from(left).unwrap_or(usize::MAX);
                            payload.read_exact(at, bytes.min(chunk_bytes))
                        })));
                    }
                },
            }
        }
    }
}

impl Payload {
    /// Sends of what is in a file as much as `socket` takes at this moment, from `at` on and `max` bytes
    /// at most: one at least, or it fails with [`io::ErrorKind::WouldBlock`]. Waits for the disk only.
    /// Fails with [`io::ErrorKind::Unsupported`] if it is not in a file, or not in one of that kind.
    pub(crate) fn send_to(&self, socket: impl AsFd, at: u64, max: usize) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if let Kept::File { file, offset, .. } = &self.0.kept {
            let left = usize::try_from(self.0.bytes - at).unwrap_or(usize::MAX);
            let mut from = offset + at;
            return match rustix::fs::sendfile(socket, file, Some(&mut from), left.min(max)) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => Ok(sent),
                Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
                Err(error) => Err(error.into()),
            };
        }
        let _ = (socket, at, max);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// How much of a file a reader may read at once: a large chunk if there is room for it, which is
    /// kept in `room`.
    fn take_chunk(&self, room: &mut Option<Reservation>) -> usize {
        let Kept::File {
            _room: Some(disk), ..
        } = &self.0.kept
        else {
            return CHUNK_BYTES;
        };
        if room.is_none() {
            let mut reservation = disk.spool().reservation();
            if !reservation.grow_unless_file(CHUNK_BYTES as u64) {
                return SMALL_CHUNK_BYTES;
            }
            *room = Some(reservation);
        }
        CHUNK_BYTES
    }

    fn read_exact(&self, at: u64, bytes: usize) -> io::Result<Bytes> {
        let Kept::File { file, .. } = &self.0.kept else {
            return Err(io::Error::other(
                "a payload in memory is not read in chunks",
            ));
        };
        let mut chunk = vec![0; bytes];
        file.read_exact_at(&mut chunk, at)?;
        Ok(chunk.into())
    }
}

impl AsyncRead for PayloadReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(part) = ready!(self.poll_part(cx)).transpose()? else {
            return Poll::Ready(Ok(()));
        };
        let mut part = part;
        let bytes = part.len().min(buffer.remaining());
        buffer.put_slice(&part[..bytes]);
        part.advance(bytes);
        if !part.is_empty() {
            self.at -= part.len() as u64;
            self.state = ReaderState::Ahead(part);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::BodyLimits;
    use crate::spool::SpoolConfig;
    use http_body_util::Full;

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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_in_a_file_goes_to_a_socket_whole_and_as_fast_as_that_takes_it() {
        use std::io::Read as _;

        let body: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let body: &'static [u8] = body.leak();
        let announced = body.len() as u64;
        let payload = fill(body, announced, Sha512::of(body)).await.unwrap();
        let (socket, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let (mut received, mut waits, mut at) = (Vec::new(), 0, 0);
        while at < announced {
            match payload.send_to(&socket, at, 1_000_000) {
                Ok(sent) => at += sent as u64,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                    waits += 1;
                    let mut taken = vec![0; 64 * 1024];
                    peer.read_exact(&mut taken).unwrap();
                    received.append(&mut taken);
                }
            }
        }
        drop(socket);
        peer.read_to_end(&mut received).unwrap();
        assert!(waits > 0, "the socket took all at once");
        assert!(received == body, "it is another message");
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let small = Payload::from_bytes(&b"hello"[..]);
        let error = small.send_to(&socket, 0, 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
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
    async fn a_range_is_read_from_memory_and_from_files_alike() {
        let source: Vec<u8> = (0..=255).collect();
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"before").unwrap();
        io::Write::write_all(&mut file, &source).unwrap();
        let in_file = Payload::from_file(file, 6).await.unwrap();
        let in_memory = Payload::checked(source.clone().into(), *in_file.sha512());
        for payload in [&in_file, &in_memory] {
            for (start, end) in [(0, 0), (0, 256), (1, 2), (100, 256), (256, 256)] {
                let read = payload.read_range(start..end).await.unwrap();
                assert_eq!(read, source[start as usize..end as usize]);
            }
            for (start, end) in [(0, 257), (2, 1), (256, u64::MAX)] {
                let error = payload.read_range(Range { start, end }).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            }
        }
        // Without a copy.
        let read = in_memory.read_range(1..2).await.unwrap();
        let kept = in_memory.in_memory().unwrap();
        assert_eq!(read.as_ptr(), kept[1..].as_ptr());
    }

    #[tokio::test]
    async fn small_bodies_go_to_files_when_memory_is_used_up() {
        let spool = small_spool();
        let first = spool.read(&b"0123456789"[..]).await.unwrap();
        let second = spool.read(&b"0123456789"[..]).await.unwrap();
        assert!(first.in_memory().is_some() && second.in_memory().is_none());
        assert_eq!(second.to_bytes().await.unwrap(), "0123456789");
    }

    #[tokio::test]
    async fn memory_beside_of_readers_of_files_takes_room_or_is_small() {
        let spool = Spool::new(SpoolConfig {
            memory_each_max: 10,
            memory_total_max: 400 * 1024,
            ..SpoolConfig::default()
        });
        let source = vec![7; 1_000_000];
        let payload = spool.read(&source[..]).await.unwrap();
        let (mut first, mut second) = (payload.reader(), payload.reader());
        assert_eq!(first.part().await.unwrap().unwrap().len(), CHUNK_BYTES);
        assert_eq!(spool.memory_used(), CHUNK_BYTES as u64);
        let part = second.part().await.unwrap().unwrap();
        assert_eq!(part.len(), SMALL_CHUNK_BYTES);
        drop(first);
        assert_eq!(spool.memory_used(), 0);
        assert_eq!(second.part().await.unwrap().unwrap().len(), CHUNK_BYTES);
        drop(second);
        assert_eq!(spool.memory_used(), 0);
    }

    #[tokio::test]
    async fn a_file_is_a_payload_from_where_it_is_told_to_begin() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"skip this").unwrap();
        let payload = Payload::from_file(file, 5).await.unwrap();
        assert_eq!(payload.to_bytes().await.unwrap(), "this");
        assert_eq!(*payload.sha512(), Sha512::of(b"this"));
    }
}
