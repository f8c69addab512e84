//! Looks after the subscriptions at the broadcasters, who may have lost or kept what they should
//! not have (`docs/protocol/stateless.md` §9).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::RequestError;
use crate::state::ClientState;
use crate::subscriptions::changes;

/// Looks after them at every interval, and at once when something was missed or is not clear.
pub(crate) async fn reconcile_for_ever(state: Arc<ClientState>) {
    let interval = state.config.reconcile_interval;
    let mut due = Instant::now() + interval.min(LONGEST_INTERVAL);
    loop {
        tokio::select! {
            () = state.closing.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
            () = state.reconcile_now.notified() => {}
        }
        due = Instant::now() + interval.min(LONGEST_INTERVAL);
        tokio::select! {
            // A client that is closed waits for it; one that is dropped does not.
            () = state.stopped.cancelled() => return,
            reconciled = reconcile(&state) => if let Err(error) = reconciled {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot look after the subscriptions; trying again at the next interval"
                );
            }
        }
        // However much is missed, the broadcasters are not asked more often than this.
        tokio::select! {
            () = state.closing.cancelled() => return,
            () = tokio::time::sleep(PAUSE_MIN.min(interval)) => {}
        }
    }
}

/// Between two looks.
/// Notices of a busy topic may come by the hundred.
const PAUSE_MIN: Duration = Duration::from_secs(5);

/// A sum of moments must not overflow.
const LONGEST_INTERVAL: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Compares etags, and sends the whole list if they differ.
///
/// # Errors
///
/// Those of CHECK and SET. What is not clear stays so until the next time.
async fn reconcile(state: &ClientState) -> Result<(), RequestError> {
    let Some(urls) = &state.urls else {
        return Ok(());
    };
    // Held until the answer: a change meanwhile would make both sides differ again.
    let mut desired = state.desired.lock().await;
    // A client without subscriptions asks nothing, unless it may have left some.
    if desired.closed || (desired.is_empty() && !desired.unsure) {
        return Ok(());
    }
    let want = desired.set(&urls.recovery).etag(&urls.receive);
    if state.requests.check(urls).await? == want {
        desired.unsure = false;
        return Ok(());
    }
    tracing::info!("the broadcasters hold other subscriptions than are wanted; telling them");
    changes::set(state, urls, &mut desired).await
}
