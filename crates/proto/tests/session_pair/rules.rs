//! What an end does not put up with (`docs/protocol/stateful.md` §6 to §11), said by a peer whose
//! authorization is right.

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{SessionError, StreamCounters};
use httppubsub_proto::stateful::{
    BodyHead, Configure, ConfirmConfigure, ConfirmNotify, ConfirmReceive, Continue, DisableCustom,
    EnableCustom, EnablePreset, HeaderStyle, InterestMessage, MissedMessage, Notify, Part,
    StreamPart, ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};

use crate::pair::{Auth, End, Message, Pair, Settings};

#[test]
fn a_subscriber_says_configure_first_and_once() {
    let all = [
        configure(),
        subscribe("a"),
        unsubscribe("a"),
        notify(0, b"hello"),
        first_part(1, 0, 5, b"hello"),
        continue_receive(1, 0),
        confirm_receive(1),
    ];
    for message in all {
        let name = message.name();
        if !matches!(message, ToBroadcaster::Configure(_)) {
            let mut pair = Pair::new(&settings());
            refused_by_broadcaster(
                &mut pair,
                &message,
                &format!("{name} came before CONFIGURE"),
            );
        }
        let mut pair = Pair::new(&settings());
        pair.wait(Duration::from_secs(1));
        let want = format!("{name} came before CONFIGURE was confirmed");
        refused_by_broadcaster(&mut pair, &message, &want);
    }
    let mut pair = Pair::open(&settings());
    refused_by_broadcaster(&mut pair, &configure(), "CONFIGURE came a second time");
}

#[test]
fn a_broadcaster_says_confirm_configure_first_and_once() {
    let all = [
        confirm_subscribe("a"),
        confirm_unsubscribe("a"),
        confirm_notify(1),
        continue_notify(1, 0),
        receive_first(1, 0, 5, b"hello"),
        enable_preset(1),
        enable_custom(65_536),
        disable_custom(65_536),
        missed(),
    ];
    for message in all {
        let mut pair = Pair::new(&settings());
        let want = format!("{} came before CONFIRM_CONFIGURE", message.name());
        refused_by_subscriber(&mut pair, &message, &want);
    }
    let mut pair = Pair::open(&settings());
    let message = ToSubscriber::ConfirmConfigure(ConfirmConfigure {
        broadcaster_nonce: [9; 32],
        authorization: None,
        tracing: Bytes::new(),
    });
    refused_by_subscriber(&mut pair, &message, "CONFIRM_CONFIGURE came a second time");
}

#[test]
fn an_end_that_hears_nothing_gives_up() {
    // Whether nothing arrives at either end, or the driver never accepts.
    for carries in [0, 1] {
        let mut pair = Pair::new(&settings());
        pair.carries = Some(carries);
        pair.wait(Duration::from_millis(99_999));
        assert!(pair.broadcaster.closed.is_none() && pair.subscriber.closed.is_none());
        pair.wait(Duration::from_millis(1));
        let awaited = |name| Some(SessionError::TooLate { awaited: name });
        assert_eq!(pair.broadcaster.closed, awaited("CONFIGURE"));
        assert_eq!(pair.subscriber.closed, awaited("CONFIRM_CONFIGURE"));
        // It is too late to accept now.
        pair.answer(0);
        assert_eq!(pair.broadcaster.sent, [""; 0]);
    }
    let mut pair = Pair::open(&settings());
    pair.wait(Duration::from_secs(1_000_000));
    assert!(pair.broadcaster.closed.is_none() && pair.subscriber.closed.is_none());
}

#[test]
fn a_broadcaster_refuses_what_changes_nothing() {
    let want = "SUBSCRIBE_EXACT: it is subscribed already";
    refused_by_broadcaster(&mut subscribed(), &subscribe("a"), want);
    let want = "UNSUBSCRIBE_EXACT: it is not subscribed";
    refused_by_broadcaster(&mut subscribed(), &unsubscribe("b"), want);
}

#[test]
fn a_broadcaster_refuses_notifications_that_do_not_fit_together() {
    let open = || Pair::open(&settings());
    let under_way = || {
        let mut pair = open();
        let first = first_part(1, 0, 10, b"hello");
        pair.forge(End::Broadcaster, first.encode(HeaderStyle::Minimal));
        assert_eq!(pair.broadcaster.closed, None);
        pair
    };
    let want = "NOTIFY: its compressor is not enabled";
    refused_by_broadcaster(&mut open(), &notify(1, b"hello"), want);
    refused_by_broadcaster(
        &mut open(),
        &first_part(1, 65_536, 5, b"hello"),
        "NOTIFY_STREAM: its compressor is not enabled",
    );
    refused_by_broadcaster(
        &mut open(),
        &first_part(1, 1, 0, b""),
        "NOTIFY_STREAM: nothing cannot be decompressed",
    );
    refused_by_broadcaster(
        &mut open(),
        &first_part(1, 0, 4, b"hello"),
        "NOTIFY_STREAM: the parts are longer than announced",
    );
    refused_by_broadcaster(
        &mut open(),
        &later_part(1, 1, b"hello"),
        "NOTIFY_STREAM: none is under way",
    );
    refused_by_broadcaster(
        &mut under_way(),
        &first_part(2, 0, 5, b"hello"),
        "NOTIFY_STREAM: another one is under way",
    );
    refused_by_broadcaster(
        &mut under_way(),
        &later_part(2, 1, b"hello"),
        "NOTIFY_STREAM: the part is of another message than the one under way",
    );
    refused_by_broadcaster(
        &mut under_way(),
        &later_part(1, 2, b"hello"),
        "NOTIFY_STREAM: the part is not the next one",
    );
    refused_by_broadcaster(
        &mut under_way(),
        &later_part(1, 1, b"hello!"),
        "NOTIFY_STREAM: the parts are longer than announced",
    );
    // A small one may come in between, and an empty part.
    let mut pair = under_way();
    for message in [
        notify(0, b"hi"),
        later_part(1, 1, b""),
        later_part(1, 2, b"again"),
    ] {
        pair.forge(End::Broadcaster, message.encode(HeaderStyle::Expanded));
    }
    assert_eq!(
        pair.broadcaster.closed.map(|it| it.to_string()).as_deref(),
        Some(WRONG_DIGEST)
    );
    assert_eq!(pair.broadcaster.notified.len(), 1);
}

/// What the driver here says of the bytes that these tests make up.
const WRONG_DIGEST: &str = "the message is not what was announced";

#[test]
fn a_broadcaster_refuses_acknowledgements_that_are_not_due() {
    let continue_due = "CONTINUE_RECEIVE: another acknowledgement was due";
    let confirm_due = "CONFIRM_RECEIVE: another acknowledgement was due";
    let mut pair = Pair::open(&settings());
    refused_by_broadcaster(&mut pair, &continue_receive(1, 0), continue_due);
    let mut pair = Pair::open(&settings());
    refused_by_broadcaster(&mut pair, &confirm_receive(1), confirm_due);
    // Two parts are on their way, of the message with the identifier 0.
    for (message, want) in [
        (continue_receive(2, 0), continue_due),
        (continue_receive(0, 1), continue_due),
        (confirm_receive(0), confirm_due),
    ] {
        refused_by_broadcaster(&mut delivering(), &message, want);
    }
    for (message, want) in [
        (continue_receive(0, 1), continue_due),
        (confirm_receive(2), confirm_due),
    ] {
        let mut pair = delivering();
        pair.forge(
            End::Broadcaster,
            continue_receive(0, 0).encode(HeaderStyle::Minimal),
        );
        assert_eq!(pair.broadcaster.closed, None);
        refused_by_broadcaster(&mut pair, &message, want);
    }
}

#[test]
fn a_subscriber_refuses_answers_that_are_not_due() {
    let due = |name: &str| format!("{name}: another acknowledgement was due");
    // Nothing was asked for.
    for message in [
        confirm_subscribe("a"),
        confirm_unsubscribe("a"),
        confirm_notify(0),
        continue_notify(0, 0),
    ] {
        let mut pair = Pair::open(&settings());
        refused_by_subscriber(&mut pair, &message, &due(message.name()));
    }
    // `a` is to be subscribed.
    for message in [
        confirm_subscribe("b"),
        confirm_unsubscribe("a"),
        confirm_notify(0),
        continue_notify(0, 0),
    ] {
        let mut pair = Pair::open(&settings());
        pair.subscribe(&interest("a"));
        refused_by_subscriber(&mut pair, &message, &due(message.name()));
    }
    // Two parts of the notification with the identifier 0 were sent.
    for message in [
        continue_notify(0, 1),
        continue_notify(2, 0),
        confirm_notify(0),
        confirm_subscribe("a"),
    ] {
        let mut pair = Pair::open(&settings());
        pair.notify(&Message::new("a", 0, 600));
        assert_eq!(pair.subscriber.sent[1..], ["NOTIFY_STREAM"; 2]);
        refused_by_subscriber(&mut pair, &message, &due(message.name()));
    }
    let mut pair = Pair::open(&settings());
    pair.notify(&Message::new("a", 0, 10));
    refused_by_subscriber(&mut pair, &confirm_notify(2), &due("CONFIRM_NOTIFY"));
}

#[test]
fn a_subscriber_refuses_messages_that_do_not_fit_together() {
    let open = || Pair::open(&settings());
    let under_way = || {
        let mut pair = open();
        let first = receive_first(1, 0, 10, b"hello");
        pair.forge(End::Subscriber, first.encode(HeaderStyle::Minimal));
        assert_eq!(pair.subscriber.closed, None);
        pair
    };
    refused_by_subscriber(
        &mut open(),
        &receive_first(1, 1, 5, b"hello"),
        "RECEIVE_STREAM: its compressor is not enabled",
    );
    refused_by_subscriber(
        &mut open(),
        &receive_first(1, 0, 4, b"hello"),
        "RECEIVE_STREAM: the parts are longer than announced",
    );
    refused_by_subscriber(
        &mut open(),
        &receive_later(1, 1, b"hello"),
        "RECEIVE_STREAM: no message is under way",
    );
    refused_by_subscriber(
        &mut under_way(),
        &receive_first(2, 0, 5, b"hello"),
        "RECEIVE_STREAM: another message is under way",
    );
    refused_by_subscriber(
        &mut under_way(),
        &receive_later(2, 1, b"hello"),
        "RECEIVE_STREAM: the part is of another message than the one under way",
    );
    refused_by_subscriber(
        &mut under_way(),
        &receive_later(1, 2, b"hello"),
        "RECEIVE_STREAM: the part is not the next one",
    );
    refused_by_subscriber(
        &mut under_way(),
        &receive_later(1, 1, b"hello!"),
        "RECEIVE_STREAM: the parts are longer than announced",
    );
    // Published broadcasters may say something else in between.
    let mut pair = under_way();
    for message in [missed(), enable_preset(1), receive_later(1, 1, b"again")] {
        pair.forge(End::Subscriber, message.encode(HeaderStyle::Expanded));
    }
    assert_eq!(
        pair.subscriber.closed.map(|it| it.to_string()).as_deref(),
        Some(WRONG_DIGEST)
    );
    assert_eq!(pair.subscriber.missed.len(), 1);
}

#[test]
fn a_subscriber_refuses_compressors_it_cannot_use() {
    let enabled = || {
        let mut pair = Pair::open(&settings());
        for _ in 0..3 {
            pair.enable();
        }
        pair.settle();
        pair
    };
    let wrong_digest = match enable_custom(65_537) {
        ToSubscriber::EnableCustom(it) => ToSubscriber::EnableCustom(EnableCustom {
            dictionary: Bytes::from_static(b"another"),
            ..it
        }),
        other => other,
    };
    for (message, want) in [
        (
            enable_preset(1),
            "ENABLE_ZSTD_PRESET: it is enabled already",
        ),
        (
            enable_preset(3),
            "ENABLE_ZSTD_PRESET: the preset is unknown",
        ),
        (
            enable_preset(65_536),
            "ENABLE_ZSTD_PRESET: the preset is unknown",
        ),
        (
            enable_preset(1 << 32),
            "ENABLE_ZSTD_PRESET: its id cannot be signed",
        ),
        (
            enable_custom(65_536),
            "ENABLE_ZSTD_CUSTOM: it is enabled already",
        ),
        (
            enable_custom(2),
            "ENABLE_ZSTD_CUSTOM: its id is that of a preset",
        ),
        (
            wrong_digest,
            "ENABLE_ZSTD_CUSTOM: the dictionary has another digest",
        ),
        (
            disable_custom(1),
            "DISABLE_ZSTD_CUSTOM: no such dictionary is enabled",
        ),
        (
            disable_custom(65_537),
            "DISABLE_ZSTD_CUSTOM: no such dictionary is enabled",
        ),
    ] {
        refused_by_subscriber(&mut enabled(), &message, want);
    }
    // An announcement of nothing is nothing.
    let mut pair = enabled();
    pair.forge(
        End::Subscriber,
        enable_preset(0).encode(HeaderStyle::Minimal),
    );
    assert_eq!(pair.subscriber.closed, None);
}

#[test]
fn nothing_is_believed_that_is_not_signed() {
    let settings = Settings {
        auth: Auth::Hmac,
        ..Settings::default()
    };
    let unsigned = "is not authorized: the authorization is missing";
    let mut pair = Pair::new(&settings);
    let want = format!("CONFIRM_CONFIGURE {unsigned}");
    let message = ToSubscriber::ConfirmConfigure(ConfirmConfigure {
        broadcaster_nonce: [9; 32],
        authorization: None,
        tracing: Bytes::new(),
    });
    refused(
        &mut pair,
        End::Subscriber,
        message.encode(HeaderStyle::Minimal),
        &want,
        1008,
    );
    let mut pair = Pair::new(&settings);
    let want = format!("CONFIGURE {unsigned}");
    let message = configure().encode(HeaderStyle::Minimal);
    refused(&mut pair, End::Broadcaster, message, &want, 1008);

    for message in [
        subscribe("a"),
        notify(0, b"hello"),
        first_part(1, 0, 5, b"hello"),
        continue_receive(0, 0),
    ] {
        let mut pair = delivering_with(&settings);
        let want = format!("{} {unsigned}", message.name());
        let message = message.encode(HeaderStyle::Minimal);
        refused(&mut pair, End::Broadcaster, message, &want, 1008);
        assert!(pair.broadcaster.notified.is_empty() && pair.broadcaster.requested.is_empty());
    }
    let asked: [(_, fn(&mut Pair)); 9] = [
        (confirm_subscribe("a"), |pair| {
            pair.subscribe(&interest("a"))
        }),
        (confirm_notify(0), |pair| {
            pair.notify(&Message::new("a", 0, 10));
        }),
        (continue_notify(0, 0), |pair| {
            pair.notify(&Message::new("a", 0, 600));
        }),
        (receive_first(1, 0, 5, b"hello"), |_| {}),
        (receive_later(0, 3, b"hello"), |pair| {
            // Three of its four parts arrive.
            pair.deliver(&Message::new("a", 0, 2_000));
            pair.wait(Duration::from_millis(30));
        }),
        (enable_preset(1), |_| {}),
        (enable_custom(65_536), |_| {}),
        (disable_custom(65_536), |_| {}),
        (missed(), |_| {}),
    ];
    for (message, ask) in asked {
        for stream_counters in [StreamCounters::FirstPart, StreamCounters::EachPart] {
            let mut pair = Pair::open(&Settings {
                stream_counters,
                ..settings.clone()
            });
            ask(&mut pair);
            let want = format!("{} {unsigned}", message.name());
            let message = message.encode(HeaderStyle::Minimal);
            refused(&mut pair, End::Subscriber, message, &want, 1008);
        }
    }
}

fn settings() -> Settings {
    Settings {
        auth: Auth::None,
        message_bytes_max: [900; 2],
        ..Settings::default()
    }
}

fn subscribed() -> Pair {
    let mut pair = Pair::open(&settings());
    pair.subscribe(&interest("a"));
    pair.settle();
    assert_eq!(pair.subscriber.confirmed.len(), 1);
    pair
}

/// Two parts of a message with the identifier 0 are on their way to the subscriber.
fn delivering() -> Pair {
    delivering_with(&settings())
}

fn delivering_with(settings: &Settings) -> Pair {
    let mut pair = Pair::open(settings);
    pair.deliver(&Message::new("a", 0, 600));
    assert_eq!(pair.broadcaster.sent[1..], ["RECEIVE_STREAM"; 2]);
    pair
}

#[track_caller]
fn refused_by_broadcaster(pair: &mut Pair, message: &ToBroadcaster, want: &str) {
    let message = message.encode(HeaderStyle::Minimal);
    refused(pair, End::Broadcaster, message, want, 1002);
}

#[track_caller]
fn refused_by_subscriber(pair: &mut Pair, message: &ToSubscriber, want: &str) {
    let message = message.encode(HeaderStyle::Minimal);
    refused(pair, End::Subscriber, message, want, 1002);
}

#[track_caller]
fn refused(pair: &mut Pair, by: End, message: Vec<u8>, want: &str, code: u16) {
    pair.forge(by, message);
    let closed = match by {
        End::Broadcaster => &pair.broadcaster.closed,
        End::Subscriber => &pair.subscriber.closed,
    };
    let reason = closed.as_ref().expect("it is refused");
    assert_eq!(reason.to_string(), want);
    assert_eq!(reason.close_code(), code);
}

/// As the pair draws them, from 0.
fn identifier(drawn: u32) -> Identifier {
    Identifier::new((drawn + 1).to_be_bytes().to_vec()).expect("4 bytes")
}

fn topic(topic: &'static str) -> Topic {
    Topic::new(topic).expect("a short topic")
}

fn interest(topic: &'static str) -> Interest {
    Interest::Exact(self::topic(topic))
}

fn about(topic: &'static str) -> InterestMessage {
    InterestMessage {
        interest: interest(topic),
        authorization: None,
        tracing: Bytes::new(),
    }
}

fn configure() -> ToBroadcaster {
    ToBroadcaster::Configure(Configure {
        subscriber_nonce: [7; 32],
        enable_zstd: true,
        enable_training: true,
        initial_dict: 0,
        authorization: None,
        tracing: Bytes::new(),
    })
}

fn subscribe(topic: &'static str) -> ToBroadcaster {
    ToBroadcaster::Subscribe(about(topic))
}

fn unsubscribe(topic: &'static str) -> ToBroadcaster {
    ToBroadcaster::Unsubscribe(about(topic))
}

fn head(compressor: u64, bytes: u64) -> BodyHead {
    BodyHead {
        compressor,
        compressed_length: bytes,
        decompressed_length: bytes,
        compressed_sha512: Sha512::of(b"hello"),
    }
}

fn notify(compressor: u64, body: &'static [u8]) -> ToBroadcaster {
    ToBroadcaster::Notify(Notify {
        identifier: identifier(1),
        topic: topic("a"),
        head: BodyHead {
            compressed_sha512: Sha512::of(body),
            ..head(compressor, body.len() as u64)
        },
        authorization: None,
        tracing: Bytes::new(),
        body: Bytes::from_static(body),
    })
}

fn first(drawn: u32, compressor: u64, bytes: u64, body: &'static [u8]) -> StreamPart {
    StreamPart {
        identifier: identifier(drawn),
        part: Part::First {
            topic: topic("a"),
            head: head(compressor, bytes),
        },
        authorization: None,
        tracing: Bytes::new(),
        body: Bytes::from_static(body),
    }
}

fn later(drawn: u32, id: u64, body: &'static [u8]) -> StreamPart {
    StreamPart {
        part: Part::Later(NonZeroU64::new(id).expect("not the first")),
        ..first(drawn, 0, 0, body)
    }
}

fn first_part(drawn: u32, compressor: u64, bytes: u64, body: &'static [u8]) -> ToBroadcaster {
    ToBroadcaster::NotifyStream(first(drawn, compressor, bytes, body))
}

fn later_part(drawn: u32, id: u64, body: &'static [u8]) -> ToBroadcaster {
    ToBroadcaster::NotifyStream(later(drawn, id, body))
}

fn receive_first(drawn: u32, compressor: u64, bytes: u64, body: &'static [u8]) -> ToSubscriber {
    ToSubscriber::ReceiveStream(first(drawn, compressor, bytes, body))
}

fn receive_later(drawn: u32, id: u64, body: &'static [u8]) -> ToSubscriber {
    ToSubscriber::ReceiveStream(later(drawn, id, body))
}

fn part_arrived(drawn: u32, part_id: u64) -> Continue {
    Continue {
        identifier: identifier(drawn),
        part_id,
        authorization: None,
        tracing: Bytes::new(),
    }
}

fn continue_receive(drawn: u32, part_id: u64) -> ToBroadcaster {
    ToBroadcaster::ContinueReceive(part_arrived(drawn, part_id))
}

fn continue_notify(drawn: u32, part_id: u64) -> ToSubscriber {
    ToSubscriber::ContinueNotify(part_arrived(drawn, part_id))
}

fn confirm_receive(drawn: u32) -> ToBroadcaster {
    ToBroadcaster::ConfirmReceive(ConfirmReceive {
        identifier: identifier(drawn),
        num_subscribers: 1,
        authorization: None,
        tracing: Bytes::new(),
    })
}

fn confirm_notify(drawn: u32) -> ToSubscriber {
    ToSubscriber::ConfirmNotify(ConfirmNotify {
        identifier: identifier(drawn),
        subscribers: 1,
        authorization: None,
        tracing: Bytes::new(),
    })
}

fn confirm_subscribe(topic: &'static str) -> ToSubscriber {
    ToSubscriber::ConfirmSubscribe(about(topic))
}

fn confirm_unsubscribe(topic: &'static str) -> ToSubscriber {
    ToSubscriber::ConfirmUnsubscribe(about(topic))
}

fn enable_preset(compressor: u64) -> ToSubscriber {
    ToSubscriber::EnablePreset(EnablePreset {
        compressor,
        compression_level: 3,
        min_size: 32,
        max_size: u64::MAX,
        authorization: None,
        tracing: Bytes::new(),
    })
}

fn enable_custom(compressor: u64) -> ToSubscriber {
    let dictionary = Bytes::from(vec![compressor as u8; 100]);
    ToSubscriber::EnableCustom(EnableCustom {
        compressor,
        compression_level: 3,
        min_size: 32,
        max_size: 4_000,
        authorization: None,
        tracing: Bytes::new(),
        sha512: Sha512::of(&dictionary),
        dictionary,
    })
}

fn disable_custom(compressor: u64) -> ToSubscriber {
    ToSubscriber::DisableCustom(DisableCustom {
        compressor,
        authorization: None,
        tracing: Bytes::new(),
    })
}

fn missed() -> ToSubscriber {
    ToSubscriber::Missed(MissedMessage {
        topic: topic("a"),
        authorization: None,
        tracing: Bytes::new(),
    })
}
