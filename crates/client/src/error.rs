//! What goes wrong at a client, told apart by what came of it. The message of an error ends with its
//! cause.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use http::StatusCode;
use httppubsub_net::{PostError, chain};
use httppubsub_proto::auth::AuthError;
use httppubsub_proto::glob::GlobTooLong;
use httppubsub_proto::topic::TopicTooLong;
use httppubsub_proto::url::UrlTooLong;
use httppubsub_proto::wire::DecodeError;

/// Why a request to the broadcasters was not, or perhaps not, done.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It was not done, and asking again is of no use.
    #[error("{broadcaster} refused with status {}{}", .status.as_u16(), colon(.reason))]
    Refused {
        /// Url of the broadcaster that refused.
        broadcaster: String,
        /// What it answered.
        status: StatusCode,
        /// Its own words, if it gave any: at most 500 characters.
        reason: String,
    },
    /// It may or may not have been done.
    #[error("{broadcaster} may or may not have done it: {cause}")]
    Ambiguous {
        /// Url of the broadcaster that was asked last without a clear answer.
        broadcaster: String,
        /// Why its answer does not tell.
        cause: AttemptError,
    },
    /// It was not done: no broadcaster was reached that could do it now.
    #[error("not done in {attempts} attempts; the last was at {broadcaster}: {last}")]
    RetriesExhausted {
        /// How often a broadcaster was asked.
        attempts: u32,
        /// Url of the last one.
        broadcaster: String,
        /// Why it was not done there.
        last: AttemptError,
    },
    /// It was not done: it cannot be put into HTTP.
    #[error("the request to {broadcaster} was not sent: {source}")]
    NotSent {
        /// Url of the broadcaster.
        broadcaster: String,
        /// Why not.
        r#source: PostError,
    },
    /// It was not done: too many notifications wait for the websocket already.
    #[error("not done: {max} notifications wait already")]
    TooMany {
        /// The bound, [`unsent_notifications_max`].
        ///
        /// [`unsent_notifications_max`]: crate::WebSocketOptions::unsent_notifications_max
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

    /// Whether the request may have been done all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Ambiguous { .. })
    }
}

/// Why one attempt at a broadcaster did not do.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// There was no answer.
    #[error(transparent)]
    Post(#[from] PostError),
    /// It cannot do it now.
    #[error("status {}{}", .status.as_u16(), colon(.reason))]
    Status {
        /// What it answered.
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

fn colon(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(": {reason}"),
    }
}

/// Why a client does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why not.
        r#source: io::Error,
    },
    /// The client's own url does not fit the protocol.
    #[error(transparent)]
    Url(#[from] UrlTooLong),
}

/// Why there is no subscription; nothing is counted as subscribed then.
#[derive(Debug, thiserror::Error)]
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
    /// Whether it may be subscribed all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_ambiguous())
    }
}

impl From<RequestError> for SubscribeError {
    fn from(cause: RequestError) -> Self {
        Self::Request(cause)
    }
}

/// Why something may still be subscribed at the broadcasters. The client has let go of it already,
/// and tries to put it right at the next reconciliation.
#[derive(Debug, thiserror::Error)]
pub enum UnsubscribeError {
    /// The client or the subscription was closed.
    #[error("it is closed")]
    Closed,
    /// The broadcasters did not do it, or perhaps did.
    #[error("cannot unsubscribe: {0}")]
    Request(RequestError),
}

impl UnsubscribeError {
    /// Whether it may be unsubscribed all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_ambiguous())
    }
}

impl From<RequestError> for UnsubscribeError {
    fn from(cause: RequestError) -> Self {
        Self::Request(cause)
    }
}

/// Why a notification was not, or perhaps not, made.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The topic does not fit the protocol.
    #[error(transparent)]
    Topic(#[from] TopicTooLong),
    /// The message cannot be read, or not be held. Nothing was sent.
    #[error("cannot read the message: {}", chain(.0))]
    Body(io::Error),
    /// The message has another length than was said. Nothing was sent.
    #[error("the message should have {announced} bytes and has {}{got}", if .got > .announced { "at least " } else { "" })]
    Length {
        /// As said.
        announced: u64,
        /// As counted.
        got: u64,
    },
    /// The client was closed. Nothing was sent.
    #[error("the client is closed")]
    Closed,
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
    /// Whether subscribers may have been notified all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_ambiguous())
    }
}

/// What went wrong while a client was closed. It is closed all the same.
#[derive(Debug, thiserror::Error)]
#[error("closed, but {}", self.what())]
pub struct CloseError {
    /// Why subscriptions may be left at the broadcasters.
    pub unsubscribe: Vec<RequestError>,
    /// How many connections were cut off when the grace period was over.
    pub connections_cut_off: usize,
    /// Whether the runtime in which the client was started had ended, so that nothing could be
    /// unsubscribed.
    pub runtime_ended: bool,
}

impl CloseError {
    fn what(&self) -> String {
        let mut what = Vec::new();
        if let Some(first) = self.unsubscribe.first() {
            what.push(format!("subscriptions may be left: {}", first));
        }
        if self.runtime_ended {
            let why = "subscriptions may be left: the runtime it was started in has ended";
            what.push(why.to_owned());
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
