//! The program `httppubsub`.

mod check_url;
mod cluster;
mod completions;
mod connection;
mod console;
mod demo;
mod descriptors;
mod egress;
mod files;
mod hints;
mod lines;
mod listen;
mod logs;
mod metrics;
mod misbehave;
mod notify;
mod output;
mod secrets;
mod serve;
mod setup;
mod shown;
mod signals;
mod subscriptions;
mod topic;
mod units;
mod usage;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use httppubsub_client::RequestError;
use httppubsub_net::chain;
use tokio::runtime::{Builder, Runtime};

use crate::hints::Hinted;

/// The allocator of glibc has a heap for each of up to eight threads a core, the longest message that
/// was ever freed decides what each of them keeps, and none gives back what is not at its end:
/// "Memory" in `docs/operating.md` has the figures.
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Publish/subscribe over HTTP, for programs that should not have to hold a connection open.
///
/// A broadcaster keeps subscriptions and hands every notification to all matching subscribers by
/// HTTP POST. Try it all in one go with `httppubsub demo`.
#[derive(Debug, Parser)]
#[command(name = "httppubsub", version, propagate_version = true)]
#[command(
    after_help = "Exit status: 0 done, 1 failed or refused, 2 wrong usage, \
    3 perhaps done (the broadcaster's answer was lost), 4 time ran out, \
    141 nobody reads standard output any longer."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Setup(setup::Setup),
    Serve(Box<serve::Serve>),
    Listen(listen::Listen),
    Notify(notify::Notify),
    Subscriptions(subscriptions::Subscriptions),
    CheckUrl(check_url::CheckUrl),
    Cluster(cluster::Cluster),
    Demo(demo::Demo),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    logs::begin_with_panics();
    let verb = usage::parse().verb;
    match runtime(verb.threads()) {
        Ok(runtime) => {
            let code = runtime.block_on(async { verb.run().await.unwrap_or_else(failed) });
            console::flush();
            // A lookup of a name takes its time even if nobody needs it.
            runtime.shutdown_background();
            code
        }
        Err(error) => failed(error),
    }
}

fn failed(error: anyhow::Error) -> ExitCode {
    if error.chain().any(console::is_reader_gone) {
        return ExitCode::from(NOBODY_READS);
    }
    let (error, hint) = Hinted::split(error);
    console::say(format_args!("httppubsub: {}", chain(error.as_ref())));
    if let Some(hint) = hint {
        console::say(format_args!("hint: {hint}"));
    }
    console::flush();
    match is_ambiguous(&error) {
        true => ExitCode::from(AMBIGUOUS),
        false => ExitCode::FAILURE,
    }
}

impl Verb {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Setup(setup) => setup.run(),
            Self::Serve(serve) => serve.run().await,
            Self::Listen(listen) => listen.run().await,
            Self::Notify(notify) => notify.run().await,
            Self::Subscriptions(subscriptions) => subscriptions.run().await,
            Self::CheckUrl(check_url) => check_url.run().await,
            Self::Cluster(cluster) => cluster.run().await,
            Self::Demo(demo) => demo.run().await,
            Self::Completions(completions) => completions.run(),
        }
    }

    /// How many threads it asks for.
    fn threads(&self) -> Option<NonZeroUsize> {
        match self {
            Self::Serve(serve) => serve.threads.and_then(NonZeroUsize::new),
            _ => None,
        }
    }
}

/// A runtime of `threads`, by default one for each core. The number is always given: without it tokio
/// reads `TOKIO_WORKER_THREADS` itself, and panics where it cannot.
fn runtime(threads: Option<NonZeroUsize>) -> anyhow::Result<Runtime> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Builder::new_multi_thread()
        .worker_threads(threads.unwrap_or_else(cores).get())
        .enable_all()
        .build()
        .context("cannot start")
}

/// Whether what failed may have been done all the same.
fn is_ambiguous(error: &anyhow::Error) -> bool {
    hints::request(error).is_some_and(RequestError::is_ambiguous)
}

/// The answer that would tell whether it was done did not come.
const AMBIGUOUS: u8 = 3;

/// What was waited for did not come in time.
const TIMED_OUT: u8 = 4;

/// The reader of standard output is gone, as after `| head -1`: the status that a shell gives to a
/// program ended by SIGPIPE, as most are then. It is not 0, which `subscriptions check` and `check-url`
/// say of an answer that nobody read.
const NOBODY_READS: u8 = 141;
