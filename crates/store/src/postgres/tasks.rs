//! Background work: waking others, looking for their changes, forgetting what is old.
//!
//! Both tasks end with the store. Neither is needed for a call to be right: without them others
//! learn of changes a poll interval later, and tables grow.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::postgres::database::{Again, Shared};
use crate::postgres::sql;

/// Of each time the store is woken, others are not woken more often than this.
pub(super) const BETWEEN_WAKES: Duration = Duration::from_millis(10);

/// The interval at which old entries are forgotten.
pub(super) const BETWEEN_TRIMS: Duration = Duration::from_secs(10);

/// Says on the channel of the database that something changed. Not in the transactions that do:
/// those would end one after the other.
pub(super) async fn wake_others(shared: Arc<Shared>) {
    loop {
        shared.changed.notified().await;
        let sql = sql::WAKE_OTHERS;
        let woken = shared.query("waking others", Again::Harmless, sql, &[]);
        if let Err(error) = woken.await {
            tracing::debug!(%error, "cannot wake others; they will look by themselves");
        }
        // Changes in this time are announced together: each NOTIFY takes a lock that all databases
        // of the server share.
        tokio::time::sleep(BETWEEN_WAKES).await;
    }
}

/// Keeps the observer up to date also while nobody asks for it, and the tables short.
pub(super) async fn look_for_changes(shared: Arc<Shared>) {
    let mut trimmed = Instant::now();
    // One line in the log when it is lost and one when it is back, not one a second.
    let mut is_well = true;
    loop {
        tokio::select! {
            () = shared.feed.woken.notified() => {}
            () = tokio::time::sleep(shared.options.poll_interval) => {}
        }
        match shared.feed.look().await {
            Ok(()) if !is_well => {
                is_well = true;
                tracing::info!("the database is back");
            }
            Err(error) if is_well => {
                is_well = false;
                tracing::error!(%error, "the database cannot be reached; trying again");
            }
            _ => {}
        }
        if trimmed.elapsed() >= BETWEEN_TRIMS {
            trimmed = Instant::now();
            if let Err(error) = shared.trim().await {
                tracing::warn!(%error, "cannot forget what is old");
            }
        }
    }
}
