//! The queue of results of one event loop, and the operations whose results go there.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::failure::{Failure, guarded};
use crate::fork::OfProcess;

/// The core's end of the queue.
///
/// There is at most one result for each operation, one mark for each subscription that is waited
/// for, and one report of progress for each operation: it holds no more than the program asked for.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: UnixStream,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    /// `true` if a byte is on its way to the loop.
    is_told: bool,
}

/// A result for the event loop.
pub(crate) enum Item {
    /// Something waits in the subscription with this number.
    Woken(u64),
    /// The operation with this number is done.
    Done(u64, Result<Outcome, Failure>),
    /// `sent` bytes of `all` are on their way.
    Progress { operation: u64, sent: u64, all: u64 },
}

/// The result of an operation: its Python object, which is made on the thread of the event loop.
pub(crate) struct Outcome(Option<Make>);

type Make = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

impl Outcome {
    /// No result but that it is done.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    /// The object that `make` makes.
    pub(crate) fn new(
        make: impl FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Self {
        Self(Some(Box::new(make)))
    }

    /// The object.
    pub(crate) fn object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.map_or_else(|| Ok(py.None()), |make| make(py))
    }
}

/// Work of the core that is under way.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct Operation {
    own: OfProcess<AbortHandle>,
}

#[pymethods]
impl Operation {
    /// Gives it up: there will be no result.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        guarded(py, || {
            // In a child of the process nothing runs that could be given up.
            if let Ok(task) = self.own.get() {
                task.abort();
            }
            Ok(())
        })
    }
}

impl Queue {
    /// A queue, and the socket that is readable when there is something in it.
    pub(crate) fn new() -> io::Result<(Self, UnixStream)> {
        let (reader, wake) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let queue = Self {
            state: Mutex::default(),
            wake,
        };
        Ok((queue, reader))
    }

    /// Takes all results. `reader` is the socket of this queue.
    pub(crate) fn take(&self, mut reader: &UnixStream) -> Vec<Item> {
        let mut state = self.state();
        // Before the mark is taken away: a byte that comes later wakes the loop once more.
        let mut bytes = [0; 64];
        while matches!(reader.read(&mut bytes), Ok(64)) {}
        state.is_told = false;
        std::mem::take(&mut state.items)
    }

    /// Puts a result in, and wakes the loop unless that has been done.
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.state();
        match (state.items.last_mut(), &item) {
            (
                Some(Item::Progress { operation, .. }),
                Item::Progress {
                    operation: same, ..
                },
            ) if operation == same => {
                // Only the latest matters.
                state.items.pop();
                state.items.push(item);
            }
            _ => state.items.push(item),
        }
        self.tell(state);
    }

    /// Wakes the loop to take what is elsewhere.
    pub(crate) fn wake(&self) {
        self.tell(self.state());
    }

    fn tell(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::replace(&mut state.is_told, true) {
            return;
        }
        drop(state);
        // It fails if the loop has gone, and there is nobody to tell, or if the socket is full, and
        // the loop has enough to read.
        let _ = (&self.wake).write(&[1]);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` and puts its result in.
    pub(crate) fn run<F>(self: &Arc<Self>, runtime: &Handle, operation: u64, work: F) -> Operation
    where
        F: Future<Output = Result<Outcome, Failure>> + Send + 'static,
    {
        let queue = self.clone();
        let task = runtime.spawn(async move {
            let done = AssertUnwindSafe(work).catch_unwind().await;
            let done = done.unwrap_or_else(|panic| Err(Failure::panicked(&*panic)));
            queue.push(Item::Done(operation, done));
        });
        Operation {
            own: OfProcess::new(task.abort_handle()),
        }
    }
}
