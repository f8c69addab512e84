//! The compressors that a broadcaster has announced on one connection.

use crate::session::compressors::{CompressorSizes, newest_that_fits};

/// Compressors that are enabled, and disabled ones that the subscriber may still use.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// Oldest first.
    enabled: Vec<(u32, CompressorSizes)>,
    retired: Vec<Retired>,
}

/// A compressor that was disabled, but may have been used before the subscriber knew.
#[derive(Debug)]
struct Retired {
    id: u32,
    /// Number of deliveries begun when DISABLE left; `None` while it waits.
    disabled_after: Option<u64>,
}

impl Announced {
    pub(super) fn enable(&mut self, id: u32, sizes: CompressorSizes) {
        self.enabled.push((id, sizes));
    }

    pub(super) fn disable(&mut self, id: u32) {
        self.enabled.retain(|(enabled, _)| *enabled != id);
        // Kept, as notifications that were compressed with it may be on their way.
        self.retired.push(Retired {
            id,
            disabled_after: None,
        });
    }

    /// Notes that DISABLE for `id` leaves when `deliveries` have begun.
    pub(super) fn disable_leaves(&mut self, id: u32, deliveries: u64) {
        for retired in &mut self.retired {
            if retired.id == id {
                retired.disabled_after = Some(deliveries);
            }
        }
    }

    /// Forgets the disabled compressors that the subscriber cannot use now that it has acknowledged
    /// the delivery number `delivery`. `under_way` is the compressor of the NOTIFY_STREAM under
    /// way.
    pub(super) fn acknowledged(&mut self, delivery: u64, under_way: Option<u64>) {
        // A delivery sent after DISABLE was read after it, so its acknowledgement tells that
        // DISABLE is known. But acknowledgements may overtake the later parts of a notification.
        self.retired.retain(|retired| {
            retired.disabled_after.is_none_or(|after| delivery <= after)
                || under_way == Some(retired.id.into())
        });
    }

    /// The compressor to use for a plain body of this length; 0 for none (§11).
    pub(super) fn best_for(&self, plain_bytes: u64) -> u32 {
        let enabled = self.enabled.iter().map(|(id, sizes)| (*id, sizes));
        newest_that_fits(enabled, plain_bytes)
    }

    /// `true` if the subscriber may have compressed with `id`.
    pub(super) fn accepts(&self, id: u64) -> bool {
        let enabled = self.enabled.iter().map(|(id, _)| *id);
        let retired = self.retired.iter().map(|it| it.id);
        enabled.chain(retired).any(|known| u64::from(known) == id)
    }

    pub(super) fn is_enabled(&self, id: u32) -> bool {
        self.enabled.iter().any(|(enabled, _)| *enabled == id)
    }
}
