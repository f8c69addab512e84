//! What broadcasters post to a client: RECEIVE and MISSED (`docs/protocol/stateless.md` §6 and §7).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httppubsub_net::{
    BodyError, BodyLimits, BodyReader, Clock, FillError, HeadError, Judge, Peer, Rejected,
    ReplayGuard, Spool, chain, first_that_verifies, receive, stamp,
};
use httppubsub_proto::auth::{AuthError, Authorization, CannotAuthorize, Claim};
use httppubsub_proto::http::{ConfirmMissed, ConfirmReceive, HEAD_BYTES_MAX, MissedHead};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{ClientUrls, SubscriberUrl};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::dispatch::{Dispatch, Handed};
use crate::message::Message;

/// The door through which messages come in.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) urls: ClientUrls,
    pub(crate) to_broadcaster: Arc<dyn Authorization>,
    pub(crate) to_subscriber: Arc<dyn Authorization>,
    pub(crate) guard: Arc<ReplayGuard>,
    pub(crate) spool: Spool,
    pub(crate) body: BodyLimits,
    pub(crate) clock: Clock,
    pub(crate) dispatch: Arc<Dispatch>,
    /// Told when the subscriptions should be looked after at once.
    pub(crate) doubt: Arc<Notify>,
    /// Cancelled when nothing is taken any more.
    pub(crate) stopped: CancellationToken,
    /// When the log was last warned, in seconds since the epoch.
    pub(crate) warned_at: AtomicU64,
}

/// Why something that was posted is not taken.
#[derive(Debug, thiserror::Error)]
enum Turned {
    #[error("the client is shut down")]
    ShutDown,
    #[error("the delivery is not taken")]
    Rejected(#[from] Rejected),
    #[error("the body is not a MISSED")]
    Head(#[from] HeadError),
    #[error("nothing vouches for the MISSED")]
    Auth(#[from] AuthError),
    #[error("no subscription has room for the message")]
    Full,
    #[error("the confirmation cannot be authorized")]
    Authorize(#[from] CannotAuthorize),
}

/// `POST /v1/receive`.
pub(crate) async fn receive_one(State(inbound): State<Arc<Inbound>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = BodyReader::new(body, inbound.body, inbound.spool.clone());
    let taken = inbound.take(&parts, &mut body).await;
    body.abandon();
    taken.unwrap_or_else(|turned| {
        inbound.log(&turned, "RECEIVE");
        empty(turned.status())
    })
}

/// `POST /v1/recover`.
pub(crate) async fn recover_one(State(inbound): State<Arc<Inbound>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = BodyReader::new(body, inbound.body, inbound.spool.clone());
    let taken = inbound.take_missed(&parts.headers, &mut body).await;
    body.abandon();
    taken.unwrap_or_else(|turned| {
        inbound.log(&turned, "MISSED");
        empty(turned.status())
    })
}

impl Inbound {
    async fn take(&self, parts: &Parts, body: &mut BodyReader<Body>) -> Result<Response, Turned> {
        if self.stopped.is_cancelled() {
            return Err(Turned::ShutDown);
        }
        let now = self.clock.now();
        let judge = Judge {
            urls: &spellings(&self.urls.receive),
            authorization: &*self.to_subscriber,
            guard: &self.guard,
            peer: parts.extensions.get::<Peer>(),
        };
        let headers = &parts.headers;
        let (digest, value) = (
            header(headers, &REPR_DIGEST),
            header(headers, &AUTHORIZATION),
        );
        // A message that nobody here wants is confirmed all the same.
        let received = match receive(
            digest,
            value,
            body,
            &judge,
            |_| std::future::ready(true),
            now,
        )
        .await
        {
            Ok(received) => received,
            Err(rejected) => {
                if let Rejected::Auth(AuthError::Unavailable(_)) = rejected {
                    self.dispatch.lost();
                }
                return Err(rejected.into());
            }
        };
        let identifier = &received.head.identifier;
        let claim = Claim::ConfirmReceive {
            identifier,
            subscribers: 1,
            url: received.url,
        };
        let confirmation = ConfirmReceive {
            authorization: self.vouch(&claim, now)?,
            tracing: Bytes::new(),
            identifier: identifier.clone(),
            subscribers: 1,
        };
        let message = Message {
            topic: received.head.topic,
            payload: received.payload,
            received: now,
        };
        self.dispatch.found();
        match self.dispatch.hand(&message) {
            Handed::Taken | Handed::Unwanted => Ok(answer(StatusCode::OK, confirmation.encode())),
            Handed::Full => Err(Turned::Full),
        }
    }

    async fn take_missed(
        &self,
        headers: &HeaderMap,
        body: &mut BodyReader<Body>,
    ) -> Result<Response, Turned> {
        let now = self.clock.now();
        let decode = |bytes: &[u8]| Ok((MissedHead::decode(bytes)?, bytes.len()));
        let MissedHead { tracing, topic } = body.head(HEAD_BYTES_MAX, decode).await?;
        let value = header(headers, &AUTHORIZATION);
        let urls = spellings(&self.urls.recovery);
        let (unspent, url) = first_that_verifies(&urls, |recovery| {
            let claim = Claim::Missed {
                recovery,
                topic: &topic,
            };
            self.to_subscriber.verify(&claim, &tracing, value, now)
        })?;
        let _spent = self.guard.spend(unspent, now).await?;
        if self.stopped.is_cancelled() {
            return Err(Turned::ShutDown);
        }
        let authorization = self.vouch(&Claim::ConfirmMissed { topic: &topic, url }, now)?;
        self.missed(&topic);
        let confirmation = ConfirmMissed {
            authorization,
            tracing: Bytes::new(),
        };
        Ok(answer(StatusCode::OK, confirmation.encode()))
    }

    fn missed(&self, topic: &Topic) {
        tracing::debug!(?topic, "a message was missed");
        self.dispatch.found();
        self.dispatch.missed(topic);
        self.doubt.notify_one();
    }

    fn log(&self, turned: &Turned, message: &'static str) {
        let (status, error) = (turned.status().as_u16(), chain(turned));
        let now = self.clock.now().unix_seconds();
        let before = self.warned_at.load(Ordering::Relaxed);
        if turned.is_alarming() && now.abs_diff(before) >= WARNING_INTERVAL_SECONDS {
            self.warned_at.store(now, Ordering::Relaxed);
            tracing::warn!(status, error, "a {message} was turned away");
        } else {
            tracing::debug!(status, error, "a {message} was turned away");
        }
    }

    fn vouch(&self, claim: &Claim<'_>, now: Now) -> Result<Option<String>, CannotAuthorize> {
        self.to_broadcaster.authorize(claim, b"", &stamp(now))
    }
}

/// The texts that a signature for `url` may be over: as registered, and as it is requested
/// (`docs/protocol/auth.md` §6).
fn spellings(url: &SubscriberUrl) -> Vec<&str> {
    let mut spellings = vec![url.as_str(), url.without_fragment()];
    spellings.dedup();
    spellings
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get(name).map(HeaderValue::as_bytes)
}

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

impl Turned {
    /// The one table from failures to statuses. Whatever is wrong with a delivery costs that one
    /// delivery: no answer ends a subscription (`docs/reliability.md` §5.1 no. 5).
    fn status(&self) -> StatusCode {
        match self {
            Self::ShutDown | Self::Full | Self::Authorize(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Auth(error) | Self::Rejected(Rejected::Auth(error)) => match error {
                AuthError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                AuthError::Missing
                | AuthError::Wrong(_)
                | AuthError::Clock { .. }
                | AuthError::Replayed => StatusCode::FORBIDDEN,
            },
            Self::Head(error) | Self::Rejected(Rejected::Head(error)) => match error {
                HeadError::Decode(_) => StatusCode::BAD_REQUEST,
                HeadError::Body(error) => body_status(error),
            },
            Self::Rejected(Rejected::Fill(error)) => match error {
                FillError::Body(error) => body_status(error),
                FillError::Length { .. } => StatusCode::BAD_REQUEST,
                FillError::Digest { .. } => StatusCode::FORBIDDEN,
                FillError::Spool(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Rejected(Rejected::Digest(_) | Rejected::Unwanted) => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether somebody should look after this client.
    fn is_alarming(&self) -> bool {
        matches!(
            self,
            Self::Full
                | Self::Authorize(_)
                | Self::Auth(AuthError::Clock { .. })
                | Self::Rejected(Rejected::Auth(AuthError::Clock { .. }))
                | Self::Rejected(Rejected::Fill(FillError::Spool(_)))
        )
    }
}

/// Who posts here is not known, and must not fill the log.
const WARNING_INTERVAL_SECONDS: u64 = 60;

fn body_status(error: &BodyError) -> StatusCode {
    match error {
        BodyError::Broken { .. } => StatusCode::BAD_REQUEST,
        BodyError::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
        BodyError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BodyError::NoRoom(_) | BodyError::LongHeads => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn answer(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, octets);
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
