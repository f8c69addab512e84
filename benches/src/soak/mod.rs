//! What the broadcaster loses, and what it keeps, while everything around it comes, goes and fails.

mod faults;
mod front;
mod oracle;
mod publishers;
mod samples;
mod subscribers;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::broadcaster::Broadcaster;
use crate::keys::Auth;
use crate::report::{Report, mebibytes, table};
use crate::setting::Setting;
use crate::soak::oracle::Tally;
use crate::soak::samples::{Sample, Slope, descriptors, slope};
use crate::soak::subscribers::Which;
use crate::soak::world::{Counts, World};

/// Subscribers come and go, something fails every ten seconds: nobody misses a message unawares,
/// and nothing is kept of those who left.
///
/// Subscribers have new urls, origins and topics all the time; they are posted to, or hold a
/// websocket, or are processes of their own, or are not there at all; they want topics and globs.
/// They hang, reset, close, answer 503 or are stopped, their websockets are cut, messages fill the
/// spool, the database is locked. An oracle knows what was published and confirms that each
/// subscriber got it, or a notice. The run fails if one did not, if what was counted does not add
/// up, if descriptors or the spool are not back where they began, or if memory is sure to grow by
/// more than 1 MiB an hour after the warm-up.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Soak {
    /// How long subscribers come and go. An interval of the slope that is narrower than 1 MiB an
    /// hour needs an hour or more.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=100_000)
    )]
    minutes: u64,

    /// After how many seconds memory should not grow any more: authorizations are remembered for
    /// 300, and the database keeps 20,000 changes, which its connections have in their caches.
    /// [default: 1200, and at most half of the run]
    #[arg(long, value_name = "SECONDS")]
    warm_up: Option<u64>,

    /// How many subscribers there are at a time.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 48,
        value_parser = clap::value_parser!(u32).range(8..=2_000)
    )]
    subscribers: u32,

    /// How many seconds a subscriber stays, on average.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    stay: u64,

    /// How many notifications there are a second.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 40,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    per_second: u32,

    /// How many seconds pass between two faults.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    fault_every: u64,

    /// How messages are authorized.
    #[arg(long, value_enum, default_value_t = Auth::Hmac)]
    auth: Auth,
}

/// What one look at the broadcaster showed.
#[derive(Clone, Copy, Debug)]
struct State {
    memory: u64,
    descriptors: usize,
    spool: u64,
}

/// How long the broadcaster may take to let go of what was.
const QUIET_AFTER: Duration = Duration::from_secs(120);

const SLOPE_MAX: f64 = 1.0;

impl Soak {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let secrets = self.auth.fresh_secrets();
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let database = folder.path().join("subscriptions.db");
        let flags = ["--metrics", "127.0.0.1:0", "--log", "error"];
        let on = format!("sqlite:{}", database.display());
        let (program, cores) = (&setting.program, setting.cores);
        let mut broadcaster =
            Broadcaster::start_with(program, &secrets, cores, &on, &flags).await?;
        let line = broadcaster.line().await?;
        let metrics = line
            .strip_prefix("metrics on http://")
            .and_then(|it| it.strip_suffix("/metrics"))
            .with_context(|| format!("the broadcaster said {line:?}"))?
            .to_owned();
        let address = broadcaster.endpoint().host_header().parse()?;
        let world = Arc::new(World::new(
            program.clone(),
            address,
            secrets,
            broadcaster.secrets_file(),
            database,
        ));
        let watched = Watched {
            broadcaster,
            metrics,
        };
        let run = self.watch(&world, &watched).await;
        let run = run.with_context(|| watched.broadcaster.log())?;
        watched.broadcaster.stop().await?;
        run.report()
    }

    async fn watch(&self, world: &Arc<World>, watched: &Watched) -> anyhow::Result<Run> {
        let began = watched.look().await?;
        let long = Duration::from_secs(60 * self.minutes);
        let warm_up = self
            .warm_up
            .map_or(Duration::from_secs(1_200), Duration::from_secs);
        let warm_up = warm_up.min(long / 2);
        let mut parts = JoinSet::new();
        let stay = Duration::from_secs(self.stay);
        for slot in 0..self.subscribers {
            let which = match slot % 12 {
                0..6 => Which::Http,
                6..10 => Which::WebSocket,
                10 => Which::Dead,
                _ if slot < 36 => Which::Process,
                _ => Which::Http,
            };
            parts.spawn(subscribers::come_and_go(world.clone(), stay, which));
        }
        let publishing = publishers::publish(world.clone(), self.per_second);
        let publishing = tokio::spawn(publishing);
        let interval = Duration::from_secs(self.fault_every);
        parts.spawn(faults::happen(world.clone(), interval));
        let started = Instant::now();
        let (mut samples, mut most) = (Vec::new(), began);
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        while started.elapsed() < long {
            ticks.tick().await;
            let now = watched.look().await?;
            let at = started.elapsed();
            samples.push(Sample {
                at,
                memory: now.memory,
            });
            most.memory = most.memory.max(now.memory);
            most.descriptors = most.descriptors.max(now.descriptors);
            most.spool = most.spool.max(now.spool);
            if samples.len() % 60 == 0 {
                let (tally, memory) = (world.oracle.tally(), mebibytes(now.memory));
                eprintln!(
                    "soak: {} min, {memory:.1} MiB, {} descriptors, {} deliveries, {} lost",
                    at.as_secs() / 60,
                    now.descriptors,
                    tally.received,
                    tally.lost
                );
            }
        }
        world.ending.cancel();
        publishing.await??;
        while let Some(part) = parts.join_next().await {
            part?;
        }
        let deadline = Instant::now() + QUIET_AFTER;
        let mut ended = watched.look().await?;
        while Instant::now() < deadline && !ended.is_back_at(&began) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ended = watched.look().await?;
        }
        Ok(Run {
            minutes: self.minutes,
            warm_up,
            slope: slope(&samples, warm_up),
            warm: samples
                .iter()
                .find(|it| it.at >= warm_up)
                .map_or(0, |it| it.memory),
            last: samples.last().map_or(0, |it| it.memory),
            began,
            most,
            ended,
            tally: world.oracle.tally(),
            counted: watched.counted().await?,
            counts: world.counts.snapshot(),
        })
    }
}

struct Watched {
    broadcaster: Broadcaster,
    /// Host and port.
    metrics: String,
}

impl Watched {
    async fn look(&self) -> anyhow::Result<State> {
        let spool = sum(&self.metrics().await?, "httppubsub_spool_bytes{");
        Ok(State {
            memory: self.broadcaster.memory()?,
            descriptors: descriptors(self.broadcaster.pid())?,
            spool,
        })
    }

    /// What matched, and what became of it.
    async fn counted(&self) -> anyhow::Result<[u64; 2]> {
        let metrics = self.metrics().await?;
        let matched = sum(&metrics, "httppubsub_matched_total");
        Ok([matched, sum(&metrics, "httppubsub_deliveries_total{")])
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(&self.metrics).await?;
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.metrics
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 200"),
            "the metrics say {answer:?}"
        );
        Ok(answer)
    }
}

/// The sum of all values whose names begin so.
fn sum(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with(name));
    let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum::<f64>() as u64
}

impl State {
    fn is_back_at(&self, began: &Self) -> bool {
        self.descriptors <= began.descriptors && self.spool <= began.spool
    }
}

/// All that is known of a run.
struct Run {
    minutes: u64,
    warm_up: Duration,
    slope: Option<Slope>,
    /// Memory at the end of the warm-up, and before everybody left.
    warm: u64,
    last: u64,
    began: State,
    most: State,
    ended: State,
    tally: Tally,
    counted: [u64; 2],
    counts: Vec<(&'static str, u64)>,
}

impl Run {
    /// Fails if something was lost or kept.
    fn report(&self) -> anyhow::Result<Report> {
        let Self {
            began,
            most,
            ended,
            tally,
            counted: [matched, accounted],
            ..
        } = self;
        let cells = |cells: &[&str]| cells.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let mut states = vec![cells(&["", "began", "most", "ended"])];
        let mut row = |name: &str, of: &dyn Fn(&State) -> String| {
            states.push(vec![name.to_owned(), of(began), of(most), of(ended)]);
        };
        row("memory, MiB", &|it| format!("{:.1}", mebibytes(it.memory)));
        row("descriptors", &|it| it.descriptors.to_string());
        row("spool, MiB", &|it| format!("{:.1}", mebibytes(it.spool)));
        let mut counts = vec![cells(&["", "count"])];
        let more = [
            ("expected at subscribers", tally.expected),
            ("  received", tally.received),
            ("  covered by a notice", tally.noticed),
            ("  neither (difference)", tally.lost),
            ("received twice", tally.doubled),
            ("matched, counted by the broadcaster", *matched),
            ("  of which accounted for", *accounted),
        ];
        for (name, count) in self.counts.iter().chain(&more) {
            counts.push(vec![(*name).to_owned(), count.to_string()]);
        }
        let (warm, last) = (mebibytes(self.warm), mebibytes(self.last));
        let growth = match self.slope {
            Some(it) => format!(
                "memory after {} s: {warm:.1} MiB, before everybody left: {last:.1} MiB; \
                 slope {:+.2} MiB/h (95 %: {:+.2} to {:+.2})",
                self.warm_up.as_secs(),
                it.estimate,
                it.low,
                it.high
            ),
            None => "too short for a slope of memory".to_owned(),
        };
        let growth = match self.slope {
            Some(it) if it.low <= SLOPE_MAX && it.high > SLOPE_MAX => format!(
                "{growth}\nnot decided: the interval reaches above {SLOPE_MAX} MiB/h; a longer \
                 run narrows it"
            ),
            _ => growth,
        };
        let text = format!(
            "soak of {} min\n\n{}\n{}\n{growth}\n",
            self.minutes,
            table(&counts, 1),
            table(&states, 1)
        );
        let mut wrong = Vec::new();
        if let Some(first) = &tally.first_lost {
            wrong.push(format!("{} messages were lost: {first}", tally.lost));
        }
        if matched != accounted {
            wrong.push(format!(
                "{matched} matched and {accounted} are accounted for"
            ));
        }
        if ended.descriptors > began.descriptors {
            wrong.push("descriptors are not back where they began".to_owned());
        }
        if ended.spool > began.spool {
            wrong.push("the spool is not back where it began".to_owned());
        }
        if self.slope.is_some_and(|it| it.low > SLOPE_MAX) {
            wrong.push(format!("memory grows by more than {SLOPE_MAX} MiB an hour"));
        }
        ensure!(wrong.is_empty(), "{}\n\n{text}", wrong.join("; "));
        let json = json!({
            "minutes": self.minutes,
            "slope_mib_per_hour": self.slope.map(|it| [it.low, it.estimate, it.high]),
            "memory_mib": { "warm": warm, "last": last, "ended": mebibytes(ended.memory) },
            "expected": tally.expected,
            "received": tally.received,
            "noticed": tally.noticed,
        });
        Ok(Report { text, json })
    }
}

impl Counts {
    fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let count = |it: &AtomicU64| it.load(Ordering::Relaxed);
        vec![
            ("subscribers over HTTP", count(&self.http)),
            ("subscribers over websockets", count(&self.websockets)),
            ("subscribers that are processes", count(&self.processes)),
            ("subscribers that are not there", count(&self.dead)),
            ("subscribing failed", count(&self.not_subscribed)),
            ("notifications", count(&self.published)),
            ("notifications refused", count(&self.not_published)),
            ("notifications skipped", count(&self.skipped)),
            ("faults", count(&self.faults)),
        ]
    }
}
