//! What can be set about a broadcaster.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::{
    BodyLimits, BreakerConfig, Clock, DecompressLimits, PostConfig, SocketConfig, SpoolConfig,
};
use httppubsub_proto::auth::{Authorization, Secrets};
use httppubsub_proto::backoff::MissedSchedule;
use httppubsub_proto::session::StreamCounters;
use httppubsub_proto::time;
use httppubsub_proto::ws::HeaderStyle;
use tokio::time::Instant;

/// The schemes of both directions.
#[derive(Clone, Debug)]
pub struct Authorizations {
    /// For what subscribers say.
    pub to_broadcaster: Arc<dyn Authorization>,
    /// For what this broadcaster says.
    pub to_subscriber: Arc<dyn Authorization>,
}

impl From<&Secrets> for Authorizations {
    fn from(secrets: &Secrets) -> Self {
        Self {
            to_broadcaster: secrets.to_broadcaster.authorization(),
            to_subscriber: secrets.to_subscriber.authorization(),
        }
    }
}

/// What can be set about a broadcaster. Every field has a default that serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where and from which size on bodies are kept in files.
    pub spool: SpoolConfig,
    /// Bounds on what is posted to subscribers, and where they may be. Default: those of
    /// [`PostConfig`], with circuit breakers and an `answer_timeout` of 10 s, which fits into what
    /// `notify_timeout` leaves for deliveries.
    pub post: PostConfig,
    /// Longest time from when the whole message of a NOTIFY is here to the answer, whatever its
    /// subscribers do: the bound over waiting for places and turns, connecting, the exchanges and
    /// recording what was missed. It is for messages of up to 1 MiB; longer ones get 1 s for each MiB
    /// more ([`PostConfig::rate_min`]). Deliveries end after four fifths of it, and what is not
    /// confirmed by then is missed. Default 15 s: published clients give up after 30 s. All deadlines
    /// are in `docs/timeouts.md`.
    pub notify_timeout: Duration,
    /// What is turned away when there is too much to do.
    pub load: LoadConfig,
    /// For how long after each notification and each delivery a thread looks for what comes next,
    /// instead of sleeping until it is woken: answers come sooner, and the processor has no rest.
    /// For runtimes with a single thread, whose core is not wanted by others; among several threads the
    /// one that looks may not be the one that is in charge of the sockets. Default: none.
    pub busy_poll: Duration,
    /// How slowly requests may arrive.
    pub body: BodyLimits,
    /// Longest message of a NOTIFY, in bytes; longer ones are answered 413. Default: none.
    pub message_bytes_max: Option<u64>,
    /// Longest body of a SET_SUBSCRIPTIONS, in bytes; longer ones are answered 413. Default 64 MiB,
    /// some half a million subscriptions.
    pub set_bytes_max: usize,
    /// Longest glob that may be subscribed, in bytes; longer ones are answered 400, as are those with
    /// more than 64 stars. Stored ones beyond that get no deliveries. Default 4,096: people write
    /// some dozens, and what it takes to match one grows with its length.
    pub glob_bytes_max: usize,
    /// How many subscribers one confirmation may stand for; what it claims beyond is not counted.
    /// Default 1,000,000.
    pub subscribers_per_confirmation_max: u32,
    /// What becomes of a subscription when UNSUBSCRIBE_IMMEDIATE is the answer to a delivery over plain
    /// HTTP: nothing vouches for it, so anybody on the path may have said it. Over TLS it is always
    /// removed. Default: it is removed, as the protocol has it; otherwise it goes into quarantine.
    pub quarantine: Option<QuarantineConfig>,
    /// When MISSED is sent again.
    pub missed: MissedSchedule,
    /// Longest time between two looks for notices that are due. They are looked for as soon as the
    /// next is due; this is for those that another process recorded. Default 10 s.
    pub sweep_interval: Duration,
    /// Notices under way at once. Default 256.
    pub missed_in_flight_max: usize,
    /// Notices under way at once to one peer. Default 8.
    pub missed_in_flight_per_peer_max: usize,
    /// Folder of the replay guard, which must exist. Default: none, and a restart forgets which
    /// authorizations were used.
    pub replay_folder: Option<PathBuf>,
    /// How many authorizations are remembered; when that many were used within five minutes,
    /// further ones are answered 503. Default 5,000,000, some 300 MB.
    pub replay_codes_max: usize,
    /// Where other broadcasters reach this one for its websocket subscribers. By it the store tells
    /// this broadcaster's rows and unfinished notifications from those of others, so it must be the
    /// same after a restart, and no other broadcaster on the same store may have it. Default
    /// `http://127.0.0.1:3003/v1/receive_for_websockets`.
    pub receiver_url: String,
    /// Where other broadcasters tell this one that its websocket subscribers missed something.
    /// Default `http://127.0.0.1:3003/v1/missed_for_websockets`.
    pub missed_url: String,
    /// Subscribers that hold a websocket open.
    pub websockets: WebSocketConfig,
    /// How broadcasters that share a store know of each other.
    pub cluster: ClusterConfig,
    /// Where the time is read.
    pub clock: Clock,
}

/// How broadcasters that share a store know of each other; for stores that are made to be shared.
#[derive(Clone, Copy, Debug)]
pub struct ClusterConfig {
    /// How long one is believed to live after it said so; it does so four times as often. Nothing is
    /// delivered to a broadcaster beyond that until it is back: what its websockets miss meanwhile is
    /// recorded. Default 20 s.
    pub lease: Duration,
    /// How long after that it is forgotten, with what its websockets wanted. Default 1 h.
    pub forget_after: Duration,
    /// Whether authorizations of requests that were used at one broadcaster are refused by the others.
    /// It costs a round trip to the store each. Default: no.
    pub replay_shared: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(20),
            forget_after: Duration::from_secs(3_600),
            replay_shared: false,
        }
    }
}

/// How long a subscription is kept that is said not to be wanted by somebody who could not be
/// verified. It is paused: what it misses meanwhile is missed, and its subscriber is told so if it has
/// a recovery url. When a notice or a later delivery is confirmed, all is as before.
#[derive(Clone, Copy, Debug)]
pub struct QuarantineConfig {
    /// How often it must be said before the subscription is removed. Default 3.
    pub times: u32,
    /// Over how long. Default 10 min.
    pub lasting: Duration,
    /// For how long nothing is delivered after it was said. Default 5 min.
    pub pause: Duration,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            times: 3,
            lasting: Duration::from_secs(600),
            pause: Duration::from_secs(300),
        }
    }
}

/// What is turned away, with a 503, when there is too much to do. Notifications over websockets wait
/// instead.
#[derive(Clone, Copy, Debug)]
pub struct LoadConfig {
    /// So many notifications may be under way, however late everything is. Default 64.
    pub notifications_min: usize,
    /// No more than those are taken when this process is later than this with what it has to do; nor
    /// when of the notifications that are for many (eight or more) even the quickest takes longer
    /// than this until three quarters of its deliveries have ended. Default 50 ms.
    pub lag_max: Duration,
    /// How many deliveries of all notifications may wait or be under way. One peer (scheme, host and
    /// port) has a quarter of it: what a notification has for it beyond that is missed at once. Default
    /// 1,000,000.
    pub deliveries_max: NonZeroUsize,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            notifications_min: 64,
            lag_max: Duration::from_millis(50),
            deliveries_max: NonZeroUsize::new(1_000_000).expect("it is not zero"),
        }
    }
}

/// What can be set about websockets (`docs/protocol/stateful.md` §14).
#[derive(Clone, Debug)]
pub struct WebSocketConfig {
    /// How many there may be at once; further ones are answered 503. Default 100,000.
    pub sessions_max: usize,
    /// How many of them may not have shown yet who they are; further ones are answered 503. Default
    /// 1,024.
    pub unauthenticated_max: usize,
    /// How long one may take to show who it is. Default 5 s.
    pub configure_timeout: Duration,
    /// How many bytes of messages may wait to be sent to one; whoever notifies waits for room, as it
    /// waits for the answers of other subscribers. A longer message goes when nothing else waits.
    /// Default 4 MiB: a second of 32 Mbit/s.
    pub queue_bytes_max: NonZeroU32,
    /// One for which something waits is cut off when it has neither taken nor acknowledged anything
    /// for so long. Default 10 s: less than a notification waits for room.
    pub stall_timeout: Duration,
    /// How many requests and notifications of one may wait while another is worked on; then no more
    /// is read of it until that is done. Sixteen times as many while it has deliveries to acknowledge:
    /// the acknowledgements lie behind them. Default 255.
    pub unprocessed_max: NonZeroUsize,
    /// How many parts of messages may be sent to one before it acknowledges the first of them.
    /// Default 3; `None` is no limit.
    pub unacknowledged_max: Option<NonZeroUsize>,
    /// Longest websocket message that is sent, in bytes; longer messages are sent in parts. Default
    /// 4,194,303: published subscribers accept no more.
    pub outgoing_message_bytes_max: u64,
    /// Longest websocket message that is read (default 16 MiB), pings and time-outs.
    pub socket: SocketConfig,
    /// How headers are written. Default: minimal.
    pub headers: HeaderStyle,
    /// Which parts of long messages are counted. Default: the first, as published subscribers
    /// expect.
    pub stream_counters: StreamCounters,
    /// Whether messages are compressed for subscribers that want it. Default: yes.
    pub compression: bool,
    /// Whether dictionaries are trained for subscribers that want it. Default: yes.
    pub training: bool,
    /// Dictionaries that subscribers know as well, to be asked for by their id.
    pub presets: Vec<Preset>,
    /// Shortest body that is compressed with a dictionary, in bytes. Default 32.
    pub compression_min_size: u32,
    /// Bodies from this length on are compressed without a trained dictionary, in bytes. Default
    /// 16,384.
    pub compression_trained_max_size: u64,
    /// How much is collected before the first dictionary is trained, in bytes. Default 102,400.
    pub training_low_watermark: u64,
    /// How much is collected before a better one is trained, in bytes. Default 10 MiB.
    pub training_high_watermark: u64,
    /// How long after a better one the next is trained. Default 24 h.
    pub retrain_interval: Duration,
    /// How much all connections together may collect, in bytes; more is not looked at. Default
    /// 64 MiB.
    pub samples_bytes_max: u64,
    /// What decompression may cost.
    pub decompress: DecompressLimits,
    /// Over how long the ends of the connections are spread when the broadcaster stops. Default
    /// 10 s.
    pub close_spread: Duration,
}

/// A dictionary that both ends know beforehand.
#[derive(Clone, Debug)]
pub struct Preset {
    /// From 2 on.
    pub id: u16,
    /// The dictionary, trained or raw.
    pub dictionary: Bytes,
    /// Level of compression, at least 0.
    pub level: u16,
    /// Shortest body it is used for, in bytes.
    pub min_size: u32,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            unauthenticated_max: 1_024,
            configure_timeout: Duration::from_secs(5),
            queue_bytes_max: NonZeroU32::new(4 * 1024 * 1024).expect("it is not zero"),
            stall_timeout: Duration::from_secs(10),
            unprocessed_max: NonZeroUsize::new(255).expect("it is not zero"),
            unacknowledged_max: NonZeroUsize::new(3),
            outgoing_message_bytes_max: 4_194_303,
            socket: SocketConfig::default(),
            headers: HeaderStyle::default(),
            stream_counters: StreamCounters::default(),
            compression: true,
            training: true,
            presets: Vec::new(),
            compression_min_size: 32,
            compression_trained_max_size: 16_384,
            training_low_watermark: 102_400,
            training_high_watermark: 10 * 1024 * 1024,
            retrain_interval: Duration::from_secs(86_400),
            samples_bytes_max: 64 * 1024 * 1024,
            decompress: DecompressLimits::default(),
            close_spread: Duration::from_secs(10),
        }
    }
}

/// Half of what published clients wait.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(15);

/// Shorter than what [`NOTIFY_TIMEOUT`] leaves for deliveries, so that some can be tried after others
/// of the same peer took too long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Until when a notification is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// When its deliveries end. What is missed is recorded after that.
    pub(crate) deliveries: Instant,
    /// When it is answered at the latest.
    pub(crate) answer: Instant,
}

impl Config {
    /// Longest time from the whole message of a NOTIFY, of `message_bytes`, to its answer.
    pub fn notify_timeout(&self, message_bytes: u64) -> Duration {
        // The first MiB is included.
        let longer = self.post.allowance(message_bytes.saturating_sub(1));
        self.notify_timeout.saturating_add(longer)
    }

    /// The same with durations that can be added to a moment: more than [`time::FOREVER`] is that.
    pub(crate) fn bounded(mut self) -> Self {
        time::bound([
            &mut self.notify_timeout,
            &mut self.busy_poll,
            &mut self.sweep_interval,
            &mut self.load.lag_max,
            &mut self.cluster.lease,
            &mut self.cluster.forget_after,
            &mut self.websockets.configure_timeout,
            &mut self.websockets.stall_timeout,
            &mut self.websockets.retrain_interval,
            &mut self.websockets.close_spread,
        ]);
        if let Some(quarantine) = &mut self.quarantine {
            time::bound([&mut quarantine.lasting, &mut quarantine.pause]);
        }
        self.post = self.post.bounded();
        self.websockets.socket = self.websockets.socket.bounded();
        self
    }

    /// Longest part of that for which deliveries go on.
    pub fn deliveries_timeout(&self, message_bytes: u64) -> Duration {
        self.notify_timeout(message_bytes)
            .saturating_sub(self.notify_timeout / 5)
    }

    /// Those of a notification of `message_bytes` that begins `now`.
    pub(crate) fn deadlines(&self, message_bytes: u64, now: Instant) -> Deadlines {
        Deadlines {
            deliveries: now + self.deliveries_timeout(message_bytes).min(time::FOREVER),
            answer: now + self.notify_timeout(message_bytes).min(time::FOREVER),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            spool: SpoolConfig::default(),
            post: PostConfig {
                answer_timeout: ANSWER_TIMEOUT,
                breaker: Some(BreakerConfig::default()),
                ..PostConfig::default()
            },
            notify_timeout: NOTIFY_TIMEOUT,
            load: LoadConfig::default(),
            busy_poll: Duration::ZERO,
            body: BodyLimits::default(),
            message_bytes_max: None,
            set_bytes_max: 64 * 1024 * 1024,
            glob_bytes_max: 4_096,
            subscribers_per_confirmation_max: 1_000_000,
            quarantine: None,
            missed: MissedSchedule::default(),
            sweep_interval: Duration::from_secs(10),
            missed_in_flight_max: 256,
            missed_in_flight_per_peer_max: 8,
            replay_folder: None,
            replay_codes_max: 5_000_000,
            receiver_url: "http://127.0.0.1:3003/v1/receive_for_websockets".to_owned(),
            missed_url: "http://127.0.0.1:3003/v1/missed_for_websockets".to_owned(),
            websockets: WebSocketConfig::default(),
            cluster: ClusterConfig::default(),
            clock: Clock::system(),
        }
    }
}
