//! What only the plain door refuses.

use http::StatusCode;
use httppubsub_proto::plain::{Published, TokenRefused, TopicPathError};

use crate::observe::metrics::Reason;

/// A request of the plain door that is not done. `code` is what programs read: it never changes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody may use this door, so it is as if it were not there.
    #[error("this broadcaster has no tokens: make one with `httppubsub token add`")]
    NoTokens,
    /// Publishing is POST, explaining GET.
    #[error("{0} is not a method of this path")]
    Method(http::Method),
    /// Nothing is said of which tokens there are.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// Another scheme, or no credentials behind it.
    #[error(
        "the header `Authorization` is neither `Bearer hps_…` nor Basic with the token as password"
    )]
    Authorization,
    /// The token is good for other topics.
    #[error("the token {name} may not publish to this topic")]
    NotAllowed {
        /// The name of the token.
        name: String,
    },
    /// The likely mistake is a topic that is not encoded.
    #[error("a topic has no query: encode a `?` in it as `%3F`")]
    Query,
    /// The path is no topic.
    #[error(transparent)]
    Topic(#[from] TopicPathError),
    /// What is announced cannot be compared.
    #[error("the header `{header}` is not a dictionary of digests as RFC 9530 has it")]
    DigestMalformed {
        /// Its name.
        header: &'static str,
    },
    /// The message was damaged on its way, or is another one.
    #[error("the message has another {algorithm} than the header `{header}` says")]
    DigestMismatch {
        /// The name of the header.
        header: &'static str,
        /// The name of the digest, as the header has it.
        algorithm: &'static str,
    },
    /// A message that says it is a CloudEvent has what every one has.
    #[error("the header `{header}` of the CloudEvent is missing or empty")]
    NotACloudEvent {
        /// Its name.
        header: &'static str,
    },
    /// No type that is in use is as long.
    #[error("the header `Content-Type` has more than 255 bytes")]
    ContentType,
    /// Most servers would not take them.
    #[error("the headers that go with the message have {bytes} bytes, 8192 are allowed")]
    HeadersTooLong {
        /// Names and values together.
        bytes: usize,
    },
    /// A structured field, or the bare text that many send.
    #[error("the header `Idempotency-Key` is not 1 to 255 visible ASCII characters, quoted or not")]
    KeyMalformed,
    /// The answer of the first request is not there yet.
    #[error("a message with this `Idempotency-Key` is under way")]
    KeyUnderWay,
    /// The message has another digest than the first one.
    #[error("this `Idempotency-Key` was used for another message")]
    KeyReused,
    /// Its answer is known there alone.
    #[error(
        "a message with this `Idempotency-Key` was taken at another broadcaster, or before a \
         restart"
    )]
    KeyTakenElsewhere,
    /// Each of them would publish it anew.
    #[error("the message has come through {hops} broadcasters: they publish to each other")]
    Loop {
        /// As the publisher says.
        hops: u64,
    },
    /// A broadcaster counts there.
    #[error("the header `Httppubsub-Hops` is not a number")]
    Hops,
    /// What is known of it goes with the answer.
    #[error("what was missed could not be recorded: some subscribers may never hear of it")]
    NotAccountedFor(Box<Published>),
}

impl Refused {
    /// The status that tells of it.
    pub(in crate::http) fn status(&self) -> StatusCode {
        match self {
            Self::NoTokens => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Token(_) | Self::Authorization => StatusCode::UNAUTHORIZED,
            Self::NotAllowed { .. } => StatusCode::FORBIDDEN,
            Self::Query
            | Self::Topic(_)
            | Self::DigestMalformed { .. }
            | Self::DigestMismatch { .. }
            | Self::NotACloudEvent { .. }
            | Self::ContentType
            | Self::KeyMalformed
            | Self::Hops => StatusCode::BAD_REQUEST,
            Self::HeadersTooLong { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::KeyUnderWay | Self::KeyTakenElsewhere => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Loop { .. } => StatusCode::LOOP_DETECTED,
            Self::NotAccountedFor(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The same for programs.
    pub(in crate::http) fn code(&self) -> &'static str {
        match self {
            Self::NoTokens => "no_tokens",
            Self::Method(_) => "method_not_allowed",
            Self::Token(_) | Self::Authorization => "unauthorized",
            Self::NotAllowed { .. } => "not_allowed",
            Self::Query => "query_not_allowed",
            Self::Topic(TopicPathError::Percent { .. }) => "topic_malformed",
            Self::Topic(TopicPathError::TooLong(_)) => "topic_too_long",
            Self::DigestMalformed { .. } => "digest_malformed",
            Self::DigestMismatch { .. } => "digest_mismatch",
            Self::NotACloudEvent { .. } => "not_a_cloudevent",
            Self::ContentType => "content_type_too_long",
            Self::HeadersTooLong { .. } => "headers_too_large",
            Self::KeyMalformed => "key_malformed",
            Self::KeyUnderWay => "key_under_way",
            Self::KeyReused => "key_reused",
            Self::KeyTakenElsewhere => "key_taken_elsewhere",
            Self::Loop { .. } => "loop",
            Self::Hops => "hops_malformed",
            Self::NotAccountedFor(_) => "not_accounted_for",
        }
    }

    /// The reason that is counted.
    pub(in crate::http) fn reason(&self) -> Reason {
        match self {
            Self::Token(_) | Self::Authorization => Reason::Unauthorized,
            Self::NotAllowed { .. } => Reason::Forbidden,
            Self::KeyUnderWay | Self::KeyReused | Self::KeyTakenElsewhere => Reason::Replayed,
            Self::NotAccountedFor(_) => Reason::Unavailable,
            _ => Reason::BadRequest,
        }
    }
}
