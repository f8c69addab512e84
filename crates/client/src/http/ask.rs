//! Everything that is asked of broadcasters: how it is said, and how its answer is read.

use bytes::Bytes;
use httppubsub_net::{Payload, Post, random_bytes, stamp};
use httppubsub_proto::auth::{Authorization, CannotAuthorize, Claim, Unspent};
use httppubsub_proto::http as paths;
use httppubsub_proto::http::{
    CheckRequest, CheckResponse, GenericResponse, NotifyHead, NotifyResponse, SetHead,
    SubscribeRequest, UnsubscribeRequest, encode_set_lists,
};
use httppubsub_proto::subscription::{Interest, StrongEtag, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::ClientUrls;

use crate::error::AttemptError;
use crate::http::outcome::Operation;

/// Something that is asked of a broadcaster, any number of times.
pub(crate) trait Ask: Sync {
    /// What the answer tells.
    type Output: Send;

    /// What an answer is compared with, drawn anew for each attempt.
    type Sent: Send + Sync;

    fn operation(&self) -> Operation;

    fn path(&self) -> &'static str;

    /// What it tells when the broadcaster had it so already; `unclear` is why it is not known what
    /// came of an earlier attempt, which may have made it so.
    fn was_so(&self, unclear: Option<&AttemptError>) -> Option<Self::Output> {
        let _ = unclear;
        None
    }

    /// Length of the message that goes with it, in bytes.
    fn message_bytes(&self) -> u64 {
        0
    }

    /// Draws what tells an attempt from others.
    fn draw(&self) -> Self::Sent;

    /// The request of an attempt, authorized anew each time that it is sent.
    fn make(
        &self,
        sent: &Self::Sent,
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<Post, CannotAuthorize>;

    /// What an answer of status 2xx tells, and the authorization that must be spent before it
    /// counts.
    fn read(
        &self,
        sent: &Self::Sent,
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(Self::Output, Unspent), AttemptError>;
}

/// What comes of asking for a change that may have been made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was made now.
    Done,
    /// It is said to be so already, which nothing vouches for.
    WasSo,
    /// The same after an attempt whose answer was lost, which may have made it so.
    BecameSo,
}

impl Told {
    fn was_so(unclear: Option<&AttemptError>) -> Self {
        match unclear {
            None => Self::WasSo,
            Some(_) => Self::BecameSo,
        }
    }
}

fn post(authorization: Option<String>, head: impl Into<Bytes>) -> Post {
    Post {
        authorization,
        repr_digest: None,
        head: head.into(),
        payload: None,
    }
}

/// Reads the answer to subscribe, unsubscribe and set, which says nothing but who says so.
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

/// SUBSCRIBE_EXACT or SUBSCRIBE_GLOB.
pub(crate) struct Subscribe<'a> {
    pub(crate) urls: &'a ClientUrls,
    pub(crate) interest: &'a Interest,
}

impl Ask for Subscribe<'_> {
    type Output = Told;
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

    fn was_so(&self, unclear: Option<&AttemptError>) -> Option<Told> {
        Some(Told::was_so(unclear))
    }

    fn draw(&self) {}

    fn make(
        &self,
        (): &(),
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<Post, CannotAuthorize> {
        let request = SubscribeRequest {
            url: self.urls.receive.clone(),
            interest: self.interest.clone(),
            recovery: Some(self.urls.recovery.clone()),
            tracing: Bytes::new(),
        };
        let claim = Claim::Subscribe {
            url: self.urls.receive.as_str(),
            recovery: Some(self.urls.recovery.as_str()),
            interest: self.interest,
        };
        let value = authorization.authorize(&claim, b"", &stamp(now))?;
        Ok(post(value, request.encode()))
    }

    fn read(
        &self,
        (): &(),
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(Told, Unspent), AttemptError> {
        let claim = Claim::ConfirmSubscribe {
            url: self.urls.receive.as_str(),
            recovery: Some(self.urls.recovery.as_str()),
            interest: self.interest,
        };
        let unspent = read_generic(body, &claim, authorization, now)?;
        Ok((Told::Done, unspent))
    }
}

/// UNSUBSCRIBE_EXACT or UNSUBSCRIBE_GLOB.
pub(crate) struct Unsubscribe<'a> {
    pub(crate) urls: &'a ClientUrls,
    pub(crate) interest: &'a Interest,
}

impl Ask for Unsubscribe<'_> {
    type Output = Told;
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

    fn was_so(&self, unclear: Option<&AttemptError>) -> Option<Told> {
        Some(Told::was_so(unclear))
    }

    fn draw(&self) {}

    fn make(
        &self,
        (): &(),
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<Post, CannotAuthorize> {
        let request = UnsubscribeRequest {
            url: self.urls.receive.clone(),
            interest: self.interest.clone(),
            tracing: Bytes::new(),
        };
        let claim = Claim::Subscribe {
            url: self.urls.receive.as_str(),
            recovery: None,
            interest: self.interest,
        };
        let value = authorization.authorize(&claim, b"", &stamp(now))?;
        Ok(post(value, request.encode()))
    }

    fn read(
        &self,
        (): &(),
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(Told, Unspent), AttemptError> {
        let claim = Claim::ConfirmSubscribe {
            url: self.urls.receive.as_str(),
            recovery: None,
            interest: self.interest,
        };
        let unspent = read_generic(body, &claim, authorization, now)?;
        Ok((Told::Done, unspent))
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

    fn make(
        &self,
        (): &(),
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<Post, CannotAuthorize> {
        let request = CheckRequest {
            tracing: Bytes::new(),
            url: self.urls.receive.clone(),
        };
        let claim = Claim::Check {
            url: self.urls.receive.as_str(),
        };
        let value = authorization.authorize(&claim, b"", &stamp(now))?;
        Ok(post(value, request.encode()))
    }

    fn read(
        &self,
        (): &(),
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(StrongEtag, Unspent), AttemptError> {
        let answer = CheckResponse::decode(body)?;
        let claim = Claim::CheckResponse { etag: &answer.etag };
        let value = answer.authorization.as_deref().map(str::as_bytes);
        let unspent = authorization.verify(&claim, &answer.tracing, value, now)?;
        Ok((answer.etag, unspent))
    }
}

/// SET_SUBSCRIPTIONS.
pub(crate) struct Set<'a> {
    urls: &'a ClientUrls,
    etag: StrongEtag,
    body: Bytes,
}

impl<'a> Set<'a> {
    pub(crate) fn new(urls: &'a ClientUrls, set: &SubscriptionSet) -> Self {
        let etag = set.etag(&urls.receive);
        let head = SetHead {
            tracing: Bytes::new(),
            url: urls.receive.clone(),
            etag,
        };
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

    fn make(
        &self,
        (): &(),
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<Post, CannotAuthorize> {
        let claim = Claim::Set {
            url: self.urls.receive.as_str(),
            etag: &self.etag,
        };
        let value = authorization.authorize(&claim, b"", &stamp(now))?;
        Ok(post(value, self.body.clone()))
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
    /// How many subscribers confirmed.
    type Output = u32;
    type Sent = Identifier;

    fn operation(&self) -> Operation {
        Operation::Notify
    }

    fn path(&self) -> &'static str {
        paths::NOTIFY
    }

    fn message_bytes(&self) -> u64 {
        self.payload.len()
    }

    fn draw(&self) -> Identifier {
        Identifier::new(random_bytes::<12>().to_vec())
            .expect("12 bytes fit the field of an identifier")
    }

    fn make(
        &self,
        identifier: &Identifier,
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<Post, CannotAuthorize> {
        let head = NotifyHead {
            topic: self.topic.clone(),
            sha512: *self.payload.sha512(),
            tracing: Bytes::new(),
            identifier: identifier.clone(),
            message_bytes: self.payload.len(),
        };
        let claim = Claim::Notify {
            topic: self.topic,
            identifier,
            sha512: self.payload.sha512(),
        };
        Ok(Post {
            payload: Some(self.payload.clone()),
            ..post(
                authorization.authorize(&claim, b"", &stamp(now))?,
                head.encode(),
            )
        })
    }

    fn read(
        &self,
        sent: &Identifier,
        body: &[u8],
        authorization: &dyn Authorization,
        now: Now,
    ) -> Result<(u32, Unspent), AttemptError> {
        let answer = NotifyResponse::decode(body)?;
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
