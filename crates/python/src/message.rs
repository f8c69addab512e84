//! Messages as Python gets them.

use std::sync::{Mutex, PoisonError};

use httppubsub_client::{Message, Payload};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::failure::{Failure, guarded};
use crate::fork::OfProcess;

/// The body of a message in a file that no folder names.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct SpooledBody {
    own: OfProcess<Mutex<Option<Payload>>>,
}

#[pymethods]
impl SpooledBody {
    /// At most `bytes` bytes from byte `at` on; none at the end.
    fn read_at<'py>(
        &self,
        py: Python<'py>,
        at: u64,
        bytes: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let read = guarded(py, || {
            let payload = self.payload()?;
            let left = usize::try_from(payload.len().saturating_sub(at)).unwrap_or(usize::MAX);
            let mut buffer = vec![0; bytes.min(left).min(READ_BYTES_MAX)];
            // Waiting for the disk holds up no other thread.
            let read = py.detach(|| payload.read_at(&mut buffer, at));
            let failed = |error| Failure::of_io("MessageReadError", "cannot read the file", &error);
            buffer.truncate(read.map_err(failed)?);
            Ok(buffer)
        })?;
        Ok(PyBytes::new(py, &read))
    }

    /// Gives the room on disk back.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        guarded(py, || {
            let payload = match self.own.get() {
                Ok(payload) => payload
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(),
                Err(_) => None,
            };
            py.detach(|| drop(payload));
            Ok(())
        })
    }
}

impl SpooledBody {
    fn payload(&self) -> Result<Payload, Failure> {
        let payload = self.own.get()?.lock();
        let payload = payload.unwrap_or_else(PoisonError::into_inner).clone();
        payload.ok_or_else(|| Failure::new("ClosedError", "the message was closed"))
    }
}

/// The most bytes that are read at once.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// The message as a tuple: topic, digest, length, the time in nanoseconds, the body as `bytes` or
/// in a file, and the line and the number, or `None`.
pub(crate) fn message_to_tuple<'py>(
    py: Python<'py>,
    message: &Message,
) -> PyResult<Bound<'py, PyAny>> {
    let body = match message.payload.in_memory() {
        Some(bytes) => PyBytes::new(py, bytes).into_any(),
        None => {
            let own = OfProcess::new(Mutex::new(Some(message.payload.clone())));
            Bound::new(py, SpooledBody { own })?.into_any()
        }
    };
    let number = message.number;
    let number = number.map(|it| (PyBytes::new(py, it.line.as_bytes()), it.number));
    let tuple = (
        PyBytes::new(py, message.topic.as_bytes()),
        PyBytes::new(py, message.sha512().as_bytes()),
        message.payload.len(),
        message.received.unix_nanoseconds(),
        body,
        number,
    );
    Ok(tuple.into_pyobject(py)?.into_any())
}
