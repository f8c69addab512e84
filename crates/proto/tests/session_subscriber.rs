//! What the subscriber's end of a websocket promises (`docs/protocol/stateful.md` §4 to §12), when
//! the other end signs right and is played by hand: which counter each signature covers, what is
//! sent in which shape, and what is refused for its signature or for the settings of this end.
//! (What is refused whatever is signed: `session_pair/rules.rs`.)

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use httppubsub_proto::auth::{
    AuthError, Authorization, CannotAuthorize, Claim, HmacAuthorization, NoAuthorization, Stamp,
    TokenAuthorization, Unspent,
};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::session::{
    CompressorSizes, Nonces, Notification, OutgoingBody, Output, ReceiveTicket, SessionError,
    StreamCounters, SubscriberConfig, SubscriberEvent, SubscriberSession,
};
use httppubsub_proto::stateful::{
    BodyHead, ConfirmConfigure, ConfirmNotify, ConnectionNonce, Continue, DisableCustom,
    EnableCustom, EnablePreset, HeaderStyle, InterestMessage, MissedMessage, Part, StreamPart,
    ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};

const BOTH: [StreamCounters; 2] = [StreamCounters::FirstPart, StreamCounters::EachPart];

const WRONG: &str = "is not authorized: the authorization is wrong: \
                     the signature does not fit the message";

// Connecting (§6).

#[test]
fn configure_is_said_first_and_says_what_is_configured() {
    for (enable_zstd, enable_training, initial_dict) in
        [(true, false, 0), (false, true, 2), (true, true, 65_535)]
    {
        let mut talk = Talk::new(|config| {
            config.enable_zstd = enable_zstd;
            config.enable_training = enable_training;
            config.initial_dict = initial_dict;
        });
        let ToBroadcaster::Configure(it) = talk.said() else {
            panic!("another message comes first");
        };
        assert_eq!(it.subscriber_nonce, SUBSCRIBER_NONCE);
        assert_eq!(
            (it.enable_zstd, it.enable_training, it.initial_dict),
            (enable_zstd, enable_training, initial_dict)
        );
        let claim = Claim::Configure {
            subscriber_nonce: &SUBSCRIBER_NONCE,
            enable_zstd,
            enable_training,
            initial_dict,
        };
        talk.vouched(&claim, &it.authorization);
        talk.says_nothing();
        assert!(!talk.session.is_open());
    }
}

#[test]
fn what_opens_a_session_is_to_be_spent() {
    let mut talk = Talk::new(|_| {});
    let _ = talk.said();
    let confirm = talk.confirm_configure();
    talk.hear(&confirm);
    let Some(SubscriberEvent::Open { unspent }) = talk.events.pop_front() else {
        panic!("it is not open: {:?}", talk.closed);
    };
    assert!(unspent.into_code().is_some());
    assert!(talk.session.is_open() && !talk.session.is_over());
}

#[test]
fn a_session_that_is_not_confirmed_in_time_ends_and_one_that_is_has_no_deadline() {
    let timeout = |config: &mut SubscriberConfig| config.configure_timeout = Duration::from_secs(7);
    let mut talk = Talk::new(timeout);
    let deadline = talk.now + Duration::from_secs(7);
    assert_eq!(talk.session.deadline(), Some(deadline));
    talk.session
        .handle_timeout(talk.now + Duration::from_millis(6_999));
    talk.poll();
    assert_eq!(talk.closed, None);
    talk.session.handle_timeout(deadline);
    talk.poll();
    talk.closed_for("the peer sent no CONFIRM_CONFIGURE in time", 1008);

    let mut talk = Talk::open(timeout);
    assert_eq!(talk.session.deadline(), None);
    talk.session.handle_timeout(deadline);
    talk.poll();
    assert_eq!(talk.closed, None);
}

#[test]
fn what_is_asked_of_a_session_that_is_not_open_comes_to_nothing() {
    let ask_everything = |talk: &mut Talk, ticket| {
        let interest = exact("a");
        talk.session.subscribe(&interest, talk.now);
        talk.session.unsubscribe(&interest, talk.now);
        talk.session.notify(plain(1, b"hello"), talk.now);
        talk.session.confirm_receive(ticket, talk.now);
        assert!(!talk.session.is_ready_to_notify());
        assert_eq!(talk.session.compressor_for(100), 0);
        assert_eq!(talk.session.unacknowledged(), 0);
        talk.poll();
        talk.says_nothing();
    };
    let ticket = || {
        let mut talk = Talk::open(|_| {});
        talk.receives(&Incoming::new(1, b"hello"), &[1])
    };
    let mut talk = Talk::new(|_| {});
    let _ = talk.said();
    ask_everything(&mut talk, ticket());
    // Nor does it wait until the session is open.
    let confirm = talk.confirm_configure();
    talk.hear(&confirm);
    assert!(talk.session.is_open());
    talk.says_nothing();

    let mut talk = Talk::open(|_| {});
    let enable = talk.enable_preset(1, ANY_SIZE, 1);
    talk.hear(&enable);
    talk.events.clear();
    talk.session.subscribe(&exact("a"), talk.now);
    talk.poll();
    assert_eq!(talk.session.unacknowledged(), 1);
    let _ = talk.said();
    let own = talk.receives(&Incoming::new(1, b"hello"), &[2]);
    talk.session.notify(plain(1, b"hello"), talk.now);
    talk.session.end(SessionError::Ended {
        code: 1000,
        reason: "enough".to_owned(),
    });
    ask_everything(&mut talk, own);
    talk.closed_for("enough", 1000);
    // Nor does it hear anything any more, or end for another reason.
    let missed = talk.missed("a", 3);
    talk.hear(&missed);
    talk.session.end(SessionError::TooLate { awaited: "more" });
    talk.session
        .handle_timeout(talk.now + Duration::from_secs(1_000));
    talk.poll();
    assert!(talk.events.is_empty());
    assert!(talk.session.is_over() && !talk.session.is_open());
    talk.closed_for("enough", 1000);
}

#[test]
fn what_cannot_be_read_ends_the_session_after_all_that_could_was_told() {
    let mut talk = Talk::open(|_| {});
    let missed = talk.missed("a", 1).encode(HeaderStyle::Expanded);
    talk.session.handle_message(&missed.into(), talk.now);
    talk.session.handle_message(&Bytes::new(), talk.now);
    let first = talk.session.poll_event();
    assert!(matches!(first, Some(SubscriberEvent::Missed(_))));
    assert_eq!(talk.session.poll_event(), None);
    let Output::Close(reason) = talk.session.poll_output() else {
        panic!("it goes on");
    };
    assert!(matches!(reason, SessionError::Decode(_)), "{reason}");
    assert_eq!(reason.close_code(), 1002);
    assert!(matches!(talk.session.poll_output(), Output::Timeout(None)));
}

#[test]
fn an_end_that_cannot_sign_ends_the_session() {
    let mut talk = Talk::new(|config| config.to_broadcaster = Arc::new(Speechless));
    talk.poll();
    talk.closed_for("cannot authorize: the pen is lost", 1011);
    talk.says_nothing();
}

// Requests and answers (§7).

#[test]
fn requests_are_signed_with_counters_in_the_order_in_which_they_leave() {
    let mut talk = Talk::open(|_| {});
    let ticket = talk.receives(&Incoming::new(1, b"hello"), &[1]);
    // The acknowledgement is wanted last and leaves first.
    talk.session.subscribe(&exact("a"), talk.now);
    talk.session.unsubscribe(&glob("b*"), talk.now);
    talk.session.confirm_receive(ticket, talk.now);
    talk.poll();
    talk.says_confirm_receive(1, -1);
    talk.says_interest(true, &exact("a"), -2);
    talk.says_interest(false, &glob("b*"), -3);
    talk.says_nothing();
}

#[test]
fn each_answer_is_verified_over_the_url_of_the_request_it_answers() {
    let requests = [
        (exact("a"), true),
        (glob("a*"), true),
        (exact("a"), false),
        (glob("a*"), false),
    ];
    // Answered in order, the counters of the requests are -1 to -4.
    for wrong in [None, Some(0), Some(1), Some(2), Some(3)] {
        let mut talk = Talk::open(|_| {});
        for (interest, subscribe) in &requests {
            match subscribe {
                true => talk.session.subscribe(interest, talk.now),
                false => talk.session.unsubscribe(interest, talk.now),
            }
        }
        talk.poll();
        assert_eq!(talk.session.unacknowledged(), 4);
        for (at, (interest, subscribe)) in requests.iter().enumerate() {
            let right = -1 - i64::try_from(at).unwrap();
            let counter = if wrong == Some(at) { right - 1 } else { right };
            let answer = talk.confirmed(*subscribe, interest, counter);
            talk.hear(&answer);
            if wrong == Some(at) {
                talk.closed_for(&format!("{} {WRONG}", answer.name()), 1008);
                assert!(talk.events.is_empty());
                break;
            }
            let want = match subscribe {
                true => SubscriberEvent::Subscribed(interest.clone()),
                false => SubscriberEvent::Unsubscribed(interest.clone()),
            };
            assert_eq!(talk.events.pop_front(), Some(want));
            assert_eq!(talk.session.unacknowledged(), 3 - at);
        }
    }
}

// Notifications (§8).

#[test]
fn which_message_a_notification_becomes_is_decided_to_the_byte() {
    let body = [7; 2_000];
    // All that a NOTIFY has besides its body.
    let mut talk = Talk::open(|_| {});
    let (frame, _) = talk.notify(plain(1, &body));
    let head = frame.len() - body.len();
    assert!(head > 128, "the second rule decides for those with HMAC");
    let whole = u64::try_from(frame.len()).unwrap();
    for (max, name) in [(whole, "NOTIFY_STREAM"), (whole + 1, "NOTIFY")] {
        let mut talk = Talk::open(|config| config.message_bytes_max = max);
        assert_eq!(talk.notify(plain(1, &body)).1.name(), name, "{max}");
    }
    // Without an authorization it has 128 bytes or less with these lengths, and the first decides.
    let unsigned = |max| {
        move |config: &mut SubscriberConfig| {
            config.to_broadcaster = Arc::new(NoAuthorization);
            config.message_bytes_max = max;
        }
    };
    let (frame, _) = Talk::open(unsigned(u64::MAX)).notify(plain(1, &body));
    assert!(frame.len() - body.len() <= 128);
    for (max, name) in [(2_128, "NOTIFY_STREAM"), (2_129, "NOTIFY")] {
        let mut talk = Talk::open(unsigned(max));
        assert_eq!(talk.notify(plain(1, &body)).1.name(), name, "{max}");
    }
    // The plain length counts, however little is left of it.
    let small = compressed(1, 1, b"little", 2_000, b"");
    for (max, name) in [(2_128, "NOTIFY_STREAM"), (2_129, "NOTIFY")] {
        let mut talk = Talk::open(unsigned(max));
        let (_, message) = talk.notify(small.clone());
        assert_eq!(message.name(), name, "{max}");
        // It is sent at once either way.
        talk.says_nothing();
    }
}

#[test]
fn a_notification_in_one_message_is_signed_over_what_is_on_the_wire() {
    let mut talk = Talk::open(|_| {});
    for (number, body) in [(1, &b"hello"[..]), (2, b"")] {
        let (_, message) = talk.notify(plain(number, body));
        let ToBroadcaster::Notify(it) = message else {
            panic!("it is in parts");
        };
        assert_eq!(it.body, body);
        talk.vouched_notify(number, &Sha512::of(body), &it.authorization);
    }
    let (_, message) = talk.notify(compressed(3, 1, b"wire", 100, b"plain"));
    let ToBroadcaster::Notify(it) = message else {
        panic!("it is in parts");
    };
    assert_eq!((it.head.compressor, it.head.compressed_length), (1, 4));
    assert_eq!(it.head.decompressed_length, 100);
    talk.vouched_notify(3, &Sha512::of(b"wire"), &it.authorization);
}

#[test]
fn a_long_notification_leaves_whole_each_part_signed_over_its_first_head() {
    let body: Vec<u8> = (0..3_000).map(|at| at as u8).collect();
    for (wire, notification) in [
        (&body, plain(1, &body)),
        (&body, compressed(1, 65_536, &body, 9_000, b"plain")),
    ] {
        for max in [700, 1_200, 2_999] {
            let mut talk = Talk::open(|config| config.message_bytes_max = max);
            talk.session.notify(notification.clone(), talk.now);
            // Requests wait for the end.
            talk.session.subscribe(&exact("a"), talk.now);
            talk.session.notify(plain(2, b"next"), talk.now);
            talk.poll();
            talk.says_interest(true, &exact("a"), -1);
            let mut at = 0;
            let mut values = Vec::new();
            for id in 0.. {
                let (frame, ToBroadcaster::NotifyStream(part)) = talk.said_frame() else {
                    panic!("something comes in between");
                };
                assert_eq!(part.part.id(), id);
                if let Part::First { topic, head } = &part.part {
                    assert_eq!((topic, head), (&notification.topic, &notification.head));
                }
                assert_eq!(part.body, wire[at..at + part.body.len()]);
                at += part.body.len();
                let room = usize::try_from(max).unwrap() - (frame.len() - part.body.len());
                if at < wire.len() {
                    assert_eq!(part.body.len(), room.max(512));
                }
                talk.vouched_notify(1, &Sha512::of(wire), &part.authorization);
                values.push(part.authorization);
                if at == wire.len() {
                    break;
                }
            }
            let parts = values.len();
            assert!(parts > 1);
            values.sort();
            values.dedup();
            assert_eq!(values.len(), parts, "a signature is used twice");
            assert!(matches!(talk.said(), ToBroadcaster::Notify(_)));
            talk.says_nothing();
            assert_eq!(talk.session.unacknowledged(), parts + 2);
        }
    }
}

#[test]
fn nothing_is_asked_between_the_parts_of_a_notification() {
    let mut talk = Talk::open(|config| config.message_bytes_max = 700);
    talk.session.notify(plain(1, &[7; 1_500]), talk.now);
    talk.poll_one();
    talk.session.subscribe(&exact("a"), talk.now);
    talk.session.notify(plain(2, b"hello"), talk.now);
    assert!(!talk.session.is_ready_to_notify());
    talk.poll();
    let mut names = Vec::new();
    while !talk.sent.is_empty() {
        names.push(talk.said().name());
    }
    assert_eq!(
        names,
        [
            "NOTIFY_STREAM",
            "NOTIFY_STREAM",
            "NOTIFY_STREAM",
            "SUBSCRIBE_EXACT",
            "NOTIFY"
        ]
    );
    assert!(talk.session.is_ready_to_notify());
}

#[test]
fn a_session_takes_the_next_notification_when_the_last_part_of_this_one_has_left() {
    let mut talk = Talk::open(|config| config.message_bytes_max = 700);
    assert!(talk.session.is_ready_to_notify());
    talk.session.notify(plain(1, &[7; 1_500]), talk.now);
    for _ in 0..3 {
        assert!(!talk.session.is_ready_to_notify());
        assert!(talk.poll_one());
    }
    assert!(talk.session.is_ready_to_notify());
    talk.session.notify(plain(2, b"hello"), talk.now);
    assert!(!talk.session.is_ready_to_notify());
}

#[test]
fn an_empty_notification_may_be_a_part_without_a_body() {
    let mut talk = Talk::open(|config| config.message_bytes_max = 100);
    let (_, message) = talk.notify(plain(1, b""));
    let ToBroadcaster::NotifyStream(part) = message else {
        panic!("it does not fit into a NOTIFY");
    };
    assert_eq!((part.part.id(), part.body.len()), (0, 0));
    talk.says_nothing();
    let confirm = talk.confirm_notify(1, "t", b"", 0);
    talk.hear(&confirm);
    assert_eq!(talk.events.pop_front(), Some(notified(1, 0)));
}

#[test]
fn a_part_is_continued_by_its_number_and_signature() {
    let sent = || {
        let mut talk = Talk::open(|config| config.message_bytes_max = 700);
        let _ = talk.notify(plain(1, &[7; 1_500]));
        talk.sent.clear();
        assert_eq!(talk.session.unacknowledged(), 3);
        talk
    };
    let mut talk = sent();
    for part_id in [0, 1] {
        let message = talk.continue_notify(1, part_id, part_id);
        talk.hear(&message);
        let want = SubscriberEvent::Continued {
            identifier: identifier(1),
            part_id: part_id.into(),
        };
        assert_eq!(talk.events.pop_front(), Some(want));
    }
    let message = talk.confirm_notify(1, "t", &[7; 1_500], 3);
    talk.hear(&message);
    assert_eq!(talk.events.pop_front(), Some(notified(1, 3)));
    assert_eq!(talk.session.unacknowledged(), 0);

    let mut talk = sent();
    let message = talk.continue_notify(1, 0, 1);
    talk.hear(&message);
    talk.closed_for(&format!("CONTINUE_NOTIFY {WRONG}"), 1008);
}

#[test]
fn a_confirmation_vouches_for_topic_number_and_either_digest() {
    for max in [u64::MAX, 700] {
        let sent = |body: &[u8], plain: &[u8]| {
            let mut talk = Talk::open(|config| config.message_bytes_max = max);
            let _ = talk.notify(compressed(1, 1, body, 9_000, plain));
            let parts = talk.sent.len();
            talk.sent.clear();
            for part_id in 0..u32::try_from(parts).unwrap() {
                let message = talk.continue_notify(1, part_id, part_id);
                talk.hear(&message);
                talk.events.clear();
            }
            assert_eq!(talk.closed, None);
            talk
        };
        let wire = [7; 1_100];
        for signed in [&b"plain"[..], &wire] {
            let mut talk = sent(&wire, b"plain");
            let message = talk.confirm_notify(1, "t", signed, 4);
            talk.hear(&message);
            assert_eq!(talk.events.pop_front(), Some(notified(1, 4)));
        }
        for (topic, signed) in [("t", &b"another"[..]), ("u", b"plain"), ("u", &wire)] {
            let mut talk = sent(&wire, b"plain");
            let message = talk.confirm_notify(1, topic, signed, 4);
            talk.hear(&message);
            talk.closed_for(&format!("CONFIRM_NOTIFY {WRONG}"), 1008);
        }
        let mut talk = sent(&wire, b"plain");
        let ToSubscriber::ConfirmNotify(it) = talk.confirm_notify(1, "t", b"plain", 4) else {
            panic!("it is a CONFIRM_NOTIFY");
        };
        let more = ConfirmNotify {
            subscribers: 5,
            ..it
        };
        talk.hear(&ToSubscriber::ConfirmNotify(more));
        talk.closed_for(&format!("CONFIRM_NOTIFY {WRONG}"), 1008);
    }
}

// Messages (§5, §9).

#[test]
fn messages_are_placed_and_acknowledged_part_by_part() {
    let mut talk = Talk::open(|_| {});
    let incoming = Incoming::new(1, b"hello world");
    let first = talk.part(&incoming, 0, 0..5, 1);
    talk.hear(&first);
    let Some(SubscriberEvent::Receive(part)) = talk.events.pop_front() else {
        panic!("nothing was received: {:?}", talk.closed);
    };
    assert_eq!(
        part.begins,
        Some((incoming.topic.clone(), incoming.head())),
        "the first part says what it is"
    );
    assert_eq!((&part.bytes[..], part.ends), (&b"hello"[..], None));
    talk.says_continue_receive(1, 0, -1);
    // Parts may be empty.
    for (id, range) in [(1, 5..5), (2, 5..10)] {
        let next = talk.part(&incoming, id, range.clone(), 1);
        talk.hear(&next);
        let Some(SubscriberEvent::Receive(part)) = talk.events.pop_front() else {
            panic!("nothing was received: {:?}", talk.closed);
        };
        assert_eq!(part.begins, None);
        assert_eq!((&part.bytes[..], part.ends), (&incoming.body[range], None));
        talk.says_continue_receive(1, id, -1 - i64::try_from(id).unwrap());
    }
    let last = talk.part(&incoming, 3, 10..11, 1);
    talk.hear(&last);
    let Some(SubscriberEvent::Receive(part)) = talk.events.pop_front() else {
        panic!("nothing was received: {:?}", talk.closed);
    };
    // Whether it is what was announced is not for the machine to say.
    talk.says_nothing();
    talk.session.confirm_receive(part.ends.unwrap(), talk.now);
    talk.poll();
    talk.says_confirm_receive(1, -4);
}

#[test]
fn both_ways_to_count_parts_are_understood_and_remembered() {
    for counts in BOTH {
        let each = counts == StreamCounters::EachPart;
        let mut talk = Talk::open(|_| {});
        let long = Incoming::new(1, &[7; 40]);
        // Part after part, and something else in between.
        let first = talk.part(&long, 0, 0..10, 1);
        let missed = talk.missed("a", 2);
        let second = talk.part(&long, 1, 10..20, if each { 3 } else { 1 });
        let enable = talk.enable_preset(1, ANY_SIZE, if each { 4 } else { 3 });
        let third = talk.part(&long, 2, 20..30, if each { 5 } else { 1 });
        let last = talk.part(&long, 3, 30..40, if each { 6 } else { 1 });
        let after = if each { 7 } else { 4 };
        for message in [first, missed, second, enable, third, last] {
            talk.hear(&message);
            assert_eq!(talk.closed, None, "{counts:?} {}", message.name());
            talk.events.clear();
        }
        // Everything after it follows from what was learnt.
        let missed = talk.missed("b", after);
        let disable = talk.enable_custom(65_536, b"words", ANY_SIZE, after + 1);
        let enable = talk.disable(65_536, after + 2);
        for message in [missed, disable, enable] {
            talk.hear(&message);
            assert_eq!(talk.closed, None, "{counts:?} {}", message.name());
        }
        talk.events.clear();
        let _ = talk.receives(&Incoming::new(2, b"short"), &[after + 3]);
        // What was learnt stays.
        let again = Incoming::new(3, b"again");
        let first = talk.part(&again, 0, 0..2, after + 4);
        talk.hear(&first);
        assert_eq!(talk.closed, None, "{counts:?}");
        let other = if each { after + 4 } else { after + 5 };
        let second = talk.part(&again, 1, 2..5, other);
        talk.hear(&second);
        talk.closed_for(&format!("RECEIVE_STREAM {WRONG}"), 1008);
    }
}

#[test]
fn a_counter_that_was_taken_or_is_not_due_vouches_for_nothing() {
    for counts in BOTH {
        let each = counts == StreamCounters::EachPart;
        let counters: &[i64] = if each { &[1, 2, 3] } else { &[1, 1, 1] };
        let after = if each { 4 } else { 2 };
        for counter in [0, 1, 2, 3, 4, 5] {
            let all: [fn(&mut Talk, i64) -> ToSubscriber; 5] = [
                |talk, counter| talk.missed("a", counter),
                |talk, counter| talk.part(&Incoming::new(2, b"short"), 0, 0..5, counter),
                |talk, counter| talk.enable_preset(1, ANY_SIZE, counter),
                |talk, counter| talk.enable_custom(65_536, b"words", ANY_SIZE, counter),
                |talk, counter| talk.disable(65_536, counter),
            ];
            for make in all {
                let mut talk = Talk::open(|_| {});
                let ticket = talk.receives(&Incoming::new(1, b"long"), counters);
                assert_eq!(ticket.identifier, identifier(1));
                let message = make(&mut talk, counter);
                talk.hear(&message);
                let name = message.name();
                if counter != after {
                    talk.closed_for(&format!("{name} {WRONG}"), 1008);
                } else if name == "DISABLE_ZSTD_CUSTOM" {
                    let want = "DISABLE_ZSTD_CUSTOM: no such dictionary is enabled";
                    talk.closed_for(want, 1002);
                } else {
                    assert_eq!(talk.closed, None, "{name} {counter}");
                }
            }
        }
    }
}

#[test]
fn each_part_vouches_for_the_whole_message() {
    let long = Incoming::new(1, b"hello");
    let topic = Incoming {
        topic: named("another"),
        ..long.clone()
    };
    let body = Incoming::new(1, b"Hello");
    for other in [topic, body] {
        for forged in [0, 1] {
            let mut talk = Talk::open(|_| {});
            for id in 0..=forged {
                let range = if id == 0 { 0..2 } else { 2..5 };
                let counter = 1 + i64::try_from(id).unwrap();
                let right = talk.part(&long, id, range.clone(), counter);
                let message = if id == forged {
                    let wrong = talk.part(&other, id, range, counter);
                    signed_as(right, wrong)
                } else {
                    right
                };
                talk.hear(&message);
            }
            talk.closed_for(&format!("RECEIVE_STREAM {WRONG}"), 1008);
        }
    }
}

#[test]
fn messages_arrive_while_others_are_checked_and_are_confirmed_in_their_order() {
    let mut talk = Talk::open(|_| {});
    let first = talk.receives(&Incoming::new(1, b"one"), &[1]);
    // The parts of the next one wait behind the confirmation of this one.
    let second = talk.receives(&Incoming::new(2, b"two"), &[2, 3]);
    let third = talk.receives(&Incoming::new(3, b"three"), &[4]);
    talk.says_nothing();
    for ticket in [third, second] {
        talk.session.confirm_receive(ticket, talk.now);
        talk.poll();
        talk.says_nothing();
    }
    talk.session.confirm_receive(first, talk.now);
    talk.poll();
    talk.says_confirm_receive(1, -1);
    talk.says_continue_receive(2, 0, -2);
    talk.says_confirm_receive(2, -3);
    talk.says_confirm_receive(3, -4);
    talk.says_nothing();
}

#[test]
fn messages_of_more_parts_than_published_ends_can_acknowledge_are_acknowledged() {
    let mut talk = Talk::open(|_| {});
    let long = Incoming::new(1, &[7; 300]);
    for id in 0..299_u64 {
        let at = usize::try_from(id).unwrap();
        let part = talk.part(&long, id, at..at + 1, 1);
        talk.hear(&part);
        talk.says_continue_receive(1, id, -1 - i64::try_from(id).unwrap());
    }
}

#[test]
fn what_is_sent_late_is_signed_at_that_time() {
    let inputs: [fn(&mut Talk); 3] = [
        |talk| talk.session.handle_timeout(talk.now),
        |talk| talk.session.notify(plain(1, b"hello"), talk.now),
        |talk| {
            let missed = talk.missed("a", 1).encode(HeaderStyle::Minimal);
            talk.session.handle_message(&missed.into(), talk.now);
        },
    ];
    for input in inputs {
        let mut talk = Talk::open(|_| {});
        talk.session.subscribe(&exact("a"), talk.now);
        // Nothing could leave until long after, when something else happens.
        talk.now = talk.now + Duration::from_secs(100_000);
        input(&mut talk);
        talk.poll();
        talk.says_interest(true, &exact("a"), -1);
    }
}

#[test]
fn signatures_are_judged_at_the_time_at_which_they_arrive() {
    let mut talk = Talk::open(|_| {});
    let missed = talk.missed("a", 1);
    talk.now = talk.now + Duration::from_secs(1_000);
    talk.hear(&missed);
    let reason = talk.closed.take().unwrap();
    let is_late = matches!(&reason, SessionError::Auth { source, .. }
        if matches!(source, AuthError::Clock { .. }));
    assert!(is_late, "{reason}");
}

#[test]
fn no_url_is_written_for_a_scheme_that_looks_at_none() {
    for vouches in [true, false] {
        let seen = Arc::new(Watching {
            vouches,
            urls: Mutex::default(),
        });
        let mut talk = Talk::open(|config| {
            config.to_broadcaster = seen.clone();
            config.to_subscriber = seen.clone();
        });
        talk.session.subscribe(&exact("a"), talk.now);
        talk.poll();
        let answer = talk.confirmed(true, &exact("a"), -1);
        talk.hear(&answer);
        let missed = talk.missed("a", 1);
        talk.hear(&missed);
        talk.events.clear();
        let ticket = talk.receives(&Incoming::new(1, b"hello"), &[2, 3]);
        talk.session.confirm_receive(ticket, talk.now);
        talk.poll();
        assert_eq!(talk.closed, None);
        let urls = seen.urls.lock().unwrap();
        // Those of SUBSCRIBE, its answer, MISSED, both parts, CONTINUE_RECEIVE, CONFIRM_RECEIVE.
        assert_eq!(urls.len(), 7);
        let want: Vec<_> = [-1, -1, 1, 2, 3, -2, -3]
            .into_iter()
            .map(|counter| match vouches {
                true => talk.nonce.url(counter),
                false => String::new(),
            })
            .collect();
        // Acknowledgements leave between the parts or after them.
        let sorted = |mut urls: Vec<String>| {
            urls.sort();
            urls
        };
        assert_eq!(sorted(urls.clone()), sorted(want));
    }
}

// MISSED (§10).

#[test]
fn missed_is_told_at_once() {
    let mut talk = Talk::open(|_| {});
    for counter in [1, 2] {
        let missed = talk.missed("a", counter);
        talk.hear(&missed);
        let want = SubscriberEvent::Missed(named("a"));
        assert_eq!(talk.events.pop_front(), Some(want));
    }
    talk.says_nothing();
}

// Compressors (§11, §12).

#[test]
fn a_message_needs_its_compressor_when_it_begins_and_not_later() {
    let mut talk = Talk::open(|_| {});
    let long = Incoming {
        compressor: 65_536,
        ..Incoming::new(1, b"hello")
    };
    let enable = talk.enable_custom(65_536, b"words", ANY_SIZE, 1);
    let first = talk.part(&long, 0, 0..2, 2);
    let disable = talk.disable(65_536, 3);
    let last = talk.part(&long, 1, 2..5, 4);
    for message in [enable, first, disable, last] {
        talk.hear(&message);
        assert_eq!(talk.closed, None, "{}", message.name());
    }
    let next = Incoming {
        compressor: 65_536,
        ..Incoming::new(2, b"hello")
    };
    let next = talk.part(&next, 0, 0..5, 5);
    talk.hear(&next);
    talk.closed_for("RECEIVE_STREAM: its compressor is not enabled", 1002);
}

#[test]
fn a_message_needs_its_own_compressor() {
    for compressor in [2, 65_537, 65_536 + (1 << 32)] {
        let mut talk = Talk::open(|config| config.presets = vec![2]);
        let preset = talk.enable_preset(1, ANY_SIZE, 1);
        let custom = talk.enable_custom(65_536, b"words", ANY_SIZE, 2);
        for message in [preset, custom] {
            talk.hear(&message);
            assert_eq!(talk.closed, None);
        }
        let message = Incoming {
            compressor,
            ..Incoming::new(1, b"hello")
        };
        let part = talk.part(&message, 0, 0..5, 3);
        talk.hear(&part);
        talk.closed_for("RECEIVE_STREAM: its compressor is not enabled", 1002);
    }
}

#[test]
fn what_a_compressor_is_meant_for_is_told() {
    let mut talk = Talk::open(|config| config.presets = vec![2, 9]);
    let sizes = CompressorSizes {
        min: 32,
        max: 16_384,
    };
    for (counter, compressor) in [(1, 1), (2, 9), (3, 2)] {
        let enable = talk.enable_preset(compressor, sizes, counter);
        talk.hear(&enable);
        let want = SubscriberEvent::EnablePreset {
            compressor: u16::try_from(compressor).unwrap(),
            level: LEVEL,
            sizes,
        };
        assert_eq!(talk.events.pop_front(), Some(want));
    }
    let enable = talk.enable_custom(65_536, b"words", sizes, 4);
    talk.hear(&enable);
    let want = SubscriberEvent::EnableCustom {
        compressor: 65_536,
        level: LEVEL,
        sizes,
        dictionary: Bytes::from_static(b"words"),
    };
    assert_eq!(talk.events.pop_front(), Some(want));
    let disable = talk.disable(65_536, 5);
    talk.hear(&disable);
    let want = SubscriberEvent::DisableCustom { compressor: 65_536 };
    assert_eq!(talk.events.pop_front(), Some(want));
}

#[test]
fn an_announcement_of_no_compressor_is_counted_and_ignored() {
    let mut talk = Talk::open(|_| {});
    let enable = talk.enable_preset(0, ANY_SIZE, 1);
    talk.hear(&enable);
    assert!(talk.events.is_empty());
    assert_eq!(talk.session.compressor_for(100), 0);
    let missed = talk.missed("a", 2);
    talk.hear(&missed);
    assert_eq!(talk.events.len(), 1);
    // It is verified first.
    let enable = talk.enable_preset(0, ANY_SIZE, 7);
    talk.hear(&enable);
    talk.closed_for(&format!("ENABLE_ZSTD_PRESET {WRONG}"), 1008);
}

#[test]
fn compressors_are_refused_where_they_are_off() {
    let compression = |config: &mut SubscriberConfig| config.enable_zstd = false;
    let training = |config: &mut SubscriberConfig| config.enable_training = false;
    let mut talk = Talk::open(compression);
    let message = talk.enable_preset(1, ANY_SIZE, 1);
    talk.hear(&message);
    talk.closed_for("ENABLE_ZSTD_PRESET: compression is off", 1002);
    let mut talk = Talk::open(compression);
    let message = talk.disable(65_536, 1);
    talk.hear(&message);
    talk.closed_for("DISABLE_ZSTD_CUSTOM: no such dictionary is enabled", 1002);
    for off in [compression, training] {
        let mut talk = Talk::open(off);
        let message = talk.enable_custom(65_536, b"words", ANY_SIZE, 1);
        talk.hear(&message);
        talk.closed_for("ENABLE_ZSTD_CUSTOM: training is off", 1002);
    }
    // Presets need no training.
    let mut talk = Talk::open(training);
    let message = talk.enable_preset(1, ANY_SIZE, 1);
    talk.hear(&message);
    assert_eq!(talk.closed, None);
}

#[test]
fn an_announcement_vouches_for_all_it_says() {
    type Change = fn(&mut EnableCustom);
    let changes: [Change; 6] = [
        |it| it.compressor += 1,
        |it| it.compression_level += 1,
        |it| it.compression_level = -it.compression_level,
        |it| it.min_size += 1,
        |it| it.max_size -= 1,
        |it| {
            it.dictionary = Bytes::from_static(b"other");
            it.sha512 = Sha512::of(b"other");
        },
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut talk = Talk::open(|_| {});
        let message = talk.enable_custom(65_536, b"words", ANY_SIZE, 1);
        let ToSubscriber::EnableCustom(mut it) = message else {
            panic!("it is an ENABLE_ZSTD_CUSTOM");
        };
        change(&mut it);
        let message = ToSubscriber::EnableCustom(it);
        talk.hear(&message);
        assert_eq!(talk.closed.map(|it| it.close_code()), Some(1008), "{at}");
        assert!(talk.events.is_empty());
    }
}

/// A negative level cannot be signed by published ends (§4), but schemes that sign nothing carry
/// it.
#[test]
fn a_negative_level_is_taken_where_nothing_is_signed() {
    let token: Arc<dyn Authorization> = Arc::new(TokenAuthorization::new("x").unwrap());
    for scheme in [token, Arc::new(NoAuthorization)] {
        let mut talk = Talk::open(|config| config.to_subscriber = scheme);
        let enable = |counter, message| match message {
            ToSubscriber::EnablePreset(it) => ToSubscriber::EnablePreset(EnablePreset {
                compression_level: -5,
                ..it
            }),
            ToSubscriber::EnableCustom(it) => ToSubscriber::EnableCustom(EnableCustom {
                compression_level: -5,
                ..it
            }),
            _ => panic!("{counter} is not an ENABLE"),
        };
        let preset = talk.enable_preset(1, ANY_SIZE, 1);
        let custom = talk.enable_custom(65_536, b"words", ANY_SIZE, 2);
        for (counter, message) in [(1, preset), (2, custom)] {
            talk.hear(&enable(counter, message));
            assert_eq!(talk.closed, None);
            let level = match talk.events.pop_front() {
                Some(SubscriberEvent::EnablePreset { level, .. }) => level,
                Some(SubscriberEvent::EnableCustom { level, .. }) => level,
                other => panic!("nothing is enabled: {other:?}"),
            };
            assert_eq!(level, -5);
        }
    }
}

#[test]
fn the_id_of_a_dictionary_tells_whether_both_ends_knew_it_before() {
    let mut talk = Talk::open(|config| config.presets = vec![65_535]);
    let message = talk.enable_custom(65_535, b"words", ANY_SIZE, 1);
    talk.hear(&message);
    talk.closed_for("ENABLE_ZSTD_CUSTOM: its id is that of a preset", 1002);

    let mut talk = Talk::open(|config| config.presets = vec![65_535]);
    let message = talk.enable_preset(65_535, ANY_SIZE, 1);
    talk.hear(&message);
    assert_eq!(talk.closed, None);
    let message = talk.enable_preset(65_536, ANY_SIZE, 2);
    talk.hear(&message);
    talk.closed_for("ENABLE_ZSTD_PRESET: the preset is unknown", 1002);
}

/// As many as a broadcaster has use for (§12); more would only cost memory
/// (`docs/design/threats.md` T10).
#[test]
fn two_dictionaries_are_kept_at_most() {
    let mut talk = Talk::open(|_| {});
    let first = talk.enable_custom(65_536, b"one", ANY_SIZE, 1);
    let second = talk.enable_custom(65_537, b"two", ANY_SIZE, 2);
    let disable = talk.disable(65_536, 3);
    let third = talk.enable_custom(65_538, b"three", ANY_SIZE, 4);
    // Presets are not among them.
    let preset = talk.enable_preset(1, ANY_SIZE, 5);
    for message in [first, second, disable, third, preset] {
        talk.hear(&message);
        assert_eq!(talk.closed, None, "{}", message.name());
    }
    let more = talk.enable_custom(65_539, b"four", ANY_SIZE, 6);
    talk.hear(&more);
    let want = "ENABLE_ZSTD_CUSTOM: two dictionaries are enabled already";
    talk.closed_for(want, 1002);
}

#[test]
fn the_newest_dictionary_is_preferred_then_the_preset_then_none_of_them() {
    let mut talk = Talk::open(|config| config.presets = vec![2]);
    assert_eq!(talk.session.compressor_for(100), 0);
    let sizes = |min, max| CompressorSizes { min, max };
    // In whatever order they are announced.
    let all = [
        talk.enable_custom(65_536, b"one", sizes(50, 200), 1),
        talk.enable_preset(2, sizes(30, 400), 2),
        talk.enable_custom(65_537, b"two", sizes(60, 150), 3),
        talk.enable_preset(1, sizes(20, 0), 4),
    ];
    for message in all {
        talk.hear(&message);
        assert_eq!(talk.closed, None);
    }
    for (plain_bytes, want) in [
        (0, 0),
        (19, 0),
        (20, 1),
        (29, 1),
        (30, 2),
        (49, 2),
        (50, 65_536),
        (59, 65_536),
        (60, 65_537),
        (149, 65_537),
        (150, 65_536),
        (199, 65_536),
        (200, 2),
        (399, 2),
        (400, 1),
        (u64::MAX, 1),
    ] {
        assert_eq!(
            talk.session.compressor_for(plain_bytes),
            want,
            "{plain_bytes}"
        );
    }
    let disable = talk.disable(65_537, 5);
    talk.hear(&disable);
    assert_eq!(talk.session.compressor_for(100), 65_536);
}

// The broadcaster's end, played by hand.

const SUBSCRIBER_NONCE: [u8; 32] = [7; 32];
const BROADCASTER_NONCE: [u8; 32] = [9; 32];
const LEVEL: i16 = 3;
const ANY_SIZE: CompressorSizes = CompressorSizes {
    min: 1,
    max: u64::MAX,
};

struct Talk {
    session: SubscriberSession<Bytes>,
    now: Now,
    to_broadcaster: Arc<dyn Authorization>,
    to_subscriber: Arc<dyn Authorization>,
    nonce: ConnectionNonce,
    stamps: Nonces,
    sent: VecDeque<Bytes>,
    events: VecDeque<SubscriberEvent>,
    closed: Option<SessionError>,
}

impl Talk {
    /// Both directions are signed, with different secrets.
    fn new(change: impl FnOnce(&mut SubscriberConfig)) -> Self {
        let now = Now::from_unix(Duration::from_millis(1_800_000_000_250));
        let mut config = SubscriberConfig::new(
            Arc::new(HmacAuthorization::new(&[1; 64])),
            Arc::new(HmacAuthorization::new(&[2; 64])),
        );
        config.message_bytes_max = u64::MAX;
        change(&mut config);
        let (to_broadcaster, to_subscriber) =
            (config.to_broadcaster.clone(), config.to_subscriber.clone());
        let nonces = Nonces::new([1; 12]);
        let mut talk = Self {
            session: SubscriberSession::new(Arc::new(config), SUBSCRIBER_NONCE, nonces, now),
            now,
            to_broadcaster,
            // `Watching` sees what the machine verifies, not what is signed here.
            to_subscriber,
            nonce: ConnectionNonce::new(&SUBSCRIBER_NONCE, &BROADCASTER_NONCE),
            stamps: Nonces::new([2; 12]),
            sent: VecDeque::new(),
            events: VecDeque::new(),
            closed: None,
        };
        talk.poll();
        talk
    }

    fn open(change: impl FnOnce(&mut SubscriberConfig)) -> Self {
        let mut talk = Self::new(change);
        let _ = talk.said();
        let confirm = talk.confirm_configure();
        talk.hear(&confirm);
        let opened = talk.events.pop_front();
        assert!(matches!(opened, Some(SubscriberEvent::Open { .. })));
        talk
    }

    fn hear(&mut self, message: &ToSubscriber) {
        let message = message.encode(HeaderStyle::Minimal).into();
        self.session.handle_message(&message, self.now);
        self.poll();
    }

    /// Until there is nothing more to do.
    fn poll(&mut self) {
        while self.poll_one() {}
    }

    fn poll_one(&mut self) -> bool {
        let events = std::iter::from_fn(|| self.session.poll_event());
        self.events.extend(events);
        match self.session.poll_output() {
            Output::Send(message) => {
                let body = match &message.body {
                    OutgoingBody::Empty => Bytes::new(),
                    OutgoingBody::Bytes(bytes) => bytes.clone(),
                    OutgoingBody::Part { of, range } => {
                        let at = |offset| usize::try_from(offset).unwrap();
                        of.slice(at(range.start)..at(range.end))
                    }
                };
                self.sent
                    .push_back([&message.head[..], &body].concat().into());
            }
            Output::Close(reason) => {
                assert_eq!(self.closed.replace(reason), None, "it closes twice");
            }
            Output::Timeout(until) => {
                assert_eq!(until, self.session.deadline());
                return false;
            }
        }
        true
    }

    #[track_caller]
    fn closed_for(&self, want: &str, code: u16) {
        let reason = self.closed.as_ref().expect("it goes on");
        assert_eq!(reason.to_string(), want);
        assert_eq!(reason.close_code(), code);
    }

    // What the machine says.

    #[track_caller]
    fn said_frame(&mut self) -> (Bytes, ToBroadcaster) {
        let frame = self.sent.pop_front();
        let frame = frame.unwrap_or_else(|| panic!("nothing was sent: {:?}", self.closed));
        let message = ToBroadcaster::decode(&frame).unwrap();
        (frame, message)
    }

    #[track_caller]
    fn said(&mut self) -> ToBroadcaster {
        self.said_frame().1
    }

    #[track_caller]
    fn says_nothing(&mut self) {
        if let Some(frame) = self.sent.pop_front() {
            panic!("{:?} was sent", ToBroadcaster::decode(&frame));
        }
    }

    /// The first message it becomes.
    #[track_caller]
    fn notify(&mut self, notification: Notification<Bytes>) -> (Bytes, ToBroadcaster) {
        self.session.notify(notification, self.now);
        self.poll();
        self.said_frame()
    }

    #[track_caller]
    fn vouched(&self, claim: &Claim<'_>, authorization: &Option<String>) {
        let value = authorization.as_ref().map(String::as_bytes);
        let verified = self.to_broadcaster.verify(claim, &[], value, self.now);
        let _ = verified.unwrap_or_else(|error| panic!("{claim:?}: {error}"));
    }

    #[track_caller]
    fn vouched_notify(&self, number: u8, sha512: &Sha512, authorization: &Option<String>) {
        let claim = Claim::Notify {
            topic: &named("t"),
            identifier: &identifier(number),
            sha512,
        };
        self.vouched(&claim, authorization);
    }

    #[track_caller]
    fn says_interest(&mut self, subscribe: bool, interest: &Interest, counter: i64) {
        let it = match (subscribe, self.said()) {
            (true, ToBroadcaster::Subscribe(it)) | (false, ToBroadcaster::Unsubscribe(it)) => it,
            (_, other) => panic!("{} was sent", other.name()),
        };
        assert_eq!(it.interest, *interest);
        let claim = Claim::Subscribe {
            url: &self.nonce.url(counter),
            recovery: None,
            interest,
        };
        self.vouched(&claim, &it.authorization);
    }

    #[track_caller]
    fn says_continue_receive(&mut self, number: u8, part_id: u64, counter: i64) {
        let it = match self.said() {
            ToBroadcaster::ContinueReceive(it) => it,
            other => panic!("{} was sent", other.name()),
        };
        assert_eq!((&it.identifier, it.part_id), (&identifier(number), part_id));
        let claim = Claim::ContinueReceive {
            identifier: &identifier(number),
            part_id,
            url: &self.nonce.url(counter),
        };
        self.vouched(&claim, &it.authorization);
    }

    #[track_caller]
    fn says_confirm_receive(&mut self, number: u8, counter: i64) {
        let it = match self.said() {
            ToBroadcaster::ConfirmReceive(it) => it,
            other => panic!("{} was sent", other.name()),
        };
        assert_eq!(
            (&it.identifier, it.num_subscribers),
            (&identifier(number), 1)
        );
        let claim = Claim::ConfirmReceive {
            identifier: &identifier(number),
            subscribers: 1,
            url: &self.nonce.url(counter),
        };
        self.vouched(&claim, &it.authorization);
    }

    // What it is told.

    fn sign(&mut self, claim: &Claim<'_>) -> Option<String> {
        let stamp = self.stamps.stamp(self.now);
        self.to_subscriber
            .authorize(claim, SIGNED_HERE, &stamp)
            .unwrap()
    }

    fn confirm_configure(&mut self) -> ToSubscriber {
        ToSubscriber::ConfirmConfigure(ConfirmConfigure {
            broadcaster_nonce: BROADCASTER_NONCE,
            authorization: self.sign(&Claim::ConfirmConfigure {
                broadcaster_nonce: &BROADCASTER_NONCE,
            }),
            tracing: tracing(),
        })
    }

    fn confirmed(&mut self, subscribe: bool, interest: &Interest, counter: i64) -> ToSubscriber {
        let message = InterestMessage {
            interest: interest.clone(),
            authorization: self.sign(&Claim::ConfirmSubscribe {
                url: &self.nonce.url(counter),
                recovery: None,
                interest,
            }),
            tracing: tracing(),
        };
        match subscribe {
            true => ToSubscriber::ConfirmSubscribe(message),
            false => ToSubscriber::ConfirmUnsubscribe(message),
        }
    }

    /// Signed over the digest of `signed`.
    fn confirm_notify(
        &mut self,
        number: u8,
        topic: &'static str,
        signed: &[u8],
        subscribers: u32,
    ) -> ToSubscriber {
        ToSubscriber::ConfirmNotify(ConfirmNotify {
            identifier: identifier(number),
            subscribers: subscribers.into(),
            authorization: self.sign(&Claim::ConfirmNotify {
                identifier: &identifier(number),
                subscribers,
                topic: &named(topic),
                sha512: &Sha512::of(signed),
            }),
            tracing: tracing(),
        })
    }

    fn continue_notify(&mut self, number: u8, part_id: u32, signed: u32) -> ToSubscriber {
        ToSubscriber::ContinueNotify(Continue {
            identifier: identifier(number),
            part_id: part_id.into(),
            authorization: self.sign(&Claim::ContinueNotify {
                identifier: &identifier(number),
                part_id: signed,
            }),
            tracing: tracing(),
        })
    }

    fn part(&mut self, of: &Incoming, id: u64, range: Range<usize>, counter: i64) -> ToSubscriber {
        let head = of.head();
        let authorization = self.sign(&Claim::Receive {
            url: &self.nonce.url(counter),
            topic: &of.topic,
            identifier: &of.identifier,
            sha512: &head.compressed_sha512,
        });
        let topic = of.topic.clone();
        ToSubscriber::ReceiveStream(StreamPart {
            identifier: of.identifier.clone(),
            part: match NonZeroU64::new(id) {
                None => Part::First { topic, head },
                Some(id) => Part::Later(id),
            },
            authorization,
            tracing: tracing(),
            body: of.body.slice(range),
        })
    }

    /// Takes in a message in as many parts as there are counters.
    #[track_caller]
    fn receives(&mut self, message: &Incoming, counters: &[i64]) -> ReceiveTicket {
        let (parts, length) = (counters.len(), message.body.len());
        let mut ticket = None;
        for (id, counter) in counters.iter().enumerate() {
            let range = id * length / parts..(id + 1) * length / parts;
            let part = self.part(message, u64::try_from(id).unwrap(), range, *counter);
            self.hear(&part);
            assert!(ticket.is_none());
            match self.events.pop_front() {
                Some(SubscriberEvent::Receive(part)) => ticket = part.ends,
                other => panic!("{other:?} instead of a part: {:?}", self.closed),
            }
        }
        ticket.expect("the message is whole")
    }

    fn enable_preset(&mut self, id: u32, sizes: CompressorSizes, counter: i64) -> ToSubscriber {
        ToSubscriber::EnablePreset(EnablePreset {
            compressor: id.into(),
            compression_level: LEVEL,
            min_size: sizes.min,
            max_size: sizes.max,
            authorization: self.sign(&Claim::EnablePreset {
                url: &self.nonce.url(counter),
                compressor: id,
                level: LEVEL.unsigned_abs().into(),
                min_size: sizes.min.into(),
                max_size: sizes.max,
            }),
            tracing: tracing(),
        })
    }

    fn enable_custom(
        &mut self,
        id: u32,
        dictionary: &'static [u8],
        sizes: CompressorSizes,
        counter: i64,
    ) -> ToSubscriber {
        let sha512 = Sha512::of(dictionary);
        ToSubscriber::EnableCustom(EnableCustom {
            compressor: id.into(),
            compression_level: LEVEL,
            min_size: sizes.min,
            max_size: sizes.max,
            authorization: self.sign(&Claim::EnableCustom {
                url: &self.nonce.url(counter),
                compressor: id,
                level: LEVEL.unsigned_abs().into(),
                min_size: sizes.min.into(),
                max_size: sizes.max,
                sha512: &sha512,
            }),
            tracing: tracing(),
            sha512,
            dictionary: Bytes::from_static(dictionary),
        })
    }

    fn disable(&mut self, id: u32, counter: i64) -> ToSubscriber {
        ToSubscriber::DisableCustom(DisableCustom {
            compressor: id.into(),
            authorization: self.sign(&Claim::DisableCustom {
                compressor: id,
                url: &self.nonce.url(counter),
            }),
            tracing: tracing(),
        })
    }

    fn missed(&mut self, topic: &'static str, counter: i64) -> ToSubscriber {
        ToSubscriber::Missed(MissedMessage {
            topic: named(topic),
            authorization: self.sign(&Claim::Missed {
                recovery: &self.nonce.url(counter),
                topic: &named(topic),
            }),
            tracing: tracing(),
        })
    }
}

/// Tracing is signed with whatever carries it, so every signature here covers some.
const SIGNED_HERE: &[u8] = b"trace";

fn tracing() -> Bytes {
    Bytes::from_static(SIGNED_HERE)
}

/// A message to receive.
#[derive(Clone)]
struct Incoming {
    identifier: Identifier,
    topic: Topic,
    compressor: u64,
    body: Bytes,
}

impl Incoming {
    fn new(number: u8, body: &[u8]) -> Self {
        Self {
            identifier: identifier(number),
            topic: named("t"),
            compressor: 0,
            body: Bytes::copy_from_slice(body),
        }
    }

    fn head(&self) -> BodyHead {
        let length = u64::try_from(self.body.len()).unwrap();
        BodyHead {
            compressor: self.compressor,
            compressed_length: length,
            decompressed_length: length,
            compressed_sha512: Sha512::of(&self.body),
        }
    }
}

/// The first with the authorization of the second.
fn signed_as(message: ToSubscriber, other: ToSubscriber) -> ToSubscriber {
    match (message, other) {
        (ToSubscriber::ReceiveStream(it), ToSubscriber::ReceiveStream(other)) => {
            ToSubscriber::ReceiveStream(StreamPart {
                authorization: other.authorization,
                ..it
            })
        }
        (message, _) => panic!("{} has no parts", message.name()),
    }
}

fn identifier(number: u8) -> Identifier {
    Identifier::new(vec![number; 4]).unwrap()
}

fn named(topic: &'static str) -> Topic {
    Topic::new(topic).unwrap()
}

fn exact(topic: &'static str) -> Interest {
    Interest::Exact(named(topic))
}

fn glob(pattern: &str) -> Interest {
    Interest::Glob(GlobPattern::parse(pattern).unwrap())
}

fn notified(number: u8, subscribers: u32) -> SubscriberEvent {
    SubscriberEvent::Notified {
        identifier: identifier(number),
        subscribers,
    }
}

fn plain(number: u8, body: &[u8]) -> Notification<Bytes> {
    let length = u64::try_from(body.len()).unwrap();
    compressed(number, 0, body, length, body)
}

/// As if `wire` stood for so many plain bytes with the digest of `plain`.
fn compressed(
    number: u8,
    compressor: u64,
    wire: &[u8],
    plain_bytes: u64,
    plain: &[u8],
) -> Notification<Bytes> {
    Notification {
        identifier: identifier(number),
        topic: named("t"),
        head: BodyHead {
            compressor,
            compressed_length: u64::try_from(wire.len()).unwrap(),
            decompressed_length: plain_bytes,
            compressed_sha512: Sha512::of(wire),
        },
        plain_sha512: Sha512::of(plain),
        body: Bytes::copy_from_slice(wire),
    }
}

/// A scheme that fails.
#[derive(Debug)]
struct Speechless;

impl Authorization for Speechless {
    fn authorize(
        &self,
        _: &Claim<'_>,
        _: &[u8],
        _: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        Err(CannotAuthorize("the pen is lost".to_owned()))
    }

    fn verify(
        &self,
        _: &Claim<'_>,
        _: &[u8],
        _: Option<&[u8]>,
        _: Now,
    ) -> Result<Unspent, AuthError> {
        Err(AuthError::Unavailable("the glasses are lost"))
    }
}

/// A scheme that remembers the urls that this end signed or verified.
#[derive(Debug)]
struct Watching {
    vouches: bool,
    urls: Mutex<Vec<String>>,
}

impl Watching {
    fn see(&self, claim: &Claim<'_>) {
        let url = match claim {
            Claim::Subscribe { url, .. }
            | Claim::ConfirmSubscribe { url, .. }
            | Claim::Receive { url, .. }
            | Claim::ContinueReceive { url, .. }
            | Claim::ConfirmReceive { url, .. }
            | Claim::Missed { recovery: url, .. } => *url,
            _ => return,
        };
        self.urls.lock().unwrap().push(url.to_owned());
    }
}

impl Authorization for Watching {
    fn authorize(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        _: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        // What the tests sign in the broadcaster's name has tracing.
        if tracing.is_empty() {
            self.see(claim);
        }
        Ok(None)
    }

    fn verify(
        &self,
        claim: &Claim<'_>,
        _: &[u8],
        _: Option<&[u8]>,
        _: Now,
    ) -> Result<Unspent, AuthError> {
        self.see(claim);
        Ok(Unspent::reusable())
    }

    fn vouches(&self) -> bool {
        self.vouches
    }
}
