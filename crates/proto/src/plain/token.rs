//! The text of a token, and its hash.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::digest::{hex, unhex};

/// The text of a token for the plain door. Its holder has its rights.
///
/// ```
/// use httppubsub_proto::plain::PlainToken;
///
/// let token = PlainToken::generate(&[7; 32]); // drawn at random
/// assert_eq!(token.as_str(), "hps_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PlainToken(String);

/// What a token begins with, so that programs that look for secrets know it.
const PREFIX: &str = "hps_";

impl PlainToken {
    /// The token of these bytes, which must be random.
    pub fn generate(bytes: &[u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash by which it is known.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_bytes())
    }
}

/// Never shows the secret.
impl std::fmt::Debug for PlainToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlainToken(***)")
    }
}

/// The SHA-256 of a token's text: enough to know it again, and of no use to a reader, since a token
/// has 32 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of this text.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Reads 64 hexadecimal digits; `None` if it is something else.
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

/// 64 hexadecimal digits.
impl std::fmt::Display for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", hex(&self.0))
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = PlainToken::generate(&[1; 32]).hash();
        let text = hash.to_string();
        assert_eq!(TokenHash::parse(&text), Some(hash));
        assert_eq!(TokenHash::parse(&text.to_uppercase()), Some(hash));
        let mut other = text.clone();
        other.replace_range(..1, "g");
        for wrong in ["", &text[1..], &format!("{text}0"), &other, &"é".repeat(32)] {
            assert_eq!(TokenHash::parse(wrong), None, "{wrong}");
        }
    }
}
