//! Broadcasters that share the database.
//!
//! A heartbeat writes one row and reads all of them, in one statement: a broadcaster knows the
//! others as of the moment at which they know it. Its url is the key, its identity tells it from
//! another one that was configured with the same url, and its instance tells it from itself before
//! a restart.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use httppubsub_proto::url::SubscriberUrl;
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tokio_postgres::Row;

use crate::contract::{Census, Cluster, Heartbeat, Member, StoreError, View};
use crate::postgres::batch::Spending;
use crate::postgres::database::{Again, Parameters};
use crate::postgres::failure::Failure;
use crate::postgres::row::{bytes, moment, one, url_of};
use crate::postgres::sql;
use crate::postgres::store::PostgresStore;
use crate::urls::Urls;

#[async_trait]
impl Cluster for PostgresStore {
    async fn heartbeat(&self, heartbeat: Heartbeat, lease: Duration) -> Result<View, StoreError> {
        let Heartbeat {
            url,
            identity,
            instance,
            version,
            websockets,
        } = &heartbeat;
        // The others are read as they were before this. Whether this one was forgotten is known
        // only by who has its row locked: of one that was updated `xmax` is not 0.
        let sql = sql::HEARTBEAT;
        let known = self.shared.feed.newest.load(Ordering::Relaxed);
        let websockets = i64::try_from(*websockets).unwrap_or(i64::MAX);
        let parameters: Parameters<'_> = &[
            &bytes(url),
            instance,
            version,
            &lease.as_secs_f64(),
            &known,
            &websockets,
            &&identity[..],
        ];
        let doing = "saying that this broadcaster lives";
        let rows = self
            .shared
            .query(doing, Again::Harmless, sql, parameters)
            .await?;
        let first = one(&rows, doing)?;
        // Nothing was written if another lives there.
        let is_new: Option<bool> = first.get(9);
        // A row that this statement has made is not seen by it, so the row in the answer is the one
        // before. If the row was new, there was none.
        let before = rows
            .iter()
            .find(|row| is_new != Some(true) && row.get::<_, Option<&[u8]>>(1) == Some(bytes(url)));
        let broadcasters = broadcasters(&rows);
        let holder = broadcasters.iter().find(|it| it.url == *url);
        Ok(View {
            now: moment(first.get(0)),
            before: before.map(|row| row.get(8)),
            holder: holder.filter(|_| is_new.is_none()).cloned(),
            broadcasters,
        })
    }

    async fn census(&self) -> Result<Census, StoreError> {
        let sql = sql::CENSUS;
        let doing = "looking for broadcasters";
        let rows = self.shared.query(doing, Again::Harmless, sql, &[]).await?;
        let first = one(&rows, doing)?;
        let count = |at| u64::try_from(first.get::<_, i64>(at)).unwrap_or(0);
        Ok(Census {
            now: moment(first.get(0)),
            newest: first.get(8),
            subscriptions: count(9),
            owed: count(10),
            held: count(11),
            broadcasters: broadcasters(&rows),
        })
    }

    async fn leave(&self, url: SubscriberUrl, identity: [u8; 16]) -> Result<(), StoreError> {
        let sql = sql::LEAVE;
        let doing = "saying that this broadcaster stopped";
        self.shared
            .query(doing, Again::Harmless, sql, &[&bytes(&url), &&identity[..]])
            .await
            .map(drop)
    }

    async fn forget(&self, url: SubscriberUrl) -> Result<bool, StoreError> {
        let sql = sql::FORGET;
        let doing = "forgetting a broadcaster";
        let rows = self
            .shared
            .query(doing, Again::No, sql, &[&bytes(&url)])
            .await?;
        let is_forgotten = one(&rows, doing)?.get::<_, i64>(0) > 0;
        if is_forgotten {
            self.changed().await;
        }
        Ok(is_forgotten)
    }

    async fn spend(&self, code: [u8; 16], memory: Duration) -> Result<bool, StoreError> {
        // Spent in groups: with the guard shared, every request of every broadcaster comes here.
        let (reply, answer) = oneshot::channel();
        let give_up = self.shared.give_up();
        let spending = Spending {
            code,
            memory,
            give_up,
            reply,
        };
        let stopped = || Failure::Busy.doing("spending an authorization");
        let sent = timeout_at(give_up, self.spendings.send(spending)).await;
        sent.map_err(|_| stopped())?.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn release(&self, code: [u8; 16]) -> Result<(), StoreError> {
        let sql = sql::RELEASE;
        let doing = "releasing an authorization";
        self.shared
            .query(
                doing,
                Again::Harmless,
                sql,
                &[&&code[..], &self.shared.spender],
            )
            .await
            .map(drop)
    }
}

/// The members in the rows of [`sql::HEARTBEAT`] or [`sql::CENSUS`], whose columns 1 to 7 agree.
fn broadcasters(rows: &[Row]) -> Vec<Member> {
    let mut urls = Urls::default();
    let mut all = Vec::new();
    for row in rows {
        // The LEFT JOIN gives one row without a broadcaster where there is none.
        let Some(url) = row.get::<_, Option<&[u8]>>(1) else {
            continue;
        };
        match url_of(&mut urls, url) {
            Ok(url) => all.push(Member {
                url,
                version: row.get(2),
                started: moment(row.get(3)),
                seen: moment(row.get(4)),
                until: moment(row.get(5)),
                known: row.get(6),
                websockets: usize::try_from(row.get::<_, i64>(7)).unwrap_or(0),
            }),
            Err(why) => tracing::warn!(%why, "passed over a broadcaster"),
        }
    }
    all
}
