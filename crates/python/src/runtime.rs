//! The one tokio runtime of a process.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::failure::Failure;
use crate::log::LogSink;

/// The runtime of a process.
struct Running {
    process: u32,
    runtime: Runtime,
    log: Arc<LogSink>,
}

/// The lock is only taken by threads that are attached to the interpreter, and so is a fork of
/// Python's: a child never finds it locked.
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

/// The runtime of this process, started at its first use, and what its threads log. They do not
/// survive a fork, so a child gets a new one, and the old one is left where it is.
pub(crate) fn runtime() -> Result<(Handle, Arc<LogSink>), Failure> {
    let process = std::process::id();
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = &*running
        && running.process == process
    {
        return Ok((running.runtime.handle().clone(), running.log.clone()));
    }
    std::mem::forget(running.take());
    let log = Arc::new(LogSink::default());
    let of_thread = log.clone();
    let started = Builder::new_multi_thread()
        .worker_threads(worker_threads()?)
        .thread_name("httppubsub")
        .on_thread_start(move || of_thread.serve_thread())
        .enable_all()
        .build();
    let runtime = started.map_err(|error| {
        Failure::new(
            "PubSubInternalError",
            format!("cannot start threads: {error}"),
        )
    })?;
    let handle = runtime.handle().clone();
    *running = Some(Running {
        process,
        runtime,
        log: log.clone(),
    });
    Ok((handle, log))
}

fn worker_threads() -> Result<usize, Failure> {
    let Some(value) = std::env::var_os(WORKER_THREADS) else {
        return Ok(1);
    };
    let number = value.to_str().and_then(|it| it.parse().ok());
    number.filter(|it| (1..=1_024).contains(it)).ok_or_else(|| {
        let why = format!("{WORKER_THREADS} must be a number from 1 to 1024, not {value:?}");
        Failure::new("ConfigError", why)
    })
}

const WORKER_THREADS: &str = "HTTPPUBSUB_WORKER_THREADS";
