//! `requests.json`: what the published client sends, and under which urls it registers.

mod recorded;

use httppubsub_proto::auth::{AuthError, Scheme};
use httppubsub_proto::digest::{Sha512, hex};
use httppubsub_proto::paths::{
    CHECK_SUBSCRIPTIONS, NOTIFY, SET_SUBSCRIPTIONS, SUBSCRIBE_EXACT, SUBSCRIBE_GLOB,
    UNSUBSCRIBE_EXACT, UNSUBSCRIBE_GLOB,
};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::url::{ClientUrls, Endpoint};
use recorded::request::Request;
use recorded::{Fields as _, recorded_now, secrets, set_in_hex, url, vectors};
use serde_json::Value;

#[test]
fn every_request_has_the_recorded_fields() {
    let file = vectors("requests.json");
    for case in file.cases("/requests", 30) {
        check_fields(
            &decode(&file, case),
            case.text("operation"),
            &case["fields"],
        );
    }
}

#[test]
fn every_request_is_encoded_to_the_recorded_bytes() {
    let file = vectors("requests.json");
    for case in file.cases("/requests", 30) {
        let body = decode(&file, case).encode();
        assert_eq!(hex(&body), case["request"].text("body"), "{case}");
    }
}

#[test]
fn every_request_is_authorized() {
    let file = vectors("requests.json");
    let now = recorded_now(&file);
    for case in file.cases("/requests", 30) {
        let mode = case.text("mode");
        let secrets = secrets(&file, mode);
        let request = decode(&file, case);
        let value = case["request"]["headers"]
            .maybe_text("authorization")
            .map(str::as_bytes);
        let verify = |scheme: &Scheme| {
            scheme
                .authorization()
                .verify(&request.claim(), request.tracing(), value, now)
        };
        assert!(verify(&secrets.to_broadcaster).is_ok(), "{case}");
        match mode {
            "none" => assert_eq!(value, None, "{case}"),
            _ => {
                let other = verify(&secrets.to_subscriber);
                assert!(matches!(other, Err(AuthError::Wrong(_))), "{case}");
            }
        }
    }
}

#[test]
fn every_request_goes_to_the_path_of_its_operation() {
    let file = vectors("requests.json");
    for case in file.cases("/requests", 30) {
        let want = match case.text("operation") {
            "SUBSCRIBE_EXACT" => SUBSCRIBE_EXACT,
            "SUBSCRIBE_GLOB" => SUBSCRIBE_GLOB,
            "UNSUBSCRIBE_EXACT" => UNSUBSCRIBE_EXACT,
            "UNSUBSCRIBE_GLOB" => UNSUBSCRIBE_GLOB,
            "CHECK_SUBSCRIPTIONS" => CHECK_SUBSCRIPTIONS,
            "SET_SUBSCRIPTIONS" => SET_SUBSCRIPTIONS,
            "NOTIFY" => NOTIFY,
            other => panic!("unknown operation {other}"),
        };
        assert_eq!(path(&file, case), want);
        assert_eq!(case["request"].text("method"), "POST");
    }
}

#[test]
fn every_host_registers_the_recorded_urls() {
    let file = vectors("requests.json");
    for case in file.cases("/client_urls", 6) {
        let urls = ClientUrls::of_host(case.text("host")).unwrap();
        assert_eq!(urls.receive.as_str(), case.text("receive"));
        assert_eq!(urls.recovery.as_str(), case.text("recovery"));
        let sent_to = Endpoint::parse(&urls.receive).unwrap();
        assert!(!sent_to.path_and_query().contains('#'), "{case}");
    }
}

/// Where a request went, below the host of the broadcaster.
fn path<'a>(file: &Value, case: &'a Value) -> &'a str {
    let url = case["request"].text("url");
    url.strip_prefix(file.text("broadcaster"))
        .expect("requests go to the broadcaster")
}

#[track_caller]
fn decode(file: &Value, case: &Value) -> Request {
    let body = case["request"].bytes("body");
    let request = Request::decode(path(file, case), &body).expect("the path is known");
    request.unwrap_or_else(|error| panic!("{case}: {error}"))
}

#[track_caller]
fn check_fields(request: &Request, operation: &str, fields: &Value) {
    let interest_is = |interest: &Interest, kind: &str| {
        assert_eq!(interest.as_bytes(), fields.bytes("topic_or_glob"));
        assert!(operation.ends_with(kind));
    };
    let kind = |interest: &Interest| match interest {
        Interest::Exact(_) => "SUBSCRIBE_EXACT",
        Interest::Glob(_) => "SUBSCRIBE_GLOB",
    };
    assert_eq!(request.tracing(), fields.bytes("tracing"));
    match request {
        Request::Subscribe(it) => {
            assert_eq!(it.url, url(fields.hex_text("url")));
            assert_eq!(it.recovery, Some(url(fields.hex_text("recovery"))));
            interest_is(&it.interest, kind(&it.interest));
        }
        Request::Unsubscribe(it) => {
            assert_eq!(it.url, url(fields.hex_text("url")));
            interest_is(&it.interest, kind(&it.interest));
        }
        Request::Check(it) => assert_eq!(it.url, url(fields.hex_text("url"))),
        Request::Set(head, set) => {
            assert_eq!(head.url, url(fields.hex_text("url")));
            assert_eq!(fields.bytes("etag_format"), [0]);
            assert_eq!(head.etag, fields.etag("etag"));
            assert_eq!(set, &set_in_hex(fields));
            assert_eq!(set.etag(&head.url), head.etag);
        }
        Request::Notify(head, message) => {
            assert_eq!(head.topic, fields.topic("topic"));
            assert_eq!(head.sha512, fields.sha512("message_sha512"));
            assert_eq!(head.sha512, Sha512::of(message));
            assert_eq!(head.identifier, fields.identifier("identifier"));
            assert_eq!(message, &fields.bytes("message"));
        }
        Request::Receive(..) | Request::Missed(_) => panic!("a client does not send {request:?}"),
    }
}
