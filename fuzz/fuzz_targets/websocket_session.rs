//! Both ends of a websocket, told whatever the input says in whatever order: what the other end
//! said, something like it, something signed with the right secret, or nonsense. Nothing panics,
//! nothing comes between the parts of a message, bodies are as long as announced, the window is
//! kept, and nothing comes after the close.
#![no_main]

use std::collections::VecDeque;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_proto::auth::{Authorization, Claim, HmacAuthorization, NoAuthorization, Stamp};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::session::{
    BroadcasterConfig, BroadcasterEvent, BroadcasterSession, Compressor, CompressorSizes, Delivery,
    InterestTicket, Nonces, Notification, NotifyTicket, Outgoing, OutgoingBody, Output,
    ReceiveTicket, SessionError, StreamCounters, SubscriberConfig, SubscriberEvent,
    SubscriberSession,
};
use httppubsub_proto::stateful::{
    BodyHead, Configure, ConfirmConfigure, ConfirmNotify, ConfirmReceive, ConnectionNonce,
    Continue, DisableCustom, EnableCustom, EnablePreset, HeaderStyle, InterestMessage,
    MissedMessage, Notify, Part, StreamPart, ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use libfuzzer_sys::fuzz_target;

const SUBSCRIBER_NONCE: [u8; 32] = [7; 32];
const BROADCASTER_NONCE: [u8; 32] = [9; 32];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut world = World::new(input.byte());
    while !input.0.is_empty() {
        world.step(&mut input);
        world.poll_broadcaster();
        world.poll_subscriber();
    }
});

/// What is left of the input. All that is missing is 0.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn some(&mut self) -> Bytes {
        let length = usize::from(self.byte()).min(self.0.len());
        let (some, rest) = self.0.split_at(length);
        self.0 = rest;
        Bytes::copy_from_slice(some)
    }

    fn topic(&mut self) -> Topic {
        Topic::new([&b"a"[..], b"", b"a/b", b"\xff"][usize::from(self.byte() % 4)])
            .expect("a short topic")
    }

    fn interest(&mut self) -> Interest {
        if self.flag() {
            let glob = ["a", "*", "", "[a"][usize::from(self.byte() % 4)];
            Interest::Glob(GlobPattern::parse(glob).expect("a short glob"))
        } else {
            Interest::Exact(self.topic())
        }
    }

    fn identifier(&mut self) -> Identifier {
        identifier(self.byte())
    }

    fn compressor(&mut self) -> u64 {
        [0, 1, 2, 65_536, 65_537, u64::MAX][usize::from(self.byte() % 6)]
    }

    fn sizes(&mut self) -> CompressorSizes {
        CompressorSizes {
            min: u32::from(self.byte()),
            max: [0, 100, 3_000, u64::MAX][usize::from(self.byte() % 4)],
        }
    }

    /// A body with its true head, of up to 4 KiB.
    fn body(&mut self) -> (BodyHead, Bytes) {
        let (compressor, fill, length) = (self.compressor(), self.byte(), self.number() % 4_096);
        let body = Bytes::from(vec![fill; length.into()]);
        let head = BodyHead {
            compressor,
            compressed_length: length.into(),
            decompressed_length: match compressor {
                0 => length.into(),
                _ => self.number().into(),
            },
            compressed_sha512: Sha512::of(&body),
        };
        (head, body)
    }
}

fn identifier(number: u8) -> Identifier {
    Identifier::new(vec![number; 4]).expect("a short identifier")
}

struct World {
    now: Now,
    scheme: Arc<dyn Authorization>,
    nonce: ConnectionNonce,
    stamps: Nonces,
    style: HeaderStyle,
    window: Option<usize>,
    each_part: bool,

    broadcaster: BroadcasterSession<Bytes>,
    broadcaster_over: bool,
    to_accept: bool,
    interests: Vec<InterestTicket>,
    /// With the digest to confirm: "plain" bodies are those on the wire here.
    notifications: Vec<(NotifyTicket, Sha512)>,
    /// Digest of the stream under way.
    notify_sha512: Sha512,
    /// Bytes that it still misses.
    notify_left: Option<u64>,
    /// The identifier and what is still to be sent of a message of which parts were sent.
    sending: Option<(Identifier, u64)>,
    unacknowledged: usize,

    subscriber: SubscriberSession<Bytes>,
    subscriber_over: bool,
    receipts: Vec<ReceiveTicket>,
    receive_left: Option<u64>,

    /// What was sent and has not arrived.
    up: VecDeque<Bytes>,
    down: VecDeque<Bytes>,
    /// How many counters the messages that arrived have taken.
    up_taken: i64,
    down_taken: i64,
    /// The stream that was last begun by a forged message.
    forged: (Identifier, Topic, Sha512),
    drawn: u8,
}

impl World {
    fn new(settings: u8) -> Self {
        let now = Now::from_unix(Duration::from_millis(1_800_000_000_250));
        let scheme: Arc<dyn Authorization> = match settings & 1 {
            0 => Arc::new(NoAuthorization),
            _ => Arc::new(HmacAuthorization::new(&[1; 64])),
        };
        let each_part = settings & 2 != 0;
        let style = match settings & 4 {
            0 => HeaderStyle::Minimal,
            _ => HeaderStyle::Expanded,
        };
        let window = (settings & 8 == 0).then_some(2);
        let mut broadcaster = BroadcasterConfig::new(scheme.clone(), scheme.clone());
        broadcaster.headers = style;
        broadcaster.message_bytes_max = 900;
        broadcaster.unacknowledged_max = window.and_then(NonZeroUsize::new);
        if each_part {
            broadcaster.stream_counters = StreamCounters::EachPart;
        }
        let mut subscriber = SubscriberConfig::new(scheme.clone(), scheme.clone());
        subscriber.headers = style;
        subscriber.message_bytes_max = 900;
        subscriber.presets = vec![2];
        subscriber.enable_zstd = settings & 16 == 0;
        subscriber.enable_training = settings & 32 == 0;
        let nonces = |seed| Nonces::new([seed; 12]);
        let mut world = Self {
            now,
            scheme,
            nonce: ConnectionNonce::new(&SUBSCRIBER_NONCE, &BROADCASTER_NONCE),
            stamps: nonces(3),
            style,
            window,
            each_part,
            broadcaster: BroadcasterSession::new(Arc::new(broadcaster), nonces(1), now),
            broadcaster_over: false,
            to_accept: false,
            interests: Vec::new(),
            notifications: Vec::new(),
            notify_sha512: Sha512::of(b""),
            notify_left: None,
            sending: None,
            unacknowledged: 0,
            subscriber: SubscriberSession::new(
                Arc::new(subscriber),
                SUBSCRIBER_NONCE,
                nonces(2),
                now,
            ),
            subscriber_over: false,
            receipts: Vec::new(),
            receive_left: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            up_taken: 0,
            down_taken: 0,
            forged: (
                identifier(0),
                Topic::new("a").expect("a short topic"),
                Sha512::of(b""),
            ),
            drawn: 0,
        };
        world.poll_subscriber();
        // Most of what there is to find is behind this door.
        if settings & 64 == 0 {
            world.arrives_at_broadcaster(None);
            world.poll_broadcaster();
            world.broadcaster.accept(BROADCASTER_NONCE, now);
            world.poll_broadcaster();
            world.arrives_at_subscriber(None);
            world.poll_subscriber();
            assert!(world.subscriber.is_open());
        }
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match input.byte() % 24 {
            0 => self.arrives_at_broadcaster(None),
            1 => self.arrives_at_subscriber(None),
            2 => self.arrives_at_broadcaster(Some(input.some())),
            3 => self.arrives_at_subscriber(Some(input.some())),
            4 => {
                let message = self.forge_to_broadcaster(input);
                self.arrives_at_broadcaster(Some(message.encode(self.style).into()));
            }
            5 => {
                let message = self.forge_to_subscriber(input);
                self.arrives_at_subscriber(Some(message.encode(self.style).into()));
            }
            6 => change(&mut self.up, input),
            7 => change(&mut self.down, input),
            8 => self.subscriber.subscribe(&input.interest(), now),
            9 => self.subscriber.unsubscribe(&input.interest(), now),
            10 => {
                let (head, body) = input.body();
                let notification = Notification {
                    identifier: self.draw(),
                    topic: input.topic(),
                    head,
                    plain_sha512: head.compressed_sha512,
                    body,
                };
                self.subscriber.notify(notification, now);
            }
            11 => {
                if let Some(ticket) = take(&mut self.receipts, input) {
                    self.subscriber.confirm_receive(ticket, now);
                }
            }
            12 => {
                if std::mem::take(&mut self.to_accept) {
                    self.broadcaster.accept(BROADCASTER_NONCE, now);
                }
            }
            13 => {
                if let Some(ticket) = take(&mut self.interests, input) {
                    self.broadcaster.confirm_interest(ticket, now);
                }
            }
            14 => {
                if let Some((ticket, sha512)) = take(&mut self.notifications, input) {
                    let subscribers = input.byte().into();
                    self.broadcaster
                        .confirm_notify(ticket, &sha512, subscribers, now);
                }
            }
            15 => {
                let (head, body) = input.body();
                let delivery = Delivery {
                    identifier: self.draw(),
                    topic: input.topic(),
                    head,
                    body,
                };
                if self.broadcaster.is_ready_to_deliver() {
                    self.broadcaster.deliver(delivery, now);
                }
            }
            16 => self.broadcaster.missed(&input.topic(), now),
            17 => {
                let id = u32::try_from(input.compressor()).unwrap_or(u32::MAX);
                let dictionary = (id > 65_535).then(|| input.some());
                let compressor = Compressor {
                    id,
                    level: input.number(),
                    sizes: input.sizes(),
                    dictionary: dictionary.map(|it| (Sha512::of(&it), it)),
                };
                self.broadcaster.enable(compressor, now);
            }
            18 => {
                let id = u32::try_from(input.compressor()).unwrap_or(u32::MAX);
                self.broadcaster.disable(id, now);
            }
            19 => {
                self.now = now + Duration::from_millis(input.number().into());
                self.broadcaster.handle_timeout(self.now);
            }
            20 => {
                self.now = now + Duration::from_millis(input.number().into());
                self.subscriber.handle_timeout(self.now);
            }
            21 if input.byte() == 0 => self.broadcaster.end(ended()),
            22 if input.byte() == 0 => self.subscriber.end(ended()),
            _ => {
                let plain_bytes = input.number().into();
                let _ = self.broadcaster.compressor_for(plain_bytes);
                let _ = self.subscriber.compressor_for(plain_bytes);
                let _ = self.broadcaster.accepts_compressor(input.compressor());
                let _ = (
                    self.subscriber.unacknowledged(),
                    self.subscriber.is_ready_to_notify(),
                );
            }
        }
    }

    fn draw(&mut self) -> Identifier {
        self.drawn = self.drawn.wrapping_add(1);
        identifier(self.drawn)
    }

    /// This message, or the next that was sent.
    fn arrives_at_broadcaster(&mut self, message: Option<Bytes>) {
        let Some(message) = message.or_else(|| self.up.pop_front()) else {
            return;
        };
        match ToBroadcaster::decode(&message) {
            Ok(ToBroadcaster::Subscribe(_) | ToBroadcaster::Unsubscribe(_)) => self.up_taken += 1,
            Ok(ToBroadcaster::ContinueReceive(_) | ToBroadcaster::ConfirmReceive(_)) => {
                self.up_taken += 1;
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
            }
            Ok(
                ToBroadcaster::Configure(_)
                | ToBroadcaster::Notify(_)
                | ToBroadcaster::NotifyStream(_),
            )
            | Err(_) => {}
        }
        self.broadcaster.handle_message(&message, self.now);
    }

    /// This message, or the next that was sent.
    fn arrives_at_subscriber(&mut self, message: Option<Bytes>) {
        let Some(message) = message.or_else(|| self.down.pop_front()) else {
            return;
        };
        match ToSubscriber::decode(&message) {
            Ok(ToSubscriber::ReceiveStream(part)) => {
                let counts = self.each_part || part.part.id() == 0;
                self.down_taken += i64::from(counts);
            }
            Ok(
                ToSubscriber::EnablePreset(_)
                | ToSubscriber::EnableCustom(_)
                | ToSubscriber::DisableCustom(_)
                | ToSubscriber::Missed(_),
            ) => self.down_taken += 1,
            Ok(_) | Err(_) => {}
        }
        self.subscriber.handle_message(&message, self.now);
    }

    fn poll_broadcaster(&mut self) {
        // Whatever can be sent at once is bounded by what was asked for.
        for _ in 0..10_000 {
            while let Some(event) = self.broadcaster.poll_event() {
                assert!(!self.broadcaster_over, "an event after the close");
                self.broadcaster_event(event);
            }
            match self.broadcaster.poll_output() {
                Output::Send(message) => {
                    assert!(!self.broadcaster_over, "a message after the close");
                    let message = join(&message);
                    self.check_sent(&message);
                    self.down.push_back(message);
                }
                Output::Close(_) => {
                    assert!(!self.broadcaster_over, "a second close");
                    self.broadcaster_over = true;
                }
                Output::Timeout(until) => {
                    assert_eq!(self.broadcaster.is_over(), self.broadcaster_over);
                    assert!(until.is_none() || !self.broadcaster_over);
                    return;
                }
            }
        }
        panic!("the broadcaster never has to wait");
    }

    fn check_sent(&mut self, message: &Bytes) {
        let message = ToSubscriber::decode(message).expect("what is sent can be read");
        let ToSubscriber::ReceiveStream(part) = message else {
            assert_eq!(self.sending, None, "something came between parts");
            return;
        };
        self.unacknowledged += 1;
        assert!(
            self.window
                .is_none_or(|window| self.unacknowledged <= window),
            "the window is exceeded"
        );
        let left = match (part.part, self.sending.take()) {
            (Part::First { head, .. }, None) => head.compressed_length,
            (Part::Later(_), Some((identifier, left))) if identifier == part.identifier => left,
            (_, sending) => panic!("another part came after {sending:?}"),
        };
        let left = left - part.body.len() as u64;
        self.sending = (left > 0).then_some((part.identifier, left));
    }

    fn broadcaster_event(&mut self, event: BroadcasterEvent) {
        match event {
            BroadcasterEvent::Configure { .. } => self.to_accept = true,
            BroadcasterEvent::Interest(ticket) => self.interests.push(ticket),
            BroadcasterEvent::Notify(part) => {
                let ends = part.ends.is_some();
                let begins = part.begins.map(|(_, head)| head);
                let bytes = part.bytes.len();
                let sha512 = begins.map_or(self.notify_sha512, |head| head.compressed_sha512);
                if part.streamed {
                    self.notify_sha512 = sha512;
                    check_placed(&mut self.notify_left, begins, bytes, ends);
                } else {
                    check_placed(&mut None, begins, bytes, ends);
                }
                self.notifications
                    .extend(part.ends.map(|ticket| (ticket, sha512)));
            }
            BroadcasterEvent::Delivered(_) => {}
        }
    }

    fn poll_subscriber(&mut self) {
        for _ in 0..10_000 {
            while let Some(event) = self.subscriber.poll_event() {
                assert!(!self.subscriber_over, "an event after the close");
                if let SubscriberEvent::Receive(part) = event {
                    let begins = part.begins.map(|(_, head)| head);
                    let ends = part.ends.is_some();
                    check_placed(&mut self.receive_left, begins, part.bytes.len(), ends);
                    self.receipts.extend(part.ends);
                }
            }
            match self.subscriber.poll_output() {
                Output::Send(message) => {
                    assert!(!self.subscriber_over, "a message after the close");
                    let message = join(&message);
                    ToBroadcaster::decode(&message).expect("what is sent can be read");
                    self.up.push_back(message);
                }
                Output::Close(_) => {
                    assert!(!self.subscriber_over, "a second close");
                    self.subscriber_over = true;
                }
                Output::Timeout(until) => {
                    assert_eq!(self.subscriber.is_over(), self.subscriber_over);
                    assert!(until.is_none() || !self.subscriber_over);
                    return;
                }
            }
        }
        panic!("the subscriber never has to wait");
    }

    fn sign(&mut self, claim: &Claim<'_>) -> Option<String> {
        let stamp: Stamp = self.stamps.stamp(self.now);
        let value = self.scheme.authorize(claim, &[], &stamp);
        value.expect("it can always sign")
    }

    /// What somebody with the secret might say, mostly with the counter that is due.
    fn forge_to_broadcaster(&mut self, input: &mut Input<'_>) -> ToBroadcaster {
        let kind = input.byte();
        let url = self.nonce.url(-1 - self.up_taken - i64::from(kind >> 7));
        let tracing = Bytes::new();
        match kind % 7 {
            0 => {
                let (enable_zstd, enable_training) = (input.flag(), input.flag());
                let initial_dict = input.byte().into();
                let authorization = self.sign(&Claim::Configure {
                    subscriber_nonce: &SUBSCRIBER_NONCE,
                    enable_zstd,
                    enable_training,
                    initial_dict,
                });
                ToBroadcaster::Configure(Configure {
                    subscriber_nonce: SUBSCRIBER_NONCE,
                    enable_zstd,
                    enable_training,
                    initial_dict,
                    authorization,
                    tracing,
                })
            }
            kind @ (1 | 2) => {
                let interest = input.interest();
                let message = InterestMessage {
                    authorization: self.sign(&Claim::Subscribe {
                        url: &url,
                        recovery: None,
                        interest: &interest,
                    }),
                    interest,
                    tracing,
                };
                match kind {
                    1 => ToBroadcaster::Subscribe(message),
                    _ => ToBroadcaster::Unsubscribe(message),
                }
            }
            3 => {
                let (identifier, topic) = (input.identifier(), input.topic());
                let (head, body) = input.body();
                ToBroadcaster::Notify(Notify {
                    authorization: self.sign(&Claim::Notify {
                        topic: &topic,
                        identifier: &identifier,
                        sha512: &head.compressed_sha512,
                    }),
                    identifier,
                    topic,
                    head,
                    tracing,
                    body,
                })
            }
            4 => {
                let (part, body) = self.forge_part(input);
                let (identifier, topic, sha512) = self.forged.clone();
                ToBroadcaster::NotifyStream(StreamPart {
                    authorization: self.sign(&Claim::Notify {
                        topic: &topic,
                        identifier: &identifier,
                        sha512: &sha512,
                    }),
                    identifier,
                    part,
                    tracing,
                    body,
                })
            }
            5 => {
                let (identifier, part_id) = (input.identifier(), input.byte().into());
                ToBroadcaster::ContinueReceive(Continue {
                    authorization: self.sign(&Claim::ContinueReceive {
                        identifier: &identifier,
                        part_id,
                        url: &url,
                    }),
                    identifier,
                    part_id,
                    tracing,
                })
            }
            _ => {
                let (identifier, subscribers) = (input.identifier(), input.byte().into());
                ToBroadcaster::ConfirmReceive(ConfirmReceive {
                    authorization: self.sign(&Claim::ConfirmReceive {
                        identifier: &identifier,
                        subscribers,
                        url: &url,
                    }),
                    identifier,
                    num_subscribers: subscribers,
                    tracing,
                })
            }
        }
    }

    fn forge_part(&mut self, input: &mut Input<'_>) -> (Part, Bytes) {
        let part = match NonZeroU64::new(input.byte().into()) {
            Some(id) => Part::Later(id),
            None => {
                let topic = input.topic();
                let head = BodyHead {
                    decompressed_length: u64::from(input.number()),
                    compressor: input.compressor(),
                    compressed_length: u64::from(input.byte()),
                    compressed_sha512: Sha512::of(b"forged"),
                };
                let head = match head.compressor {
                    0 => BodyHead {
                        decompressed_length: head.compressed_length,
                        ..head
                    },
                    _ => head,
                };
                self.forged = (input.identifier(), topic.clone(), head.compressed_sha512);
                Part::First { topic, head }
            }
        };
        (part, input.some())
    }

    /// What somebody with the secret might say, mostly with the counter that is due.
    fn forge_to_subscriber(&mut self, input: &mut Input<'_>) -> ToSubscriber {
        let kind = input.byte();
        let url = self.nonce.url(1 + self.down_taken + i64::from(kind >> 7));
        let tracing = Bytes::new();
        match kind % 10 {
            0 => ToSubscriber::ConfirmConfigure(ConfirmConfigure {
                broadcaster_nonce: BROADCASTER_NONCE,
                authorization: self.sign(&Claim::ConfirmConfigure {
                    broadcaster_nonce: &BROADCASTER_NONCE,
                }),
                tracing,
            }),
            kind @ (1 | 2) => {
                let interest = input.interest();
                let url = self.nonce.url(-1 - i64::from(input.byte()));
                let message = InterestMessage {
                    authorization: self.sign(&Claim::ConfirmSubscribe {
                        url: &url,
                        recovery: None,
                        interest: &interest,
                    }),
                    interest,
                    tracing,
                };
                match kind {
                    1 => ToSubscriber::ConfirmSubscribe(message),
                    _ => ToSubscriber::ConfirmUnsubscribe(message),
                }
            }
            3 => {
                let (identifier, topic) = (input.identifier(), input.topic());
                let (head, _) = input.body();
                let subscribers = input.byte().into();
                ToSubscriber::ConfirmNotify(ConfirmNotify {
                    authorization: self.sign(&Claim::ConfirmNotify {
                        identifier: &identifier,
                        subscribers,
                        topic: &topic,
                        sha512: &head.compressed_sha512,
                    }),
                    identifier,
                    subscribers: subscribers.into(),
                    tracing,
                })
            }
            4 => {
                let (identifier, part_id) = (input.identifier(), input.byte().into());
                ToSubscriber::ContinueNotify(Continue {
                    authorization: self.sign(&Claim::ContinueNotify {
                        identifier: &identifier,
                        part_id,
                    }),
                    identifier,
                    part_id: part_id.into(),
                    tracing,
                })
            }
            5 => {
                let (part, body) = self.forge_part(input);
                let (identifier, topic, sha512) = self.forged.clone();
                ToSubscriber::ReceiveStream(StreamPart {
                    authorization: self.sign(&Claim::Receive {
                        url: &url,
                        topic: &topic,
                        identifier: &identifier,
                        sha512: &sha512,
                    }),
                    identifier,
                    part,
                    tracing,
                    body,
                })
            }
            kind @ (6 | 7) => {
                let id = input.compressor();
                let compression_level = input.number().cast_signed();
                let sizes = input.sizes();
                let dictionary = input.some();
                let sha512 = Sha512::of(&dictionary);
                let compressor = u32::try_from(id).unwrap_or(0);
                let level = u32::try_from(compression_level).unwrap_or(0);
                let (min_size, max_size) = (sizes.min.into(), sizes.max);
                if kind == 6 {
                    ToSubscriber::EnablePreset(EnablePreset {
                        compressor: id,
                        compression_level,
                        min_size: sizes.min,
                        max_size,
                        authorization: self.sign(&Claim::EnablePreset {
                            url: &url,
                            compressor,
                            level,
                            min_size,
                            max_size,
                        }),
                        tracing,
                    })
                } else {
                    ToSubscriber::EnableCustom(EnableCustom {
                        compressor: id,
                        compression_level,
                        min_size: sizes.min,
                        max_size,
                        authorization: self.sign(&Claim::EnableCustom {
                            url: &url,
                            compressor,
                            level,
                            min_size,
                            max_size,
                            sha512: &sha512,
                        }),
                        tracing,
                        sha512,
                        dictionary,
                    })
                }
            }
            8 => {
                let compressor = u32::try_from(input.compressor()).unwrap_or(u32::MAX);
                ToSubscriber::DisableCustom(DisableCustom {
                    compressor: compressor.into(),
                    authorization: self.sign(&Claim::DisableCustom {
                        compressor,
                        url: &url,
                    }),
                    tracing,
                })
            }
            _ => {
                let topic = input.topic();
                ToSubscriber::Missed(MissedMessage {
                    authorization: self.sign(&Claim::Missed {
                        recovery: &url,
                        topic: &topic,
                    }),
                    topic,
                    tracing,
                })
            }
        }
    }
}

/// Something happens to the next message on its way.
fn change(way: &mut VecDeque<Bytes>, input: &mut Input<'_>) {
    let (what, place) = (input.byte(), usize::from(input.number()));
    let Some(next) = way.pop_front() else {
        return;
    };
    match what % 4 {
        // It is lost.
        0 => {}
        1 => {
            way.push_front(next.clone());
            way.push_front(next);
        }
        2 => {
            let mut bytes = next.to_vec();
            let place = place % (bytes.len() * 8);
            bytes[place / 8] ^= 1 << (place % 8);
            way.push_front(bytes.into());
        }
        // It comes last.
        _ => way.push_back(next),
    }
}

/// The parts of a message are as long as announced.
fn check_placed(left: &mut Option<u64>, begins: Option<BodyHead>, bytes: usize, ends: bool) {
    let before = match (begins, left.take()) {
        (Some(head), None) => head.compressed_length,
        (None, Some(left)) => left,
        (begins, left) => panic!("{begins:?} while {left:?} bytes are left"),
    };
    let after = before
        .checked_sub(bytes as u64)
        .expect("no more than announced");
    assert_eq!(ends, after == 0);
    *left = (!ends).then_some(after);
}

fn take<T>(tickets: &mut Vec<T>, input: &mut Input<'_>) -> Option<T> {
    let which = usize::from(input.byte());
    match tickets.len() {
        0 => None,
        count => Some(tickets.remove(which % count)),
    }
}

fn join(message: &Outgoing<Bytes>) -> Bytes {
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

fn ended() -> SessionError {
    SessionError::Ended {
        code: 1000,
        reason: "the input says so".to_owned(),
    }
}
