//! Who plays a part, where the scripts of the published packages are found, and what both sides'
//! programs say and take.

use std::path::Path;
use std::process::Command;

use httppubsub_e2e::Process;
use serde_json::Value;

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

/// What can be said to a program in plain text: UTF-8 without NUL.
pub(crate) fn as_argument(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// The text that `event` has under `name`.
#[track_caller]
pub(crate) fn text(process: &Process, event: &Value, name: &str) -> String {
    match event[name].as_str() {
        Some(it) => it.to_owned(),
        None => process.fail(&format!("named no {name} in {event}")),
    }
}
