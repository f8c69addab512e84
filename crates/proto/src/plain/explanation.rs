//! The answer of the plain door that explains who would get a message.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::plain::answers::{to_line, topic_to_json};
use crate::subscription::Interest;
use crate::topic::Topic;

/// Who would get a message on a topic, and what stands in the way.
///
/// ```
/// use httppubsub_proto::plain::{ExplainedSubscription, Explanation};
/// use httppubsub_proto::subscription::Interest;
/// use httppubsub_proto::topic::Topic;
///
/// let topic = Topic::new("t")?;
/// let explanation = Explanation {
///     topic: topic.clone(),
///     matched: 2,
///     not_shown: 1,
///     subscriptions: vec![ExplainedSubscription {
///         url: "http://10.0.0.8:3002/v1/receive".to_owned(),
///         interest: Interest::Exact(topic),
///         would: "not_tried",
///         why: Some("its circuit breaker is open".to_owned()),
///     }],
/// };
/// assert!(explanation.to_text().contains(r#""matches":[{"exact":"t"}]"#));
/// # Ok::<(), httppubsub_proto::topic::TopicTooLong>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The topic.
    pub topic: Topic,
    /// Subscriptions that match.
    pub matched: u64,
    /// Of these, the ones that are not among `subscriptions`.
    pub not_shown: u64,
    /// The ones that may be shown.
    pub subscriptions: Vec<ExplainedSubscription>,
}

/// One subscription that matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedSubscription {
    /// Its url.
    pub url: String,
    /// Its topic or glob.
    pub interest: Interest,
    /// What would be done: `post`, `notice_first` or `not_tried`.
    pub would: &'static str,
    /// The reason why it would not be posted to.
    pub why: Option<String>,
}

impl Explanation {
    /// The text of the answer.
    pub fn to_text(&self) -> String {
        let [topic, topic_base64] = topic_to_json(&self.topic);
        let subscriptions: Vec<_> = self.subscriptions.iter().map(to_json).collect();
        let members = [
            ("topic", topic),
            ("topic_base64", topic_base64),
            ("matched", json!(self.matched)),
            ("subscriptions", json!(subscriptions)),
            ("not_shown", json!(self.not_shown)),
        ];
        let members = members.map(|(name, value)| (name.to_owned(), value));
        to_line(&Map::from_iter(members))
    }
}

fn to_json(subscription: &ExplainedSubscription) -> Value {
    let interest = match &subscription.interest {
        Interest::Exact(topic) => match topic.as_str() {
            Some(text) => json!({ "exact": text }),
            None => json!({ "exact": { "base64": BASE64_STANDARD.encode(topic.as_bytes()) } }),
        },
        Interest::Glob(glob) => json!({ "glob": glob.as_str() }),
    };
    let mut shown = json!({
        "envelope": "native",
        "url": subscription.url,
        "matches": [interest],
        "would": subscription.would,
    });
    if let (Some(why), Value::Object(members)) = (&subscription.why, &mut shown) {
        members.insert("why".to_owned(), json!(why));
    }
    shown
}
