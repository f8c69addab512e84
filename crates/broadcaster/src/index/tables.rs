//! The tables in which rows are found by topic, by glob and by subscriber.
//!
//! There may be millions of rows, so each is kept once: the topic, glob or url by which a table
//! finds a row is that of the row itself, and rows of one interest or one url share it.

use std::sync::Arc;

use hashbrown::HashTable;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;

use crate::index::globs::{Globs, Key, hash};
use crate::index::reserved_urls::may_recover_at;
use crate::index::row::{Row, Subscriber};

/// All rows, found by topic, by glob and by subscriber.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Rows of topics.
    pub(super) exacts: Exacts,
    /// Rows of globs.
    pub(super) globs: GlobRows,
    /// Each with the number of its rows.
    pub(super) subscribers: HashTable<(Arc<Subscriber>, usize)>,
    /// Number of all rows.
    pub(super) rows: usize,
    /// Another one whenever a glob gets or loses a row.
    pub(super) version: u64,
}

impl Tables {
    /// Tables that grow leave holes, in which little fits that comes after them.
    pub(super) fn with_room(exacts: usize, globs: usize) -> Self {
        let mut tables = Self::default();
        tables.exacts.0 = HashTable::with_capacity(exacts);
        tables.globs.all = HashTable::with_capacity(globs);
        tables
    }

    /// Adds a row, in the place of one of the same url and interest if there is one. The subscriber
    /// of a url that has no row yet comes from `subscriber_of`.
    pub(super) fn add(
        &mut self,
        subscription: &Subscription,
        subscriber_of: impl FnOnce(&SubscriberUrl) -> Arc<Subscriber>,
    ) {
        let Subscription {
            url,
            interest,
            recovery,
        } = subscription;
        // Taken first: a peer is forgotten with its last subscriber, and with it what is known of
        // it.
        let subscriber = self.subscriber(url, subscriber_of);
        // One that is there already gets another recovery url.
        self.remove(url, interest);
        self.rows += 1;
        // Exact rows are found at once and never beside the runtime, so they change no version.
        self.version += u64::from(matches!(interest, Interest::Glob(_)));
        let known = match interest {
            Interest::Exact(topic) => self.exacts.get(topic).map(Rows::interest),
            Interest::Glob(glob) => self.globs.get(glob).map(Rows::interest),
        };
        // Nobody else's notices go to all websockets of a broadcaster.
        let recovery = recovery.as_ref().filter(|it| may_recover_at(url, it));
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
    fn subscriber(
        &mut self,
        url: &SubscriberUrl,
        subscriber_of: impl FnOnce(&SubscriberUrl) -> Arc<Subscriber>,
    ) -> Arc<Subscriber> {
        let hash_of = |url: &SubscriberUrl| hash(url.as_str().as_bytes());
        let entry = self.subscribers.entry(
            hash_of(url),
            |(it, _)| it.url == *url,
            |(it, _)| hash_of(&it.url),
        );
        // The target of a url is looked up once, not for each of its rows.
        let mut entry = entry.or_insert_with(|| (subscriber_of(url), 0));
        let (subscriber, rows) = entry.get_mut();
        *rows += 1;
        subscriber.clone()
    }

    /// The subscriber of a url that has rows.
    pub(super) fn subscriber_of(&self, url: &SubscriberUrl) -> Option<&Arc<Subscriber>> {
        let hash = hash(url.as_str().as_bytes());
        let found = self.subscribers.find(hash, |(it, _)| it.url == *url);
        found.map(|(subscriber, _)| subscriber)
    }

    /// Removes the row of `url` and `interest`, if there is one.
    pub(super) fn remove(&mut self, url: &SubscriberUrl, interest: &Interest) {
        let removed = match interest {
            Interest::Exact(topic) => self.exacts.remove(topic, url),
            Interest::Glob(glob) => self.globs.remove(glob, url),
        };
        if removed {
            self.rows -= 1;
            self.version += u64::from(matches!(interest, Interest::Glob(_)));
            let hash = hash(url.as_str().as_bytes());
            let subscriber = self.subscribers.find_entry(hash, |(it, _)| it.url == *url);
            if let Ok(mut subscriber) = subscriber {
                let (_, rows) = subscriber.get_mut();
                *rows -= 1;
                // With the last one goes the peer, and the connections that are kept to it.
                if *rows == 0 {
                    subscriber.remove();
                }
            }
        }
    }
}

/// The rows of globs, each found by the glob that its rows hold.
#[derive(Debug, Default)]
pub(super) struct GlobRows {
    pub(super) all: HashTable<Rows<Key>>,
    /// Finds the globs that may match a topic.
    pub(super) found_by: Globs,
}

impl GlobRows {
    /// The glob of `rows`.
    fn glob_of(rows: &Rows<Key>) -> &GlobPattern {
        match rows.interest() {
            Interest::Glob(glob) => glob,
            Interest::Exact(_) => unreachable!("it is put with the exact ones"),
        }
    }

    pub(super) fn get(&self, glob: &GlobPattern) -> Option<&Rows<Key>> {
        let hash = hash(glob.as_str().as_bytes());
        self.all.find(hash, |it| Self::glob_of(it) == glob)
    }

    /// The rows of a glob, if there are any.
    pub(super) fn rows(&self, glob: &GlobPattern) -> &[Arc<Row>] {
        self.get(glob).map_or(&[], Rows::as_slice)
    }

    /// Adds a row of `glob`.
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

    /// `true` if there was one.
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

/// Rows of one interest, and what else is known of that. Taken by notifications as it is, copied
/// when it changes while one of them still uses it.
#[derive(Clone, Debug)]
pub(super) enum Rows<K> {
    /// Most often there is one, which needs no list.
    One(K, Arc<Row>),
    /// One at least.
    Many(K, Arc<Vec<Arc<Row>>>),
}

/// There may be a million.
const _: () = assert!(size_of::<Rows<Key>>() <= 16);

impl<K: Copy> Rows<K> {
    /// The rows, one at least.
    pub(super) fn as_slice(&self) -> &[Arc<Row>] {
        match self {
            Self::One(_, row) => std::slice::from_ref(row),
            Self::Many(_, rows) => rows,
        }
    }

    /// The key of the interest, or nothing for a topic.
    fn known(&self) -> K {
        match self {
            Self::One(known, _) | Self::Many(known, _) => *known,
        }
    }

    /// The interest of all these rows.
    fn interest(&self) -> &Interest {
        &self.as_slice()[0].interest
    }

    /// Adds a row of the same interest.
    fn push(&mut self, row: Arc<Row>) {
        match self {
            Self::One(known, first) => {
                *self = Self::Many(*known, Arc::new(vec![first.clone(), row]));
            }
            Self::Many(_, rows) => Arc::make_mut(rows).push(row),
        }
    }

    /// Removes the row of `url`.
    fn remove(&mut self, url: &SubscriberUrl) -> Removed {
        let rows = self.as_slice();
        let Some(at) = rows.iter().position(|row| row.subscriber.url == *url) else {
            return Removed::None;
        };
        match self {
            // Copied if a notification still uses it; the order of rows means nothing.
            Self::Many(_, rows) if rows.len() > 1 => {
                Arc::make_mut(rows).swap_remove(at);
                Removed::One
            }
            Self::One(..) | Self::Many(..) => Removed::Last,
        }
    }
}

/// The result of a removal.
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
pub(super) struct Exacts(pub(super) HashTable<Rows<()>>);

impl Exacts {
    /// The topic of `rows`.
    fn topic_of(rows: &Rows<()>) -> &[u8] {
        match rows.interest() {
            Interest::Exact(topic) => topic.as_bytes(),
            Interest::Glob(_) => unreachable!("it is put with the globs"),
        }
    }

    pub(super) fn get(&self, topic: &Topic) -> Option<&Rows<()>> {
        let topic = topic.as_bytes();
        self.0.find(hash(topic), |it| Self::topic_of(it) == topic)
    }

    /// Copies of the rows of `topic`.
    pub(super) fn rows(&self, topic: &Topic) -> Vec<Arc<Row>> {
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

    /// `true` if there was one.
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
