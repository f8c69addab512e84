//! Looks after the subscriptions at the broadcasters, who may have lost or kept what they should
//! not have (`docs/protocol/stateless.md` §9).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::changes;
use crate::core::Core;
use crate::error::RequestError;

/// Looks after them at every interval, and at once when something was missed or is not clear.
pub(crate) async fn reconcile_for_ever(core: Arc<Core>) {
    let interval = core.config.reconcile_interval;
    let mut due = Instant::now() + interval.min(LONGEST_INTERVAL);
    loop {
        tokio::select! {
            () = core.closing.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
            () = core.doubt.notified() => {}
        }
        due = Instant::now() + interval.min(LONGEST_INTERVAL);
        tokio::select! {
            // A client that is closed waits for it; one that is dropped does not.
            () = core.stopped.cancelled() => return,
            reconciled = reconcile(&core) => if let Err(error) = reconciled {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot look after the subscriptions; trying again at the next interval"
                );
            }
        }
        // However much is missed, the broadcasters are not asked more often than this.
        tokio::select! {
            () = core.closing.cancelled() => return,
            () = tokio::time::sleep(PAUSE_MIN.min(interval)) => {}
        }
    }
}

/// Between two looks.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// A sum of moments must not overflow.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10 * 365 * 86_400);

async fn reconcile(core: &Core) -> Result<(), RequestError> {
    let Some(urls) = &core.urls else {
        return Ok(());
    };
    let mut wanted = core.wanted.lock().await;
    if wanted.closed || (wanted.is_empty() && !wanted.unsure) {
        return Ok(());
    }
    let want = wanted.set(&urls.recovery).etag(&urls.receive);
    if core.requests.check(urls).await? == want {
        wanted.unsure = false;
        return Ok(());
    }
    tracing::info!("the broadcasters hold other subscriptions than are wanted; telling them");
    changes::set(core, urls, &mut wanted).await
}
