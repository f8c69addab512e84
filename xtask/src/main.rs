//! What developers run: tests, benchmarks, fuzzing.

#![allow(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a tool at a developer's terminal may end with it"
)]

mod bench;
mod command;
mod commits;
mod deny;
mod fuzz;
mod python;
mod soak;
mod test;
mod tool;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What developers of httppubsub run.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Test(test::Test),
    Bench(bench::Bench),
    Fuzz(fuzz::Fuzz),
    Soak(soak::Soak),
    Wheel(python::Wheel),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Test(test) => test.run(),
        Task::Bench(bench) => bench.run().map(|()| ExitCode::SUCCESS),
        Task::Fuzz(fuzz) => fuzz.run().map(|()| ExitCode::SUCCESS),
        Task::Soak(soak) => soak.run().map(|()| ExitCode::SUCCESS),
        Task::Wheel(wheel) => wheel.run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("cargo xtask: {error:#}");
        ExitCode::FAILURE
    })
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask test                         everything that CI runs
  cargo xtask test --only clippy           one step of it
  cargo xtask test --keep-going            all steps, whatever fails
  cargo xtask bench shapes                 fan-out in every shape that has a goal
  cargo xtask bench fanout                 deliveries a second, next to bare hyper
  cargo xtask bench fanout --auth hmac --subscribers 1000 --publishers 4
  cargo xtask bench large --mib 1024       one large message, and the memory it takes
  cargo xtask bench published              next to the published broadcaster
  cargo xtask bench isolation              what hostile subscribers do to the others
  cargo xtask bench overload               more notifications than can be delivered
  cargo xtask soak --minutes 60            an hour in which everything comes, goes and fails
  cargo xtask fuzz --seconds 60            every fuzz target for a minute
  cargo xtask fuzz globs                   one of them
  cargo xtask wheel                        the wheel of the Python package";
