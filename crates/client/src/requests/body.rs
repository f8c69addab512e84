//! The body of a notification, before its length is known.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use httppubsub_net::body::{Payload, Spool};
use httppubsub_proto::digest::Sha512;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::NotifyError;

/// The body of a notification: bytes, a file, or anything that can be read.
///
/// ```no_run
/// # use httppubsub_client::Client;
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// use httppubsub_client::NotifyBody;
///
/// client.notify("logs", "a line").await?;
/// client.notify("logs", NotifyBody::path("/var/log/syslog")).await?;
/// client.notify("logs", NotifyBody::reader(tokio::io::stdin())).await?;
/// # Ok(())
/// # }
/// ```
///
/// Its digest goes first on the wire, so all of it is read before anything is sent; what is read
/// from elsewhere than memory or a regular file is kept in a temporary file if it is large.
pub struct NotifyBody {
    source: Source,
    /// The digest, if the caller knows it.
    sha512: Option<Sha512>,
}

/// Where the bytes come from.
enum Source {
    /// In memory, or received before.
    Payload(Payload),
    /// Opened when the notification is made, so that an error names it.
    Path(PathBuf),
    /// From its position on.
    File(File),
    /// Some bytes of it, read by position only.
    Range(File, Range<u64>),
    /// Read once, to its end.
    Reader {
        reader: Pin<Box<dyn AsyncRead + Send>>,
        /// The announced length, if there is one.
        bytes: Option<u64>,
    },
}

impl NotifyBody {
    /// The content of the file at `path`, which must not change before it is sent.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Source::Path(path.into()).into()
    }

    /// The content of `file` from its position to its end. It must not change before it is sent.
    pub fn file(file: File) -> Self {
        Source::File(file).into()
    }

    /// The bytes `range` of `file`, which must be a regular file; they must not change before they
    /// are sent. A file that ends before is an error.
    ///
    /// The file is read by position only, so that its own position, which duplicates of its
    /// descriptor share, stays where it is.
    pub fn file_range(file: File, range: Range<u64>) -> Self {
        Source::Range(file, range).into()
    }

    /// The digest of the message, known beforehand. A regular file that is left where it is is then
    /// not read before it is sent, and the broadcaster refuses it if it has another digest;
    /// whatever else has another one is an error, and nothing is sent.
    pub fn with_sha512(mut self, sha512: Sha512) -> Self {
        self.sha512 = Some(sha512);
        self
    }

    /// All that `reader` yields.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        let reader = Box::pin(reader);
        Source::Reader {
            reader,
            bytes: None,
        }
        .into()
    }

    /// All that `reader` yields, which must be `bytes` bytes: anything else is an error, so that
    /// what is cut short is not sent.
    pub fn reader_of(reader: impl AsyncRead + Send + 'static, bytes: u64) -> Self {
        let reader = Box::pin(reader);
        Source::Reader {
            reader,
            bytes: Some(bytes),
        }
        .into()
    }

    /// Reads all of it. Regular files longer than `memory_each_max` bytes are left where they are.
    ///
    /// # Errors
    ///
    /// [`NotifyError::Body`] if it cannot be read or held, [`NotifyError::Length`] if it has
    /// another length than was announced. Nothing was sent.
    pub(crate) async fn read(
        self,
        spool: &Spool,
        memory_each_max: u64,
    ) -> Result<Payload, NotifyError> {
        let Self { source, sha512 } = self;
        let payload = source.read(sha512, spool, memory_each_max).await?;
        match sha512 {
            Some(announced) if announced != *payload.sha512() => {
                let got = Box::new(*payload.sha512());
                Err(NotifyError::Digest { got })
            }
            _ => Ok(payload),
        }
    }
}

impl Source {
    async fn read(
        self,
        sha512: Option<Sha512>,
        spool: &Spool,
        memory_each_max: u64,
    ) -> Result<Payload, NotifyError> {
        match self {
            // Checked when it was made; clones share what it holds.
            Self::Payload(payload) => Ok(payload),
            Self::Path(path) => {
                let file = tokio::fs::File::open(&path).await;
                let file = file.map_err(|error| named(&path, &error))?;
                let read = read_file(file.into_std().await, sha512, spool, memory_each_max).await;
                read.map_err(|error| named(&path, &error))
            }
            Self::File(file) => read_file(file, sha512, spool, memory_each_max)
                .await
                .map_err(NotifyError::Body),
            Self::Range(file, range) => read_range(file, range, sha512).await,
            Self::Reader {
                reader,
                bytes: None,
            } => spool.read(reader).await.map_err(NotifyError::Body),
            Self::Reader {
                reader,
                bytes: Some(announced),
            } => {
                // One byte more tells a longer one without reading all of it.
                let reader = reader.take(announced.saturating_add(1));
                let payload = spool.read(reader).await.map_err(NotifyError::Body)?;
                match payload.len() {
                    got if got == announced => Ok(payload),
                    got => Err(NotifyError::Length { announced, got }),
                }
            }
        }
    }
}

/// The error with the path, which an `io::Error` does not have.
fn named(path: &Path, error: &io::Error) -> NotifyError {
    let text = format!("{}: {error}", path.display());
    NotifyError::Body(io::Error::new(error.kind(), text))
}

/// The rest of `file` as a payload. A long regular file is hashed now, unless its digest is known,
/// and read again when it is sent; pipes and devices can be read once only, so they are copied.
async fn read_file(
    mut file: File,
    sha512: Option<Sha512>,
    spool: &Spool,
    memory_each_max: u64,
) -> io::Result<Payload> {
    // Both calls may wait for a disk or a network file system.
    let found = tokio::task::spawn_blocking(move || {
        let metadata = file.metadata()?;
        let offset = match metadata.is_file() {
            true => Some(io::Seek::stream_position(&mut file)?),
            false => None,
        };
        Ok::<_, io::Error>((file, metadata.len(), offset))
    });
    let (file, bytes, offset) = found.await.map_err(io::Error::other)??;
    match (offset, sha512) {
        (Some(offset), Some(sha512)) if bytes > memory_each_max => Ok(Payload::vouched_file_range(
            file,
            offset..bytes.max(offset),
            sha512,
        )),
        (Some(offset), None) if bytes > memory_each_max => Payload::from_file(file, offset).await,
        // Short, or of unknown length: copied, so that it may change afterwards.
        _ => spool.read(tokio::fs::File::from_std(file)).await,
    }
}

/// Left in the file, however short it is: reading it through the file moves the position.
async fn read_range(
    file: File,
    range: Range<u64>,
    sha512: Option<Sha512>,
) -> Result<Payload, NotifyError> {
    let found = tokio::task::spawn_blocking(move || {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let why = "only a regular file can be read by position";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok((file, metadata.len()))
    });
    let found = found.await.map_err(io::Error::other);
    let (file, bytes) = found.flatten().map_err(NotifyError::Body)?;
    if range.start > range.end || range.end > bytes {
        return Err(NotifyError::Length {
            announced: range.end.saturating_sub(range.start),
            got: bytes.saturating_sub(range.start),
        });
    }
    match sha512 {
        Some(sha512) => Ok(Payload::vouched_file_range(file, range, sha512)),
        None => Payload::from_file_range(file, range)
            .await
            .map_err(NotifyError::Body),
    }
}

impl From<Source> for NotifyBody {
    fn from(source: Source) -> Self {
        Self {
            source,
            sha512: None,
        }
    }
}

impl std::fmt::Debug for NotifyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Payload(payload) => write!(f, "NotifyBody({} bytes)", payload.len()),
            Source::Path(path) => write!(f, "NotifyBody({})", path.display()),
            Source::File(_) => f.write_str("NotifyBody(file)"),
            Source::Range(_, range) => write!(f, "NotifyBody(file, {range:?})"),
            Source::Reader { bytes, .. } => write!(f, "NotifyBody(reader of {bytes:?} bytes)"),
        }
    }
}

impl From<Payload> for NotifyBody {
    fn from(payload: Payload) -> Self {
        Source::Payload(payload).into()
    }
}

impl From<Bytes> for NotifyBody {
    fn from(bytes: Bytes) -> Self {
        Payload::from_bytes(bytes).into()
    }
}

impl From<Vec<u8>> for NotifyBody {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for NotifyBody {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&[u8]> for NotifyBody {
    fn from(bytes: &[u8]) -> Self {
        Bytes::copy_from_slice(bytes).into()
    }
}

impl<const N: usize> From<&[u8; N]> for NotifyBody {
    fn from(bytes: &[u8; N]) -> Self {
        bytes.as_slice().into()
    }
}

impl From<&str> for NotifyBody {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<File> for NotifyBody {
    fn from(file: File) -> Self {
        Self::file(file)
    }
}
