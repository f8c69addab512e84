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

impl Published {
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
fn topic_to_json(topic: &Topic) -> [Value; 2] {
    let base64 = BASE64_STANDARD.encode(topic.as_bytes());
    [json!(topic.as_str()), json!(base64)]
}

fn to_line(members: &Map<String, Value>) -> String {
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
