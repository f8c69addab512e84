//! Errors of a client, one type an operation. The message of an error ends with its
//! cause.

use std::io;
use std::num::NonZeroUsize;

use http::StatusCode;
use httppubsub_net::error_chain;
use httppubsub_net::outbound::PostError;
use httppubsub_proto::auth::AuthError;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::glob::GlobTooLong;
use httppubsub_proto::plain::AnswerError;
use httppubsub_proto::topic::TopicTooLong;
use httppubsub_proto::url::UrlTooLong;
use httppubsub_proto::wire::DecodeError;

use crate::config::ConfigError;

/// A request to the broadcasters that was not, or perhaps not, done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// It was not done, and asking again is of no use.
    #[error("{broadcaster} refused with status {}{}", .status.as_u16(), colon(.reason))]
    Refused {
        /// Url of the broadcaster that refused.
        broadcaster: String,
        /// The status of its answer.
        status: StatusCode,
        /// Its own words, if it gave any: at most 500 characters.
        reason: String,
    },
    /// It may or may not have been done.
    #[error("{broadcaster} may or may not have done it: {cause}")]
    Ambiguous {
        /// Url of the broadcaster that was asked last without a clear answer.
        broadcaster: String,
        /// The reason why its answer does not tell.
        cause: AttemptError,
    },
    /// It was not done: no broadcaster was reached that could do it now.
    #[error("not done in {attempts} attempts; the last was at {broadcaster}: {last}")]
    RetriesExhausted {
        /// Number of requests that were made.
        attempts: u32,
        /// Url of the last one.
        broadcaster: String,
        /// The reason why it was not done there.
        last: AttemptError,
    },
    /// It was not done: it cannot be put into HTTP.
    #[error("the request to {broadcaster} was not sent: {source}")]
    NotSent {
        /// Url of the broadcaster.
        broadcaster: String,
        /// The reason.
        r#source: PostError,
    },
    /// It was not done: too many notifications wait for the websocket already.
    #[error("not done: {max} notifications wait already")]
    TooMany {
        /// The bound, [`unsent_notifications_max`].
        ///
        /// [`unsent_notifications_max`]: crate::WebSocketConfig::unsent_notifications_max
        max: NonZeroUsize,
    },
}

impl RequestError {
    /// Url of the broadcaster that this is about; empty if it is about none.
    pub fn broadcaster(&self) -> &str {
        match self {
            Self::Refused { broadcaster, .. }
            | Self::Ambiguous { broadcaster, .. }
            | Self::RetriesExhausted { broadcaster, .. }
            | Self::NotSent { broadcaster, .. } => broadcaster,
            Self::TooMany { .. } => "",
        }
    }

    /// `true` if the request may have been done all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Ambiguous { .. })
    }
}

/// A failed attempt at one broadcaster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptError {
    /// There was no answer.
    #[error(transparent)]
    Post(#[from] PostError),
    /// It cannot do it now.
    #[error("status {}{}", .status.as_u16(), colon(.reason))]
    Status {
        /// The status of its answer.
        status: StatusCode,
        /// Its own words, if it gave any: at most 500 characters.
        reason: String,
    },
    /// It says that it did, and not in words that could be understood.
    #[error("the answer does not parse: {0}")]
    Decode(DecodeError),
    /// It says that it did something else.
    #[error("the answer is to another notification")]
    Identifier,
    /// There is no websocket, or it was lost.
    #[error("{0}")]
    WebSocket(String),
    /// The client was closed before anything was sent.
    #[error("the client was closed")]
    Closed,
    /// Nothing vouches for what it says.
    #[error("the answer cannot be trusted: {0}")]
    Auth(AuthError),
    /// It says that a message was published, and not in words that could be understood.
    #[error(transparent)]
    Plain(#[from] AnswerError),
}

impl From<DecodeError> for AttemptError {
    fn from(cause: DecodeError) -> Self {
        Self::Decode(cause)
    }
}

impl From<AuthError> for AttemptError {
    fn from(cause: AuthError) -> Self {
        Self::Auth(cause)
    }
}

/// The reason behind a colon; nothing without one.
fn colon(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    }
}

/// A client that does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// As it was given.
        address: String,
        /// The reason.
        r#source: io::Error,
    },
    /// The client's own url does not fit the protocol.
    #[error(transparent)]
    Url(#[from] UrlTooLong),
    /// The configuration is refused: [`Client::connect`] makes it itself.
    ///
    /// [`Client::connect`]: crate::Client::connect
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A subscription that was not made; nothing is counted as subscribed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The topic does not fit the protocol.
    #[error(transparent)]
    Topic(#[from] TopicTooLong),
    /// The glob does not fit the protocol.
    #[error(transparent)]
    Glob(#[from] GlobTooLong),
    /// The client is configured to notify only.
    #[error("the client is bound to nothing, so it cannot receive")]
    CannotReceive,
    /// The client or the subscription was closed.
    #[error("it is closed")]
    Closed,
    /// The broadcasters did not do it, or perhaps did.
    #[error("cannot subscribe: {0}")]
    Request(RequestError),
}

impl SubscribeError {
    /// `true` if it may be subscribed all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_ambiguous())
    }
}

impl From<RequestError> for SubscribeError {
    fn from(cause: RequestError) -> Self {
        Self::Request(cause)
    }
}

/// A subscription that broadcasters may still hold. The client has let go of it already,
/// and tries to put it right at the next reconciliation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsubscribeError {
    /// The client or the subscription was closed.
    #[error("it is closed")]
    Closed,
    /// The broadcasters did not do it, or perhaps did.
    #[error("cannot unsubscribe: {0}")]
    Request(RequestError),
}

impl UnsubscribeError {
    /// `true` if it may be unsubscribed all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_ambiguous())
    }
}

impl From<RequestError> for UnsubscribeError {
    fn from(cause: RequestError) -> Self {
        Self::Request(cause)
    }
}

/// A notification that was not, or perhaps not, made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The topic does not fit the protocol.
    #[error(transparent)]
    Topic(#[from] TopicTooLong),
    /// The message cannot be read, or not be held. Nothing was sent.
    #[error("cannot read the message: {}", error_chain(.0))]
    Body(io::Error),
    /// The message has another length than was said. Nothing was sent.
    #[error(
        "the message should have {announced} bytes and has {}{got}",
        if .got > .announced { "at least " } else { "" }
    )]
    Length {
        /// As said.
        announced: u64,
        /// As counted.
        got: u64,
    },
    /// The message has another digest than was said. Nothing was sent.
    #[error("the message has the sha512 {got}, not the one that was said")]
    Digest {
        /// As computed.
        got: Box<Sha512>,
    },
    /// The client was closed. Nothing was sent.
    #[error("the client is closed")]
    Closed,
    /// The idempotency key is refused. Nothing was sent.
    #[error("the idempotency key is not 1 to 255 visible ASCII characters")]
    Key,
    /// The broadcasters did not do it, or perhaps did.
    #[error("cannot notify: {0}")]
    Request(RequestError),
}

impl From<RequestError> for NotifyError {
    fn from(cause: RequestError) -> Self {
        Self::Request(cause)
    }
}

impl NotifyError {
    /// `true` if subscribers may have been notified all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_ambiguous())
    }
}

/// Failures while a client was closed. It is closed all the same.
#[derive(Debug, thiserror::Error)]
#[error("closed, but {}", self.what())]
#[non_exhaustive]
pub struct CloseError {
    /// The reasons why subscriptions may be left at the broadcasters.
    pub unsubscribe: Vec<RequestError>,
    /// Number of connections that were cut off when the grace period was over.
    pub connections_cut_off: usize,
    /// `true` if the runtime in which the client was started had ended, so that nothing could be
    /// unsubscribed.
    pub runtime_ended: bool,
    /// `true` if the time was over before the broadcasters had answered.
    pub timed_out: bool,
}

impl CloseError {
    /// All failures in one sentence. Of several of one kind the first stands for all.
    fn what(&self) -> String {
        let mut what = Vec::new();
        if let Some(first) = self.unsubscribe.first() {
            what.push(format!("subscriptions may be left: {}", first));
        }
        if self.runtime_ended {
            let why = "subscriptions may be left: the runtime it was started in has ended";
            what.push(why.to_owned());
        }
        if self.timed_out {
            what.push("subscriptions may be left: the time was over".to_owned());
        }
        if self.connections_cut_off > 0 {
            what.push(format!(
                "{} connections were cut off",
                self.connections_cut_off
            ));
        }
        what.join("; ")
    }
}
