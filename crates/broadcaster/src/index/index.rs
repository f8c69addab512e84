//! All subscriptions, in memory and ready to be matched: the store is never asked on the way of a
//! notification.
//!
//! The store tells of changes in their order, and of a reload between two marks. While a reload
//! goes on, the old rows are matched; all new ones take their place at once when it ends.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use httppubsub_net::error_chain;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{Change, Observer};

use crate::index::globs::{GlobLimits, GlobRefused, Snapshot};
use crate::index::groups::Groups;
use crate::index::matching_threads::{Yields, in_turn};
use crate::index::reserved_urls::is_another_spelling;
use crate::index::route::Routes;
use crate::index::row::{Row, Subscriber};
use crate::index::tables::Tables;

/// All subscriptions there are, as far as the store has told.
#[derive(Debug)]
pub(crate) struct Index {
    /// Decides the route of a url when its first row comes.
    routes: Routes,
    /// Rows of other globs are passed over.
    limits: GlobLimits,
    /// Read by each notification for a moment, written as changes come.
    tables: RwLock<Tables>,
    /// Changes come one batch at a time, so this is locked by nobody else.
    reload: Mutex<Reload>,
    /// Of topics that are being matched beside the runtime, the latest.
    elsewhere: Mutex<HashMap<Topic, (u64, WeakShared<FoundElsewhere>)>>,
}

/// The rows that are found beside the runtime.
type FoundElsewhere = Pin<Box<dyn Future<Output = Arc<Groups>> + Send>>;

/// The rows that match a topic.
#[derive(Debug)]
pub(crate) struct Found {
    /// The rows that were found at once.
    pub(crate) rows: Vec<Arc<Row>>,
    /// The others, if not all were.
    pub(crate) rest: Option<Rest>,
}

/// Rows that are yet to be found. They are the same for all notifications on a topic that come
/// before any glob gets or loses a row: however many there are, the work is done once.
#[derive(Debug)]
pub(crate) struct Rest(Shared<FoundElsewhere>);

impl Rest {
    /// Finds them, beside the runtime.
    pub(crate) async fn groups(self) -> Arc<Groups> {
        self.0.await
    }
}

/// The reason for which a stored row is passed over.
#[derive(Debug, thiserror::Error)]
enum PassedOver {
    #[error(transparent)]
    Glob(#[from] GlobRefused),
    #[error(
        "its url is another spelling of one at which a broadcaster receives for its websockets"
    )]
    Spelling,
}

/// The state of a reload in progress.
#[derive(Debug, Default)]
struct Reload {
    /// The new tables.
    tables: Option<Tables>,
    passed_over: usize,
}

/// The globs left to be matched.
enum Left {
    These(Snapshot),
    /// Even what may match is to be looked for elsewhere.
    All,
}

/// Topics longer than this are looked up beside the runtime: they have many parts to look up.
const LONG_TOPIC_BYTES: usize = 4_096;

/// Rows that are looked up at a time, because changes wait meanwhile.
const ROWS_AT_A_TIME: usize = 256;

impl Index {
    pub(crate) fn new(routes: Routes, limits: GlobLimits) -> Self {
        Self {
            routes,
            limits,
            tables: RwLock::default(),
            reload: Mutex::default(),
            elsewhere: Mutex::default(),
        }
    }

    /// The rows for a notification on `topic`: those found at once, and a promise of the others,
    /// which are found beside the runtime.
    pub(crate) fn begin_to_match(self: &Arc<Self>, topic: &Topic) -> Found {
        // Locked until the version is read: the rest is found for just these rows.
        let tables = self.tables();
        let mut rows = tables.exacts.rows(topic);
        // A glob matches text; a topic of other bytes has exact subscribers only.
        let Some(text) = topic.as_str() else {
            return Found { rows, rest: None };
        };
        let left = if text.len() > LONG_TOPIC_BYTES {
            (!tables.globs.all.is_empty()).then_some(Left::All)
        } else {
            let candidates = tables.globs.found_by.candidates(text);
            let left = candidates.matching_at_once(text, |glob| {
                rows.extend_from_slice(tables.globs.rows(glob));
            });
            left.map(Left::These)
        };
        let version = tables.version;
        drop(tables);
        let rest = left.map(|left| self.rest(topic, version, left));
        Found { rows, rest }
    }

    /// All rows that match `topic`, in groups.
    pub(crate) async fn matching(self: &Arc<Self>, topic: &Topic) -> [Arc<Groups>; 2] {
        let Found { rows, rest } = self.begin_to_match(topic);
        let rest = match rest {
            Some(rest) => rest.groups().await,
            None => Arc::default(),
        };
        [Arc::new(Groups::new(rows, || {})), rest]
    }

    /// The rows of the globs that are `left` and match; of a topic that is being matched already
    /// what is found there, if no row has changed since.
    fn rest(self: &Arc<Self>, topic: &Topic, version: u64, left: Left) -> Rest {
        let elsewhere = self.elsewhere.lock();
        let mut elsewhere = elsewhere.unwrap_or_else(PoisonError::into_inner);
        if let Some((of, known)) = elsewhere.get(topic)
            && *of == version
            && let Some(known) = known.upgrade()
        {
            return Rest(known);
        }
        // Nobody waits for these.
        elsewhere.retain(|_, (_, it)| it.upgrade().is_some());
        let found = self.clone().find(topic.clone(), left);
        let found: FoundElsewhere = Box::pin(found);
        let found = found.shared();
        if let Some(weak) = found.downgrade() {
            elsewhere.insert(topic.clone(), (version, weak));
        }
        Rest(found)
    }

    /// Finds the rows of the globs that are `left` and match, beside the runtime.
    async fn find(self: Arc<Self>, topic: Topic, left: Left) -> Arc<Groups> {
        let snapshot = match left {
            Left::These(snapshot) => snapshot,
            Left::All => {
                let (index, topic) = (self.clone(), topic.clone());
                in_turn(move || index.snapshot(&topic)).await
            }
        };
        let globs = snapshot.matching(&topic).await;
        in_turn(move || {
            let mut found = Vec::new();
            let yields = Yields::new();
            for globs in globs.chunks(ROWS_AT_A_TIME) {
                yields.between_steps();
                // Unlocked after each of these, so that changes come in between.
                let tables = self.tables();
                for glob in globs {
                    found.extend_from_slice(tables.globs.rows(glob));
                }
            }
            yields.drop_all(globs);
            Arc::new(Groups::new(found, || yields.between_tiny_steps()))
        })
        .await
    }

    /// The subscriber of a url that has no row.
    fn new_subscriber(&self, url: &SubscriberUrl) -> Arc<Subscriber> {
        Arc::new(Subscriber::new(url.clone(), self.routes.route(url)))
    }

    /// Judges a stored row: others may have written it, or it is older than the limits.
    fn judge(&self, subscription: &Subscription) -> Result<(), PassedOver> {
        if is_another_spelling(&subscription.url, self.routes.own()) {
            return Err(PassedOver::Spelling);
        }
        Ok(self.limits.judge(&subscription.interest)?)
    }

    /// The globs that may match `topic`, as they are now.
    fn snapshot(&self, topic: &Topic) -> Snapshot {
        let tables = self.tables();
        let text = topic.as_str();
        let candidates = text.map(|text| tables.globs.found_by.candidates(text));
        candidates.map(|it| it.snapshot()).unwrap_or_default()
    }

    /// The tables, locked for reading.
    fn tables(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every row there is.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> Vec<Arc<Row>> {
        let tables = self.tables();
        let exacts = tables.exacts.0.iter().map(|it| it.as_slice());
        let globs = tables.globs.all.iter().map(|it| it.as_slice());
        exacts.chain(globs).flatten().cloned().collect()
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.tables().rows
    }

    /// `true` if a url has a row of this interest.
    pub(crate) fn has(&self, url: &SubscriberUrl, interest: &Interest) -> bool {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let is_of_url = |rows: &[Arc<Row>]| rows.iter().any(|row| row.subscriber.url == *url);
        match interest {
            Interest::Exact(topic) => tables
                .exacts
                .get(topic)
                .is_some_and(|it| is_of_url(it.as_slice())),
            Interest::Glob(glob) => tables
                .globs
                .get(glob)
                .is_some_and(|it| is_of_url(it.as_slice())),
        }
    }
}

impl Observer for Index {
    fn observe(&self, changes: &[Change]) {
        let mut reload = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = || self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let yields = Yields::new();
        for change in changes {
            yields.between_steps();
            match change {
                Change::ReloadBegan { exacts, globs } => {
                    reload.tables = Some(Tables::with_room(*exacts, *globs));
                }
                Change::ReloadEnded => {
                    if let Some(mut loaded) = reload.tables.take() {
                        let mut tables = tables();
                        // What was found beside the runtime before is no longer all there is.
                        loaded.version = loaded.version.max(tables.version) + 1;
                        let old = std::mem::replace(&mut *tables, loaded);
                        // It is dropped after the lock is free again.
                        drop(tables);
                        drop(old);
                    }
                }
                Change::Added(subscription) => {
                    // Published broadcasters on the same database judge by other rules.
                    if let Err(why) = self.judge(subscription) {
                        if reload.passed_over == 0 {
                            warn_of(subscription, &why);
                        }
                        reload.passed_over += 1;
                        continue;
                    }
                    match &mut reload.tables {
                        Some(loading) => loading.add(subscription, |url| {
                            // One that stays goes on with its numbers.
                            let known = self.tables().subscriber_of(url).cloned();
                            known.unwrap_or_else(|| self.new_subscriber(url))
                        }),
                        None => tables().add(subscription, |url| self.new_subscriber(url)),
                    }
                }
                Change::Removed { url, interest } => match &mut reload.tables {
                    Some(loading) => loading.remove(url, interest),
                    None => tables().remove(url, interest),
                },
            }
        }
        if reload.tables.is_none() {
            let rows = std::mem::take(&mut reload.passed_over);
            if rows > 1 {
                tracing::warn!(rows, "as many stored subscriptions are passed over");
            }
        }
    }
}

/// There may be a million of them, so only of the first is said which it is.
fn warn_of(subscription: &Subscription, why: &PassedOver) {
    let Subscription { url, interest, .. } = subscription;
    tracing::warn!(
        subscriber = %url,
        %interest,
        why = error_chain(why),
        "a stored subscription is passed over: nothing is delivered to it"
    );
}

#[cfg(test)]
mod tests {
    use httppubsub_net::outbound::{PostConfig, Poster};
    use httppubsub_proto::glob::GlobPattern;

    use super::*;
    use crate::index::matching_threads::hold_threads;
    use crate::index::tables::GlobRows;

    fn routes() -> Routes {
        let own = SubscriberUrl::new("http://own:80/v1/receive_for_websockets").unwrap();
        Routes::new(Poster::new(PostConfig::default()), own)
    }

    fn index() -> Arc<Index> {
        Arc::new(Index::new(routes(), GlobLimits { bytes_max: 100 }))
    }

    fn subscription(url: &str, interest: &str, recovery: Option<&str>) -> Subscription {
        let interest = match interest.strip_prefix("glob ") {
            Some(glob) => Interest::Glob(GlobPattern::parse(glob).unwrap()),
            None => Interest::Exact(Topic::new(interest).unwrap()),
        };
        let recovery = recovery.map(|it| SubscriberUrl::new(it).unwrap());
        Subscription {
            url: SubscriberUrl::new(url).unwrap(),
            interest,
            recovery,
        }
    }

    fn removed(url: &str, interest: &str) -> Change {
        let Subscription { url, interest, .. } = subscription(url, interest, None);
        Change::Removed { url, interest }
    }

    async fn rows_of(index: &Arc<Index>, topic: &str) -> Vec<Arc<Row>> {
        let groups = index.matching(&Topic::new(topic).unwrap()).await;
        groups.iter().flat_map(|it| it.rows()).cloned().collect()
    }

    async fn matching(index: &Arc<Index>, topic: &str) -> Vec<String> {
        let rows = rows_of(index, topic).await;
        let mut found: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {}", row.subscriber.url.as_str(), row.interest))
            .collect();
        found.sort();
        found
    }

    #[tokio::test]
    async fn every_row_that_covers_the_topic_is_found_once() {
        let index = index();
        let all = [
            "a/b",
            "glob a/*",
            "glob *b",
            "glob *",
            "glob a?b",
            "glob [a]/b",
            "b",
            "glob b*",
            "glob *a",
        ];
        for interest in all {
            index.observe(&[Change::Added(subscription("http://x/", interest, None))]);
        }
        let found = matching(&index, "a/b").await;
        assert_eq!(
            found,
            [
                "http://x/ exact \"a/b\"",
                "http://x/ glob \"*\"",
                "http://x/ glob \"*b\"",
                "http://x/ glob \"[a]/b\"",
                "http://x/ glob \"a/*\"",
                "http://x/ glob \"a?b\"",
            ]
        );
        assert_eq!(index.len(), all.len());
        for interest in all {
            index.observe(&[removed("http://x/", interest)]);
        }
        assert_eq!(index.len(), 0);
        let tables = index.tables.read().unwrap();
        assert!(tables.subscribers.is_empty() && tables.exacts.0.is_empty());
        assert_nothing_is_left(&tables.globs);
    }

    fn assert_nothing_is_left(globs: &GlobRows) {
        assert!(globs.all.is_empty() && globs.found_by.is_empty());
    }

    /// Many globs of every shape, against each of them asked alone; in the end none is left.
    #[tokio::test]
    async fn globs_of_every_shape_are_found_as_if_each_were_asked() {
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut text = |pieces: &[&str], count: u64| -> String {
            let count = 1 + random(count);
            (0..count)
                .map(|_| pieces[usize::try_from(random(pieces.len() as u64)).unwrap()])
                .collect()
        };
        let pieces = [
            "*", "?", "user/", "/x", "abc", "a", "[ab]", "[!a]", "[", "]", "z1", "é",
        ];
        let mut tables = Tables::default();
        let routes = routes();
        let patterns: Vec<_> = (0..3_000)
            .map(|_| GlobPattern::parse(text(&pieces, 6)).unwrap())
            .collect();
        let subscribe = |glob: &GlobPattern| Subscription {
            url: SubscriberUrl::new("http://x/").unwrap(),
            interest: Interest::Glob(glob.clone()),
            recovery: None,
        };
        for glob in &patterns {
            tables.add(&subscribe(glob), |url| {
                Arc::new(Subscriber::new(url.clone(), routes.route(url)))
            });
        }
        let globs = &tables.globs;
        let distinct: std::collections::HashSet<_> = patterns.iter().cloned().collect();
        assert_eq!(globs.all.len(), distinct.len());
        let literals = ["user/", "/x", "abc", "a", "b", "z1", "é", "[", "]"];
        for _ in 0..300 {
            let topic = text(&literals, 6);
            let mut found = Vec::new();
            let candidates = globs.found_by.candidates(&topic);
            let matching = candidates.matching_at_once(&topic, |glob| {
                found.push(glob.as_str().to_owned());
            });
            if let Some(snapshot) = matching {
                let matching = snapshot.matching(&Topic::new(&topic).unwrap()).await;
                found.extend(matching.iter().map(|it| it.as_str().to_owned()));
            }
            let wanted = distinct.iter().filter(|it| it.matches_str(&topic));
            let mut wanted: Vec<_> = wanted.map(|it| it.as_str().to_owned()).collect();
            found.sort();
            wanted.sort();
            assert_eq!(found, wanted, "{topic}");
        }
        for glob in &distinct {
            let Subscription { url, interest, .. } = subscribe(glob);
            tables.remove(&url, &interest);
        }
        assert_nothing_is_left(&tables.globs);
    }

    /// Rows that somebody else stored, or that are of before there were limits.
    #[tokio::test]
    async fn glob_oom_stored_rows_that_exceed_the_limits_are_passed_over() {
        let index = index();
        let long = format!("glob t*{}", "?".repeat(100));
        let too_many = format!("glob t{}", "*".repeat(65));
        let own = "http://own:80/v1/receive_for_websockets";
        for (url, interest) in [
            ("http://x/", long.as_str()),
            ("http://x/", &too_many),
            (&format!("{own}#1"), "t"),
            ("http://own/v1/receive_for_websockets", "t"),
            ("http://other/v1/%72eceive_for_websockets?", "t"),
        ] {
            index.observe(&[Change::Added(subscription(url, interest, None))]);
            assert_eq!(index.len(), 0, "{url} {interest}");
            index.observe(&[removed(url, interest)]);
        }
        let to_all = Some("http://own/v1/missed_for_websockets");
        for (url, recovers) in [
            (own, true),
            ("http://other/v1/receive_for_websockets", true),
            ("http://x/", false),
        ] {
            index.observe(&[Change::Added(subscription(url, "t", to_all))]);
            let rows = rows_of(&index, "t").await;
            assert_eq!((rows.len(), rows[0].recovery.is_some()), (1, recovers));
            index.observe(&[removed(url, "t")]);
        }
    }

    /// Far more than are matched at once, and a topic so long that even looking it up takes a
    /// while.
    #[tokio::test]
    async fn what_is_matched_beside_the_runtime_is_what_would_have_been_matched_at_once() {
        let index = index();
        let globs: Vec<_> = (0..3_000).map(|it| format!("glob ?[{it}t]*?")).collect();
        for glob in &globs {
            index.observe(&[Change::Added(subscription("http://x/", glob, None))]);
        }
        index.observe(&[Change::Added(subscription("http://x/", "tttt", None))]);
        assert_eq!(matching(&index, "tttt").await.len(), 3_001);
        let long = "t".repeat(LONG_TOPIC_BYTES + 1);
        index.observe(&[Change::Added(subscription("http://x/", &long, None))]);
        assert_eq!(matching(&index, &long).await.len(), 3_001);
    }

    /// Whatever else there is to do is done between the slices.
    #[tokio::test]
    async fn glob_freeze_matching_leaves_the_thread_and_the_tables_to_others() {
        let index = index();
        for number in 0..10_000 {
            let glob = format!("glob ?[{number}t]*?");
            index.observe(&[Change::Added(subscription("http://x/", &glob, None))]);
        }
        index.observe(&[Change::Added(subscription("http://x/", "tttt", None))]);
        let topic = Topic::new("tttt").unwrap();
        let Found { rows, rest } = index.begin_to_match(&topic);
        assert_eq!(rows.len(), 1, "who is found at once waits for nobody");
        let held = hold_threads().await;
        let mut matching = std::pin::pin!(rest.expect("they are too many").groups());
        assert!(futures_util::poll!(&mut matching).is_pending());
        drop(held);
        index.observe(&[Change::Added(subscription("http://x/", "zzz", None))]);
        assert_eq!(self::matching(&index, "zzz").await.len(), 1);
        assert_eq!(matching.await.rows().len(), 10_000);
    }

    #[tokio::test]
    async fn another_recovery_url_replaces_the_row_and_keeps_its_peer() {
        let index = index();
        index.observe(&[Change::Added(subscription("http://x/", "a", None))]);
        let before = rows_of(&index, "a").await;
        let recovers = subscription("http://x/", "a", Some("http://x/r"));
        index.observe(&[Change::Added(recovers)]);
        let rows = rows_of(&index, "a").await;
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0].recovery.as_ref().map(SubscriberUrl::as_str),
            Some("http://x/r")
        );
        // What is known of the peer would go with its last subscriber.
        assert!(Arc::ptr_eq(&rows[0].subscriber, &before[0].subscriber));
    }

    #[tokio::test]
    async fn a_subscriber_goes_on_with_its_numbers_after_a_reload() {
        let index = index();
        let added = |url| Change::Added(subscription(url, "a", None));
        index.observe(&[added("http://x/")]);
        let before = rows_of(&index, "a").await;
        let first = before[0].subscriber.numbers.give(1);
        let begun = Change::ReloadBegan {
            exacts: 2,
            globs: 0,
        };
        let reload = [begun, added("http://x/"), added("http://y/")];
        index.observe(&reload);
        // Numbered while the new rows are read.
        let second = before[0].subscriber.numbers.give(1);
        index.observe(&[Change::ReloadEnded]);
        let rows = rows_of(&index, "a").await;
        let number_of = |url: &str| {
            let mut rows = rows.iter().map(|row| &row.subscriber);
            let subscriber = rows.find(|it| it.url.as_str() == url);
            subscriber.unwrap().numbers.give(1)
        };
        let (third, other) = (number_of("http://x/"), number_of("http://y/"));
        assert_eq!([first, second, third].map(|it| it.number), [1, 2, 3]);
        assert_eq!((third.line, other.number), (first.line, 1));
        assert_ne!(other.line, first.line);
        // Of one that was gone the numbers are forgotten.
        index.observe(&[removed("http://x/", "a"), added("http://x/")]);
        let anew = rows_of(&index, "a").await;
        let anew = anew.iter().map(|row| row.subscriber.numbers.give(1));
        let known = [first.line, other.line];
        assert_eq!(anew.filter(|it| !known.contains(&it.line)).count(), 1);
    }

    #[tokio::test]
    async fn a_reload_replaces_all_at_once() {
        let index = index();
        index.observe(&[Change::Added(subscription("http://x/", "a", None))]);
        index.observe(&[
            Change::ReloadBegan {
                exacts: 1,
                globs: 0,
            },
            Change::Added(subscription("http://y/", "a", None)),
        ]);
        assert_eq!(matching(&index, "a").await, ["http://x/ exact \"a\""]);
        index.observe(&[Change::ReloadEnded]);
        assert_eq!(matching(&index, "a").await, ["http://y/ exact \"a\""]);
    }
}
