//! The plain door: publishing with nothing but HTTP and a token.
//!
//! ```text
//!   tokens.json ──▶ Tokens ──▶ Rights        who may publish what
//!   /v1/topics/… ──▶ Topic                   percent-encoded bytes
//!   token name, topic, key ──▶ MessageId     the same at every broadcaster
//! ```

mod answers;
mod explanation;
mod message_id;
mod receipt;
mod token;
mod tokens;
mod topic_path;

pub use answers::{AnswerError, Outcomes, Problem, Published};
pub use explanation::{ExplainedSubscription, Explanation};
pub use message_id::MessageId;
pub use receipt::Receipt;
pub use token::{PlainToken, TokenHash};
pub use tokens::{
    NewRights, Rights, TokenRefused, Tokens, TokensError, TokensProblem, TopicRule, TopicRuleError,
};
pub use topic_path::{TopicPathError, topic_from_path, topic_to_path};
