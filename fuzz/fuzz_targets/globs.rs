//! Globs against the rule of `docs/protocol/subscriptions.md` §3, taken word for word: the input is
//! the pattern, the byte 0xff, which no text holds, and the topic.
#![no_main]

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::topic::Topic;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // The reference takes pattern × topic steps.
    if input.len() > 2_048 {
        return;
    }
    let Some(end) = input.iter().position(|byte| *byte == 0xff) else {
        return;
    };
    let Ok(pattern) = std::str::from_utf8(&input[..end]) else {
        return;
    };
    let bytes = &input[end + 1..];

    let glob = GlobPattern::parse(pattern).expect("it is short");
    let topic = Topic::new(bytes.to_vec()).expect("it is short");
    let want = match std::str::from_utf8(bytes) {
        Ok(topic) => reference(pattern, topic),
        Err(_) => false,
    };
    assert_eq!(glob.matches(&topic), want, "{glob} on {topic}");
    if let (true, Ok(topic)) = (want, std::str::from_utf8(bytes)) {
        assert!(
            topic.starts_with(glob.literal_prefix()),
            "{glob} on {topic:?}"
        );
        assert!(
            topic.ends_with(glob.literal_suffix()),
            "{glob} on {topic:?}"
        );
    }
});

enum Token {
    Run,
    Any,
    Char(char),
    Set {
        negated: bool,
        plain: Vec<char>,
        ranges: Vec<(char, char)>,
    },
}

/// `reached[i]` says whether the tokens so far match the first `i` characters of the topic.
fn reference(pattern: &str, topic: &str) -> bool {
    let Some(tokens) = tokens(&pattern.chars().collect::<Vec<_>>()) else {
        return false;
    };
    let topic: Vec<char> = topic.chars().collect();
    let mut reached = vec![false; topic.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut next = vec![false; topic.len() + 1];
        if let Token::Run = token {
            let mut before = false;
            for (next, reached) in next.iter_mut().zip(&reached) {
                before |= reached;
                *next = before;
            }
        } else {
            for (at, c) in topic.iter().enumerate() {
                next[at + 1] = reached[at] && takes(&token, *c);
            }
        }
        reached = next;
    }
    reached[topic.len()]
}

fn takes(token: &Token, c: char) -> bool {
    match token {
        Token::Run => unreachable!("a run takes no single character"),
        Token::Any => true,
        Token::Char(own) => *own == c,
        Token::Set {
            negated,
            plain,
            ranges,
        } => {
            let member = plain.contains(&c) || ranges.iter().any(|(a, b)| *a <= c && c <= *b);
            member != *negated
        }
    }
}

/// `None` if a set is never closed.
fn tokens(pattern: &[char]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < pattern.len() {
        let (token, next) = match pattern[at] {
            '*' => (Token::Run, at + 1),
            '?' => (Token::Any, at + 1),
            '[' => set(pattern, at + 1)?,
            c => (Token::Char(c), at + 1),
        };
        tokens.push(token);
        at = next;
    }
    Some(tokens)
}

/// The set whose `[` stands before `at`, and where it is over. The steps are those of the rule.
fn set(pattern: &[char], mut at: usize) -> Option<(Token, usize)> {
    let (mut plain, mut ranges) = (Vec::new(), Vec::new());
    let negated = matches!(pattern.get(at)?, '^' | '!');
    if negated {
        at += 1;
    }
    if *pattern.get(at)? == ']' {
        plain.push(']');
        at += 1;
    }
    // The member directly before, unless it is the `]` above or a range came in between.
    let mut before = None;
    loop {
        let c = *pattern.get(at)?;
        if c == ']' {
            return Some((
                Token::Set {
                    negated,
                    plain,
                    ranges,
                },
                at + 1,
            ));
        }
        let after = pattern.get(at + 1).copied();
        match (before, after) {
            (Some(start), Some(end)) if c == '-' && end != ']' => {
                ranges.push((start, end));
                before = None;
                at += 2;
            }
            _ => {
                plain.push(c);
                before = Some(c);
                at += 1;
            }
        }
    }
}
