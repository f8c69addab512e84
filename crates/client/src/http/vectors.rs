//! `client.json`: what a request comes to, in which order broadcasters are asked and how long is
//! waited, run over the whole of [`Requests`] with a script for broadcasters and a paused clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::Payload;
use httppubsub_proto::http::{CheckResponse, GenericResponse, NotifyHead, NotifyResponse};
use httppubsub_proto::subscription::{Interest, SubscriptionSet};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::ClientUrls;
use serde_json::Value;
use tokio::time::Instant;

use crate::config::{BroadcasterAddress, ClientConfig};
use crate::error::RequestError;
use crate::http::network::Posts;
use crate::http::requests::Requests;
use crate::http::script::{Act, Asked, scripted};
use crate::wanted::is_better_told_by_set;

fn vectors() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../proto/tests/vectors/client.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[track_caller]
fn list<'a>(value: &'a Value, pointer: &str, count: usize) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array).unwrap();
    assert_eq!(list.len(), count, "a vectors file that lost its cases");
    list
}

#[tokio::test(start_paused = true)]
async fn every_list_of_answers_comes_to_what_is_expected() {
    let file = vectors();
    for case in list(&file, "/outcomes/cases", 184) {
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
            Err(RequestError::NotSent { .. }) => "not sent",
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
    let file = &vectors()["order"];
    let broadcasters = list(file, "/broadcasters", 2).iter().map(|it| {
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
    let expected = list(file, "/asked", 6).iter();
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
    let file = vectors();
    for case in list(&file, "/bulk_choice/cases", 9) {
        let number = |name: &str| usize::try_from(case[name].as_u64().unwrap()).unwrap();
        let (active, new) = (number("active"), number("to_add"));
        let set = is_better_told_by_set(active + new, new);
        assert_eq!(set, case["bulk"].as_bool().unwrap(), "{case}");
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
        "SUBSCRIBE_EXACT" => requests.subscribe(&urls(), &Interest::Exact(topic)).await,
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
