//! `httppubsub completions`.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::console;

/// Print what a shell needs to complete commands and flags.
///
/// For bash: `httppubsub completions bash > ~/.local/share/bash-completion/completions/httppubsub`
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut command = crate::Arguments::command();
        // `generate` panics if it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "httppubsub", &mut script);
        console::write(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
