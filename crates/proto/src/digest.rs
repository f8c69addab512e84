//! SHA-512 and HMAC-SHA512, and the `Repr-Digest` header that carries the former.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Digest as _;

use crate::limits::SHA512_BYTES;

/// Standard alphabet; written with padding, read with or without.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Url-safe alphabet; written without padding, read with or without.
pub(crate) const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// The bytes that hexadecimal digits stand for, of either case; `None` unless they are `N`.
pub(crate) fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = digit(pair[0])? * 16 + digit(pair[1])?;
        *byte = u8::try_from(value).ok()?;
    }
    Some(bytes)
}

/// The SHA-256 digest of these parts, one behind the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = sha2::Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A SHA-512 digest: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha512([u8; SHA512_BYTES]);

impl Sha512 {
    /// The digest that these bytes are.
    pub const fn from_bytes(bytes: [u8; SHA512_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads 128 hexadecimal digits, as [`Display`](std::fmt::Display) writes them; `None` if it is
    /// something else.
    ///
    /// ```
    /// use httppubsub_proto::digest::Sha512;
    ///
    /// let digest = Sha512::of(b"hello");
    /// assert_eq!(Sha512::from_hex(&digest.to_string()), Some(digest));
    /// assert_eq!(Sha512::from_hex("hello"), None);
    /// ```
    pub fn from_hex(digits: &str) -> Option<Self> {
        unhex(digits).map(Self)
    }

    /// The digest of `message`.
    pub fn of(message: &[u8]) -> Self {
        let mut hasher = Sha512Hasher::default();
        hasher.update(message);
        hasher.finish()
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; SHA512_BYTES] {
        &self.0
    }
}

/// Lower-case hexadecimal.
impl std::fmt::Display for Sha512 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for Sha512 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sha512({self})")
    }
}

/// Computes a [`Sha512`] from bytes that come in parts.
///
/// ```
/// use httppubsub_proto::digest::{Sha512, Sha512Hasher};
///
/// let mut hasher = Sha512Hasher::default();
/// hasher.update(b"do");
/// hasher.update(b"ne");
/// assert_eq!(hasher.finish(), Sha512::of(b"done"));
/// ```
#[derive(Clone, Default)]
pub struct Sha512Hasher(sha2::Sha512);

impl Sha512Hasher {
    /// Takes the next part.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The digest of all parts.
    pub fn finish(self) -> Sha512 {
        Sha512(self.0.finalize().into())
    }
}

impl std::fmt::Debug for Sha512Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha512Hasher")
    }
}

/// A key of HMAC-SHA512, prepared once for any number of codes.
#[derive(Clone)]
pub(crate) struct HmacSha512(Hmac<sha2::Sha512>);

impl HmacSha512 {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    pub(crate) fn code(&self, message: &[u8]) -> [u8; SHA512_BYTES] {
        // The clone has the key hashed in already, which saves two blocks for each code.
        self.0
            .clone()
            .chain_update(message)
            .finalize()
            .into_bytes()
            .into()
    }

    /// Compares in constant time.
    pub(crate) fn vouches(&self, message: &[u8], code: &[u8; SHA512_BYTES]) -> bool {
        self.0
            .clone()
            .chain_update(message)
            .verify_slice(code)
            .is_ok()
    }
}

/// The reason why a `Repr-Digest` header does not tell the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReprDigestError {
    /// No entry is named `sha-512`.
    #[error("the Repr-Digest header has no sha-512 entry")]
    NoSha512,
    /// The entry is not the base64 of 64 bytes.
    #[error("the sha-512 entry of the Repr-Digest header is not the base64 of 64 bytes")]
    NotADigest,
}

/// The value of the `Repr-Digest` header for a message with this digest, as published peers write
/// and want it (`docs/protocol/stateless.md` §6).
pub fn encode_repr_digest(digest: &Sha512) -> String {
    let mut value = String::with_capacity(8 + 88);
    value.push_str("sha-512=");
    BASE64.encode_string(digest.as_bytes(), &mut value);
    value
}

/// The digest in a `Repr-Digest` header: that of its last `sha-512` entry
/// (`docs/protocol/stateless.md` §6).
///
/// ```
/// use httppubsub_proto::digest::{Sha512, decode_repr_digest, encode_repr_digest};
///
/// let digest = Sha512::of(b"done");
/// let header = encode_repr_digest(&digest);
/// assert!(header.starts_with("sha-512="));
/// assert_eq!(decode_repr_digest(header.as_bytes()), Ok(digest));
/// ```
pub fn decode_repr_digest(value: &[u8]) -> Result<Sha512, ReprDigestError> {
    let entry = value
        .split(|byte| *byte == b',')
        .filter_map(|entry| {
            let equals = entry.iter().position(|byte| *byte == b'=')?;
            let name = entry[..equals].trim_ascii();
            let known =
                name.eq_ignore_ascii_case(b"sha-512") || name.eq_ignore_ascii_case(b"sha512");
            // The name ends at the first `=`; others are the padding of the base64.
            known.then(|| entry[equals + 1..].trim_ascii())
        })
        // RFC 8941 §3.2: of a key that comes twice the last counts.
        .next_back()
        .ok_or(ReprDigestError::NoSha512)?;
    // RFC 9530 wants the colons, published peers write none (`docs/protocol/stateless.md` §6).
    let entry = entry.strip_prefix(b":").unwrap_or(entry);
    let entry = entry.strip_suffix(b":").unwrap_or(entry);
    let bytes = BASE64
        .decode(entry)
        .map_err(|_| ReprDigestError::NotADigest)?;
    let bytes = bytes.try_into().map_err(|_| ReprDigestError::NotADigest)?;
    Ok(Sha512(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repr_digest_reads_back() {
        let digest = Sha512::of(b"hello");
        assert_eq!(
            decode_repr_digest(encode_repr_digest(&digest).as_bytes()),
            Ok(digest)
        );
    }

    #[test]
    fn the_last_sha_512_entry_counts_however_it_is_spelled() {
        let first = encode_repr_digest(&Sha512::of(b"first"));
        let last = encode_repr_digest(&Sha512::of(b"last"));
        let last = last.strip_prefix("sha-512=").unwrap();
        let value = format!("{first}, md5=:abc:, SHA512=:{last}: ");
        assert_eq!(
            decode_repr_digest(value.as_bytes()),
            Ok(Sha512::of(b"last"))
        );
    }

    #[test]
    fn a_repr_digest_of_something_else_is_refused() {
        assert_eq!(decode_repr_digest(b""), Err(ReprDigestError::NoSha512));
        assert_eq!(
            decode_repr_digest(b"sha-256=abc"),
            Err(ReprDigestError::NoSha512)
        );
        assert_eq!(
            decode_repr_digest(b"sha-512=abcd"),
            Err(ReprDigestError::NotADigest)
        );
        assert_eq!(
            decode_repr_digest(b"sha-512=\xff"),
            Err(ReprDigestError::NotADigest)
        );
    }
}
