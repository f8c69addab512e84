//! The program `httppubsub`.

mod check_url;
mod cluster;
mod completions;
mod connection;
mod demo;
mod descriptors;
mod egress;
mod listen;
mod logs;
mod metrics;
mod misbehave;
mod notify;
mod output;
mod secrets;
mod serve;
mod setup;
mod subscriptions;
mod topic;
mod usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use httppubsub_client::RequestError;

/// Publish/subscribe over HTTP, for programs that should not have to hold a connection open.
///
/// A broadcaster keeps subscriptions and hands every notification to all matching subscribers by
/// HTTP POST. Try it all in one go with `httppubsub demo`.
#[derive(Debug, Parser)]
#[command(name = "httppubsub", version, propagate_version = true)]
#[command(
    after_help = "Exit status: 0 done, 1 failed or refused, 2 wrong usage, \
    3 perhaps done (the broadcaster's answer was lost), 4 time ran out."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Setup(setup::Setup),
    Serve(serve::Serve),
    Listen(listen::Listen),
    Notify(notify::Notify),
    Subscriptions(subscriptions::Subscriptions),
    CheckUrl(check_url::CheckUrl),
    Cluster(cluster::Cluster),
    Demo(demo::Demo),
    Completions(completions::Completions),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Setup(setup) => setup.run(),
        Verb::Serve(serve) => serve.run().await,
        Verb::Listen(listen) => listen.run().await,
        Verb::Notify(notify) => notify.run().await,
        Verb::Subscriptions(subscriptions) => subscriptions.run().await,
        Verb::CheckUrl(check_url) => check_url.run().await,
        Verb::Cluster(cluster) => cluster.run().await,
        Verb::Demo(demo) => demo.run().await,
        Verb::Completions(completions) => completions.run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("httppubsub: {error:#}");
        match is_ambiguous(&error) {
            true => ExitCode::from(AMBIGUOUS),
            false => ExitCode::FAILURE,
        }
    })
}

/// Whether what failed may have been done all the same.
fn is_ambiguous(error: &anyhow::Error) -> bool {
    let mut requests = error
        .chain()
        .filter_map(|it| it.downcast_ref::<RequestError>());
    requests.any(RequestError::is_ambiguous)
}

/// The answer that would tell whether it was done did not come.
const AMBIGUOUS: u8 = 3;

/// What was waited for did not come in time.
const TIMED_OUT: u8 = 4;
