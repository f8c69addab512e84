//! The messages that wait to be sent to a broadcaster, and the answers that are due.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::auth::Claim;
use crate::digest::Sha512;
use crate::session::error::SessionError;
use crate::session::in_order::InOrder;
use crate::session::io::{Outgoing, OutgoingBody};
use crate::session::outgoing::OutgoingParts;
use crate::session::signer::ConnectionSigner;
use crate::session::subscriber::config::SubscriberConfig;
use crate::session::subscriber::event::Notification;
use crate::stateful::{ConfirmReceive, Continue, InterestMessage, Notify, ToBroadcaster};
use crate::subscription::Interest;
use crate::time::Now;
use crate::topic::{Identifier, Topic};

/// Messages to send. Acknowledgements leave first, then the parts of the notification under way,
/// then requests, then notifications.
#[derive(Debug)]
pub(super) struct Outbox<B> {
    /// In the order of the messages that they acknowledge.
    acknowledgements: InOrder<Acknowledgement>,
    requests: VecDeque<(Interest, bool)>,
    notifications: VecDeque<Notification<B>>,
    /// Number of notifications, from the front, that were compressed with a dictionary that is
    /// disabled by now, or wait before such a one. They leave before the acknowledgements that tell
    /// the broadcaster to forget the dictionary.
    overdue: usize,
    /// The notification of which parts were sent, with the digest of its plain body.
    sending: Option<(OutgoingParts<B>, Sha512)>,
    /// Answers that are due, oldest first.
    expected: VecDeque<Expected>,
}

/// The acknowledgement of a part of a message.
#[derive(Debug)]
enum Acknowledgement {
    Continue {
        identifier: Identifier,
        part_id: u64,
    },
    Confirm {
        identifier: Identifier,
    },
}

/// An answer that the broadcaster owes.
#[derive(Debug)]
enum Expected {
    Interest {
        interest: Interest,
        subscribe: bool,
        /// The counter of the request.
        counter: i64,
    },
    Continue {
        identifier: Identifier,
        part_id: u64,
    },
    Notify {
        identifier: Identifier,
        sent: Sent,
    },
}

/// A notification that was sent whole, as CONFIRM_NOTIFY signs it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) topic: Topic,
    pub(super) plain_sha512: Sha512,
    pub(super) compressed_sha512: Sha512,
}

impl<B: Clone> Outbox<B> {
    pub(super) fn new() -> Self {
        Self {
            acknowledgements: InOrder::new(),
            requests: VecDeque::new(),
            notifications: VecDeque::new(),
            overdue: 0,
            sending: None,
            expected: VecDeque::new(),
        }
    }

    pub(super) fn request(&mut self, interest: Interest, subscribe: bool) {
        self.requests.push_back((interest, subscribe));
    }

    pub(super) fn notify(&mut self, notification: Notification<B>) {
        self.notifications.push_back(notification);
    }

    /// `true` if a notification waits, or parts of one.
    pub(super) fn is_notifying(&self) -> bool {
        !self.notifications.is_empty() || self.sending.is_some()
    }

    /// Number of answers that are due.
    pub(super) fn unacknowledged(&self) -> usize {
        self.expected.len()
    }

    /// Acknowledges a part that is not the last one of its message.
    pub(super) fn continue_receive(&mut self, identifier: Identifier, part_id: u64) {
        self.acknowledgements.push(Acknowledgement::Continue {
            identifier,
            part_id,
        });
    }

    /// Takes the place of the confirmation of a message.
    pub(super) fn place(&mut self) -> u64 {
        self.acknowledgements.place()
    }

    /// Gives the confirmation that belongs in `place`.
    pub(super) fn confirm_receive(&mut self, place: u64, identifier: Identifier) {
        let confirm = Acknowledgement::Confirm { identifier };
        self.acknowledgements.fill(place, confirm);
    }

    /// Takes the oldest answer that is due; the counter of the request if it is this one.
    pub(super) fn confirmed(&mut self, confirmed: &Interest, subscribed: bool) -> Option<i64> {
        // Taken even if it is another one: that ends the session, so it is not needed again.
        match self.expected.pop_front() {
            Some(Expected::Interest {
                interest,
                subscribe,
                counter,
            }) if interest == *confirmed && subscribe == subscribed => Some(counter),
            Some(_) | None => None,
        }
    }

    /// Takes the oldest answer that is due; `true` if it is CONTINUE_NOTIFY for this part.
    pub(super) fn is_continued(&mut self, identifier: &Identifier, part_id: u64) -> bool {
        match self.expected.pop_front() {
            Some(Expected::Continue {
                identifier: expected,
                part_id: part,
            }) => expected == *identifier && part == part_id,
            Some(_) | None => false,
        }
    }

    /// Takes the oldest answer that is due; the notification if it is CONFIRM_NOTIFY for this one.
    pub(super) fn notified(&mut self, notified: &Identifier) -> Option<Sent> {
        match self.expected.pop_front() {
            Some(Expected::Notify { identifier, sent }) if identifier == *notified => Some(sent),
            Some(_) | None => None,
        }
    }

    /// Lets notifications that were compressed with `compressor` leave before the next
    /// acknowledgement.
    pub(super) fn compressor_disabled(&mut self, compressor: u64) {
        let uses_it = |waits: &Notification<B>| waits.head.compressor == compressor;
        // All before the last one, too: notifications leave in their order.
        if let Some(last) = self.notifications.iter().rposition(uses_it) {
            self.overdue = self.overdue.max(last + 1);
        }
    }

    /// The next message in turn, signed as it leaves.
    pub(super) fn next(
        &mut self,
        config: &SubscriberConfig,
        signer: &mut ConnectionSigner,
        now: Now,
    ) -> Result<Option<Outgoing<B>>, SessionError> {
        // First of all: while an acknowledgement is missing, the broadcaster may send nothing (§9).
        if self.overdue == 0
            && let Some(acknowledgement) = self.acknowledgements.pop()
        {
            let message = acknowledge(signer, acknowledgement, now)?;
            let head = message.encode_head(config.headers);
            return Ok(Some(Outgoing::without_body(head)));
        }
        // Before requests and after acknowledgements: only these may come between the parts.
        if let Some((parts, plain_sha512)) = self.sending.take() {
            let authorization = sign_notify(signer, &parts, now)?;
            let part = self.part(config, parts, plain_sha512, authorization);
            return Ok(Some(part));
        }
        // Requests wait for overdue notifications, as acknowledgements do, and with those every
        // delivery.
        if self.overdue == 0
            && let Some((interest, subscribe)) = self.requests.pop_front()
        {
            let message = self.ask(signer, interest, subscribe, now)?;
            let head = message.encode_head(config.headers);
            return Ok(Some(Outgoing::without_body(head)));
        }
        let Some(notification) = self.notifications.pop_front() else {
            return Ok(None);
        };
        self.overdue = self.overdue.saturating_sub(1);
        self.begin(config, signer, notification, now).map(Some)
    }

    fn ask(
        &mut self,
        signer: &mut ConnectionSigner,
        interest: Interest,
        subscribe: bool,
        now: Now,
    ) -> Result<ToBroadcaster, SessionError> {
        let counter = signer.take_own();
        let claim = Claim::Subscribe {
            url: &signer.own_url(counter),
            recovery: None,
            interest: &interest,
        };
        let authorization = signer.sign(&claim, now)?;
        self.expected.push_back(Expected::Interest {
            interest: interest.clone(),
            subscribe,
            counter,
        });
        let message = InterestMessage {
            interest,
            authorization,
            tracing: Bytes::new(),
        };
        Ok(match subscribe {
            true => ToBroadcaster::Subscribe(message),
            false => ToBroadcaster::Unsubscribe(message),
        })
    }

    /// All of the notification, or its first part.
    fn begin(
        &mut self,
        config: &SubscriberConfig,
        signer: &mut ConnectionSigner,
        notification: Notification<B>,
        now: Now,
    ) -> Result<Outgoing<B>, SessionError> {
        let Notification {
            identifier,
            topic,
            head,
            plain_sha512,
            body,
        } = notification;
        let parts = OutgoingParts::new(identifier, topic, head, body.clone());
        // Before the choice between NOTIFY and parts: both sign the same claim, and the length of
        // the authorization is a part of the choice.
        let authorization = sign_notify(signer, &parts, now)?;
        let max = config.message_bytes_max;
        // The plain length decides, even for a body that compresses well, as at published clients
        // (§8).
        if head.decompressed_length.saturating_add(NOTIFY_HEAD_BYTES) < max {
            let message = ToBroadcaster::Notify(Notify {
                identifier: parts.identifier.clone(),
                topic: parts.topic.clone(),
                head,
                authorization: authorization.clone(),
                tracing: Bytes::new(),
                body: Bytes::new(),
            });
            let bytes = message.encode_head(config.headers);
            // The estimate does not know the topic and the authorization, which may be long.
            if (bytes.len() as u64).saturating_add(head.compressed_length) < max {
                self.expect_notified(&parts, plain_sha512);
                return Ok(Outgoing {
                    head: bytes.into(),
                    body: match head.compressed_length {
                        0 => OutgoingBody::Empty,
                        end => OutgoingBody::Part {
                            of: body,
                            range: 0..end,
                        },
                    },
                });
            }
        }
        Ok(self.part(config, parts, plain_sha512, authorization))
    }

    /// The next part of a notification.
    fn part(
        &mut self,
        config: &SubscriberConfig,
        mut parts: OutgoingParts<B>,
        plain_sha512: Sha512,
        authorization: Option<String>,
    ) -> Outgoing<B> {
        let part_id = parts.next_part();
        let (message, is_last) = parts.next(authorization, config.message_bytes_max, |part| {
            ToBroadcaster::NotifyStream(part).encode_head(config.headers)
        });
        if is_last {
            self.expect_notified(&parts, plain_sha512);
        } else {
            self.expected.push_back(Expected::Continue {
                identifier: parts.identifier.clone(),
                part_id,
            });
            // The next call goes on with it: a broadcaster tolerates nothing but acknowledgements
            // between two parts.
            self.sending = Some((parts, plain_sha512));
        }
        message
    }

    fn expect_notified(&mut self, parts: &OutgoingParts<B>, plain_sha512: Sha512) {
        self.expected.push_back(Expected::Notify {
            identifier: parts.identifier.clone(),
            sent: Sent {
                topic: parts.topic.clone(),
                plain_sha512,
                compressed_sha512: parts.head.compressed_sha512,
            },
        });
    }
}

/// Bytes that NOTIFY is thought to have besides its body when an end chooses between NOTIFY and
/// parts (§8).
const NOTIFY_HEAD_BYTES: u64 = 128;

fn acknowledge(
    signer: &mut ConnectionSigner,
    acknowledgement: Acknowledgement,
    now: Now,
) -> Result<ToBroadcaster, SessionError> {
    let url = &signer.next_own_url();
    let tracing = Bytes::new();
    Ok(match acknowledgement {
        Acknowledgement::Continue {
            identifier,
            part_id,
        } => {
            let claim = Claim::ContinueReceive {
                identifier: &identifier,
                part_id,
                url,
            };
            ToBroadcaster::ContinueReceive(Continue {
                authorization: signer.sign(&claim, now)?,
                identifier,
                part_id,
                tracing,
            })
        }
        Acknowledgement::Confirm { identifier } => {
            let claim = Claim::ConfirmReceive {
                identifier: &identifier,
                subscribers: 1,
                url,
            };
            ToBroadcaster::ConfirmReceive(ConfirmReceive {
                authorization: signer.sign(&claim, now)?,
                identifier,
                num_subscribers: 1,
                tracing,
            })
        }
    })
}

fn sign_notify<B>(
    signer: &mut ConnectionSigner,
    parts: &OutgoingParts<B>,
    now: Now,
) -> Result<Option<String>, SessionError> {
    let claim = Claim::Notify {
        topic: &parts.topic,
        identifier: &parts.identifier,
        sha512: &parts.head.compressed_sha512,
    };
    Ok(signer.sign(&claim, now)?)
}
