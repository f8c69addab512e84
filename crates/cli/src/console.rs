//! Standard output and standard error: the only code that writes to them, and none of it panics.
//!
//! What goes to standard error is queued and written by a thread of its own: a reader that is
//! stopped or gone holds nothing up. What goes to standard output is data, and fails where it
//! cannot be written.
//!
//! The macros `print!` and `eprintln!` panic when they cannot write and hold a lock while they
//! wait, so the lints of the workspace forbid them everywhere else.

#![allow(
    clippy::disallowed_methods,
    reason = "all others write by way of this module"
)]

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::lines::{Lines, write_all};
use crate::shown;

/// Writes a line for people to standard error, when its reader takes it. What it quotes of others
/// does not act on a terminal.
pub(crate) fn say(text: impl Display) {
    let text = shown::harmless(&text.to_string());
    STDERR.push(format!("{text}\n").as_bytes());
}

/// The same with text in colors, which quotes nobody but who called the program.
pub(crate) fn say_colored(text: &str) {
    STDERR.push(format!("{text}\n").as_bytes());
}

/// Writes a line to standard output, when its reader takes it: for who goes on without one.
pub(crate) fn announce(text: impl Display) {
    STDOUT.push(format!("{text}\n").as_bytes());
}

/// Writes data to standard output at once. If its reader is gone, [`is_reader_gone`] is `true` of
/// the error.
///
/// # Errors
///
/// Those of the write. Unlike a line for people, data that cannot be written must not be lost
/// without a word.
pub(crate) fn write(data: &[u8]) -> io::Result<()> {
    write_all(&mut Stdout, data).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderGone),
        _ => error,
    })
}

/// `true` if what failed is that nobody reads standard output.
pub(crate) fn is_reader_gone(error: &(dyn Error + 'static)) -> bool {
    let error = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    error.is_some_and(|error| error.is::<ReaderGone>())
}

/// The mark by which an error says that it is only this, through any number of contexts.
#[derive(Debug)]
struct ReaderGone;

impl Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output")
    }
}

impl Error for ReaderGone {}

/// Waits until all lines are written, but not for a reader that is stopped. To be called before the
/// process ends.
pub(crate) fn flush() {
    for lines in [&STDOUT, &STDERR] {
        if let Some(lines) = LazyLock::get(lines) {
            lines.flush(FLUSH_PATIENCE);
        }
    }
}

/// A reader that is alive takes far less to read what is left.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// `true` if standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// `true` if what goes to standard error may have colors.
pub(crate) fn stderr_has_colors() -> bool {
    stderr_is_terminal() && colors_are_wanted()
}

/// `true` if what goes to standard output may have colors.
pub(crate) fn stdout_has_colors() -> bool {
    io::stdout().is_terminal() && colors_are_wanted()
}

/// See <https://no-color.org>: any value that is not empty says no.
fn colors_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Adds to the lines of standard error what is written to it. Never fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedStderr;

impl Write for QueuedStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        STDERR.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Both are started by the first line: a verb that writes nothing has no threads for it.
static STDERR: LazyLock<Arc<Lines>> = LazyLock::new(|| Lines::start(Stderr, count_dropped, tell));

/// Dropped lines are not counted here: `announce` is for the two lines with which `serve` begins.
static STDOUT: LazyLock<Arc<Lines>> = LazyLock::new(|| Lines::start(Stdout, |_| {}, |_| {}));

/// Counts lines of the log that nobody read in time.
pub(crate) fn count_dropped(lines: u64) {
    metrics::counter!("httppubsub_log_lines_dropped_total").increment(lines);
}

/// Says that lines are missing, at the place where they are.
fn tell(lines: u64) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!(lines, "log lines were dropped: nobody read them in time");
    } else {
        say(format_args!(
            "httppubsub: {lines} lines were dropped: nobody read them in time"
        ));
    }
}

// Without the locks of the standard library, which a thread holds for as long as its reader is
// stopped, and without its buffer.

/// File descriptor 1.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdout().as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// File descriptor 2.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stderr().as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
