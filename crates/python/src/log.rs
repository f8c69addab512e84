//! Log records on their way to `logging`.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::failure::guarded;
use crate::queue::Queue;

/// A record of `logging`.
pub(crate) struct LogRecord {
    pub(crate) level: u8,
    pub(crate) logger: String,
    pub(crate) text: String,
}

/// Records of the threads of one runtime that no event loop has taken yet, and the event loops
/// there are. Any of them takes what there is.
///
/// It is not a static, since a fork may leave its lock locked.
#[derive(Default)]
pub(crate) struct LogSink(Mutex<Records>);

#[derive(Default)]
struct Records {
    waiting: Vec<LogRecord>,
    dropped: u64,
    loops: Vec<Weak<Queue>>,
}

thread_local! {
    /// Where the records of this thread go: nowhere, unless it is one of a runtime.
    static SINK: RefCell<Option<Arc<LogSink>>> = const { RefCell::new(None) };
}

/// The level of the logger `httppubsub`, in the numbers of `logging`.
static LEVEL: AtomicU8 = AtomicU8::new(WARNING);

const DEBUG: u8 = 10;
const INFO: u8 = 20;
const WARNING: u8 = 30;
const ERROR: u8 = 40;

/// Records that wait; further ones are only counted.
const RECORDS_MAX: usize = 1_000;

/// Records below `level` are not made from now on.
#[pyfunction]
pub(crate) fn set_log_level(py: Python<'_>, level: u32) -> PyResult<()> {
    guarded(py, || {
        LEVEL.store(u8::try_from(level).unwrap_or(u8::MAX), Ordering::Relaxed);
        Ok(())
    })
}

impl LogSink {
    /// The records of the calling thread go here from now on.
    pub(crate) fn serve_thread(self: &Arc<Self>) {
        SINK.set(Some(self.clone()));
    }

    /// A further event loop that takes records.
    pub(crate) fn add(&self, queue: &Arc<Queue>) {
        let mut records = self.records();
        records.loops.retain(|it| it.strong_count() > 0);
        records.loops.push(Arc::downgrade(queue));
        // There is one subscriber for the process; the second attempt says no more than that.
        let _ = tracing::subscriber::set_global_default(ToLogging);
    }

    /// Takes all records.
    pub(crate) fn take(&self) -> Vec<LogRecord> {
        let mut records = self.records();
        let mut taken = std::mem::take(&mut records.waiting);
        let dropped = std::mem::take(&mut records.dropped);
        if dropped > 0 {
            taken.push(LogRecord {
                level: WARNING,
                logger: "httppubsub".to_owned(),
                text: format!("{dropped} log records were dropped"),
            });
        }
        taken
    }

    fn put(&self, record: LogRecord) {
        let mut records = self.records();
        if records.waiting.len() >= RECORDS_MAX {
            records.dropped += 1;
            return;
        }
        records.waiting.push(record);
        // All of them: one whose loop is closed, or waits for nothing else, would take none.
        let queues: Vec<_> = records.loops.iter().filter_map(Weak::upgrade).collect();
        drop(records);
        for queue in queues {
            queue.wake();
        }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns what the core says into records.
struct ToLogging;

impl Subscriber for ToLogging {
    /// The level may change, so each record is asked for anew.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match is_ours(metadata) {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata) && level(metadata.level()) >= LEVEL.load(Ordering::Relaxed)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // No span is enabled, so none needs an identity of its own.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        let record = LogRecord {
            level: level(event.metadata().level()),
            logger: logger(event.metadata().target()),
            text: said.message + &said.fields,
        };
        // A thread that ends has none.
        let sink = SINK.try_with(|sink| sink.borrow().clone());
        if let Ok(Some(sink)) = sink {
            sink.put(record);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && metadata.target().starts_with("httppubsub")
}

fn level(level: &Level) -> u8 {
    match *level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => INFO,
        _ => DEBUG,
    }
}

/// The logger of a module: `httppubsub.client` of `httppubsub_client::websocket::link`.
fn logger(target: &str) -> String {
    let krate = target.split("::").next().unwrap_or_default();
    krate.replacen('_', ".", 1)
}

#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing into a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
