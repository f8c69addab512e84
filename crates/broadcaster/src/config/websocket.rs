//! Settings of websockets.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::body::DecompressLimits;
use httppubsub_net::websocket::SocketConfig;
use httppubsub_proto::session::StreamCounters;
use httppubsub_proto::stateful::HeaderStyle;

/// The configuration of websockets (`docs/protocol/stateful.md` §14).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WebSocketConfig {
    /// The most sessions at once; further ones are answered 503. Default 100,000.
    pub sessions_max: usize,
    /// The most sessions that have not shown yet who they are; further ones are answered 503.
    /// Default 1,024.
    pub unauthenticated_max: usize,
    /// Longest time until a session has shown who it is. Default 5 s.
    pub configure_timeout: Duration,
    /// The most bytes of messages that wait to be sent to one session; a notification waits for
    /// room, as it waits for the answers of other subscribers. A longer message goes when nothing
    /// else waits. Default 4 MiB: a second of 32 Mbit/s.
    pub queue_bytes_max: NonZeroU32,
    /// Time after which a session for which something waits is cut off if it has neither taken nor
    /// acknowledged anything. Default 10 s: less than a notification waits for room.
    pub stall_timeout: Duration,
    /// The most requests and notifications of one session that wait while another is worked on;
    /// beyond that nothing more is read of it. Sixteen times as many while it has deliveries to
    /// acknowledge: the acknowledgements lie behind them. Default 255.
    pub unprocessed_max: NonZeroUsize,
    /// The most parts of messages that are sent to a session before it acknowledges the first of
    /// them. Default 3; `None` is no limit.
    pub unacknowledged_max: Option<NonZeroUsize>,
    /// Longest websocket message that is sent, in bytes; longer messages are sent in parts. Default
    /// 4,194,303: published subscribers accept no more.
    pub outgoing_message_bytes_max: u64,
    /// Longest websocket message that is read (default 16 MiB), pings and time-outs.
    pub socket: SocketConfig,
    /// The style of headers. Default: minimal.
    pub headers: HeaderStyle,
    /// The parts of long messages that are counted. Default: the first, as published subscribers
    /// expect.
    pub stream_counters: StreamCounters,
    /// `true` if messages are compressed for subscribers that want it. Default: yes.
    pub compression: bool,
    /// `true` if dictionaries are trained for subscribers that want it. Default: yes.
    pub training: bool,
    /// Dictionaries that subscribers know as well, to be asked for by their id.
    pub presets: Vec<Preset>,
    /// Shortest body that is compressed with a dictionary, in bytes. Default 32.
    pub compression_min_size: u32,
    /// Bodies from this length on are compressed without a trained dictionary, in bytes. Default
    /// 16,384.
    pub compression_trained_max_size: u64,
    /// Samples for the first dictionary, in bytes. Default 102,400.
    pub training_low_watermark: u64,
    /// Samples for a better dictionary, in bytes. Default 10 MiB.
    pub training_high_watermark: u64,
    /// Time from a better dictionary to the next. Default 24 h.
    pub retrain_interval: Duration,
    /// The most samples of all sessions together, in bytes; more is not looked at. Default 64 MiB.
    pub samples_bytes_max: u64,
    /// Limits on what decompression costs.
    pub decompress: DecompressLimits,
    /// Time over which the ends of the sessions are spread when the broadcaster stops. Default 10
    /// s.
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
