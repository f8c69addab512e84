//! Signing and verifying the messages of one connection: schemes, nonces and counters.

use std::sync::Arc;

use crate::auth::{Authorization, CannotAuthorize, Claim, Unspent};
use crate::session::error::SessionError;
use crate::session::nonces::Nonces;
use crate::stateful::{ConnectionNonce, Counter};
use crate::time::Now;

/// Parts of a RECEIVE_STREAM message that take a counter (`docs/protocol/stateful.md` §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamCounters {
    /// The first part of each message; the others are signed over the same url. Published
    /// subscribers expect this.
    #[default]
    FirstPart,
    /// Every part. Published broadcasters do this.
    EachPart,
}

/// The authorization of both directions, before the nonces of both ends are known.
#[derive(Debug)]
pub(super) struct Signer {
    /// Signs messages of this end.
    own: Arc<dyn Authorization>,
    /// Verifies messages of the peer.
    peers: Arc<dyn Authorization>,
    nonces: Nonces,
}

impl Signer {
    /// Signs with `own`, verifies with `peers`.
    pub(super) fn new(
        own: Arc<dyn Authorization>,
        peers: Arc<dyn Authorization>,
        nonces: Nonces,
    ) -> Self {
        Self { own, peers, nonces }
    }

    /// Signs `claim` for a message without tracing.
    pub(super) fn sign(
        &mut self,
        claim: &Claim<'_>,
        now: Now,
    ) -> Result<Option<String>, CannotAuthorize> {
        self.sign_with(claim, &[], now)
    }

    /// Signs `claim` for a message with this `tracing`.
    pub(super) fn sign_with(
        &mut self,
        claim: &Claim<'_>,
        tracing: &[u8],
        now: Now,
    ) -> Result<Option<String>, CannotAuthorize> {
        // A fresh nonce for each value: two parts of one message make the same claim in the same
        // second, and the peer would take the second one for a replay.
        self.own.authorize(claim, tracing, &self.nonces.stamp(now))
    }

    /// Verifies that `authorization` vouches for `claim` in a message named `what`.
    pub(super) fn verify(
        &self,
        what: &'static str,
        claim: &Claim<'_>,
        tracing: &[u8],
        authorization: &Option<String>,
        now: Now,
    ) -> Result<Unspent, SessionError> {
        let value = authorization.as_ref().map(String::as_bytes);
        self.peers
            .verify(claim, tracing, value, now)
            .map_err(|source| SessionError::Auth { what, source })
    }
}

/// The authorization of both directions, with the urls that number the messages of a connection.
#[derive(Debug)]
pub(super) struct ConnectionSigner {
    signer: Signer,
    nonce: ConnectionNonce,
    /// Counts messages of this end.
    own: Counter,
    /// Counts messages of the peer.
    peers: Counter,
}

impl ConnectionSigner {
    /// The broadcaster's end.
    pub(super) fn of_broadcaster(signer: Signer, nonce: ConnectionNonce) -> Self {
        Self {
            signer,
            nonce,
            own: Counter::broadcaster(),
            peers: Counter::subscriber(),
        }
    }

    /// The subscriber's end.
    pub(super) fn of_subscriber(signer: Signer, nonce: ConnectionNonce) -> Self {
        Self {
            signer,
            nonce,
            own: Counter::subscriber(),
            peers: Counter::broadcaster(),
        }
    }

    /// Takes the counter of the next message that this end sends.
    pub(super) fn take_own(&mut self) -> i64 {
        self.own.take()
    }

    /// Takes the counter of the message of the peer that is being read.
    pub(super) fn take_peers(&mut self) -> i64 {
        self.peers.take()
    }

    /// The counter of the message of the peer that is being read, without taking it.
    pub(super) fn peek_peers(&self) -> i64 {
        self.peers.peek()
    }

    /// The url to sign with the given counter.
    pub(super) fn own_url(&self, counter: i64) -> String {
        self.url(&*self.signer.own, counter)
    }

    /// The url to sign with the counter of the next message that this end sends.
    pub(super) fn next_own_url(&mut self) -> String {
        let counter = self.take_own();
        self.own_url(counter)
    }

    /// The url that the peer signed with the given counter.
    pub(super) fn peers_url(&self, counter: i64) -> String {
        self.url(&*self.signer.peers, counter)
    }

    /// The url that the peer signed in the message that is being read.
    pub(super) fn next_peers_url(&mut self) -> String {
        let counter = self.take_peers();
        self.peers_url(counter)
    }

    fn url(&self, scheme: &dyn Authorization, counter: i64) -> String {
        // A scheme that signs nothing does not look at the url: writing it would be wasted work
        // on every part of every delivery.
        if scheme.vouches() {
            self.nonce.url(counter)
        } else {
            String::new()
        }
    }

    /// See [`Signer::sign`].
    pub(super) fn sign(
        &mut self,
        claim: &Claim<'_>,
        now: Now,
    ) -> Result<Option<String>, CannotAuthorize> {
        self.signer.sign(claim, now)
    }

    /// See [`Signer::sign_with`].
    pub(super) fn sign_with(
        &mut self,
        claim: &Claim<'_>,
        tracing: &[u8],
        now: Now,
    ) -> Result<Option<String>, CannotAuthorize> {
        self.signer.sign_with(claim, tracing, now)
    }

    /// See [`Signer::verify`].
    pub(super) fn verify(
        &self,
        what: &'static str,
        claim: &Claim<'_>,
        tracing: &[u8],
        authorization: &Option<String>,
        now: Now,
    ) -> Result<Unspent, SessionError> {
        self.signer.verify(what, claim, tracing, authorization, now)
    }

    /// Verifies a message that cannot be replayed, so that its authorization need not be spent: the
    /// claim holds a counter of this connection, whose nonce both ends drew (§5), or an identifier
    /// that was drawn here and is awaited once.
    pub(super) fn verify_bound(
        &self,
        what: &'static str,
        claim: &Claim<'_>,
        tracing: &[u8],
        authorization: &Option<String>,
        now: Now,
    ) -> Result<(), SessionError> {
        let _unspent = self.verify(what, claim, tracing, authorization, now)?;
        Ok(())
    }
}
