//! The states before a session is open: CONFIGURE is awaited, then the driver's consent.

use std::sync::Arc;

use crate::auth::Claim;
use crate::session::broadcaster::config::BroadcasterConfig;
use crate::session::broadcaster::event::BroadcasterEvent;
use crate::session::broadcaster::open::Open;
use crate::session::error::SessionError;
use crate::session::nonces::Nonces;
use crate::session::signer::{ConnectionSigner, Signer};
use crate::stateful::{ConnectionNonce, ToBroadcaster};
use crate::time::Now;

/// Nothing has arrived yet; CONFIGURE must come first.
#[derive(Debug)]
pub(super) struct AwaitConfigure {
    config: Arc<BroadcasterConfig>,
    signer: Signer,
    deadline: Now,
}

impl AwaitConfigure {
    pub(super) fn new(config: Arc<BroadcasterConfig>, nonces: Nonces, now: Now) -> Self {
        let (own, peers) = (&config.to_subscriber, &config.to_broadcaster);
        let signer = Signer::new(own.clone(), peers.clone(), nonces);
        // Until CONFIGURE is verified anybody can hold a socket and its memory here for the price
        // of a handshake.
        let deadline = now + config.configure_timeout;
        Self {
            config,
            signer,
            deadline,
        }
    }

    pub(super) fn deadline(&self) -> Now {
        self.deadline
    }

    pub(super) fn handle(
        self,
        message: ToBroadcaster,
        now: Now,
    ) -> Result<(AwaitAccept, BroadcasterEvent), SessionError> {
        let what = message.name();
        // Every type by its name, so that one that is added has to be judged here as well.
        let it = match message {
            ToBroadcaster::Configure(it) => it,
            ToBroadcaster::Subscribe(_)
            | ToBroadcaster::Unsubscribe(_)
            | ToBroadcaster::Notify(_)
            | ToBroadcaster::NotifyStream(_)
            | ToBroadcaster::ContinueReceive(_)
            | ToBroadcaster::ConfirmReceive(_) => {
                return Err(SessionError::OutOfTurn {
                    got: what,
                    state: "before CONFIGURE",
                });
            }
        };
        let claim = Claim::Configure {
            subscriber_nonce: &it.subscriber_nonce,
            enable_zstd: it.enable_zstd,
            enable_training: it.enable_training,
            initial_dict: it.initial_dict,
        };
        // Nothing in CONFIGURE was drawn by this end, so that a copy of it would verify again: the
        // driver must spend it.
        let unspent = self
            .signer
            .verify(what, &claim, &it.tracing, &it.authorization, now)?;
        let event = BroadcasterEvent::Configure {
            unspent,
            enable_zstd: it.enable_zstd,
            enable_training: it.enable_training,
            initial_dict: it.initial_dict,
        };
        let next = AwaitAccept {
            before: self,
            subscriber_nonce: it.subscriber_nonce,
        };
        Ok((next, event))
    }
}

/// CONFIGURE was verified; the driver spends its authorization and accepts.
#[derive(Debug)]
pub(super) struct AwaitAccept {
    before: AwaitConfigure,
    subscriber_nonce: [u8; 32],
}

impl AwaitAccept {
    /// The deadline of CONFIGURE: a driver that cannot spend the authorization in time does not
    /// keep the connection for longer than a silent subscriber would.
    pub(super) fn deadline(&self) -> Now {
        self.before.deadline
    }

    /// The reason to end when `message` arrives: a subscriber waits for CONFIRM_CONFIGURE.
    pub(super) fn refuse(self, message: &ToBroadcaster) -> SessionError {
        SessionError::OutOfTurn {
            got: message.name(),
            state: "before CONFIGURE was confirmed",
        }
    }

    pub(super) fn accept<B: Clone>(self, broadcaster_nonce: [u8; 32]) -> Open<B> {
        let nonce = ConnectionNonce::new(&self.subscriber_nonce, &broadcaster_nonce);
        let signer = ConnectionSigner::of_broadcaster(self.before.signer, nonce);
        Open::new(self.before.config, signer, broadcaster_nonce)
    }
}
