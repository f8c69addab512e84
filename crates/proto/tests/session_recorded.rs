//! `stateful/session_*.json`: whole conversations of the published packages, replayed at either end
//! and compared byte for byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod recorded;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use httppubsub_proto::auth::{
    AuthError, Authorization, CannotAuthorize, Claim, Scheme, Stamp, Unspent,
};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{
    BroadcasterConfig, BroadcasterEvent, BroadcasterSession, Compressor, CompressorSizes, Delivery,
    InterestTicket, Nonces, Notification, NotifyTicket, OutgoingBody, Output, ReceiveTicket,
    StreamCounters, SubscriberConfig, SubscriberEvent, SubscriberSession,
};
use httppubsub_proto::stateful::{
    BodyHead, HeaderStyle, Part, StreamPart, ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::time::Now;
use recorded::stateful::joined;
use recorded::{Fields as _, unhex, vectors};
use serde_json::Value;

/// Signs with what was recorded, after it was checked that this vouches for the claim.
#[derive(Debug)]
struct Recorded {
    scheme: Arc<dyn Authorization>,
    values: Mutex<VecDeque<Option<String>>>,
    now: Now,
}

impl Authorization for Recorded {
    fn authorize(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        _: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        let value = self.values.lock().unwrap().pop_front();
        let value = value.expect("more was signed than was recorded");
        let bytes = value.as_ref().map(String::as_bytes);
        let verified = self.scheme.verify(claim, tracing, bytes, self.now);
        let _ = verified.unwrap_or_else(|error| panic!("{claim:?}: {error}"));
        Ok(value)
    }

    fn verify(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        value: Option<&[u8]>,
        now: Now,
    ) -> Result<Unspent, AuthError> {
        self.scheme.verify(claim, tracing, value, now)
    }
}

struct Session {
    file: Value,
    now: Now,
}

/// A recorded message.
struct Said {
    by_subscriber: bool,
    bytes: Bytes,
}

impl Session {
    fn new(name: &str) -> Self {
        let file = vectors(&format!("stateful/session_{name}.json"));
        let now = file["auth"]["now"].as_u64().unwrap_or(1_738_108_800);
        Self {
            now: Now::from_unix(Duration::from_secs(now)),
            file,
        }
    }

    fn scheme(&self, direction: &str) -> Arc<dyn Authorization> {
        let auth = &self.file["auth"];
        let secret = || auth.text(direction);
        let scheme = match auth.text("kind") {
            "none" => Scheme::None,
            "token" => Scheme::Token(secret().to_owned()),
            "hmac" => {
                let secret = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(secret());
                Scheme::Hmac(secret.unwrap().try_into().unwrap())
            }
            other => panic!("unknown scheme {other:?}"),
        };
        scheme.authorization()
    }

    /// The scheme of one direction, with what its sender signed.
    fn recorded(&self, direction: &str, dir: &str) -> Arc<dyn Authorization> {
        let messages = self.file.list("messages").iter();
        let values = messages.filter(|it| it["dir"] == dir).map(|it| {
            let value = it["fields"].maybe_text("authorization");
            value.map(str::to_owned)
        });
        Arc::new(Recorded {
            scheme: self.scheme(direction),
            values: Mutex::new(values.collect()),
            now: self.now,
        })
    }

    fn said(&self) -> Vec<Said> {
        let messages = self.file.list("messages").iter();
        let said = messages
            .filter(|it| it.get("dir").is_some())
            .map(|it| Said {
                by_subscriber: it["dir"] == "s2b",
                bytes: unhex(&joined(&it["hex"])).into(),
            });
        let said: Vec<_> = said.collect();
        assert!(said.len() > 10);
        said
    }

    fn setting(&self, config: &str, name: &str) -> u64 {
        self.file[config][name].as_u64().unwrap()
    }

    fn style(&self, config: &str) -> HeaderStyle {
        match self.file[config].flag("websocket_minimal_headers") {
            true => HeaderStyle::Minimal,
            false => HeaderStyle::Expanded,
        }
    }

    fn broadcaster(&self) -> BroadcasterSession<Bytes> {
        let unacknowledged =
            self.setting("broadcaster_config", "websocket_send_max_unacknowledged");
        let config = BroadcasterConfig {
            headers: self.style("broadcaster_config"),
            stream_counters: StreamCounters::EachPart,
            message_bytes_max: self.setting("broadcaster_config", "outgoing_max_ws_message_size"),
            unacknowledged_max: NonZeroUsize::new(usize::try_from(unacknowledged).unwrap()),
            ..BroadcasterConfig::new(
                self.scheme("to_broadcaster"),
                self.recorded("to_subscriber", "b2s"),
            )
        };
        BroadcasterSession::new(Arc::new(config), Nonces::new([0; 12]), self.now)
    }

    fn subscriber(&self) -> SubscriberSession<Bytes> {
        let config = &self.file["subscriber_config"];
        let dict = config["initial_compression_dict_id"].as_u64().unwrap_or(0);
        let dict = u16::try_from(dict).unwrap();
        let nonce = match ToBroadcaster::decode(&self.said()[0].bytes).unwrap() {
            ToBroadcaster::Configure(it) => it.subscriber_nonce,
            other => panic!("{} is not the first", other.name()),
        };
        let config = SubscriberConfig {
            headers: self.style("subscriber_config"),
            message_bytes_max: self.setting("subscriber_config", "max_websocket_message_size"),
            enable_zstd: config.flag("allow_compression"),
            enable_training: config.flag("allow_training_compression"),
            initial_dict: dict,
            presets: vec![dict],
            ..SubscriberConfig::new(
                self.recorded("to_broadcaster", "s2b"),
                self.scheme("to_subscriber"),
            )
        };
        SubscriberSession::new(Arc::new(config), nonce, Nonces::new([0; 12]), self.now)
    }
}

fn bytes_of(outgoing: httppubsub_proto::session::Outgoing<Bytes>) -> Vec<u8> {
    let mut bytes = outgoing.head.to_vec();
    match outgoing.body {
        OutgoingBody::Empty => {}
        OutgoingBody::Bytes(body) => bytes.extend_from_slice(&body),
        OutgoingBody::Part { of, range } => {
            let at = |offset: u64| usize::try_from(offset).unwrap();
            bytes.extend_from_slice(&of[at(range.start)..at(range.end)]);
        }
    }
    bytes
}

/// The whole wire form of the message whose part 0 stands at `at`.
fn whole_body(said: &[Said], at: usize, by_subscriber: bool) -> Bytes {
    let mut body = Vec::new();
    let parts = said[at..]
        .iter()
        .filter(|it| it.by_subscriber == by_subscriber);
    let parts = parts.filter_map(|it| match by_subscriber {
        true => match ToBroadcaster::decode(&it.bytes).unwrap() {
            ToBroadcaster::NotifyStream(part) => Some(part),
            _ => None,
        },
        false => match ToSubscriber::decode(&it.bytes).unwrap() {
            ToSubscriber::ReceiveStream(part) => Some(part),
            _ => None,
        },
    });
    for (number, part) in parts.enumerate() {
        if number > 0 && part.part.id() == 0 {
            break;
        }
        body.extend_from_slice(&part.body);
    }
    body.into()
}

/// The broadcaster's end, and what it still has to answer.
struct AtBroadcaster {
    machine: BroadcasterSession<Bytes>,
    now: Now,
    interests: VecDeque<InterestTicket>,
    notifications: VecDeque<(NotifyTicket, Option<Sha512>)>,
    sent: VecDeque<Vec<u8>>,
    delivered: usize,
}

impl AtBroadcaster {
    fn drain(&mut self) {
        loop {
            while let Some(event) = self.machine.poll_event() {
                self.on(event);
            }
            match self.machine.poll_output() {
                Output::Send(message) => self.sent.push_back(bytes_of(message)),
                Output::Close(reason) => panic!("{reason}"),
                Output::Timeout(_) => return,
            }
        }
    }

    fn on(&mut self, event: BroadcasterEvent) {
        match event {
            BroadcasterEvent::Configure { .. } => {}
            BroadcasterEvent::Interest(it) => self.interests.push_back(it),
            BroadcasterEvent::Delivered(_) => self.delivered += 1,
            BroadcasterEvent::Notify(part) => {
                let plain = match (&part.begins, part.streamed) {
                    (Some((_, head)), false) if head.compressor == 0 => {
                        Some(head.compressed_sha512)
                    }
                    _ => None,
                };
                if let Some(ticket) = part.ends {
                    self.notifications.push_back((ticket, plain));
                }
            }
        }
    }

    /// Makes the machine say what was recorded, if it has not said it by itself.
    fn say(&mut self, said: &[Said], at: usize) {
        self.drain();
        if !self.sent.is_empty() {
            return;
        }
        let now = self.now;
        match ToSubscriber::decode(&said[at].bytes).unwrap() {
            ToSubscriber::ConfirmConfigure(it) => self.machine.accept(it.broadcaster_nonce, now),
            ToSubscriber::ConfirmSubscribe(_) | ToSubscriber::ConfirmUnsubscribe(_) => {
                let ticket = self.interests.pop_front().unwrap();
                self.machine.confirm_interest(ticket, now);
            }
            ToSubscriber::ConfirmNotify(it) => {
                let (ticket, plain) = self.notifications.pop_front().unwrap();
                // Of a compressed one only whoever decompressed it knows the digest: the one that
                // verifies was recorded.
                let plain = plain.unwrap_or_else(|| recorded_plain(said, at));
                let subscribers = u32::try_from(it.subscribers).unwrap();
                self.machine
                    .confirm_notify(ticket, &plain, subscribers, now);
            }
            ToSubscriber::ReceiveStream(StreamPart {
                identifier,
                part: Part::First { topic, head },
                ..
            }) => {
                let body = whole_body(said, at, false);
                assert_eq!(body.len() as u64, head.compressed_length);
                let delivery = Delivery {
                    identifier,
                    topic,
                    head,
                    body,
                };
                self.machine.deliver(delivery, now);
            }
            ToSubscriber::EnablePreset(it) => self.machine.enable(
                Compressor {
                    id: u32::try_from(it.compressor).unwrap(),
                    level: u16::try_from(it.compression_level).unwrap(),
                    sizes: CompressorSizes {
                        min: it.min_size,
                        max: it.max_size,
                    },
                    dictionary: None,
                },
                now,
            ),
            ToSubscriber::EnableCustom(it) => self.machine.enable(
                Compressor {
                    id: u32::try_from(it.compressor).unwrap(),
                    level: u16::try_from(it.compression_level).unwrap(),
                    sizes: CompressorSizes {
                        min: it.min_size,
                        max: it.max_size,
                    },
                    dictionary: Some((it.sha512, it.dictionary)),
                },
                now,
            ),
            ToSubscriber::DisableCustom(it) => {
                let compressor = u32::try_from(it.compressor).unwrap();
                self.machine.disable(compressor, now);
            }
            ToSubscriber::Missed(it) => self.machine.missed(&it.topic, now),
            other @ (ToSubscriber::ContinueNotify(_) | ToSubscriber::ReceiveStream(_)) => {
                panic!("{} comes by itself", other.name())
            }
        }
        self.drain();
    }
}

thread_local! {
    /// What was signed in each CONFIRM_NOTIFY, by its place in the session.
    static SIGNED: RefCell<Vec<Option<Sha512>>> = const { RefCell::new(Vec::new()) };
}

fn recorded_plain(_: &[Said], at: usize) -> Sha512 {
    SIGNED
        .with_borrow(|signed| signed[at])
        .unwrap_or(Sha512::of(b""))
}

fn replay_at_the_broadcaster(name: &str) {
    let session = Session::new(name);
    let signed = session.file.list("messages").iter().map(|it| {
        let sha512 = it["auth"]["signed"].get("message_sha512")?.as_str()?;
        Some(Sha512::from_bytes(unhex(sha512).try_into().unwrap()))
    });
    SIGNED.set(signed.collect());
    let said = session.said();
    let mut end = AtBroadcaster {
        machine: session.broadcaster(),
        now: session.now,
        interests: VecDeque::new(),
        notifications: VecDeque::new(),
        sent: VecDeque::new(),
        delivered: 0,
    };
    for (at, message) in said.iter().enumerate() {
        if message.by_subscriber {
            end.machine.handle_message(&message.bytes, session.now);
            end.drain();
        } else {
            end.say(&said, at);
            let sent = end.sent.pop_front();
            let sent = sent.unwrap_or_else(|| panic!("{name} {at}: nothing was said"));
            assert!(sent == message.bytes, "{name} {at}");
        }
    }
    assert!(end.sent.is_empty() && end.interests.is_empty() && end.notifications.is_empty());
    assert!(end.delivered > 0, "{name}");
}

/// The subscriber's end, and what it still has to acknowledge.
struct AtSubscriber {
    machine: SubscriberSession<Bytes>,
    now: Now,
    tickets: VecDeque<ReceiveTicket>,
    sent: VecDeque<Vec<u8>>,
    received: usize,
    missed: usize,
}

impl AtSubscriber {
    fn drain(&mut self) {
        loop {
            while let Some(event) = self.machine.poll_event() {
                match event {
                    SubscriberEvent::Receive(part) => self.tickets.extend(part.ends),
                    SubscriberEvent::Missed(_) => self.missed += 1,
                    _ => {}
                }
            }
            match self.machine.poll_output() {
                Output::Send(message) => self.sent.push_back(bytes_of(message)),
                Output::Close(reason) => panic!("{reason}"),
                Output::Timeout(_) => return,
            }
        }
    }

    fn say(&mut self, said: &[Said], at: usize) {
        self.drain();
        if !self.sent.is_empty() {
            return;
        }
        let now = self.now;
        match ToBroadcaster::decode(&said[at].bytes).unwrap() {
            ToBroadcaster::Subscribe(it) => self.machine.subscribe(&it.interest, now),
            ToBroadcaster::Unsubscribe(it) => self.machine.unsubscribe(&it.interest, now),
            ToBroadcaster::Notify(it) => {
                let plain_sha512 = it.head.compressed_sha512;
                self.notify(it.identifier, it.topic, it.head, plain_sha512, it.body, at);
            }
            ToBroadcaster::NotifyStream(StreamPart {
                identifier,
                part: Part::First { topic, head },
                ..
            }) => {
                let body = whole_body(said, at, true);
                let plain_sha512 = head.compressed_sha512;
                self.notify(identifier, topic, head, plain_sha512, body, at);
            }
            ToBroadcaster::ConfirmReceive(it) => {
                let ticket = self.tickets.pop_front().unwrap();
                assert_eq!(ticket.identifier, it.identifier);
                self.machine.confirm_receive(ticket, now);
                self.received += 1;
            }
            other @ (ToBroadcaster::Configure(_)
            | ToBroadcaster::ContinueReceive(_)
            | ToBroadcaster::NotifyStream(_)) => panic!("{} comes by itself", other.name()),
        }
        self.drain();
    }

    fn notify(
        &mut self,
        identifier: httppubsub_proto::topic::Identifier,
        topic: httppubsub_proto::topic::Topic,
        head: BodyHead,
        plain_sha512: Sha512,
        body: Bytes,
        at: usize,
    ) {
        // The answer to a compressed NOTIFY is signed over the plain digest, which was recorded.
        let plain_sha512 = match head.compressor {
            0 => plain_sha512,
            _ => PLAIN.with_borrow(|plain| {
                let found = plain
                    .iter()
                    .find(|(asked, id, _)| *asked <= at && *id == identifier);
                found.map_or(plain_sha512, |(_, _, sha512)| *sha512)
            }),
        };
        let notification = Notification {
            identifier,
            topic,
            head,
            plain_sha512,
            body,
        };
        self.machine.notify(notification, self.now);
    }
}

type Confirmed = (usize, httppubsub_proto::topic::Identifier, Sha512);

thread_local! {
    static PLAIN: RefCell<Vec<Confirmed>> = const { RefCell::new(Vec::new()) };
}

fn replay_at_the_subscriber(name: &str) {
    let session = Session::new(name);
    let confirmed = session.file.list("messages").iter().filter_map(|it| {
        let sha512 = it["auth"]["signed"].get("message_sha512")?.as_str()?;
        let identifier = it["fields"].maybe_text("identifier")?;
        (it["type_name"] == "CONFIRM_NOTIFY").then(|| {
            let identifier = httppubsub_proto::topic::Identifier::new(unhex(identifier)).unwrap();
            (
                0,
                identifier,
                Sha512::from_bytes(unhex(sha512).try_into().unwrap()),
            )
        })
    });
    PLAIN.set(confirmed.collect());
    let said = session.said();
    let mut end = AtSubscriber {
        machine: session.subscriber(),
        now: session.now,
        tickets: VecDeque::new(),
        sent: VecDeque::new(),
        received: 0,
        missed: 0,
    };
    let last = said.len() - 1;
    for (at, message) in said.iter().enumerate() {
        if !message.by_subscriber {
            end.machine.handle_message(&message.bytes, session.now);
            end.drain();
        } else {
            end.say(&said, at);
            let sent = end.sent.pop_front();
            let sent = sent.unwrap_or_else(|| panic!("{name} {at} of {last}: nothing was said"));
            assert!(sent == message.bytes, "{name} {at} of {last}");
        }
    }
    assert!(end.sent.is_empty(), "{name}");
    assert!(end.received > 0, "{name}");
    let missed = session.file.list("messages").iter();
    let missed = missed.filter(|it| it["type_name"] == "MISSED");
    assert_eq!(end.missed, missed.count(), "{name}");
}

/// All but the one that shows a defect.
const MODELS: [&str; 17] = [
    "none_basic",
    "none_expanded",
    "none_preset1",
    "none_preset2",
    "none_streams",
    "none_trained",
    "token_basic",
    "token_preset1",
    "token_preset2",
    "token_streams",
    "token_trained",
    "hmac_basic",
    "hmac_expanded",
    "hmac_preset1",
    "hmac_preset2",
    "hmac_streams",
    "hmac_trained",
];

#[test]
fn the_broadcasters_end_says_what_was_recorded() {
    for name in MODELS {
        replay_at_the_broadcaster(name);
    }
}

#[test]
fn the_subscribers_end_says_what_was_recorded() {
    for name in MODELS {
        replay_at_the_subscriber(name);
    }
}

/// The published subscriber counts the first part of a message only, the published broadcaster
/// every part (§16 D1). After a long message they part ways; ours follows the broadcaster, and its
/// broadcaster understands the subscriber.
#[test]
fn ours_go_on_where_the_published_ones_part_ways() {
    let name = "hmac_receive_counter_desync";
    replay_at_the_subscriber(name);
    replay_at_the_broadcaster(name);
}
