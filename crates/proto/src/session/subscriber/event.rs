//! The events that the driver of a subscriber's session acts on, and what the driver hands in.

use bytes::Bytes;

use crate::auth::Unspent;
use crate::digest::Sha512;
use crate::session::compressors::CompressorSizes;
use crate::stateful::{BodyHead, Refusal};
use crate::subscription::Interest;
use crate::topic::{Identifier, Topic};

/// A notification to send.
#[derive(Clone, Debug)]
pub struct Notification<B> {
    /// The same whenever it is sent again; 4 bytes.
    pub identifier: Identifier,
    /// The topic of the message.
    pub topic: Topic,
    /// Lengths, digest and compressor of `body`.
    pub head: BodyHead,
    /// Digest of the plain body.
    pub plain_sha512: Sha512,
    /// The wire form, of `head.compressed_length` bytes.
    pub body: B,
}

/// A part of a message, or all of it, in the order of the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceivePart {
    /// Topic and head of the message, with its first part.
    pub begins: Option<(Topic, BodyHead)>,
    /// Bytes of the wire form. The parts of a message together have the announced length; the
    /// driver checks their digest.
    pub bytes: Bytes,
    /// Comes with the last part. To be confirmed when the digest was found right.
    pub ends: Option<ReceiveTicket>,
}

/// A message that is to be confirmed by
/// [`SubscriberSession::confirm_receive`](crate::session::SubscriberSession::confirm_receive).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the broadcaster waits for the confirmation"]
pub struct ReceiveTicket {
    /// The identifier of the delivery.
    pub identifier: Identifier,
    pub(super) place: u64,
}

/// An event that the driver of a subscriber's session acts on.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriberEvent {
    /// CONFIRM_CONFIGURE was verified: the session is open, requests may be made. Spend before
    /// trusting anything else of this connection.
    Open {
        /// Must be spent before it counts.
        unspent: Unspent,
    },
    /// The broadcaster has subscribed this.
    Subscribed(Interest),
    /// The broadcaster has unsubscribed this.
    Unsubscribed(Interest),
    /// A part of the notification with this identifier has arrived.
    Continued {
        /// The identifier of the notification.
        identifier: Identifier,
        /// The number of the part, from 0.
        part_id: u64,
    },
    /// A notification was delivered.
    Notified {
        /// The identifier of the notification.
        identifier: Identifier,
        /// Number of subscribers that confirmed.
        subscribers: u32,
    },
    /// The broadcaster does not take a notification. Nobody has it.
    Refused {
        /// The identifier of the notification.
        identifier: Identifier,
        /// The reason.
        refusal: Refusal,
    },
    /// A message, or a part of one.
    Receive(ReceivePart),
    /// A compressor may be used: 1, or a preset whose dictionary is known.
    EnablePreset {
        /// The id of the compressor.
        compressor: u16,
        /// Level that is suggested.
        level: i16,
        /// Lengths of the plain bodies that the compressor is meant for.
        sizes: CompressorSizes,
    },
    /// A compressor with this dictionary may be used. Its digest was checked.
    EnableCustom {
        /// The id of the compressor.
        compressor: u32,
        /// Level that is suggested.
        level: i16,
        /// Lengths of the plain bodies that the compressor is meant for.
        sizes: CompressorSizes,
        /// The dictionary.
        dictionary: Bytes,
    },
    /// The broadcaster no longer uses this compressor.
    DisableCustom {
        /// The id of the compressor.
        compressor: u32,
    },
    /// Messages about this topic were missed.
    Missed(Topic),
}
