//! What becomes of notifications when more come than can be delivered.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use httppubsub_proto::url::Endpoint;
use serde_json::json;
use tokio::task::JoinSet;

use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::machine;
use crate::message::{Label, Message};
use crate::publish::{Answered, Notify as _, Published, Publisher};
use crate::report::{Latency, Report, median, milliseconds, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, SentAt, Sinks, latency_histogram};

/// Notifications at 1, 2 and 5 times the rate that can be sustained, whether or not earlier ones
/// are answered.
///
/// The sustainable rate is measured first in each turn, with publishers that wait for their
/// answers. A 503 with Retry-After is a rejection; the run fails if anything else but a 200 is
/// answered.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Overload {
    /// How many subscribers each notification is for.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    subscribers: u32,

    /// How many publishers find the sustainable rate.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    publishers: u32,

    /// How long each rate is kept up.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    seconds: u64,

    /// How many turns each rate has; figures are medians of turns.
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

const FACTORS: [u32; 3] = [1, 2, 5];

const MESSAGE_BYTES: u64 = 100;

/// So many notifications may wait for their answers; what would be more is not sent, and counted.
const WAITING_MAX: usize = 6_000;

/// What one turn measured.
struct Turn {
    /// Notifications a second.
    sustainable: f64,
    /// One for each of [`FACTORS`].
    flows: Vec<Flow>,
}

/// What came of one rate.
struct Flow {
    /// Confirmed deliveries a second while the rate was kept up, by what the sustainable rate is.
    goodput: f64,
    /// Of those that were accepted, from when each was due to its answer.
    accepted: Latency,
    rejected: Latency,
    rejections: u64,
    notifications: u64,
    unsent: u64,
}

impl Overload {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let secrets = self.auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let behaviours = vec![Behaviour::Confirm; self.subscribers as usize];
        let sinks = Sinks::start(&behaviours, 1, keys.clone()).await?;
        let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
        broadcaster.subscribe(sinks.urls(), &keys).await?;
        let mut turns = Vec::new();
        for number in 1..=self.turns {
            let turn = self.turn(&broadcaster, &sinks, &keys).await;
            let turn = turn.with_context(|| broadcaster.log())?;
            eprintln!(
                "turn {number} of {}: {:.0} notifications a second can be sustained",
                self.turns, turn.sustainable
            );
            turns.push(turn);
        }
        broadcaster.stop().await?;
        Ok(self.report(&turns, setting))
    }

    async fn turn(
        &self,
        broadcaster: &Broadcaster,
        sinks: &Sinks,
        keys: &Keys,
    ) -> anyhow::Result<Turn> {
        sinks.begin(SentAt::Message);
        let (own, endpoint, keys) = (self.clone(), broadcaster.endpoint().clone(), keys.clone());
        // Publishers have a thread of their own: the answers to them would wait behind what the
        // sinks have to do.
        let publishing = tokio::task::spawn_blocking(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build()?;
            runtime.block_on(own.publish(&endpoint, &keys))
        });
        let turn = publishing.await??;
        sinks.finish()?;
        Ok(turn)
    }

    /// At the rate that can be sustained, and then at multiples of it.
    async fn publish(&self, broadcaster: &Endpoint, keys: &Keys) -> anyhow::Result<Turn> {
        let connect = || Publisher::connect(broadcaster, keys.clone(), self.subscribers);
        let mut publishers = try_join_all((0..self.publishers).map(|_| connect())).await?;
        try_join_all(publishers.iter_mut().map(|it| it.warm_up(3, MESSAGE_BYTES))).await?;
        let (began, duration) = (Instant::now(), Duration::from_secs(self.seconds));
        let running = publishers.iter_mut();
        let running = running.map(|it| it.publish(duration, MESSAGE_BYTES, 0));
        let published: Published = try_join_all(running).await?.into_iter().sum();
        let sustainable = published.notifications as f64 / began.elapsed().as_secs_f64();
        drop(publishers);
        let mut flows = Vec::new();
        for factor in FACTORS {
            let per_second = sustainable * f64::from(factor);
            let flow = self.flow(per_second, sustainable, broadcaster, keys);
            flows.push(flow.await.with_context(|| format!("at {factor} times"))?);
        }
        Ok(Turn { sustainable, flows })
    }

    async fn flow(
        &self,
        per_second: f64,
        sustainable: f64,
        broadcaster: &Endpoint,
        keys: &Keys,
    ) -> anyhow::Result<Flow> {
        let (began, duration) = (Instant::now(), Duration::from_secs(self.seconds));
        let notifications = (per_second * duration.as_secs_f64()) as u64;
        let (mut waiting, mut idle) = (JoinSet::new(), Vec::new());
        let mut outcome = Outcome::new(began + duration);
        let mut unsent = 0;
        for sequence in 0..notifications {
            let due = began + Duration::from_secs_f64(sequence as f64 / per_second);
            tokio::time::sleep_until(due.into()).await;
            while let Some(answered) = waiting.try_join_next() {
                idle.push(outcome.take(answered??)?);
            }
            if waiting.len() >= WAITING_MAX {
                unsent += 1;
                continue;
            }
            let publisher = idle.pop();
            let (endpoint, keys) = (broadcaster.clone(), keys.clone());
            let subscribers = self.subscribers;
            waiting.spawn(async move {
                let mut publisher = match publisher {
                    Some(publisher) => publisher,
                    None => Publisher::connect(&endpoint, keys, subscribers).await?,
                };
                let sent_at = machine::now().unix_nanoseconds();
                let message = Message::new(Label { sent_at, sequence }, MESSAGE_BYTES);
                let (answered, _) = publisher.ask(message).await?;
                anyhow::Ok((publisher, answered, due, Instant::now()))
            });
        }
        while let Some(answered) = waiting.join_next().await {
            outcome.take(answered??)?;
        }
        let per_second = outcome.in_time as f64 / duration.as_secs_f64();
        Ok(Flow {
            goodput: per_second / (sustainable * f64::from(self.subscribers)),
            accepted: Latency::of(&outcome.accepted),
            rejected: Latency::of(&outcome.rejected),
            rejections: outcome.rejected.len(),
            notifications,
            unsent,
        })
    }

    fn report(&self, turns: &[Turn], setting: &Setting) -> Report {
        let sustainable = median(turns.iter().map(|it| it.sustainable).collect());
        let headings = [
            "rate",
            "goodput",
            "rejected",
            "p99 of accepted ms",
            "ratio",
            "p99 of rejections ms",
            "not sent",
        ];
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        let mut figures = Vec::new();
        for (at, factor) in FACTORS.iter().enumerate() {
            let of = |figure: &dyn Fn(&Turn) -> f64| median(turns.iter().map(figure).collect());
            let goodput = of(&|it| it.flows[at].goodput);
            let rejected = |it: &Flow| it.rejections as f64 / it.notifications as f64;
            let rejected = of(&|it| rejected(&it.flows[at]));
            let accepted = |it: &Flow| milliseconds(it.accepted.p99);
            let p99 = of(&|it| accepted(&it.flows[at]));
            let ratio = of(&|it| accepted(&it.flows[at]) / accepted(&it.flows[0]));
            let rejection = of(&|it| milliseconds(it.flows[at].rejected.p99));
            let unsent: u64 = turns.iter().map(|it| it.flows[at].unsent).sum();
            rows.push(vec![
                format!("{factor} ×"),
                format!("{goodput:.2}"),
                format!("{:.0}%", rejected * 100.0),
                format!("{p99:.1}"),
                format!("{ratio:.2}"),
                format!("{rejection:.1}"),
                unsent.to_string(),
            ]);
            figures.push(json!({
                "factor": factor,
                "goodput_ratio": goodput,
                "rejected_ratio": rejected,
                "accepted_p99_ms": p99,
                "accepted_p99_ratio": ratio,
                "rejection_p99_ms": rejection,
                "unsent": unsent,
            }));
        }
        let text = format!(
            "overload: {} subscribers, messages of {MESSAGE_BYTES} bytes, auth {}; \
             {sustainable:.0} \
             notifications a second can be sustained; median of {} turns of {} s\n{}\n\n{}",
            self.subscribers,
            self.auth.name(),
            self.turns,
            self.seconds,
            setting.describe(),
            table(&rows, 1)
        );
        let json = json!({
            "bench": "overload",
            "subscribers": self.subscribers,
            "seconds": self.seconds,
            "turns": self.turns,
            "auth": self.auth.name(),
            "setting": setting.to_json(),
            "sustainable_per_second": sustainable,
            "results": figures,
        });
        Report { text, json }
    }
}

/// What has been answered so far.
struct Outcome {
    until: Instant,
    /// Confirmed deliveries of notifications that were answered before `until`.
    in_time: u64,
    /// In nanoseconds.
    accepted: Histogram<u64>,
    rejected: Histogram<u64>,
}

impl Outcome {
    fn new(until: Instant) -> Self {
        Self {
            until,
            in_time: 0,
            accepted: latency_histogram(),
            rejected: latency_histogram(),
        }
    }

    /// Counts an answer and gives the publisher back.
    fn take(
        &mut self,
        (publisher, answered, due, at): (Publisher, Answered, Instant, Instant),
    ) -> anyhow::Result<Publisher> {
        let took = u64::try_from((at - due).as_nanos()).unwrap_or(u64::MAX);
        match answered {
            Answered::Accepted { subscribers } => {
                self.accepted.saturating_record(took);
                if at <= self.until {
                    self.in_time += u64::from(subscribers);
                }
            }
            Answered::TurnedAway => self.rejected.saturating_record(took),
            Answered::Failed(status) => anyhow::bail!("a NOTIFY was answered {status}"),
        }
        Ok(publisher)
    }
}
