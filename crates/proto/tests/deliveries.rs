//! `deliveries.json`: what a broadcaster posts, how it takes the answers, and when it tries again.

mod recorded;

use std::time::Duration;

use httppubsub_proto::auth::{AuthError, Claim};
use httppubsub_proto::backoff::MissedSchedule;
use httppubsub_proto::digest::{Sha512, decode_repr_digest, encode_repr_digest, hex};
use httppubsub_proto::paths::{RECEIVE, RECOVER};
use httppubsub_proto::stateless::ReceiveAnswer;
use httppubsub_proto::topic::Identifier;
use recorded::request::Request;
use recorded::{Fields as _, recorded_now, secrets, url, vectors};
use serde_json::Value;

#[test]
fn every_delivery_has_the_recorded_fields_and_bytes() {
    let file = vectors("deliveries.json");
    for case in file.cases("/sent/messages", 12) {
        let delivery = decode(case);
        let fields = &case["fields"];
        assert_eq!(delivery.tracing(), fields.bytes("tracing"), "{case}");
        match &delivery {
            Request::Receive(head, message) => {
                assert_eq!(head.topic, fields.topic("topic"), "{case}");
                assert_eq!(head.identifier, fields.identifier("identifier"), "{case}");
                assert_eq!(message, &fields.bytes("message"), "{case}");
            }
            Request::Missed(head) => assert_eq!(head.topic, fields.topic("topic"), "{case}"),
            other => panic!("{other:?} is no delivery"),
        }
        assert_eq!(
            hex(&delivery.encode()),
            case["request"].text("body"),
            "{case}"
        );
    }
}

#[test]
fn every_delivery_of_a_message_carries_its_digest() {
    let file = vectors("deliveries.json");
    for case in file.cases("/sent/messages", 12) {
        let header = case["request"]["headers"].maybe_text("repr-digest");
        let Request::Receive(_, message) = decode(case) else {
            assert_eq!(header, None, "{case}");
            continue;
        };
        let digest = Sha512::of(&message);
        assert_eq!(header, Some(&*encode_repr_digest(&digest)), "{case}");
        let header = header.unwrap_or_default();
        assert_eq!(decode_repr_digest(header.as_bytes()), Ok(digest), "{case}");
    }
}

#[test]
fn every_delivery_is_signed_for_the_url_of_its_row() {
    let file = vectors("deliveries.json");
    let mut with_a_fragment = 0;
    for case in file.cases("/sent/messages", 12) {
        let row = url(case
            .maybe_text("row_url")
            .unwrap_or_else(|| case.text("row_recovery")));
        assert!(verify(&file, case, row.as_str()).is_ok(), "{case}");
        if case.text("mode") != "hmac" {
            continue;
        }
        let signed = case
            .maybe_text("signed_url")
            .unwrap_or_else(|| case.text("row_recovery"));
        assert!(verify(&file, case, signed).is_ok(), "{case}");
        // Ours leaves the fragment out where the recorded one has it.
        let ours = case.maybe_text("expected_signed_url").unwrap_or(signed);
        assert_eq!(row.without_fragment(), ours, "{case}");
        if ours != signed {
            let wrong = AuthError::Wrong("the signature does not fit the message");
            assert_eq!(verify(&file, case, ours), Err(wrong), "{case}");
            with_a_fragment += 1;
        }
    }
    assert_eq!(with_a_fragment, 1);
}

#[test]
fn every_answer_to_a_message_is_taken_as_expected() {
    let file = vectors("deliveries.json");
    let mut without_answer = 0;
    for case in file.cases("/answers_to_receive/cases", 20) {
        let answer = &case["answer"];
        let taken = if answer.is_string() {
            without_answer += 1;
            Taken::FAILED
        } else {
            let body = answer.bytes("body_for_identifier_0000000000000000");
            take(answer.number("status"), &body)
        };
        let expected = &case["expected"];
        let want = Taken {
            subscribers: expected.number("subscribers"),
            still_subscribed: expected.flag("still_subscribed"),
            missed_recorded: expected.flag("missed_recorded"),
        };
        assert_eq!(taken, want, "{case}");
    }
    assert_eq!(without_answer, 2);
}

#[test]
fn every_notice_of_a_missed_message_waits_as_recorded() {
    let file = vectors("deliveries.json");
    let settings = &file["missed_delay"]["settings"];
    let seconds = |name| Duration::from_secs(settings.number(name));
    let schedule = MissedSchedule {
        expo_factor: seconds("expo_factor"),
        expo_base: f64::from(settings.number::<u32>("expo_base")),
        expo_max: settings.number("expo_max"),
        max_retries: settings.number("max_retries"),
        constant: seconds("constant"),
        jitter: seconds("jitter"),
    };
    for case in file.cases("/missed_delay/cases", 10) {
        for (name, random) in [("random_0", 0.0), ("random_half", 0.5)] {
            let want = case[name].as_f64().map(Duration::from_secs_f64);
            assert_eq!(want.is_none(), case[name].is_null(), "{case}");
            assert_eq!(
                schedule.delay(case.number("attempts"), random),
                want,
                "{case}"
            );
        }
    }
}

#[track_caller]
fn decode(case: &Value) -> Request {
    let path = match case.text("message") {
        "RECEIVE" => RECEIVE,
        "MISSED" => RECOVER,
        other => panic!("unknown message {other}"),
    };
    let request = Request::decode(path, &case["request"].bytes("body")).expect("a known path");
    request.unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// Judges a delivery as one that was signed for `signed_url`.
fn verify(
    file: &Value,
    case: &Value,
    signed_url: &str,
) -> Result<httppubsub_proto::auth::Unspent, AuthError> {
    let delivery = decode(case);
    let digest = match &delivery {
        Request::Receive(_, message) => Sha512::of(message),
        _ => Sha512::of(b""),
    };
    let claim = match &delivery {
        Request::Receive(head, _) => Claim::Receive {
            url: signed_url,
            topic: &head.topic,
            identifier: &head.identifier,
            sha512: &digest,
        },
        Request::Missed(head) => Claim::Missed {
            recovery: signed_url,
            topic: &head.topic,
        },
        other => panic!("{other:?} is no delivery"),
    };
    let scheme = secrets(file, case.text("mode"))
        .to_subscriber
        .authorization();
    let value = case["request"]["headers"]
        .maybe_text("authorization")
        .map(str::as_bytes);
    scheme.verify(&claim, delivery.tracing(), value, recorded_now(file))
}

/// What became of a delivery.
#[derive(Debug, PartialEq)]
struct Taken {
    subscribers: u32,
    still_subscribed: bool,
    missed_recorded: bool,
}

impl Taken {
    const FAILED: Self = Self {
        subscribers: 0,
        still_subscribed: true,
        missed_recorded: true,
    };
}

fn take(status: u16, body: &[u8]) -> Taken {
    let sent = Identifier::new(vec![0; 8]).expect("eight bytes fit");
    match ReceiveAnswer::decode(body) {
        Ok(ReceiveAnswer::UnsubscribeImmediate) => Taken {
            subscribers: 0,
            still_subscribed: false,
            missed_recorded: false,
        },
        Ok(ReceiveAnswer::Confirm(it)) if (200..300).contains(&status) && it.identifier == sent => {
            let subscribers = it.subscribers;
            Taken {
                subscribers,
                still_subscribed: true,
                missed_recorded: false,
            }
        }
        Ok(ReceiveAnswer::Confirm(_)) | Err(_) => Taken::FAILED,
    }
}
