//! The urls that messages of one connection are signed over (`docs/protocol/stateful.md` §5).

use base64::Engine as _;

use crate::digest::{BASE64, sha256};

/// SHA-256 over both ends' nonces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionNonce([u8; 32]);

impl ConnectionNonce {
    /// The nonce of a connection whose ends drew these.
    pub fn new(subscriber_nonce: &[u8; 32], broadcaster_nonce: &[u8; 32]) -> Self {
        Self(sha256(&[subscriber_nonce, broadcaster_nonce]))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The url of `counter`, `websocket:<base64>:<hex>`.
    pub fn url(&self, counter: i64) -> String {
        use std::fmt::Write as _;
        let mut url = String::with_capacity(72);
        url.push_str("websocket:");
        BASE64.encode_string(self.0, &mut url);
        // Rust writes a negative number in hexadecimal as two's complement, the protocol with a
        // sign (§5).
        url.push_str(if counter < 0 { ":-" } else { ":" });
        write!(url, "{:x}", counter.unsigned_abs()).expect("writing to a string cannot fail");
        url
    }
}

/// A counter of one end: `1, 2, …` for the broadcaster, `-1, -2, …` for the subscriber.
///
/// ```
/// use httppubsub_proto::stateful::{ConnectionNonce, Counter};
///
/// let nonce = ConnectionNonce::new(&[1; 32], &[2; 32]);
/// let mut counter = Counter::subscriber();
/// assert!(nonce.url(counter.take()).ends_with(":-1"));
/// assert!(nonce.url(counter.take()).ends_with(":-2"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    next: i64,
    step: i64,
}

impl Counter {
    /// The counter of messages that the broadcaster sends.
    pub fn broadcaster() -> Self {
        Self { next: 1, step: 1 }
    }

    /// The counter of messages that the subscriber sends.
    pub fn subscriber() -> Self {
        Self { next: -1, step: -1 }
    }

    /// Takes the next value.
    pub fn take(&mut self) -> i64 {
        let taken = self.next;
        self.next += self.step;
        taken
    }

    /// The value that would be taken next.
    pub fn peek(&self) -> i64 {
        self.next
    }
}
