//! The store on PostgreSQL keeps the promises of the trait, and those that only a shared one has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use httppubsub_e2e::{Postgres, exact, glob, url};
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_store::conformance::{self, Mirror};
use httppubsub_store::{
    Change, Cluster, Feed as _, Heartbeat, Member, Missed, NoticeOutcome, Notices as _,
    PostgresStore, Store, StoreError, Subscribed, Subscriptions as _, Unsubscribed,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postgres_store_conforms() {
    let postgres = Postgres::shared();
    conformance::run(async || {
        let store = PostgresStore::open(&postgres.database().await).await;
        Arc::new(store.unwrap()) as Arc<dyn Store>
    })
    .await;
}

/// One that looks for changes only when it is asked, and remembers so many.
async fn open(database: &str, changes_kept: u32) -> (PostgresStore, Arc<Mirror>) {
    let options = PostgresStore::builder()
        .changes_kept(changes_kept)
        // Who writes with a statement of their own waits for nobody.
        .settled_after(Duration::ZERO)
        .poll_interval(Duration::from_secs(3_600));
    let store = options.open(database).await.unwrap();
    let mirror = Arc::new(Mirror::default());
    store.watch(mirror.clone()).await.unwrap();
    mirror.take_changes();
    (store, mirror)
}

fn subscription(of: &str, interest: Interest) -> Subscription {
    Subscription {
        url: url(of),
        interest,
        recovery: None,
    }
}

const INSERT: &str = "INSERT INTO httppubsub_subscriptions (url, kind, interest) \
     VALUES ($1, 0, $2)";

fn was_all_read_again(changes: &[Change]) -> bool {
    changes
        .iter()
        .any(|it| matches!(it, Change::ReloadBegan { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_not_lost_whose_transaction_ends_after_those_with_larger_numbers() {
    let database = Postgres::shared().database().await;
    let (store, mirror) = open(&database, 20_000).await;
    let mut expected = Vec::new();
    // Two transactions take their numbers first and end last, one of them in vain.
    let mut open_ones = Vec::new();
    for name in ["late", "rolled back"] {
        let client = Postgres::connect(&database).await;
        client.batch_execute("BEGIN").await.unwrap();
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&&b"u"[..], &name.as_bytes()];
        client.execute(INSERT, &key).await.unwrap();
        open_ones.push(client);
    }
    for name in ["one", "two", "three"] {
        let it = subscription("u", exact(name));
        assert_eq!(
            store.subscribe(it.clone()).await.unwrap(),
            Subscribed::Added
        );
        expected.push(it);
    }
    expected.sort();
    assert_eq!(mirror.subscriptions(), expected);
    // A second one that begins now finds the gaps when it reads everything.
    let (second, second_mirror) = open(&database, 20_000).await;
    assert_eq!(second_mirror.subscriptions(), expected);

    let [late, rolled_back] = &open_ones[..] else {
        panic!("two");
    };
    rolled_back.batch_execute("ROLLBACK").await.unwrap();
    late.batch_execute("COMMIT").await.unwrap();
    expected.push(subscription("u", exact("late")));
    expected.sort();
    mirror.take_changes();
    second_mirror.take_changes();
    for (store, mirror) in [(&store, &mirror), (&second, &second_mirror)] {
        store.catch_up().await.unwrap();
        assert_eq!(mirror.subscriptions(), expected);
        let changes = mirror.take_changes();
        assert!(!was_all_read_again(&changes), "{changes:?}");
        // What was rolled back is waited for no more, and nothing comes twice.
        store.catch_up().await.unwrap();
        assert_eq!(mirror.take_changes(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_forgotten_before_it_was_read_makes_all_be_read_again() {
    let database = Postgres::shared().database().await;
    let (store, _) = open(&database, 4).await;
    let (sleeper, mirror) = open(&database, 4).await;
    let client = Postgres::connect(&database).await;
    client.batch_execute("BEGIN").await.unwrap();
    client
        .execute(INSERT, &[&&b"u"[..], &&b"late"[..]])
        .await
        .unwrap();
    let mut expected = Vec::new();
    // Who wakes nobody.
    let quiet = Postgres::connect(&database).await;
    let fill = async |expected: &mut Vec<_>, from: usize| {
        for number in from..from + 20 {
            let it = subscription("u", exact(&format!("{number:03}")));
            let key = it.interest.as_bytes();
            quiet.execute(INSERT, &[&&b"u"[..], &key]).await.unwrap();
            expected.push(it);
        }
        for _ in 0..3 {
            store.trim().await.unwrap();
        }
    };
    let kept = async || -> i64 {
        let sql = "SELECT count(*) FROM httppubsub_changes";
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    // While the transaction is open nothing that is newer is forgotten: it may end yet.
    fill(&mut expected, 0).await;
    assert_eq!(kept().await, 21);
    client.batch_execute("COMMIT").await.unwrap();
    expected.push(subscription("u", exact("late")));
    fill(&mut expected, 100).await;
    // A transaction of another test, in another database of the same server, holds it up as well.
    let give_up = tokio::time::Instant::now() + httppubsub_e2e::PATIENCE;
    while kept().await >= 10 {
        assert!(
            tokio::time::Instant::now() < give_up,
            "nothing is forgotten"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
        store.trim().await.unwrap();
    }
    expected.sort();
    sleeper.catch_up().await.unwrap();
    assert_eq!(mirror.subscriptions(), expected);
    assert!(was_all_read_again(&mirror.take_changes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_database_in_the_place_of_the_first_is_noticed() {
    let Some(server) = Postgres::own_if_possible(&["fsync=off"]) else {
        return;
    };
    let database = server.database().await;
    let (store, mirror) = open(&database, 20_000).await;
    for name in ["a", "b", "c"] {
        let it = subscription("u", exact(name));
        store.subscribe(it).await.unwrap();
    }
    mirror.take_changes();
    server.restart();
    store.catch_up().await.unwrap();
    assert_eq!(mirror.take_changes(), [], "it is the same as before");
    // As after going back to a backup: other transactions have the same numbers.
    let client = Postgres::connect(&database).await;
    client
        .batch_execute(
            "TRUNCATE httppubsub_subscriptions, httppubsub_changes, httppubsub_notices \
             RESTART IDENTITY",
        )
        .await
        .unwrap();
    for name in ["x", "y", "z"] {
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&&b"u"[..], &name.as_bytes()];
        client.execute(INSERT, &key).await.unwrap();
    }
    server.restart();
    store.catch_up().await.unwrap();
    let expected = ["x", "y", "z"].map(|name| subscription("u", exact(name)));
    assert_eq!(mirror.subscriptions(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_two_broadcasters_that_set_one_url_leave_one_of_the_sets() {
    let database = Postgres::shared().database().await;
    let (one, mirror) = open(&database, 20_000).await;
    let (other, other_mirror) = open(&database, 20_000).await;
    let rounds = 200;
    for round in 0..rounds {
        let sets = [0, 1].map(|who| {
            let entries = (0..20).map(|number| {
                let name = format!("{}", (number * (1 + who) + round) % 30);
                (exact(&name), Some(url(&format!("http://r{who}/"))))
            });
            let globs = (0..3).map(|number| (glob(&format!("{who}{number}*")), None));
            SubscriptionSet::from_iter(entries.chain(globs))
        });
        let [first, second] = sets.clone();
        let (first, second) = tokio::join!(one.set(url("u"), first), other.set(url("u"), second));
        first.unwrap();
        second.unwrap();
        let etags = sets.map(|set| set.etag(&url("u")));
        let etag = one.etag(url("u")).await.unwrap();
        assert!(etags.contains(&etag), "round {round}");
        assert_eq!(other.etag(url("u")).await.unwrap(), etag);
        one.catch_up().await.unwrap();
        other.catch_up().await.unwrap();
        assert_eq!(mirror.subscriptions(), other_mirror.subscriptions());
    }
}

/// Waits until so many wait for somebody's lock in this database.
async fn until_waiting(client: &tokio_postgres::Client, waiting: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let give_up = tokio::time::Instant::now() + httppubsub_e2e::PATIENCE;
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != waiting {
        assert!(tokio::time::Instant::now() < give_up, "nobody waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_a_deadlock_tries_again() {
    let database = Postgres::shared().database().await;
    let store = Arc::new(open(&database, 20_000).await.0);
    let looker = Postgres::connect(&database).await;
    let sql = "SELECT name FROM unnest(ARRAY['one', 'two']) AS name ORDER BY sha256(name::bytea)";
    let names = looker.query(sql, &[]).await.unwrap();
    let [first, second]: [&str; 2] = [names[0].get(0), names[1].get(0)];
    let mut holders = Vec::new();
    // So that the other two are asked for together, and the later of them is taken.
    for name in ["before", second] {
        let client = Postgres::connect(&database).await;
        client.batch_execute("BEGIN").await.unwrap();
        let key: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&&b"u"[..], &name.as_bytes()];
        client.execute(INSERT, &key).await.unwrap();
        holders.push(client);
    }
    let [of_before, of_second] = &holders[..] else {
        panic!("two");
    };
    let subscribe = |name: &str| {
        let (store, it) = (store.clone(), subscription("u", exact(name)));
        tokio::spawn(async move { store.subscribe(it).await })
    };
    let before = subscribe("before");
    until_waiting(&looker, 1).await;
    let both = [first, second].map(subscribe);
    of_before.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(before.await.unwrap().unwrap(), Subscribed::Added);
    until_waiting(&looker, 1).await;
    // Each has now what the other wants; who waits for longer finds out first, and loses.
    let key: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&&b"u"[..], &first.as_bytes()];
    of_second.execute(INSERT, &key).await.unwrap();
    of_second.batch_execute("ROLLBACK").await.unwrap();
    for subscribed in both {
        assert_eq!(subscribed.await.unwrap().unwrap(), Subscribed::Added);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_notice_is_claimed_by_two_at_once_and_those_of_the_dead_are_taken_over() {
    let database = Postgres::shared().database().await;
    let (one, _) = open(&database, 20_000).await;
    let (other, _) = open(&database, 20_000).await;
    let at = |seconds| Now::from_unix(Duration::from_secs(seconds));
    let lease = Duration::from_secs(60);
    for number in 0..300 {
        let it = Subscription {
            recovery: Some(url("http://r/")),
            ..subscription(&format!("http://u/{number}"), exact("t"))
        };
        one.subscribe(it.clone()).await.unwrap();
        let missed = Missed {
            url: it.url,
            interest: it.interest,
            topic: Topic::new("t").unwrap(),
            due: at(100),
        };
        one.record_missed(missed).await.unwrap();
    }
    let mut claimed = Vec::new();
    loop {
        let (first, second) = tokio::join!(
            one.claim_missed(at(100), lease, 7),
            other.claim_missed(at(100), lease, 11)
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        if first.is_empty() && second.is_empty() {
            break;
        }
        claimed.extend(first.into_iter().chain(second));
    }
    let urls: std::collections::BTreeSet<_> = claimed.iter().map(|it| it.url.clone()).collect();
    assert_eq!((claimed.len(), urls.len()), (300, 300));
    // `one` is killed after it settled some.
    for notice in &claimed[..100] {
        one.settle_missed(notice, NoticeOutcome::Done)
            .await
            .unwrap();
    }
    drop(one);
    let before = other.claim_missed(at(159), lease, 1_000).await.unwrap();
    assert_eq!(before, []);
    let after = other.claim_missed(at(160), lease, 1_000).await.unwrap();
    assert_eq!(after.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_is_spent_once_by_whomever() {
    let database = Postgres::shared().database().await;
    let (one, _) = open(&database, 20_000).await;
    let (other, _) = open(&database, 20_000).await;
    let memory = Duration::from_secs(300);
    for number in 0..50_u8 {
        let code = [number; 16];
        let (first, second) = tokio::join!(one.spend(code, memory), other.spend(code, memory));
        assert!(first.unwrap() != second.unwrap(), "one of them");
    }
    one.release([1; 16]).await.unwrap();
    assert!(other.spend([1; 16], memory).await.unwrap());
    assert!(!one.spend([1; 16], memory).await.unwrap());
    // What cannot be used any more is forgotten.
    assert!(one.spend([99; 16], Duration::ZERO).await.unwrap());
    one.trim().await.unwrap();
    assert!(one.spend([99; 16], memory).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcaster_that_says_nothing_any_more_is_forgotten_with_its_subscriptions() {
    let database = Postgres::shared().database().await;
    let (one, mirror) = open(&database, 20_000).await;
    let (other, _) = open(&database, 20_000).await;
    let heartbeat = |of: &str| Heartbeat {
        url: url(of),
        identity: [7; 16],
        instance: 7,
        version: "1".to_owned(),
        websockets: 3,
    };
    let lease = Duration::from_secs(3);
    one.heartbeat(heartbeat("http://one/"), 100 * lease)
        .await
        .unwrap();
    let view = other
        .heartbeat(heartbeat("http://other/"), lease)
        .await
        .unwrap();
    assert_eq!(view.before, None);
    let view = other
        .heartbeat(heartbeat("http://other/"), lease)
        .await
        .unwrap();
    assert_eq!(view.before, Some(7));
    let census = other.census().await.unwrap();
    let names = |all: &[Member]| -> Vec<_> { all.iter().map(|it| it.url.clone()).collect() };
    assert_eq!(names(&view.broadcasters), names(&census.broadcasters));
    let urls: Vec<_> = census.broadcasters.iter().map(|it| &it.url).collect();
    assert_eq!(urls, [&url("http://one/"), &url("http://other/")]);
    assert_eq!(census.broadcasters[1].websockets, 3);
    assert!(census.broadcasters.iter().all(|it| it.until > census.now));
    let of_other = subscription("http://other/", exact("t"));
    let of_both = subscription("http://u/", exact("t"));
    for it in [&of_other, &of_both] {
        other.subscribe(it.clone()).await.unwrap();
    }
    assert!(!one.forget(url("http://other/")).await.unwrap(), "it lives");
    // It has said for how long it is there, and says nothing more.
    let give_up = tokio::time::Instant::now() + httppubsub_e2e::PATIENCE;
    while !one.forget(url("http://other/")).await.unwrap() {
        assert!(tokio::time::Instant::now() < give_up, "it is not forgotten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    one.catch_up().await.unwrap();
    assert_eq!(mirror.subscriptions(), [of_both]);
    let left = other.unsubscribe(url("http://other/"), exact("t")).await;
    assert_eq!(left.unwrap(), Unsubscribed::Absent);
    one.leave(url("http://one/"), [7; 16]).await.unwrap();
    assert_eq!(one.census().await.unwrap().broadcasters, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_used_is_said_to_be_so() {
    let nobody = PostgresStore::open("postgres://postgres@127.0.0.1:1/d").await;
    let error = nobody.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = PostgresStore::open("postgres://h:x/d").await.unwrap_err();
    assert!(matches!(error, StoreError::Address(_)), "{error}");
    let database = Postgres::shared().database().await;
    drop(PostgresStore::open(&database).await.unwrap());
    let client = Postgres::connect(&database).await;
    let newer = "UPDATE httppubsub_schema SET version = 99";
    client.batch_execute(newer).await.unwrap();
    let error = PostgresStore::open(&database).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NewerSchema { found: 99, .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_open_a_new_database_at_once_one_makes_the_tables() {
    let database = Postgres::shared().database().await;
    let openings = (0..6).map(|_| PostgresStore::open(&database));
    for opened in futures_util::future::join_all(openings).await {
        opened.unwrap();
    }
}
