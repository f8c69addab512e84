//! Fuzzing: each target for a while.

use std::fs;

use anyhow::{bail, ensure};

use crate::command::{cargo, read, root, run};
use crate::tool::{Tool, install_subcommand};

/// Run the fuzz targets in fuzz/, each for a while.
///
/// Installs cargo-fuzz if it is missing. Works with the stable toolchain. What is found is in
/// fuzz/artifacts/TARGET; fuzz/README.md says what to do with it. Fails if anything is found.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Fuzz {
    /// How long each target runs.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    seconds: u64,

    /// Run these targets only. [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

impl Fuzz {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if let Some(what_to_do) = Tool::CppCompiler.missing() {
            bail!(what_to_do);
        }
        install_subcommand("fuzz")?;
        let known = read(&mut cargo(["fuzz", "list"]))?;
        let known: Vec<_> = known.split_ascii_whitespace().collect();
        for target in &self.targets {
            let found = known.contains(&target.as_str());
            ensure!(
                found,
                "there is no fuzz target {target}; there are {}",
                known.join(", ")
            );
        }
        let chosen =
            |target: &&str| self.targets.is_empty() || self.targets.iter().any(|it| it == target);
        let mut failed = Vec::new();
        for target in known.into_iter().filter(chosen) {
            eprintln!("\n== fuzz: {target}, {} s", self.seconds);
            if let Err(error) = self.run_target(target) {
                eprintln!("{error:#}");
                failed.push(target);
            }
        }
        ensure!(
            failed.is_empty(),
            "something was found by {}, see above",
            failed.join(", ")
        );
        eprintln!("\nnothing was found");
        Ok(())
    }

    fn run_target(&self, target: &str) -> anyhow::Result<()> {
        let corpus = format!("fuzz/corpus/{target}");
        fs::create_dir_all(root().join(&corpus))?;
        let mut fuzz = cargo(["fuzz", "run"]);
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            // Only there the stable toolchain comes with the address sanitizer.
            fuzz.args(["-s", "none"]);
        }
        fuzz.arg(target).arg(corpus);
        let seeds = format!("fuzz/seeds/{target}");
        if root().join(&seeds).is_dir() {
            fuzz.arg(seeds);
        }
        fuzz.arg("--")
            .arg(format!("-max_total_time={}", self.seconds));
        // The sanitizer's flag is not stable yet.
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        run(&mut fuzz)
    }
}
