//! Every message of both directions (`docs/protocol/stateful.md` §3, §4).

use std::num::NonZeroU64;

use bytes::Bytes;

use crate::digest::Sha512;
use crate::subscription::Interest;
use crate::topic::{Identifier, Topic};

/// The encoding of the headers of a message. Both are accepted from every peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderStyle {
    /// Values alone, in a fixed order.
    #[default]
    Minimal,
    /// Names and values.
    Expanded,
}

/// A message of a subscriber.
///
/// ```
/// use bytes::Bytes;
/// use httppubsub_proto::stateful::{HeaderStyle, InterestMessage, ToBroadcaster};
/// use httppubsub_proto::subscription::Interest;
/// use httppubsub_proto::topic::Topic;
///
/// let message = ToBroadcaster::Subscribe(InterestMessage {
///     interest: Interest::Exact(Topic::new("jobs/7")?),
///     authorization: None,
///     tracing: Bytes::new(),
/// });
/// for style in [HeaderStyle::Minimal, HeaderStyle::Expanded] {
///     let bytes = Bytes::from(message.encode(style));
///     let decoded = ToBroadcaster::decode(&bytes)?;
///     assert_eq!(decoded, message);
///     assert_eq!(decoded.name(), "SUBSCRIBE_EXACT");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToBroadcaster {
    /// The first message of every connection.
    Configure(Configure),
    /// SUBSCRIBE_EXACT or SUBSCRIBE_GLOB.
    Subscribe(InterestMessage),
    /// UNSUBSCRIBE_EXACT or UNSUBSCRIBE_GLOB.
    Unsubscribe(InterestMessage),
    /// A notification in one message. Its body was checked against length and digest.
    Notify(Notify),
    /// A part of a longer notification.
    NotifyStream(StreamPart),
    /// The subscriber has this part of a message.
    ContinueReceive(Continue),
    /// The subscriber has all of a message.
    ConfirmReceive(ConfirmReceive),
}

/// A message of a broadcaster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSubscriber {
    /// The first message of every connection.
    ConfirmConfigure(ConfirmConfigure),
    /// CONFIRM_SUBSCRIBE_EXACT or CONFIRM_SUBSCRIBE_GLOB.
    ConfirmSubscribe(InterestMessage),
    /// CONFIRM_UNSUBSCRIBE_EXACT or CONFIRM_UNSUBSCRIBE_GLOB.
    ConfirmUnsubscribe(InterestMessage),
    /// A notification was delivered, or refused.
    ConfirmNotify(ConfirmNotify),
    /// The broadcaster has this part of a notification.
    ContinueNotify(Continue),
    /// A part of a message, or all of it.
    ReceiveStream(StreamPart),
    /// A compressor that both know beforehand may be used.
    EnablePreset(EnablePreset),
    /// A compressor with this dictionary may be used.
    EnableCustom(EnableCustom),
    /// A compressor must no longer be used.
    DisableCustom(DisableCustom),
    /// Messages were missed.
    Missed(MissedMessage),
}

/// CONFIGURE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configure {
    /// The subscriber's share of the connection's nonce.
    pub subscriber_nonce: [u8; 32],
    /// `true` if compressors may be announced.
    pub enable_zstd: bool,
    /// `true` if dictionaries may be trained on messages of this connection.
    pub enable_training: bool,
    /// The preset that the subscriber prefers; 0 and 1 ask for none.
    pub initial_dict: u16,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// SUBSCRIBE_*, UNSUBSCRIBE_* and their confirmations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterestMessage {
    /// The topic or glob.
    pub interest: Interest,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// Lengths, digest and compressor of a body on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyHead {
    /// 0: not compressed, and both lengths are equal.
    pub compressor: u64,
    /// Length on the wire, of all parts, in bytes.
    pub compressed_length: u64,
    /// Length of the plain body, in bytes.
    pub decompressed_length: u64,
    /// Digest of the bytes on the wire, all parts joined.
    pub compressed_sha512: Sha512,
}

/// NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// The identifier of the notification, at most 64 bytes.
    pub identifier: Identifier,
    /// The topic of the message.
    pub topic: Topic,
    /// Lengths, digest and compressor of `body`.
    pub head: BodyHead,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// The bytes on the wire.
    pub body: Bytes,
}

/// NOTIFY_STREAM and RECEIVE_STREAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPart {
    /// The identifier of the whole message; at most 64 bytes.
    pub identifier: Identifier,
    /// The number of the part, with the head of the message if it is the first.
    pub part: Part,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, the same on all parts, at most 65,535 bytes.
    pub tracing: Bytes,
    /// This part of the bytes on the wire.
    pub body: Bytes,
}

/// The place of a part in its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Part 0, with the head of the message.
    First {
        /// The topic of the message.
        topic: Topic,
        /// Lengths, digest and compressor of all parts together.
        head: BodyHead,
    },
    /// The part with this number, from 1.
    Later(NonZeroU64),
}

impl Part {
    /// The number of the part, from 0.
    pub fn id(&self) -> u64 {
        match self {
            Self::First { .. } => 0,
            Self::Later(id) => id.get(),
        }
    }
}

/// CONTINUE_RECEIVE and CONTINUE_NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continue {
    /// The identifier of the message; at most 64 bytes.
    pub identifier: Identifier,
    /// The part that has arrived.
    pub part_id: u64,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// CONFIRM_RECEIVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmReceive {
    /// The identifier of the message; at most 64 bytes.
    pub identifier: Identifier,
    /// Number of subscribers that the confirmation stands for: 1.
    pub num_subscribers: u32,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// CONFIRM_CONFIGURE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmConfigure {
    /// The broadcaster's share of the connection's nonce.
    pub broadcaster_nonce: [u8; 32],
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// CONFIRM_NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmNotify {
    /// The identifier of the notification; at most 64 bytes.
    pub identifier: Identifier,
    /// Number of subscribers that have the message.
    pub subscribers: u64,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// ENABLE_ZSTD_PRESET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnablePreset {
    /// The id of the compressor: 1 is zstd without a dictionary.
    pub compressor: u64,
    /// Level that is suggested.
    pub compression_level: i16,
    /// Shortest plain body it is suggested for, in bytes.
    pub min_size: u32,
    /// Plain bodies from this length on are not suggested; 2^64−1 is no limit.
    pub max_size: u64,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// ENABLE_ZSTD_CUSTOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnableCustom {
    /// The id of the compressor: 65536 or more.
    pub compressor: u64,
    /// Level that is suggested.
    pub compression_level: i16,
    /// Shortest plain body it is suggested for, in bytes.
    pub min_size: u32,
    /// Plain bodies from this length on are not suggested; 2^64−1 is no limit.
    pub max_size: u64,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
    /// Announced digest of the dictionary; not checked by parsing.
    pub sha512: Sha512,
    /// The dictionary.
    pub dictionary: Bytes,
}

/// DISABLE_ZSTD_CUSTOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisableCustom {
    /// The id of the compressor: 65536 or more.
    pub compressor: u64,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}

/// MISSED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedMessage {
    /// The topic of the missed messages.
    pub topic: Topic,
    /// The authorization; `None` if the field is empty.
    pub authorization: Option<String>,
    /// The tracing, at most 65,535 bytes.
    pub tracing: Bytes,
}
