//! `httppubsub cluster`.
//!
//! It reads the tables with one query and asks no broadcaster, so it works while they do not. Only
//! PostgreSQL has such tables: on SQLite a broadcaster is alone.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use httppubsub_proto::time::Now;
use httppubsub_store::{Census, Cluster as _, Member, PostgresStore};
use serde_json::json;

use crate::output;

/// Look at the broadcasters that share a PostgreSQL database.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub cluster status --db postgres://httppubsub@db.internal/httppubsub\n  \
    HTTPPUBSUB_DB=postgres://... httppubsub cluster status --json")]
pub(crate) struct Cluster {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the broadcasters, how far each is behind, and the notices owed. Status 1 if one is
    /// silent.
    Status(Status),
}

#[derive(Debug, clap::Args)]
struct Status {
    /// The database: `postgres://USER@HOST/NAME`.
    #[arg(
        long,
        value_name = "DATABASE",
        env = "HTTPPUBSUB_DB",
        hide_env_values = true
    )]
    db: String,

    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

impl Cluster {
    /// Only looks: a replica and a role that may only read are enough.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Status(status) => status.run().await,
        }
    }
}

impl Status {
    /// Prints the census; status 1 if a lease has ended, for use in a monitor.
    async fn run(self) -> anyhow::Result<ExitCode> {
        let store = PostgresStore::builder().existing().open(&self.db).await;
        let store = store.context("cannot look at the broadcasters of this database")?;
        let census = store.census().await?;
        if self.json {
            print_json(&census)?;
        } else {
            print_table(&census)?;
        }
        // By the clock of the database: this machine's may be wrong.
        let all_live = census.broadcasters.iter().all(|it| it.until > census.now);
        Ok(match all_live {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// One object. Ages are in seconds by the clock of the database, which is also that of the leases.
fn print_json(census: &Census) -> anyhow::Result<()> {
    let broadcasters = census.broadcasters.iter().map(|it| {
        json!({
            "url": it.url.as_str(),
            "alive": it.until > census.now,
            "lease_seconds": seconds(it.until) - seconds(census.now),
            "seen_seconds_ago": seconds(census.now) - seconds(it.seen),
            "started_seconds_ago": seconds(census.now) - seconds(it.started),
            "changes_behind": behind(census, it),
            "websockets": it.websockets,
            "version": it.version,
        })
    });
    output::json([
        ("subscriptions", census.subscriptions.into()),
        ("newest_change", census.newest.into()),
        ("notices_owed", census.owed.into()),
        ("notices_held", census.held.into()),
        ("broadcasters", broadcasters.collect()),
    ])?;
    Ok(())
}

/// A table for people, as wide as the longest url.
fn print_table(census: &Census) -> anyhow::Result<()> {
    // Urls differ at their end, so none is cut.
    let wide = census.broadcasters.iter().map(|it| it.url.as_str().len());
    let wide = wide.chain(["BROADCASTER".len()]).max().unwrap_or(0);
    output::line(&format!(
        "{:wide$}  {:<16} {:>9} {:>8} {:>10}  VERSION",
        "BROADCASTER", "STATE", "UP", "BEHIND", "WEBSOCKETS"
    ))?;
    for it in &census.broadcasters {
        let state = match it.until > census.now {
            true => format!("alive, {} left", age(it.until, census.now)),
            false => format!("silent for {}", age(census.now, it.seen)),
        };
        output::line(&format!(
            "{:wide$}  {state:<16} {:>9} {:>8} {:>10}  {}",
            it.url.as_str(),
            age(census.now, it.started),
            behind(census, it),
            it.websockets,
            it.version
        ))?;
    }
    output::line(&format!(
        "\n{} subscriptions, change {}; {} notices owed, {} of them being sent",
        census.subscriptions, census.newest, census.owed, census.held
    ))?;
    Ok(())
}

/// The number of changes that `it` had not seen at its last heartbeat.
fn behind(census: &Census, it: &Member) -> i64 {
    (census.newest - it.known).max(0)
}

/// Seconds since the epoch.
fn seconds(moment: Now) -> f64 {
    moment.since_unix().as_secs_f64()
}

/// The time between the two, in the largest unit of which there are at least two.
fn age(later: Now, earlier: Now) -> String {
    let age: Duration = later.since_unix().saturating_sub(earlier.since_unix());
    match age.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
