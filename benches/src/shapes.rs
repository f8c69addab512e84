//! The shapes of fan-out that the broadcaster is held to, all in one run.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use crate::contest::{Contest, HEADINGS, IDLE, Shape, Yardstick};
use crate::fanout::words;
use crate::keys::Auth;
use crate::report::{Report, table};
use crate::setting::Setting;

/// Fan-out in every shape that has a goal, all shapes in turns.
///
/// What `fanout` measures, for few and many subscribers, small and larger messages. The rate with
/// 1,000 subscribers is compared with our own with 100.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shapes {
    /// Length of a turn.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3,
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
}

impl Shapes {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        use Yardstick::{Hand, Hyper, Skeleton};
        let plain = Shape {
            subscribers: 100,
            publishers: 1,
            message_bytes: 100,
            auth: Auth::None,
            duration: Duration::from_secs(self.seconds),
            sinks_per_port: 1,
            lockstep: false,
            serve_flags: Vec::new(),
            yardsticks: vec![Hyper, Hand, Skeleton],
        };
        let few = Shape {
            subscribers: 10,
            lockstep: true,
            ..plain.clone()
        };
        let shapes = [
            plain.clone(),
            Shape {
                auth: Auth::Hmac,
                yardsticks: vec![Hyper, Hand],
                ..plain.clone()
            },
            Shape {
                message_bytes: 10 << 10,
                ..plain.clone()
            },
            few.clone(),
            Shape {
                serve_flags: words(BUSY_POLL),
                ..few
            },
            Shape {
                subscribers: 1_000,
                yardsticks: vec![Hyper],
                ..plain
            },
        ];
        let mut contests = Vec::new();
        for shape in shapes {
            contests.push(Contest::prepare(shape, setting).await?);
        }
        for _ in 0..self.turns {
            for contest in &mut contests {
                contest.turn().await?;
            }
        }
        let report = self.report(&contests, setting)?;
        for contest in contests {
            contest.stop().await?;
        }
        Ok(report)
    }

    fn report(&self, contests: &[Contest], setting: &Setting) -> anyhow::Result<Report> {
        let goals = goals(contests).context("a yardstick did not take part")?;
        let mut summary = vec![["shape", "compared with", "ratio", "asked"].map(str::to_owned)];
        summary.extend(goals.iter().map(Goal::row));
        let summary: Vec<_> = summary.into_iter().map(Vec::from).collect();
        let mut text = format!(
            "shapes of fan-out, median of {} turns of {} s\n{}\n\n{}",
            self.turns,
            self.seconds,
            setting.describe(),
            table(&summary, 2)
        );
        for contest in contests {
            let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
            rows.extend(contest.rows());
            let Shape {
                subscribers,
                message_bytes,
                lockstep,
                serve_flags,
                ..
            } = &contest.shape;
            let lockstep = if *lockstep { ", in lockstep" } else { "" };
            let flags = match serve_flags.is_empty() {
                true => String::new(),
                false => format!(", httppubsub serve {}", serve_flags.join(" ")),
            };
            text += &format!(
                "\n{message_bytes} bytes to {subscribers} subscribers{lockstep}{flags}\n{}{}",
                table(&rows, 2),
                if contest.is_idle() { IDLE } else { "" }
            );
        }
        let json = json!({
            "bench": "shapes",
            "seconds": self.seconds,
            "turns": self.turns,
            "setting": setting.to_json(),
            "goals": goals.iter().map(Goal::to_json).collect::<Vec<_>>(),
            "results": contests.iter().map(Contest::to_json).collect::<Vec<_>>(),
        });
        Ok(Report { text, json })
    }
}

/// For a core of its own.
const BUSY_POLL: &str = "--threads 1 --busy-poll 100";

/// A ratio that is asked for.
struct Goal {
    shape: &'static str,
    compared_with: &'static str,
    ratio: f64,
    asked: &'static str,
}

impl Goal {
    fn row(&self) -> [String; 4] {
        [
            self.shape.to_owned(),
            self.compared_with.to_owned(),
            format!("{:.2}", self.ratio),
            self.asked.to_owned(),
        ]
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "shape": self.shape,
            "compared_with": self.compared_with,
            "ratio": self.ratio,
            "asked": self.asked,
        })
    }
}

/// In the order in which [`Shapes::run`] makes the contests.
fn goals(contests: &[Contest]) -> Option<Vec<Goal>> {
    let [plain, hmac, larger, few, few_polled, many] = contests else {
        return None;
    };
    let goal = |shape, compared_with, ratio, asked| Goal {
        shape,
        compared_with,
        ratio,
        asked,
    };
    Some(vec![
        goal("100 subscribers", "bare hyper", plain.ratio()?, "≥ 1.0"),
        goal(
            "the same with HMAC",
            "bare hyper with HMAC",
            hmac.ratio()?,
            "≥ 0.9",
        ),
        goal(
            "10 KiB to 100 subscribers",
            "bare hyper",
            larger.ratio()?,
            "≥ 0.85",
        ),
        goal(
            "10 subscribers, each notify after the last",
            "bare hyper in lockstep",
            few.ratio()?,
            "≥ 0.9",
        ),
        goal(
            "the same with --busy-poll",
            "bare hyper in lockstep",
            few_polled.ratio()?,
            "≥ 0.9",
        ),
        goal(
            "1,000 subscribers",
            "ours with 100",
            many.ours().ratio_to(plain.ours()),
            "≥ 0.85",
        ),
        goal(
            "p99 with 100 subscribers",
            "skeleton",
            plain.p99_ratio()?,
            "≤ 1.5",
        ),
    ])
}
