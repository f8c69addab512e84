//! `httppubsub serve`.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use httppubsub_broadcaster::{
    Authorizations, Broadcaster, ClusterConfig, Config, LoadConfig, Preset, QuarantineConfig,
    WebSocketConfig,
};
use httppubsub_net::{BreakerConfig, PostConfig, ServeConfig, SpoolConfig, chain};
use httppubsub_proto::http::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};
use httppubsub_proto::url::Endpoint;
use httppubsub_store::{MemoryStore, PostgresStore, SqliteStore, Store};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::descriptors::Connections;
use crate::egress::EgressFlags;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::signals::{self, Stop};
use crate::usage::{self, Unquoted};
use crate::{console, files, secrets, units};

/// Run a broadcaster.
///
/// Prints a line on stdout when it is ready: `listening on http://ADDR:PORT`, and one for the
/// metrics if there are any: `metrics on http://ADDR:PORT/metrics`. SIGTERM and SIGINT stop it: it takes nothing new, finishes what is under way and exits with status 0.
/// SIGHUP is ignored. It goes on if nobody reads its log: lines that find no reader are dropped and
/// counted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub serve\n  \
    httppubsub serve --listen 0.0.0.0:3003 --data /var/lib/httppubsub --log-format json\n  \
    httppubsub serve --listen 127.0.0.1:0 --db memory\n  \
    httppubsub serve --listen 0.0.0.0:3003 --advertise http://10.0.0.7:3003 \\\n      \
    --db postgres://httppubsub@db.internal/httppubsub\n\n\
    Durations are in the unit named unless they have one of their own: 500ms, 1.5s, 2min, 1h, 7d. Sizes are \
    in bytes unless they have one: 64kB, 10MB (powers of 1,000), 64KiB, 10MiB (of 1,024).")]
pub(crate) struct Serve {
    /// Where to listen; port 0 picks a free one.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:3003",
        env = "HTTPPUBSUB_LISTEN",
        value_parser = units::listen_address
    )]
    listen: SocketAddr,

    /// Where to answer `GET /metrics`, for Prometheus. Whoever reaches it learns how much there is
    /// to do, so keep it to loopback or to a network of your own; port 0 picks a free one.
    /// [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "HTTPPUBSUB_METRICS", value_parser = units::listen_address)]
    metrics: Option<SocketAddr>,

    /// Folder for all that is kept: subscriptions, secrets, which authorizations were used.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "./httppubsub-data",
        env = "HTTPPUBSUB_DATA"
    )]
    data: PathBuf,

    /// Where subscriptions are kept: `sqlite:PATH`; `postgres://USER@HOST/NAME` for several
    /// broadcasters that are to behave as one; or `memory` to forget them at the end. What is secret in
    /// it is safer in the environment. [default: subscriptions.db in the data folder]
    #[arg(
        long,
        value_name = "DATABASE",
        env = "HTTPPUBSUB_DB",
        value_parser = Unquoted::<Database>::new()
    )]
    db: Option<Database>,

    /// How other broadcasters on the same database reach this one: `http://HOST:PORT`. Needed with
    /// PostgreSQL if it listens on all addresses. [default: http:// and the address it listens on]
    #[arg(long, value_name = "URL", env = "HTTPPUBSUB_ADVERTISE", value_parser = Unquoted::<Advertise>::new())]
    advertise: Option<Advertise>,

    /// How long other broadcasters on the same database believe that this one lives after it said so,
    /// which it does four times as often, in seconds. After that they deliver nothing to it until it
    /// is back, and keep in mind what its websockets miss.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = units::positive_seconds)]
    lease: Duration,

    /// How long after that a broadcaster is forgotten, with all that its websockets wanted, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = units::seconds)]
    forget_after: Duration,

    /// Who remembers which authorizations were used: with PostgreSQL all broadcasters together, unless
    /// this says otherwise.
    #[arg(long, value_enum, value_name = "WHO")]
    replay_guard: Option<ReplayMemory>,

    /// Secrets file. [default: broadcaster-secrets.json in the data folder, made at the first
    /// start with fresh HMAC secrets]
    #[arg(long, value_name = "FILE", env = "HTTPPUBSUB_BROADCASTER_SECRETS")]
    secrets: Option<PathBuf>,

    /// Longest message taken, in bytes; longer ones are answered 413. [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    message_bytes_max: Option<u64>,

    /// Longest glob that may be subscribed, in bytes; longer ones are answered 400, and stored ones get
    /// no deliveries. What it takes to match a glob grows with its length.
    #[arg(long, value_name = "BYTES", default_value = "4KiB", value_parser = units::bytes)]
    glob_bytes_max: u64,

    /// Messages up to this size are kept in memory, larger ones in a temporary file.
    #[arg(long, value_name = "BYTES", default_value = "10MiB", value_parser = units::bytes)]
    spool_above: u64,

    /// How much memory what others send may take together, messages and what comes with them; beyond
    /// that even small messages go to files. An address may take a quarter of it, this machine three.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = units::bytes)]
    spool_memory_max: u64,

    /// How much disk all temporary files may take together; a message for which there is no room is
    /// answered 507 before it is sent. [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    spool_disk_max: Option<u64>,

    /// How much stays free on the file system of the temporary files.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = units::bytes)]
    spool_free_min: u64,

    /// Folder for these temporary files. [default: that of the operating system]
    #[arg(long, value_name = "DIR")]
    spool_dir: Option<PathBuf>,

    /// Longest time from a whole NOTIFY of up to 1 MiB to its answer, whatever its subscribers do, in
    /// seconds; longer messages get a second for each MiB more. Deliveries end after four fifths of it,
    /// and what is not confirmed by then is missed. Published clients give up after 30 s.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = units::positive_seconds)]
    notify_timeout: Duration,

    /// Longest wait for a subscriber's answer, in seconds, at most four fifths of --notify-timeout;
    /// large messages get more.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = units::positive_seconds)]
    answer_timeout: Duration,

    /// Deliveries under way at once.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = units::count)]
    deliveries_max: usize,

    /// Deliveries under way at once to one peer (scheme, host and port).
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = units::count)]
    deliveries_per_peer_max: usize,

    /// Deliveries that may wait or be under way; a notification that would make them more is answered
    /// 503 with Retry-After. One peer has a quarter of them: what is for it beyond that is missed.
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = units::count)]
    deliveries_pending_max: usize,

    #[command(flatten)]
    egress: EgressFlags,

    /// What becomes of a subscription when a delivery over plain HTTP is answered with
    /// UNSUBSCRIBE_IMMEDIATE, two bytes that anybody on the path can send.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    unsubscribe_immediate: UnsubscribeImmediate,

    /// Connections open at once; beyond that idle ones make room, and others wait if there are none.
    /// One address holds at most three times as many as are left free.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = units::count)]
    connections_max: usize,

    /// Longest wait for what is under way when it is told to stop, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = units::seconds)]
    grace: Duration,

    /// How long it goes on to serve after it was told to stop, while `GET /readyz` says already
    /// that it should be sent nothing, in seconds: the time that a load balancer needs to notice.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = units::seconds)]
    drain_delay: Duration,

    /// Websockets open at once; further ones are answered 503.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = units::count)]
    websockets_max: usize,

    /// How much may wait to be sent to one websocket, in bytes; whoever notifies waits for room, as
    /// for the answers of other subscribers. A longer message goes when nothing else waits.
    #[arg(long, value_name = "BYTES", default_value = "4MiB", value_parser = units::some_bytes)]
    websocket_queue_bytes_max: NonZeroU32,

    /// A websocket for which something waits is cut off when it has neither taken nor acknowledged
    /// anything for so long, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = units::positive_seconds)]
    websocket_stall_timeout: Duration,

    /// Do not compress what is sent over websockets.
    #[arg(long)]
    no_compression: bool,

    /// Do not train dictionaries on what websockets carry.
    #[arg(long)]
    no_training: bool,

    /// A dictionary for websockets whose subscribers ask for it by its id (2 to 65535): with which
    /// level of zstd (0 to 22) and from which length of a message on, in bytes, it is used. May be
    /// given more than once.
    #[arg(long, value_name = "ID:LEVEL:MIN_BYTES:PATH")]
    zstd_preset: Vec<PresetFlag>,

    /// Threads that do the work. [default: one for each core that it may use]
    #[arg(long, value_name = "N", env = "TOKIO_WORKER_THREADS", hide_env = true, value_parser = units::threads)]
    pub(crate) threads: Option<usize>,

    /// For how many microseconds after each notification and delivery the thread looks for what comes
    /// next instead of sleeping: answers come sooner, and the core is busy all the time while there is
    /// something to do. For a core that nothing else wants; needs `--threads 1`. [default: not at all]
    #[arg(long, value_name = "MICROSECONDS", value_parser = busy_poll)]
    busy_poll: Option<Duration>,

    #[command(flatten)]
    logs: Logs,
}

/// A dictionary as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PresetFlag {
    id: u16,
    level: u16,
    min_size: u32,
    path: PathBuf,
}

impl FromStr for PresetFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(4, ':');
        let (Some(id), Some(level), Some(min_size), Some(path)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("use ID:LEVEL:MIN_BYTES:PATH".to_owned());
        };
        let flag = Self {
            id: id.parse().map_err(|error| format!("ID: {error}"))?,
            level: level.parse().map_err(|error| format!("LEVEL: {error}"))?,
            min_size: units::bytes(min_size)
                .and_then(|it| u32::try_from(it).map_err(|error| error.to_string()))
                .map_err(|error| format!("MIN_BYTES: {error}"))?,
            path: path.into(),
        };
        if flag.id < 2 {
            return Err("ID: must be at least 2".to_owned());
        }
        if flag.level > 22 {
            return Err("LEVEL: must be at most 22".to_owned());
        }
        Ok(flag)
    }
}

/// What is done when a subscriber is said not to want a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum UnsubscribeImmediate {
    /// Remove it, as the protocol has it
    #[default]
    Honour,
    /// Pause it, ask with a notice, and remove it when that was said three times in ten minutes or
    /// more; over TLS it is removed at once
    Quarantine,
}

/// Who remembers which authorizations were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReplayMemory {
    /// This broadcaster, for what was said to it
    Own,
    /// All broadcasters on the database: what was said to one is refused by the others
    Shared,
}

/// Where a broadcaster is, for other broadcasters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Advertise(String);

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = &units::http_url(text).unwrap_or_else(|never| match never {});
        let endpoint = Endpoint::parse_str(text).map_err(|error| chain(&error))?;
        if !matches!(endpoint.path_and_query(), "" | "/") || text.contains('#') {
            return Err("must end after the port: a broadcaster serves at the root".to_owned());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// At most a second: longer is a core that is always busy.
fn busy_poll(text: &str) -> Result<Duration, String> {
    match units::positive_microseconds(text)? {
        duration if duration > Duration::from_secs(1) => Err("must be at most 1s".to_owned()),
        duration => Ok(duration),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Database {
    Memory,
    Sqlite(PathBuf),
    Postgres(String),
}

impl FromStr for Database {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(text.to_owned())),
            _ => Err("use sqlite:PATH, postgres://USER@HOST/NAME or memory".to_owned()),
        }
    }
}

impl Serve {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let threads = Handle::current().metrics().num_workers();
        if self.busy_poll.is_some() && threads > 1 {
            let problem = "--busy-poll needs --threads 1: of several, the one that looks may not be \
                           the one that is told";
            usage::wrong("serve", problem);
        }
        if self.answer_timeout > self.notify_timeout / 5 * 4 {
            let problem = format!(
                "--answer-timeout {:?} does not fit into --notify-timeout {:?}, of which four fifths are \
                 for deliveries",
                self.answer_timeout, self.notify_timeout
            );
            usage::wrong("serve", &problem);
        }
        self.logs.begin()?;
        tokio::spawn(signals::go_on_upon_hangup()?);
        files::create_folder(&self.data)
            .with_context(|| format!("cannot make the data folder {}", self.data.display()))?;
        let secrets = match &self.secrets {
            Some(file) => secrets::read(Some(file))?,
            None => {
                if std::env::var_os("HTTPPUBSUB_SECRETS").is_some_and(|it| !it.is_empty()) {
                    tracing::warn!(
                        "HTTPPUBSUB_SECRETS is for subscribers and publishers; the broadcaster's own \
                         file is named by HTTPPUBSUB_BROADCASTER_SECRETS or --secrets"
                    );
                }
                secrets::read_or_create(&self.data)?
            }
        };
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr()?;
        let metrics = match self.metrics {
            Some(address) => Some(Metrics::listen(address).await?),
            None => None,
        };
        let store = self.open_store().await?;
        let own = metrics.as_ref().map(|metrics| metrics.address);
        let connections = Connections {
            served: self.connections_max,
            websockets: self.websockets_max,
            posted: PostConfig::default().connections_max,
        };
        let connections = connections.that_fit();
        let config = self.config(address, own, connections)?;
        let authorizations = Authorizations::from(&secrets);
        let broadcaster = Broadcaster::start(config, store, authorizations).await?;
        let drain_delay = self.drain_delay;
        tokio::spawn(stop_on_signal(broadcaster.clone(), drain_delay)?);
        console::announce(format_args!("listening on http://{address}"));
        tracing::info!(%address, "listening");
        if let Some(metrics) = metrics {
            let address = metrics.address;
            console::announce(format_args!("metrics on http://{address}/metrics"));
            tokio::spawn(metrics.serve(broadcaster.clone()));
        }
        let grace = self.grace;
        let serve = ServeConfig {
            connections_max: connections.served,
            grace,
            ..ServeConfig::default()
        };
        broadcaster.serve(listener, serve).await;
        if broadcaster.finish(grace).await {
            tracing::info!("stopped");
        } else {
            tracing::warn!(
                "stopped while deliveries were under way; their publishers got no answer"
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn open_store(&self) -> anyhow::Result<Arc<dyn Store>> {
        let path = match &self.db {
            Some(Database::Memory) => return Ok(Arc::new(MemoryStore::new())),
            Some(Database::Sqlite(path)) => path.clone(),
            Some(Database::Postgres(url)) => {
                let store = PostgresStore::open(url).await;
                return Ok(Arc::new(
                    store.context("cannot open the PostgreSQL database")?,
                ));
            }
            None => self.data.join("subscriptions.db"),
        };
        let store = SqliteStore::open(&path)
            .await
            .with_context(|| format!("cannot open the database {}", path.display()))?;
        Ok(Arc::new(store))
    }

    fn config(
        &self,
        address: SocketAddr,
        own: Option<SocketAddr>,
        connections: Connections,
    ) -> anyhow::Result<Config> {
        let defaults = SpoolConfig::default();
        let own_url = self.own_url(address)?;
        let is_shared = matches!(self.db, Some(Database::Postgres(_)));
        let replay_shared = match self.replay_guard {
            None => is_shared,
            Some(ReplayMemory::Own) => false,
            Some(ReplayMemory::Shared) if is_shared => true,
            Some(ReplayMemory::Shared) => {
                anyhow::bail!("only broadcasters on PostgreSQL can share a replay guard")
            }
        };
        let mut presets = Vec::new();
        for flag in &self.zstd_preset {
            let dictionary = std::fs::read(&flag.path)
                .with_context(|| format!("cannot read the dictionary {}", flag.path.display()))?;
            anyhow::ensure!(
                !presets.iter().any(|it: &Preset| it.id == flag.id),
                "two dictionaries have the id {}",
                flag.id
            );
            presets.push(Preset {
                id: flag.id,
                dictionary: dictionary.into(),
                level: flag.level,
                min_size: flag.min_size,
            });
        }
        Ok(Config {
            spool: SpoolConfig {
                folder: self.spool_dir.clone().unwrap_or(defaults.folder),
                memory_each_max: self.spool_above,
                memory_total_max: self.spool_memory_max,
                disk_total_max: self.spool_disk_max.unwrap_or(defaults.disk_total_max),
                disk_free_min: self.spool_free_min,
            },
            post: PostConfig {
                answer_timeout: self.answer_timeout,
                // All of them have a connection, and a quarter more with large messages.
                in_flight_max: self.deliveries_max.min(connections.posted * 4 / 5).max(1),
                connections_max: connections.posted,
                in_flight_per_peer_max: self.deliveries_per_peer_max,
                breaker: Some(BreakerConfig {
                    unproven: self.egress.unproven(),
                    ..BreakerConfig::default()
                }),
                egress: self.egress.egress(address, own.into_iter().collect()),
                ..PostConfig::default()
            },
            notify_timeout: self.notify_timeout,
            load: LoadConfig {
                deliveries_max: NonZeroUsize::new(self.deliveries_pending_max)
                    .unwrap_or(NonZeroUsize::MIN),
                ..LoadConfig::default()
            },
            busy_poll: self.busy_poll.unwrap_or_default(),
            quarantine: match self.unsubscribe_immediate {
                UnsubscribeImmediate::Honour => None,
                UnsubscribeImmediate::Quarantine => Some(QuarantineConfig::default()),
            },
            message_bytes_max: self.message_bytes_max,
            glob_bytes_max: usize::try_from(self.glob_bytes_max).unwrap_or(usize::MAX),
            replay_folder: Some(self.data.clone()),
            receiver_url: format!("{own_url}{RECEIVE_FOR_WEBSOCKETS}"),
            missed_url: format!("{own_url}{MISSED_FOR_WEBSOCKETS}"),
            cluster: ClusterConfig {
                replay_shared,
                lease: self.lease,
                forget_after: self.forget_after,
            },
            websockets: WebSocketConfig {
                sessions_max: connections.websockets,
                queue_bytes_max: self.websocket_queue_bytes_max,
                stall_timeout: self.websocket_stall_timeout,
                compression: !self.no_compression,
                training: !self.no_training,
                presets,
                // The rest is for those that take their time to close.
                close_spread: self.grace / 2,
                ..WebSocketConfig::default()
            },
            ..Config::default()
        })
    }
}

impl Serve {
    /// Where other broadcasters reach this one.
    fn own_url(&self, address: SocketAddr) -> anyhow::Result<String> {
        match &self.advertise {
            Some(Advertise(url)) => Ok(url.clone()),
            None if address.ip().is_unspecified()
                && matches!(self.db, Some(Database::Postgres(_))) =>
            {
                anyhow::bail!(
                    "it listens on all addresses of this machine, so say with --advertise \
                     http://HOST:PORT by which of them other broadcasters reach it"
                )
            }
            None => Ok(format!("http://{address}")),
        }
    }
}

/// Waits for SIGTERM or SIGINT and then begins to stop; a second one ends the process at once.
fn stop_on_signal(
    broadcaster: Broadcaster,
    drain_delay: Duration,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut stop = Stop::new()?;
    Ok(async move {
        stop.signalled().await;
        broadcaster.withdraw();
        if !drain_delay.is_zero() {
            tracing::info!(delay = ?drain_delay, "no longer ready; serving on for a while");
        }
        tokio::select! {
            () = tokio::time::sleep(drain_delay) => {}
            () = stop.signalled() => stop_at_once(),
        }
        tracing::info!("stopping: taking nothing new, finishing what is under way");
        broadcaster.shut_down();
        stop.signalled().await;
        stop_at_once();
    })
}

fn stop_at_once() {
    tracing::warn!("stopped at once by a second signal");
    console::flush();
    std::process::exit(1);
}
