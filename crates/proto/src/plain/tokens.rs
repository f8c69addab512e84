//! `tokens.json`: who may use the plain door, and for what.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::plain::token::TokenHash;
use crate::time::Now;
use crate::topic::Topic;

/// The content of a tokens file: named rights, each with the hashes of the tokens that have them.
///
/// ```
/// use std::time::Duration;
///
/// use httppubsub_proto::plain::{PlainToken, TokenRefused, Tokens};
/// use httppubsub_proto::time::Now;
/// use httppubsub_proto::topic::Topic;
///
/// let token = PlainToken::generate(&[7; 32]);
/// let file = format!(
///     r#"{{"version":"1","tokens":[{{"name":"ci","sha256":["{}"],"publish":["builds/*"]}}]}}"#,
///     token.hash()
/// );
/// let tokens = Tokens::parse(&file)?;
/// let now = Now::from_unix(Duration::from_secs(1_700_000_000));
/// let rights = tokens.judge(Some(token.as_str().as_bytes()), now).expect("it is known");
/// assert!(rights.may_publish(&Topic::new("builds/7")?));
/// assert!(!rights.may_publish(&Topic::new("prices/7")?));
/// assert_eq!(tokens.judge(None, now), Err(TokenRefused::Missing));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// In the order of the file.
    entries: Vec<Rights>,
    /// Finds an entry by the hash of a token.
    by_hash: HashMap<TokenHash, usize>,
    /// The entry of requests without a token.
    without: Option<usize>,
}

/// What the tokens of one name may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    name: String,
    /// Empty for requests without a token.
    hashes: Vec<TokenHash>,
    publish: Vec<TopicRule>,
    is_admin: bool,
    expires: Option<OffsetDateTime>,
}

/// Rights to be added to a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRights {
    /// Topics that may be published to.
    pub publish: Vec<TopicRule>,
    /// `true` if it may do everything.
    pub is_admin: bool,
    /// The time after which they end, as RFC 3339 writes it.
    pub expires: Option<String>,
}

/// Topics: one, or all that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRule {
    /// The topic, or its beginning.
    text: String,
    /// `true` if the rest may be anything.
    is_prefix: bool,
}

/// A text that is no [`TopicRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a `*` may stand only at the end, for the rest of the topic")]
pub struct TopicRuleError;

/// A token is not believed, or not any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// There is none, and requests without a token have no rights.
    #[error("there is no token: send `Authorization: Bearer hps_…`")]
    Missing,
    /// No entry has it.
    #[error("the token is unknown")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

/// The reason why a tokens file cannot be used. No text of the file is quoted but names.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// The file is not JSON.
    #[error("the tokens file is not JSON: {0}")]
    Json(serde_json::Error),
    /// It is not `{"version":"1","tokens":[…]}`.
    #[error("the tokens file is not an object of \"version\": \"1\" and \"tokens\": a list")]
    Shape,
    /// An entry is wrong.
    #[error("the entry {entry} of the tokens file: {problem}")]
    Entry {
        /// Its name in quotes, or its number, from 1.
        entry: String,
        /// The problem.
        problem: TokensProblem,
    },
}

/// The problem with one entry of a tokens file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokensProblem {
    /// It is not an object.
    #[error("it is not an object")]
    NotAnObject,
    /// It has no name, or one that is too long or has other characters.
    #[error("\"name\" is not 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`")]
    Name,
    /// Two entries have it.
    #[error("another entry has its name")]
    NameTwice,
    /// Misspelled, or of a later version.
    #[error("\"{0}\" is unknown")]
    Unknown(String),
    /// A member is not what it should be.
    #[error("\"{member}\" is not {wanted}")]
    Member {
        /// Which.
        member: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// A topic of "publish" is wrong.
    #[error("\"publish\": {0}")]
    Rule(TopicRuleError),
    /// Two entries, or one entry twice, have it: whose rights would count?
    #[error("\"sha256\": a hash stands twice in the file")]
    HashTwice,
    /// Two entries are for requests without a token.
    #[error("it has no \"sha256\", as another entry: requests without a token have one entry")]
    WithoutTwice,
    /// Every request would have all rights.
    #[error("\"admin\" needs a \"sha256\": anybody would have all rights")]
    AdminWithout,
    /// There are four already.
    #[error("it has {HASHES_MAX} tokens, which are the most: remove one")]
    Full,
    /// It is there with other rights.
    #[error("it is there already: a further token has its rights, so name none")]
    OtherRights,
    /// There is no such entry.
    #[error("there is none")]
    Absent,
    /// The hash that begins so cannot be told.
    #[error("{0} of its hashes begin so")]
    Hashes(usize),
}

/// The most tokens of one name: rotation needs two.
pub(super) const HASHES_MAX: usize = 4;

impl Tokens {
    /// Reads the text of a tokens file.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let file: Value = serde_json::from_str(text).map_err(TokensError::Json)?;
        let file = file.as_object().ok_or(TokensError::Shape)?;
        let version = file.get("version").and_then(Value::as_str);
        let entries = file.get("tokens").and_then(Value::as_array);
        let (Some("1"), Some(entries), 2) = (version, entries, file.len()) else {
            return Err(TokensError::Shape);
        };
        let mut tokens = Self::default();
        for (at, entry) in entries.iter().enumerate() {
            let name = entry.get("name").and_then(Value::as_str);
            let added = Rights::parse(entry).and_then(|rights| tokens.push(rights));
            added.map_err(|problem| TokensError::Entry {
                // A name that is wrong may be a token in the wrong place.
                entry: match name.filter(|name| is_name(name)) {
                    Some(name) => format!("\"{name}\""),
                    None => format!("number {}", at + 1),
                },
                problem,
            })?;
        }
        Ok(tokens)
    }

    /// The text of the file, with a newline at the end.
    pub fn to_text(&self) -> String {
        let entries: Vec<_> = self.entries.iter().map(Rights::to_json).collect();
        let file = json!({ "version": "1", "tokens": entries });
        let text = serde_json::to_string_pretty(&file).expect("these values have a JSON form");
        format!("{text}\n")
    }

    /// `true` if nobody has any rights.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Rights> {
        self.entries.iter()
    }

    /// The rights of a request with this token, or without one.
    pub fn judge(&self, token: Option<&[u8]>, now: Now) -> Result<&Rights, TokenRefused> {
        let entry = match token {
            // Found by a hash that only who has the token can compute: a look-up whose time tells
            // something tells nothing of the token.
            Some(token) => {
                let entry = self.by_hash.get(&TokenHash::of(token));
                entry.ok_or(TokenRefused::Unknown)?
            }
            None => self.without.as_ref().ok_or(TokenRefused::Missing)?,
        };
        let rights = &self.entries[*entry];
        match rights.is_expired(now) {
            true => Err(TokenRefused::Expired),
            false => Ok(rights),
        }
    }

    /// Adds a token of this name: with new rights, or, where the name is there, with the rights
    /// that it has.
    pub fn add(
        &mut self,
        name: &str,
        hash: TokenHash,
        new: NewRights,
    ) -> Result<(), TokensProblem> {
        let has_rights = new != NewRights::default();
        if let Some(at) = self.entries.iter().position(|it| it.name == name) {
            let rights = &self.entries[at];
            if has_rights {
                return Err(TokensProblem::OtherRights);
            }
            if rights.hashes.len() >= HASHES_MAX {
                return Err(TokensProblem::Full);
            }
            let mut entries = self.entries.clone();
            entries[at].hashes.push(hash);
            *self = Self::of(entries)?;
            return Ok(());
        }
        if !is_name(name) {
            return Err(TokensProblem::Name);
        }
        let mut entries = self.entries.clone();
        entries.push(Rights {
            name: name.to_owned(),
            hashes: vec![hash],
            publish: new.publish,
            is_admin: new.is_admin,
            expires: new.expires.as_deref().map(parse_time).transpose()?,
        });
        *self = Self::of(entries)?;
        Ok(())
    }

    /// Removes a name with all its tokens, or the one whose hash begins with `hash`; the last one
    /// takes the name with it.
    pub fn remove(&mut self, name: &str, hash: Option<&str>) -> Result<(), TokensProblem> {
        let at = self.entries.iter().position(|it| it.name == name);
        let at = at.ok_or(TokensProblem::Absent)?;
        let mut entries = self.entries.clone();
        if let Some(hash) = hash {
            let begins = |it: &TokenHash| it.to_string().starts_with(&hash.to_lowercase());
            match entries[at].hashes.iter().filter(|it| begins(it)).count() {
                1 => entries[at].hashes.retain(|it| !begins(it)),
                several => return Err(TokensProblem::Hashes(several)),
            }
        }
        // Without a hash it would be for requests without a token.
        if hash.is_none() || entries[at].hashes.is_empty() {
            entries.remove(at);
        }
        *self = Self::of(entries)?;
        Ok(())
    }

    fn of(entries: Vec<Rights>) -> Result<Self, TokensProblem> {
        let mut tokens = Self::default();
        entries
            .into_iter()
            .try_for_each(|rights| tokens.push(rights))?;
        Ok(tokens)
    }

    fn push(&mut self, rights: Rights) -> Result<(), TokensProblem> {
        let at = self.entries.len();
        if self.entries.iter().any(|it| it.name == rights.name) {
            return Err(TokensProblem::NameTwice);
        }
        if rights.hashes.is_empty() {
            if rights.is_admin {
                return Err(TokensProblem::AdminWithout);
            }
            if self.without.replace(at).is_some() {
                return Err(TokensProblem::WithoutTwice);
            }
        }
        for hash in &rights.hashes {
            if self.by_hash.insert(*hash, at).is_some() {
                return Err(TokensProblem::HashTwice);
            }
        }
        self.entries.push(rights);
        Ok(())
    }
}

impl Rights {
    /// The name: the scope of idempotency keys, and what the log shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hashes of its tokens; none for requests without a token.
    pub fn hashes(&self) -> &[TokenHash] {
        &self.hashes
    }

    /// Topics that may be published to, apart from those of an admin.
    pub fn publish(&self) -> &[TopicRule] {
        &self.publish
    }

    /// `true` if it may do everything.
    pub fn is_admin(&self) -> bool {
        self.is_admin
    }

    /// The time after which it ends, as RFC 3339 writes it.
    pub fn expires(&self) -> Option<String> {
        let expires = self.expires?;
        Some(expires.format(&Rfc3339).expect("it was read in that form"))
    }

    /// `true` if its time is over.
    pub fn is_expired(&self, now: Now) -> bool {
        let now = now.since_unix();
        self.expires.is_some_and(|expires| {
            let seconds = u64::try_from(expires.unix_timestamp()).unwrap_or(0);
            Duration::new(seconds, expires.nanosecond()) <= now
        })
    }

    /// `true` if a message may be published to `topic`.
    pub fn may_publish(&self, topic: &Topic) -> bool {
        self.is_admin || self.publish.iter().any(|rule| rule.covers(topic))
    }

    fn parse(entry: &Value) -> Result<Self, TokensProblem> {
        let entry = entry.as_object().ok_or(TokensProblem::NotAnObject)?;
        let name = entry.get("name").and_then(Value::as_str);
        let name = name
            .filter(|name| is_name(name))
            .ok_or(TokensProblem::Name)?;
        const KNOWN: [&str; 5] = ["name", "sha256", "publish", "admin", "expires"];
        if let Some(unknown) = entry.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(TokensProblem::Unknown(unknown.clone()));
        }
        let hashes = match entry.get("sha256") {
            None => Vec::new(),
            Some(hashes) => parse_hashes(hashes).ok_or(TokensProblem::Member {
                member: "sha256",
                wanted: "a list of 1 to 4 texts of 64 hexadecimal digits",
            })?,
        };
        let is_admin = match entry.get("admin") {
            None => false,
            Some(admin) => admin.as_bool().ok_or(TokensProblem::Member {
                member: "admin",
                wanted: "true or false",
            })?,
        };
        let expires = match entry.get("expires") {
            None => None,
            Some(expires) => Some(parse_time(expires.as_str().unwrap_or_default())?),
        };
        Ok(Self {
            name: name.to_owned(),
            hashes,
            publish: parse_rules(entry, "publish")?,
            is_admin,
            expires,
        })
    }

    fn to_json(&self) -> Value {
        let mut entry = BTreeMap::from([("name", json!(self.name))]);
        if !self.hashes.is_empty() {
            let hashes = self.hashes.iter().map(TokenHash::to_string);
            entry.insert("sha256", hashes.collect());
        }
        if !self.publish.is_empty() {
            let rules = self.publish.iter().map(TopicRule::to_string);
            entry.insert("publish", rules.collect());
        }
        if self.is_admin {
            entry.insert("admin", json!(true));
        }
        if let Some(expires) = self.expires() {
            entry.insert("expires", json!(expires));
        }
        json!(entry)
    }
}

impl TopicRule {
    /// Reads a topic, or a prefix that ends in `*`; `*` alone is every topic. No other character
    /// has a meaning, so it is clear what a rule covers.
    pub fn parse(text: &str) -> Result<Self, TopicRuleError> {
        let (text, is_prefix) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (text, false),
        };
        match text.contains('*') {
            true => Err(TopicRuleError),
            false => Ok(Self {
                text: text.to_owned(),
                is_prefix,
            }),
        }
    }

    /// `true` if it covers this topic.
    pub fn covers(&self, topic: &Topic) -> bool {
        match self.is_prefix {
            true => topic.as_bytes().starts_with(self.text.as_bytes()),
            false => topic.as_bytes() == self.text.as_bytes(),
        }
    }
}

/// As it is written in a file.
impl std::fmt::Display for TopicRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = if self.is_prefix { "*" } else { "" };
        write!(f, "{}{end}", self.text)
    }
}

impl std::str::FromStr for TopicRule {
    type Err = TopicRuleError;

    fn from_str(text: &str) -> Result<Self, TopicRuleError> {
        Self::parse(text)
    }
}

/// A name goes into logs, urls and file names as it is.
fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn parse_hashes(hashes: &Value) -> Option<Vec<TokenHash>> {
    let hashes = hashes.as_array()?;
    let parse = |hash: &Value| hash.as_str().and_then(TokenHash::parse);
    let parsed: Option<Vec<_>> = hashes.iter().map(parse).collect();
    parsed.filter(|it| (1..=HASHES_MAX).contains(&it.len()))
}

fn parse_rules(
    entry: &Map<String, Value>,
    member: &'static str,
) -> Result<Vec<TopicRule>, TokensProblem> {
    let wanted = "a list of topics, or of prefixes that end in `*`";
    let wrong = TokensProblem::Member { member, wanted };
    let Some(rules) = entry.get(member) else {
        return Ok(Vec::new());
    };
    let rules = rules.as_array().ok_or(wrong.clone())?;
    let parse = |rule: &Value| {
        let rule = rule.as_str().ok_or(wrong.clone())?;
        TopicRule::parse(rule).map_err(TokensProblem::Rule)
    };
    rules.iter().map(parse).collect()
}

fn parse_time(text: &str) -> Result<OffsetDateTime, TokensProblem> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TokensProblem::Member {
        member: "expires",
        wanted: "a time as 2027-01-01T00:00:00Z",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plain::PlainToken;

    fn hash(of: u8) -> TokenHash {
        PlainToken::generate(&[of; 32]).hash()
    }

    fn at(seconds: u64) -> Now {
        Now::from_unix(Duration::from_secs(seconds))
    }

    fn file(entries: &str) -> String {
        let entries = entries.replace("HASH", &hash(1).to_string());
        format!(r#"{{"version":"1","tokens":[{entries}]}}"#)
    }

    #[test]
    fn a_rule_covers_a_topic_or_what_begins_so_and_nothing_else() {
        let covers = |rule: &str, topic: &str| {
            let rule = TopicRule::parse(rule).unwrap();
            rule.covers(&Topic::new(topic).unwrap())
        };
        assert!(covers("a", "a") && !covers("a", "ab") && !covers("a", ""));
        assert!(covers("a*", "a") && covers("a*", "a/b") && !covers("a*", "b"));
        assert!(covers("*", "") && covers("", "") && !covers("", "a"));
        // No glob: these stand for themselves.
        assert!(covers("[ab]?", "[ab]?") && !covers("[ab]?", "ax") && !covers("[ab]*", "ax"));
        for wrong in ["a*b", "**", "*a", "a**"] {
            assert_eq!(TopicRule::parse(wrong), Err(TopicRuleError), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_entry_and_member() {
        let said = |entries: &str| Tokens::parse(&file(entries)).unwrap_err().to_string();
        for (entries, part) in [
            ("7", "number 1 of the tokens file: it is not an object"),
            ("{}", "number 1 of the tokens file: \"name\""),
            (
                r#"{"name":"hps_secret in a wrong place"}"#,
                "entry number 1",
            ),
            (
                r#"{"name":"a","publsh":[]}"#,
                "\"a\" of the tokens file: \"publsh\" is unknown",
            ),
            (r#"{"name":"a"},{"name":"a"}"#, "another entry has its name"),
            (
                r#"{"name":"a"},{"name":"b"}"#,
                "no \"sha256\", as another entry",
            ),
            (
                r#"{"name":"a","admin":true}"#,
                "\"admin\" needs a \"sha256\"",
            ),
            (
                r#"{"name":"a","admin":1}"#,
                "\"admin\" is not true or false",
            ),
            (
                r#"{"name":"a","sha256":[]}"#,
                "\"sha256\" is not a list of 1 to 4",
            ),
            (
                r#"{"name":"a","sha256":["hps_x"]}"#,
                "\"sha256\" is not a list",
            ),
            (r#"{"name":"a","sha256":["HASH","HASH"]}"#, "stands twice"),
            (
                r#"{"name":"a","sha256":["HASH"]},{"name":"b","sha256":["HASH"]}"#,
                "stands twice",
            ),
            (r#"{"name":"a","publish":"t"}"#, "\"publish\" is not a list"),
            (
                r#"{"name":"a","publish":["a*b"]}"#,
                "\"publish\": a `*` may stand only at the end",
            ),
            (
                r#"{"name":"a","expires":"tomorrow"}"#,
                "\"expires\" is not a time",
            ),
        ] {
            let said = said(entries);
            assert!(said.contains(part), "{entries}: {said}");
            assert!(!said.contains("hps_"), "{said}");
        }
        for text in [
            "{}",
            "[]",
            r#"{"version":"2","tokens":[]}"#,
            r#"{"version":"1"}"#,
        ] {
            assert!(
                matches!(Tokens::parse(text), Err(TokensError::Shape)),
                "{text}"
            );
        }
        assert!(matches!(Tokens::parse("{"), Err(TokensError::Json(_))));
    }

    #[test]
    fn rights_end_when_they_expire_and_there_may_be_some_without_a_token() {
        let tokens = Tokens::parse(&file(
            r#"{"name":"ci","sha256":["HASH"],"publish":["*"],"expires":"1970-01-01T00:01:40Z"},
               {"name":"anyone","publish":["public/*"]}"#,
        ))
        .unwrap();
        let token = PlainToken::generate(&[1; 32]);
        let judge = |seconds| tokens.judge(Some(token.as_str().as_bytes()), at(seconds));
        assert_eq!(judge(99).unwrap().name(), "ci");
        assert_eq!(judge(100), Err(TokenRefused::Expired));
        assert_eq!(
            tokens.judge(Some(b"hps_other"), at(0)),
            Err(TokenRefused::Unknown)
        );
        let anyone = tokens.judge(None, at(0)).unwrap();
        assert!(anyone.may_publish(&Topic::new("public/x").unwrap()));
        assert!(!anyone.may_publish(&Topic::new("private").unwrap()));
    }

    #[test]
    fn names_and_tokens_come_and_go_and_the_file_is_read_as_it_is_written() {
        let mut tokens = Tokens::default();
        let rights = || NewRights {
            publish: vec![TopicRule::parse("builds/*").unwrap()],
            is_admin: false,
            expires: Some("2027-01-01T00:00:00Z".to_owned()),
        };
        tokens.add("ci", hash(1), rights()).unwrap();
        assert_eq!(
            tokens.add("ci", hash(2), rights()),
            Err(TokensProblem::OtherRights)
        );
        tokens.add("ci", hash(2), NewRights::default()).unwrap();
        tokens
            .add(
                "ops",
                hash(3),
                NewRights {
                    is_admin: true,
                    ..NewRights::default()
                },
            )
            .unwrap();
        assert_eq!(Tokens::parse(&tokens.to_text()).unwrap(), tokens);
        let begins = &hash(1).to_string()[..8];
        tokens.remove("ci", Some(begins)).unwrap();
        assert_eq!(tokens.iter().next().unwrap().hashes(), [hash(2)]);
        assert_eq!(
            tokens.remove("ci", Some("")),
            Ok(()),
            "the last takes the name with it"
        );
        assert_eq!(tokens.remove("ci", None), Err(TokensProblem::Absent));
        assert_eq!(tokens.iter().count(), 1);
        for number in 4..7 {
            tokens
                .add("ops", hash(number), NewRights::default())
                .unwrap();
        }
        assert_eq!(
            tokens.add("ops", hash(9), NewRights::default()),
            Err(TokensProblem::Full)
        );
        assert_eq!(
            tokens.remove("ops", Some("")),
            Err(TokensProblem::Hashes(4))
        );
        tokens.remove("ops", None).unwrap();
        assert!(tokens.is_empty());
        assert_eq!(
            tokens.add("a b", hash(1), NewRights::default()),
            Err(TokensProblem::Name)
        );
    }
}
