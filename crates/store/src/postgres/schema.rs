//! The tables, and how they come to be.
//!
//! All broadcasters of a cluster may start at once on an empty database, or one may be newer than
//! the others. A lock of the database makes the migrations happen once; a program that finds tables
//! newer than it knows refuses to start, and one that runs already goes on, as migrations only add.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;

use crate::contract::StoreError;
use crate::postgres::failure::Failure;

/// In the order in which they are run, each once.
const MIGRATIONS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// The number of migrations: a version is the number of migrations that were run.
const KNOWN: i64 = MIGRATIONS.len().cast_signed() as i64;

/// The lock of the database that is held during a migration.
/// The letters `httppubs`, so that no other program has it by chance.
const LOCK: i64 = 0x6874_7470_7075_6273;

/// PostgreSQL 15.
const SERVER_VERSION_MIN: i32 = 150_000;

/// Longest wait for all that is asked before the tables are made.
const CHECKS_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the tables what this program knows, in one transaction. Of several that do so at once the
/// first does the work.
pub(super) async fn migrate(client: &Client) -> Result<(), StoreError> {
    in_time(check_server(client)).await?;
    let failed = |error: tokio_postgres::Error| Failure::from(error).doing("preparing the tables");
    client
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock({LOCK})"
        ))
        .await
        .map_err(failed)?;
    // A process that waited for the lock finds the tables made.
    let migrated = migrate_locked(client).await;
    let end = if migrated.is_ok() {
        "COMMIT"
    } else {
        "ROLLBACK"
    };
    client.batch_execute(end).await.map_err(failed)?;
    migrated
}

/// Checks that the tables are there and that this program can read them. Writes nothing.
pub(super) async fn check(client: &Client) -> Result<(), StoreError> {
    in_time(async {
        check_server(client).await?;
        let failed =
            |error: tokio_postgres::Error| Failure::from(error).doing("looking for the tables");
        let sql = "SELECT to_regclass('httppubsub_schema') IS NOT NULL";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        if !row.get::<_, bool>(0) {
            return Err(StoreError::Unsupported(
                "no broadcaster has ever used it".to_owned(),
            ));
        }
        match version(client).await? {
            found if found > KNOWN => Err(StoreError::NewerSchema {
                found,
                known: KNOWN,
            }),
            found if found < KNOWN => Err(StoreError::Unsupported(format!(
                "its tables are of version {found}, wanted is {KNOWN}: start a broadcaster of this \
                 version on it"
            ))),
            _ => Ok(()),
        }
    })
    .await
}

/// Bounds `checks` by [`CHECKS_TIMEOUT`]: a server behind a broken network accepts a connection and
/// says nothing.
async fn in_time(checks: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
    let waited = |_| Err(Failure::Waited(CHECKS_TIMEOUT).doing("looking at the database"));
    timeout(CHECKS_TIMEOUT, checks).await.unwrap_or_else(waited)
}

/// Refuses a server that is too old, and warns of one whose commits are not durable.
async fn check_server(client: &Client) -> Result<(), StoreError> {
    let failed = |error: tokio_postgres::Error| Failure::from(error).doing("preparing the tables");
    let server = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .map_err(failed)?;
    let server: i32 = server.get(0);
    if server < SERVER_VERSION_MIN {
        return Err(StoreError::Unsupported(format!(
            "the server is PostgreSQL {}, but 15 is the oldest that will do",
            server / 10_000
        )));
    }
    let durable = client
        .query_one("SELECT current_setting('synchronous_commit')", &[])
        .await
        .map_err(failed)?;
    if durable.get::<_, &str>(0) == "off" {
        tracing::warn!(
            "synchronous_commit is off in this database: what is acknowledged may be lost when its \
             machine fails"
        );
    }
    Ok(())
}

/// The version of the tables; 0 if they were never made.
async fn version(client: &Client) -> Result<i64, StoreError> {
    let failed =
        |error: tokio_postgres::Error| Failure::from(error).doing("reading the schema version");
    let sql = "SELECT version FROM httppubsub_schema";
    let rows = client.query(sql, &[]).await.map_err(failed)?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

/// Runs the missing migrations, while no other process can.
async fn migrate_locked(client: &Client) -> Result<(), StoreError> {
    let failed = |error: tokio_postgres::Error| Failure::from(error).doing("preparing the tables");
    client
        .batch_execute(
            "SET LOCAL client_min_messages = warning; \
             CREATE TABLE IF NOT EXISTS httppubsub_schema (version bigint NOT NULL)",
        )
        .await
        .map_err(failed)?;
    let (found, known) = (version(client).await?, KNOWN);
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let done = usize::try_from(found.max(0)).unwrap_or(0);
    for migration in &MIGRATIONS[done..] {
        client.batch_execute(migration).await.map_err(failed)?;
    }
    if found < known {
        // One row, whichever version was there.
        let set = "DELETE FROM httppubsub_schema; INSERT INTO httppubsub_schema VALUES";
        client
            .batch_execute(&format!("{set} ({known})"))
            .await
            .map_err(failed)?;
    }
    Ok(())
}
