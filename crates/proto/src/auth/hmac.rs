//! The scheme that signs what is said with a shared secret.

use std::time::Duration;

use base64::Engine as _;

use crate::auth::claim::Claim;
use crate::auth::replay::Code;
use crate::auth::scheme::{AuthError, Authorization, CannotAuthorize, Stamp, Unspent};
use crate::digest::{BASE64, BASE64_URL, HmacSha512};
use crate::limits::{NONCE_BYTES_MAX, SHA512_BYTES};
use crate::time::Now;

/// Largest difference between the time of a signature and the clock here, in either direction
/// (`docs/protocol/auth.md` §4).
pub const HMAC_LIFETIME: Duration = Duration::from_secs(120);

const SCHEME: &[u8] = b"X-HMAC ";

/// HMAC-SHA512 over the whole claim, the time and a nonce (`docs/protocol/auth.md` §4).
#[derive(Clone)]
pub struct HmacAuthorization {
    key: HmacSha512,
}

impl HmacAuthorization {
    /// The scheme of this secret.
    pub fn new(secret: &[u8; SHA512_BYTES]) -> Self {
        Self {
            key: HmacSha512::new(secret),
        }
    }
}

impl std::fmt::Debug for HmacAuthorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacAuthorization(***)")
    }
}

impl Authorization for HmacAuthorization {
    fn authorize(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        stamp: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        let timestamp = stamp.now.unix_seconds();
        // The text is signed, not the bytes: both ends hash what is on the wire, in whatever
        // alphabet.
        let nonce = BASE64_URL.encode(stamp.nonce);
        let code = self
            .key
            .code(&claim.to_sign(tracing, timestamp, nonce.as_bytes()));
        let mut value = format!("X-HMAC {timestamp}:{nonce}:");
        BASE64.encode_string(code, &mut value);
        Ok(Some(value))
    }

    fn verify(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        value: Option<&[u8]>,
        now: Now,
    ) -> Result<Unspent, AuthError> {
        let signed = Signed::parse(value.ok_or(AuthError::Missing)?).map_err(AuthError::Wrong)?;
        // Before the code is computed: an old value is refused without the work of hashing the
        // claim.
        if !now.within(signed.timestamp, HMAC_LIFETIME) {
            let (timestamp, now) = (signed.timestamp, now.unix_seconds());
            return Err(AuthError::Clock { timestamp, now });
        }
        let to_sign = claim.to_sign(tracing, signed.timestamp, signed.nonce.as_bytes());
        if self.key.vouches(&to_sign, &signed.code) {
            // Only a code that vouches is ever spent, so nobody without the secret can fill the
            // guard.
            Ok(Unspent::once(Code::of_hmac(&signed.code)))
        } else {
            Err(AuthError::Wrong("the signature does not fit the message"))
        }
    }
}

/// The parts of a value.
struct Signed<'a> {
    timestamp: u64,
    nonce: &'a str,
    code: [u8; SHA512_BYTES],
}

impl<'a> Signed<'a> {
    fn parse(value: &'a [u8]) -> Result<Self, &'static str> {
        let value = value
            .strip_prefix(SCHEME)
            .ok_or("it does not start with \"X-HMAC \"")?;
        // The code comes last and its base64 has no colon.
        let mut parts = value.splitn(3, |byte| *byte == b':');
        let timestamp = parts.next().ok_or("it has no timestamp")?;
        let nonce = parts.next().ok_or("it has no nonce")?;
        let code = parts.next().ok_or("it has no code")?;
        Ok(Self {
            timestamp: parse_timestamp(timestamp).ok_or("its timestamp is not 1 to 12 digits")?,
            nonce: std::str::from_utf8(nonce)
                .ok()
                .filter(|nonce| nonce.len() <= NONCE_BYTES_MAX)
                .ok_or("its nonce is not UTF-8 of at most 255 bytes")?,
            code: BASE64
                .decode(code)
                .ok()
                .and_then(|code| code.try_into().ok())
                .ok_or("its code is not the base64 of 64 bytes")?,
        })
    }
}

fn parse_timestamp(digits: &[u8]) -> Option<u64> {
    // `parse` alone would take a sign as well.
    let decimal = (1..=12).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| decimal)?;
    digits.parse().ok()
}
