//! Flags of `httppubsub serve`, and the types of their values.
//!
//! The doc comment of a flag is its help text: what it sets, its unit, its default, and what
//! happens at the limit. A value that cannot be right is refused while arguments are parsed, before
//! anything is made. What only several flags together can tell is checked in `serve.rs`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use httppubsub_net::error_chain;
use httppubsub_proto::url::Endpoint;

use crate::egress::EgressFlags;
use crate::telemetry::logs::Logs;
use crate::units;
use crate::usage::Unquoted;

/// Run a broadcaster.
///
/// Prints a line on stdout when it is ready: `listening on http://ADDR:PORT`, and one for the
/// metrics if there are any: `metrics on http://ADDR:PORT/metrics`. SIGTERM and SIGINT stop it: it
/// takes nothing new, finishes what is under way and exits with status 0. SIGHUP makes it
/// read the tokens file again. It goes on if nobody reads its log: lines that find no reader are
/// dropped and counted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    httppubsub serve\n  \
    httppubsub serve --listen 0.0.0.0:3003 --data /var/lib/httppubsub --log-format json\n  \
    httppubsub serve --listen 127.0.0.1:0 --db memory\n  \
    httppubsub serve --listen 0.0.0.0:3003 --advertise http://10.0.0.7:3003 \\\n      \
    --db postgres://httppubsub@db.internal/httppubsub\n\n\
    Durations are in the unit named unless they have one of their own: 500ms, 1.5s, 2min, 1h, 7d. \
    Sizes are in bytes unless they have one: 64kB, 10MB (powers of 1,000), 64KiB, 10MiB \
    (of 1,024).")]
pub(crate) struct Serve {
    /// Address to listen on; port 0 picks a free one.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:3003",
        env = "HTTPPUBSUB_LISTEN",
        value_parser = units::listen_address
    )]
    pub(super) listen: SocketAddr,

    /// Address that answers `GET /metrics`, for Prometheus. Its readers learn how busy the
    /// broadcaster is, so keep it to loopback or a private network; port 0 picks a free one.
    /// [default: nowhere]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "HTTPPUBSUB_METRICS",
        value_parser = units::listen_address
    )]
    pub(super) metrics: Option<SocketAddr>,

    /// Folder for all that is kept: subscriptions, secrets, which authorizations were used.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "./httppubsub-data",
        env = "HTTPPUBSUB_DATA"
    )]
    pub(super) data: PathBuf,

    /// Database of subscriptions: `sqlite:PATH`; `postgres://USER@HOST/NAME` for several
    /// broadcasters that act as one; or `memory` to forget them at the end. A password is safer in
    /// the environment.
    /// [default: subscriptions.db in the data folder]
    #[arg(
        long,
        value_name = "DATABASE",
        env = "HTTPPUBSUB_DB",
        value_parser = Unquoted::<Database>::new()
    )]
    pub(super) db: Option<Database>,

    /// URL at which other broadcasters on the same database reach this one: `http://HOST:PORT`.
    /// Required with PostgreSQL when listening on all addresses. [default: http:// and the
    /// listening address]
    #[arg(
        long,
        value_name = "URL",
        env = "HTTPPUBSUB_ADVERTISE",
        value_parser = Unquoted::<Advertise>::new()
    )]
    pub(super) advertise: Option<Advertise>,

    /// Seconds after its last heartbeat until other broadcasters on the same database consider this
    /// one silent; it sends four heartbeats in that time. They deliver nothing to a silent
    /// broadcaster until it is back, and record what its websockets miss.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "20",
        value_parser = units::positive_seconds
    )]
    pub(super) lease: Duration,

    /// Seconds after which a silent broadcaster is forgotten, with the subscriptions of its
    /// websockets.
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = units::seconds)]
    pub(super) forget_after: Duration,

    /// Replay guard: remembers which authorizations were used. [default: all broadcasters together
    /// with PostgreSQL, each its own otherwise]
    #[arg(long, value_enum, value_name = "WHO")]
    pub(super) replay_guard: Option<ReplayMemory>,

    /// Secrets file. [default: broadcaster-secrets.json in the data folder, made at the first
    /// start with fresh HMAC secrets]
    #[arg(long, value_name = "FILE", env = "HTTPPUBSUB_BROADCASTER_SECRETS")]
    pub(super) secrets: Option<PathBuf>,

    /// Tokens file, for publishing with nothing but HTTP: see `httppubsub token`. It is read again
    /// when it changes. [default: tokens.json in the data folder, which may be made later]
    #[arg(long, value_name = "FILE", env = "HTTPPUBSUB_TOKENS")]
    pub(super) tokens: Option<PathBuf>,

    /// Longest message taken, in bytes; longer ones are answered 413. [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub(super) message_bytes_max: Option<u64>,

    /// Longest glob that may be subscribed, in bytes; longer ones are answered 400, and stored ones
    /// get no deliveries. What it takes to match a glob grows with its length.
    #[arg(long, value_name = "BYTES", default_value = "4KiB", value_parser = units::bytes)]
    pub(super) glob_bytes_max: u64,

    /// Messages up to this size are kept in memory, larger ones in a temporary file.
    #[arg(long, value_name = "BYTES", default_value = "10MiB", value_parser = units::bytes)]
    pub(super) spool_above: u64,

    /// Memory for received data in total, messages included; beyond it even small messages go to
    /// files. One address may use a quarter, this machine three quarters.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = units::bytes)]
    pub(super) spool_memory_max: u64,

    /// Disk space for temporary files in total; a message without room is answered 507 before it is
    /// sent.
    /// [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    pub(super) spool_disk_max: Option<u64>,

    /// Space that is kept free on the file system of temporary files.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = units::bytes)]
    pub(super) spool_free_min: u64,

    /// Folder for these temporary files. [default: that of the operating system]
    #[arg(long, value_name = "DIR")]
    pub(super) spool_dir: Option<PathBuf>,

    /// Longest time from a whole NOTIFY of up to 1 MiB to its answer, whatever its subscribers do,
    /// in seconds; longer messages get a second for each MiB more. Deliveries end after four fifths
    /// of it, and what is not confirmed by then is missed. Published clients give up after 30 s.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "15",
        value_parser = units::positive_seconds
    )]
    pub(super) notify_timeout: Duration,

    /// Longest wait for a subscriber's answer, in seconds, at most four fifths of --notify-timeout;
    /// large messages get more.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = units::positive_seconds
    )]
    pub(super) answer_timeout: Duration,

    /// Deliveries under way at once.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = units::count)]
    pub(super) deliveries_max: usize,

    /// Deliveries under way at once to one peer (scheme, host and port).
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = units::count)]
    pub(super) deliveries_per_peer_max: usize,

    /// Deliveries that may wait or be under way; a notification that would make them more is
    /// answered 503 with Retry-After. One peer has a quarter of them: what is for it beyond that is
    /// missed.
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = units::count)]
    pub(super) deliveries_pending_max: usize,

    #[command(flatten)]
    pub(super) egress: EgressFlags,

    /// Action on a subscription when a delivery over plain HTTP is answered with
    /// UNSUBSCRIBE_IMMEDIATE, two bytes that anybody on the path can send.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    pub(super) unsubscribe_immediate: UnsubscribeImmediate,

    /// Connections open at once; beyond that idle ones make room, and others wait if there are
    /// none. One address holds at most three times as many as are left free.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = units::count)]
    pub(super) connections_max: usize,

    /// Longest wait for requests in progress at shutdown, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = units::seconds)]
    pub(super) grace: Duration,

    /// Seconds for which requests are still served after the signal to stop, while `GET /readyz`
    /// already says not ready: the time that a load balancer needs to notice.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = units::seconds)]
    pub(super) drain_delay: Duration,

    /// Websockets open at once; further ones are answered 503.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = units::count)]
    pub(super) websockets_max: usize,

    /// Bytes that may wait to be sent to one websocket; beyond them notifications wait, as they
    /// wait for the answers of other subscribers. A longer message is sent when nothing else waits.
    #[arg(long, value_name = "BYTES", default_value = "4MiB", value_parser = units::some_bytes)]
    pub(super) websocket_queue_bytes_max: NonZeroU32,

    /// A websocket for which something waits is cut off when it has neither taken nor acknowledged
    /// anything for so long, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = units::positive_seconds
    )]
    pub(super) websocket_stall_timeout: Duration,

    /// Do not compress what is sent over websockets.
    #[arg(long)]
    pub(super) no_compression: bool,

    /// Do not train dictionaries on what websockets carry.
    #[arg(long)]
    pub(super) no_training: bool,

    /// A dictionary for websockets whose subscribers ask for it by its id (2 to 65535): with which
    /// level of zstd (0 to 22) and from which length of a message on, in bytes, it is used. May be
    /// given more than once.
    #[arg(long, value_name = "ID:LEVEL:MIN_BYTES:PATH")]
    pub(super) zstd_preset: Vec<PresetFlag>,

    /// Threads that do the work. [default: one for each core that it may use]
    #[arg(
        long,
        value_name = "N",
        env = "TOKIO_WORKER_THREADS",
        hide_env = true,
        value_parser = units::threads
    )]
    pub(crate) threads: Option<usize>,

    /// For how many microseconds after each notification and delivery the thread looks for what
    /// comes next instead of sleeping: answers come sooner, and the core is busy all the time while
    /// there is something to do. For a core that nothing else wants; needs `--threads 1`. [default:
    /// not at all]
    #[arg(long, value_name = "MICROSECONDS", value_parser = busy_poll)]
    pub(super) busy_poll: Option<Duration>,

    #[command(flatten)]
    pub(super) logs: Logs,
}

/// A dictionary as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PresetFlag {
    pub(super) id: u16,
    pub(super) level: u16,
    pub(super) min_size: u32,
    pub(super) path: PathBuf,
}

impl FromStr for PresetFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // At most four parts: a path may hold colons.
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
        // 0 and 1 mean "not compressed" and "no dictionary" on the wire.
        if flag.id < 2 {
            return Err("ID: must be at least 2".to_owned());
        }
        // The highest level of zstd.
        if flag.level > 22 {
            return Err("LEVEL: must be at most 22".to_owned());
        }
        Ok(flag)
    }
}

/// Actions on a subscription that an unverified answer says is not wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum UnsubscribeImmediate {
    /// Remove it, as the protocol has it
    #[default]
    Honour,
    /// Pause it, ask with a notice, and remove it when that was said three times in ten minutes or
    /// more; over TLS it is removed at once
    Quarantine,
}

/// Scope of the replay guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ReplayMemory {
    /// This broadcaster, for what was said to it
    Own,
    /// All broadcasters on the database: what was said to one is refused by the others
    Shared,
}

/// The address of a broadcaster for other broadcasters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advertise(pub(super) String);

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = &units::http_url(text).unwrap_or_else(|never| match never {});
        let endpoint = Endpoint::parse_str(text).map_err(|error| error_chain(&error))?;
        // The paths of the protocol are appended to it, and a fragment would swallow them.
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

/// The store that `--db` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Database {
    /// Forgotten at the end.
    Memory,
    /// One file.
    Sqlite(PathBuf),
    /// A url with its password: never printed.
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
