//! The one glob dialect, decided here for broadcaster and client alike.

use std::collections::HashMap;
use std::sync::Arc;

use memchr::memmem;
use once_cell::race::OnceBox;

use crate::limits::FIELD_BYTES_MAX;
use crate::topic::{Topic, show_text};

/// A pattern over topics: `*` is any run of characters, also none and also across `/`; `?` is
/// exactly one character; `[…]` is one of a set with ranges, negated by `[^` or `[!`. Everything
/// else is itself. Case counts, the whole topic must match, and a topic that is not UTF-8 matches
/// nothing. A set that is never closed makes a pattern that matches nothing
/// (`docs/protocol/subscriptions.md` §3).
///
/// Two patterns are equal when they are spelled alike. It is compiled when it first has to match.
#[derive(Clone)]
pub struct GlobPattern(Arc<Inner>);

struct Inner {
    source: Box<str>,
    /// In a place of its own, which a pattern that never had to match does not need.
    program: OnceBox<Program>,
}

/// A glob has more bytes than the wire can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the glob has {bytes} bytes, {FIELD_BYTES_MAX} are allowed")]
pub struct GlobTooLong {
    /// How many there are.
    pub bytes: usize,
}

impl GlobPattern {
    /// The pattern that is spelled so; every spelling of at most [`FIELD_BYTES_MAX`] bytes is one.
    pub fn parse(source: impl Into<Box<str>>) -> Result<Self, GlobTooLong> {
        let source = source.into();
        if source.len() > FIELD_BYTES_MAX {
            return Err(GlobTooLong {
                bytes: source.len(),
            });
        }
        Ok(Self(Arc::new(Inner {
            source,
            program: OnceBox::new(),
        })))
    }

    /// The text of a field of the wire, which cannot be too long.
    pub(crate) fn from_field(source: &str) -> Self {
        Self(Arc::new(Inner {
            source: source.into(),
            program: OnceBox::new(),
        }))
    }

    /// How it is spelled.
    pub fn as_str(&self) -> &str {
        &self.0.source
    }

    /// Whether the whole of `topic` matches. Takes time in proportion to topic × pattern at most.
    pub fn matches(&self, topic: &Topic) -> bool {
        topic.as_str().is_some_and(|topic| self.matches_str(topic))
    }

    /// Whether the whole of `topic` matches.
    pub fn matches_str(&self, topic: &str) -> bool {
        self.program().matches(topic)
    }

    /// The text that every matching topic starts with: the pattern up to its first wildcard.
    pub fn literal_prefix(&self) -> &str {
        let end = self
            .0
            .source
            .find(['*', '?', '['])
            .unwrap_or(self.0.source.len());
        &self.0.source[..end]
    }

    /// The text that every matching topic ends with: the pattern after its last wildcard. Empty
    /// where a `]` makes that hard to tell.
    pub fn literal_suffix(&self) -> &str {
        let start = self
            .0
            .source
            .rfind(['*', '?', '[', ']'])
            .map_or(0, |at| at + 1);
        &self.0.source[start..]
    }

    fn program(&self) -> &Program {
        self.0
            .program
            .get_or_init(|| Box::new(Program::compile(&self.0.source)))
    }
}

impl PartialEq for GlobPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }
}

impl Eq for GlobPattern {}

impl std::hash::Hash for GlobPattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.source.hash(state);
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
        self.0.source.as_bytes().cmp(other.0.source.as_bytes())
    }
}

/// Shows a glob for people: quoted, control characters escaped, and cut where it is too long for a
/// line of a log.
impl std::fmt::Display for GlobPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        show_text(&self.0.source, f)
    }
}

impl std::fmt::Debug for GlobPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GlobPattern({self})")
    }
}

/// A pattern cut at its stars. What stands between two stars may match at the first place where it
/// fits: later places leave less to what follows, never more. So no choice is ever taken back.
enum Program {
    /// An unclosed set: nothing matches.
    Nothing,
    /// No star.
    Whole(Segment),
    /// At least one star.
    Stars {
        first: Segment,
        between: Vec<Segment>,
        last: Segment,
    },
}

impl Program {
    fn compile(source: &str) -> Self {
        let mut segments = vec![Vec::new()];
        let mut chars = source.chars();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' => {
                    segments.push(Vec::new());
                    continue;
                }
                '?' => Token::Any,
                '[' => match Set::parse(&mut chars) {
                    Some(set) => Token::Set(set),
                    None => return Self::Nothing,
                },
                c => Token::Char(c),
            };
            segments
                .last_mut()
                .expect("there is always a segment")
                .push(token);
        }
        let last = segments
            .pop()
            .map(Segment::new)
            .expect("there is always a segment");
        if segments.is_empty() {
            return Self::Whole(last);
        }
        let mut segments = segments.into_iter();
        let first = segments
            .next()
            .map(Segment::new)
            .expect("there is one before a star");
        let between = segments
            .filter(|tokens| !tokens.is_empty())
            .map(Segment::new)
            .collect();
        Self::Stars {
            first,
            between,
            last,
        }
    }

    fn matches(&self, topic: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Whole(segment) => segment.at_start(topic) == Some(topic.len()),
            Self::Stars {
                first,
                between,
                last,
            } => {
                let Some(start) = first.at_start(topic) else {
                    return false;
                };
                let Some(end) = last.at_end(topic) else {
                    return false;
                };
                if start > end {
                    return false;
                }
                let mut middle = &topic[start..end];
                for segment in between {
                    match segment.find_end(middle) {
                        Some(end) => middle = &middle[end..],
                        None => return false,
                    }
                }
                true
            }
        }
    }
}

/// What stands between two stars: every token takes exactly one character.
enum Segment {
    Literal(Box<str>),
    Tokens(Vec<Token>),
}

impl Segment {
    fn new(tokens: Vec<Token>) -> Self {
        let literal: Option<String> = tokens
            .iter()
            .map(|token| match token {
                Token::Char(c) => Some(*c),
                Token::Any | Token::Set(_) => None,
            })
            .collect();
        match literal {
            Some(literal) => Self::Literal(literal.into()),
            None => Self::Tokens(tokens),
        }
    }

    /// Where it ends if it matches at the start of `topic`.
    fn at_start(&self, topic: &str) -> Option<usize> {
        match self {
            Self::Literal(literal) => topic.starts_with(&**literal).then_some(literal.len()),
            Self::Tokens(tokens) => {
                let mut chars = topic.char_indices();
                for token in tokens {
                    let (_, c) = chars.next()?;
                    if !token.matches(c) {
                        return None;
                    }
                }
                Some(chars.offset())
            }
        }
    }

    /// Where it begins if it matches at the end of `topic`.
    fn at_end(&self, topic: &str) -> Option<usize> {
        match self {
            Self::Literal(literal) => topic
                .ends_with(&**literal)
                .then(|| topic.len() - literal.len()),
            Self::Tokens(tokens) => {
                let mut start = topic.len();
                let mut chars = topic.char_indices().rev();
                for token in tokens.iter().rev() {
                    let (at, c) = chars.next()?;
                    if !token.matches(c) {
                        return None;
                    }
                    start = at;
                }
                Some(start)
            }
        }
    }

    /// Where its first match in `topic` ends.
    fn find_end(&self, topic: &str) -> Option<usize> {
        match self {
            Self::Literal(literal) => {
                memmem::find(topic.as_bytes(), literal.as_bytes()).map(|at| at + literal.len())
            }
            Self::Tokens(tokens) => find_end_of_tokens(tokens, topic),
        }
    }
}

/// Shift-And: bit `i` of the state says that the tokens up to `i` match the characters just read.
/// One character costs one pass over the state's words, whatever the tokens are.
fn find_end_of_tokens(tokens: &[Token], topic: &str) -> Option<usize> {
    let words = tokens.len().div_ceil(64);
    let last_bit = 1u64 << ((tokens.len() - 1) % 64);
    let mut state = vec![0u64; words];
    let mut masks: HashMap<char, Box<[u64]>> = HashMap::new();
    let mut uncached: Box<[u64]> = vec![0; words].into();
    for (at, c) in topic.char_indices() {
        let mask = if masks.contains_key(&c) || masks.len() * words < CACHED_WORDS_MAX {
            &*masks.entry(c).or_insert_with(|| {
                let mut mask: Box<[u64]> = vec![0; words].into();
                fill_mask(&mut mask, tokens, c);
                mask
            })
        } else {
            fill_mask(&mut uncached, tokens, c);
            &*uncached
        };
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

/// 1 MiB: enough for every alphabet people use, not enough to hurt.
const CACHED_WORDS_MAX: usize = 131_072;

fn fill_mask(mask: &mut [u64], tokens: &[Token], c: char) {
    for (word, tokens) in mask.iter_mut().zip(tokens.chunks(64)) {
        *word = tokens.iter().enumerate().fold(0, |bits, (bit, token)| {
            bits | (u64::from(token.matches(c)) << bit)
        });
    }
}

enum Token {
    Char(char),
    Any,
    Set(Set),
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::Any => true,
            Self::Set(set) => set.matches(c),
        }
    }
}

struct Set {
    negated: bool,
    /// Both ends belong to it; a range whose start is above its end holds nothing.
    ranges: Vec<(char, char)>,
}

impl Set {
    /// Reads on after the `[`; `None` if there is no closing `]`.
    fn parse(chars: &mut std::str::Chars<'_>) -> Option<Self> {
        let mut set = Self {
            negated: false,
            ranges: Vec::new(),
        };
        let mut c = chars.next()?;
        if c == '^' || c == '!' {
            set.negated = true;
            c = chars.next()?;
        }
        if c == ']' {
            set.ranges.push((c, c));
            c = chars.next()?;
        }
        let mut plain_before = None;
        while c != ']' {
            let next = chars.clone().next();
            match (c, plain_before, next) {
                ('-', Some(start), Some(end)) if end != ']' => {
                    chars.next();
                    set.ranges.push((start, end));
                    plain_before = None;
                }
                _ => {
                    set.ranges.push((c, c));
                    plain_before = Some(c);
                }
            }
            c = chars.next()?;
        }
        Some(set)
    }

    fn matches(&self, c: char) -> bool {
        self.ranges
            .iter()
            .any(|(start, end)| (start..=end).contains(&&c))
            != self.negated
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
