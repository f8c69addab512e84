//! Answers, and the one table from failures to statuses.
//!
//! A failure is what a use case or a request says; a status is decided here and nowhere else, so
//! the same failure has the same status at every path. Both tables are exhaustive: a new failure
//! asks for its status and for the reason by which it is counted.

use std::net::SocketAddr;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderValue, StatusCode};
use httppubsub_net::body::{BodyError, FillError, HeadError};
use httppubsub_net::error_chain;
use httppubsub_net::inbound::{Peer, Rejected};
use httppubsub_proto::auth::{AuthError, CannotAuthorize};
use httppubsub_proto::plain::Problem;
use httppubsub_proto::stateless::UNSUBSCRIBE_IMMEDIATE;
use httppubsub_proto::wire::DecodeError;
use httppubsub_store::StoreError;

use crate::admission::overloaded::Overloaded;
use crate::http::plain::Refused;
use crate::index::globs::GlobRefused;
use crate::notify::admit::{NotAdmitted, TooLong};
use crate::notify::notify::{NotBegun, NotifyError};
use crate::observe::metrics::Reason;
use crate::observe::refusals::Refusals;
use crate::subscriptions::set::{NotASet, SetError};
use crate::subscriptions::subscribe::SubscribeError;
use crate::subscriptions::unsubscribe::UnsubscribeError;
use crate::subscriptions::url_policy::UrlRefused;

/// A request is not answered as asked. It is shown to an asker that may be anybody, so it names
/// nothing of others: no url, topic or path that was not in the request itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The head or the lists do not parse.
    #[error("the body is not what this path takes")]
    Decode(#[from] DecodeError),
    /// It broke off, came too slowly, or there is no memory for it.
    #[error("the body cannot be read")]
    Body(#[from] BodyError),
    /// It is not the announced one, or could not be held.
    #[error("the message is not taken")]
    Fill(#[from] FillError),
    /// It is longer than [`Config::message_bytes_max`](crate::Config::message_bytes_max).
    #[error(transparent)]
    MessageTooLong(#[from] TooLong),
    /// They are not the set that the head announces.
    #[error("the lists are not taken")]
    Lists(#[from] NotASet),
    /// It may not be subscribed.
    #[error(transparent)]
    Url(#[from] UrlRefused),
    /// It is too long, or has too many stars.
    #[error(transparent)]
    Glob(#[from] GlobRefused),
    /// The authorization is missing, wrong, expired or used.
    #[error("not authorized")]
    Auth(#[from] AuthError),
    /// SUBSCRIBE would change nothing.
    #[error("the url has this subscription already")]
    Existed,
    /// UNSUBSCRIBE would change nothing.
    #[error("the url has no such subscription")]
    Absent,
    /// There is too much to do: nothing was begun.
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    /// The store failed, before anything was changed.
    #[error("not now")]
    Store(#[from] StoreError),
    /// The store failed, or time was over, while it was delivered.
    #[error("the notification may not have reached everybody")]
    Notify(#[source] NotifyError),
    /// The scheme of this end has no value for it. What was asked is done.
    #[error("the answer cannot be authorized")]
    Authorize(#[from] CannotAuthorize),
    /// RECEIVE or MISSED came to another path than that of this broadcaster's rows.
    #[error("this is not the url that was subscribed")]
    WrongUrl,
    /// A RECEIVE for the websockets of this broadcaster is not what it claims to be.
    #[error("the delivery is not taken")]
    Rejected(#[from] Rejected),
    /// A plain request for the path of websockets.
    #[error("this path is for websockets: send `Connection: Upgrade` and `Upgrade: websocket`")]
    NoUpgrade,
    /// RFC 6455 is version 13; the others are drafts before it.
    #[error("of websockets only version 13 is spoken: send `Sec-WebSocket-Version: 13`")]
    WebSocketVersion,
    /// A key of another length.
    #[error("the header `Sec-WebSocket-Key` is not the base64 of 16 bytes")]
    WebSocketKey,
    /// There are as many as may be, or the broadcaster stops.
    #[error("no further websocket: {0}")]
    NoMoreWebSockets(&'static str),
    /// A request of the plain door is not what it takes.
    #[error(transparent)]
    Plain(#[from] Refused),
}

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Body(error) => error.into(),
            HeadError::Decode(error) => error.into(),
        }
    }
}

impl From<NotifyError> for Failure {
    fn from(error: NotifyError) -> Self {
        match error {
            NotifyError::NotBegun(NotBegun::Overloaded(error)) => error.into(),
            NotifyError::NotBegun(NotBegun::Store(error)) => error.into(),
            error => Self::Notify(error),
        }
    }
}

impl From<NotAdmitted> for Failure {
    fn from(error: NotAdmitted) -> Self {
        match error {
            NotAdmitted::Overloaded(error) => error.into(),
            NotAdmitted::TooLong(error) => error.into(),
        }
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Url(error) => error.into(),
            SubscribeError::Glob(error) => error.into(),
            SubscribeError::Existed => Self::Existed,
            SubscribeError::Store(error) => error.into(),
        }
    }
}

impl From<UnsubscribeError> for Failure {
    fn from(error: UnsubscribeError) -> Self {
        match error {
            UnsubscribeError::Url(error) => error.into(),
            UnsubscribeError::Absent => Self::Absent,
            UnsubscribeError::Store(error) => error.into(),
        }
    }
}

impl From<SetError> for Failure {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Lists(error) => error.into(),
            SetError::Url(error) => error.into(),
            SetError::Glob(error) => error.into(),
            SetError::Store(error) => error.into(),
        }
    }
}

impl Failure {
    /// The status that tells of this failure (`docs/protocol/stateless.md` §2 and §8).
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Decode(_)
            | Self::Lists(_)
            | Self::Glob(_)
            | Self::WrongUrl
            | Self::WebSocketKey => StatusCode::BAD_REQUEST,
            Self::Url(UrlRefused::Scheme(_) | UrlRefused::Unusable { .. }) => {
                StatusCode::BAD_REQUEST
            }
            Self::Url(UrlRefused::Forbidden { .. } | UrlRefused::ForWebSockets { .. }) => {
                StatusCode::FORBIDDEN
            }
            Self::NoUpgrade | Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::NoMoreWebSockets(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Plain(refused) => refused.status(),
            Self::Body(error) | Self::Fill(FillError::Body(error)) => error.status(),
            Self::Fill(FillError::Length { .. } | FillError::Digest { .. }) => {
                StatusCode::BAD_REQUEST
            }
            Self::Fill(FillError::Spool(error)) => spool_status(error),
            Self::MessageTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Auth(error) => auth_status(error),
            Self::Existed | Self::Absent => StatusCode::CONFLICT,
            Self::Overloaded(_) | Self::Store(_) | Self::Notify(_) | Self::Authorize(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Rejected(rejected) => match rejected {
                Rejected::Digest(_) | Rejected::Unwanted => StatusCode::BAD_REQUEST,
                Rejected::Head(HeadError::Decode(_)) => StatusCode::BAD_REQUEST,
                Rejected::Head(HeadError::Body(error)) => error.status(),
                Rejected::Auth(error) => auth_status(error),
                Rejected::Fill(FillError::Body(error)) => error.status(),
                Rejected::Fill(FillError::Spool(error)) => spool_status(error),
                Rejected::Fill(FillError::Length { .. } | FillError::Digest { .. }) => {
                    StatusCode::BAD_REQUEST
                }
            },
        }
    }

    /// The reason that is counted; `None` where nothing is wrong with the request. It is coarser
    /// than the status where an operator would do the same about it, and finer where not: a
    /// signature that was used and one of another time are both 403.
    fn reason(&self) -> Option<Reason> {
        let body = |error: &BodyError| match error {
            BodyError::Broken { .. } => Reason::BadRequest,
            BodyError::TooSlow { .. } => Reason::TooSlow,
            BodyError::TooLong { .. } => Reason::TooLong,
            BodyError::NoRoom(_) | BodyError::LongHeads => Reason::NoRoom,
        };
        let auth = |error: &AuthError| match error {
            AuthError::Missing => Reason::Unauthorized,
            AuthError::Wrong(_) => Reason::Forbidden,
            AuthError::Clock { .. } => Reason::Clock,
            AuthError::Replayed => Reason::Replayed,
            AuthError::Unavailable(_) => Reason::Unavailable,
        };
        let fill = |error: &FillError| match error {
            FillError::Body(error) => body(error),
            FillError::Length { .. } | FillError::Digest { .. } => Reason::BadRequest,
            FillError::Spool(_) => Reason::NoRoom,
        };
        Some(match self {
            // Who asks cannot know, and nothing is wrong with asking.
            Self::Existed | Self::Absent => return None,
            Self::Decode(_)
            | Self::Lists(_)
            | Self::Glob(_)
            | Self::WrongUrl
            | Self::WebSocketKey
            | Self::NoUpgrade
            | Self::WebSocketVersion
            | Self::Url(UrlRefused::Scheme(_) | UrlRefused::Unusable { .. }) => Reason::BadRequest,
            Self::Url(UrlRefused::Forbidden { .. } | UrlRefused::ForWebSockets { .. }) => {
                Reason::Url
            }
            Self::NoMoreWebSockets(_) => Reason::WebSockets,
            Self::Plain(refused) => refused.reason(),
            Self::Body(error) => body(error),
            Self::Fill(error) => fill(error),
            Self::MessageTooLong(_) => Reason::TooLong,
            Self::Auth(error) => auth(error),
            Self::Overloaded(_) => Reason::Overloaded,
            Self::Store(_) | Self::Notify(_) | Self::Authorize(_) => Reason::Unavailable,
            Self::Rejected(rejected) => match rejected {
                Rejected::Digest(_) | Rejected::Unwanted => Reason::BadRequest,
                Rejected::Head(HeadError::Decode(_)) => Reason::BadRequest,
                Rejected::Head(HeadError::Body(error)) => body(error),
                Rejected::Auth(error) => auth(error),
                Rejected::Fill(error) => fill(error),
            },
        })
    }

    /// The same for programs that use the plain door; it never changes. What only other doors can
    /// fail by has the code of its status.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Plain(refused) => refused.code(),
            Self::MessageTooLong(_) => "too_long",
            Self::Overloaded(_) => "overloaded",
            Self::Store(_) => "store_unavailable",
            Self::Notify(_) => "not_accounted_for",
            Self::Body(error) | Self::Fill(FillError::Body(error)) => match error {
                BodyError::Broken { .. } => "body_broken",
                BodyError::TooSlow { .. } => "too_slow",
                BodyError::TooLong { .. } => "too_long",
                BodyError::NoRoom(_) | BodyError::LongHeads => "overloaded",
            },
            Self::Fill(FillError::Spool(error)) => match spool_status(error) {
                StatusCode::INSUFFICIENT_STORAGE => "disk_full",
                _ => "disk_unavailable",
            },
            failure => match failure.status() {
                StatusCode::SERVICE_UNAVAILABLE => "overloaded",
                StatusCode::FORBIDDEN => "not_allowed",
                StatusCode::UNAUTHORIZED => "unauthorized",
                _ => "bad_request",
            },
        }
    }

    /// The answer of the plain door.
    fn into_problem(self) -> Response {
        let status = self.status();
        let (detail, code) = (error_chain(&self), self.code());
        let is_for_now = matches!(self, Self::Plain(Refused::KeyUnderWay))
            || status == StatusCode::SERVICE_UNAVAILABLE;
        let problem = Problem {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            detail,
            code,
            published: match self {
                Self::Plain(Refused::NotAccountedFor(published)) => Some(published),
                _ => None,
            },
        };
        let mut response = answer_json(status, Problem::CONTENT_TYPE, problem.to_text());
        let headers = response.headers_mut();
        // Required with these statuses (RFC 9110 §15.5.2, §15.5.6).
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(ALLOW, HeaderValue::from_static("GET,HEAD,POST"));
            }
            _ => {}
        }
        if is_for_now {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// `true` if the request changed nothing and the peer may send the very same again. Its
    /// authorization is then given back.
    pub(crate) fn may_be_repeated(&self) -> bool {
        let status = self.status();
        status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT
    }
}

/// The status of a message that could not be kept: the disk may be full, or failing. 507 tells the
/// sender that a shorter one may be taken, 503 that the same may be later.
fn spool_status(error: &std::io::Error) -> StatusCode {
    match error.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::FileTooLarge => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The status of an authorization that does not count.
fn auth_status(error: &AuthError) -> StatusCode {
    match error {
        AuthError::Missing => StatusCode::UNAUTHORIZED,
        AuthError::Wrong(_) | AuthError::Clock { .. } | AuthError::Replayed => {
            StatusCode::FORBIDDEN
        }
        AuthError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The verb and the peer of a request, kept until it is answered.
pub(crate) struct Asker {
    /// For the log.
    verb: &'static str,
    /// For the log, if it came over a server of our own.
    peer: Option<SocketAddr>,
}

impl Asker {
    /// The verb `verb`, asked by who sent `request`.
    pub(crate) fn of(verb: &'static str, request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        Self { verb, peer }
    }

    /// The answer, or the reason against one, which is counted.
    pub(crate) fn answer(
        &self,
        refusals: &Refusals,
        answer: Result<Response, Failure>,
    ) -> Response {
        self.answer_by(refusals, answer, Failure::into_response)
    }

    /// The same for the plain door, which says a failure in JSON.
    pub(crate) fn answer_plainly(
        &self,
        refusals: &Refusals,
        answer: Result<Response, Failure>,
    ) -> Response {
        self.answer_by(refusals, answer, Failure::into_problem)
    }

    /// The answer, or a failure that is counted and then `shown`.
    fn answer_by(
        &self,
        refusals: &Refusals,
        answer: Result<Response, Failure>,
        shown: impl FnOnce(Failure) -> Response,
    ) -> Response {
        answer.unwrap_or_else(|failure| {
            self.count(refusals, &failure);
            shown(failure)
        })
    }

    /// Counts a failure, and says it in the log unless nothing is wrong with the request.
    pub(crate) fn count(&self, refusals: &Refusals, failure: &Failure) {
        let (status, words) = (failure.status(), error_chain(failure));
        match failure.reason() {
            Some(reason) => {
                let Self { verb, peer } = *self;
                refusals.refused(reason, verb, peer, status, &words);
            }
            None => tracing::debug!(status = status.as_u16(), words, "nothing was changed"),
        }
    }
}

impl IntoResponse for Failure {
    /// The reason, in words; nobody's urls, topics or secrets are in it.
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, format!("{}\n", error_chain(&self))).into_response();
        // Required with this status (RFC 9110 §15.5.22, RFC 6455 §4.4).
        if status == StatusCode::UPGRADE_REQUIRED {
            let headers = response.headers_mut();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        // Most of what there is too much of is less a second later.
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// An answer of the plain door.
pub(crate) fn answer_json(
    status: StatusCode,
    content_type: &'static str,
    text: String,
) -> Response {
    let mut response = answer(status, text);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer of the protocol.
pub(crate) fn answer(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(axum::body::Body::from(body.into()));
    *response.status_mut() = status;
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, octets);
    response
}

/// The answer by which a subscriber ends a subscription.
pub(crate) fn unsubscribe_immediate(status: StatusCode) -> Response {
    answer(status, bytes::Bytes::from_static(&UNSUBSCRIBE_IMMEDIATE))
}
