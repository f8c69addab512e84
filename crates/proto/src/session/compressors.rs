//! The choice of a compressor by the size of a body (`docs/protocol/stateful.md` §11).

/// The plain bodies a compressor is meant for: `min <= length < max`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressorSizes {
    /// Shortest length.
    pub min: u32,
    /// Shortest length that is too long; 0 and `u64::MAX` are no limit.
    pub max: u64,
}

impl CompressorSizes {
    /// `true` if the compressor is meant for a plain body of `plain_bytes` bytes.
    pub fn fit(&self, plain_bytes: u64) -> bool {
        u64::from(self.min) <= plain_bytes && (self.max == 0 || plain_bytes < self.max)
    }
}

/// First id of the dictionaries that were trained for one connection.
pub(super) const CUSTOM_MIN: u32 = 65_536;

/// The newest of the compressors, oldest first in the list, that is meant for this length; 0 for
/// none.
pub(super) fn newest_that_fits<'a>(
    compressors: impl DoubleEndedIterator<Item = (u32, &'a CompressorSizes)>,
    plain_bytes: u64,
) -> u32 {
    let fitting = compressors.rev().find(|(_, sizes)| sizes.fit(plain_bytes));
    fitting.map_or(0, |(id, _)| id)
}
