//! The settings that all sessions of a broadcaster share.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Authorization;
use crate::session::signer::StreamCounters;
use crate::stateful::HeaderStyle;

/// Settings that all sessions of a broadcaster share.
#[derive(Clone, Debug)]
pub struct BroadcasterConfig {
    /// Verifies messages of subscribers.
    pub to_broadcaster: Arc<dyn Authorization>,
    /// Signs messages of the broadcaster.
    pub to_subscriber: Arc<dyn Authorization>,
    /// Encoding of headers. Default: minimal.
    pub headers: HeaderStyle,
    /// Parts of long messages that take a counter. Default: the first.
    pub stream_counters: StreamCounters,
    /// Longest websocket message to send, in bytes; a part still carries at least 512 bytes of a
    /// body (§8). Default 4,194,303: published subscribers accept no more (§16 D10).
    pub message_bytes_max: u64,
    /// Largest number of parts of messages that may be unacknowledged. Default 3; `None` is no
    /// limit.
    pub unacknowledged_max: Option<NonZeroUsize>,
    /// Longest wait for CONFIGURE. Default 5 s.
    pub configure_timeout: Duration,
}

impl BroadcasterConfig {
    /// The default settings with these two schemes.
    pub fn new(
        to_broadcaster: Arc<dyn Authorization>,
        to_subscriber: Arc<dyn Authorization>,
    ) -> Self {
        Self {
            to_broadcaster,
            to_subscriber,
            headers: HeaderStyle::default(),
            stream_counters: StreamCounters::default(),
            message_bytes_max: 4_194_303,
            unacknowledged_max: NonZeroUsize::new(3),
            configure_timeout: Duration::from_secs(5),
        }
    }
}
