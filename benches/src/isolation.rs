//! Whether one subscriber that hangs delays the others.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::machine;
use crate::message::{Label, Message};
use crate::publish::{Notify as _, Publisher};
use crate::report::{Latency, Report, milliseconds, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, SentAt, Sinks};

/// One of the subscribers takes messages and does not answer: what the others notice of it.
///
/// Notifications come at a steady rate whether or not earlier ones were answered, since the answer
/// to a publisher waits for every subscriber. The run fails if the others' 99th percentile grows by
/// more than 50 ms.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Isolation {
    /// How many subscribers there are, the one that hangs included.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    subscribers: u32,

    /// How long it hangs.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    hang: u64,

    /// How many notifications a second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    per_second: u64,

    /// How long notifications are sent, with and without the hanging one.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// How messages are authorized.
    #[arg(long, value_enum, default_value_t = Auth::None)]
    auth: Auth,
}

impl Isolation {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let without = self.measure(Behaviour::Confirm, setting).await?;
        let hang = Behaviour::Hang(Duration::from_secs(self.hang));
        let with = self.measure(hang, setting).await?;
        let growth = milliseconds(with.latency.p99) - milliseconds(without.latency.p99);
        let report = self.report(&without, &with, growth, setting);
        ensure!(
            growth <= P99_GROWTH_MS_MAX,
            "{}\nthe 99th percentile grew by {growth:.1} ms, more than {P99_GROWTH_MS_MAX} ms",
            report.text
        );
        Ok(report)
    }

    async fn measure(
        &self,
        of_the_first: Behaviour,
        setting: &Setting,
    ) -> anyhow::Result<Measured> {
        let secrets = self.auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let mut behaviours = vec![Behaviour::Confirm; self.subscribers as usize];
        behaviours[0] = of_the_first;
        let sinks = Sinks::start(&behaviours, 1, keys.clone()).await?;
        let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
        broadcaster
            .subscribe(sinks.urls(), &keys)
            .await
            .with_context(|| broadcaster.log())?;
        eprintln!(
            "{} s of notifications, the first subscriber: {of_the_first:?}",
            self.seconds
        );
        let measured = self
            .publish(of_the_first, &sinks, &broadcaster, &keys)
            .await;
        let measured = measured.with_context(|| broadcaster.log())?;
        broadcaster.stop().await?;
        Ok(measured)
    }

    async fn publish(
        &self,
        of_the_first: Behaviour,
        sinks: &Sinks,
        broadcaster: &Broadcaster,
        keys: &Keys,
    ) -> anyhow::Result<Measured> {
        sinks.begin(SentAt::Message);
        let notifications = self.per_second * self.seconds;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.per_second as u32);
        // Dropped at the end, and what still waits for an answer with it.
        let mut waiting = JoinSet::new();
        for sequence in 0..notifications {
            ticks.tick().await;
            let connect =
                Publisher::connect(broadcaster.endpoint(), keys.clone(), self.subscribers);
            let mut publisher = connect.await?;
            let sent_at = machine::now().unix_nanoseconds();
            let message = Message::new(Label { sent_at, sequence }, MESSAGE_BYTES);
            waiting.spawn(async move { publisher.notify(message).await });
            if of_the_first == Behaviour::Confirm {
                while let Some(answered) = waiting.try_join_next() {
                    answered??;
                }
            }
        }
        let all = self.all_received(sinks, notifications);
        let all = tokio::time::timeout(PATIENCE, all).await;
        let first_received = sinks.messages(0);
        let tally = sinks.finish()?;
        let others = &tally.received[1..];
        let sequences = notifications * (notifications - 1) / 2;
        let exact = others
            .iter()
            .all(|it| (it.messages, it.sequences) == (notifications, sequences));
        ensure!(
            all.is_ok() && exact,
            "of {notifications} notifications the others received {:?}",
            others.iter().map(|it| it.messages).collect::<Vec<_>>()
        );
        if of_the_first == Behaviour::Confirm {
            while let Some(answered) = waiting.join_next().await {
                answered??;
            }
        }
        Ok(Measured {
            latency: Latency::of(&tally.latency),
            first_received,
            notifications,
        })
    }

    async fn all_received(&self, sinks: &Sinks, notifications: u64) {
        for sink in 1..self.subscribers as usize {
            while sinks.messages(sink) < notifications {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    fn report(
        &self,
        without: &Measured,
        with: &Measured,
        growth: f64,
        setting: &Setting,
    ) -> Report {
        let headings = [
            "",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "notifications",
            "taken by the first",
        ];
        let rows = [
            headings.map(str::to_owned).to_vec(),
            row("all answer", without),
            row("the first hangs", with),
        ];
        let others = self.subscribers - 1;
        let text = format!(
            "latency of {others} subscribers beside one that hangs for {} s, {} notifications a \
             second, auth {}\n{}\n\n{}\nthe 99th percentile grew by {growth:.2} ms, {} ms are \
             allowed\n",
            self.hang,
            self.per_second,
            self.auth.name(),
            setting.describe(),
            table(&rows, 1),
            P99_GROWTH_MS_MAX,
        );
        let json = json!({
            "bench": "isolation",
            "subscribers": self.subscribers,
            "hang_seconds": self.hang,
            "notifications_per_second": self.per_second,
            "seconds": self.seconds,
            "auth": self.auth.name(),
            "setting": setting.to_json(),
            "all_answer": without.latency.to_json(),
            "one_hangs": with.latency.to_json(),
            "p99_growth_ms": growth,
        });
        Report { text, json }
    }
}

struct Measured {
    /// Of all subscribers that answer, without the first where it hangs.
    latency: Latency,
    first_received: u64,
    notifications: u64,
}

fn row(what: &str, measured: &Measured) -> Vec<String> {
    let Latency { p50, p90, p99, max } = measured.latency;
    let mut row = vec![what.to_owned()];
    row.extend([p50, p90, p99, max].map(|it| format!("{:.2}", milliseconds(it))));
    row.extend([measured.notifications, measured.first_received].map(|it| it.to_string()));
    row
}

const MESSAGE_BYTES: u64 = 100;

/// How long after the last notification the others must have received everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the others may notice, in milliseconds.
const P99_GROWTH_MS_MAX: f64 = 50.0;
