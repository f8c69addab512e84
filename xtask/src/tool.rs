//! The programs that must be there: how to tell, and what to do if they are not.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::command::{ask, cargo, run};

/// A program that this one cannot install by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    Rustfmt,
    Clippy,
    /// SQLite and the crypto are partly C.
    CCompiler,
    /// The fuzzer's runtime is C++.
    CppCompiler,
    /// Runs the published packages.
    Python,
    /// Runs our own package.
    PackagePython,
    /// What several broadcasters share.
    Postgres,
    /// A pooler in front of it.
    PgBouncer,
}

impl Tool {
    /// What is missing and what to do about it; `None` when nothing is.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Rustfmt => component_missing("fmt", "rustfmt"),
            Self::Clippy => component_missing("clippy", "clippy"),
            Self::CCompiler => compiler_missing("CC", "cc", "C compiler"),
            Self::CppCompiler => compiler_missing("CXX", "c++", "C++ compiler"),
            Self::Python => python_missing(),
            Self::PackagePython => crate::python::missing(),
            Self::Postgres => postgres_missing(),
            Self::PgBouncer => pgbouncer_missing(),
        }
    }
}

impl std::fmt::Display for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rustfmt => "rustfmt",
            Self::Clippy => "clippy",
            Self::CCompiler => "a C compiler",
            Self::CppCompiler => "a C++ compiler",
            Self::Python => "Python 3.11 or 3.12",
            Self::PackagePython => "Python 3.11 or newer",
            Self::Postgres => "PostgreSQL",
            Self::PgBouncer => "PgBouncer",
        })
    }
}

/// Installs a subcommand of cargo unless it is there.
pub(crate) fn install_subcommand(name: &str) -> anyhow::Result<()> {
    if ask(&mut cargo([name, "--version"])).is_some() {
        return Ok(());
    }
    let package = format!("cargo-{name}");
    eprintln!("{package} is missing; installing it, which takes a few minutes once");
    run(&mut cargo(["install", &package, "--locked"])).with_context(|| {
        format!("{package} is missing and could not be installed; try `cargo install {package}`")
    })
}

fn component_missing(subcommand: &str, component: &str) -> Option<String> {
    let found = ask(&mut cargo([subcommand, "--version"])).is_some();
    (!found).then(|| format!("{component} is missing: run `rustup component add {component}`"))
}

fn compiler_missing(variable: &str, default: &str, what: &str) -> Option<String> {
    let program = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let found = ask(Command::new(&program).arg("--version")).is_some();
    (!found).then(|| {
        format!(
            "no {what} ({program} does not run): install one (Debian, Ubuntu: `apt-get install \
             build-essential`; Fedora: `dnf install gcc-c++`; macOS: `xcode-select --install`), \
             or name it in {variable}"
        )
    })
}

/// The interop tests look for the same in the same order (`interop/src/venv.rs`).
fn python_missing() -> Option<String> {
    let named = std::env::var(PYTHON_VARIABLE).ok();
    let candidates = match &named {
        Some(named) => vec![named.as_str()],
        None => vec!["python3", "python3.12", "python3.11"],
    };
    let version = "import sys; print('%d.%d' % sys.version_info[:2])";
    let suitable = candidates.iter().find(|candidate| {
        let version = ask(Command::new(candidate).args(["-c", version]));
        version.is_some_and(|version| matches!(version.trim(), "3.11" | "3.12"))
    });
    let Some(python) = suitable else {
        return Some(format!(
            "no Python 3.11 or 3.12 among {}: install one (Debian, Ubuntu: `apt-get install \
             python3 python3-venv`), or name it in {PYTHON_VARIABLE}",
            candidates.join(", ")
        ));
    };
    // Debian has `venv` without the `ensurepip` that it needs in a package of its own.
    let has_venv = ask(Command::new(python).args(["-c", "import venv, ensurepip"])).is_some();
    (!has_venv).then(|| {
        format!(
            "{python} cannot make virtual environments: install its venv module (Debian, Ubuntu: \
             `apt-get install python3-venv`)"
        )
    })
}

/// The tests look for the same (`crates/e2e/src/postgres.rs`). Where this may install packages, it
/// does.
fn postgres_missing() -> Option<String> {
    if std::env::var_os(POSTGRES_VARIABLE).is_some() || postgres_version().is_some() {
        return None;
    }
    if installed_by_apt("PostgreSQL", "postgresql") && postgres_version().is_some() {
        return None;
    }
    Some(format!(
        "no PostgreSQL 15 or newer: install it (Debian, Ubuntu: `apt-get install postgresql`), or \
         name the database of a server in which tests may make others in {POSTGRES_VARIABLE}, such \
         as postgres://postgres@localhost/postgres"
    ))
}

/// The tests look for the same (`crates/e2e/src/pgbouncer.rs`). Where this may install packages, it
/// does.
fn pgbouncer_missing() -> Option<String> {
    let is_there = || {
        let programs = ["pgbouncer", "/usr/sbin/pgbouncer"];
        let mut programs = programs.into_iter();
        programs.any(|program| ask(Command::new(program).arg("--version")).is_some())
    };
    // Where a server is named, tests that need one of their own are left out without it.
    if std::env::var_os(POSTGRES_VARIABLE).is_some() && postgres_version().is_none() {
        return None;
    }
    if is_there() || installed_by_apt("PgBouncer", "pgbouncer") && is_there() {
        return None;
    }
    Some("no PgBouncer: install it (Debian, Ubuntu: `apt-get install pgbouncer`)".to_owned())
}

/// Installs a package where this may be done.
fn installed_by_apt(name: &str, package: &str) -> bool {
    let is_root = ask(Command::new("id").arg("-u")).is_some_and(|it| it.trim() == "0");
    if !is_root || ask(Command::new("apt-get").arg("--version")).is_none() {
        return false;
    }
    eprintln!("{name} is missing; installing it with apt-get");
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", package]);
    run(install.env("DEBIAN_FRONTEND", "noninteractive")).is_ok()
}

fn postgres_version() -> Option<u32> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let folders = versions.filter_map(|it| Some(it.ok()?.path().join("bin/postgres")));
    let programs = folders.chain([PathBuf::from("postgres")]);
    let version = |program: PathBuf| {
        let said = ask(Command::new(program).arg("--version"))?;
        let number = said.split_whitespace().find_map(|word| {
            let digits = word.split('.').next()?;
            digits.parse::<u32>().ok()
        });
        number.filter(|it| *it >= 15)
    };
    programs.filter_map(version).max()
}

const POSTGRES_VARIABLE: &str = "HTTPPUBSUB_TEST_POSTGRES";

const PYTHON_VARIABLE: &str = "HTTPPUBSUB_PYTHON";
