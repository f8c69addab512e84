//! Everything that is ever signed, over HTTP and websockets, and the bytes that a signature
//! covers.

use crate::digest::Sha512;
use crate::subscription::{ETAG_FORMAT, Interest, StrongEtag};
use crate::topic::{Identifier, Topic};
use crate::wire::Writer;

/// The content of a message that its authorization vouches for (`docs/protocol/auth.md` §5).
///
/// A url is the text that is signed, which is not always the text that is stored: see
/// `docs/protocol/auth.md` §6. On websockets it is the `websocket:…` url of the message's counter
/// and there is no recovery url.
///
/// ```
/// use std::time::Duration;
///
/// use httppubsub_proto::auth::{AuthError, Authorization, Claim, HmacAuthorization, Stamp};
/// use httppubsub_proto::time::Now;
/// use httppubsub_proto::topic::Topic;
///
/// let scheme = HmacAuthorization::new(&[7; 64]);
/// let now = Now::from_unix(Duration::from_secs(1_700_000_000));
/// let recovery = "http://me.example/v1/recover";
/// let topic = Topic::new("jobs/7")?;
///
/// let claim = Claim::Missed { recovery, topic: &topic };
/// let value = scheme.authorize(&claim, b"", &Stamp { now, nonce: [1; 12] })?;
/// let value = value.as_deref().map(str::as_bytes);
/// assert!(scheme.verify(&claim, b"", value, now).is_ok());
///
/// // A signature vouches for one claim, for two minutes.
/// let other = Topic::new("jobs/8")?;
/// let other = Claim::Missed { recovery, topic: &other };
/// assert!(matches!(scheme.verify(&other, b"", value, now), Err(AuthError::Wrong(_))));
/// let later = now + Duration::from_secs(300);
/// assert!(matches!(scheme.verify(&claim, b"", value, later), Err(AuthError::Clock { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// SUBSCRIBE and, without a recovery url, UNSUBSCRIBE: the two sign alike.
    Subscribe {
        /// The url that messages are posted to.
        url: &'a str,
        /// The url that MISSED is posted to.
        recovery: Option<&'a str>,
        /// The topic or glob.
        interest: &'a Interest,
    },
    /// NOTIFY, and each part of a websocket's NOTIFY_STREAM.
    Notify {
        /// The topic of the message.
        topic: &'a Topic,
        /// The identifier of the notification.
        identifier: &'a Identifier,
        /// The digest of the message as it is on the wire.
        sha512: &'a Sha512,
    },
    /// A websocket's CONFIGURE.
    Configure {
        /// 32 random bytes of the subscriber.
        subscriber_nonce: &'a [u8; 32],
        /// `true` if the subscriber takes compressed messages.
        enable_zstd: bool,
        /// `true` if the subscriber takes dictionaries trained on the connection.
        enable_training: bool,
        /// The preset dictionary it asks for; 0 and 1 ask for none.
        initial_dict: u16,
    },
    /// CHECK_SUBSCRIPTIONS.
    Check {
        /// The url whose subscriptions are meant.
        url: &'a str,
    },
    /// SET_SUBSCRIPTIONS.
    Set {
        /// The url whose subscriptions are meant.
        url: &'a str,
        /// The etag of the subscriptions to be.
        etag: &'a StrongEtag,
    },
    /// A websocket's CONTINUE_RECEIVE.
    ContinueReceive {
        /// The identifier of the message being received.
        identifier: &'a Identifier,
        /// The part that arrived. Up to 255 it is signed in one byte, as published peers do; above,
        /// where they fail, in eight (`docs/design/threats.md` §5.1).
        part_id: u64,
        /// The subscriber's counter url.
        url: &'a str,
    },
    /// CONFIRM_RECEIVE.
    ConfirmReceive {
        /// The identifier of the delivery.
        identifier: &'a Identifier,
        /// Number of subscribers that the confirmation stands for.
        subscribers: u32,
        /// The receive url that the delivery was verified with.
        url: &'a str,
    },
    /// CONFIRM_MISSED.
    ConfirmMissed {
        /// The topic of the missed message.
        topic: &'a Topic,
        /// The recovery url that the notice was verified with.
        url: &'a str,
    },
    /// RECEIVE, and each part of a websocket's RECEIVE_STREAM.
    Receive {
        /// The url that the message is posted to.
        url: &'a str,
        /// The topic of the message.
        topic: &'a Topic,
        /// The identifier of the delivery.
        identifier: &'a Identifier,
        /// The digest of the message as it is on the wire.
        sha512: &'a Sha512,
    },
    /// MISSED.
    Missed {
        /// The url that the message is posted to.
        recovery: &'a str,
        /// The topic of the messages that may have been missed.
        topic: &'a Topic,
    },
    /// The answer to SUBSCRIBE and, without a recovery url, to UNSUBSCRIBE.
    ConfirmSubscribe {
        /// The url of the request.
        url: &'a str,
        /// The recovery url of the request.
        recovery: Option<&'a str>,
        /// The topic or glob of the request.
        interest: &'a Interest,
    },
    /// The answer to NOTIFY.
    ConfirmNotify {
        /// The identifier of the request.
        identifier: &'a Identifier,
        /// Number of subscribers that confirmed.
        subscribers: u32,
        /// The topic of the request.
        topic: &'a Topic,
        /// The digest of the request.
        sha512: &'a Sha512,
    },
    /// The answer to CHECK_SUBSCRIPTIONS.
    CheckResponse {
        /// The etag of the subscriptions there are.
        etag: &'a StrongEtag,
    },
    /// The answer to SET_SUBSCRIPTIONS.
    SetResponse {
        /// The etag of the request.
        etag: &'a StrongEtag,
    },
    /// A websocket's CONFIRM_CONFIGURE.
    ConfirmConfigure {
        /// 32 random bytes of the broadcaster.
        broadcaster_nonce: &'a [u8; 32],
    },
    /// A websocket's ENABLE_ZSTD_PRESET.
    EnablePreset {
        /// The broadcaster's counter url.
        url: &'a str,
        /// Number of the compressor.
        compressor: u32,
        /// Compression level.
        level: u32,
        /// Smallest message it is meant for, in bytes.
        min_size: u64,
        /// Size from which messages are too large for it, in bytes.
        max_size: u64,
    },
    /// A websocket's ENABLE_ZSTD_CUSTOM.
    EnableCustom {
        /// The broadcaster's counter url.
        url: &'a str,
        /// Number of the compressor.
        compressor: u32,
        /// Compression level.
        level: u32,
        /// Smallest message it is meant for, in bytes.
        min_size: u64,
        /// Size from which messages are too large for it, in bytes.
        max_size: u64,
        /// The digest of the dictionary.
        sha512: &'a Sha512,
    },
    /// A websocket's DISABLE_ZSTD_CUSTOM.
    DisableCustom {
        /// Number of the compressor.
        compressor: u32,
        /// The broadcaster's counter url.
        url: &'a str,
    },
    /// A websocket's CONTINUE_NOTIFY.
    ContinueNotify {
        /// The identifier of the notification being sent.
        identifier: &'a Identifier,
        /// The part that arrived.
        part_id: u32,
    },
}

impl Claim<'_> {
    /// The number of this kind of signature (`docs/protocol/auth.md` §5).
    pub fn type_id(&self) -> u8 {
        match self {
            Self::Subscribe {
                interest: Interest::Exact(_),
                ..
            } => 1,
            Self::Subscribe {
                interest: Interest::Glob(_),
                ..
            } => 2,
            Self::Notify { .. } => 3,
            Self::Configure { .. } => 4,
            Self::Check { .. } => 5,
            Self::Set { .. } => 6,
            Self::ContinueReceive { .. } => 7,
            Self::ConfirmReceive { .. } => 8,
            Self::ConfirmMissed { .. } => 9,
            Self::Receive { .. } => 10,
            Self::Missed { .. } => 11,
            Self::ConfirmSubscribe {
                interest: Interest::Exact(_),
                ..
            } => 12,
            Self::ConfirmSubscribe {
                interest: Interest::Glob(_),
                ..
            } => 13,
            Self::ConfirmNotify { .. } => 14,
            Self::CheckResponse { .. } => 15,
            Self::SetResponse { .. } => 16,
            Self::ConfirmConfigure { .. } => 17,
            Self::EnablePreset { .. } => 18,
            Self::EnableCustom { .. } => 19,
            Self::DisableCustom { .. } => 20,
            Self::ContinueNotify { .. } => 21,
        }
    }

    /// The bytes that a signature of this claim covers, for a message with this `tracing`
    /// (at most 65,535 bytes), signed at `timestamp` with `nonce` (at most 255 bytes).
    pub fn to_sign(&self, tracing: &[u8], timestamp: u64, nonce: &[u8]) -> Vec<u8> {
        let mut out = Writer::with_capacity(512);
        // The type comes first: no signature can be taken for one of another type whose fields
        // happen to have the same bytes.
        out.u8(self.type_id())
            .u64(timestamp)
            .field8(nonce)
            .field16(tracing);
        match *self {
            Self::Subscribe {
                url,
                recovery,
                interest,
            }
            | Self::ConfirmSubscribe {
                url,
                recovery,
                interest,
            } => out
                .field16(url.as_bytes())
                .field16(recovery.unwrap_or_default().as_bytes())
                .field16(interest.as_bytes()),
            Self::Notify {
                topic,
                identifier,
                sha512,
            } => out
                .field16(topic.as_bytes())
                .field8(identifier.as_bytes())
                .bytes(sha512.as_bytes()),
            Self::Configure {
                subscriber_nonce,
                enable_zstd,
                enable_training,
                initial_dict,
            } => out
                .field8(subscriber_nonce)
                .u8(u8::from(enable_zstd))
                .u8(u8::from(enable_training))
                .u16(initial_dict),
            Self::Check { url } => out.field16(url.as_bytes()),
            Self::Set { url, etag } => out
                .field16(url.as_bytes())
                .u8(ETAG_FORMAT)
                .bytes(etag.0.as_bytes()),
            Self::ContinueReceive {
                identifier,
                part_id,
                url,
            } => {
                out.field8(identifier.as_bytes());
                // Published peers have one byte here and fail above 255, so a wider form there
                // breaks nobody.
                match u8::try_from(part_id) {
                    Ok(part_id) => out.u8(part_id),
                    Err(_) => out.u64(part_id),
                };
                out.field16(url.as_bytes())
            }
            Self::ConfirmReceive {
                identifier,
                subscribers,
                url,
            } => out
                .field8(identifier.as_bytes())
                .u32(subscribers)
                .field16(url.as_bytes()),
            Self::ConfirmMissed { topic, url } => {
                out.field16(topic.as_bytes()).field16(url.as_bytes())
            }
            Self::Receive {
                url,
                topic,
                identifier,
                sha512,
            } => out
                .field16(url.as_bytes())
                .field16(topic.as_bytes())
                .field8(identifier.as_bytes())
                .bytes(sha512.as_bytes()),
            Self::Missed { recovery, topic } => {
                out.field16(recovery.as_bytes()).field16(topic.as_bytes())
            }
            Self::ConfirmNotify {
                identifier,
                subscribers,
                topic,
                sha512,
            } => out
                .field8(identifier.as_bytes())
                .u32(subscribers)
                .field16(topic.as_bytes())
                .bytes(sha512.as_bytes()),
            // Told apart by their types alone.
            Self::CheckResponse { etag } | Self::SetResponse { etag } => {
                out.u8(ETAG_FORMAT).bytes(etag.0.as_bytes())
            }
            Self::ConfirmConfigure { broadcaster_nonce } => out.field8(broadcaster_nonce),
            Self::EnablePreset {
                url,
                compressor,
                level,
                min_size,
                max_size,
            } => out
                .field16(url.as_bytes())
                .u32(compressor)
                .u32(level)
                .u64(min_size)
                .u64(max_size),
            Self::EnableCustom {
                url,
                compressor,
                level,
                min_size,
                max_size,
                sha512,
            } => out
                .field16(url.as_bytes())
                .u32(compressor)
                .u32(level)
                .u64(min_size)
                .u64(max_size)
                .bytes(sha512.as_bytes()),
            Self::DisableCustom { compressor, url } => out.u32(compressor).field16(url.as_bytes()),
            Self::ContinueNotify {
                identifier,
                part_id,
            } => out.field8(identifier.as_bytes()).u32(part_id),
        };
        out.into_bytes()
    }
}
