//! The scheme that shows a shared token.

use subtle::ConstantTimeEq as _;

use crate::auth::claim::Claim;
use crate::auth::scheme::{AuthError, Authorization, CannotAuthorize, Stamp, Unspent};
use crate::limits::FIELD_BYTES_MAX;
use crate::time::Now;

/// `Bearer ` and a token that both ends know (`docs/protocol/auth.md` §3). It vouches for who
/// sends, not for what is sent: use it only where nobody can listen.
#[derive(Clone)]
pub struct TokenAuthorization {
    value: String,
}

/// The error of a token that is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is empty")]
pub struct EmptyToken;

impl TokenAuthorization {
    /// The scheme of this token.
    pub fn new(token: &str) -> Result<Self, EmptyToken> {
        if token.is_empty() {
            return Err(EmptyToken);
        }
        Ok(Self {
            value: format!("Bearer {token}"),
        })
    }
}

impl std::fmt::Debug for TokenAuthorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenAuthorization(***)")
    }
}

impl Authorization for TokenAuthorization {
    fn authorize(
        &self,
        _claim: &Claim<'_>,
        _tracing: &[u8],
        _stamp: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        let bytes = self.value.len();
        // Here and not in `new`: a verifier never writes the value and may compare a longer one.
        if bytes > FIELD_BYTES_MAX {
            let problem = format!("the token makes {bytes} bytes, {FIELD_BYTES_MAX} are allowed");
            return Err(CannotAuthorize(problem));
        }
        Ok(Some(self.value.clone()))
    }

    fn verify(
        &self,
        _claim: &Claim<'_>,
        _tracing: &[u8],
        value: Option<&[u8]>,
        _now: Now,
    ) -> Result<Unspent, AuthError> {
        let value = value.ok_or(AuthError::Missing)?;
        // In constant time: how long a refusal takes must not tell how much of the token was right.
        if bool::from(self.value.as_bytes().ct_eq(value)) {
            Ok(Unspent::reusable())
        } else {
            Err(AuthError::Wrong("it is not the token that is expected"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_that_no_field_can_hold_is_not_sent() {
        let stamp = Stamp {
            now: Now::from_unix(Duration::ZERO),
            nonce: [0; 12],
        };
        let bytes_max = FIELD_BYTES_MAX - "Bearer ".len();
        let sends = |bytes| {
            let scheme = TokenAuthorization::new(&"t".repeat(bytes)).unwrap();
            scheme
                .authorize(&Claim::Check { url: "" }, b"", &stamp)
                .is_ok()
        };
        assert!(sends(bytes_max));
        assert!(!sends(bytes_max + 1));
    }
}
