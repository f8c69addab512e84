//! Topics as people give them and as programs read them.
//!
//! A topic is any bytes, a shell passes text: `--exact-hex` and `--topic-hex` are for the rest. A
//! word without a flag is refused rather than guessed, because `jobs/*` is a topic as well as a
//! glob and a wrong guess receives nothing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;

use crate::console;
use crate::shown;
use crate::usage;

/// A topic given as text.
pub(crate) fn parse_topic(text: &str) -> Result<Topic, String> {
    Topic::new(text).map_err(|error| error.to_string())
}

/// A topic given as hexadecimal digits.
pub(crate) fn parse_hex(digits: &str) -> Result<Topic, String> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err("an odd number of hexadecimal digits".to_owned());
    }
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| Some((nibble(pair[0])? << 4) | nibble(pair[1])?))
        .collect();
    let bytes = bytes.ok_or("not hexadecimal digits")?;
    Topic::new(bytes).map_err(|error| error.to_string())
}

/// The value of one hexadecimal digit of either case.
fn nibble(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// A glob of any spelling that the protocol has; [`Interests::doubt`] complains of useless ones.
fn parse_glob(text: &str) -> Result<GlobPattern, String> {
    GlobPattern::parse(text.to_owned()).map_err(|error| error.to_string())
}

/// Flags that say what is wanted.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Interests {
    /// Exactly this topic. May be given more than once.
    #[arg(
        long,
        value_name = "TOPIC",
        value_parser = parse_topic,
        allow_hyphen_values = true
    )]
    exact: Vec<Topic>,

    /// Exactly the topic with these bytes, in hexadecimal. May be given more than once.
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    exact_hex: Vec<Topic>,

    /// All topics that match this glob: `*` is any run of characters, also across `/`, `?` one
    /// character, `[a-z]` one of a set. May be given more than once.
    #[arg(
        long,
        value_name = "PATTERN",
        value_parser = parse_glob,
        allow_hyphen_values = true
    )]
    glob: Vec<GlobPattern>,

    /// A word without a flag, which may be meant as a topic or as a glob.
    #[arg(value_name = "TOPIC", hide = true)]
    words: Vec<String>,
}

impl Interests {
    /// Ends the program if a glob cannot match anything, and warns if one probably means something
    /// else. Removing and checking need neither.
    pub(crate) fn doubt(&self, verb: &str) {
        for glob in &self.glob {
            match glob.doubt() {
                Some(doubt) if doubt.matches_nothing() => {
                    usage::wrong(verb, &format!("--glob '{glob}': {doubt}"));
                }
                Some(doubt) => console::say(format_args!("httppubsub: --glob '{glob}': {doubt}")),
                None => {}
            }
        }
    }

    /// All that was given to `verb`, topics first. Ends the program if it cannot be told what is
    /// meant.
    pub(crate) fn of(self, verb: &str) -> Vec<Interest> {
        if let Some(word) = self.words.first() {
            usage::wrong(verb, &what_is(word));
        }
        // A set sorts them anyway; for `listen` the order decides nothing.
        let exacts = self
            .exact
            .into_iter()
            .chain(self.exact_hex)
            .map(Interest::Exact);
        exacts
            .chain(self.glob.into_iter().map(Interest::Glob))
            .collect()
    }
}

/// The complaint about a word without a flag.
fn what_is(word: &str) -> String {
    let word = shown::one_line(word);
    let [exact, glob] = ["--exact", "--glob"].map(|flag| format!("{flag} '{word}'"));
    match word.contains(['*', '?', '[']) {
        true => format!("'{word}' belongs to no flag: give {glob}, or {exact} if it is no pattern"),
        false => format!("'{word}' belongs to no flag: give {exact}, or {glob} for a pattern"),
    }
}

/// A topic as a person reads it, on one line.
pub(crate) fn to_text(topic: &Topic) -> String {
    match topic.as_str() {
        Some(text) => shown::one_line(text),
        // Bytes above 127 as `\xNN`, as in the literals of most languages.
        None => topic.as_bytes().escape_ascii().to_string(),
    }
}

/// A topic in JSON: as text where it is UTF-8, and always as base64.
// `topic` is null and not a text with replacement characters, which could be taken for the topic.
pub(crate) fn to_json(topic: &Topic) -> [(&'static str, serde_json::Value); 2] {
    let text = topic.as_str().map_or(serde_json::Value::Null, Into::into);
    [
        ("topic", text),
        (
            "topic_base64",
            BASE64_STANDARD.encode(topic.as_bytes()).into(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_may_be_given_in_hexadecimal() {
        assert_eq!(parse_hex("00fF").unwrap().as_bytes(), [0, 255]);
        assert_eq!(parse_hex("").unwrap().as_bytes(), [0; 0]);
        assert!(parse_hex("0").is_err());
        assert!(parse_hex("0g").is_err());
        assert!(parse_hex("é0").is_err());
    }
}
