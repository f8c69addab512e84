//! The program `httppubsub`.
//!
//! ```text
//!  arguments, environment         usage   clap, and what it must not show
//!            |
//!            v
//!      one verb, a file           verbs/*, listen/*, serve/*
//!        |        |
//!        v        v
//!   broadcaster  client           the libraries; nothing is decided here that they could decide
//!            |
//!            v
//!   stdout: data   stderr: words   console: neither blocks the program, nor panics
//!            |
//!            v
//!       exit status               exit
//! ```
//!
//! # Rules of the program
//!
//! - **Standard output is data**, one item a line, written before the next is begun; everything for
//!   people goes to standard error. A line for a program does not change between versions.
//! - **A reader that stops reading holds up nobody but itself.** Lines for people are dropped and
//!   counted when their queue is full; data waits.
//! - **The exit status says what is known**: 0 done, 1 failed or refused, 2 wrong usage, 3 perhaps
//!   done, 4 the time ran out, 141 nobody reads any longer.
//! - **Text from others acts on no terminal** (`shown`): a topic or an answer may hold any bytes.
//! - **No secret in any output**: passwords in urls, tokens and keys are left out of errors, help
//!   and logs.
//! - **Flags before environment before defaults.** A value that cannot be right is refused before
//!   anything is opened or sent.
//!
//! # Startup
//!
//! The hook for panics comes first, so that a bug is one line and not a trace in the middle of
//! data. Then arguments are parsed, which ends the program for `--help` and mistakes, and only then
//! the runtime is made, with the number of threads that `serve --threads` asks for.
//!
//! # In scope
//!
//! Flags, files, the environment, signals, the terminal, and exit statuses.
//!
//! # Out of scope
//!
//! Anything that a user of the libraries would need as well: it belongs into `client`,
//! `broadcaster` or `net`, where it can be called.

mod connection;
mod console;
mod egress;
mod exit;
mod files;
mod hints;
mod lines;
mod listen;
mod output;
mod secrets;
mod serve;
mod shown;
mod signals;
mod telemetry;
mod tokens;
mod topic;
mod units;
mod usage;
mod verbs;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use httppubsub_client::RequestError;
use httppubsub_net::error_chain;
use tokio::runtime::{Builder, Runtime};

use crate::hints::Hinted;

/// The allocator of glibc has a heap for each of up to eight threads a core, the longest message
/// that was ever freed decides what each of them keeps, and none gives back what is not at its end:
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

/// One variant for each verb; `Serve` is boxed because it alone has some forty flags.
#[derive(Debug, Subcommand)]
enum Verb {
    Setup(verbs::setup::Setup),
    Serve(Box<serve::flags::Serve>),
    Listen(listen::listen::Listen),
    Notify(verbs::notify::Notify),
    Subscriptions(verbs::subscriptions::Subscriptions),
    Token(verbs::token::Token),
    CheckUrl(verbs::check_url::CheckUrl),
    Cluster(verbs::cluster::Cluster),
    Demo(verbs::demo::Demo),
    Completions(verbs::completions::Completions),
}

fn main() -> ExitCode {
    telemetry::logs::begin_with_panics();
    let Arguments { verb } = usage::parse();
    match runtime(verb.threads()) {
        Ok(runtime) => {
            // Standard error is flushed after the verb, as its lines are written by another thread.
            let code = runtime.block_on(async { verb.run().await.unwrap_or_else(failed) });
            console::flush();
            // A lookup of a name takes its time even if nobody needs it.
            runtime.shutdown_background();
            code
        }
        Err(error) => failed(error),
    }
}

/// Says on standard error why the verb failed and what can be done about it, and returns the status
/// for it. A reader of standard output that left is no failure to complain about: `| head -1` is
/// ordinary use.
fn failed(error: anyhow::Error) -> ExitCode {
    if error.chain().any(console::is_reader_gone) {
        return ExitCode::from(exit::NOBODY_READS);
    }
    let (error, hint) = Hinted::split(error);
    console::say(format_args!("httppubsub: {}", error_chain(error.as_ref())));
    if let Some(hint) = hint {
        console::say(format_args!("hint: {hint}"));
    }
    console::flush();
    match is_ambiguous(&error) {
        true => ExitCode::from(exit::AMBIGUOUS),
        false => ExitCode::FAILURE,
    }
}

impl Verb {
    /// Runs the verb. An error is one that the user can do something about; its text ends the
    /// program.
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Setup(setup) => setup.run(),
            Self::Serve(serve) => serve.run().await,
            Self::Listen(listen) => listen.run().await,
            Self::Notify(notify) => notify.run().await,
            Self::Subscriptions(subscriptions) => subscriptions.run().await,
            Self::Token(token) => token.run(),
            Self::CheckUrl(check_url) => check_url.run().await,
            Self::Cluster(cluster) => cluster.run().await,
            Self::Demo(demo) => demo.run().await,
            Self::Completions(completions) => completions.run(),
        }
    }

    /// The number of threads that `--threads` asks for.
    fn threads(&self) -> Option<NonZeroUsize> {
        match self {
            Self::Serve(serve) => serve.threads.and_then(NonZeroUsize::new),
            _ => None,
        }
    }
}

/// A runtime of `threads`, by default one for each core. The number is always given: without it
/// tokio reads `TOKIO_WORKER_THREADS` itself, and panics where it cannot.
fn runtime(threads: Option<NonZeroUsize>) -> anyhow::Result<Runtime> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Builder::new_multi_thread()
        .worker_threads(threads.unwrap_or_else(cores).get())
        .enable_all()
        .build()
        .context("cannot start")
}

/// `true` if the failed request may have been done all the same.
fn is_ambiguous(error: &anyhow::Error) -> bool {
    hints::request(error).is_some_and(RequestError::is_ambiguous)
}
