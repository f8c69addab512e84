//! What every endpoint does with a request before it knows what it says.

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::request::Parts;
use httppubsub_net::{BodyReader, Peer, Spent};
use httppubsub_proto::auth::Claim;
use httppubsub_proto::time::Now;

use crate::cluster;
use crate::core::Core;
use crate::http::reply::Failure;

/// A request being read. When it is dropped, what is left of its body is read behind the answer.
pub(crate) struct Incoming<'a> {
    pub(crate) core: &'a Core,
    pub(crate) parts: Parts,
    pub(crate) now: Now,
    body: Option<BodyReader<Body>>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn new(core: &'a Core, request: axum::extract::Request) -> Self {
        let (parts, body) = request.into_parts();
        // Room is taken in the name of who sent it.
        let spool = match parts.extensions.get::<Peer>() {
            Some(peer) => core.spool.for_party(&peer.party),
            // Somebody else's server.
            None => core.spool.clone(),
        };
        let body = Some(BodyReader::new(body, core.config.body, spool));
        Self {
            core,
            parts,
            now: core.clock.now(),
            body,
        }
    }

    pub(crate) fn body(&mut self) -> &mut BodyReader<Body> {
        self.body
            .as_mut()
            .expect("it is taken only when this is dropped")
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
    /// It takes `&mut self` so that the future can be sent: a body must not be shared.
    pub(crate) async fn authorize(
        &mut self,
        claim: &Claim<'_>,
        tracing: &[u8],
    ) -> Result<Spent, Failure> {
        let core = self.core;
        let verdict = core
            .to_broadcaster
            .verify(claim, tracing, self.authorization(), self.now);
        let peer = self.peer();
        let address = peer.and_then(Peer::network);
        let spent = cluster::spend_from(core, address, verdict?, self.now).await?;
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
            cluster::release(self.core, spent, self.now);
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
