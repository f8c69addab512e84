//! The whole configuration, and the relations between its settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::Clock;
use httppubsub_net::body::{BodyLimits, SpoolConfig};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::outbound::{BreakerConfig, PostConfig};
use httppubsub_proto::auth::{Authorization, Secrets};
use httppubsub_proto::backoff::MissedSchedule;
use httppubsub_proto::plain::Tokens;
use httppubsub_proto::time;

use crate::config::cluster::ClusterConfig;
use crate::config::delivery::{AdmissionConfig, QuarantineConfig};
use crate::config::timeouts::NotifyTimeouts;
use crate::config::websocket::WebSocketConfig;

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

/// The configuration of a broadcaster. Every field has a default that serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The folder of bodies that are kept in files, and the size from which they are.
    pub spool: SpoolConfig,
    /// Bounds on what is posted to subscribers, and where they may be. Default: those of
    /// [`PostConfig`], with circuit breakers and an `answer_timeout` of 10 s, which fits into what
    /// `notify_timeout` leaves for deliveries.
    pub post: PostConfig,
    /// Longest time from when the whole message of a NOTIFY is here to the answer, whatever its
    /// subscribers do: the bound over waiting for places and turns, connecting, the exchanges and
    /// recording what was missed. It is for messages of up to 1 MiB; longer ones get 1 s for each
    /// MiB more ([`PostConfig::rate_min`]). Deliveries end after four fifths of it, and what is not
    /// confirmed by then is missed. Default 15 s: published clients give up after 30 s. All
    /// deadlines are in `docs/timeouts.md`.
    pub notify_timeout: Duration,
    /// Limits beyond which notifications are turned away.
    pub admission: AdmissionConfig,
    /// For how long after each notification and each delivery a thread looks for what comes next,
    /// instead of sleeping until it is woken: answers come sooner, and the processor has no rest.
    /// For runtimes with a single thread, whose core is not wanted by others; among several threads
    /// the one that looks may not be the one that is in charge of the sockets. Default: none.
    pub busy_poll: Duration,
    /// Limits on how slowly requests may arrive.
    pub body: BodyLimits,
    /// Longest message of a NOTIFY, in bytes; longer ones are answered 413. Default: none.
    pub message_bytes_max: Option<u64>,
    /// Longest body of a SET_SUBSCRIPTIONS, in bytes; longer ones are answered 413. Default 64 MiB,
    /// some half a million subscriptions.
    pub set_bytes_max: usize,
    /// Longest glob that may be subscribed, in bytes; longer ones are answered 400, as are those
    /// with more than 64 stars. Stored ones beyond that get no deliveries. Default 4,096: people
    /// write some dozens, and what it takes to match one grows with its length.
    pub glob_bytes_max: usize,
    /// The most subscribers that one confirmation counts for, whatever it claims.
    /// Default 1,000,000.
    pub subscribers_per_confirmation_max: u32,
    /// Treatment of a subscription when UNSUBSCRIBE_IMMEDIATE is the answer to a delivery over
    /// plain HTTP: nothing vouches for it, so anybody on the path may have said it. Over TLS it is
    /// always removed. Default: it is removed, as the protocol has it; otherwise it goes into
    /// quarantine.
    pub quarantine: Option<QuarantineConfig>,
    /// The schedule by which MISSED is sent again.
    pub missed: MissedSchedule,
    /// Longest time between two looks for notices that are due. They are looked for as soon as the
    /// next is due; this is for notices that another process recorded. At least 10 ms; default 10
    /// s.
    pub sweep_interval: Duration,
    /// Notices under way at once. Default 256.
    pub missed_in_flight_max: usize,
    /// Notices under way at once to one peer. Default 8.
    pub missed_in_flight_per_peer_max: usize,
    /// The tokens of the plain door, `/v1/topics/`. Default: none, and it is not there.
    /// [`Broadcaster::set_tokens`](crate::Broadcaster::set_tokens) replaces them.
    pub tokens: Tokens,
    /// Folder of the replay guard, which must exist. Default: none, and a restart forgets which
    /// authorizations were used.
    pub replay_folder: Option<PathBuf>,
    /// Authorizations that are remembered; once so much is used within five minutes, further
    /// requests are answered 503. Default 5,000,000, some 300 MB.
    pub replay_codes_max: usize,
    /// URL at which other broadcasters reach this one for its websocket subscribers. It identifies
    /// this broadcaster's rows and unfinished notifications in the store, so it must be the same
    /// after a restart and unique among the broadcasters on the store. Default
    /// `http://127.0.0.1:3003/v1/receive_for_websockets`.
    pub receiver_url: String,
    /// URL at which other broadcasters tell this one that its websocket subscribers missed
    /// something. Default `http://127.0.0.1:3003/v1/missed_for_websockets`.
    pub missed_url: String,
    /// Subscribers that hold a websocket open.
    pub websockets: WebSocketConfig,
    /// Timing between broadcasters that share a store.
    pub cluster: ClusterConfig,
    /// Bounds on connections to this broadcaster, where it serves itself: its counts are not used.
    pub serve: ServeConfig,
    /// Time from which [`Broadcaster::start`] gives up a store that was opened and cannot be used
    /// since: until then it tries again. A database that has too much to do is not a reason to end;
    /// one that cannot be opened is. Default 60 s.
    ///
    /// [`Broadcaster::start`]: crate::Broadcaster::start
    pub start_patience: Duration,
    /// Time for which [`Broadcaster::serve_until`] still serves requests after it was asked to
    /// stop, while `GET /readyz` already says not ready: load balancers need it to notice. Default:
    /// none.
    ///
    /// [`Broadcaster::serve_until`]: crate::Broadcaster::serve_until
    pub drain_delay: Duration,
    /// The clock that everything goes by.
    pub clock: Clock,
}

/// Half of what published clients wait.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(15);

/// Shorter than what [`NOTIFY_TIMEOUT`] leaves for deliveries, so that some can be tried after
/// others of the same peer took too long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

impl Config {
    /// Longest time from the whole message of a NOTIFY, of `message_bytes`, to its answer.
    pub fn notify_timeout(&self, message_bytes: u64) -> Duration {
        self.timeouts().answer(message_bytes)
    }

    /// The same with durations that can be added to a moment (more than [`time::FOREVER`] is that),
    /// and with pauses between rounds that leave a thread in peace.
    pub(crate) fn bounded(mut self) -> Self {
        // A caller may mean never by the longest duration there is.
        time::bound([
            &mut self.notify_timeout,
            &mut self.busy_poll,
            &mut self.start_patience,
            &mut self.drain_delay,
            &mut self.sweep_interval,
            &mut self.admission.lag_max,
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
        // Each is slept between two rounds of a loop that asks the store.
        self.sweep_interval = self.sweep_interval.max(SWEEP_INTERVAL_MIN);
        self.cluster.lease = self.cluster.lease.max(LEASE_MIN);
        self.post = self.post.bounded();
        self.websockets.socket = self.websockets.socket.bounded();
        self
    }

    /// Longest part of that for which deliveries go on.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use httppubsub_broadcaster::Config;
    ///
    /// let config = Config::default();
    /// assert_eq!(config.notify_timeout(1_000), Duration::from_secs(15));
    /// assert_eq!(config.deliveries_timeout(1_000), Duration::from_secs(12));
    /// let hundred_mib = 100 * 1024 * 1024;
    /// assert_eq!(config.notify_timeout(hundred_mib), Duration::from_secs(15 + 99));
    /// ```
    pub fn deliveries_timeout(&self, message_bytes: u64) -> Duration {
        self.timeouts().deliveries(message_bytes)
    }

    /// The part of it that the use case needs, which does not see the rest.
    pub(crate) fn timeouts(&self) -> NotifyTimeouts {
        NotifyTimeouts {
            short: self.notify_timeout,
            rate_min: self.post.rate_min,
        }
    }
}

/// The least of [`Config::sweep_interval`]: a hundred looks a second are more than notices need.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// The least of [`ClusterConfig::lease`]: it is renewed four times as often.
const LEASE_MIN: Duration = Duration::from_millis(100);

impl Default for Config {
    fn default() -> Self {
        let mut post = PostConfig::default();
        post.answer_timeout = ANSWER_TIMEOUT;
        post.breaker = Some(BreakerConfig::default());
        Self {
            spool: SpoolConfig::default(),
            post,
            notify_timeout: NOTIFY_TIMEOUT,
            admission: AdmissionConfig::default(),
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
            tokens: Tokens::default(),
            replay_folder: None,
            replay_codes_max: 5_000_000,
            receiver_url: "http://127.0.0.1:3003/v1/receive_for_websockets".to_owned(),
            missed_url: "http://127.0.0.1:3003/v1/missed_for_websockets".to_owned(),
            websockets: WebSocketConfig::default(),
            cluster: ClusterConfig::default(),
            serve: ServeConfig::default(),
            start_patience: Duration::from_secs(60),
            drain_delay: Duration::ZERO,
            clock: Clock::system(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_between_rounds_is_zero() {
        let config = Config {
            sweep_interval: Duration::ZERO,
            cluster: ClusterConfig {
                lease: Duration::ZERO,
                ..ClusterConfig::default()
            },
            ..Config::default()
        };
        let config = config.bounded();
        assert_eq!(config.sweep_interval, SWEEP_INTERVAL_MIN);
        assert_eq!(config.cluster.lease, LEASE_MIN);
    }
}
