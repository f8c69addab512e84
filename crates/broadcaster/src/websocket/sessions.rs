//! The websocket sessions of a broadcaster: what they have in common.

use std::sync::Arc;

use httppubsub_net::Clock;
use httppubsub_net::body::{Spool, Zstd};
use httppubsub_proto::session::BroadcasterConfig;
use tokio_util::sync::CancellationToken;

use crate::cluster::replay::Replay;
use crate::config::{Authorizations, Preset, WebSocketConfig};
use crate::hub::hub::Hub;
use crate::index::globs::GlobLimits;
use crate::notify::notify::Notify;
use crate::websocket::dictionaries::SampleRoom;

/// The parts that all sessions have in common.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Its bounds are for each session, unless they say otherwise.
    pub(crate) config: WebSocketConfig,
    /// The configuration of their state machines.
    pub(crate) machine: Arc<BroadcasterConfig>,
    /// Prepared once: preparing a dictionary takes milliseconds.
    pub(crate) compression: Compression,
    /// Has their rows, and hands messages to them.
    pub(crate) hub: Arc<Hub>,
    /// The use case of their notifications.
    pub(crate) notify: Arc<Notify>,
    /// Limits of globs that may be subscribed.
    pub(crate) glob_limits: GlobLimits,
    /// An authorization counts once.
    pub(crate) replay: Arc<Replay>,
    /// Room for messages that are compressed.
    pub(crate) spool: Spool,
    /// The machines read no clock: the time is handed to them.
    pub(crate) clock: Clock,
    /// Cancelled when the broadcaster is to stop.
    pub(crate) shutdown: CancellationToken,
}

/// The compressors that sessions need not train, and room for the training of others.
#[derive(Debug)]
pub(crate) struct Compression {
    /// Compressor 1.
    pub(crate) zstd: Zstd,
    /// Compressors whose dictionaries both ends know.
    pub(crate) presets: Vec<(Preset, Zstd)>,
    /// Room for the samples of all sessions.
    pub(crate) sample_room: Arc<SampleRoom>,
}

impl Compression {
    /// The compressors of `config`.
    pub(crate) fn new(config: &WebSocketConfig) -> Self {
        // Prepared once: every session with a preset shares its tables.
        let prepare = |preset: &Preset| {
            let dictionary = preset.dictionary.clone();
            let zstd = Zstd::with_dictionary(dictionary, preset.level.into());
            (preset.clone(), zstd)
        };
        Self {
            zstd: Zstd::new(PLAIN_LEVEL.into()),
            presets: config.presets.iter().map(prepare).collect(),
            sample_room: SampleRoom::new(config.samples_bytes_max),
        }
    }
}

/// The configuration of the state machines of all sessions.
pub(crate) fn machine_config(
    config: &WebSocketConfig,
    authorizations: &Authorizations,
) -> BroadcasterConfig {
    BroadcasterConfig {
        headers: config.headers,
        stream_counters: config.stream_counters,
        message_bytes_max: config.outgoing_message_bytes_max,
        unacknowledged_max: config.unacknowledged_max,
        configure_timeout: config.configure_timeout,
        ..BroadcasterConfig::new(
            authorizations.to_broadcaster.clone(),
            authorizations.to_subscriber.clone(),
        )
    }
}

/// Level of compressor 1 (`docs/protocol/stateful.md` §11).
pub(crate) const PLAIN_LEVEL: u16 = 3;
