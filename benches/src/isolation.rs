//! Whether hostile subscribers delay the others.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::machine;
use crate::message::{Label, Message};
use crate::publish::{Answered, Published, Publisher};
use crate::report::{Latency, Report, median, milliseconds, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, SentAt, Sinks};

/// A tenth of the subscribers is slow, silent, wrong or rude, each in a way of its own: what the
/// others and the publishers notice of it.
///
/// Notifications come at a steady rate whether or not earlier ones were answered, since the answer
/// to a publisher waits for every subscriber. The run fails if a publisher is answered anything but
/// 200, or if another subscriber misses a message or gets it twice.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Isolation {
    /// How many subscribers there are, hostile ones included.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(11..=1_000))]
    subscribers: u32,

    /// How many of them are hostile. Their ways: slow, hang, drip, truncate, garbage, bad status,
    /// redirect, wrong identifier, no read, reset; with fewer than ten the first of these, with more
    /// several of each.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=500))]
    hostile: u32,

    /// How many notifications a second.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    per_second: u64,

    /// How long notifications are sent in a turn.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,

    /// How many turns there are with and without hostile ones; figures are medians of turns.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
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
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for turn in 1..=self.turns {
            for (hostile, measured) in [(0, &mut without), (self.hostile, &mut with)] {
                eprintln!("turn {turn} of {}: {hostile} are hostile", self.turns);
                measured.push(self.measure(hostile, setting).await?);
            }
        }
        let report = self.report(&without, &with, setting);
        let failed: u64 = without.iter().chain(&with).map(|it| it.failed).sum();
        ensure!(
            failed == 0,
            "{}\npublishers were refused {failed} times",
            report.text
        );
        Ok(report)
    }

    async fn measure(&self, hostile: u32, setting: &Setting) -> anyhow::Result<Measured> {
        let secrets = self.auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let hostile = hostile as usize;
        let ways = Behaviour::HOSTILE.into_iter().cycle().take(hostile);
        let others = self.subscribers as usize - hostile;
        let behaviours: Vec<_> = ways
            .chain(std::iter::repeat_n(Behaviour::Confirm, others))
            .collect();
        let sinks = Sinks::start(&behaviours, 1, keys.clone()).await?;
        let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
        for url in sinks.urls() {
            broadcaster.subscribe_with_recovery(url, &keys).await?;
        }
        let measured = self.publish(hostile, &sinks, &broadcaster, &keys).await;
        let measured = measured.with_context(|| broadcaster.log())?;
        broadcaster.stop().await?;
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

    fn report(&self, without: &[Measured], with: &[Measured], setting: &Setting) -> Report {
        let headings = [
            "",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "notifications",
            "not 200",
            "posted to hostile ones",
        ];
        let rows = [
            headings.map(str::to_owned).to_vec(),
            row("nobody is hostile", without),
            row(&format!("{} are hostile", self.hostile), with),
        ];
        let p99 = |it: &Measured| it.latency.p99.as_secs_f64();
        let ratios = with.iter().zip(without);
        let ratio = median(ratios.map(|(with, than)| p99(with) / p99(than)).collect());
        let text = format!(
            "latency of those of {} subscribers that are not hostile, {} notifications a second, \
             auth {}, medians of {} turns of {} s\n{}\n\n{}\np99 is {ratio:.2} times that without \
             hostile ones, 1.5 are asked\n",
            self.subscribers,
            self.per_second,
            self.auth.name(),
            self.turns,
            self.seconds,
            setting.describe(),
            table(&rows, 1),
        );
        let json = json!({
            "bench": "isolation",
            "subscribers": self.subscribers,
            "hostile": self.hostile,
            "notifications_per_second": self.per_second,
            "seconds": self.seconds,
            "turns": self.turns,
            "auth": self.auth.name(),
            "setting": setting.to_json(),
            "without_p99_ms": median(without.iter().map(|it| milliseconds(it.latency.p99)).collect()),
            "with_p99_ms": median(with.iter().map(|it| milliseconds(it.latency.p99)).collect()),
            "p99_ratio": ratio,
            "not_200": with.iter().map(|it| it.failed).sum::<u64>(),
        });
        Report { text, json }
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

fn row(what: &str, turns: &[Measured]) -> Vec<String> {
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
        sum(&|it| it.notifications),
        sum(&|it| it.failed),
        sum(&|it| it.posted_to_hostile),
    ]
}

const MESSAGE_BYTES: u64 = 100;

/// How long after the last notification all must be answered: what waits for a hostile subscriber
/// may have to wait for others first.
const PATIENCE: Duration = Duration::from_secs(180);
