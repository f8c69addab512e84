//! The open state: requests of the subscriber, and acknowledgements of deliveries.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::auth::Claim;
use crate::digest::Sha512;
use crate::session::broadcaster::compressors::Announced;
use crate::session::broadcaster::config::BroadcasterConfig;
use crate::session::broadcaster::event::{
    BroadcasterEvent, InterestTicket, NotifyPart, NotifyTicket,
};
use crate::session::broadcaster::outbox::{Outbox, Queued};
use crate::session::error::{SessionError, protocol};
use crate::session::incoming::{IncomingParts, Progress};
use crate::session::io::Outgoing;
use crate::session::signer::ConnectionSigner;
use crate::stateful::{
    BodyHead, ConfirmReceive, Continue, InterestMessage, Notify, Part, Refusal, StreamPart,
    ToBroadcaster,
};
use crate::subscription::Interest;
use crate::time::Now;

/// An open session.
#[derive(Debug)]
pub(super) struct Open<B> {
    config: Arc<BroadcasterConfig>,
    signer: ConnectionSigner,
    interests: BTreeSet<Interest>,
    /// The NOTIFY_STREAM under way.
    stream: Option<Box<IncomingParts>>,
    /// Number of acknowledgements that have arrived.
    acknowledged: u64,
    pub(super) compressors: Announced,
    pub(super) outbox: Outbox<B>,
}

impl<B: Clone> Open<B> {
    pub(super) fn new(
        config: Arc<BroadcasterConfig>,
        signer: ConnectionSigner,
        broadcaster_nonce: [u8; 32],
    ) -> Self {
        Self {
            config,
            signer,
            interests: BTreeSet::new(),
            stream: None,
            acknowledged: 0,
            compressors: Announced::default(),
            outbox: Outbox::new(Queued::ConfirmConfigure(broadcaster_nonce)),
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn handle(
        &mut self,
        message: ToBroadcaster,
        now: Now,
    ) -> Result<Option<BroadcasterEvent>, SessionError> {
        let what = message.name();
        match message {
            ToBroadcaster::Configure(_) => Err(SessionError::OutOfTurn {
                got: what,
                state: "a second time",
            }),
            ToBroadcaster::Subscribe(it) => self.interest(what, it, true, now).map(Some),
            ToBroadcaster::Unsubscribe(it) => self.interest(what, it, false, now).map(Some),
            ToBroadcaster::Notify(it) => self.notify(it, now).map(Some),
            ToBroadcaster::NotifyStream(it) => self.notify_stream(it, now).map(Some),
            ToBroadcaster::ContinueReceive(it) => self.continue_receive(&it, now).map(|()| None),
            ToBroadcaster::ConfirmReceive(it) => self.confirm_receive(it, now).map(Some),
        }
    }

    fn interest(
        &mut self,
        what: &'static str,
        it: InterestMessage,
        subscribe: bool,
        now: Now,
    ) -> Result<BroadcasterEvent, SessionError> {
        // Taken before the check (§5), and kept in the ticket: the confirmation is signed over the
        // same counter.
        let counter = self.signer.take_peers();
        let claim = Claim::Subscribe {
            url: &self.signer.peers_url(counter),
            // MISSED of a connection comes on the connection.
            recovery: None,
            interest: &it.interest,
        };
        self.signer
            .verify_bound(what, &claim, &it.tracing, &it.authorization, now)?;
        // Changed when it is asked for, not when it is confirmed: the next request may arrive
        // before the store has answered this one.
        let changes = if subscribe {
            self.interests.insert(it.interest.clone())
        } else {
            self.interests.remove(&it.interest)
        };
        if !changes {
            let problem = match subscribe {
                true => "it is subscribed already",
                false => "it is not subscribed",
            };
            return Err(protocol(what, problem));
        }
        Ok(BroadcasterEvent::Interest(InterestTicket {
            interest: it.interest,
            subscribe,
            counter,
            place: self.outbox.place(),
        }))
    }

    fn notify(&mut self, it: Notify, now: Now) -> Result<BroadcasterEvent, SessionError> {
        const WHAT: &str = "NOTIFY";
        let claim = Claim::Notify {
            topic: &it.topic,
            identifier: &it.identifier,
            sha512: &it.head.compressed_sha512,
        };
        let unspent = self
            .signer
            .verify(WHAT, &claim, &it.tracing, &it.authorization, now)?;
        // After the authorization (§8): a stranger does not learn what is enabled here.
        self.check_compressor(WHAT, &it.head)?;
        // The place is taken now, so that confirmations leave in the order of the requests whatever
        // takes longer.
        let ticket = NotifyTicket {
            identifier: it.identifier,
            topic: it.topic.clone(),
            compressed_sha512: it.head.compressed_sha512,
            streamed: false,
            place: self.outbox.place(),
        };
        Ok(BroadcasterEvent::Notify(NotifyPart {
            streamed: false,
            begins: Some((it.topic, it.head)),
            bytes: it.body,
            unspent: Some(unspent),
            ends: Some(ticket),
        }))
    }

    fn notify_stream(
        &mut self,
        it: StreamPart,
        now: Now,
    ) -> Result<BroadcasterEvent, SessionError> {
        const WHAT: &str = "NOTIFY_STREAM";
        let part_id = it.part.id();
        let begins = match it.part {
            Part::First { topic, head } => {
                // One at a time (§8), which also bounds what one connection can make this end
                // remember.
                if self.stream.is_some() {
                    return Err(protocol(WHAT, "another one is under way"));
                }
                // Even an empty body has a frame of some bytes.
                if head.compressor != 0 && head.compressed_length == 0 {
                    return Err(protocol(WHAT, "nothing cannot be decompressed"));
                }
                let (identifier, tracing) = (it.identifier.clone(), it.tracing.clone());
                let parts = IncomingParts::begin(identifier, topic.clone(), head, tracing);
                // Kept before it is verified: if that fails, the session is over and the stream
                // with it.
                self.stream = Some(Box::new(parts));
                Some((topic, head))
            }
            Part::Later(_) => None,
        };
        let Some(stream) = &mut self.stream else {
            return Err(protocol(WHAT, "none is under way"));
        };
        stream
            .expects(part_id, &it.identifier)
            .map_err(|problem| protocol(WHAT, problem))?;
        let claim = Claim::Notify {
            topic: stream.topic(),
            identifier: stream.identifier(),
            sha512: &stream.head().compressed_sha512,
        };
        let tracing = stream.tracing();
        let unspent = self
            .signer
            .verify(WHAT, &claim, tracing, &it.authorization, now)?;
        // After the authorization, so that nobody but the sender moves the stream on.
        let progress = stream
            .part(it.body.len())
            .map_err(|problem| protocol(WHAT, problem))?;
        if let Some((_, head)) = &begins {
            self.check_compressor(WHAT, head)?;
        }
        let ends = match (progress, self.stream.take()) {
            (Progress::Complete, Some(stream)) => Some(NotifyTicket {
                identifier: it.identifier,
                topic: stream.topic().clone(),
                compressed_sha512: stream.head().compressed_sha512,
                streamed: true,
                place: self.outbox.place(),
            }),
            (_, stream) => {
                self.stream = stream;
                // Acknowledged here, not by the driver: published subscribers send all parts
                // without waiting (§8), so holding the acknowledgement back would slow nobody down.
                let place = self.outbox.place();
                let acknowledgement = Queued::ContinueNotify {
                    identifier: it.identifier,
                    part_id,
                };
                self.outbox.confirm(place, acknowledgement);
                None
            }
        };
        Ok(BroadcasterEvent::Notify(NotifyPart {
            streamed: true,
            // Later parts are bound to the first by order and digest. If each were spent, a
            // notification in parts of one byte would fill the guard for everybody.
            unspent: begins.is_some().then_some(unspent),
            begins,
            bytes: it.body,
            ends,
        }))
    }

    fn check_compressor(&self, what: &'static str, head: &BodyHead) -> Result<(), SessionError> {
        if head.compressor == 0 || self.compressors.accepts(head.compressor) {
            Ok(())
        } else {
            Err(protocol(what, "its compressor is not enabled"))
        }
    }

    fn continue_receive(&mut self, it: &Continue, now: Now) -> Result<(), SessionError> {
        const WHAT: &str = "CONTINUE_RECEIVE";
        // Compared before the counter is taken (§5), in the order of the published broadcaster.
        if !self.outbox.is_continued(&it.identifier, it.part_id) {
            return Err(protocol(WHAT, NOT_DUE));
        }
        self.acknowledged += 1;
        let claim = Claim::ContinueReceive {
            identifier: &it.identifier,
            part_id: it.part_id,
            url: &self.signer.next_peers_url(),
        };
        self.signer
            .verify_bound(WHAT, &claim, &it.tracing, &it.authorization, now)
    }

    fn confirm_receive(
        &mut self,
        it: ConfirmReceive,
        now: Now,
    ) -> Result<BroadcasterEvent, SessionError> {
        const WHAT: &str = "CONFIRM_RECEIVE";
        let delivery = self.outbox.confirmed(&it.identifier);
        let delivery = delivery.ok_or_else(|| protocol(WHAT, NOT_DUE))?;
        self.acknowledged += 1;
        let claim = Claim::ConfirmReceive {
            identifier: &it.identifier,
            subscribers: it.num_subscribers,
            url: &self.signer.next_peers_url(),
        };
        self.signer
            .verify_bound(WHAT, &claim, &it.tracing, &it.authorization, now)?;
        let under_way = self.stream.as_ref().map(|it| it.head().compressor);
        self.compressors.acknowledged(delivery, under_way);
        Ok(BroadcasterEvent::Delivered(it.identifier))
    }

    pub(super) fn confirm_interest(&mut self, ticket: InterestTicket) {
        let InterestTicket {
            interest,
            subscribe,
            counter,
            place,
        } = ticket;
        let confirmation = Queued::ConfirmInterest {
            interest,
            subscribe,
            counter,
        };
        self.outbox.confirm(place, confirmation);
    }

    pub(super) fn confirm_notify(
        &mut self,
        ticket: NotifyTicket,
        sha512: &Sha512,
        subscribers: u32,
    ) {
        let NotifyTicket {
            identifier,
            topic,
            compressed_sha512,
            streamed,
            place,
        } = ticket;
        let confirmation = Queued::ConfirmNotify {
            identifier,
            topic,
            // The published broadcaster signs the digest of the plain body after NOTIFY, but the
            // one on the wire after NOTIFY_STREAM (§8). Subscribers of ours verify by the same
            // rule.
            sha512: if streamed { compressed_sha512 } else { *sha512 },
            outcome: Ok(subscribers),
        };
        self.outbox.confirm(place, confirmation);
    }

    pub(super) fn refuse_notify(&mut self, ticket: NotifyTicket, refusal: Refusal) {
        let confirmation = Queued::ConfirmNotify {
            identifier: ticket.identifier,
            topic: ticket.topic,
            // A body that is refused may never have been decompressed: no other digest is known.
            sha512: ticket.compressed_sha512,
            outcome: Err(refusal),
        };
        self.outbox.confirm(ticket.place, confirmation);
    }

    /// The next message in turn, signed as it leaves.
    pub(super) fn next_message(&mut self, now: Now) -> Result<Option<Outgoing<B>>, SessionError> {
        let (signer, compressors) = (&mut self.signer, &mut self.compressors);
        self.outbox.next(&self.config, signer, compressors, now)
    }
}

const NOT_DUE: &str = "another acknowledgement was due";
