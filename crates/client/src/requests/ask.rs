//! Everything that is asked of broadcasters: how it is said, and how its answer is read.

use bytes::Bytes;
use httppubsub_net::body::Payload;
use httppubsub_net::outbound::Post;
use httppubsub_net::{random_bytes, stamp};
use httppubsub_proto::auth::{Authorization, CannotAuthorize, Claim, Unspent};
use httppubsub_proto::paths;
use httppubsub_proto::stateless::{
    CheckRequest, CheckResponse, GenericResponse, NotifyHead, NotifyResponse, SetHead,
    SubscribeRequest, UnsubscribeRequest, encode_set_lists,
};
use httppubsub_proto::subscription::{Interest, StrongEtag, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::ClientUrls;

use crate::error::AttemptError;
use crate::requests::outcome::Operation;

/// Something that is asked of a broadcaster, any number of times.
///
/// An implementation says what it asks: a path, the bytes before the message, the claim that is
/// signed, and how an answer is read. The rest, when to ask which broadcaster again, is the same
/// for all (`requests.rs`).
pub(crate) trait Ask: Sync {
    /// The content of the answer.
    type Output: Send;

    /// The part that an answer is compared with, drawn anew for each attempt.
    type Sent: Send + Sync;

    /// The kind of the request, which decides what a status means.
    fn operation(&self) -> Operation;

    /// The path at the broadcaster.
    fn path(&self) -> &'static str;

    /// The output when the broadcaster had it so already; `unclear` is why it is not known what
    /// came of an earlier attempt, which may have made it so.
    fn already_so(&self, unclear: Option<&AttemptError>) -> Option<Self::Output> {
        let _ = unclear;
        None
    }

    /// The message that goes with it; `None` for all but NOTIFY.
    fn payload(&self) -> Option<&Payload> {
        None
    }

    /// Draws what tells an attempt from others.
    fn draw(&self) -> Self::Sent;

    /// The claim that the request makes: everything in it that a broadcaster acts upon.
    fn claim<'a>(&'a self, sent: &'a Self::Sent) -> Claim<'a>;

    /// The bytes of the request before its message.
    fn head(&self, sent: &Self::Sent) -> Bytes;

    /// The request of an attempt, authorized anew each time that it is sent: a kept connection may
    /// turn out to be closed, and the authorization of the first sending may be spent by then.
    fn make(
        &self,
        sent: &Self::Sent,
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<Post, CannotAuthorize> {
        Ok(Post {
            authorization: authorization.authorize(&self.claim(sent), NO_TRACING, &stamp(now))?,
            repr_digest: None,
            headers: Vec::new(),
            head: self.head(sent),
            payload: self.payload().cloned(),
        })
    }

    /// Reads an answer of status 2xx. Returns its content and the authorization to be spent before
    /// it counts.
    ///
    /// # Errors
    ///
    /// An answer that does not parse, is to another attempt, or is not vouched for. The request may
    /// have been done in all three cases.
    fn read(
        &self,
        sent: &Self::Sent,
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(Self::Output, Unspent), AttemptError>;
}

/// Requests of this client carry no tracing; the field is signed all the same.
const NO_TRACING: &[u8] = b"";

/// The result of a change that may have been made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was made now.
    Done,
    /// It is said to be so already, which nothing vouches for.
    AlreadySo,
    /// The same after an attempt whose answer was lost, which may have made it so.
    BecameSo,
}

impl Change {
    /// The result for a 409, by what is known of the attempts before it.
    fn already_so(unclear: Option<&AttemptError>) -> Self {
        match unclear {
            None => Self::AlreadySo,
            Some(_) => Self::BecameSo,
        }
    }
}

/// Reads the answer to subscribe, unsubscribe and set, which has no content but its authorization.
/// With a scheme that proves nothing there is nothing to check in it, so it is not decoded then.
fn read_generic(
    body: &[u8],
    claim: &Claim<'_>,
    authorization: &dyn Authorization,
    now: Now,
) -> Result<Unspent, AttemptError> {
    if !authorization.vouches() {
        return Ok(Unspent::reusable());
    }
    let answer = GenericResponse::decode(body)?;
    let value = answer.authorization.as_deref().map(str::as_bytes);
    Ok(authorization.verify(claim, &answer.tracing, value, now)?)
}

/// SUBSCRIBE_EXACT or SUBSCRIBE_GLOB, with the recovery url of this client.
pub(crate) struct Subscribe<'a> {
    pub(crate) urls: &'a ClientUrls,
    pub(crate) interest: &'a Interest,
}

impl Ask for Subscribe<'_> {
    type Output = Change;
    type Sent = ();

    fn operation(&self) -> Operation {
        Operation::Subscribe
    }

    fn path(&self) -> &'static str {
        match self.interest {
            Interest::Exact(_) => paths::SUBSCRIBE_EXACT,
            Interest::Glob(_) => paths::SUBSCRIBE_GLOB,
        }
    }

    fn already_so(&self, unclear: Option<&AttemptError>) -> Option<Change> {
        Some(Change::already_so(unclear))
    }

    fn draw(&self) {}

    fn claim<'a>(&'a self, (): &()) -> Claim<'a> {
        Claim::Subscribe {
            url: self.urls.receive.as_str(),
            recovery: Some(self.urls.recovery.as_str()),
            interest: self.interest,
        }
    }

    fn head(&self, (): &()) -> Bytes {
        let request = SubscribeRequest {
            url: self.urls.receive.clone(),
            interest: self.interest.clone(),
            recovery: Some(self.urls.recovery.clone()),
            tracing: Bytes::new(),
        };
        request.encode().into()
    }

    fn read(
        &self,
        (): &(),
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(Change, Unspent), AttemptError> {
        let claim = Claim::ConfirmSubscribe {
            url: self.urls.receive.as_str(),
            recovery: Some(self.urls.recovery.as_str()),
            interest: self.interest,
        };
        Ok((
            Change::Done,
            read_generic(body, &claim, authorization, now)?,
        ))
    }
}

/// UNSUBSCRIBE_EXACT or UNSUBSCRIBE_GLOB, whatever the recovery url of the subscription is.
pub(crate) struct Unsubscribe<'a> {
    pub(crate) urls: &'a ClientUrls,
    pub(crate) interest: &'a Interest,
}

impl Ask for Unsubscribe<'_> {
    type Output = Change;
    type Sent = ();

    fn operation(&self) -> Operation {
        Operation::Unsubscribe
    }

    fn path(&self) -> &'static str {
        match self.interest {
            Interest::Exact(_) => paths::UNSUBSCRIBE_EXACT,
            Interest::Glob(_) => paths::UNSUBSCRIBE_GLOB,
        }
    }

    fn already_so(&self, unclear: Option<&AttemptError>) -> Option<Change> {
        Some(Change::already_so(unclear))
    }

    fn draw(&self) {}

    // The protocol signs UNSUBSCRIBE as a SUBSCRIBE without recovery url (`docs/protocol/auth.md`).
    fn claim<'a>(&'a self, (): &()) -> Claim<'a> {
        Claim::Subscribe {
            url: self.urls.receive.as_str(),
            recovery: None,
            interest: self.interest,
        }
    }

    fn head(&self, (): &()) -> Bytes {
        let request = UnsubscribeRequest {
            url: self.urls.receive.clone(),
            interest: self.interest.clone(),
            tracing: Bytes::new(),
        };
        request.encode().into()
    }

    fn read(
        &self,
        (): &(),
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(Change, Unspent), AttemptError> {
        let claim = Claim::ConfirmSubscribe {
            url: self.urls.receive.as_str(),
            recovery: None,
            interest: self.interest,
        };
        Ok((
            Change::Done,
            read_generic(body, &claim, authorization, now)?,
        ))
    }
}

/// CHECK_SUBSCRIPTIONS.
pub(crate) struct Check<'a> {
    pub(crate) urls: &'a ClientUrls,
}

impl Ask for Check<'_> {
    type Output = StrongEtag;
    type Sent = ();

    fn operation(&self) -> Operation {
        Operation::Check
    }

    fn path(&self) -> &'static str {
        paths::CHECK_SUBSCRIPTIONS
    }

    fn draw(&self) {}

    fn claim<'a>(&'a self, (): &()) -> Claim<'a> {
        Claim::Check {
            url: self.urls.receive.as_str(),
        }
    }

    fn head(&self, (): &()) -> Bytes {
        let request = CheckRequest {
            tracing: Bytes::new(),
            url: self.urls.receive.clone(),
        };
        request.encode().into()
    }

    fn read(
        &self,
        (): &(),
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(StrongEtag, Unspent), AttemptError> {
        // The claim is made of what the answer says: a changed etag does not verify.
        let answer = CheckResponse::decode(body)?;
        let claim = Claim::CheckResponse { etag: &answer.etag };
        let value = answer.authorization.as_deref().map(str::as_bytes);
        let unspent = authorization.verify(&claim, &answer.tracing, value, now)?;
        Ok((answer.etag, unspent))
    }
}

/// SET_SUBSCRIPTIONS, encoded once: a list may have a million entries, and each attempt sends the
/// same bytes.
pub(crate) struct Set<'a> {
    urls: &'a ClientUrls,
    etag: StrongEtag,
    body: Bytes,
}

impl<'a> Set<'a> {
    /// The request that makes the subscriptions of `urls.receive` those of `set`.
    pub(crate) fn new(urls: &'a ClientUrls, set: &SubscriptionSet) -> Self {
        let etag = set.etag(&urls.receive);
        let head = SetHead {
            tracing: Bytes::new(),
            url: urls.receive.clone(),
            etag,
        };
        // The etag in the head is over the lists; the broadcaster compares both before it changes
        // anything.
        let mut body = head.encode();
        body.extend_from_slice(&encode_set_lists(set));
        Self {
            urls,
            etag,
            body: body.into(),
        }
    }
}

impl Ask for Set<'_> {
    type Output = ();
    type Sent = ();

    fn operation(&self) -> Operation {
        Operation::Set
    }

    fn path(&self) -> &'static str {
        paths::SET_SUBSCRIPTIONS
    }

    fn draw(&self) {}

    fn claim<'a>(&'a self, (): &()) -> Claim<'a> {
        Claim::Set {
            url: self.urls.receive.as_str(),
            etag: &self.etag,
        }
    }

    fn head(&self, (): &()) -> Bytes {
        self.body.clone()
    }

    fn read(
        &self,
        (): &(),
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<((), Unspent), AttemptError> {
        let claim = Claim::SetResponse { etag: &self.etag };
        Ok(((), read_generic(body, &claim, authorization, now)?))
    }
}

/// NOTIFY.
pub(crate) struct Notify<'a> {
    pub(crate) topic: &'a Topic,
    pub(crate) payload: &'a Payload,
}

impl Ask for Notify<'_> {
    /// Number of subscribers that confirmed.
    type Output = u32;
    type Sent = Identifier;

    fn operation(&self) -> Operation {
        Operation::Notify
    }

    fn path(&self) -> &'static str {
        paths::NOTIFY
    }

    fn payload(&self) -> Option<&Payload> {
        Some(self.payload)
    }

    fn draw(&self) -> Identifier {
        // Anew for each attempt: the answer to an earlier one must not be taken for this one's.
        Identifier::new(random_bytes::<12>().to_vec())
            .expect("12 bytes fit the field of an identifier")
    }

    fn claim<'a>(&'a self, identifier: &'a Identifier) -> Claim<'a> {
        Claim::Notify {
            topic: self.topic,
            identifier,
            sha512: self.payload.sha512(),
        }
    }

    fn head(&self, identifier: &Identifier) -> Bytes {
        let head = NotifyHead {
            topic: self.topic.clone(),
            sha512: *self.payload.sha512(),
            tracing: Bytes::new(),
            identifier: identifier.clone(),
            message_bytes: self.payload.len(),
        };
        head.encode().into()
    }

    fn read(
        &self,
        sent: &Identifier,
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(u32, Unspent), AttemptError> {
        let answer = NotifyResponse::decode(body)?;
        // Compared before it is verified: with the scheme none, this is all that ties the two.
        if answer.identifier != *sent {
            return Err(AttemptError::Identifier);
        }
        let claim = Claim::ConfirmNotify {
            identifier: &answer.identifier,
            subscribers: answer.subscribers,
            topic: self.topic,
            sha512: self.payload.sha512(),
        };
        let value = answer.authorization.as_deref().map(str::as_bytes);
        let unspent = authorization.verify(&claim, &answer.tracing, value, now)?;
        Ok((answer.subscribers, unspent))
    }
}
