//! The settings that all sessions of a subscriber share.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::Authorization;
use crate::stateful::HeaderStyle;

/// Settings that all sessions of a subscriber share.
#[derive(Clone, Debug)]
pub struct SubscriberConfig {
    /// Signs messages of the subscriber.
    pub to_broadcaster: Arc<dyn Authorization>,
    /// Verifies messages of the broadcaster.
    pub to_subscriber: Arc<dyn Authorization>,
    /// Encoding of headers. Default: minimal.
    pub headers: HeaderStyle,
    /// Longest websocket message to send, in bytes; a part still carries at least 512 bytes of a
    /// body (§8). Default 3,670,016 (3.5 MiB).
    pub message_bytes_max: u64,
    /// Longest wait for CONFIRM_CONFIGURE. Default 5 s.
    pub configure_timeout: Duration,
    /// `true` if compressors are welcome. Default: `true`.
    pub enable_zstd: bool,
    /// `true` if dictionaries may be trained on what this connection carries. Default: `true`.
    pub enable_training: bool,
    /// The preset asked for; 0: none. Default 0.
    pub initial_dict: u16,
    /// Ids of the presets whose dictionary is known, besides 1. Default: none.
    pub presets: Vec<u16>,
}

impl SubscriberConfig {
    /// The default settings with these two schemes.
    pub fn new(
        to_broadcaster: Arc<dyn Authorization>,
        to_subscriber: Arc<dyn Authorization>,
    ) -> Self {
        Self {
            to_broadcaster,
            to_subscriber,
            headers: HeaderStyle::default(),
            message_bytes_max: 3_670_016,
            configure_timeout: Duration::from_secs(5),
            enable_zstd: true,
            enable_training: true,
            initial_dict: 0,
            presets: Vec::new(),
        }
    }
}
