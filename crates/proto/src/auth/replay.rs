//! The authorizations that have been used, for as long as they could be used again.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::limits::SHA512_BYTES;
use crate::time::Now;

/// Time that a code is remembered: both lifetimes of a signature, forward-dated ones included, and
/// a minute for a clock that is set back (`docs/design/threats.md` W13).
pub const REPLAY_MEMORY: Duration = Duration::from_secs(300);

/// Tells one authorization from another: the first 16 bytes of its 64-byte HMAC. Only codes that
/// passed the check are remembered, so nobody without the secret can choose them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code([u8; 16]);

impl Code {
    /// The code of a value with this HMAC.
    pub fn of_hmac(hmac: &[u8; SHA512_BYTES]) -> Self {
        let mut code = [0; 16];
        // 128 bits are enough to tell codes apart that all passed the check; more would only cost
        // memory.
        code.copy_from_slice(&hmac[..16]);
        Self(code)
    }

    /// The code that these bytes are, as a guard wrote them down.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a guard to write down.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The error of a guard that can remember no further code, and so can accept none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replay guard is full with {codes} codes")]
pub struct GuardFull {
    /// Number of codes that are remembered.
    pub codes: usize,
}

/// The reason why a code cannot be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpendError {
    /// The code was spent before.
    #[error("the authorization has been used before")]
    Replayed,
    /// There is no room to remember the code.
    #[error(transparent)]
    Full(#[from] GuardFull),
}

/// The codes spent in the last [`REPLAY_MEMORY`], at most a given number: some 60 bytes each.
///
/// ```
/// use std::time::Duration;
///
/// use httppubsub_proto::auth::{Code, REPLAY_MEMORY, SpendError, SpentCodes};
/// use httppubsub_proto::time::Now;
///
/// let now = Now::from_unix(Duration::from_secs(1_700_000_000));
/// let mut spent = SpentCodes::new(100);
/// let code = Code::of_hmac(&[7; 64]);
/// assert!(spent.spend(code, now).is_ok());
/// assert!(matches!(spent.spend(code, now), Err(SpendError::Replayed)));
///
/// // A signature has expired long before its code is forgotten.
/// let later = now + REPLAY_MEMORY + Duration::from_secs(1);
/// assert!(spent.spend(code, later).is_ok());
/// ```
#[derive(Debug)]
pub struct SpentCodes {
    expiry: HashMap<Code, Now>,
    oldest_first: VecDeque<(Now, Code)>,
    codes_max: usize,
}

impl SpentCodes {
    /// A guard without codes that never remembers more than `codes_max`.
    pub fn new(codes_max: usize) -> Self {
        Self {
            expiry: HashMap::new(),
            oldest_first: VecDeque::new(),
            codes_max,
        }
    }

    /// Spends `code`, which must not have been spent before.
    pub fn spend(&mut self, code: Code, now: Now) -> Result<(), SpendError> {
        // First: a code whose time is over neither counts as spent nor takes room.
        self.forget(now);
        if self.expiry.contains_key(&code) {
            return Err(SpendError::Replayed);
        }
        // Counted by the queue, not by the map: a released code keeps its entry here until it
        // expires.
        if self.oldest_first.len() >= self.codes_max {
            return Err(GuardFull {
                codes: self.expiry.len(),
            }
            .into());
        }
        let expiry = now + REPLAY_MEMORY;
        self.expiry.insert(code, expiry);
        self.oldest_first.push_back((expiry, code));
        Ok(())
    }

    /// Takes back that `code` was spent, because nothing came of it: it may be used once more.
    pub fn release(&mut self, code: &Code) {
        // Its entry in the queue stays until it expires: to find it would take a search.
        self.expiry.remove(code);
    }

    /// Number of codes that can still be remembered.
    pub fn room(&mut self, now: Now) -> usize {
        self.forget(now);
        self.codes_max.saturating_sub(self.oldest_first.len())
    }

    /// The codes that are remembered, with the moment at which each was spent.
    pub fn remembered(&self) -> impl Iterator<Item = (&Code, Now)> {
        let codes = self.expiry.iter();
        codes.map(|(code, expiry)| {
            let spent = expiry.since_unix().saturating_sub(REPLAY_MEMORY);
            (code, Now::from_unix(spent))
        })
    }

    /// Number of codes that are remembered.
    pub fn len(&self) -> usize {
        self.expiry.len()
    }

    /// `true` if no code is remembered.
    pub fn is_empty(&self) -> bool {
        self.expiry.is_empty()
    }

    fn forget(&mut self, now: Now) {
        while let Some((expiry, code)) = self.oldest_first.front() {
            if *expiry >= now {
                break;
            }
            // A code that was released and spent again has a later expiry than this entry.
            if self.expiry.get(code) == Some(expiry) {
                self.expiry.remove(code);
            }
            self.oldest_first.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::from_unix(Duration::from_secs(seconds))
    }

    fn code(byte: u8) -> Code {
        Code::from_bytes([byte; 16])
    }

    #[test]
    fn a_code_is_spent_once_while_it_could_be_valid() {
        let mut spent = SpentCodes::new(10);
        assert_eq!(spent.spend(code(1), at(1_000)), Ok(()));
        assert_eq!(spent.spend(code(1), at(1_000)), Err(SpendError::Replayed));
        assert_eq!(spent.spend(code(1), at(1_300)), Err(SpendError::Replayed));
        assert_eq!(spent.spend(code(1), at(1_301)), Ok(()));
    }

    #[test]
    fn a_full_guard_accepts_nothing_and_forgets_nothing() {
        let mut spent = SpentCodes::new(1);
        assert_eq!(spent.spend(code(1), at(0)), Ok(()));
        assert_eq!(
            spent.spend(code(2), at(0)),
            Err(GuardFull { codes: 1 }.into())
        );
        assert_eq!(spent.spend(code(1), at(0)), Err(SpendError::Replayed));
        assert_eq!(spent.spend(code(2), at(301)), Ok(()));
    }

    #[test]
    fn a_released_code_can_be_spent_once_more_and_is_then_kept_as_long_as_any() {
        let mut spent = SpentCodes::new(10);
        assert_eq!(spent.spend(code(1), at(0)), Ok(()));
        spent.release(&code(1));
        assert_eq!(spent.spend(code(1), at(200)), Ok(()));
        assert_eq!(spent.spend(code(1), at(301)), Err(SpendError::Replayed));
        assert_eq!(spent.spend(code(1), at(501)), Ok(()));
        assert_eq!(spent.len(), 1);
    }
}
