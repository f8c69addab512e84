//! Faults of databases and of files.
//!
//! | fault | test |
//! |---|---|
//! | torn-replay | crates/net/src/inbound/replay.rs | torn_replay_records_are_passed_over_and_all_others_count |
//! | page-lost | crates/store/tests/sqlite.rs | page_lost_in_the_file_is_said_and_not_a_few_rows_less |
//! | files-gone | crates/store/tests/sqlite.rs | files_gone_while_in_use_fail_every_change_until_they_are_back |
//! | database-mode | crates/store/tests/sqlite.rs | database_mode_is_for_its_owner_only |
//! | pg-url | crates/store/src/postgres/address.rs | pg_url_parameters_are_decoded_as_libpq_does_and_mistakes_are_said_once |
//! | pg-read-only | pg_read_only_sessions_are_dropped_and_it_is_not_ready_until_there_are_others |
//! | pg-bouncer | pg_bouncer_in_session_mode_carries_broadcasters |
//! | pg-silent | pg_silent_server_is_given_up |
//! | pg-restore | pg_restore_on_a_young_server_trims_the_log_all_the_same |
//! | pg-reader | pg_reader_sees_the_status_of_the_cluster |
//! | not-ready | not_ready_says_why_and_ends_without_traffic |
//! | not-ready | not_ready_for_a_spool_folder_that_is_missing_it_does_not_start |
//! | files-gone | files_gone_make_it_not_ready_and_nothing_is_acknowledged |
//! | docs-say-other | docs_say_other_than_nothing_about_backups_and_what_they_say_works |
//! | big-sets | crates/store/tests/sqlite.rs | big_sets_let_others_write_in_between |
//! | big-sets | crates/store/tests/sqlite.rs | big_sets_are_all_or_nothing_wherever_they_are_cut_short |
//! | big-sets | crates/store/tests/sqlite.rs | big_sets_of_one_url_at_once_leave_one_of_them |
//! | big-sets | crates/store/src/sqlite/pieces.rs | big_sets_that_were_decided_spare_what_others_did_since |
//! | big-sets | crates/store/tests/sqlite.rs | big_sets_without_a_turn_fail_in_time |
//! | big-sets | crates/store/tests/sqlite.rs | big_sets_wait_while_others_are_being_ended |
//! | big-sets | crates/store/tests/sqlite.rs | big_sets_left_by_another_process_are_ended_by_a_probe |
//! | not-ready | crates/store/src/postgres/failure.rs | not_ready_for_load_only_if_a_probe_fails_as_well |
//! | big-sets | big_sets_are_the_one_or_the_other_after_a_kill |
//! | lost-rows | lost_rows_of_an_address_that_is_another_ones_now_are_removed |
//! | lost-rows | lost_rows_are_looked_for_only_by_broadcasters_that_keep_their_identity |
//! | lost-rows | crates/store/tests/sqlite.rs | lost_rows_of_an_earlier_address_are_not_kept_when_the_next_moves |
//! | lost-rows | lost_rows_are_none_as_a_second_holder_of_a_url_does_not_start |

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_broadcaster::{Authorizations, Broadcaster, Config};
use httppubsub_e2e::{
    Home, Metrics, PgBouncer, Postgres, Process, Server, Subscriber, eventually, exact, httppubsub,
    url,
};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::subscription::{Subscription, SubscriptionSet};
use httppubsub_store::conformance::Mirror;
use httppubsub_store::{Feed as _, PostgresStore, SqliteStore, Subscriptions as _};
use tokio::runtime::Runtime;

fn postgres(settings: &[&str]) -> Option<Postgres> {
    Postgres::own_if_possible(&[&["fsync=off"], settings].concat())
}

/// As after a failover where the old sessions stay open: they take no writes any longer, new ones
/// do.
#[test]
fn pg_read_only_sessions_are_dropped_and_it_is_not_ready_until_there_are_others() {
    let Some(postgres) = postgres(&[]) else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(postgres.database());
    let home = Home::new();
    let server = home.serve(&["--db", &database]);
    let subscribe = |topic: &str| subscribe(&server, topic);
    assert_eq!(subscribe("before"), 200);
    let administrator = runtime.block_on(Postgres::connect(&database));
    let administrate = |sql: &str| runtime.block_on(administrator.batch_execute(sql)).unwrap();
    administrate("SET default_transaction_read_only = off");

    administrate("ALTER SYSTEM SET default_transaction_read_only = on");
    administrate("SELECT pg_reload_conf()");
    let said = eventually("it is not ready", || {
        let answer = server.door.get("/readyz");
        (answer.status == 503).then(|| answer.text().to_owned())
    });
    assert_eq!(said, "database: the database cannot be used\n");
    let line = server
        .process
        .log_line("not ready: the database cannot be used");
    assert!(line.contains("writes"), "{line}");
    assert_eq!(subscribe("meanwhile"), 503);

    // What a role is given applies to new sessions only.
    administrate("ALTER ROLE postgres SET default_transaction_read_only = off");
    eventually("it is ready", || {
        (server.door.get("/readyz").status == 200).then_some(())
    });
    assert_eq!(subscribe("after"), 200);
}

#[test]
fn pg_bouncer_in_session_mode_carries_broadcasters() {
    let Some(postgres) = postgres(&[]) else {
        return;
    };
    let pooler = PgBouncer::start(&postgres, 30);
    let runtime = Runtime::new().unwrap();
    let database = pooler.url(&runtime.block_on(postgres.database()));
    let home = Home::new();
    let [one, other] = ["one", "other"].map(|data| {
        let data = home.path().join(data);
        home.serve(&["--db", &database, "--data", data.to_str().unwrap()])
    });
    let subscriber = Subscriber::start(home.signer());
    let url_of = subscriber.url("/r");
    one.door.subscribe(&url_of, exact("t"), None);
    assert_eq!(other.door.notify("t", b"through a pooler"), 1);
    assert_eq!(subscriber.deliveries()[0].message(), b"through a pooler");

    // LISTEN: nobody looks by itself for an hour.
    runtime.block_on(async {
        let mirror = Arc::new(Mirror::default());
        let options = PostgresStore::builder().poll_interval(Duration::from_secs(3_600));
        let store = options.open(&database).await.unwrap();
        store.watch(mirror.clone()).await.unwrap();
        one.door.subscribe(&url_of, exact("other"), None);
        eventually("the change is heard of", || {
            (mirror.subscriptions().len() == 2).then_some(())
        });
    });
}

#[test]
fn pg_silent_server_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let database = format!("postgres://u@{}/d", silent.local_addr().unwrap());
    let home = Home::new();
    let mut command = httppubsub();
    command.args(["cluster", "status", "--db", &database]);
    let status = Process::spawn("cluster status", command);
    for mut process in [home.spawn(&["--db", &database]), status] {
        let (ended, _) = process.end();
        assert_eq!(ended.code(), Some(1));
        process.log_line("let nobody in within 10s");
    }
}

/// A dump holds the numbers of transactions of the server that it was made of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pg_restore_on_a_young_server_trims_the_log_all_the_same() {
    let database = Postgres::shared().database().await;
    let client = Postgres::connect(&database).await;
    let store = PostgresStore::open(&database).await.unwrap();
    let topics: SubscriptionSet = (0..15_000)
        .map(|number| (exact(&format!("topic {number}")), None))
        .collect();
    store.set(url("u"), topics).await.unwrap();
    client
        .batch_execute(
            "UPDATE httppubsub_changes SET xid = '40000000'; \
             UPDATE httppubsub_log SET mark_seq = 15000, mark_xid = '40000001'",
        )
        .await
        .unwrap();
    store
        .set(url("u"), SubscriptionSet::default())
        .await
        .unwrap();
    // One of them marks how far it may go, and the other goes.
    for _ in 0..2 {
        store.trim().await.unwrap();
    }
    let sql = "SELECT count(*) FROM httppubsub_changes";
    let kept: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(kept <= 25_000, "{kept}");
    // And who watches goes on.
    let mirror = Arc::new(Mirror::default());
    store.watch(mirror.clone()).await.unwrap();
    let it = Subscription {
        url: url("u"),
        interest: exact("new"),
        recovery: None,
    };
    store.subscribe(it.clone()).await.unwrap();
    assert_eq!(mirror.subscriptions(), [it]);
}

#[test]
fn pg_reader_sees_the_status_of_the_cluster() {
    let Some(postgres) = postgres(&[]) else {
        return;
    };
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(postgres.database());
    let home = Home::new();
    let server = home.serve(&["--db", &database]);
    let administrator = runtime.block_on(Postgres::connect(&database));
    let grants = "CREATE ROLE reader LOGIN; \
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; \
         ALTER ROLE reader SET default_transaction_read_only = on";
    runtime
        .block_on(administrator.batch_execute(grants))
        .unwrap();
    let mut command = httppubsub();
    let as_reader = database.replace("postgres@", "reader@");
    command.args(["cluster", "status", "--json", "--db", &as_reader]);
    let mut status = Process::spawn("cluster status", command);
    let said = status.end_well().join("\n");
    assert!(said.contains(&server.door.address.to_string()), "{said}");
}

/// The status of a subscription to this topic.
fn subscribe(server: &Server, topic: &str) -> u16 {
    let it = Subscription {
        url: url("http://127.0.0.1:1/r"),
        interest: exact(topic),
        recovery: None,
    };
    server.door.ask(&server.door.signer.subscribe(&it)).status
}

/// Waits until `/readyz` gives this reason, and metrics too; with none until it is ready. What was
/// met is for the log: paths, for instance.
fn until_ready_but_for(server: &Server, metrics: &Metrics, reason: &str) {
    eventually(&format!("not ready for {reason:?}"), || {
        let answer = server.door.get("/readyz");
        assert!(!answer.text().contains('/'), "{}", answer.text());
        let is_so = match reason {
            "" => answer.status == 200,
            _ => answer.status == 503 && answer.text().contains(&format!("{reason}: ")),
        };
        is_so.then_some(())
    });
    if !reason.is_empty() {
        let gauge = format!("httppubsub_not_ready{{reason=\"{reason}\"}}");
        assert_eq!(metrics.value(&gauge), 1, "{gauge}");
    }
}

#[test]
fn not_ready_says_why_and_ends_without_traffic() {
    let home = Home::new();
    let spool = home.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let (mut server, metrics) = Metrics::serve(&home, &["--spool-dir", spool.to_str().unwrap()]);
    let text = metrics.text();
    for reason in ["draining", "database", "replay_guard", "spool", "notices"] {
        let series = format!("httppubsub_not_ready{{reason=\"{reason}\"}} 0");
        assert!(text.contains(&series), "{series} is not in {text}");
    }
    assert_eq!(server.door.get("/readyz").status, 200);
    let aside = home.path().join("aside");
    let folders = [
        (spool, "spool", "the folder of temporary files"),
        (
            home.path().join("data"),
            "replay_guard",
            "used authorizations",
        ),
    ];
    for (folder, reason, what) in folders {
        std::fs::rename(&folder, &aside).unwrap();
        until_ready_but_for(&server, &metrics, reason);
        server.process.log_line(&format!("not ready: {what}"));
        std::fs::rename(&aside, &folder).unwrap();
        until_ready_but_for(&server, &metrics, "");
    }
    server.process.terminate();
    server.process.end_well();
}

#[test]
fn not_ready_for_a_spool_folder_that_is_missing_it_does_not_start() {
    let home = Home::new();
    let missing = home.path().join("none");
    let mut process = home.spawn(&["--spool-dir", missing.to_str().unwrap()]);
    let (status, _) = process.end();
    assert_eq!(status.code(), Some(1));
    process.log_line("cannot use the folder of temporary files");
}

#[test]
fn files_gone_make_it_not_ready_and_nothing_is_acknowledged() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    assert_eq!(subscribe(&server, "before"), 200);
    let aside = home.path().join("aside");
    std::fs::rename(home.database(), &aside).unwrap();
    until_ready_but_for(&server, &metrics, "database");
    server.process.log_line("was removed or replaced");
    assert_eq!(subscribe(&server, "meanwhile"), 503);
    std::fs::rename(&aside, home.database()).unwrap();
    until_ready_but_for(&server, &metrics, "");
    assert_eq!(subscribe(&server, "after"), 200);
}

/// Whoever listens at the old port now is not sent what was meant for websockets.
#[test]
fn lost_rows_of_an_address_that_is_another_ones_now_are_removed() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let receiver = format!("http://{}/v1/receive_for_websockets", server.door.address);
    home.store(&receiver, exact("t"), None);
    home.store("http://127.0.0.1:1/other", exact("t"), None);
    server.process.kill();
    // Another owner of that port, so that this one gets another.
    let taken = TcpListener::bind(server.door.address).unwrap();
    let server = home.serve(&[]);
    let urls: Vec<_> = home.rows().into_iter().map(|row| row.url).collect();
    assert_eq!(urls, ["http://127.0.0.1:1/other"]);
    server.process.log_line("address of an earlier life");
    drop(taken);
}

/// A new identity with each start would be a row more with each start.
#[test]
fn lost_rows_are_looked_for_only_by_broadcasters_that_keep_their_identity() {
    let home = Home::new();
    let database = home.path().join("subscriptions.db");
    let runtime = Runtime::new().unwrap();
    let kept = home.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    let start = |replay_folder: Option<&Path>| {
        let mut config = Config::default();
        config.replay_folder = replay_folder.map(Path::to_owned);
        runtime.block_on(async {
            let store = Arc::new(SqliteStore::open(&database).await.unwrap());
            let authorizations = Authorizations::from(&Secrets::NONE);
            let broadcaster = Broadcaster::start(config, store, authorizations);
            let broadcaster = broadcaster.await.unwrap();
            broadcaster.shut_down();
            assert!(broadcaster.finish(Duration::from_secs(60)).await);
        });
        let sql = "SELECT count(*) FROM httppubsub_broadcasters";
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection.query_row(sql, [], count).unwrap()
    };
    assert_eq!([start(None), start(None)], [0, 0]);
    assert_eq!([start(Some(&kept)), start(Some(&kept))], [1, 1]);
}

#[test]
fn lost_rows_are_none_as_a_second_holder_of_a_url_does_not_start() {
    let Some(postgres) = postgres(&[]) else {
        return;
    };
    let database = Runtime::new().unwrap().block_on(postgres.database());
    let home = Home::new();
    let flags = |data: &str| {
        let data = home.path().join(data).to_str().unwrap().to_owned();
        let url = "http://127.0.0.1:9".to_owned();
        let lease = "8".to_owned();
        [
            ("--db", database.clone()),
            ("--data", data),
            ("--advertise", url),
            ("--lease", lease),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect::<Vec<_>>()
    };
    let (first, second) = (flags("first"), flags("second"));
    let [first, second] =
        [&first, &second].map(|it| it.iter().map(String::as_str).collect::<Vec<_>>());
    let mut holder = home.serve(&first);
    let mut other = home.spawn(&second);
    let (status, _) = other.end();
    assert_eq!(status.code(), Some(1));
    other.log_line("give each its own (--advertise)");
    assert_eq!(subscribe(&holder, "t"), 200);
    // The same one is known when it comes back, though its lease has not ended.
    holder.process.kill();
    let mut holder = home.serve(&first);
    assert!(
        !holder
            .process
            .log()
            .contains("another broadcaster has this url")
    );
    // Another may have the url of one that lives no more.
    holder.process.kill();
    let other = home.serve(&second);
    assert_eq!(subscribe(&other, "u"), 200);
}

/// As docs/operating.md has it: a backup made while it runs, and put in place later.
#[test]
fn docs_say_other_than_nothing_about_backups_and_what_they_say_works() {
    let home = Home::new();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let command = docs.lines().find_map(|line| {
        let sql = line.strip_prefix("sqlite3 httppubsub-data/subscriptions.db \"")?;
        sql.strip_suffix('"')
    });
    let backup = home.path().join("backup.db");
    let sql = command
        .unwrap()
        .replace("backup.db", backup.to_str().unwrap());
    let mut server = home.serve(&[]);
    assert_eq!(subscribe(&server, "before"), 200);
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database.execute_batch(&sql).unwrap();
    drop(database);
    assert_eq!(subscribe(&server, "after"), 200);
    server.process.kill();
    for beside in ["", "-wal", "-shm"] {
        let mut path = home.database().into_os_string();
        path.push(beside);
        let removed = std::fs::remove_file(path);
        assert!(removed.is_ok() || beside == "-shm", "{beside}: {removed:?}");
    }
    std::fs::rename(&backup, home.database()).unwrap();
    let server = home.serve(&[]);
    let kept: Vec<_> = home.rows().into_iter().map(|row| row.interest).collect();
    assert_eq!(kept, [b"before"]);
    assert_eq!(subscribe(&server, "after"), 200);
}

/// F9, of a set that is written in pieces: killed before it is decided, and after.
#[test]
fn big_sets_are_the_one_or_the_other_after_a_kill() {
    let home = Home::new();
    let of = "http://127.0.0.1:1/set";
    let sets: [SubscriptionSet; 2] = [0, 4_000].map(|first| {
        let topics = first..first + 8_000;
        topics
            .map(|number| (exact(&format!("set/{number:05}")), None))
            .collect()
    });
    let etags = sets.clone().map(|set| set.etag(&url(of)));
    let mut server = home.serve(&[]);
    server.door.set(of, &sets[0]);
    let mut last = 0;
    for is_decided in [false, true, false, true] {
        let asked = server.door.signer.set(&url(of), &sets[1 - last]);
        let mut connection = server.door.connect();
        connection.post(&asked).unwrap();
        // It is under way, or has ended already.
        eventually("the set is written", || {
            let rows = home.count("httppubsub_set_rows");
            let decided = home.count("httppubsub_sets WHERE is_decided");
            let is_so = match is_decided {
                false => rows > 0,
                true => decided > 0,
            };
            (is_so || server.door.etag(of) == etags[1 - last]).then_some(())
        });
        server.process.kill();
        server = home.serve(&[]);
        let etag = server.door.etag(of);
        let found = etags.iter().position(|it| *it == etag);
        last = found.expect("it is the one or the other");
        assert_eq!(home.count("httppubsub_sets"), 0);
        assert_eq!(home.count("httppubsub_set_rows"), 0);
        assert_eq!(home.rows().len(), 8_000);
    }
}
