//! Large sets in pieces: the effect of each step on the tables (see `schema_4.sql`).
//!
//! ```text
//!   plan (a read)
//!     |
//!     +-- one piece --> apply: one transaction
//!     |
//!     +-- more ------> begin --> write, write, ... --> decide --> end, end, ...
//!                        |            |                   |          |
//!       killed here:   undone       undone             finished   finished
//! ```
//!
//! Between `begin` and `decide` the new rows of the set are in the tables, and notes in
//! `httppubsub_set_rows` say which; surplus and moved rows are only noted. `decide` changes one
//! bit. After it the notes say what is left to remove and to move.
//!
//! | row noted as | set not decided | set decided |
//! |---|---|---|
//! | new | does not count | counts |
//! | surplus | counts | does not count |
//! | moved | counts, with its own recovery url | counts, with that of the set |
//!
//! Others may change single rows meanwhile. They call [`settle`] first, which takes the row out of
//! the set's hands; so the order of effects is that of the commits.

use httppubsub_proto::subscription::{Subscription, SubscriptionSet};
use httppubsub_proto::url::SubscriberUrl;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::contract::Changed;
use crate::sqlite::failure::Failure;
use crate::sqlite::feed::Log;
use crate::sqlite::row::Kind;
use crate::sqlite::tables::{
    Table, differences, recovery_column, table_and_key, tables_and_entries,
};

/// The most rows changed in one transaction.
/// A SUBSCRIBE of somebody else waits for one such commit at most, however large a set is.
pub(super) const PIECE_ROWS: usize = 1_000;

/// The changes that turn the subscriptions of a url into a set.
///
/// A plan is made from a snapshot outside the write lock, because a comparison of a million rows
/// takes longer than others want to wait. Whether it still holds is checked by [`is_stale`].
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Number of the newest entry of the change log in the snapshot that was compared.
    known: i64,
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
    /// `true` if one transaction can make all changes, so that no set needs to be announced.
    pub(super) fn is_one_piece(&self) -> bool {
        self.changes.len() + self.nameless.len() <= PIECE_ROWS
    }

    /// The changes, a piece at a time.
    /// Pieces have at most [`PIECE_ROWS`] changes. Nameless rows are apart, as they cannot be noted
    /// in `httppubsub_set_rows`, whose key is the interest.
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

    /// The counts that the caller of a SET gets when the plan was carried out.
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

/// Compares the subscriptions of `url` with `set`, in one snapshot.
pub(super) fn plan(
    connection: &Connection,
    url: &SubscriberUrl,
    set: &SubscriptionSet,
) -> Result<Plan, Failure> {
    // The position in the log and the rows must be of one moment: a change between the two would be
    // neither in the plan nor seen by the staleness check.
    let snapshot = connection.unchecked_transaction()?;
    let mut plan = Plan {
        known: Log::of(&snapshot)?.newest,
        ..Plan::default()
    };
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

/// `true` if a set of `url` is under way.
pub(super) fn is_under_way(connection: &Connection, url: &SubscriberUrl) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM httppubsub_sets WHERE url = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.exists([url.as_str()])?)
}

/// The result of an attempt to apply a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Done,
    /// Nothing was changed: another set of the url is under way.
    UnderWay,
    /// Nothing was changed: subscriptions of the url may have changed since the plan was made.
    Stale,
}

/// Makes all changes of a plan in one transaction.
///
/// Unlike [`begin`], this leaves no trace if the process is killed: the transaction is all or
/// nothing by itself.
pub(super) fn apply(
    connection: &Connection,
    url: &SubscriberUrl,
    plan: &Plan,
) -> Result<Applied, Failure> {
    if is_under_way(connection, url)? {
        return Ok(Applied::UnderWay);
    }
    if is_stale(connection, url, plan)? {
        return Ok(Applied::Stale);
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
    Ok(Applied::Done)
}

/// `true` if the change log has an entry of `url` after the snapshot of `plan`, or may have lost
/// one by trimming.
fn is_stale(connection: &Connection, url: &SubscriberUrl, plan: &Plan) -> Result<bool, Failure> {
    let log = Log::of(connection)?;
    // The usual case: nobody has changed anything since.
    if log.newest == plan.known {
        return Ok(false);
    }
    // Entries behind the snapshot were trimmed, and one of them may have been of this url.
    if !log.follows(plan.known) {
        return Ok(true);
    }
    let sql = "SELECT 1 FROM httppubsub_changes WHERE seq > ?1 AND url = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.exists(params![plan.known, url.as_str()])?)
}

/// Removes rows that no list can name.
///
/// Such a row is of a type that no topic or glob has, written by another program. The published
/// broadcaster would deliver nothing for it either.
pub(super) fn remove_nameless(
    connection: &Connection,
    url: &SubscriberUrl,
    rows: &[(Kind, i64)],
) -> Result<(), Failure> {
    for (kind, id) in rows {
        // The url is compared again: a row number can be used anew after its row was deleted.
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

/// A set of a url that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) id: i64,
    /// `true` if the plan must be made again. From now on no other set of the url interferes.
    pub(super) is_stale: bool,
}

/// Begins a set of `url` that counts for nothing yet; `None` if one is under way.
/// The row in `httppubsub_sets` keeps other sets of the url away until [`end`] removes it.
pub(super) fn begin(
    connection: &Connection,
    url: &SubscriberUrl,
    plan: &Plan,
) -> Result<Option<Begun>, Failure> {
    if is_under_way(connection, url)? {
        return Ok(None);
    }
    let is_stale = is_stale(connection, url, plan)?;
    let sql = "INSERT INTO httppubsub_sets (url) VALUES (?1)";
    connection.prepare_cached(sql)?.execute([url.as_str()])?;
    Ok(Some(Begun {
        id: connection.last_insert_rowid(),
        is_stale,
    }))
}

/// Writes down what a piece of the set changes. Its new rows are there, and count when it is
/// decided.
///
/// `set_rows` has the note before or with the row itself, in one transaction, so a kill between two
/// pieces leaves nothing that [`end`] cannot undo.
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
/// This one-row commit is the moment at which a set of any size takes effect.
pub(super) fn decide(connection: &Connection, set: i64) -> Result<bool, Failure> {
    let sql = "UPDATE httppubsub_sets SET is_decided = 1 WHERE id = ?1";
    Ok(connection.prepare_cached(sql)?.execute([set])? > 0)
}

/// Takes a piece of a set to its end: that of a decided one is done, that of another is undone.
/// `true` when nothing of the set is left.
/// Called until it returns `true`, each time in a transaction of its own, at most [`PIECE_ROWS`]
/// rows each. Repeating it after a kill is harmless: what was ended is no longer noted.
pub(super) fn end(connection: &Connection, set: i64) -> Result<bool, Failure> {
    let sql = "SELECT url, is_decided FROM httppubsub_sets WHERE id = ?1";
    let found: Option<(String, bool)> = connection
        .query_row(sql, [set], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((url, is_decided)) = found else {
        return Ok(true);
    };
    // Longer than any url can be: written by another program, and no row can have it.
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
    // The set's own row goes last. Until then other sets of the url stay out.
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

/// A set under way that has added a row which counts for nobody yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddedBy(i64);

/// Makes one row of `url` what the sets under way leave of it, before somebody else changes it:
/// what a decided set has to do to it is done now, so that its end cannot undo what the other does.
/// Returns the undecided set that has added the row, if one has.
pub(super) fn settle(
    connection: &Connection,
    url: &SubscriberUrl,
    kind: Kind,
    interest: &[u8],
) -> Result<Option<AddedBy>, Failure> {
    // At most one set of a url is under way, so at most one row is found.
    let sql = "SELECT id, is_decided, change, missed_url FROM httppubsub_sets \
         JOIN httppubsub_set_rows ON set_id = id \
         WHERE url = ?1 AND kind = ?2 AND interest = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row(params![url.as_str(), kind as i64, interest], |row| {
        let planned = Planned {
            kind,
            interest: interest.to_vec(),
            change: change_of(row.get(2)?),
            recovery: row.get(3)?,
        };
        Ok((row.get(0)?, row.get(1)?, planned))
    });
    let Some((set, is_decided, planned)) = found.optional()? else {
        return Ok(None);
    };
    if is_decided {
        planned.finish(connection, url)?;
        forget(connection, set, kind, interest)?;
        return Ok(None);
    }
    Ok((planned.change == Change::New).then_some(AddedBy(set)))
}

/// Gives a row that an undecided set has added to a subscriber who asks for it: the row stays even
/// if the set is undone.
pub(super) fn adopt(
    connection: &Connection,
    it: &Subscription,
    AddedBy(set): AddedBy,
) -> Result<(), Failure> {
    let (table, _) = table_and_key(&it.interest);
    let interest = it.interest.as_bytes();
    // As `Moved`, the row is left alone when the set is undone, and gets the set's recovery url
    // when it is decided.
    let sql = "UPDATE httppubsub_set_rows SET change = 2 \
         WHERE set_id = ?1 AND kind = ?2 AND interest = ?3";
    connection
        .prepare_cached(sql)?
        .execute(params![set, table.kind as i64, interest])?;
    let recovery = recovery_column(it.recovery.as_ref());
    if !table.add(connection, &it.url, interest, recovery)? {
        table.change_recovery(connection, &it.url, interest, recovery)?;
    }
    Ok(())
}

/// Removes the note of one row of a set: nothing is left to do or to undo for it.
fn forget(connection: &Connection, set: i64, kind: Kind, interest: &[u8]) -> Result<(), Failure> {
    let sql = "DELETE FROM httppubsub_set_rows WHERE set_id = ?1 AND kind = ?2 AND interest = ?3";
    connection
        .prepare_cached(sql)?
        .execute(params![set, kind as i64, interest])?;
    Ok(())
}

/// The change with this number in the column. Unknown numbers, of a newer program, are `Moved`,
/// which neither adds nor removes a row.
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

/// The rows of a url as a set under way leaves them, asked in the order of their interests.
///
/// The rows under way and the rows of the table are read side by side, so that a set of a million
/// rows takes no memory.
pub(super) struct Overlay<'a> {
    is_decided: bool,
    rows: rusqlite::Rows<'a>,
    next: Option<(Vec<u8>, Change, Option<String>)>,
}

/// The state for which a row is to be taken.
pub(super) enum RowState {
    /// The set does not touch the row, or its change to it does not count yet.
    AsItIs,
    /// Added by a set that is not decided, or surplus in one that is.
    Absent,
    /// The row counts, with this recovery url instead of its own.
    WithRecovery(Option<String>),
}

impl<'a> Overlay<'a> {
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

    /// The rows of set `?1` and kind `?2` for [`Overlay::new`], in the order of interests.
    pub(super) const SQL: &'static str = "SELECT interest, change, missed_url \
         FROM httppubsub_set_rows WHERE set_id = ?1 AND kind = ?2 ORDER BY interest";

    /// `rows` are of the query [`Overlay::SQL`]; `is_decided` says whether their set counts.
    pub(super) fn new(is_decided: bool, rows: rusqlite::Rows<'a>) -> Result<Self, Failure> {
        let mut overlay = Self {
            is_decided,
            rows,
            next: None,
        };
        overlay.advance()?;
        Ok(overlay)
    }

    /// Takes the next row under way into `next`; `None` behind the last.
    fn advance(&mut self) -> Result<(), Failure> {
        self.next = match self.rows.next()? {
            Some(row) => Some((row.get(0)?, change_of(row.get(1)?), row.get(2)?)),
            None => None,
        };
        Ok(())
    }

    /// The state of the row with this interest. Interests must come in ascending order: rows that
    /// were passed are not looked at again.
    pub(super) fn of(&mut self, interest: &[u8]) -> Result<RowState, Failure> {
        while self.next.as_ref().is_some_and(|it| it.0[..] < *interest) {
            self.advance()?;
        }
        let Some((_, change, recovery)) = self.next.as_ref().filter(|it| it.0[..] == *interest)
        else {
            return Ok(RowState::AsItIs);
        };
        Ok(match (self.is_decided, change) {
            (false, Change::New) | (true, Change::Surplus) => RowState::Absent,
            (true, Change::Moved) => RowState::WithRecovery(recovery.clone()),
            (false, Change::Surplus | Change::Moved) | (true, Change::New) => RowState::AsItIs,
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

    /// Removes the row of `url` and `interest`, if there is one.
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

    /// Sets the recovery url of a row, if there is the row and its url is another. An update to the
    /// same value would be a change for the triggers, and wake every broadcaster for nothing.
    /// Without a recovery url the owed notice ends as well: there is nowhere left to send it.
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

#[cfg(test)]
mod tests {
    use httppubsub_proto::subscription::Interest;
    use httppubsub_proto::topic::Topic;

    use super::*;
    use crate::contract::{Subscribed, Unsubscribed};
    use crate::sqlite::feed::Feed;
    use crate::sqlite::{operations, schema};

    #[test]
    fn plan_is_stale_once_its_url_has_changed() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        let (mine, others) = (url("http://mine/"), url("http://others/"));
        let wanted = set_of(&["a", "b"]);
        let planned = || plan(&connection, &mine, &wanted).unwrap();
        let set = |of: &SubscriberUrl, topics: &[&str]| {
            operations::set(&connection, of, &set_of(topics), 100).unwrap();
        };

        let overtaken = planned();
        set(&mine, &["c"]);
        assert_eq!(
            apply(&connection, &mine, &overtaken).unwrap(),
            Applied::Stale
        );
        let has_c = operations::unsubscribe(&connection, &mine, &exact("c")).unwrap();
        assert_eq!(has_c, Unsubscribed::Removed);

        let not_overtaken = planned();
        set(&others, &["c"]);
        let done = apply(&connection, &mine, &not_overtaken).unwrap();
        assert_eq!(done, Applied::Done);

        // What was trimmed may have been a change of this url.
        let trimmed = planned();
        set(&others, &["d", "e"]);
        operations::trim_changes(&connection, 0).unwrap();
        set(&others, &["f"]);
        assert_eq!(apply(&connection, &mine, &trimmed).unwrap(), Applied::Stale);
    }

    #[test]
    fn set_that_begins_overtaken_says_so_and_keeps_others_out() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        let mine = url("http://mine/");
        let overtaken = plan(&connection, &mine, &set_of(&["a"])).unwrap();
        operations::set(&connection, &mine, &set_of(&["b"]), 100).unwrap();
        let begun = begin(&connection, &mine, &overtaken).unwrap().unwrap();
        assert!(begun.is_stale);
        let kept_out = operations::set(&connection, &mine, &set_of(&["c"]), 100).unwrap();
        assert_eq!(kept_out, None);
        let again = plan(&connection, &mine, &set_of(&["a"])).unwrap();
        assert_eq!((again.changed().added, again.changed().removed), (1, 1));
        let second = begin(&connection, &mine, &again).unwrap();
        assert_eq!(second, None);
    }

    /// A set is decided and not ended; what others do to its rows from then on is not undone by it.
    #[test]
    fn big_sets_that_were_decided_spare_what_others_did_since() {
        let connection = Connection::open_in_memory().unwrap();
        schema::migrate(&connection).unwrap();
        let mine = url("http://mine/");
        let subscribe = |topic: &str, recovery: Option<&str>| {
            let it = Subscription {
                url: mine.clone(),
                interest: exact(topic),
                recovery: recovery.map(url),
            };
            operations::subscribe(&connection, &it).unwrap()
        };
        let unsubscribe =
            |topic: &str| operations::unsubscribe(&connection, &mine, &exact(topic)).unwrap();
        for topic in ["surplus", "left", "left before", "stays"] {
            subscribe(topic, None);
        }
        let set: SubscriptionSet = [(exact("stays"), Some(url("http://set/")))]
            .into_iter()
            .collect();
        let plan = plan(&connection, &mine, &set).unwrap();
        let id = begin(&connection, &mine, &plan).unwrap().unwrap().id;
        for piece in plan.into_pieces().0 {
            write(&connection, id, &mine, &piece).unwrap();
        }
        unsubscribe("left before");
        assert!(decide(&connection, id).unwrap());

        assert_eq!(subscribe("surplus", None), Subscribed::Added);
        assert_eq!(subscribe("left before", None), Subscribed::Added);
        assert_eq!(unsubscribe("left"), Unsubscribed::Absent);
        assert_eq!(unsubscribe("stays"), Unsubscribed::Removed);
        let other = Some("http://other/");
        assert_eq!(subscribe("stays", other), Subscribed::Added);
        while !end(&connection, id).unwrap() {}
        let etag = operations::etag(&connection, &mine, &Feed::new()).unwrap();
        let kept: SubscriptionSet = [("surplus", None), ("left before", None), ("stays", other)]
            .into_iter()
            .map(|(topic, recovery)| (exact(topic), recovery.map(url)))
            .collect();
        assert_eq!(etag, kept.etag(&mine));
    }

    fn url(text: &str) -> SubscriberUrl {
        SubscriberUrl::new(text).unwrap()
    }

    fn exact(topic: &str) -> Interest {
        Interest::Exact(Topic::new(topic.as_bytes()).unwrap())
    }

    fn set_of(topics: &[&str]) -> SubscriptionSet {
        topics.iter().map(|topic| (exact(topic), None)).collect()
    }
}
