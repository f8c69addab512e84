//! How fast one large message streams through, and how much memory that takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::message::{Label, Message};
use crate::publish::{Notify as _, Publisher};
use crate::report::{Report, mebibytes, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, SentAt, Sinks};

/// One large message to a few subscribers: its rate, and by how much the broadcaster's memory grows.
///
/// The message is made while it is sent; subscribers read and hash it and keep nothing.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Large {
    /// Size of the message.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    mib: u64,

    /// How many subscribers it is for.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    subscribers: u32,

    /// How messages are authorized.
    #[arg(long, value_enum, default_value_t = Auth::None)]
    auth: Auth,
}

impl Large {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let secrets = self.auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let behaviours = vec![Behaviour::Confirm; self.subscribers as usize];
        let sinks = Sinks::start(&behaviours, 1, keys.clone()).await?;
        let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
        broadcaster
            .subscribe(sinks.urls(), &keys)
            .await
            .with_context(|| broadcaster.log())?;
        let mut publisher =
            Publisher::connect(broadcaster.endpoint(), keys, self.subscribers).await?;
        publisher
            .warm_up(3, 100)
            .await
            .with_context(|| broadcaster.log())?;

        eprintln!(
            "sending {} MiB to {} subscribers",
            self.mib, self.subscribers
        );
        sinks.begin(SentAt::Message);
        let message = Message::new(Label::default(), self.mib << 20);
        let memory_before = broadcaster.memory()?;
        let (cpu_before, began) = (broadcaster.cpu_time()?, Instant::now());
        let sampled = sample_memory_max(&broadcaster, publisher.notify(message));
        let sampled = tokio::time::timeout(self.patience(), sampled).await;
        let sampled = sampled.context("the message does not arrive").flatten();
        let (took, memory_max) = sampled.with_context(|| broadcaster.log())?;
        let cpu = broadcaster.cpu_time()?.saturating_sub(cpu_before);
        for received in sinks.finish()?.received {
            ensure!(
                received.messages == 1,
                "a subscriber received it {} times",
                received.messages
            );
            ensure!(
                received.bytes == message.bytes(),
                "a subscriber received {} bytes",
                received.bytes
            );
        }
        eprintln!("done after {:.1} s", began.elapsed().as_secs_f64());
        broadcaster.stop().await?;
        Ok(self.report(took, cpu, memory_before, memory_max, setting))
    }

    /// Longest time that the message may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(60 + self.mib * u64::from(self.subscribers + 2) / MIB_PER_SECOND_MIN)
    }

    fn report(
        &self,
        took: Duration,
        cpu: Duration,
        memory_before: u64,
        memory_max: u64,
        setting: &Setting,
    ) -> Report {
        let Self {
            mib,
            subscribers,
            auth,
        } = self;
        let mib_per_second = *mib as f64 / took.as_secs_f64();
        let growth = mebibytes(memory_max.saturating_sub(memory_before));
        let figure = |name: &str, value: String| vec![name.to_owned(), value];
        let rows = [
            figure(
                "from first byte to the answer",
                format!("{:.2} s", took.as_secs_f64()),
            ),
            figure("message", format!("{mib_per_second:.0} MiB/s")),
            figure(
                "delivered, all subscribers",
                format!("{:.0} MiB/s", mib_per_second * f64::from(*subscribers)),
            ),
            figure(
                "broadcaster's CPU time",
                format!("{:.2} s", cpu.as_secs_f64()),
            ),
            figure(
                "its memory before",
                format!("{:.1} MiB", mebibytes(memory_before)),
            ),
            figure("growth of its memory, peak", format!("{growth:.1} MiB")),
        ];
        let text = format!(
            "one message of {mib} MiB to {subscribers} subscribers, auth {}\n{}\n\n{}",
            auth.name(),
            setting.describe(),
            table(&rows, 1)
        );
        let json = json!({
            "bench": "large",
            "mib": mib,
            "subscribers": subscribers,
            "auth": auth.name(),
            "setting": setting.to_json(),
            "seconds": took.as_secs_f64(),
            "message_mib_per_second": mib_per_second,
            "delivered_mib_per_second": mib_per_second * f64::from(*subscribers),
            "cpu_seconds": cpu.as_secs_f64(),
            "memory_before_mib": mebibytes(memory_before),
            "memory_growth_mib": growth,
        });
        Report { text, json }
    }
}

/// Runs `work` and gives the most memory that the broadcaster had meanwhile, in bytes.
async fn sample_memory_max<T>(
    broadcaster: &Broadcaster,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, u64)> {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    let mut memory_max = 0;
    loop {
        tokio::select! {
            done = &mut work => return Ok((done?, memory_max)),
            _ = ticks.tick() => memory_max = memory_max.max(broadcaster.memory()?),
        }
    }
}

const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// Slower than this, something hangs.
const MIB_PER_SECOND_MIN: u64 = 10;
