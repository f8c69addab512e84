//! All that one connection after the other needs.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::Clock;
use httppubsub_net::body::{DecompressLimits, Spool};
use httppubsub_net::inbound::ReplayGuard;
use httppubsub_net::websocket::SocketConfig;
use httppubsub_proto::session::SubscriberConfig;
use tokio::sync::watch;

use crate::config::{ClientConfig, PresetDictionary, WebSocketConfig};
use crate::receive::dispatch::Dispatch;
use crate::receive::message::ConnectionStatus;

/// Settings and parts that one connection after the other needs.
pub(crate) struct Connection {
    pub(crate) session: Arc<SubscriberConfig>,
    pub(crate) socket: SocketConfig,
    pub(crate) open_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) presets: Vec<PresetDictionary>,
    pub(crate) decompress: DecompressLimits,
    pub(crate) sent_notifications_max: Option<NonZeroUsize>,
    pub(crate) expected_acknowledgements_max: Option<NonZeroUsize>,
    pub(crate) guard: Arc<ReplayGuard>,
    pub(crate) spool: Spool,
    pub(crate) clock: Clock,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) report: ConnectionReport,
}

/// Watchers of all connections.
#[derive(Debug)]
pub(crate) struct ConnectionReport {
    pub(crate) status: watch::Sender<ConnectionStatus>,
    /// The broadcaster and the reason why there is no connection, as far as that was tried.
    pub(crate) failure: watch::Sender<Option<String>>,
}

impl Connection {
    pub(crate) fn new(
        config: &ClientConfig,
        options: &WebSocketConfig,
        guard: Arc<ReplayGuard>,
        spool: Spool,
        dispatch: Arc<Dispatch>,
        report: ConnectionReport,
    ) -> Self {
        let session = SubscriberConfig {
            headers: options.headers,
            message_bytes_max: options.message_bytes_max,
            configure_timeout: options.open_timeout,
            enable_zstd: options.compression,
            enable_training: options.compression && options.training,
            initial_dict: options.initial_dict,
            presets: options.presets.iter().map(|it| it.id).collect(),
            ..SubscriberConfig::new(config.to_broadcaster.clone(), config.to_subscriber.clone())
        };
        let mut socket = SocketConfig::default();
        socket.message_bytes_max = options.received_message_bytes_max;
        socket.ping_interval = options.heartbeat_interval;
        socket.pong_timeout = options.heartbeat_interval / 2;
        Self {
            session: Arc::new(session),
            socket,
            open_timeout: options.open_timeout,
            close_timeout: options.close_timeout,
            presets: options.presets.clone(),
            decompress: options.decompress,
            sent_notifications_max: options.sent_notifications_max,
            expected_acknowledgements_max: options.expected_acknowledgements_max,
            guard,
            spool,
            clock: config.clock.clone(),
            dispatch,
            report,
        }
    }

    /// Nothing more is tried.
    pub(crate) fn abandoned(&self) {
        self.tell(ConnectionStatus::Abandoned);
    }

    /// Comes before the change of status: a caller that hears of that may ask for the reason.
    pub(crate) fn tell_failure(&self, broadcaster: &str, why: Option<&str>) {
        let failure = why.map(|why| format!("{broadcaster}: {why}"));
        self.report.failure.send_replace(failure);
    }

    pub(crate) fn tell(&self, status: ConnectionStatus) {
        self.report.status.send_if_modified(|it| {
            // Watchers wake for changes only, not each time that something is confirmed.
            let before = std::mem::replace(it, status);
            before != status
        });
    }
}
