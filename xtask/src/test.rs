//! Everything that CI runs, one step after the other.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;

use crate::command::{cargo, run};
use crate::commits;
use crate::deny;
use crate::python;
use crate::tool::Tool;

/// Run everything that CI runs: format, lints, build, tests, interoperability, dependencies,
/// the Python package.
///
/// Looks first whether everything needed is there, and says what is missing. Stops at the first
/// failure unless told to go on. The last line says how many steps passed and failed; the exit
/// status is 0 only if all passed.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Test {
    /// Go on after a failure, and where something needed is missing.
    #[arg(long)]
    keep_going: bool,

    /// Run this step only; may be given more than once.
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Step {
    /// The code is formatted, and so are the messages of commits.
    Fmt,
    /// Clippy and the compiler have nothing to say.
    Clippy,
    /// Everything compiles, the program `httppubsub` included.
    Build,
    /// Each part alone: a client without TLS and websockets, stores one by one, the fuzz targets.
    Parts,
    /// Tests of all crates, and the examples in their documentation.
    Test,
    /// Documentation has no links that lead nowhere.
    Doc,
    /// Both directions against the published Python packages.
    Interop,
    /// Licences, sources and known vulnerabilities of dependencies.
    Deny,
    /// The Python package: lints, types, and tests of its wheel.
    Python,
}

impl Test {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let steps: Vec<_> = Step::value_variants()
            .iter()
            .filter(|step| self.only.is_empty() || self.only.contains(step))
            .copied()
            .collect();
        let chosen = steps.len();
        let missing = missing_tools(&steps);
        let mut results = Vec::new();
        for step in steps {
            // A missing tool is to be known before the first step has run.
            if !missing.is_empty() && !self.keep_going && step.lacks(&missing).is_none() {
                continue;
            }
            let result = step.run_timed(&missing);
            let failed = result.failed;
            results.push(result);
            if failed && missing.is_empty() && !self.keep_going {
                break;
            }
        }
        self.summarize(&results, chosen)
    }

    fn summarize(&self, results: &[StepResult], steps: usize) -> anyhow::Result<ExitCode> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n== summary")?;
        for StepResult {
            step,
            failed,
            note,
            took,
        } in results
        {
            let word = if *failed { "FAILED" } else { "passed" };
            let (name, seconds) = (step.name(), took.as_secs());
            writeln!(out, "{word}  {name:<8} {seconds:>5} s  {note}")?;
        }
        let failed = results.iter().filter(|result| result.failed).count();
        if results.len() < steps && !self.keep_going {
            writeln!(
                out,
                "not all steps were run; --keep-going runs them whatever fails"
            )?;
        }
        writeln!(out, "{} passed, {failed} failed", results.len() - failed)?;
        out.flush()?;
        if failed > 0 {
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }
}

struct StepResult {
    step: Step,
    failed: bool,
    note: String,
    took: Duration,
}

impl Step {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no step is skipped");
        value.get_name().to_owned()
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Fmt => "cargo fmt --all --check",
            Self::Clippy => "cargo clippy --workspace --all-targets -- -D warnings",
            Self::Build => "cargo build --workspace",
            Self::Parts => "cargo clippy, test and check of parts alone",
            Self::Test => "cargo test --workspace --exclude httppubsub-interop",
            Self::Doc => "cargo doc --workspace --no-deps",
            Self::Interop => "cargo test -p httppubsub-interop",
            Self::Deny => "cargo deny check",
            Self::Python => "maturin build; ruff; mypy; basedpyright; pytest",
        }
    }

    fn needs(self) -> &'static [Tool] {
        match self {
            Self::Fmt => &[Tool::Rustfmt],
            Self::Clippy => &[Tool::Clippy, Tool::CCompiler],
            Self::Build | Self::Doc => &[Tool::CCompiler],
            Self::Parts => &[Tool::Clippy, Tool::CCompiler, Tool::CppCompiler],
            Self::Test => &[Tool::CCompiler, Tool::Postgres, Tool::PgBouncer],
            Self::Interop => &[Tool::CCompiler, Tool::Python, Tool::Postgres],
            Self::Deny => &[],
            Self::Python => &[Tool::CCompiler, Tool::PackagePython],
        }
    }

    /// What it needs and cannot have.
    fn lacks(self, missing: &BTreeSet<Tool>) -> Option<Tool> {
        self.needs()
            .iter()
            .copied()
            .find(|tool| missing.contains(tool))
    }

    fn run_timed(self, missing: &BTreeSet<Tool>) -> StepResult {
        eprintln!("\n== {}: {}", self.name(), self.heading());
        let began = Instant::now();
        let done = match self.lacks(missing) {
            Some(tool) => Err(anyhow::anyhow!("{tool} is missing, see above")),
            None => self.run(),
        };
        let took = began.elapsed();
        match done {
            Ok(note) => StepResult {
                step: self,
                failed: false,
                note: note.unwrap_or_default(),
                took,
            },
            Err(error) => {
                eprintln!("{error:#}");
                StepResult {
                    step: self,
                    failed: true,
                    note: format!("{error:#}"),
                    took,
                }
            }
        }
    }

    /// Does it; says what could not be checked.
    fn run(self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Fmt => {
                run(&mut cargo(self.heading().split(' ').skip(1)))?;
                commits::check()
            }
            Self::Clippy | Self::Build | Self::Test | Self::Interop => {
                let mut command = cargo(self.heading().split(' ').skip(1));
                if std::env::var_os(TEST_THREADS).is_none() {
                    let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
                    command.env(TEST_THREADS, (cores * TESTS_PER_CORE).to_string());
                }
                run(&mut command).map(|()| None)
            }
            Self::Doc => {
                let mut command = cargo(self.heading().split(' ').skip(1));
                run(command.env("RUSTDOCFLAGS", "-D warnings")).map(|()| None)
            }
            Self::Parts => {
                for part in PARTS {
                    eprintln!("cargo {part}");
                    run(&mut cargo(part.split(' ')))?;
                }
                Ok(None)
            }
            Self::Deny => deny::check(),
            Self::Python => python::test(),
        }
    }
}

/// What is to work alone, though all of it together is what the other steps build. The fuzz
/// targets are a workspace of their own; only running them needs more than the stable compiler.
const PARTS: [&str; 8] = [
    "clippy -p httppubsub --no-default-features --features client -- -D warnings",
    "clippy -p httppubsub --no-default-features --features client,tls -- -D warnings",
    "clippy -p httppubsub --no-default-features --features client,websocket -- -D warnings",
    "clippy -p httppubsub --no-default-features --features broadcaster -- -D warnings",
    "clippy -p httppubsub-store --no-default-features -- -D warnings",
    "clippy -p httppubsub-store --no-default-features --features postgres -- -D warnings",
    "test -p httppubsub-client --no-default-features --lib --tests",
    "check --manifest-path fuzz/Cargo.toml --target-dir target",
];

/// How many tests of a binary run at a time; a reader's own number is left as it is.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// Most tests wait for deadlines and other processes, and leave their core to others meanwhile.
const TESTS_PER_CORE: usize = 3;

/// What the steps need and do not find; says it all at once.
fn missing_tools(steps: &[Step]) -> BTreeSet<Tool> {
    let needed: BTreeSet<_> = steps
        .iter()
        .flat_map(|step| step.needs())
        .copied()
        .collect();
    let mut missing = BTreeSet::new();
    for tool in needed {
        if let Some(what_to_do) = tool.missing() {
            eprintln!("missing: {what_to_do}");
            missing.insert(tool);
        }
    }
    missing
}
