//! What each method of the store does to the tables, inside a transaction that somebody else ends.

use std::cmp::Ordering;
use std::sync::LazyLock;
use std::time::Duration;

use httppubsub_proto::subscription::{
    Interest, StrongEtag, StrongEtagHasher, Subscription, SubscriptionSet,
};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, params};

use super::failure::Failure;
use super::feed::{Feed, Log};
use super::row::{Kind, Unreadable, blob, interest_of, recovery, text, topic_of, url_of};
use crate::lock;
use crate::store::{
    Changed, ClaimedNotice, InFlight, Missed, NoticeOutcome, Subscribed, Unsubscribed,
};
use crate::urls::Urls;

pub(super) fn subscribe(
    connection: &Connection,
    subscription: &Subscription,
) -> Result<Subscribed, Failure> {
    let (table, interest) = table_and_key(&subscription.interest);
    let recovery = recovery_column(subscription.recovery.as_ref());
    let rows = connection.prepare_cached(&table.insert)?.execute(params![
        subscription.url.as_str(),
        interest,
        recovery
    ])?;
    Ok(if rows == 0 {
        Subscribed::Existed
    } else {
        Subscribed::Added
    })
}

pub(super) fn unsubscribe(
    connection: &Connection,
    url: &SubscriberUrl,
    interest: &Interest,
) -> Result<Unsubscribed, Failure> {
    let (table, interest) = table_and_key(interest);
    let rows = connection
        .prepare_cached(&table.delete)?
        .execute(params![url.as_str(), interest])?;
    Ok(if rows == 0 {
        Unsubscribed::Absent
    } else {
        Unsubscribed::Removed
    })
}

pub(super) fn set(
    connection: &Connection,
    url: &SubscriberUrl,
    set: &SubscriptionSet,
) -> Result<Changed, Failure> {
    let exacts = set.exacts().iter().map(|(topic, recovery)| Entry {
        interest: topic.as_bytes(),
        recovery: recovery_column(recovery.as_ref()),
    });
    let globs = set.globs().iter().map(|(glob, recovery)| Entry {
        interest: glob.as_str().as_bytes(),
        recovery: recovery_column(recovery.as_ref()),
    });
    let mut changed = Changed::default();
    set_table(connection, &EXACTS, url, exacts, &mut changed)?;
    set_table(connection, &GLOBS, url, globs, &mut changed)?;
    Ok(changed)
}

struct Entry<'a> {
    interest: &'a [u8],
    recovery: Option<&'a str>,
}

/// Walks the wanted entries and the rows side by side, both ascending by bytes.
fn set_table<'a>(
    connection: &Connection,
    table: &Table,
    url: &SubscriberUrl,
    wanted: impl Iterator<Item = Entry<'a>>,
    changed: &mut Changed,
) -> Result<(), Failure> {
    let mut missing = Vec::new();
    let mut moved = Vec::new();
    let mut surplus = Vec::new();
    let mut wanted = wanted.peekable();
    let mut statement = connection.prepare_cached(&table.of_url)?;
    let mut rows = statement.query([url.as_str()])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let Ok(interest) = table.interest_bytes(row.get_ref(1)?) else {
            // No list can name it.
            surplus.push(id);
            continue;
        };
        let is_wanted = loop {
            match wanted.peek().map(|entry| entry.interest.cmp(interest)) {
                Some(Ordering::Less) => missing.extend(wanted.next()),
                Some(Ordering::Equal) => break wanted.next(),
                Some(Ordering::Greater) | None => break None,
            }
        };
        match is_wanted {
            Some(entry) if recovery(row.get_ref(2)?) == Ok(entry.recovery) => {}
            Some(entry) => moved.push((id, entry.recovery)),
            None => surplus.push(id),
        }
    }
    drop(rows);
    missing.extend(wanted);

    for id in &surplus {
        connection.prepare_cached(&table.delete_id)?.execute([id])?;
    }
    for (id, recovery) in &moved {
        match recovery {
            Some(recovery) => connection
                .prepare_cached(&table.move_id)?
                .execute(params![id, recovery])?,
            None => connection
                .prepare_cached(&table.move_id_nowhere)?
                .execute([id])?,
        };
    }
    for entry in &missing {
        let interest = table.key(entry.interest);
        let parameters = params![url.as_str(), interest, entry.recovery];
        connection
            .prepare_cached(&table.insert)?
            .execute(parameters)?;
    }
    changed.removed += surplus.len() as u64;
    changed.updated += moved.len() as u64;
    changed.added += missing.len() as u64;
    Ok(())
}

pub(super) fn etag(
    connection: &Connection,
    url: &SubscriberUrl,
    feed: &Feed,
) -> Result<StrongEtag, Failure> {
    let snapshot = connection.unchecked_transaction()?;
    let mut etag = StrongEtagHasher::new(url);
    for table in [&*EXACTS, &*GLOBS] {
        let mut statement = snapshot.prepare_cached(&table.of_url)?;
        let mut rows = statement.query([url.as_str()])?;
        while let Some(row) = rows.next()? {
            if feed.is_closing() {
                return Err(Failure::Stopped);
            }
            // The same rows as the observer is told of.
            let Ok(recovery) = recovery(row.get_ref(2)?) else {
                continue;
            };
            match table.kind {
                Kind::Exact => {
                    if let Ok(topic) = blob(row.get_ref(1)?, "the topic") {
                        etag.exact(topic, recovery);
                    }
                }
                Kind::Glob => {
                    if let Ok(glob) = text(row.get_ref(1)?, "the glob") {
                        etag.glob(glob, recovery);
                    }
                }
            }
        }
    }
    Ok(etag.finish())
}

pub(super) fn record_missed(connection: &Connection, missed: &Missed) -> Result<(), Failure> {
    let (table, interest) = table_and_key(&missed.interest);
    let url = missed.url.as_str();
    let due = seconds_up(missed.due);
    let mut statement = connection.prepare_cached(&table.owe)?;
    match table.kind {
        Kind::Exact => statement.execute(params![url, interest, due])?,
        Kind::Glob => statement.execute(params![url, interest, due, missed.topic.as_bytes()])?,
    };
    Ok(())
}

pub(super) fn claim_missed(
    connection: &Connection,
    now: Now,
    lease: Duration,
    limit: usize,
) -> Result<Vec<ClaimedNotice>, Failure> {
    let mut due = Vec::new();
    let mut urls = Urls::default();
    for table in [&*EXACTS, &*GLOBS] {
        let mut nonsense = Vec::new();
        let mut statement = connection.prepare_cached(&table.due)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![seconds(now), limit])?;
        while let Some(row) = rows.next()? {
            let (id, since): (i64, f64) = (row.get(0)?, row.get(1)?);
            match notice(&mut urls, table.kind, row)? {
                Ok(notice) => due.push((since, id, table, notice)),
                Err(why) => {
                    tracing::warn!(table.name, id, %why, "dropped a notice that cannot be sent");
                    nonsense.push(id);
                }
            }
        }
        drop(rows);
        // It would be due for ever.
        for id in nonsense {
            connection
                .prepare_cached(&table.owe_nothing_id)?
                .execute([id])?;
        }
    }
    due.sort_by(|one, other| one.0.total_cmp(&other.0));
    due.truncate(limit);
    let ends = seconds(now + lease);
    for (_, id, table, notice) in &mut due {
        notice.lock = lock::random();
        connection
            .prepare_cached(&table.hold)?
            .execute(params![*id, notice.lock, ends])?;
    }
    Ok(due.into_iter().map(|(_, _, _, notice)| notice).collect())
}

/// The notice in a row of [`Table::due`], not held yet.
fn notice(
    urls: &mut Urls,
    kind: Kind,
    row: &Row<'_>,
) -> rusqlite::Result<Result<ClaimedNotice, Unreadable>> {
    let attempts = match row.get_ref(2)? {
        ValueRef::Integer(attempts) => u32::try_from(attempts.max(0)).unwrap_or(u32::MAX),
        _ => 0,
    };
    let (url, interest, recovery) = (row.get_ref(3)?, row.get_ref(4)?, row.get_ref(5)?);
    let topic = row.get_ref(6)?;
    let mut parse = || {
        Ok(ClaimedNotice {
            url: url_of(urls, text(url, "the url")?)?,
            interest: interest_of(kind, interest)?,
            recovery: url_of(urls, text(recovery, "the recovery url")?)?,
            topic: topic_of(blob(topic, "the topic")?)?,
            attempts,
            lock: 0,
        })
    };
    Ok(parse())
}

pub(super) fn settle_missed(
    connection: &Connection,
    notice: &ClaimedNotice,
    outcome: NoticeOutcome,
) -> Result<(), Failure> {
    let (table, interest) = table_and_key(&notice.interest);
    let url = notice.url.as_str();
    match outcome {
        NoticeOutcome::Done => connection
            .prepare_cached(&table.owe_nothing)?
            .execute(params![url, interest, notice.lock])?,
        NoticeOutcome::Retry { attempts, due } => connection
            .prepare_cached(&table.owe_again)?
            .execute(params![
                url,
                interest,
                notice.lock,
                attempts,
                seconds_up(due)
            ])?,
    };
    Ok(())
}

pub(super) fn next_missed(connection: &Connection) -> Result<Option<Now>, Failure> {
    let mut earliest = None;
    for sql in [
        &EXACTS.next_free,
        &EXACTS.next_held,
        &GLOBS.next_free,
        &GLOBS.next_held,
    ] {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else { continue };
        let Some(next) = moment(row.get_ref(0)?) else {
            continue;
        };
        earliest = Some(earliest.map_or(next, |earliest: Now| earliest.min(next)));
    }
    Ok(earliest)
}

pub(super) fn record_in_flight(
    connection: &Connection,
    in_flight: &InFlight,
) -> Result<(), Failure> {
    let InFlight {
        broadcaster,
        topic,
        until,
    } = in_flight;
    let until = seconds_up(*until);
    connection
        .prepare_cached(RECORD_IN_FLIGHT)?
        .execute(params![broadcaster.as_str(), topic.as_bytes(), until])?;
    Ok(())
}

pub(super) fn forget_in_flight(
    connection: &Connection,
    broadcaster: &SubscriberUrl,
    topics: &[Topic],
) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached(FORGET_IN_FLIGHT)?;
    for topic in topics {
        statement.execute(params![broadcaster.as_str(), topic.as_bytes()])?;
    }
    Ok(())
}

pub(super) fn in_flight(
    connection: &Connection,
    broadcaster: &SubscriberUrl,
    now: Now,
    limit: usize,
) -> Result<Vec<InFlight>, Failure> {
    let mut urls = Urls::default();
    let mut found = Vec::new();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(IN_FLIGHT)?;
    let mut rows = statement.query(params![broadcaster.as_str(), seconds(now), limit])?;
    while let Some(row) = rows.next()? {
        let (url, topic, until) = (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?);
        let mut parse = || {
            Ok::<_, Unreadable>(InFlight {
                broadcaster: url_of(&mut urls, text(url, "the url")?)?,
                topic: topic_of(blob(topic, "the topic")?)?,
                until: moment(until).unwrap_or(now),
            })
        };
        match parse() {
            Ok(it) => found.push(it),
            Err(why) => tracing::warn!(%why, "cannot tell what was in flight"),
        }
    }
    Ok(found)
}

const RECORD_IN_FLIGHT: &str = "INSERT INTO httppubsub_in_flight (url, topic, until) \
     VALUES (?1, ?2, ?3) ON CONFLICT (url, topic) DO UPDATE SET until = excluded.until";

const FORGET_IN_FLIGHT: &str = "DELETE FROM httppubsub_in_flight WHERE url = ?1 AND topic = ?2";

const IN_FLIGHT: &str = "SELECT url, topic, until FROM httppubsub_in_flight WHERE url = ?1 \
     UNION SELECT url, topic, until FROM httppubsub_in_flight WHERE until <= ?2 LIMIT ?3";

/// Forgets the oldest changes once there are noticeably more than `kept`.
pub(super) fn trim_changes(connection: &Connection, kept: i64) -> Result<(), Failure> {
    let log = Log::of(connection)?;
    if is_too_long(&log, kept) {
        connection
            .prepare_cached("DELETE FROM httppubsub_changes WHERE seq <= ?1")?
            .execute([log.newest.saturating_sub(kept)])?;
    }
    Ok(())
}

/// Trimming a few at a time costs less than one each time.
pub(super) fn is_too_long(log: &Log, kept: i64) -> bool {
    log.len() > kept.saturating_add(kept / 4)
}

/// One of the two tables and the statements that are made to it.
struct Table {
    kind: Kind,
    name: &'static str,
    insert: String,
    delete: String,
    of_url: String,
    delete_id: String,
    move_id: String,
    move_id_nowhere: String,
    owe: String,
    due: String,
    hold: String,
    owe_nothing: String,
    owe_nothing_id: String,
    owe_again: String,
    next_free: String,
    next_held: String,
}

static EXACTS: LazyLock<Table> = LazyLock::new(|| Table::new(Kind::Exact));

static GLOBS: LazyLock<Table> = LazyLock::new(|| Table::new(Kind::Glob));

impl Table {
    fn new(kind: Kind) -> Self {
        // The columns of the interest and of the topic that a notice announces, and what happens
        // to the latter when one is owed and when none is any more.
        let (name, key, topic, announce, forget) = match kind {
            Kind::Exact => ("httppubsub_subscription_exacts", "exact", "exact", "", ""),
            Kind::Glob => (
                "httppubsub_subscription_globs",
                "glob",
                "missed_topic",
                ", missed_topic = ?4",
                ", missed_topic = NULL",
            ),
        };
        let unlock = "missed_lock_id = NULL, missed_lock_expires_at = NULL";
        let nothing =
            format!("{unlock}, missed_attempts = NULL, missed_next_retry_at = NULL{forget}");
        let recoverable = "missed_url IS NOT NULL AND missed_url <> ''";
        Self {
            kind,
            name,
            insert: format!(
                "INSERT INTO {name} (url, {key}, missed_url) VALUES (?1, ?2, ?3) \
                 ON CONFLICT ({key}, url) DO NOTHING"
            ),
            delete: format!("DELETE FROM {name} WHERE url = ?1 AND {key} = ?2"),
            of_url: format!(
                "SELECT id, {key}, missed_url FROM {name} WHERE url = ?1 ORDER BY {key}"
            ),
            delete_id: format!("DELETE FROM {name} WHERE id = ?1"),
            move_id: format!("UPDATE {name} SET missed_url = ?2 WHERE id = ?1"),
            // Nobody can be told any more of what may have been missed.
            move_id_nowhere: format!(
                "UPDATE {name} SET missed_url = NULL, {nothing} WHERE id = ?1"
            ),
            owe: format!(
                "UPDATE {name} SET missed_next_retry_at = CASE WHEN missed_lock_id IS NULL \
                 THEN min(?3, coalesce(missed_next_retry_at, ?3)) ELSE ?3 END, \
                 {unlock}, missed_attempts = 0{announce} \
                 WHERE url = ?1 AND {key} = ?2 AND {recoverable}"
            ),
            due: format!(
                "SELECT id, missed_next_retry_at, missed_attempts, url, {key}, missed_url, {topic} \
                 FROM {name} WHERE missed_next_retry_at <= ?1 \
                 AND (missed_lock_expires_at IS NULL OR missed_lock_expires_at <= ?1) \
                 AND {recoverable} ORDER BY missed_next_retry_at LIMIT ?2"
            ),
            hold: format!(
                "UPDATE {name} SET missed_lock_id = ?2, missed_lock_expires_at = ?3 WHERE id = ?1"
            ),
            owe_nothing: format!(
                "UPDATE {name} SET {nothing} WHERE url = ?1 AND {key} = ?2 AND missed_lock_id = ?3"
            ),
            owe_nothing_id: format!("UPDATE {name} SET {nothing} WHERE id = ?1"),
            owe_again: format!(
                "UPDATE {name} SET {unlock}, missed_attempts = ?4, missed_next_retry_at = ?5 \
                 WHERE url = ?1 AND {key} = ?2 AND missed_lock_id = ?3"
            ),
            next_free: format!(
                "SELECT missed_next_retry_at FROM {name} WHERE missed_next_retry_at IS NOT NULL \
                 AND missed_lock_expires_at IS NULL AND {recoverable} \
                 ORDER BY missed_next_retry_at LIMIT 1"
            ),
            next_held: format!(
                "SELECT min(max(missed_next_retry_at, missed_lock_expires_at)) FROM {name} \
                 WHERE missed_next_retry_at IS NOT NULL AND missed_lock_expires_at IS NOT NULL \
                 AND {recoverable}"
            ),
        }
    }

    /// Topics are bound as blobs and globs as text: the other would compare unequal.
    fn key<'a>(&self, interest: &'a [u8]) -> ToSqlOutput<'a> {
        ToSqlOutput::Borrowed(match self.kind {
            Kind::Exact => ValueRef::Blob(interest),
            Kind::Glob => ValueRef::Text(interest),
        })
    }

    fn interest_bytes<'a>(&self, value: ValueRef<'a>) -> Result<&'a [u8], Unreadable> {
        match self.kind {
            Kind::Exact => blob(value, "the topic"),
            Kind::Glob => text(value, "the glob").map(str::as_bytes),
        }
    }
}

fn table_and_key(interest: &Interest) -> (&'static Table, ToSqlOutput<'_>) {
    let table = match interest {
        Interest::Exact(_) => &EXACTS,
        Interest::Glob(_) => &GLOBS,
    };
    (table, table.key(interest.as_bytes()))
}

/// An empty recovery url is none (`docs/protocol/subscriptions.md` §1).
fn recovery_column(recovery: Option<&SubscriberUrl>) -> Option<&str> {
    recovery
        .map(SubscriberUrl::as_str)
        .filter(|url| !url.is_empty())
}

/// A notice is due in whole seconds, rounded up, as the published broadcaster stores it.
fn seconds_up(due: Now) -> i64 {
    let since = due.since_unix();
    let seconds = since
        .as_secs()
        .saturating_add(u64::from(since.subsec_nanos() > 0));
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

/// The end of a hold is a real number, as the published broadcaster stores it.
fn seconds(moment: Now) -> f64 {
    moment.since_unix().as_secs_f64()
}

/// When a notice can be claimed. What is no number is never due.
fn moment(value: ValueRef<'_>) -> Option<Now> {
    let since = match value {
        ValueRef::Integer(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        ValueRef::Real(seconds) => {
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
        }
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => return None,
    };
    Some(Now::from_unix(since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;

    /// No statement may get slower with the subscriptions of others or with notices not due yet.
    #[test]
    fn every_statement_finds_its_rows_by_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        for (table, [key, of_url, due, held]) in [
            (
                &EXACTS,
                [
                    "exact_url",
                    "exacts_of_url",
                    "exacts_next_retry_at",
                    "exacts_held",
                ],
            ),
            (
                &GLOBS,
                [
                    "glob_url",
                    "globs_of_url",
                    "globs_next_retry_at",
                    "globs_held",
                ],
            ),
        ] {
            for (sql, index) in [
                (&table.delete, key),
                (&table.of_url, of_url),
                (&table.delete_id, "PRIMARY KEY"),
                (&table.move_id, "PRIMARY KEY"),
                (&table.move_id_nowhere, "PRIMARY KEY"),
                (&table.owe, key),
                (&table.due, due),
                (&table.hold, "PRIMARY KEY"),
                (&table.owe_nothing, key),
                (&table.owe_nothing_id, "PRIMARY KEY"),
                (&table.owe_again, key),
                (&table.next_free, due),
                (&table.next_held, held),
            ] {
                let plan = plan(&connection, sql);
                assert!(plan.contains(index), "{sql}: {plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
            }
        }
    }

    fn plan(connection: &Connection, sql: &str) -> String {
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        // Parameters that are not bound are NULL; the plan does not depend on them.
        let mut rows = statement.raw_query();
        let mut plan = String::new();
        while let Some(row) = rows.next().unwrap() {
            plan += &row.get::<_, String>(3).unwrap();
            plan.push('\n');
        }
        plan
    }
}
