//! Everything that CI runs, one step after the other.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;

use crate::command::{cargo, run};
use crate::deny;
use crate::tool::Tool;

/// Run everything that CI runs: format, lints, build, tests, interoperability, dependencies.
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
    /// The code is formatted.
    Fmt,
    /// Clippy and the compiler have nothing to say.
    Clippy,
    /// Everything compiles, the program `httppubsub` included.
    Build,
    /// Tests of all crates, and the examples in their documentation.
    Test,
    /// Both directions against the published Python packages.
    Interop,
    /// Licences, sources and known vulnerabilities of dependencies.
    Deny,
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
            // Whoever lacks something should learn it before the first step has run.
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
            Self::Test => "cargo test --workspace --exclude httppubsub-interop",
            Self::Interop => "cargo test -p httppubsub-interop",
            Self::Deny => "cargo deny check",
        }
    }

    fn needs(self) -> &'static [Tool] {
        match self {
            Self::Fmt => &[Tool::Rustfmt],
            Self::Clippy => &[Tool::Clippy, Tool::CCompiler],
            Self::Build => &[Tool::CCompiler],
            Self::Test => &[Tool::CCompiler, Tool::Postgres, Tool::PgBouncer],
            Self::Interop => &[Tool::CCompiler, Tool::Python, Tool::Postgres],
            Self::Deny => &[],
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
            Self::Fmt | Self::Clippy | Self::Build | Self::Test | Self::Interop => {
                let arguments = self.heading().split(' ').skip(1);
                run(&mut cargo(arguments)).map(|()| None)
            }
            Self::Deny => deny::check(),
        }
    }
}

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
