//! The two tables of subscriptions, the statements made to them, and how they differ from a set.

use std::cmp::Ordering;
use std::sync::LazyLock;

use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::sqlite::failure::Failure;
use crate::sqlite::row::{Kind, Unreadable, blob, recovery, text};

/// One of the two tables and the statements that are made to it.
///
/// The texts are made once, because preparing a statement looks it up in a cache by its text.
/// Parameters are numbered in the order given at each.
pub(super) struct Table {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    /// Adds a row unless the interest has one: url, interest, recovery url.
    pub(super) insert: String,
    /// Removes a row: url, interest.
    pub(super) delete: String,
    /// Number, interest and recovery url of all rows of a url, in the order of interests.
    pub(super) of_url: String,
    /// Number and recovery url of one row: url, interest.
    pub(super) id_of: String,
    /// Removes a row by its number.
    pub(super) delete_id: String,
    /// Sets the recovery url of a row: number, recovery url.
    pub(super) move_id: String,
    /// Removes the recovery url of a row and the notice it is owed: number.
    pub(super) move_id_nowhere: String,
    /// Owes a notice: url, interest, due in whole seconds, and for globs the topic.
    pub(super) owe: String,
    /// Notices that can be claimed, earliest first: now in seconds, the most rows.
    pub(super) due: String,
    /// Holds a notice: number, lock, end of the hold in seconds.
    pub(super) hold: String,
    /// Ends a notice that is held: url, interest, lock.
    pub(super) owe_nothing: String,
    /// Ends a notice, held or not: number.
    pub(super) owe_nothing_id: String,
    /// Puts off a notice that is held: url, interest, lock, attempts, due in whole seconds.
    pub(super) owe_again: String,
    /// The earliest due time of the notices that nobody holds.
    pub(super) next_free: String,
    /// The earliest time at which a held notice can be claimed.
    pub(super) next_held: String,
}

/// Subscriptions to exact topics, whose interest is a BLOB.
pub(super) static EXACTS: LazyLock<Table> = LazyLock::new(|| Table::new(Kind::Exact));

/// Subscriptions to globs, whose interest is TEXT.
pub(super) static GLOBS: LazyLock<Table> = LazyLock::new(|| Table::new(Kind::Glob));

impl Table {
    /// The table of the rows of this kind.
    pub(super) fn of(kind: Kind) -> &'static Self {
        match kind {
            Kind::Exact => &EXACTS,
            Kind::Glob => &GLOBS,
        }
    }

    /// Writes the statements out for one table: the two differ in three columns.
    fn new(kind: Kind) -> Self {
        // The columns of the interest and of the topic that a notice announces, and what happens
        // to the latter when one is owed and when it has ended.
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
        // Another program may have stored an empty recovery url, which is none.
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
            id_of: format!("SELECT id, missed_url FROM {name} WHERE url = ?1 AND {key} = ?2"),
            delete_id: format!("DELETE FROM {name} WHERE id = ?1"),
            move_id: format!("UPDATE {name} SET missed_url = ?2 WHERE id = ?1"),
            // There is no url left to which a notice could be posted.
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
    pub(super) fn key<'a>(&self, interest: &'a [u8]) -> ToSqlOutput<'a> {
        ToSqlOutput::Borrowed(match self.kind {
            Kind::Exact => ValueRef::Blob(interest),
            Kind::Glob => ValueRef::Text(interest),
        })
    }

    /// The bytes of the interest in a column; an error for a type or length that none can have.
    pub(super) fn interest_bytes<'a>(&self, value: ValueRef<'a>) -> Result<&'a [u8], Unreadable> {
        match self.kind {
            Kind::Exact => blob(value, "the topic"),
            Kind::Glob => text(value, "the glob").map(str::as_bytes),
        }
    }
}

/// The table of an interest, and the interest as a parameter of the table's statements.
pub(super) fn table_and_key(interest: &Interest) -> (&'static Table, ToSqlOutput<'_>) {
    let table = match interest {
        Interest::Exact(_) => &EXACTS,
        Interest::Glob(_) => &GLOBS,
    };
    (table, table.key(interest.as_bytes()))
}

/// An empty recovery url is none (`docs/protocol/subscriptions.md` §1).
pub(super) fn recovery_column(recovery: Option<&SubscriberUrl>) -> Option<&str> {
    recovery
        .map(SubscriberUrl::as_str)
        .filter(|url| !url.is_empty())
}

/// A subscription that a set lists.
pub(super) struct Entry<'a> {
    pub(super) interest: &'a [u8],
    pub(super) recovery: Option<&'a str>,
}

/// The entries of a set, by table and in the order of interests.
pub(super) fn tables_and_entries(set: &SubscriptionSet) -> [(&'static Table, Vec<Entry<'_>>); 2] {
    let exacts = set.exacts().iter().map(|(topic, recovery)| Entry {
        interest: topic.as_bytes(),
        recovery: recovery_column(recovery.as_ref()),
    });
    let globs = set.globs().iter().map(|(glob, recovery)| Entry {
        interest: glob.as_str().as_bytes(),
        recovery: recovery_column(recovery.as_ref()),
    });
    [(&EXACTS, exacts.collect()), (&GLOBS, globs.collect())]
}

/// The differences between the rows of a url and the entries of a set.
pub(super) struct Differences<'a> {
    pub(super) missing: Vec<Entry<'a>>,
    /// Rows, by number, that have another recovery url.
    pub(super) moved: Vec<(i64, Entry<'a>)>,
    /// Rows, by number, that are not wanted, and their interests where a list can name them.
    pub(super) surplus: Vec<(i64, Option<Vec<u8>>)>,
}

/// Walks the wanted entries and the rows side by side, both ascending by bytes. `None` if there are
/// more than `rows_max` rows.
pub(super) fn differences<'a>(
    connection: &Connection,
    table: &Table,
    url: &SubscriberUrl,
    wanted: Vec<Entry<'a>>,
    rows_max: usize,
) -> Result<Option<Differences<'a>>, Failure> {
    let mut missing = Vec::new();
    let mut moved = Vec::new();
    let mut surplus = Vec::new();
    let mut wanted = wanted.into_iter().peekable();
    let mut statement = connection.prepare_cached(&table.of_url)?;
    let mut rows = statement.query([url.as_str()])?;
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        // Counted before it is compared, so that the write lock is held for `rows_max` rows at
        // most.
        looked_at += 1;
        if looked_at > rows_max {
            return Ok(None);
        }
        let id: i64 = row.get(0)?;
        let Ok(interest) = table.interest_bytes(row.get_ref(1)?) else {
            // No list can name it.
            surplus.push((id, None));
            continue;
        };
        // Entries that sort before this row have no row; one that is equal is this row.
        let is_wanted = loop {
            match wanted.peek().map(|entry| entry.interest.cmp(interest)) {
                Some(Ordering::Less) => missing.extend(wanted.next()),
                Some(Ordering::Equal) => break wanted.next(),
                Some(Ordering::Greater) | None => break None,
            }
        };
        match is_wanted {
            Some(entry) if recovery(row.get_ref(2)?) == Ok(entry.recovery) => {}
            Some(entry) => moved.push((id, entry)),
            None => surplus.push((id, Some(interest.to_vec()))),
        }
    }
    drop(rows);
    missing.extend(wanted);
    Ok(Some(Differences {
        missing,
        moved,
        surplus,
    }))
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
