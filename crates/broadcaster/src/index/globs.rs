//! Finds the globs that may match a topic, and matches them within a share of the processor.
//!
//! A million globs cannot be matched one by one with every topic. Each is kept under a key that
//! every topic it matches must have: `user/*` under the beginning `user/`, `*/today` under that
//! end, `*alarm*` under three bytes of it. Of the keys that a glob may have, the one with the
//! fewest other globs is taken, so that a key which is in every topic finds few.
//!
//! What is found is matched at once as far as that takes a moment. The rest is a [`Snapshot`],
//! which is matched in slices on threads that give way to deliveries.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::HashTable;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::index::matching_threads::{Yields, in_turn};

/// Limits of globs: for new subscriptions, and for matching stored ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GlobLimits {
    pub(crate) bytes_max: usize,
}

/// Stars that a glob may have. People write three; more take no longer here, but published
/// broadcasters on the same database take twice as long for each.
const STARS_MAX: usize = 64;

/// The reason for which a glob is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GlobRefused {
    #[error("a glob has {bytes} bytes, {bytes_max} are allowed here")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("a glob has {stars} stars, {STARS_MAX} are allowed here")]
    TooManyStars { stars: usize },
}

impl GlobLimits {
    /// Judges what is subscribed.
    pub(crate) fn judge(self, interest: &Interest) -> Result<(), GlobRefused> {
        match interest {
            Interest::Exact(_) => Ok(()),
            Interest::Glob(glob) => self.judge_glob(glob),
        }
    }

    /// Judges a glob.
    pub(crate) fn judge_glob(self, glob: &GlobPattern) -> Result<(), GlobRefused> {
        let (bytes, bytes_max) = (glob.as_str().len(), self.bytes_max);
        if bytes > bytes_max {
            return Err(GlobRefused::TooLong { bytes, bytes_max });
        }
        let stars = glob.stars();
        match stars > STARS_MAX {
            true => Err(GlobRefused::TooManyStars { stars }),
            false => Ok(()),
        }
    }
}

/// Globs, each found by something that every topic it matches must have: how it begins, how it
/// ends, or three bytes somewhere in it. Of these, what fewest others are found by.
#[derive(Debug)]
pub(crate) struct Globs {
    by_prefix: ByEnd,
    by_suffix: ByEnd,
    /// By three bytes somewhere.
    by_gram: FxHashMap<Gram, Alike>,
    /// Globs without such a key.
    others: Option<Alike>,
}

/// The key by which a glob is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Its literal prefix, as far as [`prefix`] goes.
    Prefix,
    /// Its literal suffix, as far as [`suffix`] goes.
    Suffix,
    /// Three bytes that lie next to each other in it.
    Gram(Gram),
    /// Nothing: it is matched with every topic.
    Other,
}

/// Three bytes: few enough to be in most globs, and many enough to be in few topics.
type Gram = [u8; 3];

/// Globs by how they begin, or by how they end.
#[derive(Debug)]
struct ByEnd {
    /// [`prefix`] or [`suffix`].
    end: fn(&GlobPattern) -> &[u8],
    /// The globs of each end, found by the end of the first.
    globs: HashTable<Alike>,
    /// Number of ends of each length.
    lengths: BTreeMap<usize, usize>,
}

/// Longer ends are cut to this length, so that one notification looks up at most this number of
/// ends; also the number of grams among which the key of a glob is chosen.
const END_BYTES_MAX: usize = 64;

/// The beginning of every topic that the glob matches.
fn prefix(glob: &GlobPattern) -> &[u8] {
    let bytes = glob.literal_prefix().as_bytes();
    &bytes[..bytes.len().min(END_BYTES_MAX)]
}

/// The end of every topic that the glob matches.
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
            // Of several classes the last end counts: what lies between them is left out as well.
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

/// Of tables whose entries know what they are found by.
pub(crate) fn hash(key: &[u8]) -> u64 {
    FxBuildHasher.hash_one(key)
}

impl Default for Globs {
    fn default() -> Self {
        Self {
            by_prefix: ByEnd::new(prefix),
            by_suffix: ByEnd::new(suffix),
            by_gram: FxHashMap::default(),
            others: None,
        }
    }
}

impl Globs {
    /// Adds a glob that is not there, and returns what it is found by.
    pub(crate) fn add(&mut self, glob: &GlobPattern) -> Key {
        // Chosen once, by what is there now: moving globs later would cost more than it saves.
        let key = self.best_key(glob);
        match key {
            Key::Prefix => self.by_prefix.add(glob),
            Key::Suffix => self.by_suffix.add(glob),
            Key::Gram(gram) => match self.by_gram.entry(gram) {
                Entry::Occupied(mut alike) => alike.get_mut().push(glob.clone()),
                Entry::Vacant(new) => drop(new.insert(Alike::One(glob.clone()))),
            },
            Key::Other => match &mut self.others {
                Some(others) => others.push(glob.clone()),
                none => *none = Some(Alike::One(glob.clone())),
            },
        }
        key
    }

    /// Removes a glob that was added and is found by `key`.
    pub(crate) fn remove(&mut self, glob: &GlobPattern, key: Key) {
        match key {
            Key::Prefix => self.by_prefix.remove(glob),
            Key::Suffix => self.by_suffix.remove(glob),
            Key::Gram(gram) => {
                if let Some(alike) = self.by_gram.get_mut(&gram)
                    && alike.remove(glob) == Left::None
                {
                    self.by_gram.remove(&gram);
                }
            }
            Key::Other => {
                if let Some(others) = &mut self.others
                    && others.remove(glob) == Left::None
                {
                    self.others = None;
                }
            }
        }
    }

    /// The key of a glob that is not there yet: the one that the fewest others have.
    fn best_key(&self, glob: &GlobPattern) -> Key {
        let (prefix, suffix) = (prefix(glob), suffix(glob));
        let ends = [
            (Key::Prefix, prefix.len(), self.by_prefix.count(prefix)),
            (Key::Suffix, suffix.len(), self.by_suffix.count(suffix)),
        ];
        let ends = ends.into_iter().filter(|(_, bytes, _)| *bytes > 0);
        // Of ends that are found alike, the longer one says more, and either more than a gram.
        let end = ends.min_by_key(|(_, bytes, count)| (*count, usize::MAX - bytes));
        // No other has it, and no gram can be better than that.
        if let Some((end, _, 0)) = end {
            return end;
        }
        let grams = grams(glob).map(|it| (self.by_gram.get(&it).map_or(0, Alike::len), it));
        match (end, grams.min_by_key(|(count, _)| *count)) {
            (Some((end, _, count)), Some((others, _))) if count <= others => end,
            (_, Some((_, gram))) => Key::Gram(gram),
            (Some((end, ..)), None) => end,
            (None, None) => Key::Other,
        }
    }

    /// All globs that may match `topic`, each once.
    pub(crate) fn candidates(&self, topic: &str) -> Candidates<'_> {
        let mut found = Vec::new();
        let topic = topic.as_bytes();
        // One look-up for each length that any end has, however many ends there are.
        for &length in self.by_prefix.lengths.keys() {
            let Some(prefix) = topic.get(..length) else {
                break;
            };
            found.extend(self.by_prefix.get(prefix));
        }
        for &length in self.by_suffix.lengths.keys() {
            let Some(start) = topic.len().checked_sub(length) else {
                break;
            };
            found.extend(self.by_suffix.get(&topic[start..]));
        }
        if !self.by_gram.is_empty() {
            let grams = topic.windows(3).filter_map(|it| it.first_chunk::<3>());
            let mut grams: Vec<&Gram> = grams.collect();
            // A topic may have the same three bytes more than once.
            grams.sort_unstable();
            grams.dedup();
            found.extend(grams.into_iter().filter_map(|gram| self.by_gram.get(gram)));
        }
        found.extend(&self.others);
        Candidates(found)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let ends = [&self.by_prefix, &self.by_suffix];
        ends.iter()
            .all(|it| it.lengths.is_empty() && it.globs.is_empty())
            && self.by_gram.is_empty()
            && self.others.is_none()
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

    /// Number of globs with this end.
    fn count(&self, end: &[u8]) -> usize {
        self.get(end).map_or(0, Alike::len)
    }

    /// The globs with this end.
    fn get(&self, end: &[u8]) -> Option<&Alike> {
        let is_it = |it: &Alike| (self.end)(it.first()) == end;
        self.globs.find(hash(end), is_it)
    }

    fn add(&mut self, glob: &GlobPattern) {
        // The table keeps no copy of an end: each list knows its own from its first glob.
        let (end_of, end) = (self.end, (self.end)(glob));
        let is_it = |it: &Alike| end_of(it.first()) == end;
        if let Some(alike) = self.globs.find_mut(hash(end), is_it) {
            return alike.push(glob.clone());
        }
        *self.lengths.entry(end.len()).or_default() += 1;
        let alike = Alike::One(glob.clone());
        let hash_of = |it: &Alike| hash(end_of(it.first()));
        self.globs.insert_unique(hash(end), alike, hash_of);
    }

    fn remove(&mut self, glob: &GlobPattern) {
        let (end_of, end) = (self.end, (self.end)(glob));
        let is_it = |it: &Alike| end_of(it.first()) == end;
        let Ok(mut found) = self.globs.find_entry(hash(end), is_it) else {
            return;
        };
        if found.get_mut().remove(glob) == Left::None {
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

/// Globs that are found by the same; one at least.
#[derive(Debug)]
enum Alike {
    /// Most often there is one, which needs no list.
    One(GlobPattern),
    Many(Box<Shards>),
}

/// Many globs in short lists, by their hashes: a copy of them is taken quickly, and one of them is
/// found quickly, however many there are.
#[derive(Debug)]
struct Shards {
    /// Number of globs in all lists.
    count: usize,
    /// Bytes of all globs: what matching them may cost.
    bytes: usize,
    /// A power of two of them.
    lists: Vec<Arc<Vec<GlobPattern>>>,
}

/// Average length of the lists at which their number is doubled.
const SHARD_GLOBS: usize = 128;

/// The state of a list after a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Others are there.
    Some,
    /// The one that was to be removed is still there: what holds it is to go as a whole.
    None,
}

impl Alike {
    /// One of them, which knows by what all are found.
    fn first(&self) -> &GlobPattern {
        match self {
            Self::One(glob) => glob,
            Self::Many(shards) => {
                let first = shards.lists.iter().find_map(|list| list.first());
                first.expect("there is one at least")
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(shards) => shards.count,
        }
    }

    fn push(&mut self, glob: GlobPattern) {
        match self {
            Self::One(first) => {
                *self = Self::Many(Box::new(Shards {
                    count: 2,
                    bytes: first.as_str().len() + glob.as_str().len(),
                    lists: vec![Arc::new(vec![first.clone(), glob])],
                }));
            }
            Self::Many(shards) => shards.push(glob),
        }
    }

    fn remove(&mut self, glob: &GlobPattern) -> Left {
        match self {
            Self::One(_) => Left::None,
            Self::Many(shards) if shards.count == 1 => Left::None,
            Self::Many(shards) => {
                shards.remove(glob);
                Left::Some
            }
        }
    }

    /// An upper bound for what it takes to match all of them.
    fn cost(&self, topic_bytes: usize) -> u64 {
        let (count, bytes) = match self {
            Self::One(glob) => (1, glob.as_str().len()),
            Self::Many(shards) => (shards.count, shards.bytes),
        };
        count as u64 * COST_OF_ONE + bytes as u64 * topic_bytes as u64
    }
}

/// In steps of which the longest, a token that looks at a character, takes some nanoseconds.
fn cost(glob: &GlobPattern, topic_bytes: usize) -> u64 {
    COST_OF_ONE + glob.as_str().len() as u64 * topic_bytes as u64
}

/// Cost of looking at a glob before any of it is read.
const COST_OF_ONE: u64 = 256;

impl Shards {
    /// The list of a glob, copied first if a snapshot has it.
    fn list_of(&mut self, glob: &GlobPattern) -> &mut Vec<GlobPattern> {
        let at = Self::place(glob, self.lists.len());
        Arc::make_mut(&mut self.lists[at])
    }

    /// The index of the list of a glob among `lists` lists.
    fn place(glob: &GlobPattern, lists: usize) -> usize {
        // `FxHash` mixes the upper bits best.
        usize::try_from(hash(glob.as_str().as_bytes()) >> 40).unwrap_or(0) & (lists - 1)
    }

    fn push(&mut self, glob: GlobPattern) {
        // Short lists, because one that a snapshot has is copied before it is changed.
        if self.count >= self.lists.len() * SHARD_GLOBS {
            self.grow();
        }
        self.count += 1;
        self.bytes += glob.as_str().len();
        self.list_of(&glob).push(glob);
    }

    /// Doubles the number of lists.
    fn grow(&mut self) {
        let lists = self.lists.len() * 2;
        let mut grown = vec![Vec::new(); lists];
        for glob in self.lists.iter().flat_map(|list| &**list) {
            grown[Self::place(glob, lists)].push(glob.clone());
        }
        self.lists = grown.into_iter().map(Arc::new).collect();
    }

    fn remove(&mut self, glob: &GlobPattern) {
        let list = self.list_of(glob);
        if let Some(at) = list.iter().position(|own| own == glob) {
            list.swap_remove(at);
            self.count -= 1;
            self.bytes -= glob.as_str().len();
        }
    }
}

/// Globs that may match a topic.
#[derive(Debug)]
pub(crate) struct Candidates<'a>(Vec<&'a Alike>);

impl Candidates<'_> {
    /// Calls `visit` with the globs that match `topic`, within the budget for one moment, and
    /// returns the rest to be matched elsewhere. Short lists come first: they do not wait for the
    /// many globs of one subscriber.
    pub(crate) fn matching_at_once(
        mut self,
        topic: &str,
        mut visit: impl FnMut(&GlobPattern),
    ) -> Option<Snapshot> {
        let mut at_once = self.0.len();
        // Most topics cost little, and their candidates need not be sorted.
        if self.0.iter().map(|it| it.cost(topic.len())).sum::<u64>() > COST_AT_ONCE_MAX {
            self.0.sort_by_key(|it| it.cost(topic.len()));
            let mut spent = 0;
            let is_too_much = |it: &&Alike| {
                spent += it.cost(topic.len());
                spent > COST_AT_ONCE_MAX
            };
            at_once = self.0.iter().position(is_too_much).unwrap_or(at_once);
        }
        let elsewhere = self.0.split_off(at_once);
        let mut visit_if_it_matches = |glob: &GlobPattern| {
            if glob.matches_str(topic) {
                visit(glob);
            }
        };
        for alike in &self.0 {
            match alike {
                Alike::One(glob) => visit_if_it_matches(glob),
                Alike::Many(shards) => {
                    let globs = shards.lists.iter().flat_map(|list| &**list);
                    globs.for_each(&mut visit_if_it_matches);
                }
            }
        }
        (!elsewhere.is_empty()).then(|| Candidates(elsewhere).snapshot())
    }

    /// All of them as they are now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut ones = Vec::new();
        let mut lists = Vec::new();
        for alike in &self.0 {
            match alike {
                Alike::One(glob) => ones.push(glob.clone()),
                Alike::Many(shards) => lists.extend_from_slice(&shards.lists),
            }
        }
        lists.push(Arc::new(ones));
        Snapshot(lists)
    }
}

/// Some hundred microseconds if all goes as usual, and a millisecond or two at worst.
const COST_AT_ONCE_MAX: u64 = 1 << 19;

/// Globs that may match a topic, as they were at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot(Vec<Arc<Vec<GlobPattern>>>);

impl Snapshot {
    /// The globs that match `topic`, matched beside the runtime, a slice at a time, by turns with
    /// other notifications.
    pub(crate) async fn matching(self, topic: &Topic) -> Vec<GlobPattern> {
        let mut matching = Matching {
            topic: topic.clone(),
            left: self.0,
            at: 0,
            found: Vec::new(),
        };
        while !matching.left.is_empty() {
            matching = in_turn(move || {
                matching.slice();
                matching
            })
            .await;
        }
        matching.found
    }
}

/// Globs being matched.
struct Matching {
    topic: Topic,
    /// Lists that are not matched to their end.
    left: Vec<Arc<Vec<GlobPattern>>>,
    /// Position in the last of these.
    at: usize,
    /// The globs that match.
    found: Vec<GlobPattern>,
}

impl Matching {
    /// Goes on for a while.
    fn slice(&mut self) {
        let Some(topic) = self.topic.as_str() else {
            self.left.clear();
            return;
        };
        let (mut spent, mut spent_at_once) = (0, 0);
        let yields = Yields::new();
        while let Some(list) = self.left.last() {
            for glob in &list[self.at..] {
                if spent > COST_OF_A_SLICE {
                    return;
                }
                let cost = cost(glob, topic.len());
                spent += cost;
                spent_at_once += cost;
                if spent_at_once > COST_OF_A_STEP {
                    spent_at_once = 0;
                    yields.between_steps();
                }
                if glob.matches_str(topic) {
                    self.found.push(glob.clone());
                }
                self.at += 1;
            }
            self.left.pop();
            self.at = 0;
        }
    }
}

/// Some milliseconds usually, fifty at worst, because others wait for their turn.
const COST_OF_A_SLICE: u64 = 1 << 24;

/// Some microseconds usually: most globs take less than it takes to read the clock.
const COST_OF_A_STEP: u64 = COST_OF_A_SLICE >> 8;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    fn glob(text: &str) -> GlobPattern {
        GlobPattern::parse(text).unwrap()
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

    /// More than are matched at once, and of every kind of place they are found in.
    #[tokio::test]
    async fn globs_that_take_long_are_matched_beside_the_runtime_with_the_same_result() {
        let mut globs = Globs::default();
        let shapes = ["?[ab]*?", "t*?", "?*t", "?*abc*?"];
        let spellings: Vec<_> = shapes
            .iter()
            .flat_map(|shape| (0..1_000).map(move |number| format!("{shape}[{number}a-z]*?")))
            .collect();
        let keys: Vec<_> = spellings.iter().map(|it| globs.add(&glob(it))).collect();
        let topic = Topic::new("tb/abc/t").unwrap();
        let text = topic.as_str().unwrap();
        let at_once = |globs: &Globs| {
            let mut found = Vec::new();
            let candidates = globs.candidates(text);
            let rest = candidates.matching_at_once(text, |it| found.push(it.clone()));
            (found, rest)
        };
        let (found, snapshot) = at_once(&globs);
        let snapshot = snapshot.expect("they are too many");
        let elsewhere = snapshot.clone().matching(&topic).await;
        let found_elsewhere = elsewhere.len();
        let found = found.iter().chain(&elsewhere);
        let mut found: Vec<_> = found.map(|it| it.as_str().to_owned()).collect();
        let matches = |spelling: &&String| glob(spelling).matches_str(text);
        let mut want: Vec<_> = spellings.iter().filter(matches).cloned().collect();
        found.sort();
        want.sort();
        assert_eq!(found, want);
        // What is removed meanwhile stays in what was taken before.
        for (spelling, key) in spellings.iter().zip(keys) {
            globs.remove(&glob(spelling), key);
        }
        assert!(globs.is_empty() && at_once(&globs).1.is_none());
        assert_eq!(snapshot.matching(&topic).await.len(), found_elsewhere);
    }

    #[tokio::test]
    async fn what_few_are_found_by_is_matched_at_once_whatever_else_there_is() {
        let mut globs = Globs::default();
        for number in 0..10_000 {
            globs.add(&glob(&format!("*[!{number}x]*")));
        }
        globs.add(&glob("news/*"));
        globs.add(&glob("*/today"));
        let mut found = Vec::new();
        let candidates = globs.candidates("news/today");
        let rest = candidates.matching_at_once("news/today", |it| found.push(it.clone()));
        assert_eq!(found.len(), 2);
        let rest = rest.expect("they are too many");
        let topic = Topic::new("news/today").unwrap();
        assert_eq!(rest.matching(&topic).await.len(), 10_000);
    }

    /// One that asks for much has another's turn between its own.
    #[tokio::test]
    async fn share_of_matching_is_a_slice_by_turns() {
        let topic = Topic::new("t".repeat(4_096)).unwrap();
        let list = |count| {
            let globs = (0..count).map(|it| glob(&format!("*{}{it}*", "?".repeat(4_000))));
            Snapshot(vec![Arc::new(globs.collect())])
        };
        let slices = |list: &Snapshot| {
            let mut matching = Matching {
                topic: topic.clone(),
                left: list.0.clone(),
                at: 0,
                found: Vec::new(),
            };
            let mut slices = 0;
            while !matching.left.is_empty() {
                matching.slice();
                slices += 1;
            }
            slices
        };
        let (much, little) = (list(20), list(1));
        assert!(slices(&much) >= 10, "{}", slices(&much));
        assert_eq!(slices(&little), 1);
        let (order, mut ended) = tokio::sync::mpsc::unbounded_channel();
        for (name, list) in [("much", much), ("little", little)] {
            let (topic, order) = (topic.clone(), order.clone());
            tokio::spawn(async move {
                list.matching(&topic).await;
                order.send(name).unwrap();
            });
        }
        assert_eq!(ended.recv().await, Some("little"));
    }

    #[test]
    fn what_is_longer_than_the_limit_or_has_too_many_stars_is_refused() {
        let limits = GlobLimits { bytes_max: 4_096 };
        let judge = |text: &str| limits.judge_glob(&glob(text));
        assert_eq!(judge(&"a".repeat(4_096)), Ok(()));
        let (bytes, bytes_max) = (4_097, 4_096);
        assert_eq!(
            judge(&"a".repeat(4_097)),
            Err(GlobRefused::TooLong { bytes, bytes_max })
        );
        assert_eq!(judge(&"*a".repeat(STARS_MAX)), Ok(()));
        let stars = STARS_MAX + 1;
        assert_eq!(
            judge(&"*a".repeat(stars)),
            Err(GlobRefused::TooManyStars { stars })
        );
    }
}
