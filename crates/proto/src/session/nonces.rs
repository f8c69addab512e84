//! Numbers that make each authorization of a connection different from all others.

use crate::auth::Stamp;
use crate::time::Now;

/// Numbers used once, one for each authorization of a connection. They need not be secret.
#[derive(Clone, Debug)]
pub struct Nonces {
    start: u64,
    prefix: [u8; 4],
    drawn: u64,
}

impl Nonces {
    /// Numbers that begin at a random place.
    pub fn new(seed: [u8; 12]) -> Self {
        let (prefix, start) = seed.split_at(4);
        Self {
            start: u64::from_be_bytes(start.try_into().expect("8 bytes are left")),
            prefix: prefix.try_into().expect("4 bytes were split off"),
            drawn: 0,
        }
    }

    /// A stamp with the next number.
    pub fn stamp(&mut self, now: Now) -> Stamp {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.prefix);
        // The start is random and may be near the end of the numbers.
        nonce[4..].copy_from_slice(&self.start.wrapping_add(self.drawn).to_be_bytes());
        self.drawn += 1;
        Stamp { now, nonce }
    }
}
