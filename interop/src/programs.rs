//! Who plays a part, and where the scripts of the published packages are found.

use std::path::Path;
use std::process::Command;

use crate::venv::python;

/// Who plays a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The binary `httppubsub`.
    Ours,
    /// The published Python packages.
    Theirs,
}

/// A command that runs a script of `peers/`.
pub fn peer(script: &str) -> Command {
    let mut command = Command::new(python());
    command
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("peers")
                .join(script),
        )
        // The source tree stays as it is.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
