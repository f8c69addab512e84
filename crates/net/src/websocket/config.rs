//! Bounds of websockets.

use std::time::Duration;

use httppubsub_proto::time;

use crate::egress::policy::Egress;

/// Bounds of a websocket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SocketConfig {
    /// Longest message that is read, in bytes; a longer one ends the connection with code 1009.
    /// Default 16 MiB.
    pub message_bytes_max: usize,
    /// A ping is sent when nothing came for so long. Default 20 s.
    pub ping_interval: Duration,
    /// The connection is lost when nothing came for so long after a ping. Default 20 s.
    pub pong_timeout: Duration,
    /// The connection is lost when the peer takes none of what waits for it for so long. Default
    /// 15 s.
    pub write_timeout: Duration,
    /// Policy for websockets that are opened. Default: anything, since a client names its
    /// broadcasters.
    pub egress: Egress,
}

impl SocketConfig {
    /// The same with durations that can be added to a moment: more than [`time::FOREVER`] is that.
    pub fn bounded(mut self) -> Self {
        time::bound([
            &mut self.ping_interval,
            &mut self.pong_timeout,
            &mut self.write_timeout,
        ]);
        self
    }
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 * 1024 * 1024,
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(15),
            egress: Egress::anything(),
        }
    }
}
