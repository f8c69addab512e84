//! The largest values that the wire's length fields can carry.

/// Longest url, topic, glob, recovery url, tracing or authorization, in bytes: their lengths are
/// written in two bytes (`docs/protocol/stateless.md` §1).
pub const FIELD_BYTES_MAX: usize = 65_535;

/// Longest identifier of a notification, in bytes: its length is written in one byte
/// (`docs/protocol/stateless.md` §1).
pub const IDENTIFIER_BYTES_MAX: usize = 255;

/// Longest nonce of an HMAC authorization, in bytes (`docs/protocol/auth.md` §4).
pub const NONCE_BYTES_MAX: usize = 255;

/// Size of a SHA-512 digest, a strong etag and an HMAC code, in bytes.
pub const SHA512_BYTES: usize = 64;
