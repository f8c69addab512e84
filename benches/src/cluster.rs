//! Broadcasters on PostgreSQL next to one on SQLite.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use httppubsub_e2e::Postgres;
use httppubsub_proto::auth::Secrets;
use serde_json::json;

use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::machine;
use crate::message::{Label, Message};
use crate::publish::{Notify as _, Publisher};
use crate::published::calls;
use crate::report::{Latency, Report, median, milliseconds, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, SentAt, Sinks, latency_histogram};

/// One and two broadcasters on PostgreSQL next to one on SQLite.
///
/// PostgreSQL runs beside subscribers and publishers, with its own settings. Needs PostgreSQL 15 or
/// newer; `HTTPPUBSUB_TEST_POSTGRES` names one, otherwise one is started for this. All take turns.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Cluster {
    /// How long each has in a turn.
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
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    turns: u32,
}

/// What is asked of all of them.
struct Shape {
    name: &'static str,
    subscribers: u32,
    publishers: usize,
    auth: Auth,
    /// Who they are; the first is what the others are compared with.
    competitors: &'static [Competitor],
}

/// Broadcasters on one database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Competitor {
    Sqlite,
    Postgres {
        broadcasters: usize,
        is_replay_shared: bool,
    },
}

impl Competitor {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "one on SQLite",
            Self::Postgres {
                broadcasters: 1,
                is_replay_shared: false,
            } => "one on PostgreSQL",
            Self::Postgres {
                broadcasters: 1,
                is_replay_shared: true,
            } => "one on PostgreSQL, replay guard shared",
            Self::Postgres { .. } => "two on PostgreSQL",
        }
    }
}

const ONE: Competitor = Competitor::Postgres {
    broadcasters: 1,
    is_replay_shared: false,
};

const SHAPES: [Shape; 4] = [
    Shape {
        name: "100 subscribers, 8 publishers",
        subscribers: 100,
        publishers: 8,
        auth: Auth::None,
        competitors: &[
            Competitor::Sqlite,
            ONE,
            Competitor::Postgres {
                broadcasters: 2,
                is_replay_shared: false,
            },
        ],
    },
    Shape {
        name: "one subscriber, one publisher",
        subscribers: 1,
        publishers: 1,
        auth: Auth::None,
        competitors: &[Competitor::Sqlite, ONE],
    },
    Shape {
        name: "one subscriber, 64 publishers",
        subscribers: 1,
        publishers: 64,
        auth: Auth::None,
        competitors: &[Competitor::Sqlite, ONE],
    },
    Shape {
        name: "one subscriber, 64 publishers, HMAC",
        subscribers: 1,
        publishers: 64,
        auth: Auth::Hmac,
        competitors: &[
            ONE,
            Competitor::Postgres {
                broadcasters: 1,
                is_replay_shared: true,
            },
        ],
    },
];

const MESSAGE_BYTES: u64 = 100;

/// What one competitor did in one turn.
struct Turn {
    /// Notifications a second.
    notifications: f64,
    /// Of all broadcasters, for each notification.
    cpu_microseconds: f64,
    answered: Latency,
}

impl Cluster {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let postgres = tokio::task::spawn_blocking(|| match std::env::var_os(VARIABLE) {
            Some(_) => None,
            None => Some(Postgres::own(&[])),
        });
        let own = postgres.await?;
        let postgres = own.as_ref().unwrap_or_else(|| Postgres::shared());
        let mut text = String::from("broadcasters on one database, messages of 100 bytes, medians");
        text += &format!(
            " of {} turns of {} s\n{}\n",
            self.turns,
            self.seconds,
            setting.describe()
        );
        let mut shapes = Vec::new();
        for shape in &SHAPES {
            eprintln!("{}", shape.name);
            let turns = self.shape(shape, postgres, setting).await?;
            let (table, json) = report(shape, &turns);
            text += &format!("\n{}\n{table}", shape.name);
            shapes.push(json);
        }
        eprintln!("subscribing and unsubscribing");
        let (table, json) = self.calls(postgres, setting).await?;
        text += &format!("\nsubscribing and unsubscribing in turn, durable\n{table}");
        shapes.push(json);
        Ok(Report {
            text,
            json: json!({ "bench": "cluster", "setting": setting.to_json(), "shapes": shapes }),
        })
    }

    /// Calls a second of one client, and of 64.
    async fn calls(
        &self,
        postgres: &Postgres,
        setting: &Setting,
    ) -> anyhow::Result<(String, serde_json::Value)> {
        let secrets = Auth::None.fresh_secrets();
        let keys = Keys::of(&secrets);
        let mut rows = vec![["who", "1 client, calls/s", "64 clients, calls/s"].map(str::to_owned)];
        let mut jsons = Vec::new();
        for competitor in [Competitor::Sqlite, ONE] {
            let shape = &SHAPES[0];
            let party = Party::start(competitor, shape, &secrets, &keys, postgres, setting).await?;
            let (mut alone, mut many) = (Vec::new(), Vec::new());
            for _ in 0..self.turns {
                let broadcaster = &party.broadcasters[0];
                alone.push(calls(broadcaster, &secrets, 1, self.seconds).await?);
                many.push(calls(broadcaster, &secrets, 64, self.seconds).await?);
            }
            let (alone, many) = (median(alone), median(many));
            rows.push([
                competitor.name().to_owned(),
                format!("{alone:.0}"),
                format!("{many:.0}"),
            ]);
            jsons.push(json!({ "who": competitor.name(), "one": alone, "many": many }));
            for broadcaster in party.broadcasters {
                broadcaster.stop().await?;
            }
        }
        let rows: Vec<_> = rows.into_iter().map(Vec::from).collect();
        Ok((
            table(&rows, 1),
            json!({ "shape": "calls", "competitors": jsons }),
        ))
    }

    /// The turns of each competitor.
    async fn shape(
        &self,
        shape: &Shape,
        postgres: &Postgres,
        setting: &Setting,
    ) -> anyhow::Result<Vec<Vec<Turn>>> {
        let secrets = shape.auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let mut parties = Vec::new();
        for &competitor in shape.competitors {
            let party = Party::start(competitor, shape, &secrets, &keys, postgres, setting);
            parties.push(party.await.with_context(|| competitor.name())?);
        }
        let mut turns: Vec<Vec<Turn>> = shape.competitors.iter().map(|_| Vec::new()).collect();
        for number in 1..=self.turns {
            for ((party, turns), competitor) in
                parties.iter_mut().zip(&mut turns).zip(shape.competitors)
            {
                let turn = party.turn(Duration::from_secs(self.seconds)).await;
                let turn = turn.with_context(|| party.broadcasters[0].log())?;
                eprintln!(
                    "turn {number} of {}, {}: {:.0} notifications a second",
                    self.turns,
                    competitor.name(),
                    turn.notifications
                );
                turns.push(turn);
            }
        }
        for party in parties {
            for broadcaster in party.broadcasters {
                broadcaster.stop().await?;
            }
        }
        Ok(turns)
    }
}

const VARIABLE: &str = "HTTPPUBSUB_TEST_POSTGRES";

/// A competitor with its subscribers and publishers.
struct Party {
    broadcasters: Vec<Broadcaster>,
    publishers: Vec<Publisher>,
    sinks: Sinks,
    _folder: tempfile::TempDir,
}

impl Party {
    async fn start(
        competitor: Competitor,
        shape: &Shape,
        secrets: &Secrets,
        keys: &Keys,
        postgres: &Postgres,
        setting: &Setting,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (database, count, flags): (_, _, &[&str]) = match competitor {
            Competitor::Sqlite => {
                let path = folder.path().join("subscriptions.db");
                (format!("sqlite:{}", path.display()), 1, &[])
            }
            Competitor::Postgres {
                broadcasters,
                is_replay_shared,
            } => {
                let guard: &[&str] = match is_replay_shared {
                    true => &["--replay-guard", "shared"],
                    false => &["--replay-guard", "own"],
                };
                (postgres.database().await, broadcasters, guard)
            }
        };
        let mut broadcasters = Vec::new();
        for _ in 0..count {
            let started =
                Broadcaster::start_with(&setting.program, secrets, setting.cores, &database, flags);
            broadcasters.push(started.await?);
        }
        let behaviours = vec![Behaviour::Confirm; shape.subscribers as usize];
        let sinks = Sinks::start(&behaviours, 1, keys.clone()).await?;
        broadcasters[0].subscribe(sinks.urls(), keys).await?;
        let publishers = (0..shape.publishers).map(|number| {
            let at = &broadcasters[number % count];
            Publisher::connect(at.endpoint(), keys.clone(), shape.subscribers)
        });
        let publishers = try_join_all(publishers).await?;
        Ok(Self {
            broadcasters,
            publishers,
            sinks,
            _folder: folder,
        })
    }

    async fn turn(&mut self, duration: Duration) -> anyhow::Result<Turn> {
        self.sinks.begin(SentAt::Message);
        let warm_up = self.publishers.iter_mut();
        try_join_all(warm_up.map(|it| it.warm_up(20, MESSAGE_BYTES))).await?;
        let cpu_before = self.cpu_time()?;
        let began = Instant::now();
        let running = self.publishers.iter_mut();
        let running = running.map(|it| notify_for(it, duration));
        let histograms = try_join_all(running).await?;
        let elapsed = began.elapsed();
        let cpu = self.cpu_time()?.saturating_sub(cpu_before);
        self.sinks.finish()?;
        let mut answered = latency_histogram();
        for histogram in histograms {
            answered.add(histogram)?;
        }
        let notifications = answered.len() as f64;
        Ok(Turn {
            notifications: notifications / elapsed.as_secs_f64(),
            cpu_microseconds: cpu.as_secs_f64() * 1e6 / notifications,
            answered: Latency::of(&answered),
        })
    }

    fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.broadcasters.iter().map(Broadcaster::cpu_time).sum()
    }
}

/// How long each notification took to be answered, in nanoseconds.
async fn notify_for(
    publisher: &mut Publisher,
    duration: Duration,
) -> anyhow::Result<Histogram<u64>> {
    let mut histogram = latency_histogram();
    let began = Instant::now();
    let mut sequence = 0;
    while began.elapsed() < duration {
        let sent_at = machine::now().unix_nanoseconds();
        let message = Message::new(Label { sent_at, sequence }, MESSAGE_BYTES);
        let took = publisher.notify(message).await?;
        histogram.saturating_record(u64::try_from(took.as_nanos())?);
        sequence += 1;
    }
    Ok(histogram)
}

fn report(shape: &Shape, turns: &[Vec<Turn>]) -> (String, serde_json::Value) {
    let ratio = |of: &[Turn], figure: fn(&Turn) -> f64| {
        let pairs = of.iter().zip(&turns[0]);
        median(pairs.map(|(a, b)| figure(a) / figure(b)).collect())
    };
    let p50 = |turn: &Turn| milliseconds(turn.answered.p50);
    let p99 = |turn: &Turn| milliseconds(turn.answered.p99);
    let headings = [
        "who",
        "deliveries/s",
        "ratio",
        "CPU µs/notification",
        "ratio",
        "p50 ms",
        "ratio",
        "p99 ms",
    ];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    let mut jsons = Vec::new();
    for (competitor, of) in shape.competitors.iter().zip(turns) {
        let middle = |figure: fn(&Turn) -> f64| median(of.iter().map(figure).collect());
        let deliveries = middle(|it| it.notifications) * f64::from(shape.subscribers);
        let (cpu, median_time, slow) = (middle(|it| it.cpu_microseconds), middle(p50), middle(p99));
        let rate_ratio = ratio(of, |it| it.notifications);
        let cpu_ratio = ratio(of, |it| it.cpu_microseconds);
        let p50_ratio = ratio(of, p50);
        rows.push(vec![
            competitor.name().to_owned(),
            format!("{deliveries:.0}"),
            format!("{rate_ratio:.2}"),
            format!("{cpu:.1}"),
            format!("{cpu_ratio:.2}"),
            format!("{median_time:.3}"),
            format!("{p50_ratio:.2}"),
            format!("{slow:.3}"),
        ]);
        jsons.push(json!({
            "who": competitor.name(),
            "deliveries_per_second": deliveries,
            "rate_ratio": rate_ratio,
            "cpu_us_per_notification": cpu,
            "cpu_ratio": cpu_ratio,
            "answered_p50_ms": median_time,
            "p50_ratio": p50_ratio,
            "answered_p99_ms": slow,
        }));
    }
    (
        table(&rows, 1),
        json!({ "shape": shape.name, "competitors": jsons }),
    )
}
