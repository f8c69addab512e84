//! Licences, sources, banned crates and known vulnerabilities of what we depend on.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::command::{cargo, root, run};
use crate::tool::install_subcommand;

/// Checks it all. What could not be checked is said in what is returned.
pub(crate) fn check() -> anyhow::Result<Option<String>> {
    install_subcommand("deny")?;
    run(&mut cargo(["deny", "check", "bans", "licenses", "sources"]))?;
    match advisories()? {
        Advisories::None => Ok(None),
        Advisories::Unreachable => Ok(Some(
            "known vulnerabilities were NOT checked: the RustSec database at github.com cannot be \
             reached from here"
                .to_owned(),
        )),
    }
}

enum Advisories {
    None,
    Unreachable,
}

/// The database is cloned with git, which may wait forever on a network that swallows packets.
fn advisories() -> anyhow::Result<Advisories> {
    let log = root().join("target/advisories.log");
    fs::create_dir_all(root().join("target"))?;
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = cargo(["deny", "check", "advisories"]);
    command.stdout(file.try_clone()?).stderr(file);
    let succeeded = run_within(&mut command, DEADLINE)?;
    let said = fs::read_to_string(&log)?;
    eprint!("{said}");
    match succeeded {
        Some(true) => Ok(Advisories::None),
        Some(false) if !said.contains("failed to fetch advisory database") => {
            bail!("cargo deny check advisories failed")
        }
        Some(false) | None => Ok(Advisories::Unreachable),
    }
}

/// Whether it succeeded; `None` if it did not end in time.
fn run_within(command: &mut Command, deadline: Duration) -> anyhow::Result<Option<bool>> {
    let mut process = command.spawn().context("cannot start cargo")?;
    let began = Instant::now();
    while began.elapsed() < deadline {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status.success()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    process.kill()?;
    process.wait()?;
    Ok(None)
}

const DEADLINE: Duration = Duration::from_secs(180);
