//! Work that may take long, on threads that give way to all others.
//!
//! The runtime's own blocking threads have the priority of the threads that deliver: a subscriber
//! with globs that take long would slow down all others. These threads have a lower one, and what
//! waits for them is done in slices by turns, so that no notification waits for all globs of
//! another.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::observe::metrics;

/// Lets other threads go first every now and then, in work that takes long.
///
/// Linux since 6.6 lets a thread that has a core keep it for some 3 ms, whatever its priority and
/// whatever wakes up meanwhile (`RUN_TO_PARITY` of its scheduler EEVDF): on a machine whose cores
/// are busy each delivery may have to wait for so long.
///
/// Where another process keeps the cores busy, a thread that yields waits for all of its slices. So
/// after it waited for long it goes on for as long: yielding takes at most half of its time.
#[derive(Debug)]
pub(crate) struct Yields {
    since: Cell<Instant>,
    /// Time from then until it yields.
    at_a_time: Cell<Duration>,
    /// Tiny steps since the clock was read.
    tiny_steps: Cell<u8>,
}

/// The longest time for which work keeps its core: less than a notification takes, and some hundred
/// times what it costs to yield.
const AT_A_TIME: Duration = Duration::from_micros(250);

/// Of steps that take as long as reading the clock does, or a few times as long.
const TINY_STEPS: u8 = 64;

impl Yields {
    /// Begins with a piece of the work.
    pub(crate) fn new() -> Self {
        Self {
            since: Cell::new(Instant::now()),
            at_a_time: Cell::new(AT_A_TIME),
            tiny_steps: Cell::new(0),
        }
    }

    /// Yields if the last time was long ago: to be called after each small step of the work.
    pub(crate) fn between_steps(&self) {
        let now = Instant::now();
        if now - self.since.get() >= self.at_a_time.get() {
            thread::yield_now();
            self.since.set(Instant::now());
            self.at_a_time.set(now.elapsed().max(AT_A_TIME));
        }
    }

    /// The same after steps that take some ten nanoseconds.
    pub(crate) fn between_tiny_steps(&self) {
        let tiny_steps = self.tiny_steps.get() + 1;
        self.tiny_steps.set(tiny_steps % TINY_STEPS);
        if tiny_steps == TINY_STEPS {
            self.between_steps();
        }
    }

    /// Drops all `items`, which may be many.
    pub(crate) fn drop_all<T>(&self, items: Vec<T>) {
        for item in items {
            drop(item);
            self.between_tiny_steps();
        }
    }
}

/// Something to be done.
type Work = Box<dyn FnOnce() + Send>;

/// The work that waits. Its threads live as long as the process, and are shared by all broadcasters
/// in it.
static WAITING: LazyLock<mpsc::Sender<Work>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Work>();
    let receiver: &'static _ = Box::leak(Box::new(Mutex::new(receiver)));
    for number in 0..threads() {
        let spawned = thread::Builder::new()
            .name(format!("matching-{number}"))
            .spawn(move || {
                give_way();
                loop {
                    let next = {
                        let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
                        receiver.recv()
                    };
                    match next {
                        // Who waits for it finds out that it panicked.
                        Ok(work) => drop(catch_unwind(AssertUnwindSafe(work))),
                        Err(mpsc::RecvError) => return,
                    }
                }
            });
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start a thread for matching");
        }
    }
    sender
});

/// The number of threads: half of the processors, at least one.
fn threads() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).max(1)
}

/// Lowers the priority of this thread. What it does then takes what others leave: where they leave
/// nothing, about a tenth of a processor (`sched(7)`: each step of the nice value weighs 1.25
/// times).
#[cfg(target_os = "linux")]
fn give_way() {
    const NICE: i32 = 10;
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "matching does not give way to deliveries");
    }
}

/// Elsewhere the priority is one of the whole process.
#[cfg(not(target_os = "linux"))]
fn give_way() {}

/// Does `work` beside the runtime, in turn with all others who do this, and returns its result. It
/// is done to the end even if nobody waits for it.
pub(crate) async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = oneshot::channel();
    metrics::matched_in_turn();
    push(Box::new(move || drop(done.send(work()))));
    result.await.expect("matching a glob does not panic")
}

/// Drops `items`, of which there are many.
pub(crate) fn drop_in_turn<T: Send + 'static>(items: Vec<T>) {
    push(Box::new(move || Yields::new().drop_all(items)));
}

/// Adds work behind all that waits.
fn push(work: Work) {
    // They end with the process.
    let _ = WAITING.send(work);
}

/// Keeps all threads busy until what this returns is dropped: nothing is matched meanwhile.
#[cfg(test)]
pub(crate) async fn hold_threads() -> Vec<mpsc::Sender<()>> {
    let mut held = Vec::new();
    for _ in 0..threads() {
        let (end, ended) = mpsc::channel();
        held.push(end);
        tokio::spawn(in_turn(move || ended.recv()));
    }
    // They are in the queue before anything that comes after this.
    tokio::task::yield_now().await;
    held
}
