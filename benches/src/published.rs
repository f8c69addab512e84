//! The published broadcaster next to ours: one large message, and durable calls.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use serde_json::json;

use crate::broadcaster::{Broadcaster, published_command, subscribe, unsubscribe};
use crate::connection::Connection;
use crate::keys::{Auth, Keys};
use crate::large::{self, Sent};
use crate::report::{Report, median, table};
use crate::setting::Setting;

/// The published broadcaster, lonelypss, next to ours: one large message, and durable calls.
///
/// It is installed with pip into the environment of the interop tests; where that does not work,
/// the report says so and has no figures. Both run on a database on disk and on one core, and take
/// turns.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Published {
    /// Size of the large message.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 1 << 30,
        value_parser = clap::value_parser!(u64).range(16..)
    )]
    bytes: u64,

    /// How many subscribers it is for.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    subscribers: u32,

    /// How many clients subscribe and unsubscribe at once.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    clients: u32,

    /// How long they do.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    seconds: u64,

    /// How many turns each has; figures are medians of turns.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    turns: u32,

    /// How messages are authorized.
    #[arg(long, value_enum, default_value_t = Auth::None)]
    auth: Auth,

    /// Measure this and not the other.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One large message.
    Large,
    /// Subscribing and unsubscribing.
    Calls,
}

/// The turns of one of the two.
#[derive(Debug, Default)]
struct Side {
    large: Vec<Sent>,
    /// A second.
    calls: Vec<f64>,
}

impl Published {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        if let Err(why) = published_command().await {
            return Ok(left_out(&format!("{why:#}")));
        }
        let (mut ours, mut theirs) = (Side::default(), Side::default());
        for turn in 1..=self.turns {
            for (who, side) in [("ours", &mut ours), ("theirs", &mut theirs)] {
                eprintln!("turn {turn} of {}: {who}", self.turns);
                let command = match who {
                    "ours" => None,
                    _ => Some(published_command().await?),
                };
                self.turn(command, side, setting).await?;
            }
        }
        Ok(self.report(&ours, &theirs, setting))
    }

    /// A turn of the broadcaster that `published` runs, or of ours.
    async fn turn(
        &self,
        published: Option<Command>,
        side: &mut Side,
        setting: &Setting,
    ) -> anyhow::Result<()> {
        let secrets = self.auth.fresh_secrets();
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let broadcaster = match published {
            Some(command) => Broadcaster::start_published(command, &secrets, setting.cores).await?,
            None => {
                let database = format!("sqlite:{}", folder.path().join("ours.db").display());
                Broadcaster::start_on(&setting.program, &secrets, setting.cores, &database).await?
            }
        };
        if self.only != Some(Part::Calls) {
            let sent = large::send(&broadcaster, &secrets, self.subscribers, self.bytes).await;
            side.large.push(sent.with_context(|| broadcaster.log())?);
        }
        if self.only != Some(Part::Large) {
            let calls = calls(&broadcaster, &secrets, self.clients, self.seconds).await;
            side.calls.push(calls.with_context(|| broadcaster.log())?);
        }
        broadcaster.stop().await
    }

    fn report(&self, ours: &Side, theirs: &Side, setting: &Setting) -> Report {
        let mut rows = vec![["", "ours", "theirs", "ratio", "asked"].map(str::to_owned)];
        let mut figures = serde_json::Map::new();
        let mut compare = |name: &str, unit: &str, pairs: Vec<(f64, f64)>, asked: &str| {
            if pairs.is_empty() {
                return;
            }
            let (ours, theirs): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let (ours, theirs) = (median(ours), median(theirs));
            let ratio = median(pairs.iter().map(|(ours, theirs)| ours / theirs).collect());
            rows.push([
                name.to_owned(),
                format!("{ours:.1} {unit}"),
                format!("{theirs:.1} {unit}"),
                format!("{ratio:.2}"),
                asked.to_owned(),
            ]);
            let figure = json!({ "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio });
            figures.insert(name.to_owned(), figure);
        };
        let large = |figure: &dyn Fn(&Sent) -> f64| -> Vec<(f64, f64)> {
            let pairs = ours.large.iter().zip(&theirs.large);
            pairs
                .map(|(ours, theirs)| (figure(ours), figure(theirs)))
                .collect()
        };
        let mib = self.bytes as f64 / f64::from(1 << 20);
        let rate = large(&|it| mib / it.took.as_secs_f64());
        compare(
            "message, from first byte to the answer",
            "MiB/s",
            rate,
            "≥ 2",
        );
        compare("CPU time", "s", large(&|it| it.cpu.as_secs_f64()), "≤ 0.6");
        let growth = large(&Sent::memory_growth_mib);
        compare("growth of memory", "MiB", growth, "≤ 32 MiB");
        let calls = ours.calls.iter().copied().zip(theirs.calls.iter().copied());
        compare("calls a second", "", calls.collect(), "≥ 10");
        let rows: Vec<_> = rows.into_iter().map(Vec::from).collect();
        let text = format!(
            "next to the published broadcaster, auth {}: one message of {mib:.1} MiB to {} \
             subscribers; subscribing and unsubscribing in turn on disk, {} clients for {} s; \
             medians of {} turns\n{}\n\n{}",
            self.auth.name(),
            self.subscribers,
            self.clients,
            self.seconds,
            self.turns,
            setting.describe(),
            table(&rows, 1)
        );
        let json = json!({
            "bench": "published",
            "bytes": self.bytes,
            "subscribers": self.subscribers,
            "clients": self.clients,
            "seconds": self.seconds,
            "turns": self.turns,
            "auth": self.auth.name(),
            "setting": setting.to_json(),
            "figures": figures,
        });
        Report { text, json }
    }
}

fn left_out(why: &str) -> Report {
    Report {
        text: format!(
            "next to the published broadcaster: left out, it cannot be installed here\n{why}\n"
        ),
        json: json!({ "bench": "published", "left_out": why }),
    }
}

/// Calls a second of all clients together, each with one on its way.
pub(crate) async fn calls(
    broadcaster: &Broadcaster,
    secrets: &Secrets,
    clients: u32,
    seconds: u64,
) -> anyhow::Result<f64> {
    let keys = Keys::of(secrets);
    let interest = Interest::Exact(Topic::new("bench/calls")?);
    let began = Instant::now();
    let clients = (0..clients).map(async |client| {
        let url = SubscriberUrl::new(format!("http://127.0.0.1:9/{client}"))?;
        let mut connection = Connection::open(broadcaster.endpoint()).await?;
        let mut calls = 0_u32;
        while began.elapsed() < Duration::from_secs(seconds) {
            subscribe(&mut connection, &url, &interest, None, &keys).await?;
            unsubscribe(&mut connection, &url, &interest, &keys).await?;
            calls += 2;
        }
        anyhow::Ok(calls)
    });
    let calls: u32 = try_join_all(clients).await?.into_iter().sum();
    Ok(f64::from(calls) / began.elapsed().as_secs_f64())
}
