//! `broadcaster.json`: what a broadcaster takes, and what it answers.

mod recorded;

use bytes::Bytes;
use httppubsub_proto::auth::{AuthError, Authorization, Claim, Secrets};
use httppubsub_proto::digest::{Sha512, decode_repr_digest, encode_repr_digest, hex};
use httppubsub_proto::paths::{
    CHECK_SUBSCRIPTIONS, MISSED_FOR_WEBSOCKETS, NOTIFY, RECEIVE_FOR_WEBSOCKETS, SET_SUBSCRIPTIONS,
};
use httppubsub_proto::stateless::{
    CheckResponse, ConfirmMissed, GenericResponse, NotifyResponse, NotifyTrace, ReceiveAnswer,
    UNSUBSCRIBE_IMMEDIATE,
};
use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use recorded::request::Request;
use recorded::{Fields as _, recorded_now, rows_in_text, secrets, unhex, url, vectors};
use serde_json::Value;

/// Refused with 400 although the body is fine: the broadcaster's own doing.
const NOT_FOR_THE_BODY: [&str; 2] = [
    "fan-out: irrelevant topic",
    "fan-out: url is not the configured one",
];

#[test]
fn exactly_what_deserves_a_400_is_refused() {
    let file = vectors("broadcaster.json");
    let (mut refused, mut taken) = (0, 0);
    for step in steps(&file) {
        let status: u16 = step["expected"].number("status");
        if NOT_FOR_THE_BODY.contains(&step.text("case")) {
            assert_eq!(status, 400);
            continue;
        }
        let Some(request) = decode(step) else {
            assert!([404, 405].contains(&status), "{step}");
            continue;
        };
        assert_eq!(request.is_err(), status == 400, "{step}: {request:?}");
        *(if status == 400 {
            &mut refused
        } else {
            &mut taken
        }) += 1;
    }
    assert_eq!((refused, taken), (24, 29));
}

#[test]
fn whatever_is_taken_is_encoded_to_the_bytes_it_came_in() {
    let file = vectors("broadcaster.json");
    for step in steps(&file) {
        let Some(Ok(request)) = decode(step) else {
            continue;
        };
        let (body, again) = (step.bytes("body"), request.encode());
        let rest = body.strip_prefix(&again[..]);
        assert!(
            rest == Some(b"") || rest == Some(b"ignored"),
            "{step}: {rest:?}"
        );
    }
}

#[test]
fn every_answer_is_encoded_to_the_recorded_bytes() {
    let file = vectors("broadcaster.json");
    let mut answers = 0;
    for step in steps(&file) {
        let Some(recorded) = step["expected"].maybe_text("body") else {
            continue;
        };
        assert_eq!(
            hex(&answer_again(step.text("path"), &unhex(recorded))),
            recorded,
            "{step}"
        );
        answers += 1;
    }
    assert_eq!(answers, 22);
}

#[test]
fn every_check_is_answered_with_the_etag_of_the_rows() {
    let file = vectors("broadcaster.json");
    let mut checks = 0;
    for step in steps(&file) {
        let Some(Ok(Request::Check(request))) = decode(step) else {
            continue;
        };
        let answer = CheckResponse::decode(&step["expected"].bytes("body")).unwrap();
        let set = set_of(&request.url, &step["rows"]);
        assert_eq!(answer.etag, set.etag(&request.url), "{step}");
        checks += 1;
    }
    assert_eq!(checks, 4);
}

#[test]
fn every_set_leaves_the_rows_it_lists() {
    let file = vectors("broadcaster.json");
    let mut sets = 0;
    for step in steps(&file) {
        let Some(Ok(Request::Set(head, set))) = decode(step) else {
            continue;
        };
        assert_eq!(set, set_of(&head.url, &step["rows"]), "{step}");
        sets += 1;
    }
    assert_eq!(sets, 4);
}

#[test]
fn every_notification_goes_to_the_rows_that_cover_its_topic() {
    let file = vectors("broadcaster.json");
    let mut notifications = 0;
    for step in steps(&file) {
        let Some(Ok(Request::Notify(head, message))) = decode(step) else {
            continue;
        };
        let expected = &step["expected"];
        assert_eq!(head.identifier, expected.identifier("identifier"), "{step}");

        let mut rows = rows_in_text(&step["rows"]);
        rows.retain(|(_, interest, _)| interest.covers(&head.topic));
        assert_eq!(
            rows.len(),
            expected.number::<usize>("subscribers"),
            "{step}"
        );
        let empty = Vec::new();
        let deliveries = expected["deliveries"].as_array().unwrap_or(&empty);
        let mut posted: Vec<_> = deliveries.iter().map(|it| url(it.text("url"))).collect();
        let mut matching: Vec<_> = rows.into_iter().map(|(url, ..)| url).collect();
        posted.sort();
        matching.sort();
        assert_eq!(posted, matching, "{step}");

        for delivery in deliveries {
            assert_eq!(delivery.topic("topic"), head.topic, "{step}");
            assert_eq!(delivery.bytes("message"), message, "{step}");
            let header = encode_repr_digest(&head.sha512);
            assert_eq!(delivery["headers"].text("repr-digest"), header, "{step}");
        }
        notifications += 1;
    }
    assert_eq!(notifications, 6);
}

#[test]
fn the_interests_of_the_fan_out_cover_what_is_relevant() {
    let file = vectors("broadcaster.json");
    let interests = [
        Interest::Exact(Topic::new("ws").unwrap()),
        Interest::Glob(recorded::glob("ws/*")),
    ];
    let mut relevant = 0;
    for step in steps(&file) {
        let Some(Ok(Request::Receive(head, _))) = decode(step) else {
            continue;
        };
        let wanted = interests
            .iter()
            .any(|interest| interest.covers(&head.topic));
        assert_eq!(
            wanted,
            step["expected"].number::<u16>("status") == 200,
            "{step}"
        );
        relevant += usize::from(wanted);
    }
    assert_eq!(relevant, 2);
}

#[test]
fn other_recovery_urls_make_another_etag() {
    let file = vectors("broadcaster.json");
    let change = &file["recovery_change"];
    let request = Request::decode(SET_SUBSCRIPTIONS, &change.bytes("body")).unwrap();
    let Ok(Request::Set(head, set)) = request else {
        panic!("{request:?}")
    };
    let before = set_of(&head.url, &change["before"]);
    let after = set_of(&head.url, &change["expected"]["rows"]);
    assert_eq!(set, after);
    assert_eq!(
        head.etag == before.etag(&head.url),
        change["reference"].flag("check_etag_matches")
    );
    assert_eq!(
        head.etag == after.etag(&head.url),
        change["expected"].flag("check_etag_matches")
    );
}

#[test]
fn every_request_is_let_in_or_turned_away_as_expected() {
    let file = vectors("broadcaster.json");
    for case in file.cases("/authorized/cases", 42) {
        let (request, secrets) = authorized(&file, case);
        let value = case["headers"]
            .maybe_text("authorization")
            .map(str::as_bytes);
        let scheme = secrets.to_broadcaster.authorization();
        let verdict = scheme.verify(
            &request.claim(),
            request.tracing(),
            value,
            recorded_now(&file),
        );
        let status = match &verdict {
            Ok(_) => 200,
            Err(AuthError::Missing) => 401,
            Err(AuthError::Wrong(_) | AuthError::Clock { .. } | AuthError::Replayed) => 403,
            Err(AuthError::Unavailable(_)) => 503,
        };
        assert_eq!(
            status,
            case["expected"].number::<u16>("status"),
            "{case}: {verdict:?}"
        );
    }
}

#[test]
fn every_answer_to_an_authorized_request_is_signed_for_it() {
    let file = vectors("broadcaster.json");
    let now = recorded_now(&file);
    let mut answers = 0;
    for case in file.cases("/authorized/cases", 42) {
        let Some(recorded) = case["expected"].maybe_text("body") else {
            continue;
        };
        let (request, secrets) = authorized(&file, case);
        let (body, fields) = (unhex(recorded), &case["expected"]["fields"]);
        assert_eq!(
            hex(&answer_again(case.text("path"), &body)),
            recorded,
            "{case}"
        );

        let answer = Answer::decode(&request, &body);
        assert_eq!(answer.tracing(), fields.bytes("tracing"), "{case}");
        let value = answer.authorization();
        assert_eq!(value, fields.bytes("authorization"), "{case}");
        let verify = |scheme: &dyn Authorization| {
            scheme.verify(&answer.claim(&request), answer.tracing(), Some(value), now)
        };
        let own = verify(&*secrets.to_subscriber.authorization());
        assert!(own.is_ok(), "{case}: {own:?}");
        let other = verify(&*secrets.to_broadcaster.authorization());
        assert!(
            matches!(other, Err(AuthError::Wrong(_))),
            "{case}: {other:?}"
        );
        answer.check(fields);
        answers += 1;
    }
    assert_eq!(answers, 14);
}

fn steps(file: &Value) -> &[Value] {
    file.cases("/steps", 58)
}

/// What a step posts, as far as a body and its digest can tell; `None` if nothing is posted there.
fn decode(step: &Value) -> Option<Result<Request, String>> {
    if step.text("method") != "POST" {
        return None;
    }
    let request = Request::decode(step.text("path"), &step.bytes("body"))?;
    Some(request.and_then(|request| match request {
        Request::Receive(_, ref message) => {
            let header = step["headers"]
                .maybe_text("Repr-Digest")
                .unwrap_or_default();
            match decode_repr_digest(header.as_bytes()) {
                Ok(digest) if digest == Sha512::of(message) => Ok(request),
                Ok(_) => Err("the message has another digest".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
        request => Ok(request),
    }))
}

/// The bytes of the answer that the bytes of an answer say.
#[track_caller]
fn answer_again(path: &str, body: &[u8]) -> Vec<u8> {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let again = match path {
        CHECK_SUBSCRIPTIONS => CheckResponse::decode(body).map(|it| it.encode()),
        NOTIFY => NotifyResponse::decode(body).map(|it| it.encode()),
        RECEIVE_FOR_WEBSOCKETS => ReceiveAnswer::decode(body).map(|it| match it {
            ReceiveAnswer::Confirm(it) => it.encode(),
            ReceiveAnswer::UnsubscribeImmediate => UNSUBSCRIBE_IMMEDIATE.to_vec(),
        }),
        MISSED_FOR_WEBSOCKETS => ConfirmMissed::decode(body).map(|it| it.encode()),
        _ => GenericResponse::decode(body).map(|it| it.encode()),
    };
    again.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What `url` wants according to the rows of a whole store.
fn set_of(url: &SubscriberUrl, rows: &Value) -> SubscriptionSet {
    let rows = rows_in_text(rows).into_iter().filter(|(of, ..)| of == url);
    rows.map(|(_, interest, recovery)| (interest, recovery))
        .collect()
}

#[track_caller]
fn authorized(file: &Value, case: &Value) -> (Request, Secrets) {
    let request = Request::decode(case.text("path"), &case.bytes("body")).expect("a known path");
    let request = request.unwrap_or_else(|error| panic!("{case}: {error}"));
    (request, secrets(file, case.text("mode")))
}

/// An answer to a request of a subscriber.
enum Answer {
    Generic(GenericResponse),
    Check(CheckResponse),
    Notify(NotifyResponse),
}

impl Answer {
    fn decode(request: &Request, body: &[u8]) -> Self {
        let answer = match request {
            Request::Check(_) => CheckResponse::decode(body).map(Self::Check),
            Request::Notify(..) => NotifyResponse::decode(body).map(Self::Notify),
            _ => GenericResponse::decode(body).map(Self::Generic),
        };
        answer.unwrap_or_else(|error| panic!("{request:?}: {error}"))
    }

    fn parts(&self) -> (&Option<String>, &Bytes) {
        match self {
            Self::Generic(it) => (&it.authorization, &it.tracing),
            Self::Check(it) => (&it.authorization, &it.tracing),
            Self::Notify(it) => (&it.authorization, &it.tracing),
        }
    }

    fn authorization(&self) -> &[u8] {
        self.parts().0.as_deref().unwrap_or_default().as_bytes()
    }

    fn tracing(&self) -> &[u8] {
        self.parts().1
    }

    fn claim<'a>(&'a self, request: &'a Request) -> Claim<'a> {
        match (self, request) {
            (Self::Generic(_), Request::Subscribe(it)) => Claim::ConfirmSubscribe {
                url: it.url.as_str(),
                recovery: it.recovery.as_ref().map(SubscriberUrl::as_str),
                interest: &it.interest,
            },
            (Self::Generic(_), Request::Unsubscribe(it)) => Claim::ConfirmSubscribe {
                url: it.url.as_str(),
                recovery: None,
                interest: &it.interest,
            },
            (Self::Generic(_), Request::Set(it, _)) => Claim::SetResponse { etag: &it.etag },
            (Self::Check(it), Request::Check(_)) => Claim::CheckResponse { etag: &it.etag },
            (Self::Notify(it), Request::Notify(request, _)) => Claim::ConfirmNotify {
                identifier: &request.identifier,
                subscribers: it.subscribers,
                topic: &request.topic,
                sha512: &request.sha512,
            },
            (_, request) => panic!("another answer than {request:?} asks for"),
        }
    }

    fn check(&self, fields: &Value) {
        match self {
            Self::Generic(_) => assert_eq!(fields.text("type"), "0003"),
            Self::Check(it) => {
                assert_eq!(fields.text("type"), "0005");
                assert_eq!(fields.text("etag_format"), "00");
                assert_eq!(it.etag, fields.etag("etag"));
            }
            Self::Notify(it) => {
                assert_eq!(fields.text("type"), "0004");
                assert_eq!(it.subscribers.to_be_bytes(), fields.array("subscribers"));
                assert_eq!(it.identifier, fields.identifier("identifier"));
                assert!(NotifyTrace::entry_names(&it.tracing).is_ok_and(|names| !names.is_empty()));
            }
        }
    }
}
