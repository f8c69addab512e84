//! Who signs what: the two directions of a run, and fresh stamps for them.

use std::sync::Arc;

use anyhow::Context as _;
use httppubsub_proto::auth::{Authorization, Claim, Scheme, Secrets, Stamp};
use httppubsub_proto::time::Now;

/// How messages of a run are authorized, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Auth {
    /// Not at all.
    None,
    /// Every message is signed.
    Hmac,
}

impl Auth {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hmac => "hmac",
        }
    }

    /// Secrets for one run.
    pub(crate) fn fresh_secrets(self) -> Secrets {
        match self {
            Self::None => Secrets::NONE,
            Self::Hmac => Secrets {
                to_broadcaster: fresh_hmac(),
                to_subscriber: fresh_hmac(),
            },
        }
    }
}

fn fresh_hmac() -> Scheme {
    let mut secret = [0; 64];
    rand::fill(&mut secret);
    Scheme::Hmac(secret)
}

/// The authorizations of both directions.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) to_broadcaster: Key,
    pub(crate) to_subscriber: Key,
}

impl Keys {
    pub(crate) fn of(secrets: &Secrets) -> Self {
        Self {
            to_broadcaster: Key(secrets.to_broadcaster.authorization()),
            to_subscriber: Key(secrets.to_subscriber.authorization()),
        }
    }
}

/// The authorization of one direction, for messages without tracing.
#[derive(Clone, Debug)]
pub(crate) struct Key(Arc<dyn Authorization>);

impl Key {
    pub(crate) fn authorize(&self, claim: &Claim<'_>, now: Now) -> anyhow::Result<Option<String>> {
        let stamp = Stamp {
            now,
            nonce: rand::random(),
        };
        Ok(self.0.authorize(claim, b"", &stamp)?)
    }

    /// Fails unless `value` vouches for `claim`. It is not spent: a replay would make the counts
    /// of the run wrong, which is checked anyway.
    pub(crate) fn verify(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        value: Option<&[u8]>,
        now: Now,
    ) -> anyhow::Result<()> {
        let unspent = self.0.verify(claim, tracing, value, now);
        let _not_spent = unspent.context("a message is not authorized")?;
        Ok(())
    }
}
