//! Both ends of a websocket, and a network between them that is two queues and a clock that is a
//! variable. What must hold of every message on its way is checked here.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_proto::auth::{
    Authorization, HmacAuthorization, NoAuthorization, SpentCodes, TokenAuthorization, Unspent,
};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{
    BroadcasterConfig, BroadcasterEvent, BroadcasterSession, Compressor, CompressorSizes, Delivery,
    InterestTicket, Nonces, Notification, NotifyTicket, Outgoing, OutgoingBody, Output,
    ReceiveTicket, SessionError, StreamCounters, SubscriberConfig, SubscriberEvent,
    SubscriberSession,
};
use httppubsub_proto::stateful::{
    BodyHead, HeaderStyle, Part, StreamPart, ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};

/// What a pair is made of.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) auth: Auth,
    pub(crate) stream_counters: StreamCounters,
    /// Of what subscriber and broadcaster send.
    pub(crate) headers: [HeaderStyle; 2],
    /// Of what subscriber and broadcaster send.
    pub(crate) message_bytes_max: [u64; 2],
    pub(crate) unacknowledged_max: Option<NonZeroUsize>,
    /// Of the way to the broadcaster and back.
    pub(crate) latency: [Duration; 2],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            auth: Auth::Hmac,
            stream_counters: StreamCounters::FirstPart,
            headers: [HeaderStyle::Minimal; 2],
            message_bytes_max: [1_200; 2],
            unacknowledged_max: NonZeroUsize::new(3),
            latency: [Duration::from_millis(20), Duration::from_millis(30)],
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Auth {
    None,
    Token,
    Hmac,
}

impl Auth {
    fn scheme(self, direction: u8) -> Arc<dyn Authorization> {
        match self {
            Self::None => Arc::new(NoAuthorization),
            Self::Token => {
                let token = format!("token {direction}");
                Arc::new(TokenAuthorization::new(&token).expect("it is not empty"))
            }
            Self::Hmac => Arc::new(HmacAuthorization::new(&[direction; 64])),
        }
    }
}

/// One of the ends, or the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Broadcaster,
    Subscriber,
}

/// A message as the application has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: Topic,
    pub(crate) plain: Vec<u8>,
}

impl Message {
    /// Twice the same bytes, which is what the "compressors" here make use of.
    pub(crate) fn new(topic: &str, seed: u8, half: usize) -> Self {
        let half = (0..half).map(|at| (at as u8).wrapping_mul(31) ^ seed);
        let half: Vec<_> = half.collect();
        Self {
            topic: Topic::new(topic).expect("a short topic"),
            plain: half.repeat(2),
        }
    }

    fn compress(&self, compressor: u32) -> (BodyHead, Bytes) {
        let wire = match compressor {
            0 => self.plain.clone(),
            _ => {
                let half = &self.plain[..self.plain.len() / 2];
                half.iter().map(|byte| byte ^ compressor as u8).collect()
            }
        };
        let head = BodyHead {
            compressor: compressor.into(),
            compressed_length: wire.len() as u64,
            decompressed_length: self.plain.len() as u64,
            compressed_sha512: Sha512::of(&wire),
        };
        (head, wire.into())
    }
}

/// A message of which parts have arrived.
#[derive(Debug)]
struct Arriving {
    topic: Topic,
    head: BodyHead,
    wire: Vec<u8>,
}

impl Arriving {
    /// The message, if it is what was announced.
    fn finish(self) -> Option<Message> {
        assert_eq!(self.wire.len() as u64, self.head.compressed_length);
        if Sha512::of(&self.wire) != self.head.compressed_sha512 {
            return None;
        }
        let plain = match self.head.compressor {
            0 => self.wire,
            id => {
                let half: Vec<_> = self.wire.iter().map(|byte| byte ^ id as u8).collect();
                half.repeat(2)
            }
        };
        let whole = plain.len() as u64 == self.head.decompressed_length;
        let topic = self.topic;
        whole.then_some(Message { topic, plain })
    }
}

pub(crate) struct Pair {
    pub(crate) now: Now,
    pub(crate) broadcaster: Broadcaster,
    pub(crate) subscriber: Subscriber,
    /// To the broadcaster.
    up: Wire,
    /// To the subscriber.
    down: Wire,
    /// How many messages still arrive before the connection breaks.
    pub(crate) carries: Option<usize>,
    /// Changes this bit of that message: how many arrive before it, and which bit.
    pub(crate) flips: Option<(usize, usize)>,
    /// How many messages have arrived.
    pub(crate) carried: usize,
    drawn: u32,
}

struct Wire {
    latency: Duration,
    frames: VecDeque<(Now, Bytes)>,
}

impl Wire {
    fn send(&mut self, frame: Bytes, now: Now) {
        let earliest = self.frames.back().map_or(now, |(arrival, _)| *arrival);
        self.frames
            .push_back(((now + self.latency).max(earliest), frame));
    }
}

pub(crate) struct Broadcaster {
    pub(crate) session: BroadcasterSession<Bytes>,
    settings: Settings,
    spent: SpentCodes,
    /// What the driver was told and has not answered yet.
    pending: Vec<Pending>,
    arriving: Option<Arriving>,
    waiting: VecDeque<(Identifier, Message)>,
    /// Whether its websocket takes no more at the moment.
    pub(crate) blocked: bool,
    deadline: Option<Now>,
    pub(crate) closed: Option<SessionError>,
    /// A RECEIVE_STREAM of which parts were sent, with its last part and the bytes that are left.
    sending: Option<(Identifier, u64, u64)>,
    unacknowledged: usize,
    pub(crate) unacknowledged_most: usize,
    /// Custom compressors, oldest first.
    customs: Vec<u32>,
    next_compressor: u32,
    /// What came out.
    pub(crate) notified: Vec<Message>,
    pub(crate) requested: Vec<(Interest, bool)>,
    pub(crate) delivered: Vec<Identifier>,
    pub(crate) sent: Vec<&'static str>,
}

#[derive(Debug)]
enum Pending {
    Accept,
    Interest(InterestTicket),
    Notify {
        ticket: NotifyTicket,
        plain: Sha512,
        subscribers: u32,
    },
}

pub(crate) struct Subscriber {
    pub(crate) session: SubscriberSession<Bytes>,
    settings: Settings,
    spent: SpentCodes,
    pending: Vec<ReceiveTicket>,
    arriving: Option<Arriving>,
    /// Whether its websocket takes no more at the moment.
    pub(crate) blocked: bool,
    deadline: Option<Now>,
    pub(crate) closed: Option<SessionError>,
    /// A NOTIFY_STREAM of which parts were sent.
    sending: Option<(Identifier, u64, u64)>,
    compressors: BTreeSet<u64>,
    /// What came out.
    pub(crate) opened: bool,
    pub(crate) confirmed: Vec<(Interest, bool)>,
    pub(crate) continued: Vec<(Identifier, u64)>,
    pub(crate) notified: Vec<(Identifier, u32)>,
    pub(crate) received: Vec<(Identifier, Message)>,
    pub(crate) missed: Vec<Topic>,
    pub(crate) sent: Vec<&'static str>,
    /// The parts but the last of what was sent by NOTIFY_STREAM.
    pub(crate) parts_sent: Vec<(Identifier, u64)>,
}

impl Pair {
    pub(crate) fn new(settings: &Settings) -> Self {
        let now = Now::from_unix(Duration::from_millis(1_800_000_000_250));
        let (to_broadcaster, to_subscriber) = (settings.auth.scheme(1), settings.auth.scheme(2));
        let mut broadcasters =
            BroadcasterConfig::new(to_broadcaster.clone(), to_subscriber.clone());
        broadcasters.headers = settings.headers[1];
        broadcasters.stream_counters = settings.stream_counters;
        broadcasters.message_bytes_max = settings.message_bytes_max[1];
        broadcasters.unacknowledged_max = settings.unacknowledged_max;
        broadcasters.configure_timeout = Duration::from_secs(100);
        let mut subscribers = SubscriberConfig::new(to_broadcaster, to_subscriber);
        subscribers.headers = settings.headers[0];
        subscribers.message_bytes_max = settings.message_bytes_max[0];
        subscribers.configure_timeout = Duration::from_secs(100);
        subscribers.presets = vec![2];
        let wire = |latency| Wire {
            latency,
            frames: VecDeque::new(),
        };
        let nonces = |seed| Nonces::new([seed; 12]);
        let mut pair = Self {
            now,
            broadcaster: Broadcaster {
                session: BroadcasterSession::new(Arc::new(broadcasters), nonces(1), now),
                settings: settings.clone(),
                spent: SpentCodes::new(100_000),
                pending: Vec::new(),
                arriving: None,
                waiting: VecDeque::new(),
                blocked: false,
                deadline: None,
                closed: None,
                sending: None,
                unacknowledged: 0,
                unacknowledged_most: 0,
                customs: Vec::new(),
                next_compressor: 1,
                notified: Vec::new(),
                requested: Vec::new(),
                delivered: Vec::new(),
                sent: Vec::new(),
            },
            subscriber: Subscriber {
                session: SubscriberSession::new(Arc::new(subscribers), [7; 32], nonces(2), now),
                settings: settings.clone(),
                spent: SpentCodes::new(100_000),
                pending: Vec::new(),
                arriving: None,
                blocked: false,
                deadline: None,
                closed: None,
                sending: None,
                compressors: BTreeSet::new(),
                opened: false,
                confirmed: Vec::new(),
                continued: Vec::new(),
                notified: Vec::new(),
                received: Vec::new(),
                missed: Vec::new(),
                sent: Vec::new(),
                parts_sent: Vec::new(),
            },
            up: wire(settings.latency[0]),
            down: wire(settings.latency[1]),
            carries: None,
            flips: None,
            carried: 0,
            drawn: 0,
        };
        pair.drive();
        pair
    }

    /// A pair whose session is open.
    pub(crate) fn open(settings: &Settings) -> Self {
        let mut pair = Self::new(settings);
        pair.settle();
        assert!(pair.subscriber.opened);
        pair
    }

    /// Polls both ends until they have nothing more to say.
    fn drive(&mut self) {
        self.broadcaster.drive(self.now, &mut self.down);
        self.subscriber.drive(self.now, &mut self.up);
    }

    fn identifier(&mut self) -> Identifier {
        self.drawn += 1;
        Identifier::new(self.drawn.to_be_bytes().to_vec()).expect("4 bytes")
    }

    pub(crate) fn subscribe(&mut self, interest: &Interest) {
        self.subscriber.session.subscribe(interest, self.now);
        self.drive();
    }

    pub(crate) fn unsubscribe(&mut self, interest: &Interest) {
        self.subscriber.session.unsubscribe(interest, self.now);
        self.drive();
    }

    /// With the compressor that the machine suggests.
    pub(crate) fn notify(&mut self, message: &Message) -> Identifier {
        let identifier = self.identifier();
        let session = &mut self.subscriber.session;
        let compressor = session.compressor_for(message.plain.len() as u64);
        let (head, body) = message.compress(compressor);
        let notification = Notification {
            identifier: identifier.clone(),
            topic: message.topic.clone(),
            head,
            plain_sha512: Sha512::of(&message.plain),
            body,
        };
        session.notify(notification, self.now);
        self.drive();
        identifier
    }

    /// With the compressor that the machine suggests when its turn comes.
    pub(crate) fn deliver(&mut self, message: &Message) -> Identifier {
        let identifier = self.identifier();
        let waiting = (identifier.clone(), message.clone());
        self.broadcaster.waiting.push_back(waiting);
        self.drive();
        identifier
    }

    pub(crate) fn missed(&mut self, topic: &Topic) {
        self.broadcaster.session.missed(topic, self.now);
        self.drive();
    }

    /// Announces 1, then 2, then one dictionary after the other, of which only the latest two stay.
    pub(crate) fn enable(&mut self) {
        let id = self.broadcaster.next_compressor;
        self.broadcaster.next_compressor = if id < 2 { 2 } else { (id + 1).max(65_536) };
        let dictionary = (id >= 65_536).then(|| {
            if self.broadcaster.customs.len() == 2 {
                self.disable();
            }
            self.broadcaster.customs.push(id);
            let dictionary = Bytes::from(vec![id as u8; 100]);
            (Sha512::of(&dictionary), dictionary)
        });
        let max = if dictionary.is_some() {
            4_000
        } else {
            u64::MAX
        };
        let sizes = CompressorSizes { min: 32, max };
        let compressor = Compressor {
            id,
            level: 3,
            sizes,
            dictionary,
        };
        self.broadcaster.session.enable(compressor, self.now);
        self.drive();
    }

    /// Takes back the oldest dictionary.
    pub(crate) fn disable(&mut self) {
        if !self.broadcaster.customs.is_empty() {
            let id = self.broadcaster.customs.remove(0);
            self.broadcaster.session.disable(id, self.now);
            self.drive();
        }
    }

    /// The broadcaster's driver is done with one of the things it was told.
    pub(crate) fn answer(&mut self, which: usize) {
        let pending = &mut self.broadcaster.pending;
        if pending.is_empty() {
            return;
        }
        let session = &mut self.broadcaster.session;
        match pending.remove(which % pending.len()) {
            Pending::Accept => session.accept([9; 32], self.now),
            Pending::Interest(ticket) => session.confirm_interest(ticket, self.now),
            Pending::Notify {
                ticket,
                plain,
                subscribers,
            } => session.confirm_notify(ticket, &plain, subscribers, self.now),
        }
        self.drive();
    }

    /// The subscriber's driver has found one of the messages right.
    pub(crate) fn confirm(&mut self, which: usize) {
        let pending = &mut self.subscriber.pending;
        if !pending.is_empty() {
            let ticket = pending.remove(which % pending.len());
            self.subscriber.session.confirm_receive(ticket, self.now);
            self.drive();
        }
    }

    /// Whether an end's websocket takes no more for now.
    pub(crate) fn block(&mut self, end: End, blocked: bool) {
        match end {
            End::Broadcaster => self.broadcaster.blocked = blocked,
            End::Subscriber => self.subscriber.blocked = blocked,
        }
        self.drive();
    }

    /// Lets time pass, and whatever arrives in it arrive.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next_arrival(until) {}
        self.now = until;
        self.time_out();
    }

    /// Answers, confirms and carries everything, until nothing more happens.
    pub(crate) fn settle(&mut self) {
        self.block(End::Broadcaster, false);
        self.block(End::Subscriber, false);
        loop {
            while !self.broadcaster.pending.is_empty() {
                self.answer(0);
            }
            while !self.subscriber.pending.is_empty() {
                self.confirm(0);
            }
            if !self.next_arrival(self.now + Duration::from_secs(1_000)) {
                return;
            }
        }
    }

    /// Something arrives that the other end did not send.
    pub(crate) fn forge(&mut self, to: End, frame: impl Into<Bytes>) {
        match to {
            End::Broadcaster => self.broadcaster.arrives(&frame.into(), self.now),
            End::Subscriber => {
                let frame = frame.into();
                self.subscriber.session.handle_message(&frame, self.now);
            }
        }
        self.drive();
    }

    /// The connection breaks, for these ends.
    pub(crate) fn cut(&mut self, end: End) {
        let gone = SessionError::Ended {
            code: 1006,
            reason: "the connection is gone".to_owned(),
        };
        match end {
            End::Broadcaster => self.broadcaster.session.end(gone),
            End::Subscriber => self.subscriber.session.end(gone),
        }
        self.drive();
    }

    /// Lets the next message arrive, if there is one until then.
    fn next_arrival(&mut self, until: Now) -> bool {
        if self.carries == Some(0) {
            return false;
        }
        let arrival = |wire: &Wire| wire.frames.front().map(|(arrival, _)| *arrival);
        let to = match (arrival(&self.up), arrival(&self.down)) {
            (None, None) => return false,
            (Some(up), Some(down)) if up <= down => End::Broadcaster,
            (Some(_), None) => End::Broadcaster,
            (_, Some(_)) => End::Subscriber,
        };
        let wire = match to {
            End::Broadcaster => &mut self.up,
            End::Subscriber => &mut self.down,
        };
        let Some((arrival, mut frame)) = wire.frames.pop_front_if(|(arrival, _)| *arrival <= until)
        else {
            return false;
        };
        self.now = self.now.max(arrival);
        self.time_out();
        if let Some((before, bit)) = self.flips
            && before == self.carried
        {
            let mut bytes = frame.to_vec();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            frame = bytes.into();
        }
        self.carried += 1;
        self.carries = self.carries.map(|left| left - 1);
        match to {
            End::Broadcaster => self.broadcaster.arrives(&frame, self.now),
            End::Subscriber => self.subscriber.session.handle_message(&frame, self.now),
        }
        self.drive();
        true
    }

    fn time_out(&mut self) {
        let over = |deadline: Option<Now>| deadline.is_some_and(|it| it <= self.now);
        if over(self.broadcaster.deadline) {
            self.broadcaster.session.handle_timeout(self.now);
        }
        if over(self.subscriber.deadline) {
            self.subscriber.session.handle_timeout(self.now);
        }
        self.drive();
    }
}

impl Broadcaster {
    /// A message of the subscriber has arrived.
    fn arrives(&mut self, frame: &Bytes, now: Now) {
        use ToBroadcaster::{ConfirmReceive, ContinueReceive};
        if let Ok(ContinueReceive(_) | ConfirmReceive(_)) = ToBroadcaster::decode(frame) {
            self.unacknowledged = self.unacknowledged.saturating_sub(1);
        }
        self.session.handle_message(frame, now);
    }

    fn drive(&mut self, now: Now, wire: &mut Wire) {
        loop {
            // An end that cannot send still learns what happens.
            while let Some(event) = self.session.poll_event() {
                assert!(self.closed.is_none(), "it is closed: {event:?}");
                self.handle(event, now);
            }
            if self.blocked && !self.session.is_over() {
                return;
            }
            match self.session.poll_output() {
                Output::Send(message) => {
                    assert!(self.closed.is_none(), "it is closed");
                    let frame = frame(&message);
                    self.check_sent(&frame, &message);
                    wire.send(frame, now);
                }
                Output::Close(reason) => {
                    assert!(self.closed.is_none(), "it is closed: {reason}");
                    self.closed = Some(reason);
                }
                Output::Timeout(deadline) => {
                    assert!(self.closed.is_none() || deadline.is_none(), "it is closed");
                    self.deadline = deadline;
                    if !self.session.is_ready_to_deliver() {
                        return;
                    }
                    match self.waiting.pop_front() {
                        Some((identifier, message)) => {
                            let plain_bytes = message.plain.len() as u64;
                            let compressor = self.session.compressor_for(plain_bytes);
                            let (head, body) = message.compress(compressor);
                            let delivery = Delivery {
                                identifier,
                                topic: message.topic,
                                head,
                                body,
                            };
                            self.session.deliver(delivery, now);
                        }
                        None => return,
                    }
                }
            }
        }
    }

    fn check_sent(&mut self, frame: &Bytes, sent: &Outgoing<Bytes>) {
        let message = ToSubscriber::decode(frame).expect("what is sent can be read");
        self.sent.push(message.name());
        let ToSubscriber::ReceiveStream(part) = &message else {
            assert!(
                self.sending.is_none(),
                "{} came between parts",
                message.name()
            );
            return;
        };
        check_part(&mut self.sending, part);
        let is_last = self.sending.is_none();
        check_size(frame, sent, self.settings.message_bytes_max[1], is_last);
        self.unacknowledged += 1;
        self.unacknowledged_most = self.unacknowledged_most.max(self.unacknowledged);
        if let Some(max) = self.settings.unacknowledged_max {
            assert!(self.unacknowledged <= max.get(), "the window is exceeded");
        }
    }

    fn handle(&mut self, event: BroadcasterEvent, now: Now) {
        match event {
            BroadcasterEvent::Configure {
                unspent,
                enable_zstd,
                enable_training,
                initial_dict,
            } => {
                assert_eq!(
                    (enable_zstd, enable_training, initial_dict),
                    (true, true, 0)
                );
                spend(&mut self.spent, unspent, now);
                self.pending.push(Pending::Accept);
            }
            BroadcasterEvent::Interest(ticket) => {
                let request = (ticket.interest.clone(), ticket.subscribe);
                self.requested.push(request);
                self.pending.push(Pending::Interest(ticket));
            }
            BroadcasterEvent::Notify(part) => {
                assert_eq!(part.unspent.is_some(), part.begins.is_some());
                if let Some(unspent) = part.unspent {
                    spend(&mut self.spent, unspent, now);
                }
                let mut arriving = match (part.begins, part.streamed) {
                    (Some((topic, head)), _) => Arriving {
                        topic,
                        head,
                        wire: Vec::new(),
                    },
                    (None, true) => self.arriving.take().expect("a stream is under way"),
                    (None, false) => panic!("NOTIFY begins"),
                };
                arriving.wire.extend_from_slice(&part.bytes);
                let compressor = arriving.head.compressor;
                assert!(
                    compressor == 0 || self.session.accepts_compressor(compressor),
                    "the dictionary of {compressor} is gone"
                );
                match part.ends {
                    None => self.arriving = Some(arriving),
                    Some(ticket) => match arriving.finish() {
                        Some(message) => {
                            self.pending.push(Pending::Notify {
                                ticket,
                                plain: Sha512::of(&message.plain),
                                subscribers: self.notified.len() as u32,
                            });
                            self.notified.push(message);
                        }
                        None => self.session.end(not_what_was_announced()),
                    },
                }
            }
            BroadcasterEvent::Delivered(identifier) => self.delivered.push(identifier),
        }
    }

    /// Whether this dictionary is in use.
    pub(crate) fn enables(&self, compressor: u64) -> bool {
        self.customs.iter().any(|id| u64::from(*id) == compressor)
    }

    /// Whether all of this is off its hands.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.pending.is_empty()
            && self.arriving.is_none()
            && self.sending.is_none()
            && self.unacknowledged == 0
            && self.session.is_ready_to_deliver()
    }
}

impl Subscriber {
    fn drive(&mut self, now: Now, wire: &mut Wire) {
        loop {
            while let Some(event) = self.session.poll_event() {
                assert!(self.closed.is_none(), "it is closed: {event:?}");
                self.handle(event, now);
            }
            if self.blocked && !self.session.is_over() {
                return;
            }
            match self.session.poll_output() {
                Output::Send(message) => {
                    assert!(self.closed.is_none(), "it is closed");
                    let frame = frame(&message);
                    self.check_sent(&frame, &message);
                    wire.send(frame, now);
                }
                Output::Close(reason) => {
                    assert!(self.closed.is_none(), "it is closed: {reason}");
                    self.closed = Some(reason);
                }
                Output::Timeout(deadline) => {
                    assert!(self.closed.is_none() || deadline.is_none(), "it is closed");
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }

    fn check_sent(&mut self, frame: &Bytes, sent: &Outgoing<Bytes>) {
        let message = ToBroadcaster::decode(frame).expect("what is sent can be read");
        self.sent.push(message.name());
        match &message {
            ToBroadcaster::NotifyStream(part) => {
                check_part(&mut self.sending, part);
                let is_last = self.sending.is_none();
                check_size(frame, sent, self.settings.message_bytes_max[0], is_last);
                if self.sending.is_some() {
                    let part = (part.identifier.clone(), part.part.id());
                    self.parts_sent.push(part);
                }
            }
            ToBroadcaster::Notify(_) => {
                assert!((frame.len() as u64) < self.settings.message_bytes_max[0]);
                assert!(self.sending.is_none(), "NOTIFY came between parts");
            }
            ToBroadcaster::Configure(_)
            | ToBroadcaster::Subscribe(_)
            | ToBroadcaster::Unsubscribe(_) => {
                let name = message.name();
                assert!(self.sending.is_none(), "{name} came between parts");
            }
            // The broadcaster may be waiting for them.
            ToBroadcaster::ContinueReceive(_) | ToBroadcaster::ConfirmReceive(_) => {}
        }
    }

    fn handle(&mut self, event: SubscriberEvent, now: Now) {
        assert_eq!(self.opened, !matches!(event, SubscriberEvent::Open { .. }));
        match event {
            SubscriberEvent::Open { unspent } => {
                spend(&mut self.spent, unspent, now);
                self.opened = true;
            }
            SubscriberEvent::Subscribed(interest) => self.confirmed.push((interest, true)),
            SubscriberEvent::Unsubscribed(interest) => self.confirmed.push((interest, false)),
            SubscriberEvent::Continued {
                identifier,
                part_id,
            } => self.continued.push((identifier, part_id)),
            SubscriberEvent::Notified {
                identifier,
                subscribers,
            } => self.notified.push((identifier, subscribers)),
            SubscriberEvent::Refused { refusal, .. } => panic!("refused: {refusal}"),
            SubscriberEvent::Receive(part) => {
                if let Some((topic, head)) = part.begins {
                    assert!(self.arriving.is_none(), "another message is under way");
                    assert!(head.compressor == 0 || self.compressors.contains(&head.compressor));
                    self.arriving = Some(Arriving {
                        topic,
                        head,
                        wire: Vec::new(),
                    });
                }
                let arriving = self.arriving.as_mut().expect("a message is under way");
                arriving.wire.extend_from_slice(&part.bytes);
                if let Some(ticket) = part.ends {
                    let arrived = self.arriving.take().and_then(Arriving::finish);
                    match arrived {
                        Some(message) => {
                            self.received.push((ticket.identifier.clone(), message));
                            self.pending.push(ticket);
                        }
                        None => self.session.end(not_what_was_announced()),
                    }
                }
            }
            SubscriberEvent::EnablePreset { compressor, .. } => {
                assert!(self.compressors.insert(compressor.into()));
            }
            SubscriberEvent::EnableCustom {
                compressor,
                dictionary,
                ..
            } => {
                assert_eq!(dictionary, vec![compressor as u8; 100]);
                assert!(self.compressors.insert(compressor.into()));
            }
            SubscriberEvent::DisableCustom { compressor } => {
                assert!(self.compressors.remove(&compressor.into()));
            }
            SubscriberEvent::Missed(topic) => self.missed.push(topic),
        }
    }

    /// Whether all of this is off its hands.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
            && self.arriving.is_none()
            && self.sending.is_none()
            && self.session.unacknowledged() == 0
            && self.session.is_ready_to_notify()
    }
}

fn spend(spent: &mut SpentCodes, unspent: Unspent, now: Now) {
    if let Some(code) = unspent.into_code() {
        spent.spend(code, now).expect("no code is used twice");
    }
}

fn not_what_was_announced() -> SessionError {
    SessionError::Ended {
        code: 1002,
        reason: "the message is not what was announced".to_owned(),
    }
}

fn frame(message: &Outgoing<Bytes>) -> Bytes {
    let body = match &message.body {
        OutgoingBody::Empty => Bytes::new(),
        OutgoingBody::Bytes(bytes) => bytes.clone(),
        OutgoingBody::Part { of, range } => {
            let at = |offset: u64| usize::try_from(offset).expect("a small body");
            of.slice(at(range.start)..at(range.end))
        }
    };
    [&message.head[..], &body].concat().into()
}

/// A part fills its websocket message, unless it is the last or there is too little room: then it
/// carries 512 bytes.
fn check_size(frame: &Bytes, sent: &Outgoing<Bytes>, max: u64, is_last: bool) {
    let body = (frame.len() - sent.head.len()) as u64;
    let room = max.saturating_sub(sent.head.len() as u64).max(512);
    if is_last {
        assert!(body <= room, "{body} bytes where {room} may be");
    } else {
        assert_eq!(body, room);
    }
}

/// Parts are numbered, have their place, and end when all bytes are there.
fn check_part(sending: &mut Option<(Identifier, u64, u64)>, part: &StreamPart) {
    let left = match (&part.part, sending.take()) {
        (Part::First { head, .. }, None) => head.compressed_length,
        (Part::Later(id), Some((identifier, last, left))) => {
            assert_eq!(identifier, part.identifier);
            assert_eq!(id.get(), last + 1);
            assert!(left > 0 && !part.body.is_empty());
            left
        }
        (_, sending) => panic!("{part:?} after {sending:?}"),
    };
    let left = left - part.body.len() as u64;
    if left > 0 {
        *sending = Some((part.identifier.clone(), part.part.id(), left));
    }
}
