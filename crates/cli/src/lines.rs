//! A bounded queue of lines before a thread that writes them, for readers that may stop or vanish.
//!
//! ```text
//!   any thread              the thread of the queue
//!     push --> waiting (<= 1 MiB) --> being written (<= 1 MiB) --> file descriptor
//!       \                                     |
//!        no room: dropped, counted            cannot be written: dropped, counted
//! ```
//!
//! A mutex and a condition variable instead of a channel: the bound is in bytes, a batch is taken
//! at once, and [`Lines::flush`] has to know when the last of it is written.

use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines on their way to a file descriptor. To add one never waits and never fails: what finds no
/// room, and what cannot be written, is dropped and counted.
#[derive(Debug)]
pub(crate) struct Lines {
    state: Mutex<State>,
    changed: Condvar,
    /// Called with the number of lines that were dropped, each time.
    on_drop: fn(u64),
}

/// What the callers and the thread share.
#[derive(Debug, Default)]
struct State {
    /// Whole lines, in the order in which they came.
    waiting: Vec<u8>,
    /// The thread has taken lines and not yet written all of them.
    is_writing: bool,
    /// The last line could not be written.
    is_failing: bool,
    /// Lines dropped since [`Lines::start`]'s `tell` was called.
    dropped: u64,
}

/// Lines beyond that are dropped, in bytes; as much again is being written.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Between attempts to write to what another process made non-blocking.
const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(20);

impl Lines {
    /// The queue of a new thread that writes to `writer`. As soon as lines can be written again, it
    /// calls `tell` with the number of dropped lines.
    pub(crate) fn start(
        mut writer: impl Write + Send + 'static,
        on_drop: fn(u64),
        tell: fn(u64),
    ) -> Arc<Self> {
        let lines = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            on_drop,
        });
        let own = Arc::clone(&lines);
        let write = move || {
            loop {
                let (batch, dropped) = own.take();
                if dropped > 0 {
                    // It is the first in the queue, which is empty now: it stands where they would.
                    tell(dropped);
                }
                own.done(write_lines(&mut writer, &batch));
            }
        };
        // A thread of the system and not a task: it may be stopped in a write for as long as the
        // reader likes, and the runtime may be gone when the last lines are written.
        let started = thread::Builder::new().name("lines".to_owned()).spawn(write);
        if started.is_err() {
            // Without a thread all of them are dropped.
            lines.state().is_writing = true;
        }
        lines
    }

    /// Adds `text`, one line or more, each with its newline.
    /// Never waits. A text without room is dropped whole, so that no line is cut.
    pub(crate) fn push(&self, text: &[u8]) {
        let mut state = self.state();
        if state.waiting.len() + text.len() <= WAITING_BYTES_MAX {
            state.waiting.extend_from_slice(text);
            self.changed.notify_all();
            return;
        }
        let dropped = count(text).max(1);
        state.dropped += dropped;
        // `on_drop` counts in the metrics, whose locks must not be taken under this one.
        drop(state);
        (self.on_drop)(dropped);
    }

    /// Waits until everything is written, `patience` at most.
    pub(crate) fn flush(&self, patience: Duration) {
        let is_busy = |state: &mut State| !state.waiting.is_empty() || state.is_writing;
        let waited = self
            .changed
            .wait_timeout_while(self.state(), patience, is_busy);
        drop(waited);
    }

    /// Waits for lines, or for dropped ones to tell of; returns both and marks them as being
    /// written. While writes fail, dropped lines are only summed up: telling of them would fail as
    /// well.
    fn take(&self) -> (Vec<u8>, u64) {
        let has_nothing = |state: &mut State| {
            state.waiting.is_empty() && (state.is_failing || state.dropped == 0)
        };
        let mut state = self
            .changed
            .wait_while(self.state(), has_nothing)
            .unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        let dropped = match state.is_failing {
            true => 0,
            false => std::mem::take(&mut state.dropped),
        };
        (std::mem::take(&mut state.waiting), dropped)
    }

    /// Notes that the batch is done, all but `unwritten` lines.
    fn done(&self, unwritten: u64) {
        let mut state = self.state();
        state.is_writing = false;
        state.is_failing = unwritten > 0;
        state.dropped += unwritten;
        self.changed.notify_all();
        drop(state);
        if unwritten > 0 {
            (self.on_drop)(unwritten);
        }
    }

    /// The lock is held for a copy of some bytes at most, never during a write.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes each line by itself, so that those of several processes are not mixed. Returns the number
/// of lines that were not written.
fn write_lines(writer: &mut impl Write, batch: &[u8]) -> u64 {
    let mut rest = batch;
    while let Some(length) = first_line(rest) {
        if write_all(writer, &rest[..length]).is_err() {
            return count(rest).max(1);
        }
        rest = &rest[length..];
    }
    0
}

/// The length of the first line; `None` of nothing.
/// With its newline, so that a line and its end are one write.
fn first_line(text: &[u8]) -> Option<usize> {
    let line = text.split_inclusive(|byte| *byte == b'\n').next()?;
    Some(line.len())
}

/// Writes all of `bytes`, also to what another process made non-blocking.
///
/// # Errors
///
/// Any but interruptions; [`ErrorKind::WriteZero`] if the writer takes nothing.
pub(crate) fn write_all(writer: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(WOULD_BLOCK_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The number of newlines.
fn count(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Waits for a turn before each line and then does what it says.
    struct Reader {
        turns: Receiver<io::Result<()>>,
        read: Sender<Vec<u8>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turns.recv().unwrap_or(Ok(()))?;
            let _ = self.read.send(bytes.to_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn reader() -> (Reader, Sender<io::Result<()>>, Receiver<Vec<u8>>) {
        let (turn, turns) = channel();
        let (sender, read) = channel();
        let read_by = Reader {
            turns,
            read: sender,
        };
        (read_by, turn, read)
    }

    #[test]
    fn a_reader_that_is_stopped_holds_nobody_up_and_what_was_dropped_is_counted() {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let (writer, turn, read) = reader();
        let lines = Lines::start(
            writer,
            |count| _ = DROPPED.fetch_add(count, Ordering::Relaxed),
            |count| _ = TOLD.fetch_add(count, Ordering::Relaxed),
        );
        lines.push(b"first\n");
        let long = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..5_000 {
            lines.push(&long);
        }
        let dropped = DROPPED.load(Ordering::Relaxed);
        // One batch is being written, and one waits.
        assert!(dropped >= 2_900, "{dropped}");
        lines.flush(Duration::from_millis(1));
        drop(turn);
        lines.flush(LONG);
        assert_eq!(TOLD.load(Ordering::Relaxed), dropped);
        assert_eq!(read.try_iter().count() as u64, 5_001 - dropped);
    }

    #[test]
    fn a_reader_that_is_gone_for_a_while_is_told_when_it_is_back() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let (writer, turn, read) = reader();
        let lines = Lines::start(
            writer,
            |_| {},
            |count| _ = TOLD.fetch_add(count, Ordering::Relaxed),
        );
        for _ in 0..3 {
            turn.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
            lines.push(b"into the void\n");
            lines.flush(LONG);
        }
        assert_eq!(TOLD.load(Ordering::Relaxed), 0);
        turn.send(Err(ErrorKind::Interrupted.into())).unwrap();
        turn.send(Err(ErrorKind::WouldBlock.into())).unwrap();
        drop(turn);
        lines.push(b"back\n");
        assert_eq!(read.recv_timeout(LONG).unwrap(), b"back\n");
        lines.flush(LONG);
        while TOLD.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        assert_eq!(TOLD.load(Ordering::Relaxed), 3);
    }
}
