//! Subscriptions: who wants what.
//!
//! Rows are found by the SHA-256 of url and interest: an entry of an index has at most some 2,700
//! bytes, and a url or topic may have 65,535.
//!
//! Single changes are made in groups, by the tasks of [`crate::postgres::batch`]. A set is one call
//! of a function in the database, which computes the difference there and locks its url, so sets of
//! the same url come one after the other.

use async_trait::async_trait;
use deadpool_postgres::Object;
use futures_util::StreamExt as _;
use httppubsub_proto::subscription::{
    Interest, StrongEtag, StrongEtagHasher, Subscription, SubscriptionSet,
};
use httppubsub_proto::url::SubscriberUrl;
use tokio::time::timeout_at;

use crate::contract::{Changed, StoreError, Subscribed, Subscriptions, Unsubscribed};
use crate::postgres::database::{Again, Attempts, Parameters};
use crate::postgres::failure::Failure;
use crate::postgres::row::{bytes, one};
use crate::postgres::sql;
use crate::postgres::store::PostgresStore;

#[async_trait]
impl Subscriptions for PostgresStore {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed, StoreError> {
        match self.change(&self.adding, subscription).await? {
            true => Ok(Subscribed::Added),
            false => Ok(Subscribed::Existed),
        }
    }

    async fn unsubscribe(
        &self,
        url: SubscriberUrl,
        interest: Interest,
    ) -> Result<Unsubscribed, StoreError> {
        let it = Subscription {
            url,
            interest,
            recovery: None,
        };
        match self.change(&self.removing, it).await? {
            true => Ok(Unsubscribed::Removed),
            false => Ok(Unsubscribed::Absent),
        }
    }

    async fn set(&self, url: SubscriberUrl, set: SubscriptionSet) -> Result<Changed, StoreError> {
        let (mut kinds, mut interests, mut recoveries) = (Vec::new(), Vec::new(), Vec::new());
        for (topic, recovery) in set.exacts() {
            // Arrays of columns and not rows of parameters: one statement for sets of any size.
            kinds.push(0_i16);
            interests.push(topic.as_bytes());
            recoveries.push(recovery.as_ref().map_or(&b""[..], bytes));
        }
        for (glob, recovery) in set.globs() {
            kinds.push(1_i16);
            interests.push(glob.as_str().as_bytes());
            recoveries.push(recovery.as_ref().map_or(&b""[..], bytes));
        }
        let sql = sql::SET;
        let parameters: Parameters<'_> = &[&bytes(&url), &kinds, &interests, &recoveries];
        let doing = "setting subscriptions";
        let rows = self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await?;
        let row = one(&rows, doing)?;
        let count = |at| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
        let changed = Changed {
            added: count(0),
            removed: count(1),
            updated: count(2),
        };
        // Also a set that changed nothing may rely on what another call has changed a moment ago.
        if changed == Changed::default() {
            self.settled().await;
        } else {
            self.changed().await;
        }
        Ok(changed)
    }

    async fn etag(&self, url: SubscriberUrl) -> Result<StrongEtag, StoreError> {
        let shared = &self.shared;
        let mut attempts = Attempts::new(shared, "computing an etag", Again::Harmless);
        loop {
            let connection = attempts.connection().await?;
            let made = timeout_at(attempts.give_up, etag(&connection, &url)).await;
            if let Some(etag) = attempts.after(connection, made).await? {
                self.settled().await;
                return Ok(etag);
            }
        }
    }
}

/// The etag of the rows of `url`, read as they come, so that a million rows take no memory.
async fn etag(connection: &Object, url: &SubscriberUrl) -> Result<StrongEtag, Failure> {
    let statement = connection.prepare_cached(sql::OF_URL).await?;
    let mut etag = StrongEtagHasher::new(url);
    let rows = connection.query_raw(&statement, [bytes(url)]).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.next().await {
        let row = row?;
        let interest: &[u8] = row.get(1);
        let recovery = row.get::<_, Option<&[u8]>>(2).map(std::str::from_utf8);
        // The same rows as the observer gets.
        let Ok(recovery) = recovery.transpose() else {
            continue;
        };
        match row.get(0) {
            0_i16 => etag.exact(interest, recovery),
            _ => {
                if let Ok(glob) = std::str::from_utf8(interest) {
                    etag.glob(glob, recovery);
                }
            }
        }
    }
    Ok(etag.finish())
}
