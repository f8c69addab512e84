//! Settling: the store changes that follow from a verdict on a delivery.
//!
//! A verdict says what a subscriber answered; what follows depends on whose row it is. A row of
//! this broadcaster's own websockets is removed if none of them wants it by now, one of another
//! broadcaster on the store is left to that, and one of a subscriber is removed as it asked.

use std::sync::Arc;

use httppubsub_net::error_chain;
use httppubsub_store::{Store, StoreError, Unsubscribed};

use crate::delivery::verdict::{Undelivered, Verdict};
use crate::hub::hub::Hub;
use crate::index::route::Route;
use crate::index::row::Row;
use crate::message::Message;
use crate::notices::notices::{Notices, When};
use crate::notify::tally::Outcome;
use crate::observe::metrics;

/// Removes and records what verdicts ask for.
#[derive(Debug)]
pub(crate) struct Settlement {
    /// Removes rows of subscribers.
    pub(crate) store: Arc<dyn Store>,
    /// Removes rows of this broadcaster's own, if no websocket wants them by now.
    pub(crate) hub: Arc<Hub>,
    /// Records what was missed.
    pub(crate) notices: Arc<Notices>,
}

impl Settlement {
    /// Removes or records what the verdict on a delivery to these rows of one url asks for.
    pub(super) async fn settle(
        &self,
        rows: &[Arc<Row>],
        message: &Message,
        verdict: Verdict,
    ) -> Result<Outcome, StoreError> {
        let row = &rows[0];
        let verdict = match verdict {
            Verdict::Unsubscribe if self.is_of_another_broadcaster(row) => {
                Verdict::Missed(Undelivered::Unwanted)
            }
            verdict => verdict,
        };
        match verdict {
            Verdict::Confirmed(subscribers) => Ok(Outcome::Confirmed(subscribers)),
            Verdict::Unsubscribe => {
                self.remove(rows).await;
                Ok(Outcome::Unsubscribed)
            }
            Verdict::Missed(why) => {
                log_missed(rows, &why);
                let when = match why.asks_for_a_notice() {
                    true => When::AtOnce,
                    false => When::AsScheduled,
                };
                // One notice tells of all that was missed: their recovery url is the same, unless
                // one copy was for all rows of the url.
                let first = match row.is_one_copy() {
                    true => rows.iter().find(|row| row.recovery.is_some()),
                    false => row.recovery.is_some().then_some(row),
                };
                match first {
                    Some(row) => {
                        let recorded = self.notices.record(row, &message.topic, when).await;
                        recorded.map(|()| Outcome::Missed)
                    }
                    None => Ok(Outcome::Dropped),
                }
            }
        }
    }

    /// `true` if the row is one that another broadcaster on the same store removes by itself. It
    /// may have one again for another websocket by the time that its answer is here.
    fn is_of_another_broadcaster(&self, row: &Row) -> bool {
        matches!(row.subscriber.route, Route::Peer(_)) && self.store.cluster().is_some()
    }

    /// Removes rows that are not wanted.
    pub(super) async fn remove(&self, rows: &[Arc<Row>]) {
        for row in rows {
            self.unsubscribe(row).await;
        }
    }

    /// Removes one row. A failure is not the publisher's: the row is there, and will answer so
    /// again.
    async fn unsubscribe(&self, row: &Row) {
        let (subscriber, interest) = (&row.subscriber.url, &row.interest);
        if let Route::Own(_) = row.subscriber.route {
            if let Err(error) = self.hub.remove_stale(interest).await {
                tracing::error!(%interest, %error, "cannot unsubscribe what no websocket wants");
            }
            return;
        }
        let removed = self.store.unsubscribe(subscriber.clone(), interest.clone());
        match removed.await {
            Ok(Unsubscribed::Removed) => {
                tracing::info!(
                    %subscriber,
                    %interest,
                    "unsubscribed by its answer to a delivery"
                );
            }
            Ok(Unsubscribed::Absent) => {}
            // It will answer so again.
            Err(error) => tracing::error!(%subscriber, %interest, %error, "cannot unsubscribe"),
        }
    }
}

/// Says in the log why these rows of one url missed a message, and counts those without a place.
fn log_missed(rows: &[Arc<Row>], why: &Undelivered) {
    let (subscriber, interest) = (&rows[0].subscriber.url, &rows[0].interest);
    if matches!(why, Undelivered::NoPlace) {
        metrics::no_place(rows.len() as u64);
    }
    // What was not tried is the consequence of failures that are in the log already.
    if why.is_not_tried() {
        let (why, rows) = (error_chain(why), rows.len());
        tracing::debug!(%subscriber, %interest, rows, why, "a delivery was not tried");
    } else {
        let why = error_chain(why);
        tracing::info!(%subscriber, %interest, why, "a delivery failed");
    }
}
