//! Logs on stderr, for people or for machines.
//!
//! Text has the time in UTC, the level, the module and the message with its fields; JSON has the
//! same as members of one flat object. Fields never hold secrets or messages, at any level: that is
//! what the filter on other crates is for.

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt, registry};

use crate::console::{self, QueuedStderr};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line a person reads.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// Flags about logs.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Format of log lines on stderr.
    #[arg(long, value_enum, default_value_t, env = "HTTPPUBSUB_LOG_FORMAT")]
    log_format: LogFormat,

    /// Log lines to write: error, warn, info, debug, trace, or directives such as
    /// `info,httppubsub_broadcaster=debug`. Libraries never log below info: their debug and trace
    /// records hold tokens and messages.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "HTTPPUBSUB_LOG"
    )]
    log: String,
}

impl Logs {
    /// Begins the log of the process. To be called once, before anything is logged.
    ///
    /// # Errors
    ///
    /// A filter that cannot be parsed.
    pub(crate) fn begin(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| anyhow::anyhow!("--log {:?} is no filter: {error}", self.log))?;
        let lines = fmt::layer()
            .with_writer(|| QueuedStderr)
            // It would be an `eprintln!`.
            .log_internal_errors(false)
            .with_ansi(console::stderr_has_colors());
        let lines = match self.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        registry()
            .with(filter)
            // Behind the user's filter, which may ask for more than is safe to write down.
            .with(filter_fn(|it| is_written(it.target(), *it.level())))
            .with(lines)
            .init();
        Ok(())
    }
}

/// `true` if a record may be written whatever `--log` says: debug and trace only of our own crates,
/// whose records are free of secrets.
fn is_written(target: &str, level: Level) -> bool {
    level <= Level::INFO || target.starts_with("httppubsub")
}

/// Writes to the log that a thread panicked, or to standard error where there is no log, and never
/// waits for its reader.
pub(crate) fn begin_with_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        if tracing::dispatcher::has_been_set() {
            tracing::error!(thread, "a bug: {panic}");
        } else {
            console::say(format_args!(
                "httppubsub: a bug in thread {thread:?}: {panic}"
            ));
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_leak_is_impossible_because_libraries_say_info_at_most() {
        for library in [
            "tungstenite::protocol",
            "hyper",
            "h2",
            "rustls",
            "log",
            "tokio_postgres",
        ] {
            assert!(is_written(library, Level::INFO));
            assert!(is_written(library, Level::ERROR));
            assert!(!is_written(library, Level::DEBUG));
            assert!(!is_written(library, Level::TRACE));
        }
        assert!(is_written("httppubsub_broadcaster::notify", Level::TRACE));
    }
}
