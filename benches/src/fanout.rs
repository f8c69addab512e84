//! How fast notifications reach many subscribers, in turns with the yardsticks.

use std::time::Duration;

use serde_json::json;

use crate::contest::{Contest, HEADINGS, IDLE, Shape, Yardstick};
use crate::keys::Auth;
use crate::message::Label;
use crate::report::{Report, table};
use crate::setting::Setting;

/// Deliveries a second, latency, CPU time and memory, next to bare hyper connections.
///
/// Broadcaster and yardsticks take turns with the same subscribers. Two yardsticks post the same
/// bytes over one connection a subscriber, one request in flight each: with hyper, and with HTTP
/// written by hand. Without authorization there is a third: a skeleton that takes one request,
/// writes it to all subscribers, waits for their answers, and does nothing else. Every delivery is
/// checked: digest, signature, and that each subscriber got each message exactly once.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Fanout {
    /// How many subscribers each notification is for.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    subscribers: u32,

    /// How many publishers notify at once, one NOTIFY in flight each.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    publishers: u32,

    /// Size of a message, at least 16.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(Label::BYTES as u64..)
    )]
    message_bytes: u64,

    /// How messages are authorized; both: one after the other.
    #[arg(long, value_enum, default_value_t = AuthChoice::Both)]
    auth: AuthChoice,

    /// Length of a turn.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    seconds: u64,

    /// How many turns each has; figures are medians of turns.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    turns: u32,

    /// How many subscribers share a port; with 1 each is a destination of its own.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    sinks_per_port: u32,

    /// Have the bare connections wait for each other after each message.
    #[arg(long)]
    lockstep: bool,

    /// Flags for `httppubsub serve`, with spaces between them.
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true)]
    serve_flags: Option<String>,
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

/// These words, with spaces between them.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Fanout {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let mut contests = Vec::new();
        for &auth in self.auth.auths() {
            let mut contest = Contest::prepare(self.shape(auth), setting).await?;
            for _ in 0..self.turns {
                contest.turn().await?;
            }
            contests.push(contest);
        }
        let report = self.report(&contests, setting);
        for contest in contests {
            contest.stop().await?;
        }
        Ok(report)
    }

    fn shape(&self, auth: Auth) -> Shape {
        let mut yardsticks = vec![Yardstick::Hyper, Yardstick::Hand];
        // It signs nothing and serves one publisher.
        if auth == Auth::None && self.publishers == 1 {
            yardsticks.push(Yardstick::Skeleton);
        }
        Shape {
            subscribers: self.subscribers,
            publishers: self.publishers,
            message_bytes: self.message_bytes,
            auth,
            duration: Duration::from_secs(self.seconds),
            sinks_per_port: self.sinks_per_port,
            lockstep: self.lockstep,
            serve_flags: words(self.serve_flags.as_deref().unwrap_or_default()),
            yardsticks,
        }
    }

    fn report(&self, contests: &[Contest], setting: &Setting) -> Report {
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        rows.extend(contests.iter().flat_map(Contest::rows));
        let p99 = contests.iter().filter_map(Contest::p99_ratio);
        let p99 = p99.map(|it| format!("\np99 is {it:.2} times that of the skeleton\n"));
        let idle = match contests.iter().any(Contest::is_idle) {
            true => IDLE,
            false => "",
        };
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
             {message_bytes} bytes, median of {turns} turns of {seconds} s\n{}\n\n{}{}{idle}",
            setting.describe(),
            table(&rows, 2),
            p99.collect::<String>(),
        );
        let json = json!({
            "bench": "fanout",
            "seconds": seconds,
            "turns": turns,
            "sinks_per_port": self.sinks_per_port,
            "serve_flags": self.serve_flags,
            "setting": setting.to_json(),
            "results": contests.iter().map(Contest::to_json).collect::<Vec<_>>(),
        });
        Report { text, json }
    }
}
