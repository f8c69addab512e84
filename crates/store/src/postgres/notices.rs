//! Notices that are owed.
//!
//! A notice is a row of a table of its own: owing and settling one are no changes of subscriptions
//! and wake nobody. It goes with its subscription, by a foreign key.
//!
//! Claims of several broadcasters pass over each other's rows (`SKIP LOCKED`), so that one that is
//! slow holds up none of the others.

use std::time::Duration;

use async_trait::async_trait;
use httppubsub_proto::time::Now;
use tokio_postgres::error::SqlState;

use crate::contract::{ClaimedNotice, Missed, NoticeOutcome, Notices, StoreError};
use crate::lock;
use crate::postgres::database::{Again, Parameters};
use crate::postgres::failure::Failure;
use crate::postgres::row::{
    Unreadable, bytes, interest_of, kind_of, moment, one, seconds, seconds_down, seconds_up,
    topic_of, url_of,
};
use crate::postgres::sql;
use crate::postgres::store::PostgresStore;
use crate::urls::Urls;

#[async_trait]
impl Notices for PostgresStore {
    async fn record_missed(&self, missed: Missed) -> Result<(), StoreError> {
        let sql = sql::OWE;
        let Missed {
            url,
            interest,
            topic,
            due,
        } = &missed;
        let parameters: Parameters<'_> = &[
            &bytes(url),
            &kind_of(interest),
            &interest.as_bytes(),
            &topic.as_bytes(),
            &seconds_up(*due),
        ];
        let doing = "recording a missed message";
        match self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await
        {
            // Its subscription is gone since it was looked up.
            Err(error) if is_of(&error, &SqlState::FOREIGN_KEY_VIOLATION) => Ok(()),
            done => done.map(drop),
        }
    }

    async fn claim_missed(
        &self,
        now: Now,
        lease: Duration,
        limit: usize,
    ) -> Result<Vec<ClaimedNotice>, StoreError> {
        let sql = sql::CLAIM;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // One for all that this statement takes. It tells claims apart, not notices.
        let lock = lock::random();
        let parameters: Parameters<'_> = &[
            &seconds(now),
            &limit,
            &lock,
            &seconds(now + lease),
            &seconds_down(now),
        ];
        let doing = "claiming notices";
        // A second time would take others: the first claim, whose answer was lost, holds its
        // notices until the lease ends.
        let rows = self.shared.query(doing, Again::No, sql, parameters).await?;
        let mut urls = Urls::default();
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut parse = || {
                Ok::<_, Unreadable>(ClaimedNotice {
                    url: url_of(&mut urls, row.get(3))?,
                    interest: interest_of(row.get(4), row.get(5))?,
                    recovery: url_of(&mut urls, row.get::<_, Option<&[u8]>>(6).unwrap_or(b""))?,
                    topic: topic_of(row.get(2))?,
                    attempts: u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX),
                    lock,
                })
            };
            match parse() {
                Ok(notice) => claimed.push((row.get::<_, i64>(0), notice)),
                Err(why) => {
                    let id: i64 = row.get(7);
                    tracing::warn!(id, %why, "dropped a notice that cannot be sent");
                    let sql = sql::DROP_NOTICE;
                    self.shared
                        .query(doing, Again::Harmless, sql, &[&id])
                        .await?;
                }
            }
        }
        // UPDATE ... RETURNING has no order.
        claimed.sort_by_key(|(due, _)| *due);
        Ok(claimed.into_iter().map(|(_, notice)| notice).collect())
    }

    async fn settle_missed(
        &self,
        notice: &ClaimedNotice,
        outcome: NoticeOutcome,
    ) -> Result<(), StoreError> {
        let doing = "settling a notice";
        let (url, kind) = (bytes(&notice.url), kind_of(&notice.interest));
        let interest = notice.interest.as_bytes();
        let done = match outcome {
            NoticeOutcome::Done => {
                let sql = sql::SETTLE_DONE;
                let parameters: Parameters<'_> = &[&url, &kind, &interest, &notice.lock];
                self.shared
                    .query(doing, Again::Harmless, sql, parameters)
                    .await
            }
            NoticeOutcome::Retry { attempts, due } => {
                let sql = sql::SETTLE_RETRY;
                let (attempts, due) = (i64::from(attempts), seconds_up(due));
                let parameters: Parameters<'_> =
                    &[&url, &kind, &interest, &notice.lock, &attempts, &due];
                self.shared
                    .query(doing, Again::Harmless, sql, parameters)
                    .await
            }
        };
        done.map(drop)
    }

    async fn next_missed(&self) -> Result<Option<Now>, StoreError> {
        let sql = sql::NEXT_NOTICE;
        let doing = "looking for the next notice";
        let rows = self.shared.query(doing, Again::Harmless, sql, &[]).await?;
        let row = one(&rows, doing)?;
        let moments: [Option<f64>; 2] = [row.get(0), row.get(1)];
        Ok(moments.into_iter().flatten().map(moment).min())
    }
}

/// `true` if the database refused a statement with this code.
fn is_of(error: &StoreError, state: &SqlState) -> bool {
    let StoreError::Unavailable { source, .. } = error else {
        return false;
    };
    match source.downcast_ref::<Failure>() {
        Some(Failure::Sql(error)) => error.code() == Some(state),
        _ => false,
    }
}
