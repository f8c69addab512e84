//! Takes RECEIVE at whichever end it is posted to: judges its authorization by its head, then takes
//! its message.

use http_body::Body;
use httppubsub_proto::auth::{AuthError, Authorization, Claim, Unspent};
use httppubsub_proto::digest::{ReprDigestError, decode_repr_digest};
use httppubsub_proto::stateless::{HEAD_BYTES_MAX, ReceiveHead};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;

use crate::body::payload::Payload;
use crate::body::reader::{BodyReader, HeadError};
use crate::body::writer::FillError;
use crate::inbound::replay::ReplayGuard;
use crate::inbound::serve::Peer;

/// A RECEIVE that is all it claims to be.
#[derive(Debug)]
pub struct Received<'a> {
    /// Its head.
    pub head: ReceiveHead,
    /// Its message.
    pub payload: Payload,
    /// The url that its authorization vouches for, among the verified ones: the confirmation is
    /// signed over the same.
    pub url: &'a str,
}

/// Refusal of a RECEIVE.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Its header does not tell its digest.
    #[error(transparent)]
    Digest(#[from] ReprDigestError),
    /// It has no head.
    #[error("the head is not that of a RECEIVE: {0}")]
    Head(HeadError),
    /// Nobody here wants its topic. Only a sender that vouches for itself gets to know that.
    #[error("nobody here is subscribed to the topic")]
    Unwanted,
    /// Nothing vouches for it.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Its message is not the one announced, or could not be held.
    #[error(transparent)]
    Fill(#[from] FillError),
}

impl From<HeadError> for Rejected {
    fn from(cause: HeadError) -> Self {
        Self::Head(cause)
    }
}

/// Verifies RECEIVEs: the parameters that are the same for all of a door.
#[derive(Clone, Copy, Debug)]
pub struct Verifier<'a> {
    /// The texts that its signature may be over, the likeliest first.
    pub urls: &'a [&'a str],
    /// The scheme for what broadcasters say.
    pub authorization: &'a dyn Authorization,
    /// The guard at which authorizations are spent.
    pub guard: &'a ReplayGuard,
    /// Whose it is, if [`serve`](crate::inbound::serve) knows.
    pub peer: Option<&'a Peer>,
}

/// Takes a RECEIVE with these `Repr-Digest` and `Authorization` headers. Whether it is `wanted` is
/// asked of what somebody vouches for, so that nobody else learns it or has it found out. `begun`
/// is called with the head of one that is taken unless its message fails; not with a repeated one.
///
/// In this order, so that a stranger costs as little as can be: the digest is parsed, the head is
/// read, the authorization is verified, then spent, and only then is the message taken. If that
/// fails, the authorization is given back: nothing came of it, and the sender may try again.
pub async fn receive<'a, B, W>(
    repr_digest: Option<&[u8]>,
    authorization: Option<&[u8]>,
    body: &mut BodyReader<B>,
    verifier: &Verifier<'a>,
    wanted: impl FnOnce(Topic) -> W,
    begun: impl FnOnce(&ReceiveHead),
    now: Now,
) -> Result<Received<'a>, Rejected>
where
    B: Body<Data = bytes::Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    W: Future<Output = bool>,
{
    let sha512 = decode_repr_digest(repr_digest.unwrap_or_default())?;
    let head = body.head(HEAD_BYTES_MAX, ReceiveHead::decode).await?;
    let (unspent, url) = verify_any_url(verifier.urls, |url| {
        let (topic, identifier) = (&head.topic, &head.identifier);
        let claim = Claim::Receive {
            url,
            topic,
            identifier,
            sha512: &sha512,
        };
        verifier
            .authorization
            .verify(&claim, &head.tracing, authorization, now)
    })?;
    if !wanted(head.topic.clone()).await {
        return Err(Rejected::Unwanted);
    }
    let spent = verifier.guard.spend(unspent, now).await?;
    if let Some(peer) = verifier.peer {
        peer.vouched();
    }
    begun(&head);
    match Payload::fill(body, head.message_bytes, &sha512).await {
        Ok(payload) => Ok(Received { head, payload, url }),
        Err(error) => {
            // Nothing came of it: the sender may send the very same again.
            verifier.guard.release(spent, now);
            Err(error.into())
        }
    }
}

/// The verdict over the first of `urls` that `verify` accepts, and that url; otherwise the verdict
/// over the first. A client may be reached under several spellings of one url, and a broadcaster
/// signs over the one that was subscribed.
pub fn verify_any_url<'a>(
    urls: &[&'a str],
    verify: impl Fn(&str) -> Result<Unspent, AuthError>,
) -> Result<(Unspent, &'a str), AuthError> {
    let mut first_error = None;
    for url in urls {
        match verify(url) {
            Ok(unspent) => return Ok((unspent, url)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(AuthError::Missing))
}
