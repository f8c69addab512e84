//! Numbers that tell one hold on a notice from all others.

use std::hash::{BuildHasher, RandomState};

/// A random number, never the same again in practice. Not a secret.
pub(crate) fn random() -> i64 {
    // `RandomState` is seeded by the operating system; a number is all that is wanted of it.
    RandomState::new().hash_one(()).cast_signed()
}
