//! The webhook: RECEIVE and MISSED (`docs/protocol/stateless.md` §6 and §7).
//!
//! A post is taken in this order, so that a stranger costs as little as possible:
//!
//! 1. the head, which is short, and its authorization;
//! 2. the message, with its length and digest checked, into memory or a file within bounds;
//! 3. the confirmation, which is authorized before anybody sees the message: if that fails, the
//!    delivery is repeated and must not have been handed out;
//! 4. the subscriptions.
//!
//! The answer says what became of it, and no answer ends a subscription: a client that does not
//! want a topic any longer says so by UNSUBSCRIBE, which is signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httppubsub_net::body::{BodyLimits, BodyReader, FillError, HeadError, Spool};
use httppubsub_net::inbound::{Peer, Rejected, ReplayGuard, Verifier, receive, verify_any_url};
use httppubsub_net::{Clock, error_chain, stamp};
use httppubsub_proto::auth::{AuthError, Authorization, CannotAuthorize, Claim};
use httppubsub_proto::number::Number;
use httppubsub_proto::stateless::{
    ConfirmMissed, ConfirmReceive, HEAD_BYTES_MAX, MissedHead, ReceiveHead,
};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{ClientUrls, SubscriberUrl};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::receive::dispatch::{Dispatch, Handed};
use crate::receive::message::Message;
use crate::receive::numbers::{Arriving, Numbers};

/// The door through which messages come in.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Registered at broadcasters; signatures are over them.
    pub(crate) urls: ClientUrls,
    /// Signs confirmations.
    pub(crate) to_broadcaster: Arc<dyn Authorization>,
    /// Verifies deliveries.
    pub(crate) to_subscriber: Arc<dyn Authorization>,
    /// Remembers signatures of deliveries, so that none counts twice.
    pub(crate) guard: Arc<ReplayGuard>,
    /// Holds messages, within its bounds.
    pub(crate) spool: Spool,
    /// Bounds on how slowly a body may come.
    pub(crate) body: BodyLimits,
    /// Read once for each post.
    pub(crate) clock: Clock,
    /// The subscriptions.
    pub(crate) dispatch: Arc<Dispatch>,
    /// Finds out by the numbers of deliveries what was missed.
    pub(crate) numbers: Arc<Numbers>,
    /// Told when the subscriptions should be looked after at once.
    pub(crate) reconcile_now: Arc<Notify>,
    /// Cancelled when nothing more is taken.
    pub(crate) stopped: CancellationToken,
    /// Time of the last warning in the log, in seconds since the epoch.
    pub(crate) warned_at: AtomicU64,
}

/// A post that is not taken.
#[derive(Debug, thiserror::Error)]
enum InboundError {
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
    taken.unwrap_or_else(|error| {
        inbound.log(&error, "RECEIVE");
        empty(error.status())
    })
}

/// `POST /v1/recover`.
pub(crate) async fn recover_one(State(inbound): State<Arc<Inbound>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = BodyReader::new(body, inbound.body, inbound.spool.clone());
    let taken = inbound.take_missed(&parts.headers, &mut body).await;
    body.abandon();
    taken.unwrap_or_else(|error| {
        inbound.log(&error, "MISSED");
        empty(error.status())
    })
}

impl Inbound {
    /// Takes a RECEIVE and returns its confirmation.
    async fn take(
        &self,
        parts: &Parts,
        body: &mut BodyReader<Body>,
    ) -> Result<Response, InboundError> {
        // 503 and not 404: the broadcaster counts it as missed, and sends a notice that finds the
        // next process of this client.
        if self.stopped.is_cancelled() {
            return Err(InboundError::ShutDown);
        }
        let now = self.clock.now();
        let verifier = Verifier {
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
        let mut arriving = None;
        let begun = |head: &ReceiveHead| {
            arriving = Number::of(&head.identifier).map(|it| self.numbers.begin(it));
        };
        // A message that nobody here wants is confirmed all the same.
        let received = match receive(
            digest,
            value,
            body,
            &verifier,
            |_| std::future::ready(true),
            begun,
            now,
        )
        .await
        {
            Ok(received) => received,
            Err(rejected) => {
                if let Rejected::Auth(AuthError::Unavailable(_)) = rejected {
                    // The guard is full: deliveries are refused, so every subscription has a gap
                    // from now on.
                    self.dispatch.pause();
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
        // One subscriber, however many subscriptions of this client take the message.
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
            number: Number::of(identifier),
        };
        self.dispatch.resume();
        // A broadcaster that heard no answer may have sent it again, over another connection.
        let is_new = arriving.is_none_or(Arriving::take);
        let handed = match is_new {
            true => self.dispatch.hand(&message),
            false => Handed::Taken,
        };
        match handed {
            Handed::Taken | Handed::Unwanted => Ok(answer(StatusCode::OK, confirmation.encode())),
            Handed::Full => Err(InboundError::Full),
        }
    }

    /// Takes a MISSED and returns its confirmation.
    async fn take_missed(
        &self,
        headers: &HeaderMap,
        body: &mut BodyReader<Body>,
    ) -> Result<Response, InboundError> {
        let now = self.clock.now();
        let decode = |bytes: &[u8]| Ok((MissedHead::decode(bytes)?, bytes.len()));
        let MissedHead { tracing, topic } = body.head(HEAD_BYTES_MAX, decode).await?;
        let value = header(headers, &AUTHORIZATION);
        let urls = spellings(&self.urls.recovery);
        let (unspent, url) = verify_any_url(&urls, |recovery| {
            let claim = Claim::Missed {
                recovery,
                topic: &topic,
            };
            self.to_subscriber.verify(&claim, &tracing, value, now)
        })?;
        // Before it has any effect: a replayed notice would make the program read everything anew.
        let _spent = self.guard.spend(unspent, now).await?;
        if self.stopped.is_cancelled() {
            return Err(InboundError::ShutDown);
        }
        let authorization = self.vouch(&Claim::ConfirmMissed { topic: &topic, url }, now)?;
        self.missed(&topic);
        let confirmation = ConfirmMissed {
            authorization,
            tracing: Bytes::new(),
        };
        Ok(answer(StatusCode::OK, confirmation.encode()))
    }

    /// Marks the gap, and looks after the subscriptions at once: a broadcaster that missed one
    /// delivery may have lost more than that.
    fn missed(&self, topic: &Topic) {
        tracing::debug!(?topic, "a message was missed");
        self.dispatch.resume();
        self.dispatch.missed(topic);
        self.reconcile_now.notify_one();
    }

    /// Logs why a post was turned away: at most one warning a minute, the rest for debugging.
    fn log(&self, error: &InboundError, message: &'static str) {
        let (status, why) = (error.status().as_u16(), error_chain(error));
        let now = self.clock.now().unix_seconds();
        let before = self.warned_at.load(Ordering::Relaxed);
        if error.is_alarming() && now.abs_diff(before) >= WARNING_INTERVAL_SECONDS {
            self.warned_at.store(now, Ordering::Relaxed);
            tracing::warn!(status, error = why, "a {message} was turned away");
        } else {
            tracing::debug!(status, error = why, "a {message} was turned away");
        }
    }

    /// The authorization of an answer.
    fn vouch(&self, claim: &Claim<'_>, now: Now) -> Result<Option<String>, CannotAuthorize> {
        self.to_broadcaster.authorize(claim, b"", &stamp(now))
    }
}

/// The texts that a signature for `url` may be over: as registered, and as it is requested
/// (`docs/protocol/auth.md` §6).
fn spellings(url: &SubscriberUrl) -> Vec<&str> {
    // Published broadcasters sign the url as they request it, which is without the fragment.
    let mut spellings = vec![url.as_str(), url.without_fragment()];
    spellings.dedup();
    spellings
}

/// The value of a header, as bytes: it need not be text.
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    headers.get(name).map(HeaderValue::as_bytes)
}

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

impl InboundError {
    /// The one table from failures to statuses, which is that of `docs/protocol/stateless.md` §6.
    /// Whatever is wrong with a delivery costs that one delivery: no answer ends a subscription
    /// (`docs/design/threats.md` §5.1 no. 5).
    ///
    /// A broadcaster that receives for websockets (§8) answers a missing authorization by 401 and a
    /// wrong digest by 400, where published subscribers answer 403 to both.
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
                HeadError::Body(error) => error.status(),
            },
            Self::Rejected(Rejected::Fill(error)) => match error {
                FillError::Body(error) => error.status(),
                FillError::Length { .. } => StatusCode::BAD_REQUEST,
                FillError::Digest { .. } => StatusCode::FORBIDDEN,
                FillError::Spool(_) => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Rejected(Rejected::Digest(_) | Rejected::Unwanted) => StatusCode::BAD_REQUEST,
        }
    }

    /// `true` if an operator should look after this client.
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

/// Shortest time between two warnings: unknown peers post here and must not fill the log.
const WARNING_INTERVAL_SECONDS: u64 = 60;

/// An answer of the protocol.
fn answer(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, octets);
    response
}

/// An answer that tells a stranger nothing but its status.
fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
