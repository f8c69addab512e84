//! Receipts of the plain door: a line of JSON for each outcome.

use serde_json::{Value, json};

use crate::plain::answers::Outcomes;

/// A line of an answer that tells of each outcome as it happens. The first is `accepted`, the last
/// is `done` or `failed`; without a last one the message is not accounted for.
///
/// ```
/// use httppubsub_proto::plain::Receipt;
///
/// let line = Receipt::Failed { code: "store_unavailable".to_owned() }.to_line();
/// assert_eq!(line, "{\"code\":\"store_unavailable\",\"type\":\"failed\"}\n");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Deliveries begin.
    Accepted {
        /// The identifier of the message, as `msg_…`.
        id: String,
        /// Subscriptions that match, as far as they are known.
        matched: u64,
        /// Length of the message, in bytes.
        bytes: u64,
        /// Digest of the message, in hexadecimal.
        sha512: String,
    },
    /// The outcome of one subscription.
    Delivery {
        /// Its name, as the counts have it.
        outcome: String,
        /// Milliseconds since the message was accepted.
        ms: u64,
        /// Scheme, host and port of the subscriber, for tokens that may see it.
        url: Option<String>,
        /// The reason for which it was missed, for the same.
        why: Option<String>,
    },
    /// All are accounted for.
    Done {
        /// Number of subscribers that the confirmations stand for.
        subscribers: u32,
        /// All outcomes.
        outcomes: Outcomes,
        /// Deliveries without a line, because they were read too slowly.
        left_out: u64,
    },
    /// The message is not accounted for.
    Failed {
        /// As in a problem.
        code: String,
    },
}

impl Receipt {
    /// The content type of an answer of such lines.
    pub const CONTENT_TYPE: &'static str = "application/x-ndjson";

    /// The line, with a newline at its end.
    pub fn to_line(&self) -> String {
        let mut line = match self {
            Self::Accepted {
                id,
                matched,
                bytes,
                sha512,
            } => json!({
                "type": "accepted", "id": id, "matched": matched, "bytes": bytes, "sha512": sha512,
            }),
            Self::Delivery {
                outcome,
                ms,
                url,
                why,
            } => json!({
                "type": "delivery", "outcome": outcome, "ms": ms, "url": url, "why": why,
            }),
            Self::Done {
                subscribers,
                outcomes,
                left_out,
            } => json!({
                "type": "done",
                "subscribers": subscribers,
                "confirmed": outcomes.confirmed,
                "unsubscribed": outcomes.unsubscribed,
                "missed": outcomes.missed,
                "dropped": outcomes.dropped,
                "unrecorded": outcomes.unrecorded,
                "left_out": left_out,
            }),
            Self::Failed { code } => json!({ "type": "failed", "code": code }),
        };
        // What is not told is not there, so that it cannot be taken for something that is null.
        if let Value::Object(members) = &mut line {
            members.retain(|_, value| !value.is_null());
        }
        format!("{line}\n")
    }
}
