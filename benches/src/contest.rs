//! The broadcaster and the yardsticks with the same subscribers, in turns.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use httppubsub_proto::auth::Secrets;
use serde_json::json;

use crate::bare;
use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::machine;
use crate::publish::{NOTIFICATIONS_MAX, Notify, Published, Publisher};
use crate::report::{Latency, Turn, Turns, median};
use crate::setting::Setting;
use crate::sinks::{Behaviour, Received, SentAt, Sinks};
use crate::skeleton::{Forwarder, Skeleton};

/// What is sent to whom.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) subscribers: u32,
    pub(crate) publishers: u32,
    pub(crate) message_bytes: u64,
    pub(crate) auth: Auth,
    /// Length of a turn.
    pub(crate) duration: Duration,
    pub(crate) sinks_per_port: u32,
    /// Whether the bare connections wait for each other after each message.
    pub(crate) lockstep: bool,
    /// What the broadcaster is told besides.
    pub(crate) serve_flags: Vec<String>,
    /// Whom the broadcaster takes turns with.
    pub(crate) yardsticks: Vec<Yardstick>,
}

/// Whom the broadcaster is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yardstick {
    /// Bare hyper connections.
    Hyper,
    /// Bare connections for which HTTP is written by hand.
    Hand,
    /// A fan-out without duties, asked by a publisher. It signs nothing.
    Skeleton,
}

impl Yardstick {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hyper => "bare hyper",
            Self::Hand => "hand-written",
            Self::Skeleton => "skeleton",
        }
    }
}

/// Everybody who takes part, and the turns they had.
pub(crate) struct Contest {
    pub(crate) shape: Shape,
    setting: Setting,
    secrets: Secrets,
    sinks: Sinks,
    broadcaster: Broadcaster,
    skeleton: Option<Skeleton>,
    ours: Vec<Turn>,
    theirs: Vec<(Yardstick, Vec<Turn>)>,
}

impl Contest {
    /// Starts everybody.
    pub(crate) async fn prepare(shape: Shape, setting: &Setting) -> anyhow::Result<Self> {
        let secrets = shape.auth.fresh_secrets();
        let keys = Keys::of(&secrets);
        let behaviours = vec![Behaviour::Confirm; shape.subscribers as usize];
        let sinks = Sinks::start(&behaviours, shape.sinks_per_port as usize, keys.clone()).await?;
        let flags: Vec<_> = shape.serve_flags.iter().map(String::as_str).collect();
        let (program, cores) = (&setting.program, setting.cores);
        let broadcaster =
            Broadcaster::start_with(program, &secrets, cores, "memory", &flags).await?;
        broadcaster
            .subscribe(sinks.urls(), &keys)
            .await
            .with_context(|| broadcaster.log())?;
        let skeleton = if shape.yardsticks.contains(&Yardstick::Skeleton) {
            ensure!(shape.auth == Auth::None, "the skeleton signs nothing");
            Some(Skeleton::start(sinks.urls(), setting.cores).await?)
        } else {
            None
        };
        let theirs = shape.yardsticks.iter().map(|it| (*it, Vec::new()));
        Ok(Self {
            theirs: theirs.collect(),
            setting: setting.clone(),
            secrets,
            sinks,
            broadcaster,
            skeleton,
            ours: Vec::new(),
            shape,
        })
    }

    /// One turn of each, the broadcaster first.
    pub(crate) async fn turn(&mut self) -> anyhow::Result<()> {
        let turn = tokio::time::timeout(self.patience(), self.broadcaster_turn());
        let turn = turn.await.context("its turn does not end").flatten();
        let turn = turn.with_context(|| self.broadcaster.log())?;
        self.progress("broadcaster", &turn);
        self.ours.push(turn);
        for at in 0..self.theirs.len() {
            let yardstick = self.theirs[at].0;
            let turn = tokio::time::timeout(self.patience(), self.yardstick_turn(yardstick));
            let turn = turn.await.context("the yardstick's turn does not end");
            let turn = turn.flatten()?;
            self.progress(yardstick.name(), &turn);
            self.theirs[at].1.push(turn);
        }
        Ok(())
    }

    fn progress(&self, who: &str, turn: &Turn) {
        let Shape {
            subscribers, auth, ..
        } = &self.shape;
        let (rate, name) = (turn.deliveries_per_second(), auth.name());
        let number = self.ours.len() + usize::from(who == "broadcaster");
        eprintln!(
            "{subscribers} subscribers, {name}, turn {number}: {who} {rate:.0} deliveries a second"
        );
    }

    async fn broadcaster_turn(&self) -> anyhow::Result<Turn> {
        let (keys, endpoint) = (Keys::of(&self.secrets), self.broadcaster.endpoint());
        // Kept connections would be closed while others have their turns.
        let publishers = (0..self.shape.publishers)
            .map(|_| Publisher::connect(endpoint, keys.clone(), self.shape.subscribers));
        let mut publishers = try_join_all(publishers).await?;
        let pid = self.broadcaster.pid();
        published_turn(&self.shape, pid, &mut publishers, &self.sinks).await
    }

    async fn yardstick_turn(&self, yardstick: Yardstick) -> anyhow::Result<Turn> {
        if yardstick == Yardstick::Skeleton {
            let skeleton = self.skeleton.as_ref().context("there is no skeleton")?;
            let mut forwarders = [Forwarder::connect(skeleton.endpoint()).await?];
            return published_turn(&self.shape, skeleton.pid(), &mut forwarders, &self.sinks).await;
        }
        let order = bare::Order {
            urls: self.sinks.urls().cloned().collect(),
            secrets: self.secrets.clone(),
            message_bytes: self.shape.message_bytes,
            by_hand: yardstick == Yardstick::Hand,
            lockstep: self.shape.lockstep,
            warm_up: WARM_UP,
            duration: self.shape.duration,
        };
        bare_turn(&order, &self.sinks, &self.setting).await
    }

    /// Longest time that a turn may take.
    fn patience(&self) -> Duration {
        self.shape.duration + Duration::from_secs(60)
    }

    /// The turns of the broadcaster.
    pub(crate) fn ours(&self) -> Turns<'_> {
        Turns(&self.ours)
    }

    /// The turns of a yardstick, if it takes part.
    pub(crate) fn of(&self, yardstick: Yardstick) -> Option<Turns<'_>> {
        let mut theirs = self.theirs.iter();
        let found = theirs.find(|(own, _)| *own == yardstick);
        found.map(|(_, turns)| Turns(turns))
    }

    /// How many times the deliveries a second of bare hyper.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(self.ours().ratio_to(self.of(Yardstick::Hyper)?))
    }

    /// How many times the 99th percentile of the skeleton, turn by turn.
    pub(crate) fn p99_ratio(&self) -> Option<f64> {
        let p99 = |turns: &[Turn]| -> Vec<f64> {
            turns
                .iter()
                .map(|it| it.latency.p99.as_secs_f64())
                .collect()
        };
        let theirs = p99(self.of(Yardstick::Skeleton)?.0);
        let pairs = p99(&self.ours).into_iter().zip(theirs);
        Some(median(pairs.map(|(ours, theirs)| ours / theirs).collect()))
    }

    /// Rows under [`HEADINGS`].
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let hyper = self.of(Yardstick::Hyper);
        let row = |who, turns: Turns<'_>| {
            let ratio = hyper.map_or(f64::NAN, |hyper| turns.ratio_to(hyper));
            row(self.shape.auth, who, turns, ratio)
        };
        let mut rows = vec![row("broadcaster", self.ours())];
        rows.extend(
            self.theirs
                .iter()
                .map(|(it, turns)| row(it.name(), Turns(turns))),
        );
        rows
    }

    /// What a reader must know when nobody was at the limit.
    pub(crate) fn is_idle(&self) -> bool {
        let idle = |it: Turns<'_>| it.busy().max(it.busy_of_sinks()) < BUSY_MIN;
        idle(self.ours()) || self.of(Yardstick::Hyper).is_some_and(idle)
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        let (ours, bare) = (self.ours(), self.of(Yardstick::Hyper));
        let theirs = |it| self.of(it).map(Turns::to_json);
        json!({
            "subscribers": self.shape.subscribers,
            "publishers": self.shape.publishers,
            "message_bytes": self.shape.message_bytes,
            "lockstep": self.shape.lockstep,
            "auth": self.shape.auth.name(),
            "broadcaster": ours.to_json(),
            "bare_hyper": theirs(Yardstick::Hyper),
            "hand_written": theirs(Yardstick::Hand),
            "skeleton": theirs(Yardstick::Skeleton),
            "ratio": self.ratio(),
            "p99_ratio_to_skeleton": self.p99_ratio(),
            "cpu_ratio": bare.map(|bare| {
                ours.cpu_microseconds_per_delivery() / bare.cpu_microseconds_per_delivery()
            }),
        })
    }

    /// Ends everybody.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.broadcaster.stop().await
    }
}

/// What stands below a table in which somebody was not at the limit.
pub(crate) const IDLE: &str = "\nNobody was busy all the time: other programs had the cores too, \
    or a single publisher waited for answers. Trust the CPU time, not the rates.\n";

/// Below this share of a core, neither side was what limited the rate.
const BUSY_MIN: f64 = 0.8;

/// A turn of the process `pid`, which these publishers notify.
async fn published_turn(
    shape: &Shape,
    pid: u32,
    publishers: &mut [impl Notify],
    sinks: &Sinks,
) -> anyhow::Result<Turn> {
    sinks.begin(SentAt::Message);
    let warm_up = publishers
        .iter_mut()
        .map(|it| it.warm_up(WARM_UP, shape.message_bytes));
    let warm_up: Published = try_join_all(warm_up).await?.into_iter().sum();
    let cpu_before = machine::cpu_time(pid)?;
    let cpu_of_sinks_before = machine::cpu_time(std::process::id())?;
    let began = Instant::now();
    let running = publishers
        .iter_mut()
        .enumerate()
        .map(|(number, publisher)| {
            let first_sequence = number as u64 * NOTIFICATIONS_MAX;
            publisher.publish(shape.duration, shape.message_bytes, first_sequence)
        });
    let measured: Published = try_join_all(running).await?.into_iter().sum();
    let elapsed = began.elapsed();
    let cpu = machine::cpu_time(pid)?.saturating_sub(cpu_before);
    let cpu_of_sinks = machine::cpu_time(std::process::id())?;
    let tally = sinks.finish()?;
    let all: Published = [warm_up, measured].into_iter().sum();
    let wanted = vec![all; shape.subscribers as usize];
    check_counts(&tally.received, &wanted, shape.message_bytes)?;
    Ok(Turn {
        deliveries: measured.notifications * u64::from(shape.subscribers),
        elapsed,
        cpu,
        cpu_of_sinks: cpu_of_sinks.saturating_sub(cpu_of_sinks_before),
        memory_max: machine::memory_max(pid)?,
        latency: Latency::of(&tally.latency),
    })
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
            "subscriber {number} received {} messages where {} were confirmed, or others than \
             these",
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
