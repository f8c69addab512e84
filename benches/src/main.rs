//! Measures the broadcaster next to bare HTTP connections.

#![allow(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a tool at a developer's terminal may end with it"
)]

mod bare;
mod broadcaster;
mod by_hand;
mod cluster;
mod connection;
mod contest;
mod fanout;
mod greedy;
mod isolation;
mod keys;
mod large;
mod machine;
mod message;
mod overload;
mod publish;
mod published;
mod python;
mod report;
mod setting;
mod shapes;
mod sinks;
mod skeleton;
mod soak;
mod subscriptions;
mod websocket;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::machine::Cores;
use crate::report::Report;
use crate::setting::Setting;

/// Measure the broadcaster, as a process of its own, next to bare HTTP connections.
///
/// Figures go to stdout, progress to stderr. With `taskset` and two cores what is measured has a
/// core to itself, and subscribers and publishers have another.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,

    /// Print figures as JSON.
    #[arg(long, global = true)]
    json: bool,

    /// The broadcaster's program. [default: `httppubsub` beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    broadcaster: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// All of them but `soak`, and `fanout`, which `shapes` contains: one after the other, each as
    /// it is by default.
    All,
    Shapes(shapes::Shapes),
    Fanout(fanout::Fanout),
    Large(large::Large),
    Published(published::Published),
    Isolation(isolation::Isolation),
    Overload(overload::Overload),
    Subscriptions(subscriptions::Subscriptions),
    Websocket(websocket::Websocket),
    Cluster(cluster::Cluster),
    Soak(soak::Soak),
    /// The yardstick: started by `fanout`, reads what to do from stdin.
    #[command(name = bare::SUBCOMMAND, hide = true)]
    Bare,
    /// The yardstick of latency: started by `fanout`, serves until it is killed.
    #[command(name = skeleton::SUBCOMMAND, hide = true)]
    Skeleton,
    /// The yardstick of `websocket`.
    #[command(name = websocket::ECHO, hide = true)]
    Echo,
    /// The yardstick of `cargo xtask bench python`.
    #[command(name = python::SUBCOMMAND, hide = true)]
    Python(python::Yardstick),
}

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn run(self) -> anyhow::Result<()> {
        match self.bench {
            Bench::Bare => return print(&format!("{}\n", bare::main()?)),
            Bench::Echo => return print(&format!("{}\n", websocket::echo()?)),
            Bench::Skeleton => return skeleton::main(),
            Bench::Python(yardstick) => return yardstick.main(),
            Bench::All
            | Bench::Shapes(_)
            | Bench::Fanout(_)
            | Bench::Large(_)
            | Bench::Published(_)
            | Bench::Isolation(_)
            | Bench::Overload(_)
            | Bench::Subscriptions(_)
            | Bench::Websocket(_)
            | Bench::Cluster(_)
            | Bench::Soak(_) => {}
        }
        // What runs for long runs as it does elsewhere, with a thread for each core.
        let cores = match &self.bench {
            Bench::Soak(_) => None,
            _ => Cores::claim(),
        };
        let program = broadcaster::program(self.broadcaster)?;
        let setting = Setting { program, cores };
        let report = runtime(cores)?.block_on(self.bench.run(&setting))?;
        if self.json {
            print(&format!("{:#}\n", report.json))
        } else {
            print(&report.text)
        }
    }
}

impl Bench {
    async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        match self {
            Self::All => Self::all(setting).await,
            Self::Shapes(shapes) => shapes.run(setting).await,
            Self::Fanout(fanout) => fanout.run(setting).await,
            Self::Large(large) => large.run(setting).await,
            Self::Published(published) => published.run(setting).await,
            Self::Isolation(isolation) => isolation.run(setting).await,
            Self::Overload(overload) => overload.run(setting).await,
            Self::Subscriptions(subscriptions) => subscriptions.run(setting).await,
            Self::Websocket(websocket) => websocket.run(setting).await,
            Self::Cluster(cluster) => cluster.run(setting).await,
            Self::Soak(soak) => Box::pin(soak.run(setting)).await,
            Self::Bare | Self::Skeleton | Self::Echo | Self::Python(_) => {
                unreachable!("it has returned already")
            }
        }
    }

    async fn all(setting: &Setting) -> anyhow::Result<Report> {
        let (mut texts, mut jsons) = (Vec::new(), Vec::new());
        for name in [
            "shapes",
            "large",
            "published",
            "isolation",
            "overload",
            "subscriptions",
            "websocket",
            "cluster",
        ] {
            eprintln!("{name}");
            let it = Arguments::try_parse_from(["bench", name])?.bench;
            let run = Box::pin(it.run(setting)).await;
            // Those before were measured all the same.
            let Report { text, json } = run.with_context(|| texts.join("\n"))?;
            texts.push(text);
            jsons.push(json);
        }
        Ok(Report {
            text: texts.join("\n"),
            json: jsons.into(),
        })
    }
}

/// For sinks and publishers: one thread where they have one core.
fn runtime(cores: Option<Cores>) -> std::io::Result<tokio::runtime::Runtime> {
    use tokio::runtime::Builder;
    let mut builder = match cores {
        Some(_) => Builder::new_current_thread(),
        None => Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}
