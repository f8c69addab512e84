//! The tables, and how they come to be.

use tokio_postgres::Client;

use super::failure::Failure;
use crate::store::StoreError;

/// In the order in which they are run, each once.
const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

/// Whoever migrates holds this lock of the database.
const LOCK: i64 = 0x6874_7470_7075_6273;

/// PostgreSQL 15.
const SERVER_VERSION_MIN: i32 = 150_000;

/// Makes the tables what this program knows, in one transaction. Of several that do so at once the
/// first does the work. Unless it `may_make` them, they have to be there.
pub(super) async fn migrate(client: &Client, may_make: bool) -> Result<(), StoreError> {
    let failed = |error: tokio_postgres::Error| Failure::Sql(error).doing("preparing the tables");
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
    if !may_make {
        let sql = "SELECT to_regclass('httppubsub_schema') IS NOT NULL";
        let row = client.query_one(sql, &[]).await.map_err(failed)?;
        if !row.get::<_, bool>(0) {
            return Err(StoreError::Unsupported(
                "no broadcaster has ever used it".to_owned(),
            ));
        }
    }
    client
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock({LOCK})"
        ))
        .await
        .map_err(failed)?;
    let migrated = migrate_locked(client).await;
    let end = if migrated.is_ok() {
        "COMMIT"
    } else {
        "ROLLBACK"
    };
    client.batch_execute(end).await.map_err(failed)?;
    migrated
}

async fn migrate_locked(client: &Client) -> Result<(), StoreError> {
    let failed = |error: tokio_postgres::Error| Failure::Sql(error).doing("preparing the tables");
    client
        .batch_execute(
            "SET LOCAL client_min_messages = warning; \
             CREATE TABLE IF NOT EXISTS httppubsub_schema (version bigint NOT NULL)",
        )
        .await
        .map_err(failed)?;
    let rows = client
        .query("SELECT version FROM httppubsub_schema", &[])
        .await
        .map_err(failed)?;
    let found: i64 = rows.first().map_or(0, |row| row.get(0));
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    let done = usize::try_from(found.max(0)).unwrap_or(0);
    for migration in &MIGRATIONS[done..] {
        client.batch_execute(migration).await.map_err(failed)?;
    }
    if found < known {
        let set = "DELETE FROM httppubsub_schema; INSERT INTO httppubsub_schema VALUES";
        client
            .batch_execute(&format!("{set} ({known})"))
            .await
            .map_err(failed)?;
    }
    Ok(())
}
