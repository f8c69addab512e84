//! The open state: answers to requests, messages, and announcements of the broadcaster.

use std::sync::Arc;

use crate::auth::Claim;
use crate::digest::Sha512;
use crate::session::compressors::{CUSTOM_MIN, CompressorSizes, newest_that_fits};
use crate::session::error::{SessionError, protocol};
use crate::session::incoming::{IncomingParts, Progress};
use crate::session::io::Outgoing;
use crate::session::signer::{ConnectionSigner, StreamCounters};
use crate::session::subscriber::config::SubscriberConfig;
use crate::session::subscriber::event::{ReceivePart, ReceiveTicket, SubscriberEvent};
use crate::session::subscriber::outbox::Outbox;
use crate::stateful::{
    ConfirmNotify, Continue, DisableCustom, EnableCustom, EnablePreset, InterestMessage,
    MissedMessage, Part, Refusal, StreamPart, ToSubscriber,
};
use crate::subscription::Interest;
use crate::time::Now;

/// An open session.
#[derive(Debug)]
pub(super) struct Open<B> {
    config: Arc<SubscriberConfig>,
    signer: ConnectionSigner,
    /// The parts of a message that take a counter, once the broadcaster has shown.
    stream_counters: Option<StreamCounters>,
    /// The message of which parts have arrived, with the counter of its first part.
    stream: Option<Box<(IncomingParts, i64)>>,
    /// 1, then presets, then dictionaries; of each kind the oldest first.
    compressors: Vec<(u32, CompressorSizes)>,
    pub(super) outbox: Outbox<B>,
}

impl<B: Clone> Open<B> {
    pub(super) fn new(config: Arc<SubscriberConfig>, signer: ConnectionSigner) -> Self {
        Self {
            config,
            signer,
            stream_counters: None,
            stream: None,
            compressors: Vec::new(),
            outbox: Outbox::new(),
        }
    }

    pub(super) fn handle(
        &mut self,
        message: ToSubscriber,
        now: Now,
    ) -> Result<Option<SubscriberEvent>, SessionError> {
        let what = message.name();
        match message {
            ToSubscriber::ConfirmConfigure(_) => Err(SessionError::OutOfTurn {
                got: what,
                state: "a second time",
            }),
            ToSubscriber::ConfirmSubscribe(it) => {
                let interest = self.confirmed(what, it, true, now)?;
                Ok(Some(SubscriberEvent::Subscribed(interest)))
            }
            ToSubscriber::ConfirmUnsubscribe(it) => {
                let interest = self.confirmed(what, it, false, now)?;
                Ok(Some(SubscriberEvent::Unsubscribed(interest)))
            }
            ToSubscriber::ConfirmNotify(it) => self.notified(it, now).map(Some),
            ToSubscriber::ContinueNotify(it) => self.continued(it, now).map(Some),
            ToSubscriber::ReceiveStream(it) => self.receive(it, now).map(Some),
            ToSubscriber::EnablePreset(it) => self.enable_preset(&it, now),
            ToSubscriber::EnableCustom(it) => self.enable_custom(it, now).map(Some),
            ToSubscriber::DisableCustom(it) => self.disable(&it, now).map(Some),
            ToSubscriber::Missed(it) => self.missed(it, now).map(Some),
        }
    }

    fn confirmed(
        &mut self,
        what: &'static str,
        it: InterestMessage,
        subscribed: bool,
        now: Now,
    ) -> Result<Interest, SessionError> {
        // Answers come in the order of the requests (§7). The counter is that of the request, which
        // the confirmation signs again.
        let counter = self.outbox.confirmed(&it.interest, subscribed);
        let counter = counter.ok_or_else(|| protocol(what, NOT_DUE))?;
        let claim = Claim::ConfirmSubscribe {
            url: &self.signer.peers_url(counter),
            recovery: None,
            interest: &it.interest,
        };
        self.signer
            .verify_bound(what, &claim, &it.tracing, &it.authorization, now)?;
        Ok(it.interest)
    }

    fn continued(&mut self, it: Continue, now: Now) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "CONTINUE_NOTIFY";
        if !self.outbox.is_continued(&it.identifier, it.part_id) {
            return Err(protocol(WHAT, NOT_DUE));
        }
        let claim = Claim::ContinueNotify {
            identifier: &it.identifier,
            part_id: u32::try_from(it.part_id)
                .map_err(|_| protocol(WHAT, "its part cannot be signed"))?,
        };
        self.signer
            .verify_bound(WHAT, &claim, &it.tracing, &it.authorization, now)?;
        Ok(SubscriberEvent::Continued {
            identifier: it.identifier,
            part_id: it.part_id,
        })
    }

    fn notified(&mut self, it: ConfirmNotify, now: Now) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "CONFIRM_NOTIFY";
        let sent = self.outbox.notified(&it.identifier);
        let sent = sent.ok_or_else(|| protocol(WHAT, NOT_DUE))?;
        // The signature has four bytes for a number that has eight on the wire.
        let subscribers = u32::try_from(it.subscribers)
            .map_err(|_| protocol(WHAT, "its number of subscribers cannot be signed"))?;
        let verify = |sha512: &Sha512| {
            let claim = Claim::ConfirmNotify {
                identifier: &it.identifier,
                subscribers,
                topic: &sent.topic,
                sha512,
            };
            self.signer
                .verify_bound(WHAT, &claim, &it.tracing, &it.authorization, now)
        };
        // Which digest is signed depends on how the notification was sent; either vouches for it
        // (`docs/protocol/auth.md` §8 A6).
        verify(&sent.plain_sha512).or_else(|error| {
            if sent.compressed_sha512 == sent.plain_sha512 {
                Err(error)
            } else {
                verify(&sent.compressed_sha512)
            }
        })?;
        let identifier = it.identifier;
        // A refusal stands for no subscriber. With a count it is a confirmation, whatever its
        // tracing says.
        let refusal = Refusal::of_tracing(&it.tracing).filter(|_| subscribers == 0);
        Ok(match refusal {
            Some(refusal) => SubscriberEvent::Refused {
                identifier,
                refusal,
            },
            None => SubscriberEvent::Notified {
                identifier,
                subscribers,
            },
        })
    }

    fn receive(&mut self, it: StreamPart, now: Now) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "RECEIVE_STREAM";
        let part_id = it.part.id();
        let (mut stream, begins) = match it.part {
            Part::First { topic, head } => {
                if self.stream.is_some() {
                    return Err(protocol(WHAT, "another message is under way"));
                }
                // Before any part is kept: what nobody here can decompress need not be stored
                // first.
                let enabled = |(id, _): &(u32, _)| u64::from(*id) == head.compressor;
                if head.compressor != 0 && !self.compressors.iter().any(enabled) {
                    return Err(protocol(WHAT, "its compressor is not enabled"));
                }
                let (identifier, tracing) = (it.identifier.clone(), it.tracing.clone());
                let parts = IncomingParts::begin(identifier, topic.clone(), head, tracing);
                // Taken before it is verified (§5). If that fails, the session is over and the
                // counter with it.
                let counter = self.signer.take_peers();
                self.verify_part(&parts, counter, &it.authorization, now)?;
                (Box::new((parts, counter)), Some((topic, head)))
            }
            Part::Later(_) => {
                // Taken out for good if anything below fails, as the session is then over.
                let Some(stream) = self.stream.take() else {
                    return Err(protocol(WHAT, "no message is under way"));
                };
                let expected = stream.0.expects(part_id, &it.identifier);
                expected.map_err(|problem| protocol(WHAT, problem))?;
                self.verify_later_part(&stream, &it.authorization, now)?;
                (stream, None)
            }
        };
        let progress = stream.0.part(it.body.len());
        let ends = match progress.map_err(|problem| protocol(WHAT, problem))? {
            // Acknowledged before the driver has stored the part: the broadcaster stops once a
            // number of parts are unacknowledged (§9), and the last one is confirmed by the driver
            // alone.
            Progress::More => {
                self.stream = Some(stream);
                self.outbox.continue_receive(it.identifier, part_id);
                None
            }
            Progress::Complete => Some(ReceiveTicket {
                identifier: it.identifier,
                place: self.outbox.place(),
            }),
        };
        Ok(SubscriberEvent::Receive(ReceivePart {
            begins,
            bytes: it.body,
            ends,
        }))
    }

    fn verify_part(
        &self,
        parts: &IncomingParts,
        counter: i64,
        authorization: &Option<String>,
        now: Now,
    ) -> Result<(), SessionError> {
        let claim = Claim::Receive {
            url: &self.signer.peers_url(counter),
            topic: parts.topic(),
            identifier: parts.identifier(),
            sha512: &parts.head().compressed_sha512,
        };
        let tracing = parts.tracing();
        self.signer
            .verify_bound("RECEIVE_STREAM", &claim, tracing, authorization, now)
    }

    fn verify_later_part(
        &mut self,
        (parts, first): &(IncomingParts, i64),
        authorization: &Option<String>,
        now: Now,
    ) -> Result<(), SessionError> {
        let verify = |counter| self.verify_part(parts, counter, authorization, now);
        let each = || verify(self.signer.peek_peers()).map(|()| StreamCounters::EachPart);
        let once = || verify(*first).map(|()| StreamCounters::FirstPart);
        // Broadcasters differ in whether later parts take a counter (§5, §16 D1): the first one
        // that verifies shows which kind this is.
        let shown = match self.stream_counters {
            Some(StreamCounters::EachPart) => each(),
            Some(StreamCounters::FirstPart) => once(),
            None => each().or_else(|error| once().map_err(|_| error)),
        }?;
        if shown == StreamCounters::EachPart {
            self.signer.take_peers();
        }
        self.stream_counters = Some(shown);
        Ok(())
    }

    fn missed(&mut self, it: MissedMessage, now: Now) -> Result<SubscriberEvent, SessionError> {
        let claim = Claim::Missed {
            recovery: &self.signer.next_peers_url(),
            topic: &it.topic,
        };
        self.signer
            .verify_bound("MISSED", &claim, &it.tracing, &it.authorization, now)?;
        Ok(SubscriberEvent::Missed(it.topic))
    }

    fn enable_preset(
        &mut self,
        it: &EnablePreset,
        now: Now,
    ) -> Result<Option<SubscriberEvent>, SessionError> {
        const WHAT: &str = "ENABLE_ZSTD_PRESET";
        let counter = self.signer.take_peers();
        let compressor = signed_id(WHAT, it.compressor)?;
        let claim = Claim::EnablePreset {
            url: &self.signer.peers_url(counter),
            compressor,
            level: signed_level(it.compression_level),
            min_size: it.min_size.into(),
            max_size: it.max_size,
        };
        self.signer
            .verify_bound(WHAT, &claim, &it.tracing, &it.authorization, now)?;
        if !self.config.enable_zstd {
            return Err(protocol(WHAT, "compression is off"));
        }
        // 0 is sending without compression, which is always allowed.
        if compressor == 0 {
            return Ok(None);
        }
        let known = u16::try_from(compressor).ok();
        let known = known.filter(|id| *id == 1 || self.config.presets.contains(id));
        let id = known.ok_or_else(|| protocol(WHAT, "the preset is unknown"))?;
        let sizes = CompressorSizes {
            min: it.min_size,
            max: it.max_size,
        };
        self.enable(WHAT, compressor, sizes)?;
        Ok(Some(SubscriberEvent::EnablePreset {
            compressor: id,
            level: it.compression_level,
            sizes,
        }))
    }

    fn enable_custom(
        &mut self,
        it: EnableCustom,
        now: Now,
    ) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "ENABLE_ZSTD_CUSTOM";
        let counter = self.signer.take_peers();
        let compressor = signed_id(WHAT, it.compressor)?;
        let claim = Claim::EnableCustom {
            url: &self.signer.peers_url(counter),
            compressor,
            level: signed_level(it.compression_level),
            min_size: it.min_size.into(),
            max_size: it.max_size,
            sha512: &it.sha512,
        };
        self.signer
            .verify_bound(WHAT, &claim, &it.tracing, &it.authorization, now)?;
        // Published subscribers close here, too (§11). A dictionary costs memory that this end has
        // not agreed to spend.
        if !self.config.enable_zstd || !self.config.enable_training {
            return Err(protocol(WHAT, "training is off"));
        }
        if compressor < CUSTOM_MIN {
            return Err(protocol(WHAT, "its id is that of a preset"));
        }
        // The signature covers the digest, not the dictionary.
        if Sha512::of(&it.dictionary) != it.sha512 {
            return Err(protocol(WHAT, "the dictionary has another digest"));
        }
        let sizes = CompressorSizes {
            min: it.min_size,
            max: it.max_size,
        };
        self.enable(WHAT, compressor, sizes)?;
        let customs = self.compressors.iter().filter(|(id, _)| *id >= CUSTOM_MIN);
        // Counted with the new one, which need not be taken out again: the session ends.
        if customs.count() > CUSTOMS_MAX {
            return Err(protocol(WHAT, "two dictionaries are enabled already"));
        }
        Ok(SubscriberEvent::EnableCustom {
            compressor,
            level: it.compression_level,
            sizes,
            dictionary: it.dictionary,
        })
    }

    fn enable(
        &mut self,
        what: &'static str,
        compressor: u32,
        sizes: CompressorSizes,
    ) -> Result<(), SessionError> {
        if self.compressors.iter().any(|(id, _)| *id == compressor) {
            return Err(protocol(what, "it is enabled already"));
        }
        // Which of two presets is ready first says nothing about which is better.
        let rank = |id: u32| (id >= CUSTOM_MIN, id > 1);
        let is_before = |(id, _): &(u32, CompressorSizes)| rank(*id) <= rank(compressor);
        let at = self.compressors.partition_point(is_before);
        self.compressors.insert(at, (compressor, sizes));
        Ok(())
    }

    fn disable(&mut self, it: &DisableCustom, now: Now) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "DISABLE_ZSTD_CUSTOM";
        let counter = self.signer.take_peers();
        let compressor = signed_id(WHAT, it.compressor)?;
        let claim = Claim::DisableCustom {
            compressor,
            url: &self.signer.peers_url(counter),
        };
        self.signer
            .verify_bound(WHAT, &claim, &it.tracing, &it.authorization, now)?;
        let enabled = self
            .compressors
            .iter()
            .position(|(id, _)| *id == compressor);
        match enabled {
            // Presets stay as long as the connection: there is no message that ends one (§4).
            Some(at) if self.config.enable_zstd && compressor >= CUSTOM_MIN => {
                self.compressors.remove(at);
                // What waits compressed with it has to leave before the broadcaster forgets the
                // dictionary.
                self.outbox.compressor_disabled(it.compressor);
                Ok(SubscriberEvent::DisableCustom { compressor })
            }
            Some(_) | None => Err(protocol(WHAT, "no such dictionary is enabled")),
        }
    }

    /// The compressor to use for a plain body of this length; 0 for none (§11).
    pub(super) fn compressor_for(&self, plain_bytes: u64) -> u32 {
        let compressors = self.compressors.iter().map(|(id, sizes)| (*id, sizes));
        newest_that_fits(compressors, plain_bytes)
    }

    /// The next message in turn, signed as it leaves.
    pub(super) fn next_message(&mut self, now: Now) -> Result<Option<Outgoing<B>>, SessionError> {
        self.outbox.next(&self.config, &mut self.signer, now)
    }
}

const NOT_DUE: &str = "another acknowledgement was due";

/// Most trained dictionaries that are enabled at the same time (§12).
const CUSTOMS_MAX: usize = 2;

/// The id of a compressor as it is signed.
fn signed_id(what: &'static str, compressor: u64) -> Result<u32, SessionError> {
    u32::try_from(compressor).map_err(|_| protocol(what, "its id cannot be signed"))
}

/// A level as it is signed. Published ends can sign no negative one, but announce it with schemes
/// that sign nothing (§4).
fn signed_level(level: i16) -> u32 {
    i32::from(level).cast_unsigned()
}
