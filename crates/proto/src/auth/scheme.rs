//! The contract of every scheme of authorization: produce a value for a claim, and verify one.

use crate::auth::claim::Claim;
use crate::auth::replay::Code;
use crate::time::Now;

/// The moment at which a value is made, and the nonce that keeps two values for one claim apart.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The moment of the event.
    pub now: Now,
    /// Fresh from a cryptographic source; never used twice.
    pub nonce: [u8; 12],
}

/// The reason why a value does not vouch for a claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The value is missing (UNAUTHORIZED).
    #[error("the authorization is missing")]
    Missing,
    /// The value does not vouch for the claim (FORBIDDEN).
    #[error("the authorization is wrong: {0}")]
    Wrong(&'static str),
    /// The signature was made at another time than now (FORBIDDEN).
    #[error("the authorization is wrong: signed at {timestamp}, but the clock here says {now}")]
    Clock {
        /// Seconds since the epoch, as signed.
        timestamp: u64,
        /// Seconds since the epoch, here.
        now: u64,
    },
    /// The value vouched for a message once already (FORBIDDEN).
    #[error("the authorization is wrong: it has been used before")]
    Replayed,
    /// The value cannot be judged now; the same one may be accepted later.
    #[error("the authorization cannot be checked now: {0}")]
    Unavailable(&'static str),
}

/// The error of a scheme that could not produce a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot authorize: {0}")]
pub struct CannotAuthorize(pub String);

/// A value that vouches for its claim but may have been seen before: it counts only after its code
/// was spent.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an authorization counts only after it was spent"]
pub struct Unspent(Option<Code>);

impl Unspent {
    /// A value that may be seen any number of times.
    pub fn reusable() -> Self {
        Self(None)
    }

    /// A value that counts once, told from others by `code`.
    pub fn once(code: Code) -> Self {
        Self(Some(code))
    }

    /// The code to spend, if the scheme wants one spent.
    pub fn into_code(self) -> Option<Code> {
        self.0
    }
}

/// A scheme of authorization for one direction. An operator can bring their own: it sees the whole
/// claim, topic and url included, and so can keep access lists.
///
/// Both methods are called on the delivery path and must not block.
pub trait Authorization: Send + Sync + std::fmt::Debug {
    /// The value that vouches for `claim` in a message with this `tracing`; `None` if the scheme
    /// sends none. At most 65,535 bytes; in an HTTP header it must be visible ASCII.
    fn authorize(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        stamp: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize>;

    /// Verifies that `value` vouches for `claim` in a message with this `tracing`, arriving `now`.
    /// `None` is a missing header or a field of length 0.
    fn verify(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        value: Option<&[u8]>,
        now: Now,
    ) -> Result<Unspent, AuthError>;

    /// `true` if values of this scheme prove anything. `none` proves nothing, so that a peer need
    /// not check its values; a peer that does not check the values of another scheme has a defect.
    fn vouches(&self) -> bool {
        true
    }
}
