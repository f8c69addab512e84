//! Random bytes, and stamps made of them.

use httppubsub_proto::auth::Stamp;
use httppubsub_proto::time::Now;

/// `N` bytes of a cryptographic generator, seeded by the operating system.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The generator of the thread, which is seeded and reseeded by the system: a call of the system
    // for each nonce would cost more than the signature.
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
