//! Numbers and messages that look random and depend on a seed alone.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use httppubsub_proto::digest::{Sha512, Sha512Hasher};

/// Makes runs at once, each of a seed of its own: `usual` of them, from seed 1 on. With
/// `HTTPPUBSUB_TEST_ROUNDS` in the environment, as many as that says; with `HTTPPUBSUB_TEST_SEED`,
/// from that seed on. One that fails says its seed.
///
/// # Panics
///
/// If a run does, or a variable is no number.
pub fn seeded_runs(usual: u64, at_once: usize, run: impl Fn(u64) + Sync) {
    let number = |name: &str, usual: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect("it is a number"),
        Err(_) => usual,
    };
    let first = number("HTTPPUBSUB_TEST_SEED", 1);
    let next = AtomicU64::new(first);
    let end = first + number("HTTPPUBSUB_TEST_ROUNDS", usual);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    let _failing = Failing(seed);
                    run(seed);
                }
            });
        }
    });
}

/// Says which seed to give again, if the run fails wherever it does.
struct Failing(u64);

impl Drop for Failing {
    fn drop(&mut self) {
        if thread::panicking() {
            let Self(seed) = self;
            eprintln!("to see this again: HTTPPUBSUB_TEST_SEED={seed} HTTPPUBSUB_TEST_ROUNDS=1");
        }
    }
}

/// The numbers of xorshift64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        // The state is never 0, so it starts elsewhere.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from(self.next_u64() % bound).expect("it is below a usize")
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.next_u64().to_le_bytes());
        words.take(count).collect()
    }
}

/// A message too long to be held: the same block again and again.
#[derive(Clone, Debug)]
pub struct Filler {
    block: Vec<u8>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its digest.
    pub sha512: Sha512,
}

impl Filler {
    /// A message of `bytes` bytes that depends on `seed`.
    pub fn new(bytes: u64, seed: u64) -> Self {
        let block = Random::new(seed).bytes(1024 * 1024);
        let mut hasher = Sha512Hasher::default();
        for part in parts(&block, bytes) {
            hasher.update(part);
        }
        let sha512 = hasher.finish();
        Self {
            block,
            bytes,
            sha512,
        }
    }

    /// Writes all of it.
    pub fn write_to(&self, sink: &mut impl Write) -> io::Result<()> {
        parts(&self.block, self.bytes).try_for_each(|part| sink.write_all(part))
    }
}

fn parts(block: &[u8], bytes: u64) -> impl Iterator<Item = &[u8]> {
    let length = block.len() as u64;
    (0..bytes.div_ceil(length)).map(move |index| {
        let left = bytes - index * length;
        &block[..usize::try_from(left.min(length)).expect("it is within the block")]
    })
}
