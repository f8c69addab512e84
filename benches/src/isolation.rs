//! Whether hostile subscribers delay the others.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use serde_json::json;
use tokio::task::JoinSet;

use crate::broadcaster::Broadcaster;
use crate::greedy::{Greed, Greedy};
use crate::keys::{Auth, Keys};
use crate::machine;
use crate::message::{Label, Message};
use crate::publish::{Answered, Published, Publisher};
use crate::report::{Latency, Report, median, milliseconds, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, SentAt, Sinks, topic};

/// A tenth of the subscribers is slow, silent, wrong or rude, each in a way of its own, or one
/// party takes all it can of something that everybody shares: what the others and the publishers
/// notice.
///
/// Notifications come at a steady rate whether or not earlier ones were answered, since the answer
/// to a publisher waits for every subscriber. The run fails if a publisher is answered anything but
/// 200, or if another subscriber misses a message or gets it twice.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Isolation {
    /// How many subscribers there are, hostile ones included.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(11..=1_000)
    )]
    subscribers: u32,

    /// How many of them are hostile. Their ways: slow, hang, drip, truncate, garbage, bad status,
    /// redirect, wrong identifier, no read, reset; with fewer than ten the first of these, with
    /// more several of each.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=500)
    )]
    hostile: u32,

    /// Parties that take all they can; each has turns of its own. [default: all of them]
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    greedy: Option<Vec<Greed>>,

    /// How many notifications a second.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 50,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    per_second: u64,

    /// How long notifications are sent in a turn.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    seconds: u64,

    /// How many turns there are with and without hostile ones; figures are medians of turns.
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
}

impl Isolation {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        ensure!(
            self.hostile < self.subscribers,
            "there are no subscribers but hostile ones"
        );
        let greedy = self.greedy.as_deref().unwrap_or(Greed::value_variants());
        let troubles = [Trouble::None, Trouble::Hostile(self.hostile)];
        let troubles = troubles
            .into_iter()
            .chain(greedy.iter().copied().map(Trouble::Greedy));
        let mut measured: Vec<_> = troubles.map(|trouble| (trouble, Vec::new())).collect();
        for turn in 1..=self.turns {
            for (trouble, turns) in &mut measured {
                eprintln!("turn {turn} of {}: {}", self.turns, trouble.name());
                turns.push(self.measure(*trouble, setting).await?);
            }
        }
        let report = self.report(&measured, setting);
        let failed: u64 = measured
            .iter()
            .flat_map(|(_, turns)| turns)
            .map(|it| it.failed)
            .sum();
        ensure!(
            failed == 0,
            "{}\npublishers were refused {failed} times",
            report.text
        );
        Ok(report)
    }

    async fn measure(&self, trouble: Trouble, setting: &Setting) -> anyhow::Result<Measured> {
        let secrets = self.auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let hostile = match trouble {
            Trouble::Hostile(hostile) => hostile as usize,
            Trouble::None | Trouble::Greedy(_) => 0,
        };
        let ways = Behaviour::HOSTILE.into_iter().cycle().take(hostile);
        let others = self.subscribers as usize - hostile;
        let behaviours: Vec<_> = ways
            .chain(std::iter::repeat_n(Behaviour::Confirm, others))
            .collect();
        let sinks = Sinks::start(&behaviours, 1, keys.clone()).await?;
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let database = format!(
            "sqlite:{}",
            folder.path().join("subscriptions.db").display()
        );
        let broadcaster =
            Broadcaster::start_on(&setting.program, &secrets, setting.cores, &database).await?;
        for url in sinks.urls() {
            broadcaster.subscribe_with_recovery(url, &keys).await?;
        }
        let greedy = match trouble {
            Trouble::Greedy(greed) => {
                let origin = broadcaster.endpoint().origin();
                let address = format!("{}:{}", origin.host, origin.port).parse()?;
                let topic = topic();
                let topic = std::str::from_utf8(topic.as_bytes())?;
                Some(Greedy::start(greed, address, &secrets, topic).await?)
            }
            Trouble::None | Trouble::Hostile(_) => None,
        };
        let measured = self.publish(hostile, &sinks, &broadcaster, &keys).await;
        let measured = measured.with_context(|| broadcaster.log())?;
        broadcaster.stop().await?;
        drop(greedy);
        Ok(measured)
    }

    async fn publish(
        &self,
        hostile: usize,
        sinks: &Sinks,
        broadcaster: &Broadcaster,
        keys: &Keys,
    ) -> anyhow::Result<Measured> {
        sinks.begin(SentAt::Message);
        let notifications = self.per_second * self.seconds;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.per_second as u32);
        let mut waiting = JoinSet::new();
        let mut accepted = Published::default();
        let mut count = |(sequence, answered)| {
            if let Answered::Accepted { .. } = answered {
                accepted.notifications += 1;
                accepted.sequences += sequence;
            }
        };
        for sequence in 0..notifications {
            ticks.tick().await;
            while let Some(answered) = waiting.try_join_next() {
                count(answered??);
            }
            let connect =
                Publisher::connect(broadcaster.endpoint(), keys.clone(), self.subscribers);
            let mut publisher = connect.await?;
            let sent_at = machine::now().unix_nanoseconds();
            let message = Message::new(Label { sent_at, sequence }, MESSAGE_BYTES);
            waiting.spawn(async move {
                let (answered, _) = publisher.ask(message).await?;
                anyhow::Ok((sequence, answered))
            });
        }
        let answers = async {
            while let Some(answered) = waiting.join_next().await {
                count(answered??);
            }
            anyhow::Ok(())
        };
        let all = tokio::time::timeout(PATIENCE, answers).await;
        all.context("notifications are not answered")??;
        let tally = sinks.finish()?;
        let others = &tally.received[hostile..];
        let wanted = (accepted.notifications, accepted.sequences);
        ensure!(
            others
                .iter()
                .all(|it| (it.messages, it.sequences) == wanted),
            "of {} notifications the others received {:?}",
            accepted.notifications,
            others.iter().map(|it| it.messages).collect::<Vec<_>>()
        );
        let posted = tally.received[..hostile].iter().map(|it| it.messages);
        Ok(Measured {
            latency: Latency::of(&tally.latency),
            failed: notifications - accepted.notifications,
            notifications,
            posted_to_hostile: posted.sum(),
        })
    }

    fn report(&self, measured: &[(Trouble, Vec<Measured>)], setting: &Setting) -> Report {
        let headings = [
            "",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "p99 ratio",
            "notifications",
            "not 200",
            "posted to hostile ones",
        ];
        let without = &measured[0].1;
        let p99 = |it: &Measured| it.latency.p99.as_secs_f64();
        let ratio = |with: &[Measured]| {
            let ratios = with.iter().zip(without);
            median(ratios.map(|(with, than)| p99(with) / p99(than)).collect())
        };
        let rows = measured
            .iter()
            .map(|(trouble, turns)| row(&trouble.name(), turns, ratio(turns)));
        let rows: Vec<_> = std::iter::once(headings.map(str::to_owned).to_vec())
            .chain(rows)
            .collect();
        let text = format!(
            "latency of those of {} subscribers that are not hostile, {} notifications a second, \
             auth {}, medians of {} turns of {} s\n{}\n\n{}\n1.5 is asked of each ratio\n",
            self.subscribers,
            self.per_second,
            self.auth.name(),
            self.turns,
            self.seconds,
            setting.describe(),
            table(&rows, 1),
        );
        let troubles = measured.iter().map(|(trouble, turns)| {
            json!({
                "trouble": trouble.name(),
                "p99_ms": median(turns.iter().map(|it| milliseconds(it.latency.p99)).collect()),
                "p99_ratio": ratio(turns),
                "not_200": turns.iter().map(|it| it.failed).sum::<u64>(),
            })
        });
        let json = json!({
            "bench": "isolation",
            "subscribers": self.subscribers,
            "hostile": self.hostile,
            "notifications_per_second": self.per_second,
            "seconds": self.seconds,
            "turns": self.turns,
            "auth": self.auth.name(),
            "setting": setting.to_json(),
            "troubles": troubles.collect::<Vec<_>>(),
        });
        Report { text, json }
    }
}

/// What the others of one turn have to live with.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// This many subscribers fail, each in a way of its own.
    Hostile(u32),
    Greedy(Greed),
}

impl Trouble {
    fn name(self) -> String {
        match self {
            Self::None => "nobody is hostile".to_owned(),
            Self::Hostile(hostile) => format!("{hostile} are hostile"),
            Self::Greedy(greed) => format!("one takes all {}", greed.name()),
        }
    }
}

/// One turn.
struct Measured {
    /// Of the subscribers that are not hostile.
    latency: Latency,
    /// Answers to publishers that were not 200.
    failed: u64,
    notifications: u64,
    /// Messages and notices that hostile ones read.
    posted_to_hostile: u64,
}

fn row(what: &str, turns: &[Measured], p99_ratio: f64) -> Vec<String> {
    let latency = |of: &dyn Fn(&Latency) -> Duration| {
        let turns = turns.iter().map(|it| milliseconds(of(&it.latency)));
        format!("{:.2}", median(turns.collect()))
    };
    let sum = |of: &dyn Fn(&Measured) -> u64| turns.iter().map(of).sum::<u64>().to_string();
    vec![
        what.to_owned(),
        latency(&|it| it.p50),
        latency(&|it| it.p90),
        latency(&|it| it.p99),
        latency(&|it| it.max),
        format!("{p99_ratio:.2}"),
        sum(&|it| it.notifications),
        sum(&|it| it.failed),
        sum(&|it| it.posted_to_hostile),
    ]
}

const MESSAGE_BYTES: u64 = 100;

/// How long after the last notification all must be answered: what waits for a hostile subscriber
/// may have to wait for others first.
const PATIENCE: Duration = Duration::from_secs(180);
