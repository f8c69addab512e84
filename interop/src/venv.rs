//! The virtual environment with the published packages, made once and shared by all tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::body::sha512;

/// The variable that names the Python to build the environment from.
const PYTHON_VARIABLE: &str = "HTTPPUBSUB_PYTHON";

/// What is installed; see the file itself.
const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// The Python of an environment that has the published packages, at `target/interop-venv` of the
/// workspace.
///
/// The first caller makes it, which takes half a minute and asks the package index; all others
/// wait for it, also those in other processes. It is made anew when `requirements.txt` changes.
///
/// # Panics
///
/// If there is no Python 3.11 or 3.12, or the packages cannot be installed.
pub fn python() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(make).clone()
}

fn make() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it is a member");
    let target = workspace.join("target");
    fs::create_dir_all(&target).expect("the target folder can be made");
    let venv = target.join("interop-venv");
    let python = venv.join("bin/python");
    let marker = venv.join("made-from");
    let made_from = sha512(REQUIREMENTS.as_bytes());

    // Held until this function returns; the system lets go of it if the process dies.
    let lock = File::create(target.join("interop-venv.lock")).expect("the lock file can be made");
    lock.lock().expect("the lock file can be locked");

    if python.exists() && fs::read_to_string(&marker).is_ok_and(|it| it == made_from) {
        return python;
    }
    if venv.exists() {
        fs::remove_dir_all(&venv).expect("the outdated environment can be removed");
    }
    run(Command::new(base_python()).args(["-m", "venv"]).arg(&venv));
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
        ])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("requirements.txt")));
    // Last, so that an environment that was not finished is made again.
    fs::write(marker, made_from).expect("the environment can be written");
    python
}

/// A Python on which the client matches globs as the broadcaster does (workaround f).
fn base_python() -> String {
    let named = std::env::var(PYTHON_VARIABLE).ok();
    let candidates = match &named {
        Some(it) => vec![it.as_str()],
        None => vec!["python3", "python3.12", "python3.11"],
    };
    let mut found = Vec::new();
    for candidate in candidates {
        let asked = Command::new(candidate)
            .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
            .output();
        let Ok(output) = asked else { continue };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if version == "3.11" || version == "3.12" {
            return candidate.to_owned();
        }
        found.push(format!("{candidate} is {version}"));
    }
    panic!(
        "the interop tests need Python 3.11 or 3.12 (on 3.13 and newer the published client \
         matches globs in another way); found: [{}]. Install one, or name it in \
         {PYTHON_VARIABLE}",
        found.join(", ")
    )
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
