//! All subscriptions, in memory and ready to be matched: the store is never asked on the way of a
//! notification.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hashbrown::HashTable;
use httppubsub_net::{Poster, Target, chain};
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{EndpointError, SubscriberUrl};
use httppubsub_store::{Change, Observer};

use crate::globs::{GlobLimits, GlobRefused, Globs, Key, Snapshot, hash, in_turn};
use crate::urls;

/// One subscription, ready for deliveries.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) subscriber: Arc<Subscriber>,
    pub(crate) interest: Interest,
    pub(crate) recovery: Option<SubscriberUrl>,
}

/// Whom deliveries go to; shared by all rows with this url.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) url: SubscriberUrl,
    pub(crate) target: Result<Target, EndpointError>,
}

/// Rows of one interest, and what else is known of that. Taken by notifications as it is, copied
/// when it changes while one of them still uses it.
#[derive(Clone, Debug)]
enum Rows<K> {
    /// Most often there is one, which needs no list.
    One(K, Arc<Row>),
    /// One at least.
    Many(K, Arc<Vec<Arc<Row>>>),
}

/// There may be a million.
const _: () = assert!(size_of::<Rows<Key>>() <= 16);

impl<K: Copy> Rows<K> {
    fn as_slice(&self) -> &[Arc<Row>] {
        match self {
            Self::One(_, row) => std::slice::from_ref(row),
            Self::Many(_, rows) => rows,
        }
    }

    fn known(&self) -> K {
        match self {
            Self::One(known, _) | Self::Many(known, _) => *known,
        }
    }

    fn interest(&self) -> &Interest {
        &self.as_slice()[0].interest
    }

    fn push(&mut self, row: Arc<Row>) {
        match self {
            Self::One(known, first) => {
                *self = Self::Many(*known, Arc::new(vec![first.clone(), row]));
            }
            Self::Many(_, rows) => Arc::make_mut(rows).push(row),
        }
    }

    fn remove(&mut self, url: &SubscriberUrl) -> Removed {
        let rows = self.as_slice();
        let Some(at) = rows.iter().position(|row| row.subscriber.url == *url) else {
            return Removed::None;
        };
        match self {
            Self::Many(_, rows) if rows.len() > 1 => {
                Arc::make_mut(rows).swap_remove(at);
                Removed::One
            }
            Self::One(..) | Self::Many(..) => Removed::Last,
        }
    }
}

/// What was removed of some rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removed {
    /// There is none of this url.
    None,
    One,
    /// It is still there: what holds the rows is to go as a whole.
    Last,
}

/// The rows of topics, each found by the topic that its rows hold.
#[derive(Debug, Default)]
struct Exacts(HashTable<Rows<()>>);

impl Exacts {
    fn topic_of(rows: &Rows<()>) -> &[u8] {
        match rows.interest() {
            Interest::Exact(topic) => topic.as_bytes(),
            Interest::Glob(_) => unreachable!("it is put with the globs"),
        }
    }

    fn get(&self, topic: &Topic) -> Option<&Rows<()>> {
        let topic = topic.as_bytes();
        self.0.find(hash(topic), |it| Self::topic_of(it) == topic)
    }

    fn rows(&self, topic: &Topic) -> Vec<Arc<Row>> {
        self.get(topic)
            .map_or_else(Vec::new, |rows| rows.as_slice().to_vec())
    }

    fn add(&mut self, topic: &[u8], row: Arc<Row>) {
        let is_it = |it: &Rows<()>| Self::topic_of(it) == topic;
        match self.0.find_mut(hash(topic), is_it) {
            Some(rows) => rows.push(row),
            None => {
                let hash_of = |it: &Rows<()>| hash(Self::topic_of(it));
                self.0
                    .insert_unique(hash(topic), Rows::One((), row), hash_of);
            }
        }
    }

    /// Whether there was one.
    fn remove(&mut self, topic: &Topic, url: &SubscriberUrl) -> bool {
        let topic = topic.as_bytes();
        let is_it = |it: &Rows<()>| Self::topic_of(it) == topic;
        let Ok(mut found) = self.0.find_entry(hash(topic), is_it) else {
            return false;
        };
        match found.get_mut().remove(url) {
            Removed::None => return false,
            Removed::One => {}
            Removed::Last => drop(found.remove()),
        }
        true
    }
}

/// All subscriptions there are, as far as the store has told.
#[derive(Debug)]
pub(crate) struct Index {
    poster: Poster,
    limits: IndexLimits,
    tables: RwLock<Tables>,
    reload: Mutex<Reload>,
}

/// Which stored rows are passed over: others wrote them, or they are of before there were limits.
#[derive(Clone, Debug)]
pub(crate) struct IndexLimits {
    /// Rows of other globs are passed over.
    pub(crate) globs: GlobLimits,
    /// Where this broadcaster receives for its websockets.
    pub(crate) receiver: SubscriberUrl,
}

/// Why a stored row is passed over.
#[derive(Debug, thiserror::Error)]
enum PassedOver {
    #[error(transparent)]
    Glob(#[from] GlobRefused),
    #[error(
        "its url is another spelling of one at which a broadcaster receives for its websockets"
    )]
    Spelling,
}

impl IndexLimits {
    fn judge(&self, subscription: &Subscription) -> Result<(), PassedOver> {
        if urls::is_another_spelling(&subscription.url, &self.receiver) {
            return Err(PassedOver::Spelling);
        }
        Ok(self.globs.judge(&subscription.interest)?)
    }
}

/// What is gathered until a reload has ended.
#[derive(Debug, Default)]
struct Reload {
    /// What takes the place of the tables then.
    tables: Option<Tables>,
    passed_over: usize,
}

/// What is known of the rows of a topic at once.
enum Begun {
    All(Vec<Arc<Row>>),
    /// These, and those of the globs that match.
    Some(Vec<Arc<Row>>, Snapshot),
    /// Even what may match is to be looked for elsewhere.
    Nothing,
}

/// Longer topics have so many parts that globs are found by that looking them up takes a while.
const LONG_TOPIC_BYTES: usize = 4_096;

/// How many rows are looked up at a time, for the sake of those who change something meanwhile.
const ROWS_AT_A_TIME: usize = 1_024;

impl Index {
    pub(crate) fn new(poster: Poster, limits: IndexLimits) -> Self {
        Self {
            poster,
            limits,
            tables: RwLock::default(),
            reload: Mutex::default(),
        }
    }

    /// Every row that a notification on `topic` goes to. What takes longer than a moment to find
    /// out is found out beside the runtime.
    pub(crate) async fn matching(self: &Arc<Self>, topic: &Topic) -> Vec<Arc<Row>> {
        let begun = match topic.as_bytes().len() {
            ..=LONG_TOPIC_BYTES => self.begin_to_match(topic),
            _ => Begun::Nothing,
        };
        let (mut found, snapshot) = match begun {
            Begun::All(found) => return found,
            Begun::Some(found, snapshot) => (found, snapshot),
            Begun::Nothing => {
                let (index, topic) = (self.clone(), topic.clone());
                in_turn(move || index.snapshot(&topic)).await
            }
        };
        let globs = snapshot.matching(topic).await;
        if globs.len() <= ROWS_AT_A_TIME {
            self.rows_of(&globs, &mut found);
            return found;
        }
        let index = self.clone();
        in_turn(move || {
            for globs in globs.chunks(ROWS_AT_A_TIME) {
                index.rows_of(globs, &mut found);
            }
            found
        })
        .await
    }

    fn begin_to_match(&self, topic: &Topic) -> Begun {
        let tables = self.tables();
        let mut found = tables.exacts.rows(topic);
        let Some(text) = topic.as_str() else {
            return Begun::All(found);
        };
        let candidates = tables.globs.found_by.candidates(text);
        let matching = candidates.matching_at_once(text, |glob| {
            found.extend_from_slice(tables.globs.rows(glob));
        });
        match matching {
            Ok(()) => Begun::All(found),
            Err(snapshot) => Begun::Some(found, snapshot),
        }
    }

    fn snapshot(&self, topic: &Topic) -> (Vec<Arc<Row>>, Snapshot) {
        let tables = self.tables();
        let found = tables.exacts.rows(topic);
        let text = topic.as_str();
        let candidates = text.map(|text| tables.globs.found_by.candidates(text));
        let snapshot = candidates.map(|it| it.snapshot()).unwrap_or_default();
        (found, snapshot)
    }

    fn rows_of(&self, globs: &[GlobPattern], found: &mut Vec<Arc<Row>>) {
        let tables = self.tables();
        for glob in globs {
            found.extend_from_slice(tables.globs.rows(glob));
        }
    }

    fn tables(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every row there is.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> Vec<Arc<Row>> {
        let tables = self.tables();
        let exacts = tables.exacts.0.iter().map(Rows::as_slice);
        let globs = tables.globs.all.iter().map(Rows::as_slice);
        exacts.chain(globs).flatten().cloned().collect()
    }

    /// How many rows there are.
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
        for change in changes {
            match change {
                Change::ReloadBegan { exacts, globs } => {
                    reload.tables = Some(Tables::with_room(*exacts, *globs));
                }
                Change::ReloadEnded => {
                    if let Some(loaded) = reload.tables.take() {
                        // The old ones are dropped after the lock is free again.
                        let _old = std::mem::replace(&mut *tables(), loaded);
                    }
                }
                Change::Added(subscription) => {
                    if let Err(why) = self.limits.judge(subscription) {
                        if reload.passed_over == 0 {
                            warn_of(subscription, &why);
                        }
                        reload.passed_over += 1;
                        continue;
                    }
                    match &mut reload.tables {
                        Some(loading) => loading.add(subscription, &self.poster),
                        None => tables().add(subscription, &self.poster),
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
        why = chain(why),
        "a stored subscription is passed over: nothing is delivered to it"
    );
}

#[derive(Debug, Default)]
struct Tables {
    exacts: Exacts,
    globs: GlobRows,
    /// Each with the number of its rows.
    subscribers: HashTable<(Arc<Subscriber>, usize)>,
    rows: usize,
}

impl Tables {
    /// Tables that grow leave holes, in which little fits that comes after them.
    fn with_room(exacts: usize, globs: usize) -> Self {
        let mut tables = Self::default();
        tables.exacts.0 = HashTable::with_capacity(exacts);
        tables.globs.all = HashTable::with_capacity(globs);
        tables
    }

    fn add(&mut self, subscription: &Subscription, poster: &Poster) {
        let Subscription {
            url,
            interest,
            recovery,
        } = subscription;
        // One that is there already gets another recovery url.
        self.remove(url, interest);
        let subscriber = self.subscriber(url, poster);
        self.rows += 1;
        let known = match interest {
            Interest::Exact(topic) => self.exacts.get(topic).map(Rows::interest),
            Interest::Glob(glob) => self.globs.get(glob).map(Rows::interest),
        };
        // Nobody else's notices go to all websockets of a broadcaster.
        let recovery = recovery.as_ref().filter(|it| urls::may_recover_at(url, it));
        let row = Arc::new(Row {
            subscriber,
            // One for all.
            interest: known.unwrap_or(interest).clone(),
            recovery: recovery.cloned(),
        });
        match interest {
            Interest::Exact(topic) => self.exacts.add(topic.as_bytes(), row),
            Interest::Glob(glob) => self.globs.add(glob, row),
        }
    }

    /// The subscriber of one row more.
    fn subscriber(&mut self, url: &SubscriberUrl, poster: &Poster) -> Arc<Subscriber> {
        let hash_of = |url: &SubscriberUrl| hash(url.as_str().as_bytes());
        let entry = self.subscribers.entry(
            hash_of(url),
            |(it, _)| it.url == *url,
            |(it, _)| hash_of(&it.url),
        );
        let mut entry = entry.or_insert_with(|| {
            let target = poster.target(url);
            let url = url.clone();
            (Arc::new(Subscriber { url, target }), 0)
        });
        let (subscriber, rows) = entry.get_mut();
        *rows += 1;
        subscriber.clone()
    }

    fn remove(&mut self, url: &SubscriberUrl, interest: &Interest) {
        let removed = match interest {
            Interest::Exact(topic) => self.exacts.remove(topic, url),
            Interest::Glob(glob) => self.globs.remove(glob, url),
        };
        if removed {
            self.rows -= 1;
            let hash = hash(url.as_str().as_bytes());
            let subscriber = self.subscribers.find_entry(hash, |(it, _)| it.url == *url);
            if let Ok(mut subscriber) = subscriber {
                let (_, rows) = subscriber.get_mut();
                *rows -= 1;
                if *rows == 0 {
                    subscriber.remove();
                }
            }
        }
    }
}

/// The rows of globs, each found by the glob that its rows hold.
#[derive(Debug, Default)]
struct GlobRows {
    all: HashTable<Rows<Key>>,
    found_by: Globs,
}

impl GlobRows {
    fn glob_of(rows: &Rows<Key>) -> &GlobPattern {
        match rows.interest() {
            Interest::Glob(glob) => glob,
            Interest::Exact(_) => unreachable!("it is put with the exact ones"),
        }
    }

    fn get(&self, glob: &GlobPattern) -> Option<&Rows<Key>> {
        let hash = hash(glob.as_str().as_bytes());
        self.all.find(hash, |it| Self::glob_of(it) == glob)
    }

    /// The rows of a glob, if there are any.
    fn rows(&self, glob: &GlobPattern) -> &[Arc<Row>] {
        self.get(glob).map_or(&[], Rows::as_slice)
    }

    fn add(&mut self, glob: &GlobPattern, row: Arc<Row>) {
        let hash = hash(glob.as_str().as_bytes());
        let is_it = |it: &Rows<Key>| Self::glob_of(it) == glob;
        if let Some(rows) = self.all.find_mut(hash, is_it) {
            return rows.push(row);
        }
        let key = self.found_by.add(glob);
        let hash_of = |it: &Rows<Key>| self::hash(Self::glob_of(it).as_str().as_bytes());
        self.all.insert_unique(hash, Rows::One(key, row), hash_of);
    }

    /// Whether there was one.
    fn remove(&mut self, glob: &GlobPattern, url: &SubscriberUrl) -> bool {
        let hash = hash(glob.as_str().as_bytes());
        let Ok(mut found) = self.all.find_entry(hash, |it| Self::glob_of(it) == glob) else {
            return false;
        };
        match found.get_mut().remove(url) {
            Removed::None => return false,
            Removed::One => return true,
            Removed::Last => {}
        }
        let (rows, _) = found.remove();
        self.found_by.remove(glob, rows.known());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use httppubsub_net::PostConfig;

    fn index() -> Arc<Index> {
        let limits = IndexLimits {
            globs: GlobLimits { bytes_max: 100 },
            receiver: SubscriberUrl::new("http://own:80/v1/receive_for_websockets").unwrap(),
        };
        Arc::new(Index::new(Poster::new(PostConfig::default()), limits))
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

    async fn matching(index: &Arc<Index>, topic: &str) -> Vec<String> {
        let topic = Topic::new(topic).unwrap();
        let rows = index.matching(&topic).await;
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
        let poster = Poster::new(PostConfig::default());
        let patterns: Vec<_> = (0..3_000)
            .map(|_| GlobPattern::parse(text(&pieces, 6)).unwrap())
            .collect();
        let subscribe = |glob: &GlobPattern| Subscription {
            url: SubscriberUrl::new("http://x/").unwrap(),
            interest: Interest::Glob(glob.clone()),
            recovery: None,
        };
        for glob in &patterns {
            tables.add(&subscribe(glob), &poster);
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
            if let Err(snapshot) = matching {
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
            let rows = index.matching(&Topic::new("t").unwrap()).await;
            assert_eq!((rows.len(), rows[0].recovery.is_some()), (1, recovers));
            index.observe(&[removed(url, "t")]);
        }
    }

    /// Far more than are matched at once, and a topic so long that even looking it up takes a while.
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
        let topic = Topic::new("tttt").unwrap();
        let mut matching = std::pin::pin!(index.matching(&topic));
        assert!(futures_util::poll!(&mut matching).is_pending());
        index.observe(&[Change::Added(subscription("http://x/", "zzz", None))]);
        assert_eq!(self::matching(&index, "zzz").await.len(), 1);
        assert_eq!(matching.await.len(), 10_000);
    }

    #[tokio::test]
    async fn another_recovery_url_replaces_the_row() {
        let index = index();
        index.observe(&[
            Change::Added(subscription("http://x/", "a", None)),
            Change::Added(subscription("http://x/", "a", Some("http://x/r"))),
        ]);
        let rows = index.matching(&Topic::new("a").unwrap()).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0].recovery.as_ref().map(SubscriberUrl::as_str),
            Some("http://x/r")
        );
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
