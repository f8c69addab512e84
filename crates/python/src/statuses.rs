//! The status of a connection, and its changes.

use std::sync::Arc;

use httppubsub_client::ConnectionStatus;
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::failure::guarded;
use crate::fork::OfProcess;
use crate::queue::{Operation, Outcome, Queue};

/// The status now, and each change of it.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct Statuses {
    own: OfProcess<(Arc<Mutex<httppubsub_client::Statuses>>, Arc<Queue>, Handle)>,
}

impl Statuses {
    pub(crate) fn new(
        statuses: httppubsub_client::Statuses,
        queue: Arc<Queue>,
        runtime: Handle,
    ) -> Self {
        Self {
            own: OfProcess::new((Arc::new(Mutex::new(statuses)), queue, runtime)),
        }
    }
}

#[pymethods]
impl Statuses {
    /// Waits for the next one: its name, or `None` after the last one.
    fn next(&self, py: Python<'_>, operation: u64) -> PyResult<Operation> {
        guarded(py, || {
            let (statuses, queue, runtime) = self.own.get()?;
            let statuses = statuses.clone();
            let work = async move {
                let next = statuses.lock().await.next().await;
                let name = next.map(status_name);
                Ok(Outcome::new(move |py| Ok(name.into_pyobject(py)?.unbind())))
            };
            Ok(queue.run(runtime, operation, work))
        })
    }
}

/// The name of a status in Python.
pub(crate) fn status_name(status: ConnectionStatus) -> &'static str {
    match status {
        ConnectionStatus::Ok => "ok",
        ConnectionStatus::Lost => "lost",
        ConnectionStatus::Abandoned => "abandoned",
    }
}
