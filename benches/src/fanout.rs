//! How fast notifications reach many subscribers, in turns with the yardstick.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::bare;
use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::machine;
use crate::message::Label;
use crate::publish::{NOTIFICATIONS_MAX, Published, Publisher};
use crate::report::{Latency, Report, Turn, Turns, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, Received, SentAt, Sinks};

/// Deliveries a second, latency, CPU time and memory, next to bare hyper connections.
///
/// Broadcaster and yardsticks take turns with the same subscribers. The yardsticks post the same
/// bytes over one connection a subscriber, one request in flight each: with hyper, and with HTTP
/// written by hand. Every delivery is checked:
/// digest, signature, and that each subscriber got each message exactly once.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Fanout {
    /// How many subscribers each notification is for.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subscribers: u32,

    /// How many publishers notify at once, one NOTIFY in flight each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    publishers: u32,

    /// Size of a message, at least 16.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(Label::BYTES as u64..))]
    message_bytes: u64,

    /// How messages are authorized; both: one after the other.
    #[arg(long, value_enum, default_value_t = AuthChoice::Both)]
    auth: AuthChoice,

    /// Length of a turn.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// How many turns each has; figures are medians of turns.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    turns: u32,

    /// How many subscribers share a port; with 1 each is a destination of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sinks_per_port: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AuthChoice {
    None,
    Hmac,
    Both,
}

impl AuthChoice {
    fn auths(self) -> &'static [Auth] {
        match self {
            Self::None => &[Auth::None],
            Self::Hmac => &[Auth::Hmac],
            Self::Both => &[Auth::None, Auth::Hmac],
        }
    }
}

impl Fanout {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let mut matches = Vec::new();
        for &auth in self.auth.auths() {
            matches.push(self.measure(auth, setting).await?);
        }
        Ok(self.report(&matches, setting))
    }

    async fn measure(&self, auth: Auth, setting: &Setting) -> anyhow::Result<Match> {
        let secrets = auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let behaviours = vec![Behaviour::Confirm; self.subscribers as usize];
        let sinks = Sinks::start(&behaviours, self.sinks_per_port as usize, keys.clone()).await?;
        let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
        broadcaster
            .subscribe(sinks.urls(), &keys)
            .await
            .with_context(|| broadcaster.log())?;
        let mut publishers = Vec::new();
        for _ in 0..self.publishers {
            let keys = keys.clone();
            publishers
                .push(Publisher::connect(broadcaster.endpoint(), keys, self.subscribers).await?);
        }
        let order = |by_hand| bare::Order {
            urls: sinks.urls().cloned().collect(),
            secrets: secrets.clone(),
            message_bytes: self.message_bytes,
            by_hand,
            warm_up: WARM_UP,
            duration: Duration::from_secs(self.seconds),
        };
        let mut result = Match {
            auth,
            broadcaster: Vec::new(),
            bare: Vec::new(),
            by_hand: Vec::new(),
        };
        for turn in 1..=self.turns {
            let progress = |who: &str, turn_done: &Turn| {
                let rate = turn_done.deliveries_per_second();
                let (name, turns) = (auth.name(), self.turns);
                eprintln!("{name}, turn {turn} of {turns}: {who} {rate:.0} deliveries a second");
            };
            let ours = tokio::time::timeout(
                self.patience(),
                self.broadcaster_turn(&broadcaster, &mut publishers, &sinks),
            );
            let ours = ours
                .await
                .context("the broadcaster's turn does not end")
                .flatten();
            let ours = ours.with_context(|| broadcaster.log())?;
            progress("broadcaster", &ours);
            result.broadcaster.push(ours);
            for (who, by_hand) in [("bare hyper", false), ("hand-written", true)] {
                let order = order(by_hand);
                let theirs = bare_turn(&order, &sinks, setting);
                let theirs = tokio::time::timeout(self.patience(), theirs).await;
                let theirs = theirs
                    .context("the yardstick's turn does not end")
                    .flatten()?;
                progress(who, &theirs);
                if by_hand {
                    result.by_hand.push(theirs);
                } else {
                    result.bare.push(theirs);
                }
            }
        }
        broadcaster.stop().await?;
        Ok(result)
    }

    async fn broadcaster_turn(
        &self,
        broadcaster: &Broadcaster,
        publishers: &mut [Publisher],
        sinks: &Sinks,
    ) -> anyhow::Result<Turn> {
        sinks.begin(SentAt::Message);
        let warm_up = publishers
            .iter_mut()
            .map(|it| it.warm_up(WARM_UP, self.message_bytes));
        let warm_up: Published = try_join_all(warm_up).await?.into_iter().sum();
        let cpu_before = broadcaster.cpu_time()?;
        let cpu_of_sinks_before = machine::cpu_time(std::process::id())?;
        let began = Instant::now();
        let running = publishers
            .iter_mut()
            .enumerate()
            .map(|(number, publisher)| {
                let first_sequence = number as u64 * NOTIFICATIONS_MAX;
                let duration = Duration::from_secs(self.seconds);
                publisher.publish(duration, self.message_bytes, first_sequence)
            });
        let measured: Published = try_join_all(running).await?.into_iter().sum();
        let elapsed = began.elapsed();
        let cpu = broadcaster.cpu_time()?.saturating_sub(cpu_before);
        let cpu_of_sinks = machine::cpu_time(std::process::id())?;
        let tally = sinks.finish()?;
        let all: Published = [warm_up, measured].into_iter().sum();
        let wanted = vec![all; self.subscribers as usize];
        check_counts(&tally.received, &wanted, self.message_bytes)?;
        Ok(Turn {
            deliveries: measured.notifications * u64::from(self.subscribers),
            elapsed,
            cpu,
            cpu_of_sinks: cpu_of_sinks.saturating_sub(cpu_of_sinks_before),
            memory_max: broadcaster.memory_max()?,
            latency: Latency::of(&tally.latency),
        })
    }

    /// Longest time that a turn may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(self.seconds + 60)
    }

    fn report(&self, matches: &[Match], setting: &Setting) -> Report {
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        for it in matches {
            let (ours, theirs) = (Turns(&it.broadcaster), Turns(&it.bare));
            rows.push(row(it.auth, "broadcaster", ours, ours.ratio_to(theirs)));
            rows.push(row(it.auth, "bare hyper", theirs, 1.0));
            let by_hand = Turns(&it.by_hand);
            rows.push(row(
                it.auth,
                "hand-written",
                by_hand,
                by_hand.ratio_to(theirs),
            ));
        }
        let Self {
            subscribers,
            publishers,
            message_bytes,
            seconds,
            turns,
            ..
        } = self;
        let text = format!(
            "fan-out to {subscribers} subscribers, publishers: {publishers}, messages of \
             {message_bytes} bytes, median of {turns} turns of {seconds} s\n{}\n\n{}{}",
            setting.describe(),
            table(&rows, 2),
            caveat(matches)
        );
        let json = json!({
            "bench": "fanout",
            "subscribers": subscribers,
            "publishers": publishers,
            "message_bytes": message_bytes,
            "seconds": seconds,
            "turns": turns,
            "sinks_per_port": self.sinks_per_port,
            "setting": setting.to_json(),
            "results": matches.iter().map(Match::to_json).collect::<Vec<_>>(),
        });
        Report { text, json }
    }
}

/// What a reader must know when nobody was at the limit.
fn caveat(matches: &[Match]) -> &'static str {
    let idle = |turns: &[Turn]| Turns(turns).busy().max(Turns(turns).busy_of_sinks()) < BUSY_MIN;
    if matches
        .iter()
        .any(|it| idle(&it.broadcaster) || idle(&it.bare))
    {
        "\nNobody was busy all the time: other programs had the cores too, or a single publisher \
         waited for answers. Trust the CPU time, not the rates.\n"
    } else {
        ""
    }
}

/// Below this share of a core, neither side was what limited the rate.
const BUSY_MIN: f64 = 0.8;

/// All turns of both competitors.
struct Match {
    auth: Auth,
    broadcaster: Vec<Turn>,
    bare: Vec<Turn>,
    by_hand: Vec<Turn>,
}

impl Match {
    fn to_json(&self) -> serde_json::Value {
        let (ours, theirs) = (Turns(&self.broadcaster), Turns(&self.bare));
        json!({
            "auth": self.auth.name(),
            "broadcaster": ours.to_json(),
            "bare_hyper": theirs.to_json(),
            "hand_written": Turns(&self.by_hand).to_json(),
            "ratio": ours.ratio_to(theirs),
            "cpu_ratio": ours.cpu_microseconds_per_delivery() / theirs.cpu_microseconds_per_delivery(),
        })
    }
}

async fn bare_turn(order: &bare::Order, sinks: &Sinks, setting: &Setting) -> anyhow::Result<Turn> {
    sinks.begin(SentAt::Identifier);
    let cpu_of_sinks_before = machine::cpu_time(std::process::id())?;
    let done = bare::run(order, setting.cores).await?;
    let cpu_of_sinks = machine::cpu_time(std::process::id())?;
    let tally = sinks.finish()?;
    let wanted = |&notifications| Published {
        notifications,
        sequences: 0,
    };
    let wanted: Vec<_> = done.delivered.iter().map(wanted).collect();
    check_counts(&tally.received, &wanted, order.message_bytes)?;
    let warm_up = order.warm_up * done.delivered.len() as u64;
    Ok(Turn {
        deliveries: done.delivered.iter().sum::<u64>() - warm_up,
        elapsed: done.elapsed,
        cpu: done.cpu,
        cpu_of_sinks: cpu_of_sinks.saturating_sub(cpu_of_sinks_before),
        memory_max: done.memory_max,
        latency: Latency::of(&tally.latency),
    })
}

/// Fails unless each subscriber received exactly what it should have.
pub(crate) fn check_counts(
    received: &[Received],
    wanted: &[Published],
    message_bytes: u64,
) -> anyhow::Result<()> {
    ensure!(
        received.len() == wanted.len(),
        "there are other subscribers than deliveries"
    );
    for (number, (received, wanted)) in received.iter().zip(wanted).enumerate() {
        ensure!(
            received.messages == wanted.notifications
                && received.sequences == wanted.sequences
                && received.bytes == wanted.notifications * message_bytes,
            "subscriber {number} received {} messages where {} were confirmed, or others than these",
            received.messages,
            wanted.notifications
        );
    }
    Ok(())
}

pub(crate) const HEADINGS: [&str; 11] = [
    "auth",
    "who",
    "deliveries/s",
    "ratio",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "CPU µs/delivery",
    "busy",
    "sinks busy",
    "peak MiB",
];

pub(crate) fn row(auth: Auth, who: &str, turns: Turns<'_>, ratio: f64) -> Vec<String> {
    vec![
        auth.name().to_owned(),
        who.to_owned(),
        format!("{:.0}", turns.deliveries_per_second()),
        format!("{ratio:.2}"),
        format!("{:.2}", turns.latency_milliseconds(|it| it.p50)),
        format!("{:.2}", turns.latency_milliseconds(|it| it.p90)),
        format!("{:.2}", turns.latency_milliseconds(|it| it.p99)),
        format!("{:.1}", turns.cpu_microseconds_per_delivery()),
        format!("{:.0}%", turns.busy() * 100.0),
        format!("{:.0}%", turns.busy_of_sinks() * 100.0),
        format!("{:.1}", turns.memory_max_mib()),
    ]
}

/// Messages before each turn that are not measured, of each publisher and each bare connection.
const WARM_UP: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_came_twice_does_not_hide_one_that_was_lost() {
        let wanted = Published {
            notifications: 3,
            sequences: 1 + 2,
        };
        let received = |messages, sequences| Received {
            messages,
            sequences,
            bytes: messages * 16,
        };
        assert!(check_counts(&[received(3, 1 + 2)], &[wanted], 16).is_ok());
        assert!(check_counts(&[received(3, 2 + 2)], &[wanted], 16).is_err());
        assert!(check_counts(&[received(2, 1 + 2)], &[wanted], 16).is_err());
        assert!(check_counts(&[], &[wanted], 16).is_err());
    }
}
