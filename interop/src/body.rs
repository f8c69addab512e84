//! What is notified: a few bytes, or a file of any size.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use httppubsub_e2e::hex;
use sha2::{Digest, Sha512};

/// The message of a notification.
#[derive(Clone, Debug)]
pub enum Body {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The content of this file.
    File(PathBuf),
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        Body::Bytes(bytes.to_vec())
    }
}

/// The SHA-512 of some bytes, in hex.
pub fn sha512(bytes: &[u8]) -> String {
    hex(&Sha512::digest(bytes))
}

/// Writes a file of `bytes` bytes that look random and depend on `seed`, and returns its SHA-512
/// in hex.
pub fn random_file(path: &Path, bytes: usize, seed: u64) -> String {
    let mut file =
        BufWriter::new(File::create(path).expect("the test's own folder can be written"));
    let mut digest = Sha512::new();
    // xorshift64 never leaves 0, so the state starts elsewhere.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut left = bytes;
    while left > 0 {
        let mut block = Vec::with_capacity(64 * 1024);
        while block.len() < 64 * 1024 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        block.truncate(left);
        left -= block.len();
        digest.update(&block);
        file.write_all(&block)
            .expect("the test's own folder can be written");
    }
    file.flush().expect("the test's own folder can be written");
    hex(&digest.finalize())
}
