//! All subscriptions, in memory and ready to be matched: the store is never asked on the way of a
//! notification.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use httppubsub_net::{Poster, Target};
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{EndpointError, SubscriberUrl};
use httppubsub_store::{Change, Observer};
use rustc_hash::FxHashMap;

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

/// Rows that are always found together. Taken by notifications as it is, copied when it changes
/// while one of them still uses it.
type Rows = Arc<Vec<Arc<Row>>>;

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
            found.extend_from_slice(rows);
        }
        if let Some(text) = topic.as_str() {
            tables.globs.candidates(text, |glob, rows| {
                if glob.matches_str(text) {
                    found.extend_from_slice(rows);
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
                .map_or_else(Vec::new, |rows| rows.to_vec());
            let mut candidates: Vec<(GlobPattern, Rows)> = Vec::new();
            if let Some(text) = topic.as_str() {
                tables.globs.candidates(text, |glob, rows| {
                    candidates.push((glob.clone(), rows.clone()));
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
            found.extend_from_slice(&rows);
        }
        found
    }

    /// Every row there is.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> Vec<Arc<Row>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Globs {
            by_prefix,
            by_suffix,
            others,
        } = &tables.globs;
        let by_end = by_prefix
            .globs
            .values()
            .chain(by_suffix.globs.values())
            .flatten();
        let globs = by_end.chain(others).map(|(_, rows)| rows);
        tables
            .exacts
            .values()
            .chain(globs)
            .flat_map(|rows| rows.to_vec())
            .collect()
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.tables
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .rows
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
                Change::ReloadBegan => *reloading = Some(Tables::default()),
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
    exacts: FxHashMap<Topic, Rows>,
    globs: Globs,
    /// Each with the number of its rows.
    subscribers: FxHashMap<SubscriberUrl, (Arc<Subscriber>, usize)>,
    rows: usize,
}

impl Tables {
    fn add(&mut self, subscription: &Subscription, poster: &Poster) {
        let Subscription {
            url,
            interest,
            recovery,
        } = subscription;
        // One that is there already gets another recovery url.
        self.remove(url, interest);
        let (subscriber, rows) = self.subscribers.entry(url.clone()).or_insert_with(|| {
            let target = poster.target(url);
            (
                Arc::new(Subscriber {
                    url: url.clone(),
                    target,
                }),
                0,
            )
        });
        *rows += 1;
        self.rows += 1;
        let row = Arc::new(Row {
            subscriber: subscriber.clone(),
            interest: interest.clone(),
            recovery: recovery.clone(),
        });
        let rows = match interest {
            Interest::Exact(topic) => self.exacts.entry(topic.clone()).or_default(),
            Interest::Glob(glob) => self.globs.entry(glob),
        };
        Arc::make_mut(rows).push(row);
    }

    fn remove(&mut self, url: &SubscriberUrl, interest: &Interest) {
        let Some((_, count)) = self.subscribers.get_mut(url) else {
            return;
        };
        let removed = match interest {
            Interest::Exact(topic) => {
                let Some(rows) = self.exacts.get_mut(topic) else {
                    return;
                };
                let removed = remove_row(rows, url);
                if rows.is_empty() {
                    self.exacts.remove(topic);
                }
                removed
            }
            Interest::Glob(glob) => self.globs.change(glob, |rows| remove_row(rows, url)),
        };
        if removed {
            self.rows -= 1;
            *count -= 1;
            if *count == 0 {
                self.subscribers.remove(url);
            }
        }
    }
}

fn remove_row(rows: &mut Rows, url: &SubscriberUrl) -> bool {
    match rows.iter().position(|row| row.subscriber.url == *url) {
        Some(at) => {
            Arc::make_mut(rows).swap_remove(at);
            true
        }
        None => false,
    }
}

/// Globs by what every topic they match must begin or end with.
#[derive(Debug, Default)]
struct Globs {
    by_prefix: ByEnd,
    /// Those that begin with a wildcard.
    by_suffix: ByEnd,
    /// Those that begin and end with one.
    others: Vec<(GlobPattern, Rows)>,
}

#[derive(Debug, Default)]
struct ByEnd {
    globs: FxHashMap<Box<[u8]>, Vec<(GlobPattern, Rows)>>,
    /// How many ends there are of each length.
    lengths: BTreeMap<usize, usize>,
}

/// Longer ends are cut to this many bytes, so that one notification looks up no more than this
/// many of them.
const END_BYTES_MAX: usize = 64;

fn prefix(glob: &GlobPattern) -> &[u8] {
    let bytes = glob.literal_prefix().as_bytes();
    &bytes[..bytes.len().min(END_BYTES_MAX)]
}

fn suffix(glob: &GlobPattern) -> &[u8] {
    let bytes = glob.literal_suffix().as_bytes();
    &bytes[bytes.len().saturating_sub(END_BYTES_MAX)..]
}

impl Globs {
    /// Calls `visit` with every glob that may match `topic`.
    fn candidates(&self, topic: &str, mut visit: impl FnMut(&GlobPattern, &Rows)) {
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
        self.others
            .iter()
            .for_each(|(glob, rows)| visit(glob, rows));
    }

    /// The rows of `glob`, perhaps none yet.
    fn entry(&mut self, glob: &GlobPattern) -> &mut Rows {
        let globs = match (prefix(glob), suffix(glob)) {
            ([], []) => &mut self.others,
            ([], suffix) => self.by_suffix.entry(suffix),
            (prefix, _) => self.by_prefix.entry(prefix),
        };
        let at = globs
            .iter()
            .position(|(own, _)| own == glob)
            .unwrap_or_else(|| {
                globs.push((glob.clone(), Rows::default()));
                globs.len() - 1
            });
        &mut globs[at].1
    }

    /// Changes the rows of `glob`, if there are any, and forgets it when none are left.
    fn change(&mut self, glob: &GlobPattern, change: impl FnOnce(&mut Rows) -> bool) -> bool {
        match (prefix(glob), suffix(glob)) {
            ([], []) => change_in(&mut self.others, glob, change),
            ([], suffix) => self.by_suffix.change(suffix, glob, change),
            (prefix, _) => self.by_prefix.change(prefix, glob, change),
        }
    }
}

impl ByEnd {
    fn visit(&self, end: &[u8], visit: &mut impl FnMut(&GlobPattern, &Rows)) {
        if let Some(globs) = self.globs.get(end) {
            globs.iter().for_each(|(glob, rows)| visit(glob, rows));
        }
    }

    fn entry(&mut self, end: &[u8]) -> &mut Vec<(GlobPattern, Rows)> {
        if !self.globs.contains_key(end) {
            *self.lengths.entry(end.len()).or_default() += 1;
        }
        self.globs.entry(end.into()).or_default()
    }

    fn change(
        &mut self,
        end: &[u8],
        glob: &GlobPattern,
        change: impl FnOnce(&mut Rows) -> bool,
    ) -> bool {
        let Some(globs) = self.globs.get_mut(end) else {
            return false;
        };
        let changed = change_in(globs, glob, change);
        if globs.is_empty() {
            self.globs.remove(end);
            if let Some(count) = self.lengths.get_mut(&end.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&end.len());
                }
            }
        }
        changed
    }
}

fn change_in(
    globs: &mut Vec<(GlobPattern, Rows)>,
    glob: &GlobPattern,
    change: impl FnOnce(&mut Rows) -> bool,
) -> bool {
    let Some(at) = globs.iter().position(|(own, _)| own == glob) else {
        return false;
    };
    let changed = change(&mut globs[at].1);
    if globs[at].1.is_empty() {
        globs.swap_remove(at);
    }
    changed
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
            None => Interest::Exact(Topic::new(interest.to_owned()).unwrap()),
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
        let topic = Topic::new(topic.to_owned()).unwrap();
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
        assert!(tables.subscribers.is_empty() && tables.exacts.is_empty());
        assert!(
            tables.globs.by_prefix.lengths.is_empty() && tables.globs.by_suffix.globs.is_empty()
        );
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
            Change::ReloadBegan,
            Change::Added(subscription("http://y/", "a", None)),
        ]);
        assert_eq!(matching(&index, "a").await, ["http://x/ exact \"a\""]);
        index.observe(&[Change::ReloadEnded]);
        assert_eq!(matching(&index, "a").await, ["http://y/ exact \"a\""]);
    }
}
