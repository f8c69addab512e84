//! The configuration of a websocket.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::body::DecompressLimits;
use httppubsub_proto::stateful::HeaderStyle;
use httppubsub_proto::time;

use crate::config::error::ConfigError;

/// Settings of a client that holds one websocket open instead of listening for HTTP
/// (`docs/protocol/stateful.md` §14).
///
/// ```
/// use httppubsub_client::{ClientConfig, WebSocketConfig};
///
/// let mut options = WebSocketConfig::default();
/// options.connect_retries = u32::MAX;
/// let config = ClientConfig::builder(["http://127.0.0.1:3003"])
///     .websocket(options)
///     .build()?;
/// # Ok::<(), httppubsub_client::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WebSocketConfig {
    /// The style of headers. Default: minimal.
    pub headers: HeaderStyle,
    /// Longest websocket message that is sent, in bytes; longer notifications are sent in parts.
    /// Default 3,670,016 (3.5 MiB); at most 16 MiB, which is what published broadcasters read.
    pub message_bytes_max: u64,
    /// Longest websocket message that is read, in bytes. Default 16 MiB.
    pub received_message_bytes_max: usize,
    /// Longest time for connection and handshake, and again for CONFIGURE. Default 5 s.
    pub open_timeout: Duration,
    /// Longest time that closing takes for what is on its way, and again for the
    /// broadcaster to close too. Default 5 s.
    pub close_timeout: Duration,
    /// After how long without a sign of the broadcaster it is asked for one; it has half as long
    /// to give it. Default 10 s.
    pub heartbeat_interval: Duration,
    /// A connection that lasted so long is a success: when it is lost, all broadcasters are tried
    /// anew. Default 1 s.
    pub reconnect_interval_min: Duration,
    /// Number of further passes over all broadcasters, with growing pauses of at most a minute,
    /// before the client gives up for good. Default 2, as published subscribers do; a program that
    /// is to outlast its broadcaster wants more, such as `u32::MAX`.
    pub connect_retries: u32,
    /// Most notifications that wait to be sent, while there is no connection or it is slow;
    /// further ones fail at once. Default: no limit, each caller waits for its own.
    pub unsent_notifications_max: Option<NonZeroUsize>,
    /// Most notifications that are unacknowledged; the next is sent when one is acknowledged.
    /// Default: no limit.
    pub sent_notifications_max: Option<NonZeroUsize>,
    /// Most acknowledgements of requests and of parts of notifications that are awaited before a
    /// further request or notification is sent. Default 128: published broadcasters close a
    /// websocket from which 255 wait to be worked on.
    pub expected_acknowledgements_max: Option<NonZeroUsize>,
    /// `true` if messages may be compressed. Default `true`.
    pub compression: bool,
    /// `true` if the broadcaster may train dictionaries on the connection's messages. Default
    /// `true`.
    pub training: bool,
    /// Dictionaries that the broadcaster knows as well. Default: none.
    pub presets: Vec<PresetDictionary>,
    /// Id of the one of them that is asked for; 0: none. Default 0.
    pub initial_dict: u16,
    /// Limits of decompression. Default: windows up to 128 MiB, as published subscribers.
    pub decompress: DecompressLimits,
}

/// A dictionary that both ends know beforehand.
#[derive(Clone, Debug)]
pub struct PresetDictionary {
    /// From 2 on.
    pub id: u16,
    /// The dictionary, trained or raw.
    pub dictionary: Bytes,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        let mut decompress = DecompressLimits::default();
        decompress.window_bytes_max = 0;
        Self {
            headers: HeaderStyle::default(),
            message_bytes_max: 3_670_016,
            received_message_bytes_max: 16 * 1024 * 1024,
            open_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(10),
            reconnect_interval_min: Duration::from_secs(1),
            connect_retries: 2,
            unsent_notifications_max: None,
            sent_notifications_max: None,
            expected_acknowledgements_max: NonZeroUsize::new(128),
            compression: true,
            training: true,
            presets: Vec::new(),
            initial_dict: 0,
            decompress,
        }
    }
}

impl WebSocketConfig {
    /// Bounds the durations, and checks what one setting cannot show.
    pub(crate) fn check(&mut self) -> Result<(), ConfigError> {
        time::bound([
            &mut self.open_timeout,
            &mut self.close_timeout,
            &mut self.heartbeat_interval,
            &mut self.reconnect_interval_min,
        ]);
        for (setting, zero) in [
            (
                "received_message_bytes_max",
                self.received_message_bytes_max == 0,
            ),
            ("open_timeout", self.open_timeout.is_zero()),
            ("heartbeat_interval", self.heartbeat_interval.is_zero()),
        ] {
            if zero {
                return Err(ConfigError::Zero { setting });
            }
        }
        let bytes = self.message_bytes_max;
        if !(1_024..=16 * 1024 * 1024).contains(&bytes) {
            return Err(ConfigError::MessageBytes { bytes });
        }
        // An id twice would leave open which of two dictionaries a message was compressed with.
        let known = |id: u16| self.presets.iter().filter(|it| it.id == id).count();
        if let Some(preset) = self.presets.iter().find(|it| it.id < 2 || known(it.id) > 1) {
            return Err(ConfigError::Preset { id: preset.id });
        }
        if self.initial_dict > 1 && known(self.initial_dict) == 0 {
            let id = self.initial_dict;
            return Err(ConfigError::NoPreset { id });
        }
        Ok(())
    }
}
