//! A long run against the broadcaster as users run it.

use std::ffi::OsString;

use crate::bench::Bench;

/// Let subscribers come and go and everything fail, and see what is lost and what is kept:
/// `--minutes N`; `--help` tells more.
///
/// Builds `httppubsub` and the benchmarks for release, then runs the one that is called `soak`.
/// Fails unless everybody got every message or a notice, descriptors and spool are back where they
/// began, and memory does not grow.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Soak {
    /// Its options.
    #[arg(
        value_name = "OPTION",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    options: Vec<OsString>,
}

impl Soak {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        Bench::called("soak", self.options).run()
    }
}
