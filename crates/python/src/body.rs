//! Bodies that Python hands over: of notifications, and of requests to a mounted client.

use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::poll_fn;
use httppubsub_client::{NotifyBody, Sha512};
use pyo3::prelude::*;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use crate::bridge::Bridge;
use crate::failure::{Failure, guarded};
use crate::queue::{Operation, Outcome};
use crate::runtime::runtime;

/// The body of a notification, or of a request to a mounted client.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct Body {
    /// `None` when it was used.
    source: Mutex<Option<Source>>,
}

enum Source {
    Bytes(Bytes),
    File { file: File, start: u64, end: u64 },
    Parts { parts: Parts, length: Option<u64> },
}

/// The parts of a body that is sent by a [`BodySender`].
pub(crate) struct Parts {
    parts: mpsc::Receiver<Part>,
    is_over: bool,
}

enum Part {
    Bytes(Bytes),
    /// That was all.
    End,
}

/// Parts that wait to be read.
const PARTS_MAX: usize = 4;

#[pymethods]
impl Body {
    /// These bytes.
    #[staticmethod]
    fn of_bytes(bytes: &[u8]) -> Self {
        Source::Bytes(Bytes::copy_from_slice(bytes)).into()
    }

    /// The bytes from `start` to `end` of the file that this process has open as `descriptor`. It
    /// is opened anew, so that closing the descriptor, or reading from it, makes no difference.
    #[staticmethod]
    fn of_file(descriptor: i32, start: u64, end: u64) -> PyResult<Self> {
        let file = File::open(format!("/dev/fd/{descriptor}"))?;
        Ok(Source::File { file, start, end }.into())
    }

    /// All that is sent, which must be `length` bytes if that is said.
    #[staticmethod]
    #[pyo3(signature = (length=None))]
    fn of_parts(length: Option<u64>) -> (Self, BodySender) {
        let (sender, parts) = mpsc::channel(PARTS_MAX);
        let parts = Parts {
            parts,
            is_over: false,
        };
        let sender = BodySender {
            parts: Mutex::new(Some(sender)),
        };
        (Source::Parts { parts, length }.into(), sender)
    }
}

impl From<Source> for Body {
    fn from(source: Source) -> Self {
        Self {
            source: Mutex::new(Some(source)),
        }
    }
}

impl Body {
    fn take(&self) -> Result<Source, Failure> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let source = source.take();
        source.ok_or_else(|| Failure::new("PubSubInternalError", "the body was used already"))
    }

    /// The body of a notification, with the digest that is known beforehand, if any.
    pub(crate) fn notification(&self, sha512: Option<[u8; 64]>) -> Result<NotifyBody, Failure> {
        let body = match self.take()? {
            Source::Bytes(bytes) => bytes.into(),
            Source::File { file, start, end } => NotifyBody::file_range(file, start..end),
            Source::Parts { parts, length } => {
                let reader = StreamReader::new(parts.stream());
                match length {
                    None => NotifyBody::reader(reader),
                    Some(length) => NotifyBody::reader_of(reader, length),
                }
            }
        };
        Ok(match sha512 {
            None => body,
            Some(sha512) => body.with_sha512(Sha512::from_bytes(sha512)),
        })
    }

    /// The parts of it.
    pub(crate) fn parts(&self) -> Result<Parts, Failure> {
        match self.take()? {
            Source::Parts { parts, .. } => Ok(parts),
            _ => Err(Failure::new("PubSubInternalError", "the body has no parts")),
        }
    }
}

impl Parts {
    /// The parts as a stream, which fails if it was given up before its end.
    pub(crate) fn stream(mut self) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
        poll_fn(move |cx| self.poll_part(cx))
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.parts.poll_recv(cx).map(|part| match part {
            Some(Part::Bytes(bytes)) => Some(Ok(bytes)),
            Some(Part::End) => {
                self.is_over = true;
                None
            }
            None => {
                self.is_over = true;
                let why = "the body was given up before its end";
                Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)))
            }
        })
    }
}

/// Sends the parts of a body, with room for a few of them. Dropped before `finish`, it gives the
/// body up.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct BodySender {
    /// `None` after the end.
    parts: Mutex<Option<mpsc::Sender<Part>>>,
}

#[pymethods]
impl BodySender {
    /// Sends a part: `None` if there was room for it, or else the operation that waits for room.
    fn send(
        &self,
        py: Python<'_>,
        bridge: &Bridge,
        operation: u64,
        part: &[u8],
    ) -> PyResult<Option<Operation>> {
        guarded(py, || {
            if part.is_empty() {
                return Ok(None);
            }
            self.put(bridge, operation, Part::Bytes(Bytes::copy_from_slice(part)))
        })
    }

    /// That was all.
    fn finish(
        &self,
        py: Python<'_>,
        bridge: &Bridge,
        operation: u64,
    ) -> PyResult<Option<Operation>> {
        guarded(py, || {
            let done = self.put(bridge, operation, Part::End)?;
            self.parts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            Ok(done)
        })
    }

    /// Gives the body up.
    fn give_up(&self) {
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl BodySender {
    /// A part that nobody reads is thrown away: the reader says why it has gone.
    fn put(
        &self,
        bridge: &Bridge,
        operation: u64,
        part: Part,
    ) -> Result<Option<Operation>, Failure> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(parts) = &*parts else {
            return Ok(None);
        };
        let part = match parts.try_send(part) {
            Err(mpsc::error::TrySendError::Full(part)) => part,
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return Ok(None),
        };
        let parts = parts.clone();
        let work = async move {
            let _ = parts.send(part).await;
            Ok(Outcome::nothing())
        };
        let (runtime, _) = runtime()?;
        Ok(Some(bridge.queue()?.run(&runtime, operation, work)))
    }
}
