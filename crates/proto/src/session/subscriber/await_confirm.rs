//! The state before a session is open: CONFIGURE is sent, CONFIRM_CONFIGURE is awaited.

use std::sync::Arc;

use bytes::Bytes;

use crate::auth::Claim;
use crate::session::error::SessionError;
use crate::session::io::Outgoing;
use crate::session::nonces::Nonces;
use crate::session::signer::{ConnectionSigner, Signer};
use crate::session::subscriber::config::SubscriberConfig;
use crate::session::subscriber::event::SubscriberEvent;
use crate::session::subscriber::open::Open;
use crate::stateful::{Configure, ConnectionNonce, ToBroadcaster, ToSubscriber};
use crate::time::Now;

/// CONFIRM_CONFIGURE must come first.
#[derive(Debug)]
pub(super) struct AwaitConfirm {
    config: Arc<SubscriberConfig>,
    signer: Signer,
    deadline: Now,
    subscriber_nonce: [u8; 32],
    /// `true` once CONFIGURE was sent.
    configured: bool,
}

impl AwaitConfirm {
    pub(super) fn new(
        config: Arc<SubscriberConfig>,
        subscriber_nonce: [u8; 32],
        nonces: Nonces,
        now: Now,
    ) -> Self {
        let (own, peers) = (&config.to_broadcaster, &config.to_subscriber);
        let signer = Signer::new(own.clone(), peers.clone(), nonces);
        // A broadcaster that accepts connections but never answers would hold the subscriber back
        // from the next one in its list.
        let deadline = now + config.configure_timeout;
        Self {
            config,
            signer,
            deadline,
            subscriber_nonce,
            configured: false,
        }
    }

    pub(super) fn deadline(&self) -> Now {
        self.deadline
    }

    /// CONFIGURE, once.
    pub(super) fn next_message<B>(
        &mut self,
        now: Now,
    ) -> Result<Option<Outgoing<B>>, SessionError> {
        // Signed when it is asked for and not in `new`: the time in the signature must be that of
        // the wire.
        if std::mem::replace(&mut self.configured, true) {
            return Ok(None);
        }
        let config = &self.config;
        let claim = Claim::Configure {
            subscriber_nonce: &self.subscriber_nonce,
            enable_zstd: config.enable_zstd,
            enable_training: config.enable_training,
            initial_dict: config.initial_dict,
        };
        let message = ToBroadcaster::Configure(Configure {
            subscriber_nonce: self.subscriber_nonce,
            enable_zstd: config.enable_zstd,
            enable_training: config.enable_training,
            initial_dict: config.initial_dict,
            authorization: self.signer.sign(&claim, now)?,
            tracing: Bytes::new(),
        });
        let head = message.encode_head(config.headers);
        Ok(Some(Outgoing::without_body(head)))
    }

    pub(super) fn handle<B: Clone>(
        self,
        message: ToSubscriber,
        now: Now,
    ) -> Result<(Open<B>, SubscriberEvent), SessionError> {
        let what = message.name();
        // Every type by its name, so that one that is added has to be judged here as well.
        let it = match message {
            ToSubscriber::ConfirmConfigure(it) => it,
            ToSubscriber::ConfirmSubscribe(_)
            | ToSubscriber::ConfirmUnsubscribe(_)
            | ToSubscriber::ConfirmNotify(_)
            | ToSubscriber::ContinueNotify(_)
            | ToSubscriber::ReceiveStream(_)
            | ToSubscriber::EnablePreset(_)
            | ToSubscriber::EnableCustom(_)
            | ToSubscriber::DisableCustom(_)
            | ToSubscriber::Missed(_) => {
                return Err(SessionError::OutOfTurn {
                    got: what,
                    state: "before CONFIRM_CONFIGURE",
                });
            }
        };
        let claim = Claim::ConfirmConfigure {
            broadcaster_nonce: &it.broadcaster_nonce,
        };
        // The claim holds nothing that this end drew, so that a copy of it would verify again: the
        // driver must spend it.
        let unspent = self
            .signer
            .verify(what, &claim, &it.tracing, &it.authorization, now)?;
        // Both ends have a share in it: neither alone can make the urls of an older connection come
        // again.
        let nonce = ConnectionNonce::new(&self.subscriber_nonce, &it.broadcaster_nonce);
        let signer = ConnectionSigner::of_subscriber(self.signer, nonce);
        let event = SubscriberEvent::Open { unspent };
        Ok((Open::new(self.config, signer), event))
    }
}
