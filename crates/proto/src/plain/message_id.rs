//! Identifiers of messages that are published by the plain door.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::topic::Topic;

/// The identifier of a message: random, or made of an idempotency key, so that every repetition has
/// the same at every broadcaster.
///
/// ```
/// use httppubsub_proto::plain::MessageId;
/// use httppubsub_proto::topic::Topic;
///
/// let topic = Topic::new("builds/ready")?;
/// let id = MessageId::of_key("ci", &topic, b"8e03978e-40d5-43e8-bc93-6894a57f9324");
/// assert_eq!(id.to_string(), "msg_rzLr25hfptrjUO_GfExdlg");
/// # Ok::<(), httppubsub_proto::topic::TopicTooLong>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId([u8; 16]);

impl MessageId {
    /// The identifier of these bytes, which should be random.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The identifier of what `token` publishes to `topic` under this idempotency key: the first 16
    /// bytes of the SHA-256 of four fields, each with its length in 4 bytes before it, the highest
    /// first.
    pub fn of_key(token: &str, topic: &Topic, key: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        for field in [DOMAIN, token.as_bytes(), topic.as_bytes(), key] {
            let length = u32::try_from(field.len()).expect("fields of a request are short");
            hasher.update(length.to_be_bytes());
            hasher.update(field);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let (first, _) = digest.split_first_chunk().expect("32 bytes have 16");
        Self(*first)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The first field, so that the same bytes hashed for another purpose give another identifier.
const DOMAIN: &[u8] = b"httppubsub message 1";

/// `msg_`, and the bytes in base64url.
impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "msg_{}", BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::fmt::Debug for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MessageId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cannot_flow_into_each_other() {
        let topic = |text| Topic::new(text).unwrap();
        let ids = [
            MessageId::of_key("ab", &topic("c"), b"d"),
            MessageId::of_key("a", &topic("bc"), b"d"),
            MessageId::of_key("a", &topic("b"), b"cd"),
            MessageId::of_key("abcd", &topic(""), b""),
        ];
        for (at, id) in ids.iter().enumerate() {
            assert!(!ids[at + 1..].contains(id));
        }
    }
}
