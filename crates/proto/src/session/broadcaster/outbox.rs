//! The messages that wait to be sent to a subscriber, and the acknowledgements that are due.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use bytes::Bytes;

use crate::auth::Claim;
use crate::digest::Sha512;
use crate::session::broadcaster::compressors::Announced;
use crate::session::broadcaster::config::BroadcasterConfig;
use crate::session::broadcaster::event::{Compressor, Delivery};
use crate::session::compressors::CompressorSizes;
use crate::session::error::{SessionError, protocol};
use crate::session::in_order::InOrder;
use crate::session::io::{Outgoing, OutgoingBody};
use crate::session::outgoing::OutgoingParts;
use crate::session::signer::{ConnectionSigner, StreamCounters};
use crate::stateful::{
    ConfirmConfigure, ConfirmNotify, Continue, DisableCustom, EnableCustom, EnablePreset,
    InterestMessage, MissedMessage, Refusal, ToSubscriber,
};
use crate::subscription::Interest;
use crate::time::Now;
use crate::topic::{Identifier, Topic};

/// Messages to send, in their order.
#[derive(Debug)]
pub(super) struct Outbox<B> {
    /// Answers, in the order of the requests.
    confirmations: InOrder<Queued<B>>,
    queue: VecDeque<Queued<B>>,
    /// Memory of the answers in both, in bytes.
    answers_bytes: usize,
    sending: Option<Sending<B>>,
    /// Number of deliveries that were begun.
    deliveries: u64,
    /// Acknowledgements that are due, oldest first.
    expected: VecDeque<Expected>,
}

/// A message to send, in its turn.
#[derive(Debug)]
pub(super) enum Queued<B> {
    ConfirmConfigure([u8; 32]),
    ConfirmInterest {
        interest: Interest,
        subscribe: bool,
        /// The counter of the request.
        counter: i64,
    },
    ContinueNotify {
        identifier: Identifier,
        part_id: u64,
    },
    ConfirmNotify {
        identifier: Identifier,
        topic: Topic,
        sha512: Sha512,
        /// The number of subscribers that have the message, or the reason why it was not taken.
        outcome: Result<u32, Refusal>,
    },
    Deliver(Box<Delivery<B>>),
    Missed(Topic),
    Enable(Box<Compressor>),
    Disable(u32),
}

impl<B> Queued<B> {
    /// Memory of an answer while it waits, in bytes; 0 for a message that answers nothing.
    fn answer_bytes(&self) -> usize {
        // With its place in the queue: answers to requests of a few bytes cost more than their
        // text.
        let beside = size_of::<Self>();
        match self {
            Self::ConfirmInterest { interest, .. } => beside + interest.as_bytes().len(),
            Self::ContinueNotify { identifier, .. } => beside + identifier.as_bytes().len(),
            Self::ConfirmNotify {
                identifier, topic, ..
            } => beside + identifier.as_bytes().len() + topic.as_bytes().len(),
            Self::ConfirmConfigure(_)
            | Self::Deliver(_)
            | Self::Missed(_)
            | Self::Enable(_)
            | Self::Disable(_) => 0,
        }
    }
}

/// The delivery of which some parts were sent.
#[derive(Debug)]
struct Sending<B> {
    parts: OutgoingParts<B>,
    /// The counter of the first part, once it was sent.
    first_counter: Option<i64>,
    /// The number of the delivery, from 1.
    delivery: u64,
}

/// An acknowledgement that is due.
#[derive(Debug)]
struct Expected {
    identifier: Identifier,
    part: ExpectedPart,
}

#[derive(Debug)]
enum ExpectedPart {
    /// CONTINUE_RECEIVE for the part with this number.
    Continue(u64),
    /// CONFIRM_RECEIVE for the delivery with this number.
    Confirm { delivery: u64 },
}

impl<B: Clone> Outbox<B> {
    /// An outbox with one message in it.
    pub(super) fn new(first: Queued<B>) -> Self {
        Self {
            confirmations: InOrder::new(),
            queue: VecDeque::from([first]),
            answers_bytes: 0,
            sending: None,
            deliveries: 0,
            expected: VecDeque::new(),
        }
    }

    /// `true` if all that was handed in before has left, all parts of it.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.sending.is_none()
    }

    pub(super) fn answers_bytes(&self) -> usize {
        self.answers_bytes
    }

    /// Number of acknowledgements that are due.
    pub(super) fn unacknowledged(&self) -> usize {
        self.expected.len()
    }

    /// Takes the place of an answer, in the order of the requests.
    pub(super) fn place(&mut self) -> u64 {
        self.confirmations.place()
    }

    /// Gives the answer that belongs in `place`.
    pub(super) fn confirm(&mut self, place: u64, confirmation: Queued<B>) {
        self.answers_bytes += confirmation.answer_bytes();
        self.confirmations.fill(place, confirmation);
        // Later answers that were ready but waited for this one leave with it.
        while let Some(confirmation) = self.confirmations.pop() {
            self.queue.push_back(confirmation);
        }
    }

    /// Sends a message that answers nothing. Nothing overtakes what is queued: a compressor is
    /// announced before it is used.
    pub(super) fn push(&mut self, queued: Queued<B>) {
        self.queue.push_back(queued);
    }

    /// Takes the oldest acknowledgement that is due; `true` if it is CONTINUE_RECEIVE for this
    /// part.
    pub(super) fn is_continued(&mut self, identifier: &Identifier, part_id: u64) -> bool {
        // Taken even if it is another one: that ends the session (§9), so it is not needed again.
        match self.expected.pop_front() {
            Some(Expected {
                identifier: expected,
                part: ExpectedPart::Continue(part),
            }) => expected == *identifier && part == part_id,
            Some(_) | None => false,
        }
    }

    /// Takes the oldest acknowledgement that is due; the number of the delivery if it is
    /// CONFIRM_RECEIVE for this identifier.
    pub(super) fn confirmed(&mut self, identifier: &Identifier) -> Option<u64> {
        match self.expected.pop_front() {
            Some(Expected {
                identifier: expected,
                part: ExpectedPart::Confirm { delivery },
            }) if expected == *identifier => Some(delivery),
            Some(_) | None => None,
        }
    }

    /// The next message in turn, signed as it leaves.
    pub(super) fn next(
        &mut self,
        config: &BroadcasterConfig,
        signer: &mut ConnectionSigner,
        compressors: &mut Announced,
        now: Now,
    ) -> Result<Option<Outgoing<B>>, SessionError> {
        loop {
            // Nothing is sent between the parts of a message, even while acknowledgements are due.
            if self.sending.is_some() {
                return self.next_part(config, signer, now);
            }
            let Some(queued) = self.queue.pop_front() else {
                return Ok(None);
            };
            // Counted until it leaves: as long as the subscriber does not read its answers, the
            // driver reads no further requests.
            self.answers_bytes -= queued.answer_bytes();
            let message = match queued {
                Queued::Deliver(delivery) => {
                    self.begin(*delivery);
                    continue;
                }
                Queued::Enable(compressor) => {
                    return encode_enable(config, signer, *compressor, now).map(Some);
                }
                Queued::Disable(compressor) => {
                    // A delivery begun from here on is read after DISABLE, so its acknowledgement
                    // proves that DISABLE was read.
                    compressors.disable_leaves(compressor, self.deliveries);
                    disable(signer, compressor, now)?
                }
                Queued::ConfirmConfigure(broadcaster_nonce) => {
                    confirm_configure(signer, broadcaster_nonce, now)?
                }
                Queued::ConfirmInterest {
                    interest,
                    subscribe,
                    counter,
                } => confirm_interest(signer, interest, subscribe, counter, now)?,
                Queued::ContinueNotify {
                    identifier,
                    part_id,
                } => continue_notify(signer, identifier, part_id, now)?,
                Queued::ConfirmNotify {
                    identifier,
                    topic,
                    sha512,
                    outcome,
                } => confirm_notify(signer, identifier, &topic, &sha512, outcome, now)?,
                Queued::Missed(topic) => missed(signer, topic, now)?,
            };
            return Ok(Some(Outgoing {
                head: message.encode_head(config.headers).into(),
                body: OutgoingBody::Empty,
            }));
        }
    }

    fn begin(&mut self, delivery: Delivery<B>) {
        let Delivery {
            identifier,
            topic,
            head,
            body,
        } = delivery;
        self.deliveries += 1;
        self.sending = Some(Sending {
            parts: OutgoingParts::new(identifier, topic, head, body),
            first_counter: None,
            delivery: self.deliveries,
        });
    }

    /// The next part of the delivery under way, unless too many are unacknowledged.
    fn next_part(
        &mut self,
        config: &BroadcasterConfig,
        signer: &mut ConnectionSigner,
        now: Now,
    ) -> Result<Option<Outgoing<B>>, SessionError> {
        // Parts are counted, not messages (§9): one long message would fill the subscriber's
        // buffers just as well.
        let full = |max: NonZeroUsize| self.expected.len() >= max.get();
        if config.unacknowledged_max.is_some_and(full) {
            return Ok(None);
        }
        let Some(mut sending) = self.sending.take() else {
            return Ok(None);
        };
        // With `FirstPart`, later parts are signed over the url of the first (§5).
        let counter = match (config.stream_counters, sending.first_counter) {
            (StreamCounters::FirstPart, Some(counter)) => counter,
            (StreamCounters::FirstPart, None) | (StreamCounters::EachPart, _) => signer.take_own(),
        };
        let parts = &mut sending.parts;
        let claim = Claim::Receive {
            url: &signer.own_url(counter),
            topic: &parts.topic,
            identifier: &parts.identifier,
            sha512: &parts.head.compressed_sha512,
        };
        let authorization = signer.sign(&claim, now)?;
        let part_id = parts.next_part();
        let (message, is_last) = parts.next(authorization, config.message_bytes_max, |part| {
            ToSubscriber::ReceiveStream(part).encode_head(config.headers)
        });
        // In the order in which parts leave, which is the only order that is accepted (§9).
        self.expected.push_back(Expected {
            identifier: parts.identifier.clone(),
            part: match is_last {
                true => ExpectedPart::Confirm {
                    delivery: sending.delivery,
                },
                false => ExpectedPart::Continue(part_id),
            },
        });
        if !is_last {
            sending.first_counter = Some(counter);
            self.sending = Some(sending);
        }
        Ok(Some(message))
    }
}

fn confirm_configure(
    signer: &mut ConnectionSigner,
    broadcaster_nonce: [u8; 32],
    now: Now,
) -> Result<ToSubscriber, SessionError> {
    let claim = Claim::ConfirmConfigure {
        broadcaster_nonce: &broadcaster_nonce,
    };
    Ok(ToSubscriber::ConfirmConfigure(ConfirmConfigure {
        authorization: signer.sign(&claim, now)?,
        broadcaster_nonce,
        tracing: Bytes::new(),
    }))
}

fn confirm_interest(
    signer: &mut ConnectionSigner,
    interest: Interest,
    subscribe: bool,
    counter: i64,
    now: Now,
) -> Result<ToSubscriber, SessionError> {
    let claim = Claim::ConfirmSubscribe {
        // The counter of the request, so that the confirmation vouches for this request and not for
        // an earlier one about the same interest (§7).
        url: &signer.own_url(counter),
        recovery: None,
        interest: &interest,
    };
    let authorization = signer.sign(&claim, now)?;
    let message = InterestMessage {
        interest,
        authorization,
        tracing: Bytes::new(),
    };
    Ok(match subscribe {
        true => ToSubscriber::ConfirmSubscribe(message),
        false => ToSubscriber::ConfirmUnsubscribe(message),
    })
}

fn continue_notify(
    signer: &mut ConnectionSigner,
    identifier: Identifier,
    part_id: u64,
    now: Now,
) -> Result<ToSubscriber, SessionError> {
    let claim = Claim::ContinueNotify {
        identifier: &identifier,
        // The signature has four bytes for a number that has eight on the wire.
        part_id: u32::try_from(part_id)
            .map_err(|_| protocol("NOTIFY_STREAM", "it has too many parts"))?,
    };
    Ok(ToSubscriber::ContinueNotify(Continue {
        authorization: signer.sign(&claim, now)?,
        identifier,
        part_id,
        tracing: Bytes::new(),
    }))
}

fn confirm_notify(
    signer: &mut ConnectionSigner,
    identifier: Identifier,
    topic: &Topic,
    sha512: &Sha512,
    outcome: Result<u32, Refusal>,
    now: Now,
) -> Result<ToSubscriber, SessionError> {
    let (subscribers, tracing) = match outcome {
        Ok(subscribers) => (subscribers, &b""[..]),
        // Tracing is signed, so nobody else can make a refusal of a confirmation.
        Err(refusal) => (0, refusal.tracing()),
    };
    let claim = Claim::ConfirmNotify {
        identifier: &identifier,
        subscribers,
        topic,
        sha512,
    };
    Ok(ToSubscriber::ConfirmNotify(ConfirmNotify {
        authorization: signer.sign_with(&claim, tracing, now)?,
        identifier,
        subscribers: subscribers.into(),
        tracing: Bytes::from_static(tracing),
    }))
}

fn missed(
    signer: &mut ConnectionSigner,
    topic: Topic,
    now: Now,
) -> Result<ToSubscriber, SessionError> {
    let claim = Claim::Missed {
        recovery: &signer.next_own_url(),
        topic: &topic,
    };
    Ok(ToSubscriber::Missed(MissedMessage {
        authorization: signer.sign(&claim, now)?,
        topic,
        tracing: Bytes::new(),
    }))
}

fn disable(
    signer: &mut ConnectionSigner,
    compressor: u32,
    now: Now,
) -> Result<ToSubscriber, SessionError> {
    let claim = Claim::DisableCustom {
        compressor,
        url: &signer.next_own_url(),
    };
    Ok(ToSubscriber::DisableCustom(DisableCustom {
        compressor: compressor.into(),
        authorization: signer.sign(&claim, now)?,
        tracing: Bytes::new(),
    }))
}

fn encode_enable<B>(
    config: &BroadcasterConfig,
    signer: &mut ConnectionSigner,
    compressor: Compressor,
    now: Now,
) -> Result<Outgoing<B>, SessionError> {
    let url = &signer.next_own_url();
    let Compressor {
        id,
        level,
        sizes: CompressorSizes { min, max },
        dictionary,
    } = compressor;
    // Levels of zstd end at 22.
    let compression_level = i16::try_from(level).unwrap_or(i16::MAX);
    let tracing = Bytes::new();
    let (message, body) = match dictionary {
        None => {
            let claim = Claim::EnablePreset {
                url,
                compressor: id,
                level: level.into(),
                min_size: min.into(),
                max_size: max,
            };
            let message = ToSubscriber::EnablePreset(EnablePreset {
                compressor: id.into(),
                compression_level,
                min_size: min,
                max_size: max,
                authorization: signer.sign(&claim, now)?,
                tracing,
            });
            (message, OutgoingBody::Empty)
        }
        Some((sha512, dictionary)) => {
            let claim = Claim::EnableCustom {
                url,
                compressor: id,
                level: level.into(),
                min_size: min.into(),
                max_size: max,
                sha512: &sha512,
            };
            let message = ToSubscriber::EnableCustom(EnableCustom {
                compressor: id.into(),
                compression_level,
                min_size: min,
                max_size: max,
                authorization: signer.sign(&claim, now)?,
                tracing,
                sha512,
                dictionary: Bytes::new(),
            });
            // The dictionary stays out of the head, which would otherwise copy up to its whole
            // length.
            (message, OutgoingBody::Bytes(dictionary))
        }
    };
    Ok(Outgoing {
        head: message.encode_head(config.headers).into(),
        body,
    })
}
