//! The subscriber's end of a websocket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::{AuthError, Authorization, Claim, Unspent};
use crate::digest::Sha512;
use crate::session::assembly::{Assembly, Progress};
use crate::session::compressors::{CUSTOM_MIN, CompressorSizes, newest_that_fits};
use crate::session::cut::Cut;
use crate::session::error::SessionError;
use crate::session::ordered::Ordered;
use crate::session::output::{Nonces, Outgoing, OutgoingBody, Output, StreamCounters};
use crate::subscription::Interest;
use crate::time::Now;
use crate::topic::{Identifier, Topic};
use crate::ws::{
    BodyHead, Configure, ConfirmNotify, ConfirmReceive, ConnectionNonce, Continue, Counter,
    DisableCustom, EnableCustom, EnablePreset, HeaderStyle, InterestMessage, Notify, Part, Refusal,
    StreamPart, ToBroadcaster, ToSubscriber,
};

/// What all sessions of a subscriber have in common.
#[derive(Clone, Debug)]
pub struct SubscriberConfig {
    /// Vouches for what the subscriber says.
    pub to_broadcaster: Arc<dyn Authorization>,
    /// Checks what the broadcaster says.
    pub to_subscriber: Arc<dyn Authorization>,
    /// How headers are written. Default: minimal.
    pub headers: HeaderStyle,
    /// Longest websocket message to send, in bytes; a part still carries at least 512 bytes of a
    /// body (§8). Default 3,670,016 (3.5 MiB).
    pub message_bytes_max: u64,
    /// How long the broadcaster may take to CONFIRM_CONFIGURE. Default 5 s.
    pub configure_timeout: Duration,
    /// Whether compressors are welcome. Default: yes.
    pub enable_zstd: bool,
    /// Whether dictionaries may be trained on what this connection carries. Default: yes.
    pub enable_training: bool,
    /// The preset asked for; 0: none. Default 0.
    pub initial_dict: u16,
    /// Ids of the presets whose dictionary is known, besides 1. Default: none.
    pub presets: Vec<u16>,
}

impl SubscriberConfig {
    /// With everything else at its default.
    pub fn new(
        to_broadcaster: Arc<dyn Authorization>,
        to_subscriber: Arc<dyn Authorization>,
    ) -> Self {
        Self {
            to_broadcaster,
            to_subscriber,
            headers: HeaderStyle::default(),
            message_bytes_max: 3_670_016,
            configure_timeout: Duration::from_secs(5),
            enable_zstd: true,
            enable_training: true,
            initial_dict: 0,
            presets: Vec::new(),
        }
    }
}

/// The subscriber's end of one websocket. `B` is what bodies are handed in as; the machine never
/// looks into it.
#[derive(Debug)]
pub struct SubscriberSession<B> {
    config: Arc<SubscriberConfig>,
    nonces: Nonces,
    now: Now,
    state: State<B>,
    events: VecDeque<SubscriberEvent>,
    /// Why it ends, until that was told.
    ends: Option<SessionError>,
}

#[derive(Debug)]
enum State<B> {
    AwaitConfirm(AwaitConfirm),
    Open(Box<Open<B>>),
    Closed,
}

#[derive(Debug)]
struct AwaitConfirm {
    deadline: Now,
    subscriber_nonce: [u8; 32],
    configured: bool,
}

/// What is known of an open session.
#[derive(Debug)]
struct Open<B> {
    nonce: ConnectionNonce,
    /// Counts what is sent.
    own: Counter,
    /// Counts what is received.
    peers: Counter,
    /// How the broadcaster counts the parts of a message, once it has shown.
    stream_counters: Option<StreamCounters>,
    /// In the order of what they acknowledge.
    acknowledgements: Ordered<Acknowledgement>,
    requests: VecDeque<(Interest, bool)>,
    notifications: VecDeque<Notification<B>>,
    /// How many of these were compressed by what is disabled by now, or wait before such a one.
    /// They leave before the acknowledgements that tell the broadcaster to forget the dictionary.
    overdue: usize,
    /// The notification of which parts were sent, with the digest of its plain body.
    sending: Option<(Cut<B>, Sha512)>,
    expected: VecDeque<Expected>,
    /// The message of which parts came, with the counter of its first part.
    stream: Option<Box<(Assembly, i64)>>,
    /// 1, then presets, then dictionaries; of each kind the oldest first.
    compressors: Vec<(u32, CompressorSizes)>,
}

/// Of a part of a message.
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

/// What the broadcaster owes an answer to.
#[derive(Debug)]
enum Expected {
    Interest {
        interest: Interest,
        subscribe: bool,
        /// That of the request.
        counter: i64,
    },
    Continue {
        identifier: Identifier,
        part_id: u64,
    },
    Notify {
        identifier: Identifier,
        topic: Topic,
        plain_sha512: Sha512,
        compressed_sha512: Sha512,
    },
}

/// A notification to send.
#[derive(Clone, Debug)]
pub struct Notification<B> {
    /// The same whenever it is sent again; 4 bytes.
    pub identifier: Identifier,
    /// What it is about.
    pub topic: Topic,
    /// What `body` is on the wire.
    pub head: BodyHead,
    /// Digest of the plain body.
    pub plain_sha512: Sha512,
    /// The wire form, of `head.compressed_length` bytes.
    pub body: B,
}

/// A part of a message, or all of it, in the order of the wire.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceivePart {
    /// What the message is, with its first part.
    pub begins: Option<(Topic, BodyHead)>,
    /// These bytes of the wire form. All parts together are known to have the announced length;
    /// the digest is for the driver to check.
    pub bytes: Bytes,
    /// Comes with the last part. To be confirmed when the digest was found right.
    pub ends: Option<ReceiveTicket>,
}

/// A message that is to be confirmed by [`SubscriberSession::confirm_receive`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the broadcaster waits for the confirmation"]
pub struct ReceiveTicket {
    /// Of the delivery.
    pub identifier: Identifier,
    place: u64,
}

/// What the driver has to act on.
#[derive(Debug, PartialEq, Eq)]
pub enum SubscriberEvent {
    /// CONFIRM_CONFIGURE was verified: the session is open, requests may be made. Spend before
    /// trusting anything else of this connection.
    Open {
        /// Must be spent before it counts.
        unspent: Unspent,
    },
    /// The broadcaster has subscribed this.
    Subscribed(Interest),
    /// The broadcaster has unsubscribed this.
    Unsubscribed(Interest),
    /// A part of the notification with this identifier has arrived.
    Continued {
        /// Of the notification.
        identifier: Identifier,
        /// Which part.
        part_id: u64,
    },
    /// A notification reached so many subscribers.
    Notified {
        /// Of the notification.
        identifier: Identifier,
        /// How many.
        subscribers: u32,
    },
    /// The broadcaster does not take a notification. Nobody has it.
    Refused {
        /// Of the notification.
        identifier: Identifier,
        /// Why.
        refusal: Refusal,
    },
    /// A message, or a part of one.
    Receive(ReceivePart),
    /// A compressor may be used: 1, or a preset whose dictionary is known.
    EnablePreset {
        /// Which.
        compressor: u16,
        /// Level that is suggested.
        level: i16,
        /// What it is meant for.
        sizes: CompressorSizes,
    },
    /// A compressor with this dictionary may be used. Its digest was checked.
    EnableCustom {
        /// Which.
        compressor: u32,
        /// Level that is suggested.
        level: i16,
        /// What it is meant for.
        sizes: CompressorSizes,
        /// The dictionary.
        dictionary: Bytes,
    },
    /// The broadcaster does not use this compressor any more.
    DisableCustom {
        /// Which.
        compressor: u32,
    },
    /// Messages about this topic were missed.
    Missed(Topic),
}

impl<B: Clone> SubscriberSession<B> {
    /// A session whose websocket was just opened: CONFIGURE is the first output.
    pub fn new(
        config: Arc<SubscriberConfig>,
        subscriber_nonce: [u8; 32],
        nonces: Nonces,
        now: Now,
    ) -> Self {
        let state = State::AwaitConfirm(AwaitConfirm {
            deadline: now + config.configure_timeout,
            subscriber_nonce,
            configured: false,
        });
        Self {
            config,
            nonces,
            now,
            state,
            events: VecDeque::new(),
            ends: None,
        }
    }

    /// A binary websocket message came.
    pub fn handle_message(&mut self, message: &Bytes, now: Now) {
        self.now = now;
        if matches!(self.state, State::Closed) {
            return;
        }
        let handled = ToSubscriber::decode(message)
            .map_err(SessionError::from)
            .and_then(|message| self.handle(message));
        if let Err(reason) = handled {
            self.end(reason);
        }
    }

    fn handle(&mut self, message: ToSubscriber) -> Result<(), SessionError> {
        let config = self.config.clone();
        match &mut self.state {
            State::AwaitConfirm(waiting) => match message {
                ToSubscriber::ConfirmConfigure(it) => {
                    let claim = Claim::ConfirmConfigure {
                        broadcaster_nonce: &it.broadcaster_nonce,
                    };
                    let what = "CONFIRM_CONFIGURE";
                    let value = &it.authorization;
                    let unspent = verify(&config, what, &claim, &it.tracing, value, self.now)?;
                    let nonce =
                        ConnectionNonce::new(&waiting.subscriber_nonce, &it.broadcaster_nonce);
                    self.state = State::Open(Box::new(Open::new(nonce)));
                    self.events.push_back(SubscriberEvent::Open { unspent });
                    Ok(())
                }
                ToSubscriber::ConfirmSubscribe(_)
                | ToSubscriber::ConfirmUnsubscribe(_)
                | ToSubscriber::ConfirmNotify(_)
                | ToSubscriber::ContinueNotify(_)
                | ToSubscriber::ReceiveStream(_)
                | ToSubscriber::EnablePreset(_)
                | ToSubscriber::EnableCustom(_)
                | ToSubscriber::DisableCustom(_)
                | ToSubscriber::Missed(_) => Err(SessionError::OutOfTurn {
                    got: message.name(),
                    state: "before CONFIRM_CONFIGURE",
                }),
            },
            State::Open(open) => {
                if let Some(event) = open.handle(&config, message, self.now)? {
                    self.events.push_back(event);
                }
                Ok(())
            }
            State::Closed => Ok(()),
        }
    }

    /// The moment of [`Output::Timeout`] has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.end(SessionError::TooLate {
                awaited: "CONFIRM_CONFIGURE",
            });
        }
    }

    /// When [`SubscriberSession::handle_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Now> {
        match &self.state {
            State::AwaitConfirm(waiting) => Some(waiting.deadline),
            State::Open(_) | State::Closed => None,
        }
    }

    fn open(&mut self, now: Now) -> Option<&mut Open<B>> {
        self.now = now;
        match &mut self.state {
            State::Open(open) => Some(open),
            State::AwaitConfirm(_) | State::Closed => None,
        }
    }

    /// Whether the session is open.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether nothing more will be sent or happen.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Asks for this. Only while open, and only what this session is not subscribed to.
    pub fn subscribe(&mut self, interest: &Interest, now: Now) {
        if let Some(open) = self.open(now) {
            open.requests.push_back((interest.clone(), true));
        }
    }

    /// Asks for this no more. Only while open, and only what this session is subscribed to.
    pub fn unsubscribe(&mut self, interest: &Interest, now: Now) {
        if let Some(open) = self.open(now) {
            open.requests.push_back((interest.clone(), false));
        }
    }

    /// Sends a notification, as NOTIFY or in parts (§8). Only while open, and only with a compressor
    /// that is enabled now.
    pub fn notify(&mut self, notification: Notification<B>, now: Now) {
        if let Some(open) = self.open(now) {
            open.notifications.push_back(notification);
        }
    }

    /// Whether the session is open and no notification handed to it before still waits in it.
    pub fn is_ready_to_notify(&self) -> bool {
        match &self.state {
            State::Open(open) => open.notifications.is_empty() && open.sending.is_none(),
            State::AwaitConfirm(_) | State::Closed => false,
        }
    }

    /// The compressor to use for a plain body of this length; 0 for none (§11, newest custom first).
    pub fn compressor_for(&self, plain_bytes: u64) -> u32 {
        match &self.state {
            State::Open(open) => {
                let compressors = open.compressors.iter().map(|(id, sizes)| (*id, sizes));
                newest_that_fits(compressors, plain_bytes)
            }
            State::AwaitConfirm(_) | State::Closed => 0,
        }
    }

    /// How many requests, notifications and parts are not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        match &self.state {
            State::Open(open) => open.expected.len(),
            State::AwaitConfirm(_) | State::Closed => 0,
        }
    }

    /// The message is here, whole and right. Acknowledgements leave before anything else that
    /// waits; those of earlier parts are queued by the machine itself.
    pub fn confirm_receive(&mut self, ticket: ReceiveTicket, now: Now) {
        if let Some(open) = self.open(now) {
            let ReceiveTicket { identifier, place } = ticket;
            let confirm = Acknowledgement::Confirm { identifier };
            open.acknowledgements.fill(place, confirm);
        }
    }

    /// Ends the session from this side.
    pub fn end(&mut self, reason: SessionError) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Closed;
            self.ends = Some(reason);
        }
    }

    /// The next event alone, for a driver whose websocket cannot take more at the moment.
    pub fn poll_event(&mut self) -> Option<SubscriberEvent> {
        self.events.pop_front()
    }

    /// What to do next. Sends may be left for later while the websocket cannot take more.
    pub fn poll_output(&mut self) -> Output<B, SubscriberEvent> {
        if let Some(event) = self.poll_event() {
            return Output::Event(event);
        }
        let next = match &mut self.state {
            State::AwaitConfirm(waiting) => {
                configure(waiting, &self.config, &mut self.nonces, self.now)
            }
            State::Open(open) => open.next_message(&self.config, &mut self.nonces, self.now),
            State::Closed => Ok(None),
        };
        match next {
            Ok(Some(message)) => return Output::Send(message),
            Ok(None) => {}
            Err(reason) => self.end(reason),
        }
        match self.ends.take() {
            Some(reason) => Output::Close(reason),
            None => Output::Timeout(self.deadline()),
        }
    }
}

fn configure<B>(
    waiting: &mut AwaitConfirm,
    config: &SubscriberConfig,
    nonces: &mut Nonces,
    now: Now,
) -> Result<Option<Outgoing<B>>, SessionError> {
    if std::mem::replace(&mut waiting.configured, true) {
        return Ok(None);
    }
    let claim = Claim::Configure {
        subscriber_nonce: &waiting.subscriber_nonce,
        enable_zstd: config.enable_zstd,
        enable_training: config.enable_training,
        initial_dict: config.initial_dict,
    };
    let stamp = nonces.stamp(now);
    let message = ToBroadcaster::Configure(Configure {
        subscriber_nonce: waiting.subscriber_nonce,
        enable_zstd: config.enable_zstd,
        enable_training: config.enable_training,
        initial_dict: config.initial_dict,
        authorization: config.to_broadcaster.authorize(&claim, &[], &stamp)?,
        tracing: Bytes::new(),
    });
    Ok(Some(whole(config, &message)))
}

/// A message without a body.
fn whole<B>(config: &SubscriberConfig, message: &ToBroadcaster) -> Outgoing<B> {
    Outgoing {
        head: message.encode_head(config.headers).into(),
        body: OutgoingBody::Empty,
    }
}

fn verify(
    config: &SubscriberConfig,
    what: &'static str,
    claim: &Claim<'_>,
    tracing: &[u8],
    authorization: &Option<String>,
    now: Now,
) -> Result<Unspent, SessionError> {
    let value = authorization.as_ref().map(String::as_bytes);
    config
        .to_subscriber
        .verify(claim, tracing, value, now)
        .map_err(|source: AuthError| SessionError::Auth { what, source })
}

fn protocol(what: &'static str, problem: &'static str) -> SessionError {
    SessionError::Protocol { what, problem }
}

const NOT_DUE: &str = "another acknowledgement was due";

impl<B: Clone> Open<B> {
    fn new(nonce: ConnectionNonce) -> Self {
        Self {
            nonce,
            own: Counter::subscriber(),
            peers: Counter::broadcaster(),
            stream_counters: None,
            acknowledgements: Ordered::new(),
            requests: VecDeque::new(),
            notifications: VecDeque::new(),
            overdue: 0,
            sending: None,
            expected: VecDeque::new(),
            stream: None,
            compressors: Vec::new(),
        }
    }

    fn handle(
        &mut self,
        config: &SubscriberConfig,
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
                let interest = self.confirmed(config, what, it, true, now)?;
                Ok(Some(SubscriberEvent::Subscribed(interest)))
            }
            ToSubscriber::ConfirmUnsubscribe(it) => {
                let interest = self.confirmed(config, what, it, false, now)?;
                Ok(Some(SubscriberEvent::Unsubscribed(interest)))
            }
            ToSubscriber::ConfirmNotify(it) => self.notified(config, it, now).map(Some),
            ToSubscriber::ContinueNotify(it) => self.continued(config, it, now).map(Some),
            ToSubscriber::ReceiveStream(it) => self.receive(config, it, now).map(Some),
            ToSubscriber::EnablePreset(it) => self.enable_preset(config, &it, now),
            ToSubscriber::EnableCustom(it) => self.enable_custom(config, it, now).map(Some),
            ToSubscriber::DisableCustom(it) => self.disable(config, &it, now).map(Some),
            ToSubscriber::Missed(it) => {
                let counter = self.peers.take();
                let claim = Claim::Missed {
                    recovery: &self.url(&*config.to_subscriber, counter),
                    topic: &it.topic,
                };
                let value = &it.authorization;
                bound_to_this_message(verify(config, what, &claim, &it.tracing, value, now)?);
                Ok(Some(SubscriberEvent::Missed(it.topic)))
            }
        }
    }

    /// The url of this counter, if it makes a difference.
    fn url(&self, scheme: &dyn Authorization, counter: i64) -> String {
        if scheme.vouches() {
            self.nonce.url(counter)
        } else {
            String::new()
        }
    }

    fn confirmed(
        &mut self,
        config: &SubscriberConfig,
        what: &'static str,
        it: InterestMessage,
        subscribed: bool,
        now: Now,
    ) -> Result<Interest, SessionError> {
        let counter = match self.expected.pop_front() {
            Some(Expected::Interest {
                interest,
                subscribe,
                counter,
            }) if interest == it.interest && subscribe == subscribed => counter,
            Some(_) | None => return Err(protocol(what, NOT_DUE)),
        };
        let claim = Claim::ConfirmSubscribe {
            url: &self.url(&*config.to_subscriber, counter),
            recovery: None,
            interest: &it.interest,
        };
        let value = &it.authorization;
        bound_to_this_message(verify(config, what, &claim, &it.tracing, value, now)?);
        Ok(it.interest)
    }

    fn continued(
        &mut self,
        config: &SubscriberConfig,
        it: Continue,
        now: Now,
    ) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "CONTINUE_NOTIFY";
        match self.expected.pop_front() {
            Some(Expected::Continue {
                identifier,
                part_id,
            }) if identifier == it.identifier && part_id == it.part_id => {}
            Some(_) | None => return Err(protocol(WHAT, NOT_DUE)),
        }
        let claim = Claim::ContinueNotify {
            identifier: &it.identifier,
            part_id: u32::try_from(it.part_id)
                .map_err(|_| protocol(WHAT, "its part cannot be signed"))?,
        };
        // It names a notification whose identifier was drawn here, and is waited for but once.
        let value = &it.authorization;
        bound_to_this_message(verify(config, WHAT, &claim, &it.tracing, value, now)?);
        Ok(SubscriberEvent::Continued {
            identifier: it.identifier,
            part_id: it.part_id,
        })
    }

    fn notified(
        &mut self,
        config: &SubscriberConfig,
        it: ConfirmNotify,
        now: Now,
    ) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "CONFIRM_NOTIFY";
        let Some(Expected::Notify {
            identifier,
            topic,
            plain_sha512,
            compressed_sha512,
        }) = self.expected.pop_front()
        else {
            return Err(protocol(WHAT, NOT_DUE));
        };
        if identifier != it.identifier {
            return Err(protocol(WHAT, NOT_DUE));
        }
        let subscribers = u32::try_from(it.subscribers)
            .map_err(|_| protocol(WHAT, "its number of subscribers cannot be signed"))?;
        // Which digest is signed depends on how the notification was sent; either vouches for it
        // (`docs/protocol/auth.md` §8 A6).
        let verify = |sha512| {
            let claim = Claim::ConfirmNotify {
                identifier: &it.identifier,
                subscribers,
                topic: &topic,
                sha512,
            };
            verify(config, WHAT, &claim, &it.tracing, &it.authorization, now)
        };
        let unspent = verify(&plain_sha512).or_else(|error| {
            if compressed_sha512 == plain_sha512 {
                Err(error)
            } else {
                verify(&compressed_sha512)
            }
        })?;
        // It names a notification whose identifier was drawn here, and is waited for but once.
        bound_to_this_message(unspent);
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

    fn receive(
        &mut self,
        config: &SubscriberConfig,
        it: StreamPart,
        now: Now,
    ) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "RECEIVE_STREAM";
        let part_id = it.part.id();
        let begins = match it.part {
            Part::First { topic, head } => {
                if self.stream.is_some() {
                    return Err(protocol(WHAT, "another message is under way"));
                }
                let enabled = |(id, _): &(u32, _)| u64::from(*id) == head.compressor;
                if head.compressor != 0 && !self.compressors.iter().any(enabled) {
                    return Err(protocol(WHAT, "its compressor is not enabled"));
                }
                let (identifier, tracing) = (it.identifier.clone(), it.tracing.clone());
                let assembly = Assembly::begin(identifier, topic.clone(), head, tracing);
                let counter = self.peers.take();
                self.verify_part(config, &assembly, counter, &it.authorization, now)?;
                self.stream = Some(Box::new((assembly, counter)));
                Some((topic, head))
            }
            Part::Later(_) => {
                let Some(stream) = self.stream.take() else {
                    return Err(protocol(WHAT, "no message is under way"));
                };
                let expected = stream.0.expects(part_id, &it.identifier);
                expected.map_err(|problem| protocol(WHAT, problem))?;
                self.verify_later_part(config, &stream, &it.authorization, now)?;
                self.stream = Some(stream);
                None
            }
        };
        let Some(mut stream) = self.stream.take() else {
            return Err(protocol(WHAT, "no message is under way"));
        };
        let progress = stream.0.part(it.body.len());
        let identifier = it.identifier;
        let ends = match progress.map_err(|problem| protocol(WHAT, problem))? {
            Progress::More => {
                self.stream = Some(stream);
                self.acknowledgements.push(Acknowledgement::Continue {
                    identifier,
                    part_id,
                });
                None
            }
            Progress::Complete => Some(ReceiveTicket {
                identifier,
                place: self.acknowledgements.place(),
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
        config: &SubscriberConfig,
        assembly: &Assembly,
        counter: i64,
        authorization: &Option<String>,
        now: Now,
    ) -> Result<(), SessionError> {
        let claim = Claim::Receive {
            url: &self.url(&*config.to_subscriber, counter),
            topic: assembly.topic(),
            identifier: assembly.identifier(),
            sha512: &assembly.head().compressed_sha512,
        };
        let tracing = assembly.tracing();
        let what = "RECEIVE_STREAM";
        bound_to_this_message(verify(config, what, &claim, tracing, authorization, now)?);
        Ok(())
    }

    /// Broadcasters differ in whether later parts take a counter (§5, §16 D1): the first one that
    /// verifies shows which kind this is.
    fn verify_later_part(
        &mut self,
        config: &SubscriberConfig,
        (assembly, first): &(Assembly, i64),
        authorization: &Option<String>,
        now: Now,
    ) -> Result<(), SessionError> {
        let verify = |counter| self.verify_part(config, assembly, counter, authorization, now);
        let each = || verify(self.peers.peek()).map(|()| StreamCounters::EachPart);
        let once = || verify(*first).map(|()| StreamCounters::FirstPart);
        let shown = match self.stream_counters {
            Some(StreamCounters::EachPart) => each(),
            Some(StreamCounters::FirstPart) => once(),
            None => each().or_else(|error| once().map_err(|_| error)),
        }?;
        if shown == StreamCounters::EachPart {
            self.peers.take();
        }
        self.stream_counters = Some(shown);
        Ok(())
    }

    fn enable_preset(
        &mut self,
        config: &SubscriberConfig,
        it: &EnablePreset,
        now: Now,
    ) -> Result<Option<SubscriberEvent>, SessionError> {
        const WHAT: &str = "ENABLE_ZSTD_PRESET";
        let counter = self.peers.take();
        let compressor = signed_id(WHAT, it.compressor)?;
        let claim = Claim::EnablePreset {
            url: &self.url(&*config.to_subscriber, counter),
            compressor,
            level: signed_level(it.compression_level),
            min_size: it.min_size.into(),
            max_size: it.max_size,
        };
        let value = &it.authorization;
        bound_to_this_message(verify(config, WHAT, &claim, &it.tracing, value, now)?);
        if !config.enable_zstd {
            return Err(protocol(WHAT, "compression is off"));
        }
        if compressor == 0 {
            return Ok(None);
        }
        let known = u16::try_from(compressor).ok();
        let known = known.filter(|id| *id == 1 || config.presets.contains(id));
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
        config: &SubscriberConfig,
        it: EnableCustom,
        now: Now,
    ) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "ENABLE_ZSTD_CUSTOM";
        let counter = self.peers.take();
        let compressor = signed_id(WHAT, it.compressor)?;
        let claim = Claim::EnableCustom {
            url: &self.url(&*config.to_subscriber, counter),
            compressor,
            level: signed_level(it.compression_level),
            min_size: it.min_size.into(),
            max_size: it.max_size,
            sha512: &it.sha512,
        };
        let value = &it.authorization;
        bound_to_this_message(verify(config, WHAT, &claim, &it.tracing, value, now)?);
        if !config.enable_zstd || !config.enable_training {
            return Err(protocol(WHAT, "training is off"));
        }
        if compressor < CUSTOM_MIN {
            return Err(protocol(WHAT, "its id is that of a preset"));
        }
        if Sha512::of(&it.dictionary) != it.sha512 {
            return Err(protocol(WHAT, "the dictionary has another digest"));
        }
        let sizes = CompressorSizes {
            min: it.min_size,
            max: it.max_size,
        };
        self.enable(WHAT, compressor, sizes)?;
        let customs = self.compressors.iter().filter(|(id, _)| *id >= CUSTOM_MIN);
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

    fn disable(
        &mut self,
        config: &SubscriberConfig,
        it: &DisableCustom,
        now: Now,
    ) -> Result<SubscriberEvent, SessionError> {
        const WHAT: &str = "DISABLE_ZSTD_CUSTOM";
        let counter = self.peers.take();
        let compressor = signed_id(WHAT, it.compressor)?;
        let claim = Claim::DisableCustom {
            compressor,
            url: &self.url(&*config.to_subscriber, counter),
        };
        let value = &it.authorization;
        bound_to_this_message(verify(config, WHAT, &claim, &it.tracing, value, now)?);
        let enabled = self
            .compressors
            .iter()
            .position(|(id, _)| *id == compressor);
        match enabled {
            Some(at) if config.enable_zstd && compressor >= CUSTOM_MIN => {
                self.compressors.remove(at);
                let uses_it = |waits: &Notification<B>| waits.head.compressor == it.compressor;
                if let Some(last) = self.notifications.iter().rposition(uses_it) {
                    self.overdue = self.overdue.max(last + 1);
                }
                Ok(SubscriberEvent::DisableCustom { compressor })
            }
            Some(_) | None => Err(protocol(WHAT, "no such dictionary is enabled")),
        }
    }

    /// The next message in turn, signed as it leaves.
    fn next_message(
        &mut self,
        config: &SubscriberConfig,
        nonces: &mut Nonces,
        now: Now,
    ) -> Result<Option<Outgoing<B>>, SessionError> {
        if self.overdue == 0
            && let Some(acknowledgement) = self.acknowledgements.pop()
        {
            let message = self.acknowledge(config, acknowledgement, nonces, now)?;
            return Ok(Some(whole(config, &message)));
        }
        if let Some((cut, plain_sha512)) = self.sending.take() {
            let authorization = authorize_notify(config, &cut, nonces, now)?;
            return Ok(Some(self.part(config, cut, plain_sha512, authorization)));
        }
        if self.overdue == 0
            && let Some((interest, subscribe)) = self.requests.pop_front()
        {
            let message = self.request(config, interest, subscribe, nonces, now)?;
            return Ok(Some(whole(config, &message)));
        }
        let Some(notification) = self.notifications.pop_front() else {
            return Ok(None);
        };
        self.overdue = self.overdue.saturating_sub(1);
        self.begin_notify(config, notification, nonces, now)
            .map(Some)
    }

    fn acknowledge(
        &mut self,
        config: &SubscriberConfig,
        acknowledgement: Acknowledgement,
        nonces: &mut Nonces,
        now: Now,
    ) -> Result<ToBroadcaster, SessionError> {
        let scheme = &*config.to_broadcaster;
        let counter = self.own.take();
        let url = &self.url(scheme, counter);
        let stamp = nonces.stamp(now);
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
                    authorization: scheme.authorize(&claim, &[], &stamp)?,
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
                    authorization: scheme.authorize(&claim, &[], &stamp)?,
                    identifier,
                    num_subscribers: 1,
                    tracing,
                })
            }
        })
    }

    fn request(
        &mut self,
        config: &SubscriberConfig,
        interest: Interest,
        subscribe: bool,
        nonces: &mut Nonces,
        now: Now,
    ) -> Result<ToBroadcaster, SessionError> {
        let scheme = &*config.to_broadcaster;
        let counter = self.own.take();
        let claim = Claim::Subscribe {
            url: &self.url(scheme, counter),
            recovery: None,
            interest: &interest,
        };
        let authorization = scheme.authorize(&claim, &[], &nonces.stamp(now))?;
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
    fn begin_notify(
        &mut self,
        config: &SubscriberConfig,
        notification: Notification<B>,
        nonces: &mut Nonces,
        now: Now,
    ) -> Result<Outgoing<B>, SessionError> {
        let Notification {
            identifier,
            topic,
            head,
            plain_sha512,
            body,
        } = notification;
        let cut = Cut::new(identifier, topic, head, body.clone());
        let authorization = authorize_notify(config, &cut, nonces, now)?;
        let max = config.message_bytes_max;
        if head.decompressed_length.saturating_add(NOTIFY_HEAD_BYTES) < max {
            let message = ToBroadcaster::Notify(Notify {
                identifier: cut.identifier.clone(),
                topic: cut.topic.clone(),
                head,
                authorization: authorization.clone(),
                tracing: Bytes::new(),
                body: Bytes::new(),
            });
            let bytes = message.encode_head(config.headers);
            if (bytes.len() as u64).saturating_add(head.compressed_length) < max {
                self.expect_notified(&cut, plain_sha512);
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
        Ok(self.part(config, cut, plain_sha512, authorization))
    }

    /// The next part of a notification.
    fn part(
        &mut self,
        config: &SubscriberConfig,
        mut cut: Cut<B>,
        plain_sha512: Sha512,
        authorization: Option<String>,
    ) -> Outgoing<B> {
        let part_id = cut.next_part();
        let (message, is_last) = cut.next(authorization, config.message_bytes_max, |part| {
            ToBroadcaster::NotifyStream(part).encode_head(config.headers)
        });
        if is_last {
            self.expect_notified(&cut, plain_sha512);
        } else {
            self.expected.push_back(Expected::Continue {
                identifier: cut.identifier.clone(),
                part_id,
            });
            self.sending = Some((cut, plain_sha512));
        }
        message
    }

    fn expect_notified(&mut self, cut: &Cut<B>, plain_sha512: Sha512) {
        self.expected.push_back(Expected::Notify {
            identifier: cut.identifier.clone(),
            topic: cut.topic.clone(),
            plain_sha512,
            compressed_sha512: cut.head.compressed_sha512,
        });
    }
}

/// How many trained dictionaries are enabled at the same time (§12).
const CUSTOMS_MAX: usize = 2;

/// What NOTIFY is thought to have besides its body, in bytes (§8).
const NOTIFY_HEAD_BYTES: u64 = 128;

fn authorize_notify<B>(
    config: &SubscriberConfig,
    cut: &Cut<B>,
    nonces: &mut Nonces,
    now: Now,
) -> Result<Option<String>, SessionError> {
    let claim = Claim::Notify {
        topic: &cut.topic,
        identifier: &cut.identifier,
        sha512: &cut.head.compressed_sha512,
    };
    let stamp = nonces.stamp(now);
    Ok(config.to_broadcaster.authorize(&claim, &[], &stamp)?)
}

/// The id of a compressor as it is signed.
fn signed_id(what: &'static str, compressor: u64) -> Result<u32, SessionError> {
    u32::try_from(compressor).map_err(|_| protocol(what, "its id cannot be signed"))
}

/// A level as it is signed. Published ends can sign no negative one, but announce it with schemes
/// that sign nothing (§4).
fn signed_level(level: i16) -> u32 {
    i32::from(level).cast_unsigned()
}

/// Nobody can use such an authorization again: it is bound to a counter of a connection whose nonce
/// both ends drew (§5), or to an identifier that is waited for but once. So it need not be spent.
fn bound_to_this_message(unspent: Unspent) {
    let _ = unspent;
}
