//! Progress of a long request, told while it is waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Waits for `asking`, calling `progress` from time to time with the number of bytes that were
/// `sent`, and of `all`; the last call is with all of them twice, unless it fails.
pub(crate) async fn with_progress<T, E>(
    asking: impl Future<Output = Result<T, E>>,
    sent: &AtomicU64,
    all: u64,
    mut progress: impl FnMut(u64, u64),
) -> Result<T, E> {
    let mut asking = std::pin::pin!(asking);
    let mut told = None;
    loop {
        tokio::select! {
            // The answer first: a last report of progress is then the whole length.
            biased;
            answer = &mut asking => {
                let answer = answer?;
                if told != Some(all) {
                    progress(all, all);
                }
                return Ok(answer);
            }
            () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                let now = sent.load(Ordering::Relaxed);
                if told.replace(now) != Some(now) {
                    progress(now, all);
                }
            }
        }
    }
}

/// Ten times a second are enough for a bar that people look at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
