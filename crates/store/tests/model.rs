//! Whatever is done to it, the SQLite store behaves like the simplest store there is.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::conformance::Mirror;
use httppubsub_store::{
    ClaimedNotice, MemoryStore, Missed, NoticeOutcome, SqliteOptions, SqliteStore, Store,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_sqlite_store_behaves_like_the_memory_store(
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new().await;
            for operation in operations {
                pair.apply(operation).await;
            }
        });
    }
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
    /// Another process subscribes, with the statement of the published broadcaster.
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

struct Pair {
    folder: tempfile::TempDir,
    sqlite: SqliteStore,
    sqlite_mirror: Arc<Mirror>,
    memory: MemoryStore,
    memory_mirror: Arc<Mirror>,
    elsewhere: rusqlite::Connection,
    now: Now,
    /// The same notice as each store gave it out.
    claimed: Vec<(ClaimedNotice, ClaimedNotice)>,
}

impl Pair {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let memory = MemoryStore::new();
        let memory_mirror = Arc::new(Mirror::default());
        memory.watch(memory_mirror.clone()).await.unwrap();
        let (sqlite, sqlite_mirror) = open(&folder).await;
        let elsewhere = rusqlite::Connection::open(folder.path().join("s.db")).unwrap();
        let now = Now::from_unix(Duration::from_secs(1_700_000_000));
        let claimed = Vec::new();
        Self {
            folder,
            sqlite,
            sqlite_mirror,
            memory,
            memory_mirror,
            elsewhere,
            now,
            claimed,
        }
    }

    async fn apply(&mut self, operation: Operation) {
        let (sqlite, memory) = (&self.sqlite, &self.memory);
        match operation {
            Operation::Subscribe(it) => {
                let want = memory.subscribe(it.clone()).await.unwrap();
                assert_eq!(sqlite.subscribe(it).await.unwrap(), want);
            }
            Operation::Unsubscribe(url, interest) => {
                let want = memory
                    .unsubscribe(url.clone(), interest.clone())
                    .await
                    .unwrap();
                assert_eq!(sqlite.unsubscribe(url, interest).await.unwrap(), want);
            }
            Operation::Set(url, set) => {
                let want = memory.set(url.clone(), set.clone()).await.unwrap();
                assert_eq!(sqlite.set(url, set).await.unwrap(), want);
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
                sqlite.record_missed(missed).await.unwrap();
            }
            Operation::Claim(after, lease) => {
                self.now = self.now + after;
                let want = memory.claim_missed(self.now, lease, 100).await.unwrap();
                let got = sqlite.claim_missed(self.now, lease, 100).await.unwrap();
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
                sqlite.settle_missed(got, outcome).await.unwrap();
            }
            Operation::SubscribeElsewhere(it) => {
                self.subscribe_elsewhere(&it);
                memory.subscribe(it).await.unwrap();
            }
            Operation::Reopen => {
                let (sqlite, mirror) = open(&self.folder).await;
                self.sqlite_mirror = mirror;
                std::mem::replace(&mut self.sqlite, sqlite).close().await;
            }
        }
        self.compare().await;
    }

    fn subscribe_elsewhere(&self, it: &Subscription) {
        let url = it.url.as_str();
        let recovery = it.recovery.as_ref().map(SubscriberUrl::as_str);
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
        self.elsewhere
            .execute(sql, rusqlite::params![url, key, recovery])
            .unwrap();
    }

    async fn compare(&self) {
        self.sqlite.catch_up().await.unwrap();
        assert_eq!(
            self.sqlite_mirror.subscriptions(),
            self.memory_mirror.subscriptions()
        );
        assert_eq!(
            self.sqlite.next_missed().await.unwrap(),
            self.memory.next_missed().await.unwrap()
        );
        for url in ["", "http://u/", "http://u/#"] {
            let url = SubscriberUrl::new(url).unwrap();
            let want = self.memory.etag(url.clone()).await.unwrap();
            assert_eq!(self.sqlite.etag(url).await.unwrap(), want);
        }
    }
}

async fn open(folder: &tempfile::TempDir) -> (SqliteStore, Arc<Mirror>) {
    let path = folder.path().join("s.db");
    // So few that some have to be read again from the tables.
    let store = SqliteOptions::default()
        .changes_kept(4)
        .open(path)
        .await
        .unwrap();
    let mirror = Arc::new(Mirror::default());
    store.watch(mirror.clone()).await.unwrap();
    (store, mirror)
}

fn sorted(mut notices: Vec<ClaimedNotice>) -> Vec<ClaimedNotice> {
    notices.sort_by(|one, other| (&one.url, &one.interest).cmp(&(&other.url, &other.interest)));
    notices
}
