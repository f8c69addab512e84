//! The body of a message, known to have the length and the digest that were announced: in memory,
//! or in a temporary file that no folder names.

use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use httppubsub_proto::digest::{Sha512, Sha512Hasher};
#[cfg(target_os = "linux")]
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::body::spool::{DiskRoom, Reservation};

/// A message's body that has the length and the digest that were announced for it. Clones share it.
///
/// ```
/// use httppubsub_net::body::Payload;
///
/// let payload = Payload::from_bytes(&b"hello"[..]);
/// assert_eq!(payload.len(), 5);
/// assert_eq!(payload.in_memory().map(|bytes| &bytes[..]), Some(&b"hello"[..]));
/// ```
#[derive(Clone, Debug)]
pub struct Payload(Arc<Inner>);

/// Shared by all clones, so that a notification to ten thousand subscribers holds its body once.
/// The digest is computed once, when the body comes in: every delivery and every copy for another
/// broadcaster signs the same one.
#[derive(Debug)]
struct Inner {
    /// Length of the payload, which is not that of the file: see [`Kept::File`].
    bytes: u64,
    /// Digest of exactly these bytes, or the one that the caller vouches for.
    sha512: Sha512,
    /// Never changed, so that any number of readers need no lock.
    kept: Kept,
}

/// The place of the bytes. What was taken of the spool's bounds for them is given back with the
/// last clone.
#[derive(Debug)]
pub(crate) enum Kept {
    /// In one piece: what is sent to many is sliced and never copied.
    Memory {
        bytes: Bytes,
        /// `None` for bytes of this process itself, which no bound is about.
        _room: Option<Reservation>,
    },
    /// On disk, read by position, so that readers do not share one.
    /// The payload is what follows `offset`.
    /// In a file without a name, which the kernel removes with its last handle, also after a crash.
    File {
        /// Open for as long as a clone is, which is what keeps an unnamed file alive.
        file: File,
        /// Byte of the file at which the payload begins: 0 unless the file is the caller's.
        offset: u64,
        /// `None` for a file of the caller, which is not in the folder of temporary files.
        _room: Option<DiskRoom>,
    },
}

impl Payload {
    /// The payload that these bytes are. Hashed on this thread: half a millisecond for a quarter of
    /// a megabyte.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Arc::new(Inner {
            bytes: bytes.len() as u64,
            sha512: Sha512::of(&bytes),
            kept: Kept::Memory { bytes, _room: None },
        }))
    }

    /// The payload that `file` holds from byte `offset` to its end, read once for its digest. It
    /// must not change while the payload is in use. The file may be longer than
    /// [`SpoolConfig::memory_each_max`](crate::body::SpoolConfig), and counts in no bound of the
    /// spool: it was there before.
    pub async fn from_file(file: File, offset: u64) -> io::Result<Self> {
        Self::hashed(file, offset, None).await
    }

    /// The payload that the bytes `range` of `file` are, read once for its digest. They must not
    /// change while the payload is in use. Fails with [`io::ErrorKind::UnexpectedEof`] if the file
    /// ends before.
    ///
    /// The file is read by position only, so that its own position, which duplicates of its
    /// descriptor share, stays where it is.
    pub async fn from_file_range(file: File, range: Range<u64>) -> io::Result<Self> {
        let bytes = range.end.saturating_sub(range.start);
        Self::hashed(file, range.start, Some(bytes)).await
    }

    /// The same with a digest that the caller vouches for, so that nothing is read now: the other
    /// end refuses a body that has another one.
    pub fn vouched_file_range(file: File, range: Range<u64>, sha512: Sha512) -> Self {
        let kept = Kept::File {
            file,
            offset: range.start,
            _room: None,
        };
        Self::kept(range.end.saturating_sub(range.start), sha512, kept)
    }

    /// What follows `offset`: `announced` bytes, or all there are.
    async fn hashed(file: File, offset: u64, announced: Option<u64>) -> io::Result<Self> {
        blocking(move || {
            let mut hasher = Sha512Hasher::default();
            // Read in chunks and not mapped: a file that another program shortens must end in an
            // error and not in a signal.
            let mut buffer = vec![0; CHUNK_BYTES];
            let mut bytes = 0;
            while announced != Some(bytes) {
                let left = announced.map_or(u64::MAX, |announced| announced - bytes);
                let most = usize::try_from(left).map_or(CHUNK_BYTES, |it| it.min(CHUNK_BYTES));
                match file.read_at(&mut buffer[..most], offset + bytes)? {
                    0 if announced.is_some() => return Err(io::ErrorKind::UnexpectedEof.into()),
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
            Ok(Self::kept(bytes, hasher.finish(), kept))
        })
        .await
    }

    /// The payload of `bytes` bytes with this digest that are `kept`.
    pub(crate) fn kept(bytes: u64, sha512: Sha512, kept: Kept) -> Self {
        Self(Arc::new(Inner {
            bytes,
            sha512,
            kept,
        }))
    }

    /// These bytes of it, which must lie inside.
    pub async fn read_range(&self, range: Range<u64>) -> io::Result<Bytes> {
        // Checked here, as a file would be read beyond the payload without a complaint.
        if range.start > range.end || range.end > self.0.bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the range does not lie inside the body",
            ));
        }
        match &self.0.kept {
            Kept::Memory { .. } => self.read_range_blocking(range),
            Kept::File { .. } => {
                // The clone goes along: the file stays, even if the caller gives up while the disk
                // is read.
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

    /// Reads into `buffer` what there is from byte `at` on, on a thread that may wait for the disk.
    /// Returns the number of bytes that were read, which is 0 at the end.
    ///
    /// ```
    /// use httppubsub_net::body::Payload;
    ///
    /// let payload = Payload::from_bytes(&b"hello"[..]);
    /// let mut buffer = [0; 3];
    /// assert_eq!(payload.read_at(&mut buffer, 3)?, 2);
    /// assert_eq!(&buffer[..2], b"lo");
    /// assert_eq!(payload.read_at(&mut buffer, 5)?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = self.0.bytes.saturating_sub(at);
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        match &self.0.kept {
            Kept::Memory { bytes, .. } => {
                let start = usize::try_from(at).expect("memory holds it");
                buffer[..most].copy_from_slice(&bytes[start..start + most]);
                Ok(most)
            }
            Kept::File { file, offset, .. } => {
                match file.read_at(&mut buffer[..most], offset + at)? {
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    read => Ok(read),
                }
            }
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.0.bytes
    }

    /// `true` if it has no bytes.
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

    /// Reads all of it into memory. For bodies that are known to be short: those of a file are not
    /// counted in the spool's memory while this holds them.
    pub async fn to_bytes(&self) -> io::Result<Bytes> {
        if let Some(bytes) = self.in_memory() {
            return Ok(bytes.clone());
        }
        let mut all = Vec::new();
        self.reader().read_to_end(&mut all).await?;
        Ok(all.into())
    }
}

/// Large enough that the hop to a blocking thread does not count. It is also what one reader of a
/// file holds in memory.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Does `work`, which may wait for the disk, on a thread made for that. It ends even if nobody
/// waits for it any longer.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Bytes read of a file at once where memory has no room for more.
const SMALL_CHUNK_BYTES: usize = 16 * 1024;

/// Reads a payload from its start.
#[derive(Debug)]
pub struct PayloadReader {
    /// A clone: the bytes stay for as long as anybody reads them.
    payload: Payload,
    /// Byte of the payload at which the next part begins; at most its length.
    at: u64,
    /// A part that was begun is kept here, so that a poll that is dropped loses nothing.
    state: ReaderState,
    /// Of what is read of a file at once.
    room: Option<Reservation>,
}

/// A chunk that another thread reads. It holds a clone of the payload, and ends by itself if the
/// reader is dropped.
type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

/// Progress between two polls.
#[derive(Default)]
enum ReaderState {
    /// Nothing is under way: the next poll cuts a slice, or begins to read a chunk.
    #[default]
    Idle,
    /// A chunk is being read on another thread.
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
    /// The payload that is read, for a sender that can take it from the file itself.
    pub(crate) fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Bytes handed out so far.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next part, not empty; `None` at the end.
    pub(crate) async fn part(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_part(cx))
            .await
            .transpose()
    }

    /// The next part when it is there: in memory at once, from a file when another thread has read
    /// a chunk of it.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        // `at` never passes the end: parts are cut from what is left.
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
    /// Sends of what is in a file as much as `socket` takes at this moment, from `at` on and `max`
    /// bytes at most: one at least, or it fails with [`io::ErrorKind::WouldBlock`]. Waits for the
    /// disk only. Fails with [`io::ErrorKind::Unsupported`] if it is not in a file, or not in one
    /// of that kind.
    pub(crate) fn send_to(&self, socket: impl AsFd, at: u64, max: usize) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if let Kept::File { file, offset, .. } = &self.0.kept {
            let left = usize::try_from(self.0.bytes - at).unwrap_or(usize::MAX);
            let mut from = offset + at;
            return match rustix::fs::sendfile(socket, file, Some(&mut from), left.min(max)) {
                // Shortened by another program: to try again would never end.
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => Ok(sent),
                // Some file systems cannot; the caller then reads and writes.
                Err(Errno::INVAL | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
                Err(error) => Err(error.into()),
            };
        }
        let _ = (socket, at, max);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Bytes of a file that a reader may read at once: a large chunk if there is room for it, which
    /// is kept in `room`.
    fn take_chunk(&self, room: &mut Option<Reservation>) -> usize {
        let Kept::File {
            _room: Some(disk), ..
        } = &self.0.kept
        else {
            return CHUNK_BYTES;
        };
        if room.is_none() {
            // Readers of one notification may be as many as its subscribers: without room for a
            // large chunk each, they go on with small ones.
            let mut reservation = disk.spool().reservation();
            if !reservation.grow_unless_file(CHUNK_BYTES as u64) {
                return SMALL_CHUNK_BYTES;
            }
            *room = Some(reservation);
        }
        CHUNK_BYTES
    }

    /// Exactly `bytes` bytes of the file from its byte `at` on. Fails if another program has
    /// shortened the file.
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
        // The buffer was too short for it, so the rest counts as not handed out.
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
    use crate::body::spool::{Spool, SpoolConfig};

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_in_a_file_goes_to_a_socket_whole_and_as_fast_as_that_takes_it() {
        use std::io::Read as _;

        let body: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let announced = body.len() as u64;
        let spool = Spool::new(SpoolConfig {
            memory_each_max: 10,
            ..SpoolConfig::default()
        });
        let payload = spool.read(&body[..]).await.unwrap();
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
    async fn a_range_is_read_from_memory_and_from_files_alike() {
        let source: Vec<u8> = (0..=255).collect();
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"before").unwrap();
        io::Write::write_all(&mut file, &source).unwrap();
        let in_file = Payload::from_file(file, 6).await.unwrap();
        let in_memory = Payload::from_bytes(source.clone());
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

    #[tokio::test]
    async fn a_range_of_a_file_is_a_payload_and_leaves_the_position_alone() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"skip this, and that").unwrap();
        io::Seek::seek(&mut file, io::SeekFrom::Start(2)).unwrap();
        let shared = || file.try_clone().unwrap();
        let payload = Payload::from_file_range(shared(), 5..9).await.unwrap();
        assert_eq!(payload.to_bytes().await.unwrap(), "this");
        assert_eq!(*payload.sha512(), Sha512::of(b"this"));
        let vouched = Payload::vouched_file_range(shared(), 5..9, Sha512::of(b"this"));
        assert_eq!(vouched.to_bytes().await.unwrap(), "this");
        for range in [15..20, 30..31] {
            let error = Payload::from_file_range(shared(), range).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let nothing = Payload::from_file_range(shared(), 30..30).await.unwrap();
        assert!(nothing.is_empty());
        assert_eq!(io::Seek::stream_position(&mut file).unwrap(), 2);
    }

    #[tokio::test]
    async fn a_thread_reads_from_memory_and_from_files_alike() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"before0123456789after").unwrap();
        let in_file = Payload::from_file_range(file, 6..16).await.unwrap();
        for payload in [Payload::from_bytes(&b"0123456789"[..]), in_file] {
            let read = |at, bytes: usize| {
                let mut buffer = vec![0; bytes];
                let read = payload.read_at(&mut buffer, at).unwrap();
                String::from_utf8(buffer[..read].to_vec()).unwrap()
            };
            assert_eq!(read(0, 4), "0123");
            assert_eq!(read(8, 4), "89");
            assert_eq!(read(3, 0), "");
            assert_eq!(read(10, 4), "");
            assert_eq!(read(u64::MAX, 4), "");
        }
    }

    #[tokio::test]
    async fn a_file_that_was_cut_short_is_an_error_of_its_reader() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"0123456789").unwrap();
        let payload = Payload::from_file_range(file.try_clone().unwrap(), 0..10).await;
        let payload = payload.unwrap();
        file.set_len(5).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(payload.read_at(&mut buffer, 0).unwrap(), 5);
        let error = payload.read_at(&mut buffer, 5).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
