//! What a notification says, before it is known how long it is.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use httppubsub_net::{Payload, Spool};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::NotifyError;

/// What a notification says: bytes, a file, or anything that can be read.
///
/// Its digest goes first on the wire, so all of it is read before anything is sent; what is read
/// from elsewhere than memory or a regular file is kept in a temporary file if it is large.
pub struct NotifyBody(Source);

enum Source {
    Payload(Payload),
    Path(PathBuf),
    File(File),
    Reader {
        reader: Pin<Box<dyn AsyncRead + Send>>,
        bytes: Option<u64>,
    },
}

impl NotifyBody {
    /// The content of the file at `path`, which must not change before it is sent.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self(Source::Path(path.into()))
    }

    /// What `file` holds from where it stands to its end. It must not change before it is sent.
    pub fn file(file: File) -> Self {
        Self(Source::File(file))
    }

    /// All that `reader` yields.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self(Source::Reader {
            reader: Box::pin(reader),
            bytes: None,
        })
    }

    /// All that `reader` yields, which must be `bytes` bytes: anything else is an error, so that
    /// what is cut short is not sent.
    pub fn reader_of(reader: impl AsyncRead + Send + 'static, bytes: u64) -> Self {
        Self(Source::Reader {
            reader: Box::pin(reader),
            bytes: Some(bytes),
        })
    }

    /// Reads all of it. Regular files longer than `memory_each_max` bytes are left where they are.
    pub(crate) async fn read(
        self,
        spool: &Spool,
        memory_each_max: u64,
    ) -> Result<Payload, NotifyError> {
        match self.0 {
            Source::Payload(payload) => Ok(payload),
            Source::Path(path) => {
                let file = tokio::fs::File::open(&path).await;
                let file = file.map_err(|error| named(&path, &error))?;
                let read = read_file(file.into_std().await, spool, memory_each_max).await;
                read.map_err(|error| named(&path, &error))
            }
            Source::File(file) => read_file(file, spool, memory_each_max)
                .await
                .map_err(NotifyError::Body),
            Source::Reader {
                reader,
                bytes: None,
            } => spool.read(reader).await.map_err(NotifyError::Body),
            Source::Reader {
                reader,
                bytes: Some(announced),
            } => {
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

fn named(path: &Path, error: &io::Error) -> NotifyError {
    let text = format!("{}: {error}", path.display());
    NotifyError::Body(io::Error::new(error.kind(), text))
}

async fn read_file(mut file: File, spool: &Spool, memory_each_max: u64) -> io::Result<Payload> {
    let found = tokio::task::spawn_blocking(move || {
        let metadata = file.metadata()?;
        let offset = match metadata.is_file() {
            true => Some(io::Seek::stream_position(&mut file)?),
            false => None,
        };
        Ok::<_, io::Error>((file, metadata.len(), offset))
    });
    let (file, bytes, offset) = found.await.map_err(io::Error::other)??;
    match offset {
        Some(offset) if bytes > memory_each_max => Payload::from_file(file, offset).await,
        _ => spool.read(tokio::fs::File::from_std(file)).await,
    }
}

impl std::fmt::Debug for NotifyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Source::Payload(payload) => write!(f, "NotifyBody({} bytes)", payload.len()),
            Source::Path(path) => write!(f, "NotifyBody({})", path.display()),
            Source::File(_) => f.write_str("NotifyBody(file)"),
            Source::Reader { bytes, .. } => write!(f, "NotifyBody(reader of {bytes:?} bytes)"),
        }
    }
}

impl From<Payload> for NotifyBody {
    fn from(payload: Payload) -> Self {
        Self(Source::Payload(payload))
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
