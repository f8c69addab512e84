//! Benchmarks, with everything built for release first.

use std::ffi::OsString;

use crate::command::{cargo, run};
use crate::python;

/// Measure the broadcaster: `all`, `shapes`, `fanout`, `large`, `published`, `isolation`,
/// `overload`, `subscriptions`, `websocket`, `cluster` or `soak`; `--help` after a name tells more.
/// Or `python`, the Python package.
///
/// Builds `httppubsub` and the benchmarks for release, then runs the one that is named.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Bench {
    /// Name of the benchmark and its options.
    #[arg(
        value_name = "NAME",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

impl Bench {
    /// The benchmark of this name.
    pub(crate) fn called(name: &str, options: Vec<OsString>) -> Self {
        let arguments = [name.into()].into_iter().chain(options).collect();
        Self { arguments }
    }

    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if let Some((name, options)) = self.arguments.split_first()
            && name == "python"
        {
            return python::bench(options);
        }
        let mut build = cargo(["build", "--release", "-p", "httppubsub-bench"]);
        if !self.only_asks_for_help() {
            build.args(["-p", "httppubsub-cli"]);
        }
        run(&mut build)?;
        let mut bench = cargo([
            "run",
            "--release",
            "--quiet",
            "-p",
            "httppubsub-bench",
            "--",
        ]);
        run(bench.args(&self.arguments))
    }

    /// Then the broadcaster, which takes minutes to build, is not needed.
    fn only_asks_for_help(&self) -> bool {
        let asks = |argument: &OsString| argument == "--help" || argument == "-h";
        self.arguments.is_empty() || self.arguments.iter().any(asks)
    }
}
