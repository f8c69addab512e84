//! The one glob dialect, decided here for broadcaster and client alike.

use std::collections::HashMap;
use std::sync::Arc;

use memchr::{memchr_iter, memchr3, memmem};

use crate::limits::FIELD_BYTES_MAX;
use crate::topic::{Topic, show_quoted, show_text};

/// A pattern over topics: `*` is any run of characters, also none and also across `/`; `?` is
/// exactly one character; `[…]` is one of a set with ranges, negated by `[^` or `[!`. Everything
/// else is itself. Case counts, the whole topic must match, and a topic that is not UTF-8 matches
/// nothing. A set that is never closed makes a pattern that matches nothing
/// (`docs/protocol/subscriptions.md` §3).
///
/// Two patterns are equal when they are spelled alike. Clones share the spelling, which is all that
/// a pattern needs in memory: it is matched as it is read.
///
/// ```
/// use httppubsub_proto::glob::{GlobDoubt, GlobPattern};
/// use httppubsub_proto::topic::Topic;
///
/// let glob = GlobPattern::parse("jobs/[0-9]*")?;
/// assert!(glob.matches(&Topic::new("jobs/7/done")?));
/// assert!(!glob.matches(&Topic::new("jobs/x")?));
///
/// // Legal on the wire, and surely a mistake.
/// let unclosed = GlobPattern::parse("jobs/[0-9")?;
/// assert!(matches!(unclosed.doubt(), Some(GlobDoubt::NeverClosed { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GlobPattern(Arc<str>);

/// The error of a glob with more bytes than the wire can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the glob has {bytes} bytes, {FIELD_BYTES_MAX} are allowed")]
pub struct GlobTooLong {
    /// Number of bytes.
    pub bytes: usize,
}

/// A reason to doubt that a pattern means what its author meant, although it is legal on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobDoubt {
    /// A set is never closed.
    #[error("the set that begins at byte {at} is never closed, so the glob matches nothing")]
    NeverClosed {
        /// Offset of its `[` in bytes, from 0.
        at: usize,
    },
    /// A range ends before it begins.
    #[error("the range {first}-{last} is descending: it stands for {first:?} alone")]
    Descending {
        /// The first character, which is a member of the set.
        first: char,
        /// The last character.
        last: char,
    },
    /// The pattern has no characters.
    #[error("an empty glob matches only the empty topic")]
    Empty,
}

impl GlobDoubt {
    /// `true` if no topic can match.
    pub fn matches_nothing(&self) -> bool {
        match self {
            Self::NeverClosed { .. } => true,
            Self::Descending { .. } | Self::Empty => false,
        }
    }
}

impl GlobPattern {
    /// The pattern with this spelling; every text of at most [`FIELD_BYTES_MAX`] bytes is a
    /// pattern.
    pub fn parse(source: impl Into<Arc<str>>) -> Result<Self, GlobTooLong> {
        let source = source.into();
        if source.len() > FIELD_BYTES_MAX {
            return Err(GlobTooLong {
                bytes: source.len(),
            });
        }
        Ok(Self(source))
    }

    /// The text of a field of the wire, which cannot be too long.
    pub(crate) fn from_field(source: &str) -> Self {
        Self(source.into())
    }

    /// The spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Number of `*`, with the ones in sets.
    pub fn stars(&self) -> usize {
        memchr_iter(b'*', self.0.as_bytes()).count()
    }

    /// The first reason to doubt that its author meant this.
    pub fn doubt(&self) -> Option<GlobDoubt> {
        if self.0.is_empty() {
            return Some(GlobDoubt::Empty);
        }
        // A descending range is noted but not returned yet: a set that is never closed weighs more,
        // and may follow.
        let mut doubt = None;
        let mut rest = &*self.0;
        // Outside of a set every `[` opens one.
        while let Some(open) = rest.find('[') {
            let Some((set, after)) = Set::parse(&rest[open + 1..]) else {
                let at = self.0.len() - rest.len() + open;
                return Some(GlobDoubt::NeverClosed { at });
            };
            let mut ranges = set.members().filter(|(first, last)| first > last);
            doubt = doubt.or(ranges.next());
            rest = after;
        }
        doubt.map(|(first, last)| GlobDoubt::Descending { first, last })
    }

    /// `true` if the whole of `topic` matches. Takes time in proportion to topic × pattern at most.
    pub fn matches(&self, topic: &Topic) -> bool {
        topic.as_str().is_some_and(|topic| self.matches_str(topic))
    }

    /// `true` if the whole of `topic` matches.
    ///
    /// The pattern is cut at its stars. What stands between two stars may match at the first place
    /// where it fits: later places leave less to what follows, never more. So no choice is ever
    /// taken back.
    pub fn matches_str(&self, topic: &str) -> bool {
        let Some((first, rest)) = Segment::cut(&self.0) else {
            return false;
        };
        let Some(start) = first.at_start(topic) else {
            return false;
        };
        let mut left = &topic[start..];
        let Some(mut pattern) = rest else {
            return left.is_empty();
        };
        loop {
            match Segment::cut(pattern) {
                None => return false,
                // What follows the last star has to reach the end of the topic, so its place is
                // given.
                Some((last, None)) => return last.is_at_end(left),
                Some((between, Some(rest))) => match between.find_end(left) {
                    Some(end) => (left, pattern) = (&left[end..], rest),
                    None => return false,
                },
            }
        }
    }

    /// The text that every matching topic starts with: the pattern up to its first wildcard.
    pub fn literal_prefix(&self) -> &str {
        let end = self.0.find(['*', '?', '[']).unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// The text that every matching topic ends with: the pattern after its last wildcard. Empty
    /// where a `]` makes that hard to tell.
    pub fn literal_suffix(&self) -> &str {
        let start = self.0.rfind(['*', '?', '[', ']']).map_or(0, |at| at + 1);
        &self.0[start..]
    }
}

impl PartialOrd for GlobPattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// By the bytes of the spelling, as etags order them.
impl Ord for GlobPattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_bytes().cmp(other.0.as_bytes())
    }
}

/// Shows the spelling, with control characters escaped.
impl std::fmt::Display for GlobPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        show_text(&self.0, f)
    }
}

/// Shows the spelling for a line of a log: quoted, control characters escaped, cut where it is too
/// long.
impl std::fmt::Debug for GlobPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        show_quoted(&self.0, f)
    }
}

/// The tokens between two stars, each of which takes exactly one character. All sets are closed.
#[derive(Clone, Copy)]
struct Segment<'a> {
    source: &'a str,
    is_literal: bool,
}

impl<'a> Segment<'a> {
    /// The pattern up to its first star, and what follows that star if there is one; `None` if a
    /// set before it is never closed.
    fn cut(pattern: &'a str) -> Option<(Self, Option<&'a str>)> {
        let (mut at, mut is_literal) = (0, true);
        while let Some(found) = memchr3(b'*', b'?', b'[', &pattern.as_bytes()[at..]) {
            let special = at + found;
            let after = &pattern[special + 1..];
            match pattern.as_bytes()[special] {
                b'*' => {
                    let source = &pattern[..special];
                    return Some((Self { source, is_literal }, Some(after)));
                }
                b'?' => at = special + 1,
                // A set is skipped as a whole: a star in it is a member.
                _ => {
                    let (_, after) = Set::parse(after)?;
                    at = pattern.len() - after.len();
                }
            }
            is_literal = false;
        }
        let source = pattern;
        Some((Self { source, is_literal }, None))
    }

    fn tokens(self) -> impl Iterator<Item = Token<'a>> {
        let mut source = self.source;
        std::iter::from_fn(move || {
            let mut chars = source.chars();
            let token = match chars.next()? {
                '?' => Token::Any,
                '[' => {
                    let (set, after) = Set::parse(chars.as_str())?;
                    source = after;
                    return Some(Token::Set(set));
                }
                c => Token::Char(c),
            };
            source = chars.as_str();
            Some(token)
        })
    }

    /// Offset of the end of the match at the start of `topic`, if there is one.
    fn at_start(self, topic: &str) -> Option<usize> {
        if self.is_literal {
            return topic.starts_with(self.source).then_some(self.source.len());
        }
        let mut chars = topic.chars();
        for token in self.tokens() {
            if !token.matches(chars.next()?) {
                return None;
            }
        }
        Some(topic.len() - chars.as_str().len())
    }

    /// `true` if the tokens match at the end of `topic`.
    fn is_at_end(self, topic: &str) -> bool {
        if self.is_literal {
            return topic.ends_with(self.source);
        }
        // Each token takes one character, so the match can begin at one place only.
        let mut before = topic.chars();
        for _ in self.tokens() {
            if before.next_back().is_none() {
                return false;
            }
        }
        let end = &topic[before.as_str().len()..];
        self.at_start(end) == Some(end.len())
    }

    /// Offset of the end of the first match in `topic`.
    fn find_end(self, topic: &str) -> Option<usize> {
        if self.is_literal {
            let found = memmem::find(topic.as_bytes(), self.source.as_bytes());
            return found.map(|at| at + self.source.len());
        }
        let tokens = self.tokens().count();
        // A character has at least one byte, and counting characters would cost another pass.
        if tokens > topic.len() {
            return None;
        }
        self.find_end_of_tokens(tokens, topic)
    }

    /// Shift-And: bit `i` of the state says that the tokens up to `i` match the characters just
    /// read. One character costs one pass over the state's words, whatever the tokens are.
    fn find_end_of_tokens(self, tokens: usize, topic: &str) -> Option<usize> {
        let words = tokens.div_ceil(64);
        let last_bit = 1u64 << ((tokens - 1) % 64);
        let mut state = vec![0u64; words];
        // A mask takes a pass over all tokens, and a topic repeats few characters.
        let mut masks: HashMap<char, Box<[u64]>> = HashMap::new();
        let mut uncached: Box<[u64]> = vec![0; words].into();
        for (at, c) in topic.char_indices() {
            // Topics with more characters than the cache holds take longer, but no more memory.
            let mask = if masks.contains_key(&c) || masks.len() * words < CACHED_WORDS_MAX {
                &*masks.entry(c).or_insert_with(|| {
                    let mut mask: Box<[u64]> = vec![0; words].into();
                    self.fill_mask(&mut mask, c);
                    mask
                })
            } else {
                self.fill_mask(&mut uncached, c);
                &*uncached
            };
            // A match may begin at every character.
            let mut carry = 1;
            for (word, mask) in state.iter_mut().zip(mask) {
                let shifted = (*word << 1) | carry;
                carry = *word >> 63;
                *word = shifted & mask;
            }
            if state[words - 1] & last_bit != 0 {
                return Some(at + c.len_utf8());
            }
        }
        None
    }

    fn fill_mask(self, mask: &mut [u64], c: char) {
        mask.fill(0);
        for (at, token) in self.tokens().enumerate() {
            mask[at / 64] |= u64::from(token.matches(c)) << (at % 64);
        }
    }
}

/// 1 MiB: enough for every alphabet people use, not enough to hurt.
const CACHED_WORDS_MAX: usize = 131_072;

enum Token<'a> {
    Char(char),
    Any,
    Set(Set<'a>),
}

impl Token<'_> {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::Any => true,
            Self::Set(set) => set.matches(c),
        }
    }
}

struct Set<'a> {
    is_negated: bool,
    /// The text between the brackets, without the sign that negates the set.
    source: &'a str,
}

impl<'a> Set<'a> {
    /// Reads the set after its `[`, and returns the text after its `]`; `None` if there is none.
    fn parse(after_bracket: &'a str) -> Option<(Self, &'a str)> {
        let bare = after_bracket.strip_prefix(['^', '!']);
        let source = bare.unwrap_or(after_bracket);
        // A `]` that comes first is a member.
        let from = usize::from(source.starts_with(']'));
        let close = from + source[from..].find(']')?;
        let set = Self {
            is_negated: bare.is_some(),
            source: &source[..close],
        };
        Some((set, &source[close + 1..]))
    }

    /// The members as ranges, both ends included. A range whose first is above its last stands for
    /// the first alone.
    fn members(&self) -> impl Iterator<Item = (char, char)> + use<'a> {
        let mut chars = self.source.chars();
        // The member that a `-` makes the first of a range. A `]` that comes first is none.
        let mut plain_before = None;
        let mut is_first = true;
        std::iter::from_fn(move || {
            let c = chars.next()?;
            let is_bracket = std::mem::take(&mut is_first) && c == ']';
            if let ('-', Some(first)) = (c, plain_before)
                // The first character was returned as a member before, so that a descending range
                // still has it.
                && let Some(last) = chars.next()
            {
                plain_before = None;
                return Some((first, last));
            }
            plain_before = (!is_bracket).then_some(c);
            Some((c, c))
        })
    }

    fn matches(&self, c: char) -> bool {
        let is_member = |(first, last)| (first..=last).contains(&c);
        self.members().any(is_member) != self.is_negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_mark_is_exactly_one_character() {
        check("jobs/?", "jobs/7", true);
        check("jobs/?", "jobs/é", true);
        check("jobs/?", "jobs/", false);
        check("jobs/?", "jobs/42", false);
    }

    #[test]
    fn a_star_is_any_run_also_across_slashes() {
        check("*", "", true);
        check("a/*", "a/b/c", true);
        check("a/*", "a/", true);
        check("a/*", "a", false);
        check("*a*b*", "xaxbx", true);
        check("*ab*ab*", "xabx", false);
        check("a*a", "a", false);
        check("**", "x", true);
    }

    #[test]
    fn a_set_is_one_character_of_it() {
        check("[a-c]", "b", true);
        check("[^a-c]", "b", false);
        check("[!a-c]", "d", true);
        check("[]]", "]", true);
        check("[^]]", "]", false);
        check("[z-a]", "z", true);
        check("[z-a]", "a", false);
        check("[a-]", "-", true);
        check("[]-a]", "^", false);
        check("[]-a]", "-", true);
        check("[", "[", false);
        check("*[a", "xa", false);
    }

    #[test]
    fn a_topic_that_is_not_utf_8_matches_no_glob() {
        let topic = Topic::new(&b"\xff"[..]).unwrap();
        assert!(!GlobPattern::parse("*").unwrap().matches(&topic));
    }

    #[test]
    fn thirty_thousand_stars_take_linear_time() {
        let topic = "a".repeat(65_535);
        check(&"*".repeat(65_535), &topic, true);
        check(&format!("{}b", "*a".repeat(30_000)), &topic, false);
        check(&"*a".repeat(30_000), &topic, true);
        check(&"*?".repeat(30_000), &topic, true);
        check(&format!("*{}[b]*", "?".repeat(32_000)), &topic, false);
        check(&format!("*{}b*", "a".repeat(32_000)), &topic, false);
    }

    #[test]
    fn bad_globs_are_told_apart_by_whether_they_match_anything() {
        let doubt = |glob: &str| GlobPattern::parse(glob).unwrap().doubt();
        assert_eq!(doubt("a/[b"), Some(GlobDoubt::NeverClosed { at: 2 }));
        assert_eq!(doubt("[z-a][b"), Some(GlobDoubt::NeverClosed { at: 5 }));
        let (first, last) = ('z', 'a');
        assert_eq!(doubt("x[z-a]"), Some(GlobDoubt::Descending { first, last }));
        assert_eq!(doubt(""), Some(GlobDoubt::Empty));
        for fine in ["a", "[a-z]", "[]]", "[a-]", "[]-a]", "[^!]*?", "[aa]"] {
            assert_eq!(doubt(fine), None, "{fine}");
        }
        assert!(doubt("[").is_some_and(|it| it.matches_nothing()));
        assert!(!doubt("[z-a]").is_some_and(|it| it.matches_nothing()));
    }

    /// A pattern as long as the wire allows takes no memory beside its spelling, however often it
    /// is matched.
    #[test]
    fn glob_oom_a_pattern_is_its_spelling_and_nothing_else() {
        assert_eq!(size_of::<GlobPattern>(), size_of::<Arc<str>>());
    }

    #[test]
    fn the_literal_ends_are_what_every_match_has() {
        let glob = GlobPattern::parse("a/[b]*c").unwrap();
        assert_eq!((glob.literal_prefix(), glob.literal_suffix()), ("a/", "c"));
        let glob = GlobPattern::parse("plain").unwrap();
        assert_eq!(
            (glob.literal_prefix(), glob.literal_suffix()),
            ("plain", "plain")
        );
    }

    #[track_caller]
    fn check(glob: &str, topic: &str, want: bool) {
        let glob = GlobPattern::parse(glob).unwrap();
        assert_eq!(glob.matches_str(topic), want, "{glob:?} on {topic:?}");
    }

    /// The rule of `docs/protocol/subscriptions.md` §3 taken word for word, exponential and all.
    fn reference(pattern: &[char], topic: &[char]) -> bool {
        let Some((&first, pattern)) = pattern.split_first() else {
            return topic.is_empty();
        };
        match first {
            '*' => (0..=topic.len()).any(|skip| reference(pattern, &topic[skip..])),
            '?' => !topic.is_empty() && reference(pattern, &topic[1..]),
            '[' => {
                let Some((members, pattern)) = reference_set(pattern) else {
                    return false;
                };
                topic.first().is_some_and(|c| members(*c)) && reference(pattern, &topic[1..])
            }
            c => topic.first() == Some(&c) && reference(pattern, &topic[1..]),
        }
    }

    type Members<'a> = Box<dyn Fn(char) -> bool + 'a>;

    fn reference_set(pattern: &[char]) -> Option<(Members<'_>, &[char])> {
        let mut at = 0;
        let negated = matches!(pattern.first(), Some('^' | '!'));
        at += usize::from(negated);
        let bracket_first = pattern.get(at) == Some(&']');
        let begin = at;
        at += usize::from(bracket_first);
        let close = at
            + pattern.get(at..)?.iter().enumerate().position(|(i, c)| {
                // A `]` that a range ends with would close the set instead, so any `]` closes.
                *c == ']' && i < pattern.len()
            })?;
        let body = &pattern[begin..close];
        let members = move |c: char| {
            let mut i = usize::from(bracket_first);
            let mut inside = bracket_first && c == ']';
            let mut plain = None;
            while i < body.len() {
                if body[i] == '-' && plain.is_some() && i + 1 < body.len() {
                    inside |= plain.unwrap() <= c && c <= body[i + 1];
                    plain = None;
                    i += 2;
                } else {
                    inside |= body[i] == c;
                    plain = Some(body[i]);
                    i += 1;
                }
            }
            inside != negated
        };
        Some((Box::new(members), &pattern[close + 1..]))
    }

    /// Patterns in which no unclosed set can hide behind an earlier mismatch: the reference stops
    /// reading there, the rule condemns the whole pattern.
    fn closed(pattern: &[char]) -> bool {
        let mut rest = pattern;
        while let Some((&first, after)) = rest.split_first() {
            rest = match first {
                '[' => match reference_set(after) {
                    Some((_, after)) => after,
                    None => return false,
                },
                _ => after,
            };
        }
        true
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

        #[test]
        fn it_agrees_with_the_rule_taken_word_for_word(
            pattern in "[ab*?\\[\\]^!é-]{0,10}",
            topic in "[abé\\]-]{0,8}",
        ) {
            let chars: Vec<char> = pattern.chars().collect();
            let topic_chars: Vec<char> = topic.chars().collect();
            let want = closed(&chars) && reference(&chars, &topic_chars);
            prop_assert_eq!(GlobPattern::parse(pattern).unwrap().matches_str(&topic), want);
        }

        #[test]
        fn every_match_has_the_literal_ends(
            pattern in "[ab*?\\[\\]^-]{0,6}",
            topic in "[ab\\]-]{0,6}",
        ) {
            let glob = GlobPattern::parse(pattern).unwrap();
            if glob.matches_str(&topic) {
                prop_assert!(topic.starts_with(glob.literal_prefix()));
                prop_assert!(topic.ends_with(glob.literal_suffix()));
            }
        }
    }
}
