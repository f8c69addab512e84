//! Effects of the store's methods on the tables, inside a transaction that the writer ends.
//!
//! Nothing here begins or commits: a function may run beside others in one transaction, in a
//! savepoint of its own. It must not keep anything outside the transaction, which may be undone
//! after it returned. Statements are prepared once for each connection and found again by their
//! text.
//!
//! Times cross this boundary in the units of the published layout: `missed_next_retry_at` is in
//! whole seconds since the epoch, rounded up, so that nothing is due early;
//! `missed_lock_expires_at` is a real number of seconds.

use std::time::Duration;

use httppubsub_proto::subscription::{
    Interest, StrongEtag, StrongEtagHasher, Subscription, SubscriptionSet,
};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::contract::{
    Changed, ClaimedNotice, Missed, NoticeOutcome, Subscribed, TopicInFlight, Unsubscribed,
};
use crate::lock;
use crate::sqlite::failure::Failure;
use crate::sqlite::feed::{Feed, Log};
use crate::sqlite::pieces::{self, Overlay, RowState};
use crate::sqlite::row::{Kind, Unreadable, blob, interest_of, recovery, text, topic_of, url_of};
use crate::sqlite::tables::{
    Differences, EXACTS, GLOBS, differences, recovery_column, table_and_key, tables_and_entries,
};
use crate::urls::Urls;

/// Adds one row. [`Subscribed::Existed`] if the url has a row of this interest, whose recovery url
/// then stays as it is: SUBSCRIBE never moves a subscription, only SET does
/// (`docs/protocol/subscriptions.md` §5).
pub(super) fn subscribe(
    connection: &Connection,
    subscription: &Subscription,
) -> Result<Subscribed, Failure> {
    let (table, interest) = table_and_key(&subscription.interest);
    let settled = pieces::settle(
        connection,
        &subscription.url,
        table.kind,
        subscription.interest.as_bytes(),
    )?;
    // The row is there already, but counts for nobody until the set is decided. If it were taken
    // for an existing subscription, undoing the set would remove what was acknowledged here.
    if let Some(set) = settled {
        pieces::adopt(connection, subscription, set)?;
        return Ok(Subscribed::Added);
    }
    let recovery = recovery_column(subscription.recovery.as_ref());
    let rows = connection.prepare_cached(&table.insert)?.execute(params![
        subscription.url.as_str(),
        interest,
        recovery
    ])?;
    Ok(match rows > 0 {
        true => Subscribed::Added,
        false => Subscribed::Existed,
    })
}

/// Removes one row, and with it the notice in its columns. [`Unsubscribed::Absent`] also for a row
/// that an undecided set has added: for everybody else it is not there yet.
pub(super) fn unsubscribe(
    connection: &Connection,
    url: &SubscriberUrl,
    interest: &Interest,
) -> Result<Unsubscribed, Failure> {
    let (table, key) = table_and_key(interest);
    if pieces::settle(connection, url, table.kind, interest.as_bytes())?.is_some() {
        return Ok(Unsubscribed::Absent);
    }
    let rows = connection
        .prepare_cached(&table.delete)?
        .execute(params![url.as_str(), key])?;
    Ok(match rows > 0 {
        true => Unsubscribed::Removed,
        false => Unsubscribed::Absent,
    })
}

/// Makes the subscriptions of `url` exactly `set`; `None`, and nothing, if that takes more than
/// `rows_max` rows to look at or another set of the url is under way.
pub(super) fn set(
    connection: &Connection,
    url: &SubscriberUrl,
    set: &SubscriptionSet,
    rows_max: usize,
) -> Result<Option<Changed>, Failure> {
    // A set that is written in pieces was planned against these rows.
    if pieces::is_under_way(connection, url)? {
        return Ok(None);
    }
    let mut all = Vec::new();
    for (table, wanted) in tables_and_entries(set) {
        // Both tables are compared before the first write: giving up later would leave half a set
        // in the transaction, which others in the same batch share.
        match differences(connection, table, url, wanted, rows_max)? {
            Some(found) => all.push((table, found)),
            None => return Ok(None),
        }
    }
    let mut changed = Changed::default();
    for (table, found) in all {
        let Differences {
            missing,
            moved,
            surplus,
        } = found;
        for (id, _) in &surplus {
            connection.prepare_cached(&table.delete_id)?.execute([id])?;
        }
        for (id, entry) in &moved {
            match entry.recovery {
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
    }
    Ok(Some(changed))
}

/// The strong etag of the subscriptions of `url`, read row by row in constant memory. Rows that a
/// large set has added or is about to remove are taken as that set leaves them, so the etag is
/// always that of one whole set. [`Failure::Stopped`] if `feed` is closing meanwhile.
pub(super) fn etag(
    connection: &Connection,
    url: &SubscriberUrl,
    feed: &Feed,
) -> Result<StrongEtag, Failure> {
    // The set under way and both tables must be of one moment: a set decided in between would be
    // counted for globs and not for topics.
    let snapshot = connection.unchecked_transaction()?;
    let mut etag = StrongEtagHasher::new(url);
    let under_way = Overlay::set_of(&snapshot, url)?;
    for table in [&*EXACTS, &*GLOBS] {
        // Both queries are in the order of the interests' bytes, so one pass over each is enough.
        let mut changes = snapshot.prepare_cached(Overlay::SQL)?;
        let mut overlay = match under_way {
            Some((set, is_decided)) => {
                let rows = changes.query(params![set, table.kind as i64])?;
                Some(Overlay::new(is_decided, rows)?)
            }
            None => None,
        };
        let mut statement = snapshot.prepare_cached(&table.of_url)?;
        let mut rows = statement.query([url.as_str()])?;
        while let Some(row) = rows.next()? {
            // The store's drop joins this thread, and a url may have a million rows.
            if feed.is_closing() {
                return Err(Failure::Stopped);
            }
            // The same rows as the observer gets.
            let Ok(mut recovery) = recovery(row.get_ref(2)?) else {
                continue;
            };
            let state = match (&mut overlay, table.interest_bytes(row.get_ref(1)?)) {
                (Some(overlay), Ok(interest)) => overlay.of(interest)?,
                _ => RowState::AsItIs,
            };
            match &state {
                RowState::AsItIs => {}
                RowState::Absent => continue,
                RowState::WithRecovery(other) => recovery = other.as_deref(),
            }
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

/// Owes a notice to the row of `missed.interest`; nothing if there is no such row or it has no
/// recovery url. A notice nobody holds keeps its time if that is earlier than `missed.due`.
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

/// Holds up to `limit` notices due `now` until `now + lease`, earliest first. Notices that can
/// never be sent, because another program wrote nonsense, are ended and logged.
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
        // The statement reads the table that is written next.
        drop(rows);
        // It would be due for ever.
        for id in nonsense {
            connection
                .prepare_cached(&table.owe_nothing_id)?
                .execute([id])?;
        }
    }
    // Each table gave its own `limit` earliest; of both together only `limit` are held.
    due.sort_by(|one, other| one.0.total_cmp(&other.0));
    due.truncate(limit);
    let ends = seconds(now + lease);
    for (_, id, table, notice) in &mut due {
        // A number of its own for each hold: a broadcaster that comes back after its lease must not
        // settle the hold of the one that took over.
        notice.lock = lock::random();
        connection
            .prepare_cached(&table.hold)?
            .execute(params![*id, notice.lock, ends])?;
    }
    Ok(due.into_iter().map(|(_, _, _, notice)| notice).collect())
}

/// The notice in a row of [`crate::sqlite::tables::Table::due`], not held yet.
fn notice(
    urls: &mut Urls,
    kind: Kind,
    row: &Row<'_>,
) -> rusqlite::Result<Result<ClaimedNotice, Unreadable>> {
    // Anything else, such as NULL, counts as no attempt: the notice is sent rather than lost.
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

/// Ends or puts off a notice, if it is still held under `notice.lock`; otherwise nothing.
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

/// The earliest time at which some notice can be claimed; `None` if none is owed. Four queries of
/// two indexes each: one of free notices, one of held ones.
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

/// Notes that notifications of a topic may be on their way, until `in_flight.until` rounded up to a
/// whole second. An entry of the same broadcaster and topic is replaced.
pub(super) fn record_in_flight(
    connection: &Connection,
    in_flight: &TopicInFlight,
) -> Result<(), Failure> {
    let TopicInFlight {
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

/// Removes the entries of `topics` of one broadcaster. Missing ones are no error: a record is
/// written lazily, so the journal may forget what it never wrote.
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

/// Up to `limit` entries: those of `broadcaster`, and those of all others that have expired by
/// `now`, whose broadcasters are taken for dead. Unreadable rows are passed over and logged.
pub(super) fn in_flight(
    connection: &Connection,
    broadcaster: &SubscriberUrl,
    now: Now,
    limit: usize,
) -> Result<Vec<TopicInFlight>, Failure> {
    let mut urls = Urls::default();
    let mut found = Vec::new();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(IN_FLIGHT)?;
    let mut rows = statement.query(params![broadcaster.as_str(), seconds(now), limit])?;
    while let Some(row) = rows.next()? {
        let (url, topic, until) = (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?);
        let mut parse = || {
            Ok::<_, Unreadable>(TopicInFlight {
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

/// Notes that the broadcaster `identity` receives at `url` from now on. If it was at another url
/// before and nobody else is there, the subscriptions of that url go, its topics in flight become
/// those of `url`, and the earlier url is returned.
pub(super) fn move_to(
    connection: &Connection,
    identity: [u8; 16],
    url: &SubscriberUrl,
) -> Result<Option<SubscriberUrl>, Failure> {
    let sql = "SELECT url FROM httppubsub_broadcasters WHERE identity = ?1";
    let before: Option<String> = connection
        .query_row(sql, [identity], |row| row.get(0))
        .optional()?;
    connection.execute(
        "INSERT INTO httppubsub_broadcasters (identity, url) VALUES (?1, ?2) \
         ON CONFLICT (identity) DO UPDATE SET url = excluded.url",
        params![identity, url.as_str()],
    )?;
    // Others that were here are not any longer. Left over, they would seem to be when this one
    // moves on.
    connection.execute(
        "DELETE FROM httppubsub_broadcasters WHERE url = ?1 AND identity <> ?2",
        params![url.as_str(), identity],
    )?;
    let Some(before) = before.filter(|before| before != url.as_str()) else {
        return Ok(None);
    };
    // Another may have moved in there.
    let sql = "SELECT 1 FROM httppubsub_broadcasters WHERE url = ?1";
    if connection
        .query_row(sql, [&before], |_| Ok(()))
        .optional()?
        .is_some()
    {
        return Ok(None);
    }
    for sql in [
        "DELETE FROM httppubsub_subscription_exacts WHERE url = ?1",
        "DELETE FROM httppubsub_subscription_globs WHERE url = ?1",
    ] {
        connection.execute(sql, [&before])?;
    }
    connection.execute(
        "UPDATE OR REPLACE httppubsub_in_flight SET url = ?2 WHERE url = ?1",
        params![before, url.as_str()],
    )?;
    Ok(SubscriberUrl::new(before).ok())
}

/// Writes what is there already, to find out whether writing works.
pub(super) fn touch(connection: &Connection) -> Result<(), Failure> {
    connection
        .prepare_cached("UPDATE httppubsub_schema SET version = version")?
        .execute([])?;
    Ok(())
}

/// The key is broadcaster and topic, so a topic in constant use is one row, written over.
const RECORD_IN_FLIGHT: &str = "INSERT INTO httppubsub_in_flight (url, topic, until) \
     VALUES (?1, ?2, ?3) ON CONFLICT (url, topic) DO UPDATE SET until = excluded.until";

/// One topic of one broadcaster, which has the whole primary key.
const FORGET_IN_FLIGHT: &str = "DELETE FROM httppubsub_in_flight WHERE url = ?1 AND topic = ?2";

/// Two lookups, each by an index of its own; UNION leaves out what both find.
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

/// The time at which a notice can be claimed. What is no number is never due.
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
