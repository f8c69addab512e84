//! `client.json` and `requests.json`: what is asked, what a request comes to, in which order
//! broadcasters are asked and how long is waited, run over the whole of [`Requests`] with a script
//! for broadcasters and a paused clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::Clock;
use httppubsub_net::body::Payload;
use httppubsub_proto::auth::{Authorization, Claim};
use httppubsub_proto::stateless::{
    CheckRequest, CheckResponse, GenericResponse, InterestKind, NotifyHead, NotifyResponse,
    SetHead, SubscribeRequest, UnsubscribeRequest, decode_set_lists,
};
use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::{ClientUrls, SubscriberUrl};
use httppubsub_testkit::{cases, secrets, unhex, vectors};
use serde_json::Value;
use tokio::time::Instant;

use crate::config::{BroadcasterAddress, ClientConfig};
use crate::desired::is_better_told_by_set;
use crate::error::RequestError;
use crate::requests::network::Posts;
use crate::requests::requests::Requests;
use crate::requests::script::{Act, Asked, scripted};

#[tokio::test(start_paused = true)]
async fn every_list_of_answers_comes_to_what_is_expected() {
    let file = vectors("client.json");
    for case in cases(&file, "/outcomes/cases", 184) {
        let retry = case["retry_ambiguous"].as_bool().unwrap();
        let config = ClientConfig::builder(["http://b:1"]).retry_ambiguous(retry);
        let acts = case["answers"].as_array().unwrap().iter().map(act);
        let (requests, asked) = scripted(&config.build().unwrap(), acts);
        let done = ask(&requests, case["operation"].as_str().unwrap()).await;
        let outcome = match &done {
            Ok(()) => "ok",
            Err(RequestError::Refused { .. }) => "refused",
            Err(RequestError::Ambiguous { .. }) => "ambiguous",
            Err(RequestError::RetriesExhausted { .. }) => "exhausted",
            Err(RequestError::NotSent { .. } | RequestError::TooMany { .. }) => "not sent",
        };
        let expected = &case["expected"];
        assert_eq!(outcome, expected["outcome"], "{case}: {done:?}");
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len() as u64, expected["requests"], "{case}");
        assert_eq!(waits(&asked), seconds(&expected["waits"]), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn broadcasters_are_asked_in_the_expected_order() {
    let file = &vectors("client.json")["order"];
    let broadcasters = cases(file, "/broadcasters", 2).iter().map(|it| {
        let address = BroadcasterAddress::new(it["host"].as_str().unwrap());
        match it["priority"].as_u64() {
            Some(priority) => address.priority(priority.try_into().unwrap()),
            None => address,
        }
    });
    let broadcasters: Vec<_> = broadcasters.collect();
    let passes = file["retries_per_broadcaster"].as_u64().unwrap();
    let config = ClientConfig::builder(broadcasters.clone()).passes(passes.try_into().unwrap());
    let (requests, asked) = scripted(&config.build().unwrap(), [act(&file["answers"])]);
    ask(&requests, "SUBSCRIBE_EXACT").await.unwrap_err();
    let asked = asked.lock().unwrap();
    let urls = asked
        .iter()
        .map(|it| format!("{}{}", broadcasters[it.at].url, it.path));
    let expected = cases(file, "/asked", 6).iter();
    assert!(
        urls.eq(expected.map(|it| it.as_str().unwrap())),
        "{asked:?}"
    );
    let between: Vec<_> = waits(&asked);
    let between = between.into_iter().filter(|wait| !wait.is_zero());
    let between: Vec<_> = between.collect();
    assert_eq!(
        between,
        seconds(&file["waits_between_rounds_with_random_half"])
    );
}

#[test]
fn set_is_chosen_where_it_is_expected() {
    let file = vectors("client.json");
    for case in cases(&file, "/bulk_choice/cases", 9) {
        let number = |name: &str| usize::try_from(case[name].as_u64().unwrap()).unwrap();
        let (active, new) = (number("active"), number("to_add"));
        let set = is_better_told_by_set(active + new, new);
        assert_eq!(set, case["bulk"].as_bool().unwrap(), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_asked_as_published_clients_ask_it() {
    let file = vectors("requests.json");
    let now = Now::from_unix(Duration::from_secs_f64(
        file["auth"]["now"].as_f64().unwrap(),
    ));
    let urls = ClientUrls::of_host(file["host"].as_str().unwrap()).unwrap();
    let broadcaster = file["broadcaster"].as_str().unwrap();
    for case in cases(&file, "/requests", 30) {
        let scheme = scheme(&file, case["mode"].as_str().unwrap());
        let config = ClientConfig::builder([broadcaster])
            .passes(1)
            .to_broadcaster(scheme.clone())
            .clock(Clock::standing_at(now));
        let (requests, asked) = scripted(&config.build().unwrap(), [Act::Status(400)]);
        let body = unhex(case["request"]["body"].as_str().unwrap());
        ask_recorded(&requests, &urls, case, &body).await;
        let asked = asked.lock().unwrap()[0].clone();
        let url = format!("{broadcaster}{}", asked.path);
        assert_eq!(case["request"]["url"], url);
        let recorded_value = case["request"]["headers"]["authorization"].as_str();
        assert_eq!(
            asked.authorization.is_some(),
            recorded_value.is_some(),
            "{case}"
        );
        if case["operation"] == "NOTIFY" {
            let (recorded, used) = NotifyHead::decode(&body).unwrap();
            let (head, _) = NotifyHead::decode(&asked.head).unwrap();
            assert_eq!(asked.message.as_deref(), Some(&body[used..]));
            let claim = Claim::Notify {
                topic: &head.topic,
                identifier: &head.identifier,
                sha512: &head.sha512,
            };
            let value = asked.authorization.as_deref().map(str::as_bytes);
            assert!(scheme.verify(&claim, b"", value, now).is_ok(), "{case}");
            let identifier = recorded.identifier.clone();
            assert_eq!(NotifyHead { identifier, ..head }, recorded);
            continue;
        }
        assert_eq!(asked.head, body, "{case}");
        let verdict = verify_recorded(&asked, &body, case, scheme.as_ref(), now);
        assert!(verdict, "{case}");
        if case["mode"] == "token" {
            assert_eq!(asked.authorization.as_deref(), recorded_value);
        }
    }
}

fn scheme(file: &Value, mode: &str) -> Arc<dyn Authorization> {
    secrets(file, mode).to_broadcaster.authorization()
}

/// Asks what the recorded request asks.
async fn ask_recorded(
    requests: &Requests<impl Posts>,
    urls: &ClientUrls,
    case: &Value,
    body: &[u8],
) {
    let operation = case["operation"].as_str().unwrap();
    let refused = match operation {
        "SUBSCRIBE_EXACT" | "SUBSCRIBE_GLOB" => {
            let request = SubscribeRequest::decode(kind(operation), body).unwrap();
            requests.subscribe(urls, &request.interest).await.map(drop)
        }
        "UNSUBSCRIBE_EXACT" | "UNSUBSCRIBE_GLOB" => {
            let request = UnsubscribeRequest::decode(kind(operation), body).unwrap();
            requests
                .unsubscribe(urls, &request.interest)
                .await
                .map(drop)
        }
        "SET_SUBSCRIPTIONS" => {
            let (_, used) = SetHead::decode(body).unwrap();
            let set = decode_set_lists(&body[used..]).unwrap();
            requests.set(urls, &set).await
        }
        "CHECK_SUBSCRIPTIONS" => requests.check(urls).await.map(drop),
        "NOTIFY" => {
            let (head, used) = NotifyHead::decode(body).unwrap();
            let payload = Payload::from_bytes(body[used..].to_vec());
            let sent = Arc::default();
            let notified = requests.notify(&head.topic, &payload, &sent).await;
            notified.map(drop)
        }
        other => panic!("unknown operation {other}"),
    };
    assert!(
        matches!(refused, Err(RequestError::Refused { .. })),
        "{refused:?}"
    );
}

fn kind(operation: &str) -> InterestKind {
    match operation.ends_with("EXACT") {
        true => InterestKind::Exact,
        false => InterestKind::Glob,
    }
}

/// Whether our authorization vouches for what the recorded request says.
fn verify_recorded(
    asked: &Asked,
    body: &[u8],
    case: &Value,
    scheme: &dyn Authorization,
    now: Now,
) -> bool {
    let operation = case["operation"].as_str().unwrap();
    let value = asked.authorization.as_deref().map(str::as_bytes);
    let good = |claim: &Claim<'_>| scheme.verify(claim, b"", value, now).is_ok();
    match operation {
        "SUBSCRIBE_EXACT" | "SUBSCRIBE_GLOB" => {
            let request = SubscribeRequest::decode(kind(operation), body).unwrap();
            good(&Claim::Subscribe {
                url: request.url.as_str(),
                recovery: request.recovery.as_ref().map(SubscriberUrl::as_str),
                interest: &request.interest,
            })
        }
        "UNSUBSCRIBE_EXACT" | "UNSUBSCRIBE_GLOB" => {
            let request = UnsubscribeRequest::decode(kind(operation), body).unwrap();
            good(&Claim::Subscribe {
                url: request.url.as_str(),
                recovery: None,
                interest: &request.interest,
            })
        }
        "SET_SUBSCRIPTIONS" => {
            let (head, _) = SetHead::decode(body).unwrap();
            good(&Claim::Set {
                url: head.url.as_str(),
                etag: &head.etag,
            })
        }
        _ => {
            let request = CheckRequest::decode(body).unwrap();
            good(&Claim::Check {
                url: request.url.as_str(),
            })
        }
    }
}

fn act(answer: &Value) -> Act {
    match answer.as_u64() {
        Some(200) => Act::say(good_answer),
        Some(status) => Act::Status(status.try_into().unwrap()),
        None => {
            assert_eq!(answer, "network error");
            Act::Break
        }
    }
}

fn good_answer(asked: &Asked) -> Vec<u8> {
    let (authorization, tracing) = (None, Bytes::new());
    match asked.path {
        "/v1/notify" => {
            let (head, _) = NotifyHead::decode(&asked.head).unwrap();
            let response = NotifyResponse {
                authorization,
                tracing,
                subscribers: 3,
                identifier: head.identifier,
            };
            assert_eq!(asked.message.as_ref().unwrap(), "hello");
            response.encode()
        }
        "/v1/check_subscriptions" => {
            let response = CheckResponse {
                authorization,
                tracing,
                etag: SubscriptionSet::default().etag(&urls().receive),
            };
            response.encode()
        }
        _ => GenericResponse {
            authorization,
            tracing,
        }
        .encode(),
    }
}

fn urls() -> ClientUrls {
    ClientUrls::of_host("http://127.0.0.1:3002").unwrap()
}

async fn ask(requests: &Requests<impl Posts>, operation: &str) -> Result<(), RequestError> {
    let topic = Topic::new("foo").unwrap();
    match operation {
        "SUBSCRIBE_EXACT" => {
            let interest = Interest::Exact(topic);
            requests.subscribe(&urls(), &interest).await.map(drop)
        }
        "SET_SUBSCRIPTIONS" => requests.set(&urls(), &SubscriptionSet::default()).await,
        "CHECK_SUBSCRIPTIONS" => requests.check(&urls()).await.map(|_| ()),
        "NOTIFY" => {
            let payload = Payload::from_bytes("hello");
            let subscribers = requests.notify(&topic, &payload, &Arc::default()).await?;
            assert_eq!(subscribers, 3);
            Ok(())
        }
        other => panic!("unknown operation {other}"),
    }
}

/// How long was waited before each request but the first.
fn waits(asked: &[Asked]) -> Vec<Duration> {
    let moments: Vec<Instant> = asked.iter().map(|it| it.when).collect();
    // The timer of a paused clock counts whole milliseconds, rounded up.
    let whole = |wait: Duration| Duration::from_millis(wait.as_millis().try_into().unwrap());
    let waits = moments.windows(2).map(|pair| whole(pair[1] - pair[0]));
    waits.collect()
}

fn seconds(list: &Value) -> Vec<Duration> {
    let seconds = list
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_f64().unwrap());
    seconds.map(Duration::from_secs_f64).collect()
}
