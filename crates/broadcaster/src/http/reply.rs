//! What is answered, and the one table from failures to statuses.

use std::net::SocketAddr;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, StatusCode};
use httppubsub_net::{BodyError, FillError, HeadError, Peer, Rejected, chain, stamp};
use httppubsub_proto::auth::{AuthError, CannotAuthorize, Claim};
use httppubsub_proto::http::UNSUBSCRIBE_IMMEDIATE;
use httppubsub_proto::wire::DecodeError;
use httppubsub_store::StoreError;

use crate::core::Core;
use crate::globs::GlobRefused;
use crate::load::Overloaded;
use crate::measures::Reason;
use crate::notify::NotifyError;
use crate::subscriptions::NotASet;
use crate::urls::UrlRefused;

/// Why a request is not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the body is not what this path takes")]
    Decode(#[from] DecodeError),
    #[error("the body cannot be read")]
    Body(#[from] BodyError),
    #[error("the message is not taken")]
    Fill(#[from] FillError),
    #[error("the message has {bytes} bytes, {bytes_max} are allowed here")]
    MessageTooLong { bytes: u64, bytes_max: u64 },
    #[error("the lists are not taken")]
    Lists(#[from] NotASet),
    #[error(transparent)]
    Url(#[from] UrlRefused),
    #[error(transparent)]
    Glob(#[from] GlobRefused),
    #[error("not authorized")]
    Auth(#[from] AuthError),
    #[error("the url has this subscription already")]
    Existed,
    #[error("the url has no such subscription")]
    Absent,
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
    #[error("not now")]
    Store(#[from] StoreError),
    #[error("the notification may not have reached everybody")]
    Notify(#[source] NotifyError),
    #[error("the answer cannot be authorized")]
    Authorize(#[from] CannotAuthorize),
    #[error("this is not the url that was subscribed")]
    WrongUrl,
    #[error("the delivery is not taken")]
    Rejected(#[from] Rejected),
    #[error("this path is for websockets: send `Connection: Upgrade` and `Upgrade: websocket`")]
    NoUpgrade,
    #[error("of websockets only version 13 is spoken: send `Sec-WebSocket-Version: 13`")]
    WebSocketVersion,
    #[error("the header `Sec-WebSocket-Key` is not the base64 of 16 bytes")]
    WebSocketKey,
    #[error("no further websocket: {0}")]
    NoMoreWebSockets(&'static str),
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
            // Nobody got it.
            NotifyError::Overloaded(error) => error.into(),
            error => Self::Notify(error),
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
            Self::Body(error) | Self::Fill(FillError::Body(error)) => body_status(error),
            Self::Fill(FillError::Length { .. } | FillError::Digest { .. }) => {
                StatusCode::BAD_REQUEST
            }
            Self::Fill(FillError::Spool(error)) => spool_status(error),
            Self::MessageTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Auth(error) => auth_status(error),
            Self::Existed | Self::Absent => StatusCode::CONFLICT,
            Self::Overloaded(_) | Self::Store(_) | Self::Notify(_) | Self::Authorize(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Rejected(rejected) => match rejected {
                Rejected::Digest(_) | Rejected::Unwanted => StatusCode::BAD_REQUEST,
                Rejected::Head(HeadError::Decode(_)) => StatusCode::BAD_REQUEST,
                Rejected::Head(HeadError::Body(error)) => body_status(error),
                Rejected::Auth(error) => auth_status(error),
                Rejected::Fill(FillError::Body(error)) => body_status(error),
                Rejected::Fill(FillError::Spool(error)) => spool_status(error),
                Rejected::Fill(FillError::Length { .. } | FillError::Digest { .. }) => {
                    StatusCode::BAD_REQUEST
                }
            },
        }
    }

    /// As what it is counted; `None` where nothing is wrong with the request.
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
            Self::Body(error) => body(error),
            Self::Fill(error) => fill(error),
            Self::MessageTooLong { .. } => Reason::TooLong,
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

    /// Whether nothing came of the request and the peer may send the very same again.
    pub(crate) fn may_be_repeated(&self) -> bool {
        let status = self.status();
        status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT
    }
}

fn body_status(error: &BodyError) -> StatusCode {
    match error {
        BodyError::Broken { .. } => StatusCode::BAD_REQUEST,
        BodyError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
        BodyError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::NoRoom(_) | BodyError::LongHeads => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn spool_status(error: &std::io::Error) -> StatusCode {
    match error.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::FileTooLarge => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn auth_status(error: &AuthError) -> StatusCode {
    match error {
        AuthError::Missing => StatusCode::UNAUTHORIZED,
        AuthError::Wrong(_) | AuthError::Clock { .. } | AuthError::Replayed => {
            StatusCode::FORBIDDEN
        }
        AuthError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Who asks for what, kept until it is answered.
pub(crate) struct Asker {
    verb: &'static str,
    peer: Option<SocketAddr>,
}

impl Asker {
    pub(crate) fn of(verb: &'static str, request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        Self { verb, peer }
    }

    /// The answer, or the reason against one, which is counted.
    pub(crate) fn answer(&self, core: &Core, answer: Result<Response, Failure>) -> Response {
        answer.unwrap_or_else(|failure| {
            self.count(core, &failure);
            failure.into_response()
        })
    }

    pub(crate) fn count(&self, core: &Core, failure: &Failure) {
        let (status, words) = (failure.status(), chain(failure));
        match failure.reason() {
            Some(reason) => {
                let Self { verb, peer } = *self;
                core.refusals.refused(reason, verb, peer, status, &words);
            }
            None => tracing::debug!(status = status.as_u16(), words, "nothing was changed"),
        }
    }
}

impl IntoResponse for Failure {
    /// The reason, in words; nobody's urls, topics or secrets are in it.
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, format!("{}\n", chain(&self))).into_response();
        if status == StatusCode::UPGRADE_REQUIRED {
            let headers = response.headers_mut();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
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

/// What vouches for an answer to a subscriber.
pub(crate) fn vouch(
    core: &Core,
    claim: &Claim<'_>,
    tracing: &[u8],
) -> Result<Option<String>, Failure> {
    Ok(core
        .to_subscriber
        .authorize(claim, tracing, &stamp(core.clock.now()))?)
}
