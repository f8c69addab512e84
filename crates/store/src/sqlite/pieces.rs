//! Large sets in pieces: what each step does to the tables (see `schema_4.sql`).

use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::failure::Failure;
use super::row::Kind;
use super::tables::{Table, differences, recovery_column, tables_and_entries};
use crate::store::Changed;

/// How many rows are changed in one transaction.
pub(super) const PIECE_ROWS: usize = 1_000;

/// What turns the subscriptions of a url into a set.
#[derive(Debug, Default)]
pub(super) struct Plan {
    changes: Vec<Planned>,
    /// Rows that no list can name, by table and number.
    nameless: Vec<(Kind, i64)>,
}

/// A change of one row.
#[derive(Debug)]
pub(super) struct Planned {
    kind: Kind,
    interest: Vec<u8>,
    change: Change,
    recovery: Option<String>,
}

/// As `httppubsub_set_rows` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    New = 0,
    Surplus = 1,
    Moved = 2,
}

impl Plan {
    pub(super) fn is_one_piece(&self) -> bool {
        self.changes.len() + self.nameless.len() <= PIECE_ROWS
    }

    /// The changes, a piece at a time.
    pub(super) fn into_pieces(self) -> (Vec<Vec<Planned>>, Vec<(Kind, i64)>) {
        let mut pieces = Vec::new();
        let mut changes = self.changes.into_iter();
        loop {
            let piece: Vec<_> = changes.by_ref().take(PIECE_ROWS).collect();
            if piece.is_empty() {
                return (pieces, self.nameless);
            }
            pieces.push(piece);
        }
    }

    pub(super) fn changed(&self) -> Changed {
        let count = |change| {
            let those = self.changes.iter().filter(|it| it.change == change);
            those.count() as u64
        };
        Changed {
            added: count(Change::New),
            removed: count(Change::Surplus) + self.nameless.len() as u64,
            updated: count(Change::Moved),
        }
    }
}

/// What has to change for the subscriptions of `url` to be `set`.
pub(super) fn plan(
    connection: &Connection,
    url: &SubscriberUrl,
    set: &SubscriptionSet,
) -> Result<Plan, Failure> {
    let snapshot = connection.unchecked_transaction()?;
    let mut plan = Plan::default();
    for (table, wanted) in tables_and_entries(set) {
        let Some(found) = differences(&snapshot, table, url, wanted, usize::MAX)? else {
            continue;
        };
        let kind = table.kind;
        let planned = |interest: &[u8], change, recovery: Option<&str>| Planned {
            kind,
            interest: interest.to_vec(),
            change,
            recovery: recovery.map(str::to_owned),
        };
        let new = found.missing.iter();
        let new = new.map(|it| planned(it.interest, Change::New, it.recovery));
        let moved = found.moved.iter();
        let moved = moved.map(|(_, it)| planned(it.interest, Change::Moved, it.recovery));
        plan.changes.extend(new.chain(moved));
        for (id, interest) in found.surplus {
            match interest {
                Some(interest) => plan.changes.push(planned(&interest, Change::Surplus, None)),
                None => plan.nameless.push((kind, id)),
            }
        }
    }
    Ok(plan)
}

/// Whether a set of `url` is under way.
pub(super) fn is_under_way(connection: &Connection, url: &SubscriberUrl) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM httppubsub_sets WHERE url = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.exists([url.as_str()])?)
}

/// Makes all changes at once. `false`, and none, if a set of the same url is under way.
pub(super) fn apply(
    connection: &Connection,
    url: &SubscriberUrl,
    plan: &Plan,
) -> Result<bool, Failure> {
    if is_under_way(connection, url)? {
        return Ok(false);
    }
    for it in &plan.changes {
        let table = Table::of(it.kind);
        let recovery = it.recovery.as_deref();
        if it.change != Change::New {
            it.finish(connection, url)?;
        } else if !table.add(connection, url, &it.interest, recovery)? {
            table.change_recovery(connection, url, &it.interest, recovery)?;
        }
    }
    remove_nameless(connection, url, &plan.nameless)?;
    Ok(true)
}

/// Removes rows that no list can name.
pub(super) fn remove_nameless(
    connection: &Connection,
    url: &SubscriberUrl,
    rows: &[(Kind, i64)],
) -> Result<(), Failure> {
    for (kind, id) in rows {
        let sql = format!(
            "DELETE FROM {} WHERE id = ?1 AND url = ?2",
            Table::of(*kind).name
        );
        connection
            .prepare_cached(&sql)?
            .execute(params![id, url.as_str()])?;
    }
    Ok(())
}

/// Begins a set of `url` that counts for nothing yet; `None` if one is under way.
pub(super) fn begin(connection: &Connection, url: &SubscriberUrl) -> Result<Option<i64>, Failure> {
    if is_under_way(connection, url)? {
        return Ok(None);
    }
    let sql = "INSERT INTO httppubsub_sets (url) VALUES (?1)";
    connection.prepare_cached(sql)?.execute([url.as_str()])?;
    Ok(Some(connection.last_insert_rowid()))
}

/// Writes down what a piece of the set changes. Its new rows are there, and count when it is decided.
pub(super) fn write(
    connection: &Connection,
    set: i64,
    url: &SubscriberUrl,
    piece: &[Planned],
) -> Result<(), Failure> {
    let mut note = connection.prepare_cached(
        "INSERT INTO httppubsub_set_rows (set_id, kind, interest, change, missed_url) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for it in piece {
        let table = Table::of(it.kind);
        let recovery = it.recovery.as_deref();
        let change = match it.change {
            // Somebody has added it meanwhile: only its recovery url may be another.
            Change::New if !table.add(connection, url, &it.interest, recovery)? => Change::Moved,
            change => change,
        };
        note.execute(params![
            set,
            it.kind as i64,
            it.interest,
            change as i64,
            recovery
        ])?;
    }
    Ok(())
}

/// From now on the set counts, whatever happens. `false` if it was undone meanwhile.
pub(super) fn decide(connection: &Connection, set: i64) -> Result<bool, Failure> {
    let sql = "UPDATE httppubsub_sets SET is_decided = 1 WHERE id = ?1";
    Ok(connection.prepare_cached(sql)?.execute([set])? > 0)
}

/// Takes a piece of a set to its end: that of a decided one is done, that of another is undone.
/// `true` when nothing of the set is left.
pub(super) fn end(connection: &Connection, set: i64) -> Result<bool, Failure> {
    let sql = "SELECT url, is_decided FROM httppubsub_sets WHERE id = ?1";
    let found: Option<(String, bool)> = connection
        .query_row(sql, [set], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((url, is_decided)) = found else {
        return Ok(true);
    };
    let Ok(url) = SubscriberUrl::new(url) else {
        return Ok(true);
    };
    let mut statement = connection.prepare_cached(
        "SELECT kind, interest, change, missed_url FROM httppubsub_set_rows \
         WHERE set_id = ?1 LIMIT ?2",
    )?;
    let limit = i64::try_from(PIECE_ROWS).unwrap_or(i64::MAX);
    let piece = statement.query_map(params![set, limit], |row| {
        let kind: i64 = row.get(0)?;
        Ok(Planned {
            kind: if kind == 0 { Kind::Exact } else { Kind::Glob },
            interest: row.get(1)?,
            change: change_of(row.get(2)?),
            recovery: row.get(3)?,
        })
    })?;
    let piece: Vec<_> = piece.collect::<Result<_, _>>()?;
    for it in &piece {
        if is_decided {
            it.finish(connection, &url)?;
        } else if it.change == Change::New {
            Table::of(it.kind).remove(connection, &url, &it.interest)?;
        }
        forget(connection, set, it.kind, &it.interest)?;
    }
    let is_over = piece.len() < PIECE_ROWS;
    if is_over {
        let sql = "DELETE FROM httppubsub_sets WHERE id = ?1";
        connection.prepare_cached(sql)?.execute([set])?;
    }
    Ok(is_over)
}

/// Sets that are under way, or were when a process was killed.
pub(super) fn under_way(connection: &Connection) -> Result<Vec<i64>, Failure> {
    let mut statement = connection.prepare_cached("SELECT id FROM httppubsub_sets")?;
    let found = statement.query_map([], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Whether an undecided set has added this row, which is not there for anybody else.
pub(super) fn is_new_by_set(
    connection: &Connection,
    url: &SubscriberUrl,
    kind: Kind,
    interest: &[u8],
) -> Result<bool, Failure> {
    Ok(new_by_set(connection, url, kind, interest)?.is_some())
}

/// Gives a row that an undecided set has added to a subscriber who asks for it: it stays even if the set
/// is undone. `false` if no set has added it.
pub(super) fn adopt(connection: &Connection, it: &Subscription) -> Result<bool, Failure> {
    let (table, interest) = match &it.interest {
        Interest::Exact(topic) => (Table::of(Kind::Exact), topic.as_bytes()),
        Interest::Glob(glob) => (Table::of(Kind::Glob), glob.as_str().as_bytes()),
    };
    let Some(set) = new_by_set(connection, &it.url, table.kind, interest)? else {
        return Ok(false);
    };
    let sql = "UPDATE httppubsub_set_rows SET change = 2 \
         WHERE set_id = ?1 AND kind = ?2 AND interest = ?3";
    connection
        .prepare_cached(sql)?
        .execute(params![set, table.kind as i64, interest])?;
    let recovery = recovery_column(it.recovery.as_ref());
    table.change_recovery(connection, &it.url, interest, recovery)?;
    Ok(true)
}

fn new_by_set(
    connection: &Connection,
    url: &SubscriberUrl,
    kind: Kind,
    interest: &[u8],
) -> Result<Option<i64>, Failure> {
    let sql = "SELECT id FROM httppubsub_sets JOIN httppubsub_set_rows ON set_id = id \
         WHERE url = ?1 AND NOT is_decided AND kind = ?2 AND interest = ?3 AND change = 0";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row(params![url.as_str(), kind as i64, interest], |row| {
        row.get(0)
    });
    Ok(found.optional()?)
}

fn forget(connection: &Connection, set: i64, kind: Kind, interest: &[u8]) -> Result<(), Failure> {
    let sql = "DELETE FROM httppubsub_set_rows WHERE set_id = ?1 AND kind = ?2 AND interest = ?3";
    connection
        .prepare_cached(sql)?
        .execute(params![set, kind as i64, interest])?;
    Ok(())
}

fn change_of(number: i64) -> Change {
    match number {
        0 => Change::New,
        1 => Change::Surplus,
        _ => Change::Moved,
    }
}

impl Planned {
    /// Does what is left to do when the set counts.
    fn finish(&self, connection: &Connection, url: &SubscriberUrl) -> Result<(), Failure> {
        let table = Table::of(self.kind);
        match self.change {
            Change::New => Ok(()),
            Change::Surplus => table.remove(connection, url, &self.interest),
            Change::Moved => {
                table.change_recovery(connection, url, &self.interest, self.recovery.as_deref())
            }
        }
    }
}

/// What a set under way makes of the rows of its url, asked in the order of their interests.
pub(super) struct View<'a> {
    is_decided: bool,
    rows: rusqlite::Rows<'a>,
    next: Option<(Vec<u8>, Change, Option<String>)>,
}

/// What a row is to be taken for.
pub(super) enum Seen {
    AsItIs,
    Absent,
    WithRecovery(Option<String>),
}

impl<'a> View<'a> {
    /// The set of `url` that is under way, if one is.
    pub(super) fn set_of(
        connection: &Connection,
        url: &SubscriberUrl,
    ) -> Result<Option<(i64, bool)>, Failure> {
        let sql = "SELECT id, is_decided FROM httppubsub_sets WHERE url = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let found = statement.query_row([url.as_str()], |row| Ok((row.get(0)?, row.get(1)?)));
        Ok(found.optional()?)
    }

    pub(super) const SQL: &'static str = "SELECT interest, change, missed_url \
         FROM httppubsub_set_rows WHERE set_id = ?1 AND kind = ?2 ORDER BY interest";

    pub(super) fn new(is_decided: bool, rows: rusqlite::Rows<'a>) -> Result<Self, Failure> {
        let mut view = Self {
            is_decided,
            rows,
            next: None,
        };
        view.advance()?;
        Ok(view)
    }

    fn advance(&mut self) -> Result<(), Failure> {
        self.next = match self.rows.next()? {
            Some(row) => Some((row.get(0)?, change_of(row.get(1)?), row.get(2)?)),
            None => None,
        };
        Ok(())
    }

    pub(super) fn of(&mut self, interest: &[u8]) -> Result<Seen, Failure> {
        while self.next.as_ref().is_some_and(|it| it.0[..] < *interest) {
            self.advance()?;
        }
        let Some((_, change, recovery)) = self.next.as_ref().filter(|it| it.0[..] == *interest)
        else {
            return Ok(Seen::AsItIs);
        };
        Ok(match (self.is_decided, change) {
            (false, Change::New) | (true, Change::Surplus) => Seen::Absent,
            (true, Change::Moved) => Seen::WithRecovery(recovery.clone()),
            (false, Change::Surplus | Change::Moved) | (true, Change::New) => Seen::AsItIs,
        })
    }
}

impl Table {
    /// Adds a row unless there is one; says whether it did.
    fn add(
        &self,
        connection: &Connection,
        url: &SubscriberUrl,
        interest: &[u8],
        recovery: Option<&str>,
    ) -> Result<bool, Failure> {
        let mut statement = connection.prepare_cached(&self.insert)?;
        let added = statement.execute(params![url.as_str(), self.key(interest), recovery])?;
        Ok(added > 0)
    }

    fn remove(
        &self,
        connection: &Connection,
        url: &SubscriberUrl,
        interest: &[u8],
    ) -> Result<(), Failure> {
        let mut statement = connection.prepare_cached(&self.delete)?;
        statement.execute(params![url.as_str(), self.key(interest)])?;
        Ok(())
    }

    fn change_recovery(
        &self,
        connection: &Connection,
        url: &SubscriberUrl,
        interest: &[u8],
        recovery: Option<&str>,
    ) -> Result<(), Failure> {
        let mut statement = connection.prepare_cached(&self.id_of)?;
        let found = statement.query_row(params![url.as_str(), self.key(interest)], |row| {
            let is_so = match row.get_ref(1)? {
                ValueRef::Text(text) => recovery.is_some_and(|it| it.as_bytes() == text),
                _ => recovery.is_none(),
            };
            Ok((row.get::<_, i64>(0)?, is_so))
        });
        match (found.optional()?, recovery) {
            (None, _) | (Some((_, true)), _) => {}
            (Some((id, false)), Some(recovery)) => {
                let mut statement = connection.prepare_cached(&self.move_id)?;
                statement.execute(params![id, recovery])?;
            }
            (Some((id, false)), None) => {
                let mut statement = connection.prepare_cached(&self.move_id_nowhere)?;
                statement.execute([id])?;
            }
        }
        Ok(())
    }
}
