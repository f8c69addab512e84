//! What the SQLite store promises beyond the trait: durability, company, and what happens when
//! things go wrong.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::conformance::Mirror;
use httppubsub_store::{
    Change, Changed, Feed as _, Missed, Notices as _, Observer, SqliteStore, Store, StoreError,
    Subscribed, Subscriptions as _, Unsubscribed,
};
use rusqlite::Connection;
use tokio::task::JoinSet;

#[tokio::test]
async fn a_new_file_has_the_published_tables_and_ours_beside_them() {
    let place = Place::new();
    place.open().await.close().await;
    let layout: serde_json::Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    let published: Vec<String> = layout["sql"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sql| sql.as_str().unwrap().to_owned())
        .collect();
    let there = place.connect();
    let sql = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name";
    let there: Vec<(String, String)> = there
        .prepare(sql)
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(|row| row.unwrap())
        .collect();
    let mut theirs = Vec::new();
    for (name, sql) in there {
        let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        match published.contains(&sql) {
            true => theirs.push(sql),
            false => assert!(
                name.starts_with("httppubsub_"),
                "{name} is not named as ours: {sql}"
            ),
        }
    }
    theirs.sort();
    let mut published = published;
    published.sort();
    assert_eq!(theirs, published);
    assert_eq!(pragma(&place, "user_version"), 0);
}

#[tokio::test]
async fn a_file_of_the_published_broadcaster_stays_usable_by_both() {
    let place = Place::new();
    let theirs = place.connect();
    published_setup(&theirs);
    theirs
        .execute_batch(
            "INSERT INTO httppubsub_subscription_exacts VALUES
                (1, 'u', x'61', 'r', NULL, NULL, NULL, NULL),
                (2, 'u', x'62', 'r', 77, 1700000030.5, 3, 4),
                (3, 'u', x'63', 'r', 78, 1700000099.25, 0, 2),
                (4, 'v', x'64', NULL, NULL, NULL, NULL, NULL);
            INSERT INTO httppubsub_subscription_globs VALUES
                (1, 'u', 'a*', 'r', NULL, NULL, x'616263', 1, 3);",
        )
        .unwrap();

    let ours = place.open().await;
    let mirror = watch(&ours).await;
    assert_eq!(mirror.subscriptions().len(), 5);
    assert_eq!(ours.next_missed().await.unwrap(), Some(at(3.0)));
    let now = at(1_700_000_031.0);
    let claimed = ours
        .claim_missed(now, Duration::from_secs(30), 10)
        .await
        .unwrap();
    let claimed: Vec<_> = claimed
        .into_iter()
        .map(|it| (it.interest, it.topic, it.attempts))
        .collect();
    let expired = (exact("u", "b", None).interest, topic("b"), 3);
    let waiting = (glob("u", "a*", None).interest, topic("abc"), 1);
    assert_eq!(claimed, [waiting, expired]);

    // They go on, unaware of us, and start again.
    published_subscribe(&theirs, "u", b"new", None);
    published_setup(&theirs);
    ours.catch_up().await.unwrap();
    assert!(mirror.subscriptions().contains(&exact("u", "new", None)));
    ours.close().await;
    published_subscribe(&theirs, "u", b"newer", Some("r"));
    assert_eq!(pragma(&place, "user_version"), 0);

    let ours = place.open().await;
    assert!(
        watch(&ours)
            .await
            .subscriptions()
            .contains(&exact("u", "newer", Some("r")))
    );
}

#[tokio::test]
async fn a_change_by_hand_is_told_too() {
    let place = Place::new();
    let store = place.open().await;
    let mirror = watch(&store).await;
    let hand = place.connect();
    published_subscribe(&hand, "u", b"a", None);
    for (sql, want) in [
        (
            "UPDATE httppubsub_subscription_exacts SET missed_url = 'r'",
            exact("u", "a", Some("r")),
        ),
        (
            "UPDATE httppubsub_subscription_exacts SET url = 'v'",
            exact("v", "a", Some("r")),
        ),
        (
            "UPDATE httppubsub_subscription_exacts SET exact = x'62'",
            exact("v", "b", Some("r")),
        ),
        (
            "UPDATE httppubsub_subscription_exacts SET missed_url = ''",
            exact("v", "b", None),
        ),
        (
            "DELETE FROM httppubsub_subscription_exacts;
             INSERT INTO httppubsub_subscription_globs (url, glob) VALUES ('u', 'a');
             UPDATE httppubsub_subscription_globs SET glob = 'b', missed_url = 'r'",
            glob("u", "b", Some("r")),
        ),
    ] {
        hand.execute_batch(sql).unwrap();
        store.catch_up().await.unwrap();
        assert_eq!(mirror.subscriptions(), [want], "after {sql}");
    }
}

#[tokio::test]
async fn stores_on_one_file_see_each_other() {
    let place = Place::new();
    // Opened at once, so that they create the tables at once, too.
    let (one, other) = tokio::join!(place.open(), place.open());
    let (one_mirror, other_mirror) = (watch(&one).await, watch(&other).await);
    for n in 0..50 {
        let it = exact("u", format!("{n:02}"), Some("r"));
        let (writer, reader, seen) = match n % 2 {
            0 => (&one, &other, &other_mirror),
            _ => (&other, &one, &one_mirror),
        };
        assert_eq!(
            writer.subscribe(it.clone()).await.unwrap(),
            Subscribed::Added
        );
        reader.catch_up().await.unwrap();
        assert_eq!(seen.subscriptions().last(), Some(&it));
    }
    assert_eq!(one_mirror.subscriptions(), other_mirror.subscriptions());

    let it = exact("u", "00", Some("r"));
    one.record_missed(missed(&it, 10.0)).await.unwrap();
    let lease = Duration::from_secs(30);
    assert_eq!(
        other.claim_missed(at(10.0), lease, 10).await.unwrap().len(),
        1
    );
    assert_eq!(one.claim_missed(at(10.0), lease, 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let place = Place::new();
    let store = place.open().await;
    let it = exact("u", "a", Some("r"));
    store.subscribe(it.clone()).await.unwrap();
    store.record_missed(missed(&it, 10.0)).await.unwrap();
    // Without a proper end, as after a crash.
    let crashed = PathBuf::from(format!("{}.copy", place.path.display()));
    std::fs::copy(&place.path, &crashed).unwrap();
    std::fs::copy(wal(&place.path), wal(&crashed)).unwrap();
    store.close().await;
    assert!(!wal(&place.path).exists(), "closing writes the log back");

    for path in [&place.path, &crashed] {
        let store = SqliteStore::open(path).await.unwrap();
        assert_eq!(
            watch(&store).await.subscriptions(),
            std::slice::from_ref(&it)
        );
        assert_eq!(store.next_missed().await.unwrap(), Some(at(10.0)));
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let place = Place::new();
    place.open().await.close().await;
    place
        .connect()
        .execute_batch("UPDATE httppubsub_schema SET version = 99")
        .unwrap();
    let before = std::fs::read(&place.path).unwrap();
    let refused = SqliteStore::open(&place.path).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the database has schema version 99, this program knows up to 4: use the newer program"
    );
    assert_eq!(std::fs::read(&place.path).unwrap(), before);
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let place = Place::new();
    std::fs::write(&place.path, "x".repeat(10_000)).unwrap();
    let refused = SqliteStore::open(&place.path).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused:?}");

    let nowhere = place.folder.path().join("missing").join("s.db");
    let refused = SqliteStore::open(nowhere).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Unavailable { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn while_another_holds_the_lock_calls_fail_and_change_nothing() {
    let place = Place::new();
    let options = SqliteStore::builder().busy_timeout(Duration::from_millis(20));
    let store = options.open(&place.path).await.unwrap();
    let mirror = watch(&store).await;
    let there = exact("u", "there", Some("r"));
    store.subscribe(there.clone()).await.unwrap();
    let holder = place.connect();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();

    let new = exact("u", "new", None);
    unavailable(store.subscribe(new.clone()).await);
    unavailable(
        store
            .unsubscribe(there.url.clone(), there.interest.clone())
            .await,
    );
    unavailable(store.set(url("u"), SubscriptionSet::default()).await);
    unavailable(store.record_missed(missed(&there, 10.0)).await);
    unavailable(
        store
            .claim_missed(at(10.0), Duration::from_secs(30), 10)
            .await,
    );
    // Who only reads does not notice.
    store.catch_up().await.unwrap();
    assert_eq!(
        store.etag(url("u")).await.unwrap(),
        set_of(&[&there]).etag(&url("u"))
    );
    assert_eq!(store.next_missed().await.unwrap(), None);

    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(mirror.subscriptions(), std::slice::from_ref(&there));
    assert_eq!(
        store.subscribe(new.clone()).await.unwrap(),
        Subscribed::Added
    );
    assert_eq!(mirror.subscriptions(), [new, there]);
}

#[tokio::test]
async fn a_call_that_is_given_up_while_it_waits_is_not_done_later() {
    let place = Place::new();
    let store = place.open().await;
    let holder = place.connect();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let given_up = exact("u", "given up", None);
    poll_once(store.subscribe(given_up.clone())).await;
    holder.execute_batch("ROLLBACK").unwrap();
    let kept = exact("u", "kept", None);
    store.subscribe(kept.clone()).await.unwrap();
    assert_eq!(watch(&store).await.subscriptions(), [kept]);
}

#[tokio::test]
async fn what_one_call_fails_at_is_rolled_back_alone() {
    let place = Place::new();
    let store = Arc::new(place.open().await);
    let mirror = watch(&store).await;
    let holder = place.connect();
    holder
        .execute_batch(
            "CREATE TRIGGER no BEFORE INSERT ON httppubsub_subscription_exacts
             WHEN NEW.exact = x'ff' BEGIN SELECT RAISE(ABORT, 'not this one'); END;
             BEGIN IMMEDIATE",
        )
        .unwrap();
    // The lock makes them wait together, so they are committed together.
    let bad = set_of(&[&exact("u", "a", None), &exact("u", b"\xff", None)]);
    let (good, also_good) = (exact("v", "b", None), exact("w", "c", None));
    let mut before = Box::pin(store.subscribe(good.clone()));
    let mut failing = Box::pin(store.set(url("u"), bad));
    let mut after = Box::pin(store.subscribe(also_good.clone()));
    poll_once(&mut before).await;
    poll_once(&mut failing).await;
    poll_once(&mut after).await;
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(before.await.unwrap(), Subscribed::Added);
    unavailable(failing.await);
    assert_eq!(after.await.unwrap(), Subscribed::Added);
    assert_eq!(mirror.subscriptions(), [good, also_good]);
}

#[tokio::test]
async fn what_ends_the_transaction_fails_all_of_it() {
    let place = Place::new();
    let store = place.open().await;
    let mirror = watch(&store).await;
    let holder = place.connect();
    holder
        .execute_batch(
            "CREATE TRIGGER no BEFORE INSERT ON httppubsub_subscription_exacts
             WHEN NEW.exact = x'ff' BEGIN SELECT RAISE(ROLLBACK, 'nor any other'); END;
             BEGIN IMMEDIATE",
        )
        .unwrap();
    let mut before = Box::pin(store.subscribe(exact("v", "b", None)));
    let mut failing = Box::pin(store.subscribe(exact("u", b"\xff", None)));
    poll_once(&mut before).await;
    poll_once(&mut failing).await;
    holder.execute_batch("ROLLBACK").unwrap();
    unavailable(before.await);
    unavailable(failing.await);
    assert_eq!(mirror.subscriptions(), []);
    assert_eq!(
        store.subscribe(exact("v", "b", None)).await.unwrap(),
        Subscribed::Added
    );
}

#[tokio::test]
async fn who_was_away_for_too_many_changes_reads_everything_again() {
    let place = Place::new();
    let sleeper = place.open().await;
    let mirror = watch(&sleeper).await;
    sleeper.subscribe(exact("u", "gone", None)).await.unwrap();
    mirror.take_changes();
    let busy = SqliteStore::builder()
        .changes_kept(8)
        .open(&place.path)
        .await
        .unwrap();
    busy.unsubscribe(url("u"), exact("u", "gone", None).interest)
        .await
        .unwrap();
    for n in 0..40 {
        busy.subscribe(exact("u", format!("{n:02}"), None))
            .await
            .unwrap();
    }
    sleeper.catch_up().await.unwrap();
    let told = mirror.take_changes();
    let (exacts, globs) = (40, 0);
    assert_eq!(told.first(), Some(&Change::ReloadBegan { exacts, globs }));
    assert_eq!(told.last(), Some(&Change::ReloadEnded));
    assert_eq!(mirror.subscriptions(), watch(&busy).await.subscriptions());

    // And from then on what changes.
    busy.subscribe(exact("v", "x", None)).await.unwrap();
    sleeper.catch_up().await.unwrap();
    assert_eq!(
        mirror.take_changes(),
        [Change::Added(exact("v", "x", None))]
    );
}

#[tokio::test]
async fn changes_are_forgotten_also_when_only_others_write() {
    let place = Place::new();
    let store = SqliteStore::builder()
        .changes_kept(8)
        .open(&place.path)
        .await
        .unwrap();
    let mirror = watch(&store).await;
    let other = place.connect();
    for n in 0..40 {
        published_subscribe(&other, "u", format!("{n:02}").as_bytes(), None);
    }
    store.catch_up().await.unwrap();
    assert_eq!(mirror.subscriptions().len(), 40);
    // Done behind the trimming, which the above set off.
    store
        .unsubscribe(url("u"), exact("u", "absent", None).interest)
        .await
        .unwrap();
    let kept: i64 = other
        .query_row("SELECT count(*) FROM httppubsub_changes", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(kept, 8);
    store.catch_up().await.unwrap();
    assert_eq!(mirror.subscriptions().len(), 40);
}

#[tokio::test]
async fn rows_that_are_no_subscriptions_are_passed_over() {
    let place = Place::new();
    let store = place.open().await;
    let mirror = watch(&store).await;
    let good = [exact("u", "a", Some("r")), glob("u", "a", None)];
    for it in &good {
        store.subscribe(it.clone()).await.unwrap();
    }
    let garbage = [
        "_exacts (url, exact) VALUES (x'75', x'01')",
        "_exacts (url, exact) VALUES (CAST(x'ff' AS TEXT), x'02')",
        "_exacts (url, exact) VALUES ('u', 'text')",
        "_exacts (url, exact) VALUES ('u', 5)",
        "_exacts (url, exact) VALUES ('u', zeroblob(65536))",
        "_exacts (url, exact) VALUES (CAST(zeroblob(65536) AS TEXT), x'03')",
        "_exacts (url, exact, missed_url) VALUES ('u', x'04', x'72')",
        "_globs (url, glob) VALUES ('u', x'61')",
        "_globs (url, glob) VALUES ('u', CAST(x'61ff' AS TEXT))",
        "_globs (url, glob) VALUES ('u', CAST(zeroblob(65536) AS TEXT))",
    ];
    let other = place.connect();
    for row in garbage {
        other
            .execute_batch(&format!("INSERT INTO httppubsub_subscription{row}"))
            .unwrap();
    }
    // Notices that nobody could send, the last for want of a topic.
    other
        .execute_batch(
            "UPDATE httppubsub_subscription_exacts SET missed_url = 'r' WHERE exact <> x'04';
             UPDATE httppubsub_subscription_exacts SET missed_next_retry_at = 1;
             UPDATE httppubsub_subscription_globs SET missed_url = 'r', missed_next_retry_at = 2;",
        )
        .unwrap();
    store.catch_up().await.unwrap();
    let known = [good[0].clone(), glob("u", "a", Some("r"))];
    assert_eq!(mirror.subscriptions(), known);
    assert_eq!(watch(&store).await.subscriptions(), known);
    assert_eq!(
        store.etag(url("u")).await.unwrap(),
        set_of(&known.each_ref()).etag(&url("u"))
    );

    let claimed = store
        .claim_missed(at(5.0), Duration::from_secs(30), 100)
        .await
        .unwrap();
    let claimed: Vec<_> = claimed.into_iter().map(|it| it.interest).collect();
    assert_eq!(claimed, [good[0].interest.clone()]);
    assert_eq!(store.next_missed().await.unwrap(), Some(at(35.0)));

    let changed = store
        .set(url("u"), set_of(&known.each_ref()))
        .await
        .unwrap();
    assert_eq!((changed.added, changed.updated), (0, 0));
    assert_eq!(changed.removed, 7, "a set leaves exactly what it lists");
    let changed = store
        .set(url("u"), set_of(&known.each_ref()))
        .await
        .unwrap();
    assert_eq!(changed, Changed::default());
}

#[tokio::test]
async fn an_observer_that_panics_is_told_everything_again() {
    struct Fragile(Arc<Mirror>, AtomicBool);
    impl Observer for Fragile {
        fn observe(&self, changes: &[Change]) {
            assert!(!self.1.swap(false, Ordering::Relaxed), "as the test wants");
            self.0.observe(changes);
        }
    }
    let place = Place::new();
    let store = place.open().await;
    let mirror = Arc::new(Mirror::default());
    let observer = Arc::new(Fragile(mirror.clone(), AtomicBool::new(false)));
    store.watch(observer.clone()).await.unwrap();
    observer.1.store(true, Ordering::Relaxed);
    assert_eq!(
        store.subscribe(exact("u", "a", None)).await.unwrap(),
        Subscribed::Added
    );
    assert_eq!(mirror.subscriptions(), []);
    store.catch_up().await.unwrap();
    assert_eq!(mirror.subscriptions(), [exact("u", "a", None)]);
    assert_eq!(
        store.subscribe(exact("u", "b", None)).await.unwrap(),
        Subscribed::Added
    );
    assert_eq!(mirror.subscriptions().len(), 2);
}

#[tokio::test]
async fn dropping_a_store_does_not_wait_for_what_was_given_up() {
    let place = Place::new();
    let options = SqliteStore::builder().busy_timeout(Duration::from_secs(86_400));
    let store = options.open(&place.path).await.unwrap();
    let holder = place.connect();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    poll_once(store.subscribe(exact("u", "a", None))).await;
    drop(store);
    holder.execute_batch("ROLLBACK").unwrap();
    let store = place.open().await;
    assert_eq!(watch(&store).await.subscriptions(), []);
}

#[tokio::test]
async fn an_observer_may_be_the_last_to_let_go_of_the_store() {
    struct Last(
        Mutex<Option<Arc<SqliteStore>>>,
        tokio::sync::mpsc::UnboundedSender<()>,
    );
    impl Observer for Last {
        fn observe(&self, _: &[Change]) {
            if self.0.lock().unwrap().take().is_some() {
                self.1.send(()).unwrap();
            }
        }
    }
    let place = Place::new();
    let store = Arc::new(place.open().await);
    let (told, mut is_told) = tokio::sync::mpsc::unbounded_channel();
    let observer = Arc::new(Last(Mutex::default(), told));
    store.watch(observer.clone()).await.unwrap();
    *observer.0.lock().unwrap() = Some(store.clone());
    poll_once(store.subscribe(exact("u", "a", None))).await;
    drop(store);
    // Either the call was given up before it was taken, or the observer drops the store.
    let still_there = observer.0.lock().unwrap().is_some();
    if !still_there {
        is_told.recv().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_see_what_they_were_told_is_there() {
    let place = Place::new();
    let stores = [Arc::new(place.open().await), Arc::new(place.open().await)];
    let mirrors = [watch(&stores[0]).await, watch(&stores[1]).await];
    let mut calls = JoinSet::new();
    for n in 0..200 {
        let (stores, mirrors) = (stores.clone(), mirrors.clone());
        calls.spawn(async move {
            let it = exact("u", format!("{n}"), None);
            stores[n % 2].subscribe(it.clone()).await.unwrap();
            assert!(mirrors[n % 2].subscriptions().contains(&it));
            stores[1 - n % 2].catch_up().await.unwrap();
            assert!(mirrors[1 - n % 2].subscriptions().contains(&it));
        });
    }
    calls.join_all().await;
    assert_eq!(mirrors[0].subscriptions(), mirrors[1].subscriptions());
}

/// Whatever page a disk put in the place of another: all rows are read, or the loss is said.
#[tokio::test]
async fn page_lost_in_the_file_is_said_and_not_a_few_rows_less() {
    const ROWS: usize = 6_000;
    const PAGE: usize = 4_096;
    let place = Place::new();
    let store = place.open().await;
    let rows: Vec<_> = (0..ROWS)
        .map(|number| exact("u", format!("topic {number}"), Some("r")))
        .collect();
    let set = set_of(&rows.iter().collect::<Vec<_>>());
    store.set(url("u"), set).await.unwrap();
    store.close().await;
    let whole = std::fs::read(&place.path).unwrap();
    // Leaves of tables and of indexes.
    let leaves: Vec<_> = (1..whole.len() / PAGE)
        .filter(|page| matches!(whole[page * PAGE], 0x0d | 0x0a))
        .collect();
    let mut said = 0;
    for number in 0..60 {
        let from = leaves[number * 31 % leaves.len()] * PAGE;
        let to = leaves[(number * 17 + 5) % leaves.len()] * PAGE;
        let mut damaged = whole.clone();
        damaged.copy_within(from..from + PAGE, to);
        std::fs::write(&place.path, damaged).unwrap();
        let mirror = Arc::new(Mirror::default());
        let watched = match SqliteStore::open(&place.path).await {
            Ok(store) => store.watch(mirror.clone()).await,
            Err(error) => Err(error),
        };
        match watched {
            Ok(()) => assert_eq!(mirror.subscriptions().len(), ROWS, "page {to} from {from}"),
            Err(StoreError::Corrupt(why)) => {
                assert!(why.contains("restore a backup"), "{why}");
                said += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(said > 0);
}

#[tokio::test]
async fn files_gone_while_in_use_fail_every_change_until_they_are_back() {
    for lost in ["subscriptions.db", "subscriptions.db-wal"] {
        let place = Place::new();
        let store = place.open().await;
        store.subscribe(exact("u", "a", None)).await.unwrap();
        let (path, aside) = (
            place.folder.path().join(lost),
            place.folder.path().join("aside"),
        );
        std::fs::rename(&path, &aside).unwrap();
        assert_eq!(store.trouble(), None);
        // It is found without traffic, too.
        store.probe().await;
        let trouble = store.trouble().unwrap();
        assert!(
            trouble.contains(lost) && trouble.contains("removed"),
            "{trouble}"
        );
        unavailable(store.subscribe(exact("u", "b", None)).await);
        // Another file by that name is not the one that is in use.
        std::fs::copy(&aside, &path).unwrap();
        unavailable(store.subscribe(exact("u", "b", None)).await);
        std::fs::rename(&aside, &path).unwrap();
        store.probe().await;
        assert_eq!(store.trouble(), None);
        let again = store.subscribe(exact("u", "b", None)).await.unwrap();
        assert_eq!(again, Subscribed::Added, "{lost}");
    }
}

#[tokio::test]
async fn database_mode_is_for_its_owner_only() {
    let place = Place::new();
    let store = place.open().await;
    store.subscribe(exact("u", "a", None)).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    let database = "subscriptions.db";
    let all = ["", "-shm", "-wal"].map(|beside| format!("{database}{beside}"));
    assert_eq!(names, all);
}

/// What a lock of another makes fail is trouble, and is over when a probe gets through.
#[tokio::test]
async fn trouble_ends_without_traffic() {
    let place = Place::new();
    let options = SqliteStore::builder().busy_timeout(Duration::from_millis(20));
    let store = options.open(&place.path).await.unwrap();
    let other = place.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(store.trouble(), None);
    unavailable(store.subscribe(exact("u", "a", None)).await);
    store.probe().await;
    assert!(store.trouble().is_some());
    other.execute_batch("COMMIT").unwrap();
    store.probe().await;
    assert_eq!(store.trouble(), None);
}

/// Two sets of as many topics, some of which are in both.
fn two_sets(rows: usize) -> [SubscriptionSet; 2] {
    [0, rows / 2].map(|first| {
        let topics =
            (first..first + rows).map(|number| exact("u", format!("set {number:06}"), None));
        set_of(&topics.collect::<Vec<_>>().iter().collect::<Vec<_>>())
    })
}

/// Subscribes others while `setting` is under way until `others` have done so, or it is done.
async fn others_meanwhile(
    store: &SqliteStore,
    setting: impl Future<Output = Result<Changed, StoreError>>,
    others: std::ops::Range<usize>,
) -> (usize, Option<Changed>) {
    let mut setting = std::pin::pin!(setting);
    let mut between = 0;
    for number in others {
        tokio::select! {
            biased;
            changed = &mut setting => return (between, Some(changed.unwrap())),
            added = store.subscribe(exact("other", format!("{number}"), None)) => {
                assert_eq!(added.unwrap(), Subscribed::Added);
                between += 1;
            }
        }
    }
    (between, None)
}

#[tokio::test]
async fn big_sets_let_others_write_in_between() {
    let place = Place::new();
    let store = place.open().await;
    let [one, other] = two_sets(20_000);
    let (between, changed) = others_meanwhile(&store, store.set(url("u"), one), 0..100_000).await;
    assert_eq!(changed.unwrap().added, 20_000);
    assert!(between >= 10, "{between}");
    let etag = other.etag(&url("u"));
    let setting = store.set(url("u"), other);
    let (between, changed) = others_meanwhile(&store, setting, 100_000..200_000).await;
    let changed = changed.unwrap();
    assert_eq!((changed.added, changed.removed), (10_000, 10_000));
    assert!(between >= 10, "{between}");
    assert_eq!(store.etag(url("u")).await.unwrap(), etag);
}

/// A set that is given up or killed somewhere is as if it had not begun, or as if it had ended.
#[tokio::test]
async fn big_sets_are_all_or_nothing_wherever_they_are_cut_short() {
    const ROWS: usize = 4_000;
    let place = Place::new();
    let mut store = place.open().await;
    let sets = two_sets(ROWS);
    store.set(url("u"), sets[0].clone()).await.unwrap();
    let (mut last, mut cut_short) = (0, [0, 0]);
    // The set is decided after as many commits of others as the two threads happen to make.
    for patience in (0..300).chain([1_000]) {
        if (12..300).contains(&patience) && !cut_short.contains(&0) {
            continue;
        }
        let (old, new) = (&sets[last], &sets[1 - last]);
        let setting = store.set(url("u"), new.clone());
        let others = 10_000 * patience..10_000 * patience + patience;
        let (_, done) = others_meanwhile(&store, setting, others).await;
        // Behind the piece that was on its way when the set was cut short, and may decide it.
        let behind = format!("behind {patience}");
        let added = store.subscribe(exact("other", behind, None)).await;
        assert_eq!(added.unwrap(), Subscribed::Added);
        let etag = store.etag(url("u")).await.unwrap();
        let is_new = etag == new.etag(&url("u"));
        assert!(
            is_new || etag == old.etag(&url("u")),
            "neither, after {patience}"
        );
        assert!(done.is_none() || is_new);
        if done.is_none() {
            cut_short[usize::from(is_new)] += 1;
        }
        // Whoever subscribes or leaves meanwhile does so to one of the two, and it stays so.
        let of_new = new
            .exacts()
            .iter()
            .find(|(topic, _)| !old.exacts().iter().any(|(it, _)| it == topic));
        let (topic, _) = of_new.unwrap();
        let topic = Interest::Exact(topic.clone());
        let it = Subscription {
            url: url("u"),
            interest: topic.clone(),
            recovery: Some(url("r")),
        };
        let left = store.unsubscribe(url("u"), topic.clone()).await.unwrap();
        let came = store.subscribe(it.clone()).await.unwrap();
        let again = store.subscribe(it.clone()).await.unwrap();
        let wanted = match is_new {
            true => Unsubscribed::Removed,
            false => Unsubscribed::Absent,
        };
        assert_eq!(
            (left, came, again),
            (wanted, Subscribed::Added, Subscribed::Existed)
        );
        // One that a decided set removes is gone, and can be subscribed again for good.
        let of_old = old
            .exacts()
            .iter()
            .find(|(topic, _)| !new.exacts().iter().any(|(it, _)| it == topic));
        let (surplus, _) = of_old.unwrap();
        let surplus = Interest::Exact(surplus.clone());
        let it = Subscription {
            interest: surplus.clone(),
            ..it
        };
        let came = store.subscribe(it.clone()).await.unwrap();
        let wanted = match is_new {
            true => Subscribed::Added,
            false => Subscribed::Existed,
        };
        assert_eq!(came, wanted, "after {patience}");
        let recovery = it.recovery.clone();
        let surplus = is_new.then(|| (surplus, recovery.clone()));
        store.close().await;
        store = place.open().await;
        let kept = match is_new {
            true => new,
            false => old,
        };
        let kept = kept
            .exacts()
            .iter()
            .map(|(topic, recovery)| (Interest::Exact(topic.clone()), recovery.clone()));
        let kept: SubscriptionSet = kept
            .filter(|(interest, _)| *interest != topic)
            .chain([(topic.clone(), recovery)])
            .chain(surplus)
            .collect();
        let etag = store.etag(url("u")).await.unwrap();
        assert_eq!(etag, kept.etag(&url("u")), "after {patience}");
        let told = watch(&store).await.subscriptions();
        let told = told.iter().filter(|it| it.url == url("u")).count();
        assert_eq!(told, kept.exacts().len());
        store.set(url("u"), new.clone()).await.unwrap();
        last = 1 - last;
    }
    assert!(cut_short[0] > 0 && cut_short[1] > 0, "{cut_short:?}");
}

/// Two processes set one url at once, in every combination of sizes: the end is one of the two
/// sets.
#[tokio::test(flavor = "multi_thread")]
async fn big_sets_of_one_url_at_once_leave_one_of_them() {
    let place = Place::new();
    let stores = [Arc::new(place.open().await), Arc::new(place.open().await)];
    let numbered = |prefix: &str, rows: usize| {
        let topics = (0..rows).map(|number| exact("u", format!("{prefix} {number:04}"), None));
        set_of(&topics.collect::<Vec<_>>().iter().collect::<Vec<_>>())
    };
    // A single transaction, one piece, several pieces.
    let sizes = [20, 120, 1_100];
    for round in 0..36 {
        let (one, other) = (sizes[round % 3], sizes[round / 3 % 3]);
        let sets = [numbered("one", one), numbered("other", other)];
        // The same store in some rounds, as two requests to one broadcaster.
        let set_by = [stores[0].clone(), stores[round / 9 % 2].clone()];
        let mut setting = JoinSet::new();
        for (store, set) in set_by.into_iter().zip(sets.clone()) {
            setting.spawn(async move { store.set(url("u"), set).await });
        }
        // One that is turned away has changed nothing.
        let done = setting.join_all().await;
        assert!(done.iter().any(Result::is_ok), "{done:?}");
        let etag = stores[0].etag(url("u")).await.unwrap();
        let is_one_of_them = sets.iter().any(|set| set.etag(&url("u")) == etag);
        assert!(is_one_of_them, "a mixture of {one} and {other} topics");
    }
}

/// A set that has no turn, as others of its peer do not end, fails as one that waits for the lock.
#[tokio::test]
async fn big_sets_without_a_turn_fail_in_time() {
    let place = Place::new();
    let options = SqliteStore::builder().busy_timeout(Duration::from_millis(20));
    let store = options.open(&place.path).await.unwrap();
    let holder = place.connect();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for rows in [1, 1_000] {
        let of = |number: usize| url(&format!("http://peer:{rows}/{number}"));
        let [set, _] = two_sets(rows);
        // They have all turns of their peer, and are not polled again.
        let mut others: Vec<_> = (0..8)
            .map(|number| Box::pin(store.set(of(number), set.clone())))
            .collect();
        for other in &mut others {
            poll_once(other).await;
        }
        // Long after the store's patience, 2 s here: a set that never ended would be found.
        let waits = tokio::time::timeout(Duration::from_secs(180), store.set(of(9), set.clone()));
        unavailable(waits.await.unwrap());
    }
    holder.execute_batch("ROLLBACK").unwrap();
    let [set, _] = two_sets(1);
    store.set(url("http://peer:3/"), set).await.unwrap();
}

/// Large sets do not leave work to probes, and wait for a probe that ends sets of others.
#[tokio::test]
async fn big_sets_wait_while_others_are_being_ended() {
    let place = Place::new();
    let store = place.open().await;
    let [one, other] = two_sets(1_500);
    store.set(url("u"), one).await.unwrap();
    // A probe that had anything to end would make it again.
    std::fs::remove_file(place.mark()).unwrap();
    store.probe().await;
    assert!(!place.mark().exists());

    let probing = std::fs::File::create(place.mark()).unwrap();
    probing.try_lock().unwrap();
    let mut setting = Box::pin(store.set(url("u"), other.clone()));
    // A set that does not wait answers long before that.
    let waits = tokio::time::timeout(Duration::from_millis(500), &mut setting).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(probing);
    setting.await.unwrap();
    assert_eq!(store.etag(url("u")).await.unwrap(), other.etag(&url("u")));
}

/// What a killed process left of a set keeps its url only as long as nobody can tell that it is
/// dead.
#[tokio::test]
async fn big_sets_left_by_another_process_are_ended_by_a_probe() {
    let place = Place::new();
    place.open().await.close().await;
    let leave = || {
        let sql = "INSERT INTO httppubsub_sets (url) VALUES ('u')";
        place.connect().execute_batch(sql).unwrap();
    };
    // It was left before the start, while a third process has a set of its own under way.
    leave();
    let third = std::fs::File::create(place.mark()).unwrap();
    third.try_lock_shared().unwrap();
    let store = place.open().await;
    store.probe().await;
    let [small, other_small] = two_sets(3);
    unavailable(store.set(url("u"), small.clone()).await);
    drop(third);
    store.probe().await;
    assert_eq!(store.set(url("u"), small).await.unwrap().added, 3);
    // And one that is left while this store is open.
    leave();
    unavailable(store.set(url("u"), other_small.clone()).await);
    store.probe().await;
    store.set(url("u"), other_small).await.unwrap();
}

/// One peer sets all that it can, large and small; nobody waits for more than a few pieces of it.
#[tokio::test]
async fn share_of_the_writer_leaves_others_their_turns() {
    #[derive(Default)]
    struct Counting(std::sync::atomic::AtomicUsize);
    impl Observer for Counting {
        fn observe(&self, changes: &[Change]) {
            self.0.fetch_add(changes.len(), Ordering::SeqCst);
        }
    }
    let place = Place::new();
    let store = Arc::new(place.open().await);
    let counting = Arc::new(Counting::default());
    store.watch(counting.clone()).await.unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let mut hostile = JoinSet::new();
    for (number, rows) in [(0, 10_000), (1, 10_000)]
        .into_iter()
        .chain((2..40).map(|it| (it, 90)))
    {
        let (store, stopped) = (store.clone(), stopped.clone());
        let sets = two_sets(rows);
        hostile.spawn(async move {
            for set in sets.iter().cycle() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let of = url(&format!("http://hostile:1/{number}"));
                store.set(of, set.clone()).await.unwrap();
            }
        });
    }
    // It is under way.
    while counting.0.load(Ordering::SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    for number in 0..30 {
        let before = counting.0.load(Ordering::SeqCst);
        let it = exact("http://good:1/", format!("{number}"), None);
        store.subscribe(it).await.unwrap();
        let waited_for = counting.0.load(Ordering::SeqCst) - before;
        // Two pieces, and a few small sets, in the transaction before it and in its own.
        assert!(waited_for < 8_000, "{waited_for}");
    }
    stopped.store(true, Ordering::SeqCst);
    while hostile.join_next().await.is_some() {}
}

/// A place for a database, gone at the end of the test.
struct Place {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subscriptions.db");
        Self { folder, path }
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path).await.unwrap()
    }

    /// The file whose lock says that large sets are under way.
    fn mark(&self) -> PathBuf {
        PathBuf::from(format!("{}-sets", self.path.display()))
    }

    /// As another process would.
    fn connect(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }
}

/// The statements with which the published broadcaster starts.
fn published_setup(connection: &Connection) {
    let layout: serde_json::Value = serde_json::from_str(include_str!("schema.json")).unwrap();
    connection
        .execute_batch("BEGIN IMMEDIATE TRANSACTION")
        .unwrap();
    for sql in layout["sql"].as_array().unwrap() {
        let sql = sql.as_str().unwrap();
        let sql = sql.replace("TABLE", "TABLE IF NOT EXISTS");
        connection
            .execute_batch(&sql.replace("INDEX", "INDEX IF NOT EXISTS"))
            .unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
}

/// The statements with which the published broadcaster adds a subscription.
fn published_subscribe(connection: &Connection, url: &str, topic: &[u8], recovery: Option<&str>) {
    connection
        .execute_batch("BEGIN IMMEDIATE TRANSACTION")
        .unwrap();
    let sql = "INSERT INTO httppubsub_subscription_exacts (url, exact, missed_url) \
               SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM httppubsub_subscription_exacts \
               AS hse WHERE hse.url = ?1 AND hse.exact = ?2)";
    connection.execute(sql, (url, topic, recovery)).unwrap();
    connection.execute_batch("COMMIT").unwrap();
}

fn pragma(place: &Place, name: &str) -> i64 {
    place
        .connect()
        .pragma_query_value(None, name, |row| row.get(0))
        .unwrap()
}

fn wal(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

async fn watch(store: &SqliteStore) -> Arc<Mirror> {
    let mirror = Arc::new(Mirror::default());
    store.watch(mirror.clone()).await.unwrap();
    mirror
}

/// Hands the call to the store without waiting for its answer.
async fn poll_once<T: std::fmt::Debug>(mut call: impl Future<Output = T> + Unpin) {
    let polled = std::future::poll_fn(|cx| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut call).poll(cx).is_ready())
    });
    assert!(!polled.await, "the call waits");
}

#[track_caller]
fn unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    assert!(
        matches!(answer, Err(StoreError::Unavailable { .. })),
        "{answer:?}"
    );
}

fn set_of(subscriptions: &[&Subscription]) -> SubscriptionSet {
    subscriptions
        .iter()
        .map(|it| (it.interest.clone(), it.recovery.clone()))
        .collect()
}

fn exact(of: &str, name: impl AsRef<[u8]>, recovery: Option<&str>) -> Subscription {
    Subscription {
        url: url(of),
        interest: Interest::Exact(topic(name)),
        recovery: recovery.map(url),
    }
}

fn glob(of: &str, pattern: &str, recovery: Option<&str>) -> Subscription {
    let interest = Interest::Glob(GlobPattern::parse(pattern).unwrap());
    Subscription {
        url: url(of),
        interest,
        recovery: recovery.map(url),
    }
}

fn topic(name: impl AsRef<[u8]>) -> Topic {
    Topic::new(name.as_ref()).unwrap()
}

fn url(text: &str) -> SubscriberUrl {
    SubscriberUrl::new(text).unwrap()
}

fn missed(by: &Subscription, due: f64) -> Missed {
    Missed {
        url: by.url.clone(),
        interest: by.interest.clone(),
        topic: topic("x"),
        due: at(due),
    }
}

fn at(seconds: f64) -> Now {
    Now::from_unix(Duration::from_secs_f64(seconds))
}

#[tokio::test]
async fn what_is_kept_of_an_address_goes_when_its_broadcaster_has_another() {
    let place = Place::new();
    let store = place.open().await;
    let mirror = watch(&store).await;
    let (me, another) = ([1; 16], [2; 16]);
    assert_eq!(store.move_to(me, url("http://b:1/r")).await.unwrap(), None);
    let of_others = exact("u", "a", None);
    for it in [
        &exact("http://b:1/r", "a", None),
        &glob("http://b:1/r", "*", None),
        &of_others,
    ] {
        store.subscribe(it.clone()).await.unwrap();
    }
    assert_eq!(store.move_to(me, url("http://b:1/r")).await.unwrap(), None);
    assert_eq!(mirror.subscriptions().len(), 3);
    let before = store.move_to(me, url("http://b:2/r")).await.unwrap();
    assert_eq!(before, Some(url("http://b:1/r")));
    assert_eq!(mirror.subscriptions(), [of_others]);
    // Another that is there now keeps what it has.
    store.move_to(another, url("http://b:2/r")).await.unwrap();
    store
        .subscribe(exact("http://b:2/r", "a", None))
        .await
        .unwrap();
    assert_eq!(store.move_to(me, url("http://b:3/r")).await.unwrap(), None);
    assert_eq!(mirror.subscriptions().len(), 2);
}

#[tokio::test]
async fn lost_rows_of_an_earlier_address_are_not_kept_when_the_next_moves() {
    let place = Place::new();
    let store = place.open().await;
    let mirror = watch(&store).await;
    let (earlier, me) = ([1; 16], [2; 16]);
    store.move_to(earlier, url("http://b:1/r")).await.unwrap();
    store.move_to(me, url("http://b:1/r")).await.unwrap();
    store
        .subscribe(exact("http://b:1/r", "a", None))
        .await
        .unwrap();
    let before = store.move_to(me, url("http://b:2/r")).await.unwrap();
    assert_eq!(before, Some(url("http://b:1/r")));
    assert_eq!(mirror.subscriptions(), []);
}
