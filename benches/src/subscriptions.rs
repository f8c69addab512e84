//! What many subscriptions that do not match cost: loading them, memory, and time for each notify.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{SqliteStore, Subscriptions as _};
use serde_json::json;

use crate::broadcaster::Broadcaster;
use crate::keys::{Auth, Keys};
use crate::message::{Label, Message};
use crate::publish::{Notify as _, Publisher};
use crate::report::{Report, mebibytes, median, table};
use crate::setting::Setting;
use crate::sinks::{Behaviour, SentAt, Sinks};

/// Notify with many registered subscriptions of which ten match, next to one with a thousand.
///
/// Half of them are globs, of five shapes; ten of them have the same url. Two broadcasters on
/// SQLite take turns.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Subscriptions {
    /// How many are registered.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000_000,
        value_parser = clap::value_parser!(u64).range(1_000..=10_000_000)
    )]
    count: u64,

    /// How many times each notifies.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(10..=1_000_000)
    )]
    notifications: u64,

    /// In how many turns.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=1_000)
    )]
    turns: u64,
}

const FEW: u64 = 1_000;
const OF_ONE_URL: u64 = 10;
const MATCHING: usize = 10;

struct Registered {
    broadcaster: Broadcaster,
    publisher: Publisher,
    loaded_in: Duration,
    memory: u64,
    /// Of each turn, in microseconds.
    notify: Vec<f64>,
    subscribe: Vec<f64>,
}

impl Subscriptions {
    pub(crate) async fn run(&self, setting: &Setting) -> anyhow::Result<Report> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let keys = Keys::of(&Secrets::NONE);
        let sinks = Sinks::start(&[Behaviour::Confirm; MATCHING], 1, keys.clone()).await?;
        sinks.begin(SentAt::Message);
        let mut all = Vec::new();
        for count in [FEW, self.count] {
            eprintln!("registering {count} subscriptions");
            let path = folder.path().join(format!("{count}.db"));
            register(&path, count).await?;
            all.push(Registered::start(&path, setting, &sinks, &keys).await?);
        }
        for turn in 0..self.turns {
            for (number, it) in (0_u64..).zip(&mut all) {
                let url = |at| format!("http://127.0.0.1:9/{turn}/{number}/{at}");
                it.turn(self.notifications / self.turns, &keys, url).await?;
            }
            eprintln!("turn {} of {}", turn + 1, self.turns);
        }
        sinks.finish()?;
        let [few, many]: [Registered; 2] = all
            .try_into()
            .map_err(|_| anyhow::anyhow!("two are measured"))?;
        let report = self.report(&few, &many, setting);
        few.broadcaster.stop().await?;
        many.broadcaster.stop().await?;
        Ok(report)
    }

    fn report(&self, few: &Registered, many: &Registered, setting: &Setting) -> Report {
        let extra = many
            .notify
            .iter()
            .zip(&few.notify)
            .map(|(it, than)| it - than);
        let extra = median(extra.collect());
        let each = many.memory.saturating_sub(few.memory) as f64 / (self.count - FEW) as f64;
        let row = |name: &str, few: String, many: String| vec![name.to_owned(), few, many];
        let microseconds = |turns: &[f64]| format!("{:.0} µs", median(turns.to_vec()));
        let rows = [
            row("registered", FEW.to_string(), self.count.to_string()),
            row(
                "loaded and listening after",
                format!("{:.2} s", few.loaded_in.as_secs_f64()),
                format!("{:.2} s", many.loaded_in.as_secs_f64()),
            ),
            row(
                "memory",
                format!("{:.1} MiB", mebibytes(few.memory)),
                format!("{:.1} MiB", mebibytes(many.memory)),
            ),
            row(
                "memory of each, with its url",
                String::new(),
                format!("{each:.0} bytes"),
            ),
            row(
                "notify ten",
                microseconds(&few.notify),
                microseconds(&many.notify),
            ),
            row(
                "more than with few",
                String::new(),
                format!("{extra:.1} µs"),
            ),
            row(
                "one more subscription, durable",
                microseconds(&few.subscribe),
                microseconds(&many.subscribe),
            ),
        ];
        let text = format!(
            "subscriptions, {} notifications each in {} turns, medians\n{}\n\n{}",
            self.notifications,
            self.turns,
            setting.describe(),
            table(&rows, 1)
        );
        let json = json!({
            "bench": "subscriptions",
            "count": self.count,
            "setting": setting.to_json(),
            "loaded_seconds": many.loaded_in.as_secs_f64(),
            "memory_each_bytes": each,
            "notify_few_us": median(few.notify.clone()),
            "notify_many_us": median(many.notify.clone()),
            "notify_extra_us": extra,
            "subscribe_few_us": median(few.subscribe.clone()),
            "subscribe_many_us": median(many.subscribe.clone()),
        });
        Report { text, json }
    }
}

impl Registered {
    async fn start(
        database: &Path,
        setting: &Setting,
        sinks: &Sinks,
        keys: &Keys,
    ) -> anyhow::Result<Self> {
        let secrets = Auth::None.fresh_secrets();
        let database = format!("sqlite:{}", database.display());
        let began = Instant::now();
        let program = &setting.program;
        let broadcaster =
            Broadcaster::start_on(program, &secrets, setting.cores, &database).await?;
        let (loaded_in, memory) = (began.elapsed(), broadcaster.memory()?);
        broadcaster.subscribe(sinks.urls(), keys).await?;
        let mut publisher =
            Publisher::connect(broadcaster.endpoint(), keys.clone(), MATCHING as u32).await?;
        publisher.warm_up(20, 100).await?;
        Ok(Self {
            broadcaster,
            publisher,
            loaded_in,
            memory,
            notify: Vec::new(),
            subscribe: Vec::new(),
        })
    }

    async fn turn(
        &mut self,
        notifications: u64,
        keys: &Keys,
        url: impl Fn(u64) -> String,
    ) -> anyhow::Result<()> {
        let mut took = Vec::new();
        for _ in 0..notifications {
            let message = Message::new(Label::default(), 100);
            took.push(self.publisher.notify(message).await?.as_secs_f64() * 1e6);
        }
        self.notify.push(median(took));
        // Nothing is posted there: no notification follows.
        let mut took = Vec::new();
        for at in 0..20 {
            let url = SubscriberUrl::new(url(at))?;
            let began = Instant::now();
            let topic = Topic::new("bench/other")?;
            self.broadcaster
                .subscribe_to(std::iter::once(&url), &Interest::Exact(topic), keys)
                .await?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
        self.subscribe.push(median(took));
        Ok(())
    }
}

/// Writes so many subscriptions into a database, none of which matches what is notified.
async fn register(path: &Path, count: u64) -> anyhow::Result<()> {
    let store = SqliteStore::open(path).await?;
    let urls = (0..count / OF_ONE_URL).map(|number| {
        let url = SubscriberUrl::new(format!("http://10.0.0.{}/hooks/{number}", number % 200))?;
        let interests = number * OF_ONE_URL..(number + 1) * OF_ONE_URL;
        let set = interests.map(|at| Ok((interest(at)?, None)));
        Ok((url, set.collect::<anyhow::Result<SubscriptionSet>>()?))
    });
    stream::iter(urls)
        .map(|it: anyhow::Result<_>| async {
            let (url, set) = it?;
            store.set(url, set).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(256)
        .try_collect()
        .await
}

fn interest(at: u64) -> anyhow::Result<Interest> {
    let glob = match at % 10 {
        0 => format!("user/{at}/*"),
        1 => format!("*/order/{at}"),
        2 => format!("tenant/{}/*/job-{at}", at % 100),
        3 => format!("*needle-{at}*"),
        4 => format!("log/[ab]{at}?"),
        _ => return Ok(Interest::Exact(Topic::new(format!("cache/item/{at}"))?)),
    };
    Ok(Interest::Glob(GlobPattern::parse(glob)?))
}
