//! `httppubsub completions`.
//!
//! A shell loads the script at its start; it is not generated anew when the program is, so it has
//! to be written again after an update that adds flags.

use std::process::ExitCode;

use clap_complete::Shell;

use crate::console;
use crate::usage;

/// Print what a shell needs to complete commands and flags.
///
/// For bash: `httppubsub completions bash > ~/.local/share/bash-completion/completions/httppubsub`
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Shell to complete for.
    shell: Shell,
}

impl Completions {
    /// Prints the script, which is made from the same definitions as the help.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut command = usage::command();
        // `generate` panics if it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "httppubsub", &mut script);
        console::write(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
