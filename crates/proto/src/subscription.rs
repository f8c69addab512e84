//! Subscriptions of one subscriber, one by one and as a set, and the etag of such a set.

use std::collections::BTreeMap;

use crate::digest::{Sha512, Sha512Hasher};
use crate::glob::GlobPattern;
use crate::topic::Topic;
use crate::url::SubscriberUrl;

/// The topics that one subscription covers. The same bytes as an exact topic and as a glob are two
/// different interests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Interest {
    /// One topic, byte for byte.
    Exact(Topic),
    /// Every topic that this pattern matches.
    Glob(GlobPattern),
}

impl Interest {
    /// `true` if a notification on `topic` is to be delivered.
    pub fn covers(&self, topic: &Topic) -> bool {
        match self {
            Self::Exact(own) => own == topic,
            Self::Glob(glob) => glob.matches(topic),
        }
    }

    /// The bytes of the topic or of the glob's spelling.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Exact(topic) => topic.as_bytes(),
            Self::Glob(glob) => glob.as_str().as_bytes(),
        }
    }
}

/// Shows an interest for a line of a log.
impl std::fmt::Display for Interest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(topic) => write!(f, "exact {topic:?}"),
            Self::Glob(glob) => write!(f, "glob {glob:?}"),
        }
    }
}

/// One subscription, as it is stored: receive url, interest and recovery url.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscription {
    /// The url that messages are posted to.
    pub url: SubscriberUrl,
    /// The topic or glob.
    pub interest: Interest,
    /// The url that MISSED is posted to; `None` if MISSED is not wanted.
    pub recovery: Option<SubscriberUrl>,
}

/// All subscriptions of one url: strictly ascending by bytes, so that nothing is there twice.
///
/// ```
/// use httppubsub_proto::glob::GlobPattern;
/// use httppubsub_proto::subscription::{Interest, SubscriptionSet};
/// use httppubsub_proto::topic::Topic;
/// use httppubsub_proto::url::SubscriberUrl;
///
/// let url = SubscriberUrl::new("http://me.example/v1/receive")?;
/// let recovery = SubscriberUrl::new("http://me.example/v1/recover")?;
/// let exact = Interest::Exact(Topic::new("jobs/7")?);
/// let glob = Interest::Glob(GlobPattern::parse("news/*")?);
/// assert!(glob.covers(&Topic::new("news/today")?));
///
/// let set: SubscriptionSet = [
///     (glob.clone(), None),
///     (exact.clone(), Some(recovery.clone())),
/// ]
/// .into_iter()
/// .collect();
/// assert_eq!(set.len(), 2);
///
/// // Equal sets have equal etags, in whatever order they were put together.
/// let other: SubscriptionSet = [(exact, Some(recovery)), (glob, None)].into_iter().collect();
/// assert_eq!(set.etag(&url), other.etag(&url));
/// assert_ne!(set.etag(&url), SubscriptionSet::default().etag(&url));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionSet {
    exacts: Vec<(Topic, Option<SubscriberUrl>)>,
    globs: Vec<(GlobPattern, Option<SubscriberUrl>)>,
}

/// The error of a list of topics or globs that is not strictly ascending by bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} number {index} is not above the one before it")]
pub struct NotAscending {
    /// `topic` or `glob`.
    pub kind: &'static str,
    /// Index of the entry that breaks the order, from 0.
    pub index: usize,
}

impl SubscriptionSet {
    /// The set of these entries, which must be strictly ascending by bytes.
    pub fn from_ascending(
        exacts: Vec<(Topic, Option<SubscriberUrl>)>,
        globs: Vec<(GlobPattern, Option<SubscriberUrl>)>,
    ) -> Result<Self, NotAscending> {
        check_ascending(&exacts, "topic")?;
        check_ascending(&globs, "glob")?;
        Ok(Self { exacts, globs })
    }

    /// Topics and their recovery urls, ascending.
    pub fn exacts(&self) -> &[(Topic, Option<SubscriberUrl>)] {
        &self.exacts
    }

    /// Globs and their recovery urls, ascending.
    pub fn globs(&self) -> &[(GlobPattern, Option<SubscriberUrl>)] {
        &self.globs
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.exacts.len() + self.globs.len()
    }

    /// `true` if there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every entry: the topics, then the globs.
    pub fn iter(&self) -> impl Iterator<Item = (Interest, Option<&SubscriberUrl>)> {
        let exacts = self
            .exacts
            .iter()
            .map(|(it, recovery)| (Interest::Exact(it.clone()), recovery));
        let globs = self
            .globs
            .iter()
            .map(|(it, recovery)| (Interest::Glob(it.clone()), recovery));
        exacts
            .chain(globs)
            .map(|(interest, recovery)| (interest, recovery.as_ref()))
    }

    /// The etag of `url` having exactly these subscriptions.
    pub fn etag(&self, url: &SubscriberUrl) -> StrongEtag {
        self.etag_with(url, || {})
    }

    /// [`SubscriptionSet::etag`] that calls `between` after each entry.
    pub fn etag_with(&self, url: &SubscriberUrl, mut between: impl FnMut()) -> StrongEtag {
        let mut document = StrongEtagHasher::new(url);
        for (topic, recovery) in &self.exacts {
            between();
            document.exact(
                topic.as_bytes(),
                recovery.as_ref().map(SubscriberUrl::as_str),
            );
        }
        for (glob, recovery) in &self.globs {
            between();
            document.glob(glob.as_str(), recovery.as_ref().map(SubscriberUrl::as_str));
        }
        document.finish()
    }
}

/// Collects entries in any order; of an interest that comes twice the last recovery url counts.
impl FromIterator<(Interest, Option<SubscriberUrl>)> for SubscriptionSet {
    fn from_iter<I: IntoIterator<Item = (Interest, Option<SubscriberUrl>)>>(entries: I) -> Self {
        // A map by bytes puts the entries into the order that etags and SET need.
        let mut exacts = BTreeMap::new();
        let mut globs = BTreeMap::new();
        for (interest, recovery) in entries {
            match interest {
                Interest::Exact(topic) => exacts.insert(topic, recovery),
                Interest::Glob(glob) => globs.insert(glob, recovery),
            };
        }
        Self {
            exacts: exacts.into_iter().collect(),
            globs: globs.into_iter().collect(),
        }
    }
}

fn check_ascending<K: Ord, V>(entries: &[(K, V)], kind: &'static str) -> Result<(), NotAscending> {
    // Equal neighbours are refused, too: it would not be clear whose recovery url counts.
    match entries.windows(2).position(|pair| pair[0].0 >= pair[1].0) {
        None => Ok(()),
        Some(index) => Err(NotAscending {
            kind,
            index: index + 1,
        }),
    }
}

/// The number of the only etag format there is (`docs/protocol/subscriptions.md` §4).
pub const ETAG_FORMAT: u8 = 0;

/// SHA-512 over a url and all its subscriptions: equal etags mean equal subscriptions, recovery
/// urls included (`docs/protocol/subscriptions.md` §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StrongEtag(pub Sha512);

impl std::fmt::Display for StrongEtag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Computes a [`StrongEtag`] from rows as they come, in constant memory: all topics ascending by
/// bytes, then all globs ascending by bytes.
///
/// ```
/// use httppubsub_proto::subscription::{StrongEtagHasher, SubscriptionSet};
/// use httppubsub_proto::url::SubscriberUrl;
///
/// let url = SubscriberUrl::new("http://me.example/v1/receive")?;
/// let mut hasher = StrongEtagHasher::new(&url);
/// hasher.exact(b"jobs/7", None);
/// hasher.glob("news/*", Some("http://me.example/v1/recover"));
/// let etag = hasher.finish();
/// assert_ne!(etag, SubscriptionSet::default().etag(&url));
/// # Ok::<(), httppubsub_proto::url::UrlTooLong>(())
/// ```
#[derive(Clone, Debug)]
pub struct StrongEtagHasher {
    document: Sha512Hasher,
    globs_begun: bool,
}

impl StrongEtagHasher {
    /// The etag of `url` and the rows to come.
    pub fn new(url: &SubscriberUrl) -> Self {
        let mut it = Self {
            document: Sha512Hasher::default(),
            globs_begun: false,
        };
        it.document.update(b"URL");
        it.field(url.as_str().as_bytes());
        // The words keep the two lists apart: the same text as topic and as glob makes two etags.
        it.document.update(b"\nEXACT");
        it
    }

    /// The next topic.
    pub fn exact(&mut self, topic: &[u8], recovery: Option<&str>) {
        debug_assert!(!self.globs_begun, "topics come before globs");
        self.field(topic);
        self.field(recovery.unwrap_or_default().as_bytes());
    }

    /// The next glob.
    pub fn glob(&mut self, glob: &str, recovery: Option<&str>) {
        self.begin_globs();
        self.field(glob.as_bytes());
        self.field(recovery.unwrap_or_default().as_bytes());
    }

    /// The etag of all rows.
    pub fn finish(mut self) -> StrongEtag {
        // Topics are over. Their list ends by the word that begins the next one, as it has no
        // count.
        self.begin_globs();
        self.document.update(b"\n");
        StrongEtag(self.document.finish())
    }

    fn begin_globs(&mut self) {
        if !self.globs_begun {
            self.document.update(b"\nGLOB");
            self.globs_begun = true;
        }
    }

    fn field(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).expect("topics, globs and urls fit their fields");
        self.document.update(&length.to_be_bytes());
        self.document.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsorted_or_repeated_list_is_refused() {
        let entry = |topic: &'static str| (Topic::new(topic).unwrap(), None);
        let set = SubscriptionSet::from_ascending(vec![entry("b"), entry("a")], vec![]);
        assert_eq!(
            set.unwrap_err(),
            NotAscending {
                kind: "topic",
                index: 1
            }
        );
        let set = SubscriptionSet::from_ascending(vec![entry("a"), entry("a")], vec![]);
        assert_eq!(
            set.unwrap_err(),
            NotAscending {
                kind: "topic",
                index: 1
            }
        );
    }

    #[test]
    fn the_recovery_urls_count_in_the_etag() {
        let url = SubscriberUrl::new("http://host/").unwrap();
        let with = |recovery: Option<&str>| {
            let recovery = recovery.map(|it| SubscriberUrl::new(it).unwrap());
            let entry = (Interest::Exact(Topic::new("a").unwrap()), recovery);
            SubscriptionSet::from_iter([entry]).etag(&url)
        };
        assert_ne!(with(None), with(Some("http://host/r")));
    }
}
