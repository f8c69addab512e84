//! Random bytes, and stamps made of them.

use httppubsub_proto::auth::Stamp;
use httppubsub_proto::time::Now;

/// `N` bytes of a cryptographic generator, seeded by the operating system.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes[..]);
    bytes
}

/// A stamp for an authorization made `now`.
pub fn stamp(now: Now) -> Stamp {
    Stamp {
        now,
        nonce: random_bytes(),
    }
}
