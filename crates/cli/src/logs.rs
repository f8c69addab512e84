//! Where the program's talk goes: to stderr, for people or for machines.

use clap::ValueEnum;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// How log lines look.
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
    /// How log lines on stderr look.
    #[arg(long, value_enum, default_value_t, env = "HTTPPUBSUB_LOG_FORMAT")]
    log_format: LogFormat,

    /// Which log lines are written: error, warn, info, debug, trace, or directives such as
    /// `info,httppubsub_broadcaster=debug`.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "HTTPPUBSUB_LOG"
    )]
    log: String,
}

impl Logs {
    pub(crate) fn begin(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| anyhow::anyhow!("--log {:?} is no filter: {error}", self.log))?;
        let color = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(color);
        match self.log_format {
            LogFormat::Text => lines.init(),
            LogFormat::Json => lines.json().flatten_event(true).init(),
        }
        Ok(())
    }
}
