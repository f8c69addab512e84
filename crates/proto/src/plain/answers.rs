//! Answers of the plain door: JSON objects, each with a newline at its end.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::digest::Sha512;
use crate::topic::Topic;

/// The answer to a publication: what was published, and what became of it. The sum of the five
/// outcomes is the number of subscriptions that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The identifier of the message, as `msg_…`.
    pub id: String,
    /// The topic.
    pub topic: Topic,
    /// Length of the message, in bytes.
    pub bytes: u64,
    /// Digest of the message.
    pub sha512: Sha512,
    /// Number of subscribers that the confirmations stand for.
    pub subscribers: u32,
    /// What became of it.
    pub outcomes: Outcomes,
}

/// The outcomes of a publication, in subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// They have it.
    pub confirmed: u64,
    /// They asked to be removed.
    pub unsubscribed: u64,
    /// They missed it and will be told.
    pub missed: u64,
    /// They missed it and did not ask to be told.
    pub dropped: u64,
    /// They missed it, and that could not be recorded.
    pub unrecorded: u64,
}

impl Outcomes {
    /// Subscriptions that matched.
    pub fn matched(&self) -> u64 {
        self.confirmed + self.unsubscribed + self.missed + self.dropped + self.unrecorded
    }
}

/// A text that is no answer of the plain door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not one of the plain door: {0}")]
pub struct AnswerError(String);

impl Published {
    /// Reads the text of an answer.
    ///
    /// ```
    /// use httppubsub_proto::digest::Sha512;
    /// use httppubsub_proto::plain::{Outcomes, Published};
    /// use httppubsub_proto::topic::Topic;
    ///
    /// let published = Published {
    ///     id: "msg_rzLr25hfptrjUO_GfExdlg".to_owned(),
    ///     topic: Topic::new("cache/user/7")?,
    ///     bytes: 7,
    ///     sha512: Sha512::of(b"drop it"),
    ///     subscribers: 3,
    ///     outcomes: Outcomes { confirmed: 3, missed: 1, ..Outcomes::default() },
    /// };
    /// assert_eq!(Published::parse(published.to_text().as_bytes())?, published);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(text: &[u8]) -> Result<Self, AnswerError> {
        let said: Value = serde_json::from_slice(text).map_err(|it| AnswerError(it.to_string()))?;
        let text = |name: &'static str| {
            let text = said[name].as_str();
            text.ok_or_else(|| AnswerError(format!("`{name}` is no text")))
        };
        let number = |name: &'static str| {
            let number = said[name].as_u64();
            number.ok_or_else(|| AnswerError(format!("`{name}` is no count")))
        };
        let topic = BASE64_STANDARD.decode(text("topic_base64")?);
        let topic = topic.map_err(|it| AnswerError(it.to_string()))?;
        let sha512 = Sha512::from_hex(text("sha512")?);
        Ok(Self {
            id: text("id")?.to_owned(),
            topic: Topic::new(topic).map_err(|it| AnswerError(it.to_string()))?,
            bytes: number("bytes")?,
            sha512: sha512.ok_or_else(|| AnswerError("`sha512` is no digest".to_owned()))?,
            subscribers: u32::try_from(number("subscribers")?).unwrap_or(u32::MAX),
            outcomes: Outcomes {
                confirmed: number("confirmed")?,
                unsubscribed: number("unsubscribed")?,
                missed: number("missed")?,
                dropped: number("dropped")?,
                unrecorded: number("unrecorded")?,
            },
        })
    }

    /// The text of the answer.
    pub fn to_text(&self) -> String {
        to_line(&self.to_json())
    }

    fn to_json(&self) -> Map<String, Value> {
        let [topic, topic_base64] = topic_to_json(&self.topic);
        let outcomes = &self.outcomes;
        let members = [
            ("id", json!(self.id)),
            ("topic", topic),
            ("topic_base64", topic_base64),
            ("bytes", json!(self.bytes)),
            ("sha512", json!(self.sha512.to_string())),
            ("subscribers", json!(self.subscribers)),
            ("matched", json!(outcomes.matched())),
            ("confirmed", json!(outcomes.confirmed)),
            ("unsubscribed", json!(outcomes.unsubscribed)),
            ("missed", json!(outcomes.missed)),
            ("dropped", json!(outcomes.dropped)),
            ("unrecorded", json!(outcomes.unrecorded)),
        ];
        members
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}

/// The answer to a request of the plain door that is not done (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The status of HTTP.
    pub status: u16,
    /// The words of that status.
    pub title: String,
    /// What is wrong, for people.
    pub detail: String,
    /// What is wrong, for programs; it never changes.
    pub code: &'static str,
    /// What became of a message that is not accounted for.
    pub published: Option<Box<Published>>,
}

impl Problem {
    /// What a problem says: its code and its detail. `None` if the text is no problem.
    ///
    /// ```
    /// use httppubsub_proto::plain::Problem;
    ///
    /// let text = br#"{"status":403,"code":"not_allowed","detail":"the token may not"}"#;
    /// let (code, detail) = Problem::words(text).expect("it is one");
    /// assert_eq!((code.as_str(), detail.as_str()), ("not_allowed", "the token may not"));
    /// ```
    pub fn words(text: &[u8]) -> Option<(String, String)> {
        let said: Value = serde_json::from_slice(text).ok()?;
        let member = |name: &str| said[name].as_str().map(str::to_owned);
        Some((member("code")?, member("detail")?))
    }

    /// The content type of the answer.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// The text of the answer.
    pub fn to_text(&self) -> String {
        let mut members = match &self.published {
            Some(published) => published.to_json(),
            None => Map::new(),
        };
        members.extend([
            ("type".to_owned(), json!("about:blank")),
            ("title".to_owned(), json!(self.title)),
            ("status".to_owned(), json!(self.status)),
            ("detail".to_owned(), json!(self.detail)),
            ("code".to_owned(), json!(self.code)),
        ]);
        to_line(&members)
    }
}

/// A topic as two members: text, or null if it is not UTF-8, and base64.
pub(super) fn topic_to_json(topic: &Topic) -> [Value; 2] {
    let base64 = BASE64_STANDARD.encode(topic.as_bytes());
    [json!(topic.as_str()), json!(base64)]
}

pub(super) fn to_line(members: &Map<String, Value>) -> String {
    let text = serde_json::to_string(members).expect("these values have a JSON form");
    format!("{text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(topic: &[u8]) -> Published {
        Published {
            id: "msg_x".to_owned(),
            topic: Topic::new(topic).unwrap(),
            bytes: 7,
            sha512: Sha512::of(b"drop it"),
            subscribers: 3,
            outcomes: Outcomes {
                confirmed: 3,
                missed: 1,
                ..Outcomes::default()
            },
        }
    }

    #[test]
    fn what_was_published_is_said_by_name() {
        let text = published(b"cache/user/7").to_text();
        assert!(text.ends_with("}\n"));
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(said["topic"], "cache/user/7");
        assert_eq!(said["topic_base64"], "Y2FjaGUvdXNlci83");
        let counts = [
            "matched",
            "confirmed",
            "unsubscribed",
            "missed",
            "dropped",
            "unrecorded",
        ];
        let counts = counts.map(|name| said[name].as_u64().unwrap());
        assert_eq!(counts, [4, 3, 0, 1, 0, 0]);
        let text = published(b"\xff").to_text();
        let said: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&said["topic"], &said["topic_base64"]),
            (&Value::Null, &json!("/w=="))
        );
    }

    #[test]
    fn a_problem_has_what_rfc_9457_wants_and_what_is_known_of_the_message() {
        let mut problem = Problem {
            status: 403,
            title: "Forbidden".to_owned(),
            detail: "no".to_owned(),
            code: "not_allowed",
            published: None,
        };
        let said = |problem: &Problem| serde_json::from_str::<Value>(&problem.to_text()).unwrap();
        let wanted = json!({
            "type": "about:blank", "title": "Forbidden", "status": 403, "detail": "no",
            "code": "not_allowed",
        });
        assert_eq!(said(&problem), wanted);
        problem.published = Some(Box::new(published(b"t")));
        assert_eq!(
            (&said(&problem)["matched"], &said(&problem)["status"]),
            (&json!(4), &json!(403))
        );
    }
}
