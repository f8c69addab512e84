//! How fast one large message streams through, and how much memory that takes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use httppubsub_proto::auth::Secrets;
use serde_json::json;

use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::message::{Label, Message};
use crate::publish::{Notify as _, Publisher};
use crate::report::{Report, mebibytes, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, Sinks};

/// One large message to a few subscribers: its rate, and by how much the broadcaster's memory
/// grows.
///
/// The message is made while it is sent; subscribers read and compare it and keep nothing.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Large {
    /// Size of the message.
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u64).range(1..=1_048_576)
    )]
    mib: u64,

    /// How many subscribers it is for.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    subscribers: u32,

    /// How messages are authorized.
    #[arg(long, value_enum, default_value_t = Auth::None)]
    auth: Auth,
}

impl Large {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let secrets = self.auth.fresh_secrets();
        let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
        eprintln!(
            "sending {} MiB to {} subscribers",
            self.mib, self.subscribers
        );
        let sent = send(&broadcaster, &secrets, self.subscribers, self.mib << 20).await;
        let sent = sent.with_context(|| broadcaster.log())?;
        broadcaster.stop().await?;
        Ok(self.report(&sent, setting))
    }

    fn report(&self, sent: &Sent, setting: &Setting) -> Report {
        let Sent {
            took,
            cpu,
            memory_before,
            ..
        } = *sent;
        let Self {
            mib,
            subscribers,
            auth,
        } = self;
        let mib_per_second = *mib as f64 / took.as_secs_f64();
        let growth = sent.memory_growth_mib();
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

/// How a large message went through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// From the first byte to the answer.
    pub(crate) took: Duration,
    /// The broadcaster's, in that time.
    pub(crate) cpu: Duration,
    memory_before: u64,
    memory_max: u64,
}

impl Sent {
    pub(crate) fn memory_growth_mib(&self) -> f64 {
        mebibytes(self.memory_max.saturating_sub(self.memory_before))
    }
}

/// Sends one message of so many bytes to so many subscribers, which compare it.
pub(crate) async fn send(
    broadcaster: &Broadcaster,
    secrets: &Secrets,
    subscribers: u32,
    bytes: u64,
) -> anyhow::Result<Sent> {
    let keys = Keys::of(secrets);
    let behaviours = vec![Behaviour::Confirm; subscribers as usize];
    let sinks = Sinks::start(&behaviours, 1, keys.clone()).await?;
    broadcaster.subscribe(sinks.urls(), &keys).await?;
    let message = Message::new(Label::default(), bytes);
    let sha512 = message.sha512();
    let mut publisher = Publisher::connect(broadcaster.endpoint(), keys, subscribers).await?;
    publisher.warm_up(3, 100).await?;
    sinks.begin_with(message, sha512);
    let memory_before = broadcaster.memory()?;
    let cpu_before = broadcaster.cpu_time()?;
    let sampled = sample_memory_max(broadcaster, publisher.notify_hashed(message, sha512));
    let mib = bytes >> 20;
    let patience = 60 + mib * u64::from(subscribers + 2) / MIB_PER_SECOND_MIN;
    let sampled = tokio::time::timeout(Duration::from_secs(patience), sampled).await;
    let (took, memory_max) = sampled.context("the message does not arrive").flatten()?;
    let cpu = broadcaster.cpu_time()?.saturating_sub(cpu_before);
    for received in sinks.finish()?.received {
        ensure!(
            received.messages == 1 && received.bytes == message.bytes(),
            "a subscriber received {} messages, {} bytes",
            received.messages,
            received.bytes
        );
    }
    eprintln!("done after {:.1} s", took.as_secs_f64());
    Ok(Sent {
        took,
        cpu,
        memory_before,
        memory_max,
    })
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
