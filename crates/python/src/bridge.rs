//! An event loop's end of its queue.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::failure::{Failure, guarded};
use crate::fork::OfProcess;
use crate::log::LogSink;
use crate::queue::{Item, Queue};
use crate::runtime::runtime;

/// The event loop's end of the queue: the loop watches `fileno`, and takes all results by `drain`.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct Bridge {
    own: OfProcess<Own>,
}

struct Own {
    queue: Arc<Queue>,
    reader: UnixStream,
    log: Arc<LogSink>,
}

#[pymethods]
impl Bridge {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        guarded(py, || {
            let made = Queue::new();
            let (queue, reader) = made.map_err(|error| {
                Failure::of_io("BindError", "cannot make a socket pair", &error)
            })?;
            let queue = Arc::new(queue);
            let (_, log) = runtime()?;
            log.add(&queue);
            let own = Own { queue, reader, log };
            Ok(Self {
                own: OfProcess::new(own),
            })
        })
    }

    /// The descriptor that is readable when there is something to take.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        guarded(py, || Ok(self.own.get()?.reader.as_raw_fd()))
    }

    /// Takes all results: tuples of a kind, a number and two values.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let (items, records) = guarded(py, || {
            let Own { queue, reader, log } = self.own.get()?;
            Ok((queue.take(reader), log.take()))
        })?;
        let list = PyList::empty(py);
        for item in items {
            list.append(item_to_tuple(py, item)?)?;
        }
        for record in records {
            list.append((LOG, record.level, record.logger, record.text))?;
        }
        Ok(list)
    }
}

impl Bridge {
    pub(crate) fn queue(&self) -> Result<&Arc<Queue>, Failure> {
        Ok(&self.own.get()?.queue)
    }
}

const WOKEN: u8 = 0;
const DONE: u8 = 1;
const PROGRESS: u8 = 2;
const LOG: u8 = 3;

fn item_to_tuple(py: Python<'_>, item: Item) -> PyResult<Bound<'_, PyAny>> {
    let none = || py.None();
    let tuple = match item {
        Item::Woken(subscription) => (WOKEN, subscription, none(), none()),
        Item::Done(operation, done) => {
            // An object that cannot be made is the failure of its own operation.
            let made = done.map_err(|failure| failure.raise(py));
            match made.and_then(|outcome| outcome.object(py)) {
                Ok(object) => (DONE, operation, object, none()),
                Err(error) => (DONE, operation, none(), error.into_value(py).into_any()),
            }
        }
        Item::Progress {
            operation,
            sent,
            all,
        } => {
            return Ok((PROGRESS, operation, sent, all)
                .into_pyobject(py)?
                .into_any());
        }
    };
    Ok(tuple.into_pyobject(py)?.into_any())
}
