//! Rejections: the reasons for which there is too much to do, counted for metrics and the log.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::metrics;

/// Too much is under way; later it may be less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overloaded {
    /// Many notifications are in progress, and they are late.
    #[error("this broadcaster has more to do than it can; send it again later")]
    Late,
    /// There is no room for its deliveries among all that are pending.
    #[error("too many deliveries wait for their turn here; send it again later")]
    Deliveries,
    /// There is no room for it among notifications that are not matched at once.
    #[error("too many notifications wait to be matched with many globs; send it again later")]
    Matching,
}

/// The notifications that were rejected since the log was told last.
#[derive(Debug, Default)]
pub(crate) struct Rejections(AtomicU64);

impl Rejections {
    /// Counts a notification that is rejected because of `why`, which is returned.
    pub(super) fn count(&self, why: Overloaded) -> Overloaded {
        self.0.fetch_add(1, Ordering::Relaxed);
        metrics::rejected();
        why
    }

    /// The number since the last call.
    pub(super) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}
