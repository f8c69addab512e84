//! The broadcaster's end of a websocket.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::{AuthError, Authorization, Claim, Unspent};
use crate::digest::Sha512;
use crate::session::assembly::{Assembly, Progress};
use crate::session::compressors::{CompressorSizes, newest_that_fits};
use crate::session::cut::Cut;
use crate::session::error::SessionError;
use crate::session::ordered::Ordered;
use crate::session::output::{Nonces, Outgoing, OutgoingBody, Output, StreamCounters};
use crate::subscription::Interest;
use crate::time::Now;
use crate::topic::{Identifier, Topic};
use crate::ws::{
    BodyHead, Configure, ConfirmConfigure, ConfirmNotify, ConfirmReceive, ConnectionNonce,
    Continue, Counter, DisableCustom, EnableCustom, EnablePreset, HeaderStyle, InterestMessage,
    MissedMessage, Notify, Part, Refusal, StreamPart, ToBroadcaster, ToSubscriber,
};

/// What all sessions of a broadcaster have in common.
#[derive(Clone, Debug)]
pub struct BroadcasterConfig {
    /// Checks what subscribers say.
    pub to_broadcaster: Arc<dyn Authorization>,
    /// Vouches for what the broadcaster says.
    pub to_subscriber: Arc<dyn Authorization>,
    /// How headers are written. Default: minimal.
    pub headers: HeaderStyle,
    /// Which parts of long messages take a counter. Default: the first.
    pub stream_counters: StreamCounters,
    /// Longest websocket message to send, in bytes; a part still carries at least 512 bytes of a
    /// body (§8). Default 4,194,303: published subscribers accept no more (§16 D10).
    pub message_bytes_max: u64,
    /// How many parts of messages may be unacknowledged. Default 3; `None` is no limit.
    pub unacknowledged_max: Option<NonZeroUsize>,
    /// How long a subscriber may take to a CONFIGURE. Default 5 s.
    pub configure_timeout: Duration,
}

impl BroadcasterConfig {
    /// With everything else at its default.
    pub fn new(
        to_broadcaster: Arc<dyn Authorization>,
        to_subscriber: Arc<dyn Authorization>,
    ) -> Self {
        Self {
            to_broadcaster,
            to_subscriber,
            headers: HeaderStyle::default(),
            stream_counters: StreamCounters::default(),
            message_bytes_max: 4_194_303,
            unacknowledged_max: NonZeroUsize::new(3),
            configure_timeout: Duration::from_secs(5),
        }
    }
}

/// The broadcaster's end of one websocket. `B` is what bodies are handed in as; the machine never
/// looks into it.
#[derive(Debug)]
pub struct BroadcasterSession<B> {
    config: Arc<BroadcasterConfig>,
    nonces: Nonces,
    now: Now,
    state: State<B>,
    events: VecDeque<BroadcasterEvent>,
    /// Why it ends, until that was told.
    ends: Option<SessionError>,
}

#[derive(Debug)]
enum State<B> {
    AwaitConfigure {
        deadline: Now,
    },
    /// CONFIGURE was verified, and is still to be spent.
    Accepting {
        deadline: Now,
        subscriber_nonce: [u8; 32],
    },
    Open(Box<Open<B>>),
    Closed,
}

/// What is known of an open session.
#[derive(Debug)]
struct Open<B> {
    nonce: ConnectionNonce,
    /// Counts what is sent.
    own: Counter,
    /// Counts what is received.
    peers: Counter,
    interests: BTreeSet<Interest>,
    /// In the order of the requests.
    confirmations: Ordered<Waiting<B>>,
    outbox: VecDeque<Waiting<B>>,
    /// What the answers among these two take, in bytes.
    answers_bytes: usize,
    /// The delivery of which parts were sent, with the counter of its first part and its number.
    sending: Option<(Cut<B>, Option<i64>, u64)>,
    /// How many deliveries were begun.
    deliveries: u64,
    expected: VecDeque<Expected>,
    /// How many acknowledgements have come.
    acknowledged: u64,
    stream: Option<Box<Assembly>>,
    /// Oldest first.
    compressors: Vec<(u32, CompressorSizes)>,
    retired: Vec<Retired>,
}

/// Something to send, in its turn.
#[derive(Debug)]
enum Waiting<B> {
    ConfirmConfigure([u8; 32]),
    ConfirmInterest {
        interest: Interest,
        subscribe: bool,
        /// That of the request.
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
        /// How many have it, or why it was not taken.
        outcome: Result<u32, Refusal>,
    },
    Deliver(Box<Delivery<B>>),
    Missed(Topic),
    Enable(Box<Compressor>),
    Disable(u32),
}

impl<B> Waiting<B> {
    /// What it takes while it waits, in bytes, if it is the answer to something.
    fn answer_bytes(&self) -> usize {
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

/// The acknowledgement of a part.
#[derive(Debug)]
struct Expected {
    identifier: Identifier,
    /// Which part it is; of the last one, which delivery.
    part: ExpectedPart,
}

#[derive(Debug)]
enum ExpectedPart {
    Continue(u64),
    Confirm { delivery: u64 },
}

/// A compressor that was disabled, but may have been used before the subscriber knew.
#[derive(Debug)]
struct Retired {
    id: u32,
    /// How many deliveries were begun when the subscriber was told.
    told_after: Option<u64>,
}

/// What a subscriber asked for, to be confirmed by [`BroadcasterSession::confirm_interest`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what comes later is confirmed only after this"]
pub struct InterestTicket {
    /// The topic or glob.
    pub interest: Interest,
    /// Whether it is to be subscribed, or unsubscribed.
    pub subscribe: bool,
    /// That of the request.
    counter: i64,
    place: u64,
}

/// A notification that is to be answered by [`BroadcasterSession::confirm_notify`] or
/// [`BroadcasterSession::refuse_notify`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what comes later is confirmed only after this"]
pub struct NotifyTicket {
    identifier: Identifier,
    topic: Topic,
    compressed_sha512: Sha512,
    /// Of a NOTIFY_STREAM, the digest of the bytes on the wire is what is signed.
    streamed: bool,
    place: u64,
}

/// A part of a notification, or all of it, in the order of the wire. NOTIFY is one part that begins
/// and ends; it may come between the parts of a NOTIFY_STREAM.
#[derive(Debug, PartialEq, Eq)]
pub struct NotifyPart {
    /// Whether it belongs to the NOTIFY_STREAM under way, of which there is at most one.
    pub streamed: bool,
    /// What the message is, with its first part.
    pub begins: Option<(Topic, BodyHead)>,
    /// These bytes of the wire form. All parts together are known to have the announced length;
    /// the digest is for the driver to check.
    pub bytes: Bytes,
    /// Comes with the first part, and must be spent before the message counts. Later parts are
    /// bound to the first by order and digest, so there is nothing to spend of them.
    pub unspent: Option<Unspent>,
    /// Comes with the last part. To be answered when the message is delivered, or refused.
    pub ends: Option<NotifyTicket>,
}

/// A message to be sent by RECEIVE_STREAM.
#[derive(Clone, Debug)]
pub struct Delivery<B> {
    /// Drawn for this delivery; 4 bytes.
    pub identifier: Identifier,
    /// What it is about.
    pub topic: Topic,
    /// What `body` is on the wire.
    pub head: BodyHead,
    /// The wire form, of `head.compressed_length` bytes.
    pub body: B,
}

/// A compressor to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressor {
    /// 1: zstd without dictionary; to 65535: a preset; beyond: a custom dictionary.
    pub id: u32,
    /// Level that is announced, at least 0.
    pub level: u16,
    /// What it is meant for.
    pub sizes: CompressorSizes,
    /// The custom dictionary with its digest; `None` for 1 and presets.
    pub dictionary: Option<(Sha512, Bytes)>,
}

/// What the driver has to act on.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "an event is acted on at once, and the large one is the frequent one"
)]
pub enum BroadcasterEvent {
    /// CONFIGURE was verified. Spend, then answer with [`BroadcasterSession::accept`]. The deadline
    /// runs on until then.
    Configure {
        /// Must be spent before it counts.
        unspent: Unspent,
        /// Whether compressors may be announced.
        enable_zstd: bool,
        /// Whether dictionaries may be trained.
        enable_training: bool,
        /// The preset it would like; 0 and 1: none.
        initial_dict: u16,
    },
    /// Subscribe or unsubscribe, then [`BroadcasterSession::confirm_interest`]. It was verified, and
    /// it is a change: the machine itself refuses what is (or is not) subscribed already, counting
    /// what is asked for from the moment it is asked for.
    Interest(InterestTicket),
    /// A notification, or a part of one.
    Notify(NotifyPart),
    /// The subscriber acknowledged all of the delivery with this identifier.
    Delivered(Identifier),
}

impl<B: Clone> BroadcasterSession<B> {
    /// A session whose websocket was just accepted.
    pub fn new(config: Arc<BroadcasterConfig>, nonces: Nonces, now: Now) -> Self {
        let deadline = now + config.configure_timeout;
        Self {
            config,
            nonces,
            now,
            state: State::AwaitConfigure { deadline },
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
        let handled = ToBroadcaster::decode_unhashed(message)
            .map_err(SessionError::from)
            .and_then(|message| self.handle(message));
        if let Err(reason) = handled {
            self.end(reason);
        }
    }

    fn handle(&mut self, message: ToBroadcaster) -> Result<(), SessionError> {
        let config = self.config.clone();
        match &mut self.state {
            State::AwaitConfigure { deadline } => match message {
                ToBroadcaster::Configure(it) => {
                    let deadline = *deadline;
                    self.events.push_back(configure(&config, &it, self.now)?);
                    self.state = State::Accepting {
                        deadline,
                        subscriber_nonce: it.subscriber_nonce,
                    };
                    Ok(())
                }
                ToBroadcaster::Subscribe(_)
                | ToBroadcaster::Unsubscribe(_)
                | ToBroadcaster::Notify(_)
                | ToBroadcaster::NotifyStream(_)
                | ToBroadcaster::ContinueReceive(_)
                | ToBroadcaster::ConfirmReceive(_) => Err(SessionError::OutOfTurn {
                    got: message.name(),
                    state: "before CONFIGURE",
                }),
            },
            State::Accepting { .. } => Err(SessionError::OutOfTurn {
                got: message.name(),
                state: "before CONFIGURE was confirmed",
            }),
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
                awaited: "CONFIGURE",
            });
        }
    }

    /// When [`BroadcasterSession::handle_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Now> {
        match &self.state {
            State::AwaitConfigure { deadline } | State::Accepting { deadline, .. } => {
                Some(*deadline)
            }
            State::Open(_) | State::Closed => None,
        }
    }

    /// Accepts the CONFIGURE of [`BroadcasterEvent::Configure`]: the session is open.
    pub fn accept(&mut self, broadcaster_nonce: [u8; 32], now: Now) {
        self.now = now;
        if let State::Accepting {
            subscriber_nonce, ..
        } = &self.state
        {
            let nonce = ConnectionNonce::new(subscriber_nonce, &broadcaster_nonce);
            self.state = State::Open(Box::new(Open::new(nonce, broadcaster_nonce)));
        }
    }

    /// What was asked for is done. Confirmations are sent in the order of the requests, whatever the
    /// order of these calls.
    pub fn confirm_interest(&mut self, ticket: InterestTicket, now: Now) {
        self.now = now;
        if let State::Open(open) = &mut self.state {
            let InterestTicket {
                interest,
                subscribe,
                counter,
                place,
            } = ticket;
            let confirmation = Waiting::ConfirmInterest {
                interest,
                subscribe,
                counter,
            };
            open.confirm(place, confirmation);
        }
    }

    /// The notification was delivered to so many subscribers. `sha512` is the digest of the plain
    /// body (which the machine signs or not as §8 says).
    pub fn confirm_notify(
        &mut self,
        ticket: NotifyTicket,
        sha512: &Sha512,
        subscribers: u32,
        now: Now,
    ) {
        self.now = now;
        if let State::Open(open) = &mut self.state {
            let NotifyTicket {
                identifier,
                topic,
                compressed_sha512,
                streamed,
                place,
            } = ticket;
            let confirmation = Waiting::ConfirmNotify {
                identifier,
                topic,
                sha512: if streamed { compressed_sha512 } else { *sha512 },
                outcome: Ok(subscribers),
            };
            open.confirm(place, confirmation);
        }
    }

    /// The notification is not taken, and the connection goes on.
    pub fn refuse_notify(&mut self, ticket: NotifyTicket, refusal: Refusal, now: Now) {
        self.now = now;
        if let State::Open(open) = &mut self.state {
            let confirmation = Waiting::ConfirmNotify {
                identifier: ticket.identifier,
                topic: ticket.topic,
                sha512: ticket.compressed_sha512,
                outcome: Err(refusal),
            };
            open.confirm(ticket.place, confirmation);
        }
    }

    /// Sends a message. Call it only while [`BroadcasterSession::is_ready_to_deliver`].
    pub fn deliver(&mut self, delivery: Delivery<B>, now: Now) {
        self.queue(Waiting::Deliver(Box::new(delivery)), now);
    }

    /// Whether the session is open and everything handed to it before has left it: the driver
    /// keeps further deliveries in its own bounded queue until then.
    pub fn is_ready_to_deliver(&self) -> bool {
        match &self.state {
            State::Open(open) => open.outbox.is_empty() && open.sending.is_none(),
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => false,
        }
    }

    /// Whether something waits to be sent: it leaves only as the subscriber reads and acknowledges.
    pub fn has_unsent(&self) -> bool {
        match &self.state {
            State::Open(open) => !open.outbox.is_empty() || open.sending.is_some(),
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => false,
        }
    }

    /// What the answers take that the subscriber has not read yet, or that wait for the answer to
    /// something before, in bytes: the driver reads no more of it while they are too many.
    pub fn answers_bytes(&self) -> usize {
        match &self.state {
            State::Open(open) => open.answers_bytes,
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => 0,
        }
    }

    /// How many acknowledgements are due, of parts that were sent.
    pub fn unacknowledged(&self) -> usize {
        match &self.state {
            State::Open(open) => open.expected.len(),
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => 0,
        }
    }

    /// How many acknowledgements have come, of parts that were sent.
    pub fn acknowledged(&self) -> u64 {
        match &self.state {
            State::Open(open) => open.acknowledged,
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => 0,
        }
    }

    /// Says that messages about `topic` were missed.
    pub fn missed(&mut self, topic: &Topic, now: Now) {
        self.queue(Waiting::Missed(topic.clone()), now);
    }

    /// Announces a compressor: ENABLE_ZSTD_PRESET or ENABLE_ZSTD_CUSTOM. From here on
    /// [`BroadcasterSession::compressor_for`] may name it.
    pub fn enable(&mut self, compressor: Compressor, now: Now) {
        if let State::Open(open) = &mut self.state {
            open.compressors.push((compressor.id, compressor.sizes));
        }
        self.queue(Waiting::Enable(Box::new(compressor)), now);
    }

    /// Announces that a custom compressor is not used any more. What the subscriber sent with it
    /// is still accepted until it has acknowledged a delivery that was sent after this.
    pub fn disable(&mut self, compressor: u32, now: Now) {
        if let State::Open(open) = &mut self.state {
            open.compressors.retain(|(id, _)| *id != compressor);
            open.retired.push(Retired {
                id: compressor,
                told_after: None,
            });
        }
        self.queue(Waiting::Disable(compressor), now);
    }

    /// Nothing overtakes what waits: a compressor is announced before it is used.
    fn queue(&mut self, waiting: Waiting<B>, now: Now) {
        self.now = now;
        if let State::Open(open) = &mut self.state {
            open.outbox.push_back(waiting);
        }
    }

    /// The compressor to use for a plain body of this length; 0 for none (§11).
    pub fn compressor_for(&self, plain_bytes: u64) -> u32 {
        match &self.state {
            State::Open(open) => {
                let compressors = open.compressors.iter().map(|(id, sizes)| (*id, sizes));
                newest_that_fits(compressors, plain_bytes)
            }
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => 0,
        }
    }

    /// Compressors whose dictionary must still be at hand: enabled ones, and disabled ones that may
    /// still be on their way.
    pub fn accepts_compressor(&self, compressor: u64) -> bool {
        match &self.state {
            State::Open(open) => open.accepts_compressor(compressor),
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => false,
        }
    }

    /// Whether this compressor was announced, and not taken back.
    pub fn is_compressor_enabled(&self, compressor: u32) -> bool {
        match &self.state {
            State::Open(open) => open.compressors.iter().any(|(id, _)| *id == compressor),
            State::AwaitConfigure { .. } | State::Accepting { .. } | State::Closed => false,
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
    pub fn poll_event(&mut self) -> Option<BroadcasterEvent> {
        self.events.pop_front()
    }

    /// Whether nothing more will be sent or happen.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What to do next. Sends may be left for later while the websocket cannot take more.
    pub fn poll_output(&mut self) -> Output<B, BroadcasterEvent> {
        if let Some(event) = self.poll_event() {
            return Output::Event(event);
        }
        if let State::Open(open) = &mut self.state {
            match open.next_message(&self.config, &mut self.nonces, self.now) {
                Ok(Some(message)) => return Output::Send(message),
                Ok(None) => {}
                Err(reason) => self.end(reason),
            }
        }
        match self.ends.take() {
            Some(reason) => Output::Close(reason),
            None => Output::Timeout(self.deadline()),
        }
    }
}

fn configure(
    config: &BroadcasterConfig,
    it: &Configure,
    now: Now,
) -> Result<BroadcasterEvent, SessionError> {
    let claim = Claim::Configure {
        subscriber_nonce: &it.subscriber_nonce,
        enable_zstd: it.enable_zstd,
        enable_training: it.enable_training,
        initial_dict: it.initial_dict,
    };
    let unspent = verify(
        config,
        "CONFIGURE",
        &claim,
        &it.tracing,
        &it.authorization,
        now,
    )?;
    Ok(BroadcasterEvent::Configure {
        unspent,
        enable_zstd: it.enable_zstd,
        enable_training: it.enable_training,
        initial_dict: it.initial_dict,
    })
}

fn verify(
    config: &BroadcasterConfig,
    what: &'static str,
    claim: &Claim<'_>,
    tracing: &[u8],
    authorization: &Option<String>,
    now: Now,
) -> Result<Unspent, SessionError> {
    let value = authorization.as_ref().map(String::as_bytes);
    config
        .to_broadcaster
        .verify(claim, tracing, value, now)
        .map_err(|source: AuthError| SessionError::Auth { what, source })
}

fn protocol(what: &'static str, problem: &'static str) -> SessionError {
    SessionError::Protocol { what, problem }
}

impl<B: Clone> Open<B> {
    fn new(nonce: ConnectionNonce, broadcaster_nonce: [u8; 32]) -> Self {
        Self {
            nonce,
            own: Counter::broadcaster(),
            peers: Counter::subscriber(),
            interests: BTreeSet::new(),
            confirmations: Ordered::new(),
            outbox: VecDeque::from([Waiting::ConfirmConfigure(broadcaster_nonce)]),
            answers_bytes: 0,
            sending: None,
            deliveries: 0,
            expected: VecDeque::new(),
            acknowledged: 0,
            stream: None,
            compressors: Vec::new(),
            retired: Vec::new(),
        }
    }

    fn handle(
        &mut self,
        config: &BroadcasterConfig,
        message: ToBroadcaster,
        now: Now,
    ) -> Result<Option<BroadcasterEvent>, SessionError> {
        let what = message.name();
        match message {
            ToBroadcaster::Configure(_) => Err(SessionError::OutOfTurn {
                got: what,
                state: "a second time",
            }),
            ToBroadcaster::Subscribe(it) => self.interest(config, what, it, true, now).map(Some),
            ToBroadcaster::Unsubscribe(it) => self.interest(config, what, it, false, now).map(Some),
            ToBroadcaster::Notify(it) => self.notify(config, it, now).map(Some),
            ToBroadcaster::NotifyStream(it) => self.notify_stream(config, it, now).map(Some),
            ToBroadcaster::ContinueReceive(it) => {
                self.continue_receive(config, &it, now)?;
                Ok(None)
            }
            ToBroadcaster::ConfirmReceive(it) => self.confirm_receive(config, it, now).map(Some),
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

    fn interest(
        &mut self,
        config: &BroadcasterConfig,
        what: &'static str,
        it: InterestMessage,
        subscribe: bool,
        now: Now,
    ) -> Result<BroadcasterEvent, SessionError> {
        let counter = self.peers.take();
        let claim = Claim::Subscribe {
            url: &self.url(&*config.to_broadcaster, counter),
            recovery: None,
            interest: &it.interest,
        };
        bound_to_this_message(verify(
            config,
            what,
            &claim,
            &it.tracing,
            &it.authorization,
            now,
        )?);
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
            place: self.confirmations.place(),
        }))
    }

    fn notify(
        &mut self,
        config: &BroadcasterConfig,
        it: Notify,
        now: Now,
    ) -> Result<BroadcasterEvent, SessionError> {
        let claim = Claim::Notify {
            topic: &it.topic,
            identifier: &it.identifier,
            sha512: &it.head.compressed_sha512,
        };
        let unspent = verify(
            config,
            "NOTIFY",
            &claim,
            &it.tracing,
            &it.authorization,
            now,
        )?;
        self.check_compressor("NOTIFY", &it.head)?;
        let ticket = NotifyTicket {
            identifier: it.identifier,
            topic: it.topic.clone(),
            compressed_sha512: it.head.compressed_sha512,
            streamed: false,
            place: self.confirmations.place(),
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
        config: &BroadcasterConfig,
        it: StreamPart,
        now: Now,
    ) -> Result<BroadcasterEvent, SessionError> {
        const WHAT: &str = "NOTIFY_STREAM";
        let part_id = it.part.id();
        let begins = match it.part {
            Part::First { topic, head } => {
                if self.stream.is_some() {
                    return Err(protocol(WHAT, "another one is under way"));
                }
                if head.compressor != 0 && head.compressed_length == 0 {
                    return Err(protocol(WHAT, "nothing cannot be decompressed"));
                }
                let stream = Assembly::begin(
                    it.identifier.clone(),
                    topic.clone(),
                    head,
                    it.tracing.clone(),
                );
                self.stream = Some(Box::new(stream));
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
        let unspent = verify(
            config,
            WHAT,
            &claim,
            stream.tracing(),
            &it.authorization,
            now,
        )?;
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
                place: self.confirmations.place(),
            }),
            (_, stream) => {
                self.stream = stream;
                let place = self.confirmations.place();
                let identifier = it.identifier;
                self.confirm(
                    place,
                    Waiting::ContinueNotify {
                        identifier,
                        part_id,
                    },
                );
                None
            }
        };
        Ok(BroadcasterEvent::Notify(NotifyPart {
            streamed: true,
            unspent: begins.is_some().then_some(unspent),
            begins,
            bytes: it.body,
            ends,
        }))
    }

    fn check_compressor(&self, what: &'static str, head: &BodyHead) -> Result<(), SessionError> {
        if head.compressor == 0 || self.accepts_compressor(head.compressor) {
            Ok(())
        } else {
            Err(protocol(what, "its compressor is not enabled"))
        }
    }

    fn accepts_compressor(&self, compressor: u64) -> bool {
        let enabled = self.compressors.iter().map(|(id, _)| *id);
        let retired = self.retired.iter().map(|it| it.id);
        enabled.chain(retired).any(|id| u64::from(id) == compressor)
    }

    fn continue_receive(
        &mut self,
        config: &BroadcasterConfig,
        it: &Continue,
        now: Now,
    ) -> Result<(), SessionError> {
        const WHAT: &str = "CONTINUE_RECEIVE";
        let expected = match self.expected.pop_front() {
            Some(Expected {
                identifier,
                part: ExpectedPart::Continue(part_id),
            }) => identifier == it.identifier && part_id == it.part_id,
            Some(_) | None => false,
        };
        if !expected {
            return Err(protocol(WHAT, "another acknowledgement was due"));
        }
        self.acknowledged += 1;
        let counter = self.peers.take();
        let claim = Claim::ContinueReceive {
            identifier: &it.identifier,
            part_id: it.part_id,
            url: &self.url(&*config.to_broadcaster, counter),
        };
        bound_to_this_message(verify(
            config,
            WHAT,
            &claim,
            &it.tracing,
            &it.authorization,
            now,
        )?);
        Ok(())
    }

    fn confirm_receive(
        &mut self,
        config: &BroadcasterConfig,
        it: ConfirmReceive,
        now: Now,
    ) -> Result<BroadcasterEvent, SessionError> {
        const WHAT: &str = "CONFIRM_RECEIVE";
        let delivery = match self.expected.pop_front() {
            Some(Expected {
                identifier,
                part: ExpectedPart::Confirm { delivery },
            }) if identifier == it.identifier => delivery,
            Some(_) | None => return Err(protocol(WHAT, "another acknowledgement was due")),
        };
        self.acknowledged += 1;
        let counter = self.peers.take();
        let claim = Claim::ConfirmReceive {
            identifier: &it.identifier,
            subscribers: it.num_subscribers,
            url: &self.url(&*config.to_broadcaster, counter),
        };
        bound_to_this_message(verify(
            config,
            WHAT,
            &claim,
            &it.tracing,
            &it.authorization,
            now,
        )?);
        // Whatever came after DISABLE in its direction was read after it, and answered after it. But
        // acknowledgements may overtake the later parts of a notification.
        let under_way = self.stream.as_ref().map(|it| it.head().compressor);
        self.retired.retain(|retired| {
            retired.told_after.is_none_or(|after| delivery <= after)
                || under_way == Some(retired.id.into())
        });
        Ok(BroadcasterEvent::Delivered(it.identifier))
    }

    fn confirm(&mut self, place: u64, confirmation: Waiting<B>) {
        self.answers_bytes += confirmation.answer_bytes();
        self.confirmations.fill(place, confirmation);
        while let Some(confirmation) = self.confirmations.pop() {
            self.outbox.push_back(confirmation);
        }
    }

    /// The next message in turn, signed as it leaves.
    fn next_message(
        &mut self,
        config: &BroadcasterConfig,
        nonces: &mut Nonces,
        now: Now,
    ) -> Result<Option<Outgoing<B>>, SessionError> {
        loop {
            if self.sending.is_some() {
                return self.next_part(config, nonces, now);
            }
            let Some(waiting) = self.outbox.pop_front() else {
                return Ok(None);
            };
            self.answers_bytes -= waiting.answer_bytes();
            if let Waiting::Deliver(delivery) = waiting {
                self.deliveries += 1;
                let Delivery {
                    identifier,
                    topic,
                    head,
                    body,
                } = *delivery;
                let cut = Cut::new(identifier, topic, head, body);
                self.sending = Some((cut, None, self.deliveries));
                continue;
            }
            return self.encode(config, waiting, nonces, now).map(Some);
        }
    }

    /// The next part of the delivery under way, unless too many are unacknowledged.
    fn next_part(
        &mut self,
        config: &BroadcasterConfig,
        nonces: &mut Nonces,
        now: Now,
    ) -> Result<Option<Outgoing<B>>, SessionError> {
        let full = |max: NonZeroUsize| self.expected.len() >= max.get();
        if config.unacknowledged_max.is_some_and(full) {
            return Ok(None);
        }
        let Some((mut cut, first_counter, delivery)) = self.sending.take() else {
            return Ok(None);
        };
        let counter = match (config.stream_counters, first_counter) {
            (StreamCounters::FirstPart, Some(counter)) => counter,
            (StreamCounters::FirstPart, None) | (StreamCounters::EachPart, _) => self.own.take(),
        };
        let claim = Claim::Receive {
            url: &self.url(&*config.to_subscriber, counter),
            topic: &cut.topic,
            identifier: &cut.identifier,
            sha512: &cut.head.compressed_sha512,
        };
        let stamp = nonces.stamp(now);
        let authorization = config.to_subscriber.authorize(&claim, &[], &stamp)?;
        let part_id = cut.next_part();
        let (message, is_last) = cut.next(authorization, config.message_bytes_max, |part| {
            ToSubscriber::ReceiveStream(part).encode_head(config.headers)
        });
        self.expected.push_back(Expected {
            identifier: cut.identifier.clone(),
            part: match is_last {
                true => ExpectedPart::Confirm { delivery },
                false => ExpectedPart::Continue(part_id),
            },
        });
        if !is_last {
            self.sending = Some((cut, Some(counter), delivery));
        }
        Ok(Some(message))
    }

    fn encode(
        &mut self,
        config: &BroadcasterConfig,
        waiting: Waiting<B>,
        nonces: &mut Nonces,
        now: Now,
    ) -> Result<Outgoing<B>, SessionError> {
        let scheme = &*config.to_subscriber;
        let tracing = Bytes::new();
        let mut authorize = |claim: &Claim<'_>| scheme.authorize(claim, &[], &nonces.stamp(now));
        let message = match waiting {
            Waiting::ConfirmConfigure(broadcaster_nonce) => {
                let claim = Claim::ConfirmConfigure {
                    broadcaster_nonce: &broadcaster_nonce,
                };
                ToSubscriber::ConfirmConfigure(ConfirmConfigure {
                    authorization: authorize(&claim)?,
                    broadcaster_nonce,
                    tracing,
                })
            }
            Waiting::ConfirmInterest {
                interest,
                subscribe,
                counter,
            } => {
                let claim = Claim::ConfirmSubscribe {
                    url: &self.url(scheme, counter),
                    recovery: None,
                    interest: &interest,
                };
                let authorization = authorize(&claim)?;
                let message = InterestMessage {
                    interest,
                    authorization,
                    tracing,
                };
                match subscribe {
                    true => ToSubscriber::ConfirmSubscribe(message),
                    false => ToSubscriber::ConfirmUnsubscribe(message),
                }
            }
            Waiting::ContinueNotify {
                identifier,
                part_id,
            } => {
                let claim = Claim::ContinueNotify {
                    identifier: &identifier,
                    part_id: u32::try_from(part_id)
                        .map_err(|_| protocol("NOTIFY_STREAM", "it has too many parts"))?,
                };
                ToSubscriber::ContinueNotify(Continue {
                    authorization: authorize(&claim)?,
                    identifier,
                    part_id,
                    tracing,
                })
            }
            Waiting::ConfirmNotify {
                identifier,
                topic,
                sha512,
                outcome,
            } => {
                let (subscribers, tracing) = match outcome {
                    Ok(subscribers) => (subscribers, &b""[..]),
                    Err(refusal) => (0, refusal.tracing()),
                };
                let claim = Claim::ConfirmNotify {
                    identifier: &identifier,
                    subscribers,
                    topic: &topic,
                    sha512: &sha512,
                };
                let authorization = scheme.authorize(&claim, tracing, &nonces.stamp(now))?;
                ToSubscriber::ConfirmNotify(ConfirmNotify {
                    authorization,
                    identifier,
                    subscribers: subscribers.into(),
                    tracing: Bytes::from_static(tracing),
                })
            }
            Waiting::Missed(topic) => {
                let counter = self.own.take();
                let claim = Claim::Missed {
                    recovery: &self.url(scheme, counter),
                    topic: &topic,
                };
                ToSubscriber::Missed(MissedMessage {
                    authorization: authorize(&claim)?,
                    topic,
                    tracing,
                })
            }
            Waiting::Enable(compressor) => {
                let counter = self.own.take();
                let url = self.url(scheme, counter);
                return encode_enable(config, &url, *compressor, authorize);
            }
            Waiting::Disable(compressor) => {
                for retired in &mut self.retired {
                    if retired.id == compressor {
                        retired.told_after = Some(self.deliveries);
                    }
                }
                let counter = self.own.take();
                let claim = Claim::DisableCustom {
                    compressor,
                    url: &self.url(scheme, counter),
                };
                ToSubscriber::DisableCustom(DisableCustom {
                    compressor: compressor.into(),
                    authorization: authorize(&claim)?,
                    tracing,
                })
            }
            Waiting::Deliver(_) => unreachable!("deliveries are cut into parts before"),
        };
        Ok(Outgoing {
            head: message.encode_head(config.headers).into(),
            body: OutgoingBody::Empty,
        })
    }
}

fn encode_enable<B>(
    config: &BroadcasterConfig,
    url: &str,
    compressor: Compressor,
    mut authorize: impl FnMut(&Claim<'_>) -> Result<Option<String>, crate::auth::CannotAuthorize>,
) -> Result<Outgoing<B>, SessionError> {
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
                authorization: authorize(&claim)?,
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
                authorization: authorize(&claim)?,
                tracing,
                sha512,
                dictionary: Bytes::new(),
            });
            (message, OutgoingBody::Bytes(dictionary))
        }
    };
    Ok(Outgoing {
        head: message.encode_head(config.headers).into(),
        body,
    })
}

/// Nobody can use such an authorization again: it is bound to a counter of a connection whose nonce
/// both ends drew (§5). So it need not be spent.
fn bound_to_this_message(unspent: Unspent) {
    let _ = unspent;
}
