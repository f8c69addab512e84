//! Topics in flight.
//!
//! Entries of a broadcaster that lives are its own. Expired ones are everybody's: their
//! broadcaster did not renew them, so it is taken for dead, and the first that asks gets them.

use std::time::Duration;

use async_trait::async_trait;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::contract::{InFlight, StoreError, TopicInFlight};
use crate::postgres::database::{Again, Parameters};
use crate::postgres::row::{Unreadable, bytes, seconds_down, seconds_up, topic_of, url_of};
use crate::postgres::sql;
use crate::postgres::store::PostgresStore;
use crate::urls::Urls;

#[async_trait]
impl InFlight for PostgresStore {
    async fn record_in_flight(&self, in_flight: TopicInFlight) -> Result<(), StoreError> {
        let TopicInFlight {
            broadcaster,
            topic,
            until,
        } = &in_flight;
        let sql = sql::RECORD_IN_FLIGHT;
        let parameters: Parameters<'_> =
            &[&bytes(broadcaster), &topic.as_bytes(), &seconds_up(*until)];
        let doing = "recording a notification in flight";
        let done = self.shared.query(doing, Again::Harmless, sql, parameters);
        done.await.map(drop)
    }

    async fn forget_in_flight(
        &self,
        broadcaster: SubscriberUrl,
        topics: Vec<Topic>,
    ) -> Result<(), StoreError> {
        let sql = sql::FORGET_IN_FLIGHT;
        let topics: Vec<_> = topics.iter().map(Topic::as_bytes).collect();
        let parameters: Parameters<'_> = &[&bytes(&broadcaster), &topics];
        let doing = "forgetting what is in flight no more";
        let done = self.shared.query(doing, Again::Harmless, sql, parameters);
        done.await.map(drop)
    }

    async fn in_flight(
        &self,
        broadcaster: SubscriberUrl,
        now: Now,
        limit: usize,
    ) -> Result<Vec<TopicInFlight>, StoreError> {
        let sql = sql::IN_FLIGHT;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: Parameters<'_> = &[&bytes(&broadcaster), &seconds_down(now), &limit];
        let doing = "looking for what was in flight";
        let rows = self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await?;
        let mut urls = Urls::default();
        let mut found = Vec::new();
        for row in &rows {
            let mut parse = || {
                Ok::<_, Unreadable>(TopicInFlight {
                    broadcaster: url_of(&mut urls, row.get(0))?,
                    topic: topic_of(row.get(1))?,
                    until: Now::from_unix(Duration::from_secs(
                        u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
                    )),
                })
            };
            match parse() {
                Ok(it) => found.push(it),
                // Passed over: the rest of the list is still worth telling.
                Err(why) => tracing::warn!(%why, "cannot tell what was in flight"),
            }
        }
        Ok(found)
    }
}
