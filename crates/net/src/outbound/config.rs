//! Bounds on what is posted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use httppubsub_proto::time;
use tokio::sync::Semaphore;

use crate::egress::policy::Egress;
use crate::outbound::breaker::BreakerConfig;

/// Bounds on what is posted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PostConfig {
    /// Longest wait for a connection to be made, TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest time from the first byte to the end of the answer for an empty message. Default
    /// 30 s: a webhook may do its work before it answers.
    pub answer_timeout: Duration,
    /// By how many bytes per second a message lengthens that time. Default 1 MiB/s.
    pub rate_min: u64,
    /// A peer that takes nothing of a long message for this long is given up; that is noticed
    /// before it is twice as long. Default 15 s.
    pub stall_timeout: Duration,
    /// Requests under way at once, to all peers, and a quarter more with messages of more than
    /// 1 MiB. Default 4096.
    pub in_flight_max: usize,
    /// Requests under way at once to one peer (scheme, host and port), and a quarter more with
    /// messages of more than 1 MiB. There are fewer while a peer has too much to do. Default 64.
    pub in_flight_per_peer_max: usize,
    /// Requests that wait for their turn at one peer; one more fails at once. Default 10,000.
    pub waiting_per_peer_max: usize,
    /// Connections open at once to all peers, kept ones included. When there are as many,
    /// unused ones are closed. Default 16,384.
    pub connections_max: usize,
    /// Circuit breakers of peers and urls. Default: none.
    pub breaker: Option<BreakerConfig>,
    /// Connections kept open to one peer while they are not used. Default 64.
    pub idle_per_peer_max: usize,
    /// For how long. Default 30 s.
    pub idle_timeout: Duration,
    /// Largest age of a connection that is used again. One that is always in use would lead for
    /// ever to where the peer's name led once. Default 5 min.
    pub connection_age_max: Duration,
    /// Peers, by host and port as their urls say, that are reached at another address than their
    /// name resolves to. The operator names them, so `egress` is not asked.
    /// Default: none.
    pub pins: HashMap<(String, u16), SocketAddr>,
    /// Policy for connections. Default: the profile `internal` with loopback.
    pub egress: Egress,
    /// Bytes of an answer that are read. Default 132 KiB, which holds the longest one that
    /// makes sense; what follows is ignored.
    pub answer_bytes_max: usize,
}

impl PostConfig {
    /// The same with durations that can be added to a moment: more than [`time::FOREVER`] is that.
    /// And with counts that a semaphore can have.
    pub fn bounded(mut self) -> Self {
        for count in [
            &mut self.in_flight_max,
            &mut self.in_flight_per_peer_max,
            &mut self.connections_max,
        ] {
            // A semaphore panics beyond that.
            *count = Semaphore::MAX_PERMITS.min(*count);
        }
        time::bound([
            &mut self.connect_timeout,
            &mut self.answer_timeout,
            &mut self.stall_timeout,
            &mut self.idle_timeout,
        ]);
        self.breaker = self.breaker.map(BreakerConfig::bounded);
        self
    }
}

impl Default for PostConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(30),
            rate_min: 1024 * 1024,
            stall_timeout: Duration::from_secs(15),
            in_flight_max: 4_096,
            in_flight_per_peer_max: 64,
            waiting_per_peer_max: 10_000,
            connections_max: 16_384,
            breaker: None,
            idle_per_peer_max: 64,
            idle_timeout: Duration::from_secs(30),
            connection_age_max: Duration::from_secs(300),
            pins: HashMap::new(),
            egress: Egress::default(),
            answer_bytes_max: 132 * 1024,
        }
    }
}

impl PostConfig {
    /// Longest time from the first byte to the end of the answer for a message of this length, at
    /// most [`time::FOREVER`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use httppubsub_net::outbound::PostConfig;
    ///
    /// let config = PostConfig::default();
    /// assert_eq!(config.timeout(0), Duration::from_secs(30));
    /// assert_eq!(config.timeout(1 << 30), Duration::from_secs(30 + 1_024), "1 GiB at 1 MiB/s");
    /// ```
    pub fn timeout(&self, message_bytes: u64) -> Duration {
        let timeout = self.answer_timeout;
        timeout
            .saturating_add(self.allowance(message_bytes))
            .min(time::FOREVER)
    }

    /// By how much a message of this length lengthens that time, in whole seconds.
    pub fn allowance(&self, message_bytes: u64) -> Duration {
        allowance(self.rate_min, message_bytes)
    }
}

/// The time, in whole seconds, that `message_bytes` take at `rate_min` bytes a second; none if that
/// is 0.
pub fn allowance(rate_min: u64, message_bytes: u64) -> Duration {
    Duration::from_secs(message_bytes.checked_div(rate_min).unwrap_or(0))
}
