//! The events that the driver of a broadcaster's session acts on, and what the driver hands in.

use bytes::Bytes;

use crate::auth::Unspent;
use crate::digest::Sha512;
use crate::session::compressors::CompressorSizes;
use crate::stateful::BodyHead;
use crate::subscription::Interest;
use crate::topic::{Identifier, Topic};

/// A request to subscribe or unsubscribe, to be confirmed by
/// [`BroadcasterSession::confirm_interest`](crate::session::BroadcasterSession::confirm_interest).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what comes later is confirmed only after this"]
pub struct InterestTicket {
    /// The topic or glob.
    pub interest: Interest,
    /// `true` if it is to be subscribed, `false` if unsubscribed.
    pub subscribe: bool,
    /// The counter of the request.
    pub(super) counter: i64,
    pub(super) place: u64,
}

/// A notification that is to be answered by
/// [`BroadcasterSession::confirm_notify`](crate::session::BroadcasterSession::confirm_notify) or
/// [`BroadcasterSession::refuse_notify`](crate::session::BroadcasterSession::refuse_notify).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what comes later is confirmed only after this"]
pub struct NotifyTicket {
    pub(super) identifier: Identifier,
    pub(super) topic: Topic,
    pub(super) compressed_sha512: Sha512,
    /// `true` for a NOTIFY_STREAM: the confirmation signs the digest of the bytes on the wire.
    pub(super) streamed: bool,
    pub(super) place: u64,
}

/// A part of a notification, or all of it, in the order of the wire. NOTIFY is one part that begins
/// and ends; it may come between the parts of a NOTIFY_STREAM.
#[derive(Debug, PartialEq, Eq)]
pub struct NotifyPart {
    /// `true` if the part belongs to the NOTIFY_STREAM under way, of which there is at most one.
    pub streamed: bool,
    /// Topic and head of the message, with its first part.
    pub begins: Option<(Topic, BodyHead)>,
    /// Bytes of the wire form. The parts of a message together have the announced length; the
    /// driver checks their digest.
    pub bytes: Bytes,
    /// The authorization of the first part, to be spent before the message counts. Later parts are
    /// bound to the first by order and digest, so there is nothing to spend for them.
    pub unspent: Option<Unspent>,
    /// Comes with the last part. To be answered when the message is delivered, or refused.
    pub ends: Option<NotifyTicket>,
}

/// A message to be sent by RECEIVE_STREAM.
#[derive(Clone, Debug)]
pub struct Delivery<B> {
    /// Drawn for this delivery; 4 bytes.
    pub identifier: Identifier,
    /// The topic of the message.
    pub topic: Topic,
    /// Lengths, digest and compressor of `body`.
    pub head: BodyHead,
    /// The wire form, of `head.compressed_length` bytes.
    pub body: B,
}

/// A compressor to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressor {
    /// 1: zstd without dictionary; to 65535: a preset; beyond: a custom dictionary.
    pub id: u32,
    /// Level that is announced, at least 0.
    pub level: u16,
    /// Lengths of the plain bodies that the compressor is meant for.
    pub sizes: CompressorSizes,
    /// The custom dictionary with its digest; `None` for 1 and presets.
    pub dictionary: Option<(Sha512, Bytes)>,
}

/// An event that the driver of a broadcaster's session acts on.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an event is acted on at once, and the large one is the frequent one"
)]
pub enum BroadcasterEvent {
    /// CONFIGURE was verified. Spend, then answer with
    /// [`BroadcasterSession::accept`](crate::session::BroadcasterSession::accept). The deadline
    /// runs on until then.
    Configure {
        /// Must be spent before it counts.
        unspent: Unspent,
        /// `true` if compressors may be announced.
        enable_zstd: bool,
        /// `true` if dictionaries may be trained.
        enable_training: bool,
        /// The preset that the subscriber prefers; 0 and 1: none.
        initial_dict: u16,
    },
    /// Subscribe or unsubscribe, then
    /// [`BroadcasterSession::confirm_interest`](crate::session::BroadcasterSession::confirm_interest).
    /// The request was verified and is a change: the machine itself refuses to subscribe twice or
    /// to unsubscribe an interest that is not subscribed, counting from the moment of the request.
    Interest(InterestTicket),
    /// A notification, or a part of one.
    Notify(NotifyPart),
    /// The subscriber acknowledged all of the delivery with this identifier.
    Delivered(Identifier),
}
