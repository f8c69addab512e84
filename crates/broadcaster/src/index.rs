//! All subscriptions, in memory and ready to be matched: the store is never asked on the way of a
//! notification.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hashbrown::HashTable;
use httppubsub_net::{Poster, Target};
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{EndpointError, SubscriberUrl};
use httppubsub_store::{Change, Observer};
use rustc_hash::{FxBuildHasher, FxHashMap};

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

/// Of tables whose entries know what they are found by.
fn hash(key: &[u8]) -> u64 {
    FxBuildHasher.hash_one(key)
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
    tables: RwLock<Tables>,
    /// What takes the place of `tables` when a reload has ended.
    reloading: Mutex<Option<Tables>>,
}

impl Index {
    pub(crate) fn new(poster: Poster) -> Self {
        Self {
            poster,
            tables: RwLock::default(),
            reloading: Mutex::default(),
        }
    }

    /// Every row that a notification on `topic` goes to.
    pub(crate) fn matching(&self, topic: &Topic) -> Vec<Arc<Row>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Arc<Row>> = Vec::new();
        if let Some(rows) = tables.exacts.get(topic) {
            found.extend_from_slice(rows.as_slice());
        }
        if let Some(text) = topic.as_str() {
            tables.globs.candidates(text, |glob| {
                if glob.matches_str(text)
                    && let Some(rows) = tables.globs.rows(glob)
                {
                    found.extend_from_slice(rows.as_slice());
                }
            });
        }
        found
    }

    /// The same for a topic so long that matching may take a while: nobody waits for it meanwhile.
    pub(crate) async fn matching_long(&self, topic: &Topic) -> Vec<Arc<Row>> {
        let (mut found, candidates) = {
            let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
            let found = tables
                .exacts
                .get(topic)
                .map_or_else(Vec::new, |rows| rows.as_slice().to_vec());
            let mut candidates: Vec<(GlobPattern, Rows<Key>)> = Vec::new();
            if let Some(text) = topic.as_str() {
                tables.globs.candidates(text, |glob| {
                    let rows = tables.globs.rows(glob).cloned();
                    candidates.extend(rows.map(|rows| (glob.clone(), rows)));
                });
            }
            (found, candidates)
        };
        let topic = topic.clone();
        let matching = tokio::task::spawn_blocking(move || {
            let matching = candidates
                .into_iter()
                .filter(|(glob, _)| glob.matches(&topic));
            matching.map(|(_, rows)| rows).collect::<Vec<_>>()
        });
        for rows in matching.await.expect("matching a glob does not panic") {
            found.extend_from_slice(rows.as_slice());
        }
        found
    }

    /// Every row there is.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> Vec<Arc<Row>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let exacts = tables.exacts.0.iter().map(Rows::as_slice);
        let globs = tables.globs.all.iter().map(Rows::as_slice);
        exacts.chain(globs).flatten().cloned().collect()
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.tables
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .rows
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
                .rows(glob)
                .is_some_and(|it| is_of_url(it.as_slice())),
        }
    }
}

impl Observer for Index {
    fn observe(&self, changes: &[Change]) {
        let mut reloading = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let tables = || self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::ReloadBegan { exacts, globs } => {
                    *reloading = Some(Tables::with_room(*exacts, *globs));
                }
                Change::ReloadEnded => {
                    if let Some(loaded) = reloading.take() {
                        // The old ones are dropped after the lock is free again.
                        let _old = std::mem::replace(&mut *tables(), loaded);
                    }
                }
                Change::Added(subscription) => match &mut *reloading {
                    Some(loading) => loading.add(subscription, &self.poster),
                    None => tables().add(subscription, &self.poster),
                },
                Change::Removed { url, interest } => match &mut *reloading {
                    Some(loading) => loading.remove(url, interest),
                    None => tables().remove(url, interest),
                },
            }
        }
    }
}

#[derive(Debug, Default)]
struct Tables {
    exacts: Exacts,
    globs: Globs,
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
            Interest::Glob(glob) => self.globs.rows(glob).map(Rows::interest),
        };
        let row = Arc::new(Row {
            subscriber,
            // One for all.
            interest: known.unwrap_or(interest).clone(),
            recovery: recovery.clone(),
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

/// All globs, each found by something that every topic it matches must have: how it begins, how it
/// ends, or three bytes somewhere in it. Of these, what fewest others are found by.
#[derive(Debug)]
struct Globs {
    all: HashTable<Rows<Key>>,
    by_prefix: ByEnd,
    by_suffix: ByEnd,
    by_gram: FxHashMap<Gram, FoundAlike>,
    /// Those that have nothing of that kind.
    others: Vec<GlobPattern>,
}

/// What a glob is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// Its literal prefix, as far as [`prefix`] goes.
    Prefix,
    /// Its literal suffix, as far as [`suffix`] goes.
    Suffix,
    Gram(Gram),
    Other,
}

type Gram = [u8; 3];

#[derive(Debug)]
struct ByEnd {
    /// [`prefix`] or [`suffix`].
    end: fn(&GlobPattern) -> &[u8],
    globs: HashTable<FoundAlike>,
    /// How many ends there are of each length.
    lengths: BTreeMap<usize, usize>,
}

/// Longer ends are cut to this many bytes, so that one notification looks up no more than this
/// many of them. Of so many grams a glob's is chosen.
const END_BYTES_MAX: usize = 64;

fn prefix(glob: &GlobPattern) -> &[u8] {
    let bytes = glob.literal_prefix().as_bytes();
    &bytes[..bytes.len().min(END_BYTES_MAX)]
}

fn suffix(glob: &GlobPattern) -> &[u8] {
    let bytes = glob.literal_suffix().as_bytes();
    &bytes[bytes.len().saturating_sub(END_BYTES_MAX)..]
}

/// Bytes that every topic has that the glob matches.
fn grams(glob: &GlobPattern) -> impl Iterator<Item = Gram> {
    let source = glob.as_str();
    // What lies between brackets need not be there.
    let (before, after) = match source.find('[') {
        None => (source, ""),
        Some(open) => {
            let close = source.rfind(']').filter(|close| *close > open);
            (&source[..open], close.map_or("", |at| &source[at + 1..]))
        }
    };
    let literals = [before, after]
        .into_iter()
        .flat_map(|part| part.split(['*', '?', '[', ']']));
    let grams = literals.flat_map(|literal| literal.as_bytes().windows(3));
    let grams = grams.filter_map(|it| it.first_chunk::<3>()).copied();
    grams.take(END_BYTES_MAX)
}

impl Default for Globs {
    fn default() -> Self {
        Self {
            all: HashTable::default(),
            by_prefix: ByEnd::new(prefix),
            by_suffix: ByEnd::new(suffix),
            by_gram: FxHashMap::default(),
            others: Vec::new(),
        }
    }
}

impl Globs {
    fn glob_of(rows: &Rows<Key>) -> &GlobPattern {
        match rows.interest() {
            Interest::Glob(glob) => glob,
            Interest::Exact(_) => unreachable!("it is put with the exact ones"),
        }
    }

    /// Calls `visit` with every glob that may match `topic`, once.
    fn candidates(&self, topic: &str, mut visit: impl FnMut(&GlobPattern)) {
        let topic = topic.as_bytes();
        for &length in self.by_prefix.lengths.keys() {
            let Some(prefix) = topic.get(..length) else {
                break;
            };
            self.by_prefix.visit(prefix, &mut visit);
        }
        for &length in self.by_suffix.lengths.keys() {
            let Some(start) = topic.len().checked_sub(length) else {
                break;
            };
            self.by_suffix.visit(&topic[start..], &mut visit);
        }
        if !self.by_gram.is_empty() {
            let grams = topic.windows(3).filter_map(|it| it.first_chunk::<3>());
            let mut grams: Vec<&Gram> = grams.collect();
            grams.sort_unstable();
            grams.dedup();
            let found = grams.into_iter().filter_map(|gram| self.by_gram.get(gram));
            found.flat_map(FoundAlike::as_slice).for_each(&mut visit);
        }
        self.others.iter().for_each(visit);
    }

    /// The rows of a glob that is here.
    fn rows(&self, glob: &GlobPattern) -> Option<&Rows<Key>> {
        let hash = hash(glob.as_str().as_bytes());
        self.all.find(hash, |it| Self::glob_of(it) == glob)
    }

    fn add(&mut self, glob: &GlobPattern, row: Arc<Row>) {
        let hash = hash(glob.as_str().as_bytes());
        let is_it = |it: &Rows<Key>| Self::glob_of(it) == glob;
        if let Some(rows) = self.all.find_mut(hash, is_it) {
            return rows.push(row);
        }
        let key = self.best_key(glob);
        match key {
            Key::Prefix => self.by_prefix.add(glob),
            Key::Suffix => self.by_suffix.add(glob),
            Key::Gram(gram) => match self.by_gram.entry(gram) {
                Entry::Occupied(mut alike) => alike.get_mut().push(glob.clone()),
                Entry::Vacant(new) => drop(new.insert(FoundAlike::One(glob.clone()))),
            },
            Key::Other => self.others.push(glob.clone()),
        }
        let hash_of = |it: &Rows<Key>| self::hash(Self::glob_of(it).as_str().as_bytes());
        self.all.insert_unique(hash, Rows::One(key, row), hash_of);
    }

    fn best_key(&self, glob: &GlobPattern) -> Key {
        let (prefix, suffix) = (prefix(glob), suffix(glob));
        let ends = [
            (Key::Prefix, prefix.len(), self.by_prefix.count(prefix)),
            (Key::Suffix, suffix.len(), self.by_suffix.count(suffix)),
        ];
        let ends = ends.into_iter().filter(|(_, bytes, _)| *bytes > 0);
        // Of ends that are found alike, the longer one says more, and either more than a gram.
        let end = ends.min_by_key(|(_, bytes, count)| (*count, usize::MAX - bytes));
        if let Some((end, _, 0)) = end {
            return end;
        }
        let grams = grams(glob).map(|it| (self.by_gram.get(&it).map_or(0, FoundAlike::len), it));
        match (end, grams.min_by_key(|(count, _)| *count)) {
            (Some((end, _, count)), Some((others, _))) if count <= others => end,
            (_, Some((_, gram))) => Key::Gram(gram),
            (Some((end, ..)), None) => end,
            (None, None) => Key::Other,
        }
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
        match rows.known() {
            Key::Prefix => self.by_prefix.remove(glob),
            Key::Suffix => self.by_suffix.remove(glob),
            Key::Gram(gram) => {
                if let Some(alike) = self.by_gram.get_mut(&gram)
                    && alike.remove(glob) == Removed::Last
                {
                    self.by_gram.remove(&gram);
                }
            }
            Key::Other => self.others.retain(|own| own != glob),
        }
        true
    }
}

impl ByEnd {
    fn new(end: fn(&GlobPattern) -> &[u8]) -> Self {
        Self {
            end,
            globs: HashTable::new(),
            lengths: BTreeMap::new(),
        }
    }

    fn visit(&self, end: &[u8], visit: impl FnMut(&GlobPattern)) {
        if let Some(globs) = self.get(end) {
            globs.as_slice().iter().for_each(visit);
        }
    }

    fn count(&self, end: &[u8]) -> usize {
        self.get(end).map_or(0, FoundAlike::len)
    }

    fn get(&self, end: &[u8]) -> Option<&FoundAlike> {
        let is_it = |it: &FoundAlike| (self.end)(it.first()) == end;
        self.globs.find(hash(end), is_it)
    }

    fn add(&mut self, glob: &GlobPattern) {
        let (end_of, end) = (self.end, (self.end)(glob));
        let is_it = |it: &FoundAlike| end_of(it.first()) == end;
        if let Some(alike) = self.globs.find_mut(hash(end), is_it) {
            return alike.push(glob.clone());
        }
        *self.lengths.entry(end.len()).or_default() += 1;
        let alike = FoundAlike::One(glob.clone());
        let hash_of = |it: &FoundAlike| hash(end_of(it.first()));
        self.globs.insert_unique(hash(end), alike, hash_of);
    }

    fn remove(&mut self, glob: &GlobPattern) {
        let (end_of, end) = (self.end, (self.end)(glob));
        let is_it = |it: &FoundAlike| end_of(it.first()) == end;
        let Ok(mut found) = self.globs.find_entry(hash(end), is_it) else {
            return;
        };
        if found.get_mut().remove(glob) == Removed::Last {
            found.remove();
            if let Some(count) = self.lengths.get_mut(&end.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&end.len());
                }
            }
        }
    }
}

/// Globs that are found by the same.
#[derive(Debug)]
enum FoundAlike {
    /// Most often there is one, which needs no list.
    One(GlobPattern),
    #[expect(
        clippy::box_collection,
        reason = "the others must not need room for a list"
    )]
    Many(Box<Vec<GlobPattern>>),
}

impl FoundAlike {
    fn as_slice(&self) -> &[GlobPattern] {
        match self {
            Self::One(glob) => std::slice::from_ref(glob),
            Self::Many(globs) => globs,
        }
    }

    fn first(&self) -> &GlobPattern {
        &self.as_slice()[0]
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn push(&mut self, glob: GlobPattern) {
        match self {
            Self::One(first) => *self = Self::Many(Box::new(vec![first.clone(), glob])),
            Self::Many(globs) => globs.push(glob),
        }
    }

    fn remove(&mut self, glob: &GlobPattern) -> Removed {
        let Some(at) = self.as_slice().iter().position(|own| own == glob) else {
            return Removed::None;
        };
        match self {
            Self::Many(globs) if globs.len() > 1 => {
                globs.swap_remove(at);
                Removed::One
            }
            Self::One(_) | Self::Many(_) => Removed::Last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use httppubsub_net::PostConfig;

    fn index() -> Index {
        Index::new(Poster::new(PostConfig::default()))
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

    async fn matching(index: &Index, topic: &str) -> Vec<String> {
        let topic = Topic::new(topic).unwrap();
        let show = |rows: Vec<Arc<Row>>| {
            let mut found: Vec<String> = rows
                .iter()
                .map(|row| format!("{} {}", row.subscriber.url.as_str(), row.interest))
                .collect();
            found.sort();
            found
        };
        let found = show(index.matching(&topic));
        assert_eq!(found, show(index.matching_long(&topic).await));
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

    fn assert_nothing_is_left(globs: &Globs) {
        for by_end in [&globs.by_prefix, &globs.by_suffix] {
            assert!(by_end.lengths.is_empty() && by_end.globs.is_empty());
        }
        assert!(globs.all.is_empty() && globs.by_gram.is_empty() && globs.others.is_empty());
    }

    #[test]
    fn a_gram_of_a_glob_is_in_every_topic_that_it_matches() {
        let grams_of = |glob: &str| -> Vec<String> {
            let glob = GlobPattern::parse(glob).unwrap();
            let grams = grams(&glob);
            grams
                .map(|it| String::from_utf8_lossy(&it).into_owned())
                .collect()
        };
        assert_eq!(grams_of("*abcd*ef?ghi*"), ["abc", "bcd", "ghi"]);
        assert_eq!(grams_of("*abc[defg]hij"), ["abc", "hij"]);
        assert_eq!(grams_of("*abc[!]defg]hij[k]lmn"), ["abc", "lmn"]);
        assert_eq!(grams_of("*abc[def"), ["abc"]);
        assert_eq!(grams_of("*abc]def[ghi"), ["abc", "def"]);
        assert_eq!(grams_of("*a?b[cde]*"), [""; 0]);
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
            globs.candidates(&topic, |glob| {
                if glob.matches_str(&topic) {
                    found.push(glob.as_str().to_owned());
                }
            });
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

    #[tokio::test]
    async fn another_recovery_url_replaces_the_row() {
        let index = index();
        index.observe(&[
            Change::Added(subscription("http://x/", "a", None)),
            Change::Added(subscription("http://x/", "a", Some("http://x/r"))),
        ]);
        let rows = index.matching(&Topic::new("a").unwrap());
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
