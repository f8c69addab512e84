//! The scheme without authorization.

use crate::auth::claim::Claim;
use crate::auth::scheme::{AuthError, Authorization, CannotAuthorize, Stamp, Unspent};
use crate::time::Now;

/// Sends no value and takes any (`docs/protocol/auth.md` §2).
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAuthorization;

impl Authorization for NoAuthorization {
    fn authorize(
        &self,
        _claim: &Claim<'_>,
        _tracing: &[u8],
        _stamp: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        Ok(None)
    }

    fn verify(
        &self,
        _claim: &Claim<'_>,
        _tracing: &[u8],
        _value: Option<&[u8]>,
        _now: Now,
    ) -> Result<Unspent, AuthError> {
        Ok(Unspent::reusable())
    }

    fn vouches(&self) -> bool {
        false
    }
}
