//! Whatever is done to them, the stores on databases behave like the simplest store there is.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use httppubsub_e2e::Postgres;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::conformance::Mirror;
use httppubsub_store::{
    ClaimedNotice, Feed as _, MemoryStore, Missed, NoticeOutcome, Notices as _, PostgresStore,
    SqliteStore, Store, Subscriptions as _,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_sqlite_store_behaves_like_the_memory_store(
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        check(Kind::Sqlite, operations);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_postgres_store_behaves_like_the_memory_store(
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        check(Kind::Postgres, operations);
    }
}

enum Kind {
    Sqlite,
    Postgres,
}

fn check(kind: Kind, operations: Vec<Operation>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let database = match kind {
            Kind::Sqlite => Database::sqlite().await,
            Kind::Postgres => Database::postgres().await,
        };
        let mut pair = Pair::new(database).await;
        for operation in operations {
            pair.apply(operation).await;
        }
    });
}

#[derive(Clone, Debug)]
enum Operation {
    Subscribe(Subscription),
    Unsubscribe(SubscriberUrl, Interest),
    Set(SubscriberUrl, SubscriptionSet),
    RecordMissed(Subscription, Topic, Duration),
    /// After so long, for so long.
    Claim(Duration, Duration),
    /// Which of the claimed ones, and when it is due again, if ever.
    Settle(prop::sample::Index, Option<(u32, Duration)>),
    /// Another process subscribes, with a statement of its own.
    SubscribeElsewhere(Subscription),
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        4 => subscription().prop_map(Subscribe),
        2 => (url(), interest()).prop_map(|(url, interest)| Unsubscribe(url, interest)),
        2 => (url(), prop::collection::vec((interest(), recovery()), 0..8))
            .prop_map(|(url, entries)| Set(url, entries.into_iter().collect())),
        4 => (subscription(), topic(), quarters())
            .prop_map(|(of, topic, after)| RecordMissed(of, topic, after)),
        3 => (quarters(), quarters()).prop_map(|(after, lease)| Claim(after, lease)),
        3 => (any::<prop::sample::Index>(), prop::option::of((0_u32..9, quarters())))
            .prop_map(|(which, again)| Settle(which, again)),
        1 => subscription().prop_map(SubscribeElsewhere),
        1 => Just(Reopen),
    ]
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (url(), interest(), recovery()).prop_map(|(url, interest, recovery)| Subscription {
        url,
        interest,
        recovery,
    })
}

fn url() -> impl Strategy<Value = SubscriberUrl> {
    prop::sample::select(vec!["", "http://u/", "http://u/#"])
        .prop_map(|text| SubscriberUrl::new(text).unwrap())
}

fn recovery() -> impl Strategy<Value = Option<SubscriberUrl>> {
    prop::option::of(prop::sample::select(vec!["", "r", "s"]))
        .prop_map(|text| text.map(|text| SubscriberUrl::new(text).unwrap()))
}

fn interest() -> impl Strategy<Value = Interest> {
    let glob = prop::sample::select(vec!["", "a", "a*", "\u{10000}", "\u{ffff}", "\0"]);
    prop_oneof![
        topic().prop_map(Interest::Exact),
        glob.prop_map(|text| Interest::Glob(GlobPattern::parse(text).unwrap())),
    ]
}

fn topic() -> impl Strategy<Value = Topic> {
    prop::sample::select(vec![&b""[..], b"a", b"a\0", b"\x7f", b"\x80", b"b"])
        .prop_map(|bytes| Topic::new(bytes).unwrap())
}

/// Times are exact in quarters of a second, also as a real number in the database.
fn quarters() -> impl Strategy<Value = Duration> {
    (0_u64..80).prop_map(|quarters| Duration::from_millis(quarters * 250))
}

/// Where the store is that is tested, and a way for another to write there.
enum Database {
    Sqlite {
        folder: tempfile::TempDir,
        elsewhere: rusqlite::Connection,
    },
    Postgres {
        url: String,
        elsewhere: tokio_postgres::Client,
    },
}

impl Database {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.db");
        drop(SqliteStore::builder().open(&path).await.unwrap());
        let elsewhere = rusqlite::Connection::open(path).unwrap();
        Self::Sqlite { folder, elsewhere }
    }

    async fn postgres() -> Self {
        let url = Postgres::shared().database().await;
        let elsewhere = Postgres::connect(&url).await;
        Self::Postgres { url, elsewhere }
    }

    /// Remembers so few changes that some have to be read again from the tables.
    async fn open(&self) -> (Arc<dyn Store>, Arc<Mirror>) {
        let store: Arc<dyn Store> = match self {
            Self::Sqlite { folder, .. } => {
                let options = SqliteStore::builder().changes_kept(4);
                Arc::new(options.open(folder.path().join("s.db")).await.unwrap())
            }
            Self::Postgres { url, .. } => {
                let options = PostgresStore::builder()
                    .changes_kept(4)
                    // Another process does not wait before it says what it did.
                    .settled_after(Duration::ZERO);
                Arc::new(options.open(url).await.unwrap())
            }
        };
        let mirror = Arc::new(Mirror::default());
        store.watch(mirror.clone()).await.unwrap();
        (store, mirror)
    }

    async fn subscribe_elsewhere(&self, it: &Subscription) {
        let url = it.url.as_str();
        let recovery = it.recovery.as_ref().map(SubscriberUrl::as_str);
        match self {
            Self::Sqlite { elsewhere, .. } => {
                let (sql, key): (_, &dyn rusqlite::ToSql) = match &it.interest {
                    Interest::Exact(topic) => (
                        "INSERT INTO httppubsub_subscription_exacts (url, exact, missed_url) \
                         VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                        &topic.as_bytes(),
                    ),
                    Interest::Glob(glob) => (
                        "INSERT INTO httppubsub_subscription_globs (url, glob, missed_url) \
                         VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                        &glob.as_str(),
                    ),
                };
                elsewhere
                    .execute(sql, rusqlite::params![url, key, recovery])
                    .unwrap();
            }
            Self::Postgres { elsewhere, .. } => {
                let kind = match &it.interest {
                    Interest::Exact(_) => 0_i16,
                    Interest::Glob(_) => 1,
                };
                let recovery = recovery.filter(|it| !it.is_empty()).map(str::as_bytes);
                elsewhere
                    .execute(
                        "INSERT INTO httppubsub_subscriptions (url, kind, interest, recovery) \
                         VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                        &[&url.as_bytes(), &kind, &it.interest.as_bytes(), &recovery],
                    )
                    .await
                    .unwrap();
            }
        }
    }
}

struct Pair {
    database: Database,
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    memory: MemoryStore,
    memory_mirror: Arc<Mirror>,
    now: Now,
    /// The same notice as each store gave it out.
    claimed: Vec<(ClaimedNotice, ClaimedNotice)>,
}

impl Pair {
    async fn new(database: Database) -> Self {
        let memory = MemoryStore::new();
        let memory_mirror = Arc::new(Mirror::default());
        memory.watch(memory_mirror.clone()).await.unwrap();
        let (store, mirror) = database.open().await;
        let now = Now::from_unix(Duration::from_secs(1_700_000_000));
        let claimed = Vec::new();
        Self {
            database,
            store,
            mirror,
            memory,
            memory_mirror,
            now,
            claimed,
        }
    }

    async fn apply(&mut self, operation: Operation) {
        let (store, memory) = (&self.store, &self.memory);
        match operation {
            Operation::Subscribe(it) => {
                let want = memory.subscribe(it.clone()).await.unwrap();
                assert_eq!(store.subscribe(it).await.unwrap(), want);
            }
            Operation::Unsubscribe(url, interest) => {
                let want = memory
                    .unsubscribe(url.clone(), interest.clone())
                    .await
                    .unwrap();
                assert_eq!(store.unsubscribe(url, interest).await.unwrap(), want);
            }
            Operation::Set(url, set) => {
                let want = memory.set(url.clone(), set.clone()).await.unwrap();
                assert_eq!(store.set(url, set).await.unwrap(), want);
            }
            Operation::RecordMissed(of, topic, after) => {
                let due = self.now + after;
                let missed = Missed {
                    url: of.url,
                    interest: of.interest,
                    topic,
                    due,
                };
                memory.record_missed(missed.clone()).await.unwrap();
                store.record_missed(missed).await.unwrap();
            }
            Operation::Claim(after, lease) => {
                self.now = self.now + after;
                let want = memory.claim_missed(self.now, lease, 100).await.unwrap();
                let got = store.claim_missed(self.now, lease, 100).await.unwrap();
                let (got, want) = (sorted(got), sorted(want));
                let without_lock = |it: &ClaimedNotice| ClaimedNotice {
                    lock: 0,
                    ..it.clone()
                };
                assert_eq!(
                    got.iter().map(without_lock).collect::<Vec<_>>(),
                    want.iter().map(without_lock).collect::<Vec<_>>(),
                );
                self.claimed.extend(got.into_iter().zip(want));
            }
            Operation::Settle(which, again) => {
                if self.claimed.is_empty() {
                    return;
                }
                // Also those that were settled or have passed to another.
                let (got, want) = which.get(&self.claimed);
                let outcome = match again {
                    None => NoticeOutcome::Done,
                    Some((attempts, after)) => NoticeOutcome::Retry {
                        attempts,
                        due: self.now + after,
                    },
                };
                memory.settle_missed(want, outcome).await.unwrap();
                store.settle_missed(got, outcome).await.unwrap();
            }
            Operation::SubscribeElsewhere(it) => {
                self.database.subscribe_elsewhere(&it).await;
                memory.subscribe(it).await.unwrap();
            }
            Operation::Reopen => {
                (self.store, self.mirror) = self.database.open().await;
            }
        }
        self.compare().await;
    }

    async fn compare(&self) {
        self.store.catch_up().await.unwrap();
        assert_eq!(
            self.mirror.subscriptions(),
            self.memory_mirror.subscriptions()
        );
        assert_eq!(
            self.store.next_missed().await.unwrap(),
            self.memory.next_missed().await.unwrap()
        );
        for url in ["", "http://u/", "http://u/#"] {
            let url = SubscriberUrl::new(url).unwrap();
            let want = self.memory.etag(url.clone()).await.unwrap();
            assert_eq!(self.store.etag(url).await.unwrap(), want);
        }
    }
}

fn sorted(mut notices: Vec<ClaimedNotice>) -> Vec<ClaimedNotice> {
    notices.sort_by(|one, other| (&one.url, &one.interest).cmp(&(&other.url, &other.interest)));
    notices
}
