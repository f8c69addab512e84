//! The tables, and how those of older versions become today's.
//!
//! The two tables of the published broadcaster keep their columns, so that it can open the file
//! again. What is added beside them are tables, indexes and triggers, which it does not see.

use rusqlite::{Connection, OptionalExtension};

use crate::contract::StoreError;
use crate::sqlite::failure::Failure;

/// Brings the tables to this program's version. A file without any gets them; one that the
/// published broadcaster wrote gets ours beside its own, which stay as they are.
/// After an error the connection must be dropped, which rolls back.
pub(super) fn migrate(connection: &Connection) -> Result<(), StoreError> {
    // Looked at without the write lock, so that a store opens while another process writes.
    if version(connection)? == KNOWN {
        return Ok(());
    }
    let failed = |error: rusqlite::Error| Failure::from(error).doing("creating the tables");
    connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(failed)?;
    let found = version(connection)?;
    for migration in MIGRATIONS
        .iter()
        .skip(usize::try_from(found).unwrap_or(usize::MAX))
    {
        connection.execute_batch(migration).map_err(failed)?;
    }
    connection
        .execute("UPDATE httppubsub_schema SET version = ?1", [KNOWN])
        .map_err(failed)?;
    connection.execute_batch("COMMIT").map_err(failed)
}

/// The version of the database's tables: from 0, which are none or the published ones, to what
/// this program knows.
fn version(connection: &Connection) -> Result<i64, StoreError> {
    let failed = |error: rusqlite::Error| Failure::from(error).doing("reading the schema version");
    let ours = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'httppubsub_schema'";
    let is_there = connection
        .query_row(ours, [], |_| Ok(()))
        .optional()
        .map_err(failed)?
        .is_some();
    if !is_there {
        return Ok(0);
    }
    let found: Result<i64, _> =
        connection.query_row("SELECT max(version) FROM httppubsub_schema", [], |row| {
            row.get(0)
        });
    match found {
        Ok(found) if found > KNOWN => Err(StoreError::NewerSchema {
            found,
            known: KNOWN,
        }),
        Ok(found) if found < 1 => Err(StoreError::Corrupt(format!("schema version {found}"))),
        Ok(found) => Ok(found),
        Err(rusqlite::Error::InvalidColumnType(..)) => Err(StoreError::Corrupt(
            "a schema version that is not a number".to_owned(),
        )),
        Err(error) => Err(failed(error)),
    }
}

/// The number of migrations: a version is the number of migrations that were run.
const KNOWN: i64 = MIGRATIONS.len().cast_signed() as i64;

/// The migrations in their order. A released one stays as it is; a change comes as another entry.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
];
