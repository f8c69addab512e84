//! Requests as every endpoint begins with them: read, authorized, spent; and their answers signed.
//!
//! A head is read within 64 KiB before anybody has vouched for it; everything behind it takes room
//! only after the authorization was verified and spent.

use std::sync::Arc;

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::request::Parts;
use httppubsub_net::body::{BodyError, BodyLimits, BodyReader, Held, Spool};
use httppubsub_net::inbound::{Peer, Spent};
use httppubsub_net::{Clock, stamp};
use httppubsub_proto::auth::{CannotAuthorize, Claim};
use httppubsub_proto::time::Now;

use crate::cluster::replay::Replay;
use crate::config::Authorizations;
use crate::http::reply::Failure;

/// Takes requests in, and vouches for the answers.
#[derive(Debug)]
pub(crate) struct Reception {
    /// Room for bodies, in memory and in files.
    pub(crate) spool: Spool,
    /// Limits on how slowly bodies may arrive.
    pub(crate) limits: BodyLimits,
    /// Longest body of a SET.
    pub(crate) set_bytes_max: usize,
    /// The schemes of requests and of answers.
    pub(crate) authorizations: Authorizations,
    /// An authorization counts once.
    pub(crate) replay: Arc<Replay>,
    /// Authorizations are of a time, and so are answers.
    pub(crate) clock: Clock,
}

impl Reception {
    /// Begins to take a request in.
    pub(crate) fn take(&self, request: axum::extract::Request) -> Incoming<'_> {
        let (parts, body) = request.into_parts();
        let spool = self.spool_for(parts.extensions.get());
        Incoming {
            reception: self,
            parts,
            now: self.clock.now(),
            body: Some(BodyReader::new(body, self.limits, spool)),
        }
    }

    /// The share of the spool in which room is taken in the name of who sent a request.
    pub(crate) fn spool_for(&self, peer: Option<&Peer>) -> Spool {
        match peer {
            Some(peer) => self.spool.for_party(&peer.party),
            // Somebody else's server.
            None => self.spool.clone(),
        }
    }

    /// Lets go of a request that is answered whatever its body is: the body is read behind the
    /// answer, within bounds. A connection that is closed with bytes unread is reset, and the
    /// answer with it.
    pub(crate) fn abandon(&self, request: axum::extract::Request) {
        drop(self.take(request));
    }

    /// The authorization of an answer to a subscriber. It is of this moment, and expires: an answer
    /// that is held back for long is not believed.
    pub(crate) fn vouch(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
    ) -> Result<Option<String>, CannotAuthorize> {
        let to_subscriber = &self.authorizations.to_subscriber;
        to_subscriber.authorize(claim, tracing, &stamp(self.clock.now()))
    }

    /// The authorization of an answer to another broadcaster, which has the part of a subscriber.
    pub(crate) fn vouch_as_subscriber(
        &self,
        claim: &Claim<'_>,
    ) -> Result<Option<String>, CannotAuthorize> {
        let to_broadcaster = &self.authorizations.to_broadcaster;
        to_broadcaster.authorize(claim, &[], &stamp(self.clock.now()))
    }
}

/// A request being read. When it is dropped, what is left of its body is read behind the answer.
pub(crate) struct Incoming<'a> {
    /// Spends its authorization, and takes it back.
    reception: &'a Reception,
    /// The head of the HTTP request.
    pub(crate) parts: Parts,
    /// The time at which it came. Everything about it is judged by this.
    pub(crate) now: Now,
    /// `None` only while this is dropped.
    body: Option<BodyReader<Body>>,
}

impl Incoming<'_> {
    /// The body, as far as it is not read yet.
    pub(crate) fn body(&mut self) -> &mut BodyReader<Body> {
        self.body
            .as_mut()
            .expect("it is taken only when this is dropped")
    }

    /// The rest of the body of a SET: its lists.
    pub(crate) async fn set_lists(&mut self) -> Result<Held, BodyError> {
        let bytes_max = self.reception.set_bytes_max;
        self.body().rest(bytes_max).await
    }

    /// The `Authorization` header, which may be missing.
    pub(crate) fn authorization(&self) -> Option<&[u8]> {
        self.parts
            .headers
            .get(AUTHORIZATION)
            .map(http::HeaderValue::as_bytes)
    }

    /// Judges the authorization by what the request says, and spends it.
    ///
    /// `&mut self` lets the future be sent: a body must not be shared.
    pub(crate) async fn authorize(
        &mut self,
        claim: &Claim<'_>,
        tracing: &[u8],
    ) -> Result<Spent, Failure> {
        let reception = self.reception;
        let to_broadcaster = &reception.authorizations.to_broadcaster;
        let verdict = to_broadcaster.verify(claim, tracing, self.authorization(), self.now);
        let peer = self.peer();
        let address = peer.and_then(Peer::network);
        let spent = reception.replay.spend_from(address, verdict?, self.now);
        let spent = spent.await?;
        // Its connection makes no room for others before it is answered.
        if let Some(peer) = self.peer() {
            peer.vouched();
        }
        Ok(spent)
    }

    /// The connection that it came over, if our own server has it.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.parts.extensions.get()
    }

    /// Takes back that the authorization was spent if `failure` lets the peer send the very same
    /// again, and passes the failure on.
    pub(crate) fn release(&self, spent: Spent, failure: Failure) -> Failure {
        if failure.may_be_repeated() {
            self.reception.replay.release(spent, self.now);
        }
        failure
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            body.abandon();
        }
    }
}
