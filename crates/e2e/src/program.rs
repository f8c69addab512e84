//! Where our binary is found.

use std::path::PathBuf;
use std::process::Command;

/// The variable that names our binary where it is not beside the tests.
const BINARY_VARIABLE: &str = "HTTPPUBSUB_BIN";

/// A command that runs our binary with nothing of the test's environment that could configure it.
///
/// # Panics
///
/// If the binary was not built.
pub fn httppubsub() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HTTPPUBSUB_") {
            command.env_remove(name);
        }
    }
    command
}

fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return PathBuf::from(named);
    }
    // The test is `target/<profile>/deps/<test>`, the binary is in `target/<profile>`.
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("a test is built into a folder of a profile");
    let binary = profile.join(format!("httppubsub{}", std::env::consts::EXE_SUFFIX));
    assert!(
        binary.exists(),
        "there is no {}; run `cargo build -p httppubsub-cli` first (with the profile of the \
         tests), or name the binary in {BINARY_VARIABLE}",
        binary.display()
    );
    binary
}
