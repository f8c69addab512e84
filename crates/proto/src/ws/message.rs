//! Every message of both directions (`docs/protocol/stateful.md` §3, §4).

use std::num::NonZeroU64;

use bytes::Bytes;

use crate::digest::Sha512;
use crate::subscription::Interest;
use crate::topic::{Identifier, Topic};

/// How the headers of a message are written. Both are accepted from every peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderStyle {
    /// Values alone, in a fixed order.
    #[default]
    Minimal,
    /// Names and values.
    Expanded,
}

/// What a subscriber says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToBroadcaster {
    /// Always the first.
    Configure(Configure),
    /// SUBSCRIBE_EXACT or SUBSCRIBE_GLOB.
    Subscribe(InterestMessage),
    /// UNSUBSCRIBE_EXACT or UNSUBSCRIBE_GLOB.
    Unsubscribe(InterestMessage),
    /// A notification in one message. Its body was checked against length and digest.
    Notify(Notify),
    /// A part of a longer one.
    NotifyStream(StreamPart),
    /// "I have this part."
    ContinueReceive(Continue),
    /// "I have all of it."
    ConfirmReceive(ConfirmReceive),
}

/// What a broadcaster says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSubscriber {
    /// Always the first.
    ConfirmConfigure(ConfirmConfigure),
    /// CONFIRM_SUBSCRIBE_EXACT or CONFIRM_SUBSCRIBE_GLOB.
    ConfirmSubscribe(InterestMessage),
    /// CONFIRM_UNSUBSCRIBE_EXACT or CONFIRM_UNSUBSCRIBE_GLOB.
    ConfirmUnsubscribe(InterestMessage),
    /// A notification reached so many.
    ConfirmNotify(ConfirmNotify),
    /// "I have this part."
    ContinueNotify(Continue),
    /// A part of a message, or all of it.
    ReceiveStream(StreamPart),
    /// A compressor that both know beforehand may be used.
    EnablePreset(EnablePreset),
    /// A compressor with this dictionary may be used.
    EnableCustom(EnableCustom),
    /// A compressor may not be used any more.
    DisableCustom(DisableCustom),
    /// Messages were missed.
    Missed(MissedMessage),
}

/// CONFIGURE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configure {
    /// The subscriber's share of the connection's nonce.
    pub subscriber_nonce: [u8; 32],
    /// Whether compressors may be announced.
    pub enable_zstd: bool,
    /// Whether dictionaries may be trained on what this connection carries.
    pub enable_training: bool,
    /// The preset it would like; 0 and 1 ask for none.
    pub initial_dict: u16,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// SUBSCRIBE_*, UNSUBSCRIBE_* and their confirmations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterestMessage {
    /// The topic or glob.
    pub interest: Interest,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// What a body is on the wire.
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
    /// At most 64 bytes.
    pub identifier: Identifier,
    /// What it is about.
    pub topic: Topic,
    /// What `body` is.
    pub head: BodyHead,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
    /// The bytes on the wire.
    pub body: Bytes,
}

/// NOTIFY_STREAM and RECEIVE_STREAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPart {
    /// Of the whole message; at most 64 bytes.
    pub identifier: Identifier,
    /// Which part this is.
    pub part: Part,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// The same on all parts; at most 65,535 bytes.
    pub tracing: Bytes,
    /// This part of the bytes on the wire.
    pub body: Bytes,
}

/// Which part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Part 0, which says what the message is.
    First {
        /// What it is about.
        topic: Topic,
        /// What all parts together are.
        head: BodyHead,
    },
    /// Any other.
    Later(NonZeroU64),
}

impl Part {
    /// Its number.
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
    /// Of the message; at most 64 bytes.
    pub identifier: Identifier,
    /// The part that has arrived.
    pub part_id: u64,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// CONFIRM_RECEIVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmReceive {
    /// Of the message; at most 64 bytes.
    pub identifier: Identifier,
    /// How many have it: 1.
    pub num_subscribers: u32,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// CONFIRM_CONFIGURE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmConfigure {
    /// The broadcaster's share of the connection's nonce.
    pub broadcaster_nonce: [u8; 32],
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// CONFIRM_NOTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmNotify {
    /// Of the notification; at most 64 bytes.
    pub identifier: Identifier,
    /// How many have it.
    pub subscribers: u64,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// ENABLE_ZSTD_PRESET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnablePreset {
    /// Which: 1 is zstd without a dictionary.
    pub compressor: u64,
    /// Level that is suggested.
    pub compression_level: i16,
    /// Shortest plain body it is suggested for, in bytes.
    pub min_size: u32,
    /// Plain bodies from this length on are not suggested; 2^64−1 is no limit.
    pub max_size: u64,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// ENABLE_ZSTD_CUSTOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnableCustom {
    /// Which: 65536 or more.
    pub compressor: u64,
    /// Level that is suggested.
    pub compression_level: i16,
    /// Shortest plain body it is suggested for, in bytes.
    pub min_size: u32,
    /// Plain bodies from this length on are not suggested; 2^64−1 is no limit.
    pub max_size: u64,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
    /// Announced digest of the dictionary; not checked by parsing.
    pub sha512: Sha512,
    /// The dictionary.
    pub dictionary: Bytes,
}

/// DISABLE_ZSTD_CUSTOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisableCustom {
    /// Which: 65536 or more.
    pub compressor: u64,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}

/// MISSED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedMessage {
    /// What a message was missed about.
    pub topic: Topic,
    /// `None`: the field is empty.
    pub authorization: Option<String>,
    /// At most 65,535 bytes.
    pub tracing: Bytes,
}
