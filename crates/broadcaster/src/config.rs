//! What can be set about a broadcaster.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::{BodyLimits, Clock, PostConfig, SpoolConfig};
use httppubsub_proto::auth::{Authorization, Secrets};
use httppubsub_proto::backoff::MissedSchedule;

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
    /// Bounds on what is posted to subscribers.
    pub post: PostConfig,
    /// How slowly requests may arrive.
    pub body: BodyLimits,
    /// Longest message of a NOTIFY, in bytes; longer ones are answered 413. Default: none.
    pub message_bytes_max: Option<u64>,
    /// Longest body of a SET_SUBSCRIPTIONS, in bytes; longer ones are answered 413. Default 64 MiB,
    /// some half a million subscriptions.
    pub set_bytes_max: usize,
    /// How many subscribers one confirmation may stand for; what it claims beyond is not counted.
    /// Default 1,000,000.
    pub subscribers_per_confirmation_max: u32,
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
    /// Where other broadcasters reach this one for its websocket subscribers. Default
    /// `http://127.0.0.1:3003/v1/receive_for_websockets`.
    pub receiver_url: String,
    /// Where other broadcasters tell this one that its websocket subscribers missed something.
    /// Default `http://127.0.0.1:3003/v1/missed_for_websockets`.
    pub missed_url: String,
    /// Where the time is read.
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            spool: SpoolConfig::default(),
            post: PostConfig::default(),
            body: BodyLimits::default(),
            message_bytes_max: None,
            set_bytes_max: 64 * 1024 * 1024,
            subscribers_per_confirmation_max: 1_000_000,
            missed: MissedSchedule::default(),
            sweep_interval: Duration::from_secs(10),
            missed_in_flight_max: 256,
            missed_in_flight_per_peer_max: 8,
            replay_folder: None,
            replay_codes_max: 5_000_000,
            receiver_url: "http://127.0.0.1:3003/v1/receive_for_websockets".to_owned(),
            missed_url: "http://127.0.0.1:3003/v1/missed_for_websockets".to_owned(),
            clock: Clock::system(),
        }
    }
}
