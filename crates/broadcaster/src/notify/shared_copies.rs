//! Copies that stand for many rows, of which some are found at once and others later.
//!
//! All rows of a broadcaster's url get one copy. Where globs take long to match, some of these rows
//! are found after the copy was sent for others; they must not have a second one, and share the
//! outcome of the first.

use std::sync::Arc;

use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::StoreError;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use crate::index::groups::Groups;
use crate::index::row::Row;
use crate::notify::tally::Outcome;

/// The copies for websockets, one for each broadcaster, if some rows of its url are found at once
/// and others later: their outcome counts for all these rows.
#[derive(Clone, Default)]
pub(super) struct SharedCopies {
    /// `true` for the rows that were found at once: theirs is the copy that is delivered.
    is_first: bool,
    /// The outcome of each copy, once there is one.
    by_url: Arc<FxHashMap<SubscriberUrl, watch::Sender<Option<Outcome>>>>,
}

impl SharedCopies {
    /// Those of what was found at once.
    pub(super) fn of(groups: &Groups) -> Self {
        let of_broadcasters = groups.groups().map(|rows| &rows[0]);
        let of_broadcasters = of_broadcasters.filter(|row| row.is_one_copy());
        let by_url =
            of_broadcasters.map(|row| (row.subscriber.url.clone(), watch::Sender::default()));
        Self {
            is_first: true,
            by_url: Arc::new(by_url.collect()),
        }
    }

    /// The same for what is found later.
    pub(super) fn further(self) -> Self {
        Self {
            is_first: false,
            ..self
        }
    }

    /// The outcome of the copy for `row`, if that is delivered elsewhere.
    pub(super) async fn outcome(&self, row: &Row) -> Option<Outcome> {
        if self.is_first || self.by_url.is_empty() {
            return None;
        }
        let settled = self.by_url.get(&row.subscriber.url)?;
        let mut settled = settled.subscribe();
        // It has a deadline, so this ends.
        let outcome = settled.wait_for(Option::is_some).await;
        outcome.ok().and_then(|outcome| *outcome)
    }

    /// Notes the outcome of the copy for `row`, for rows of its url that are found later.
    pub(super) fn settle(&self, row: &Row, outcome: &Result<Outcome, StoreError>) {
        if !self.is_first || self.by_url.is_empty() {
            return;
        }
        if let Some(settled) = self.by_url.get(&row.subscriber.url) {
            let outcome = outcome.as_ref().copied().unwrap_or(Outcome::Unrecorded);
            settled.send_replace(Some(outcome));
        }
    }
}
