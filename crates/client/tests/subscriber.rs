//! `subscriber.json`: what a client takes from broadcasters and what it answers, through its
//! router.
#![allow(
    clippy::unwrap_used,
    reason = "whatever is not as it should be fails the test"
)]

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use httppubsub_client::{Bind, Client, ClientConfig, Interest, Receiving, Topic};
use httppubsub_net::{Clock, random_bytes};
use httppubsub_proto::auth::{
    AuthError, Authorization, CannotAuthorize, Claim, Scheme, Secrets, Stamp, Unspent,
};
use httppubsub_proto::digest::{Sha512, encode_repr_digest};
use httppubsub_proto::stateless::{
    ConfirmMissed, MissedHead, ReceiveAnswer, ReceiveHead, UNSUBSCRIBE_IMMEDIATE,
};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Identifier;
use httppubsub_testkit::{cases, recorded_now, secrets, unhex, vectors};
use serde_json::Value;
use tower_service::Service as _;

const HOST: &str = "http://127.0.0.1:3002";

/// A client as another program mounts it, with nobody to ask.
async fn client(secrets: &Secrets, host: &str, clock: Clock) -> Client {
    let config = ClientConfig::builder(["http://127.0.0.1:1"])
        .bind(Bind::Mounted)
        .host(host)
        .secrets(secrets)
        .clock(clock);
    Client::start(config.build().unwrap()).await.unwrap()
}

struct Answered {
    status: StatusCode,
    content_type: Option<String>,
    body: Vec<u8>,
}

async fn post(client: &Client, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answered {
    let mut request = Request::post(path)
        // The Host header is the sender's to choose, and must not matter.
        .header("host", "elsewhere.example")
        .header("content-length", body.len());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response: Response = client
        .router()
        .call(request.body(Body::from(body)).unwrap())
        .await
        .unwrap();
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map(|it| it.to_str().unwrap().to_owned());
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Answered {
        status,
        content_type,
        body: body.into(),
    }
}

fn headers(case: &Value) -> Vec<(&str, &str)> {
    let headers = case["headers"].as_object().unwrap().iter();
    headers
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn every_request_is_answered_as_expected() {
    let file = vectors("subscriber.json");
    let (now, mut overridden) = (recorded_now(&file), 0);
    for case in cases(&file, "/cases", 29) {
        let secrets = secrets(&file, case["mode"].as_str().unwrap());
        let name = case["case"].as_str().unwrap();
        let host = name.split_once("host is ").map_or(HOST, |(_, host)| host);
        let client = client(&secrets, host, Clock::standing_at(now)).await;
        let path = case["path"].as_str().unwrap();
        let answered = post(
            &client,
            path,
            &headers(case),
            unhex(case["body"].as_str().unwrap()),
        )
        .await;
        let expected = &case["expected"];
        assert_eq!(
            u64::from(answered.status.as_u16()),
            expected["status"],
            "{case}"
        );
        let recorded = match &expected["body"] {
            Value::Null => None,
            recorded => Some(unhex(recorded.as_str().unwrap())),
        };
        if answered.status != StatusCode::OK {
            let recorded = recorded.unwrap();
            // Overridden: a published subscriber ends its subscription where a check failed, ours
            // does not (`docs/design/threats.md` §5.1 no. 5).
            assert!(
                recorded.is_empty() || recorded == UNSUBSCRIBE_IMMEDIATE,
                "{case}"
            );
            assert_eq!(answered.body, b"", "{case}");
            overridden += usize::from(!recorded.is_empty());
            continue;
        }
        assert_eq!(
            answered.content_type.as_deref(),
            expected["content_type"]
                .as_str()
                .or(Some("application/octet-stream")),
            "{case}"
        );
        if secrets.to_broadcaster.name() != "hmac" {
            assert_eq!(Some(&answered.body), recorded.as_ref(), "{case}");
        }
        let url = match expected["confirm_signed_for_url"].as_str() {
            Some(url) => url.to_owned(),
            None => format!("{host}{path}"),
        };
        check_confirmation(case, &answered.body, &url, &secrets, now);
    }
    assert_eq!(overridden, OVERRIDDEN, "a vectors file that changed");
}

/// In so many cases the recorded answer is UNSUBSCRIBE_IMMEDIATE.
const OVERRIDDEN: usize = 11;

/// The confirmation is about this request and signed for `url`.
fn check_confirmation(case: &Value, body: &[u8], url: &str, secrets: &Secrets, now: Now) {
    let request = unhex(case["body"].as_str().unwrap());
    let verify = |claim: &Claim<'_>, authorization: &Option<String>| {
        let value = authorization.as_deref().map(str::as_bytes);
        let scheme = secrets.to_broadcaster.authorization();
        assert!(scheme.verify(claim, b"", value, now).is_ok(), "{case}");
    };
    if case["path"] == "/v1/recover" {
        let head = MissedHead::decode(&request).unwrap();
        let confirmation = ConfirmMissed::decode(body).unwrap();
        let claim = Claim::ConfirmMissed {
            topic: &head.topic,
            url,
        };
        return verify(&claim, &confirmation.authorization);
    }
    let (head, _) = ReceiveHead::decode(&request).unwrap();
    let ReceiveAnswer::Confirm(confirmation) = ReceiveAnswer::decode(body).unwrap() else {
        panic!("no confirmation: {case}");
    };
    assert_eq!(confirmation.identifier, head.identifier);
    assert_eq!(confirmation.subscribers, 1);
    let claim = Claim::ConfirmReceive {
        identifier: &head.identifier,
        subscribers: 1,
        url,
    };
    verify(&claim, &confirmation.authorization);
}

#[tokio::test]
async fn every_digest_header_is_taken_as_expected() {
    let file = vectors("subscriber.json");
    let client = client(&Secrets::NONE, HOST, Clock::system()).await;
    for case in cases(&file, "/repr_digest/cases", 15) {
        let headers = [("repr-digest", case["repr_digest"].as_str().unwrap())];
        let body = unhex(file["repr_digest"]["body"].as_str().unwrap());
        let answered = post(&client, "/v1/receive", &headers, body).await;
        let expected = &case["expected"]["status"];
        assert_eq!(u64::from(answered.status.as_u16()), *expected, "{case}");
    }
}

/// What a broadcaster signs with, and when.
struct Broadcaster {
    secrets: Secrets,
    now: Now,
}

impl Broadcaster {
    fn new() -> Self {
        Self {
            secrets: Secrets {
                to_broadcaster: Scheme::Hmac([1; 64]),
                to_subscriber: Scheme::Hmac([2; 64]),
            },
            now: Now::from_unix(Duration::from_secs(1_800_000_000)),
        }
    }

    fn sign(&self, claim: &Claim<'_>) -> String {
        let stamp = Stamp {
            now: self.now,
            nonce: random_bytes(),
        };
        let scheme = self.secrets.to_subscriber.authorization();
        scheme.authorize(claim, b"", &stamp).unwrap().unwrap()
    }

    /// Headers and body of a RECEIVE signed for `url`.
    fn receive(&self, url: &str, message: &[u8]) -> ([(&'static str, String); 2], Vec<u8>) {
        let sha512 = Sha512::of(message);
        let head = ReceiveHead {
            tracing: bytes::Bytes::new(),
            topic: Topic::new("foo").unwrap(),
            identifier: Identifier::new("12345678").unwrap(),
            message_bytes: message.len() as u64,
        };
        let value = self.sign(&Claim::Receive {
            url,
            topic: &head.topic,
            identifier: &head.identifier,
            sha512: &sha512,
        });
        let body = [head.encode(), message.to_vec()].concat();
        let digest = ("repr-digest", encode_repr_digest(&sha512));
        ([digest, ("authorization", value)], body)
    }
}

async fn deliver(
    client: &Client,
    (headers, body): &([(&'static str, String); 2], Vec<u8>),
) -> (u16, Vec<u8>) {
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let answered = post(client, "/v1/receive", &headers, body.clone()).await;
    (answered.status.as_u16(), answered.body)
}

#[tokio::test]
async fn one_bit_that_flips_on_the_way_costs_one_delivery_and_no_subscription() {
    let broadcaster = Broadcaster::new();
    let clock = Clock::standing_at(broadcaster.now);
    let client = client(&broadcaster.secrets, HOST, clock).await;
    let url = "http://127.0.0.1:3002/v1/receive";
    let (headers, body) = broadcaster.receive(url, b"hello");
    // Wherever it is: in the head, in the message, or in a header.
    for at in 0..body.len() {
        let mut body = body.clone();
        body[at] ^= 1;
        let (status, answer) = deliver(&client, &(headers.clone(), body)).await;
        assert!(matches!(status, 400 | 403), "byte {at}: {status}");
        assert_eq!(answer, b"", "byte {at}");
    }
    for which in 0..headers.len() {
        let mut headers = headers.clone();
        // In the middle of what is base64.
        let at = headers[which].1.len() / 2;
        let flipped = if headers[which].1[at..].starts_with('A') {
            "B"
        } else {
            "A"
        };
        headers[which].1.replace_range(at..=at, flipped);
        let (status, answer) = deliver(&client, &(headers, body.clone())).await;
        assert!(matches!(status, 400 | 403), "{which}: {status}");
        assert_eq!(answer, b"", "{which}");
    }
    let strangers = Broadcaster {
        secrets: Secrets {
            to_broadcaster: Scheme::Hmac([1; 64]),
            to_subscriber: Scheme::Hmac([3; 64]),
        },
        now: broadcaster.now,
    };
    let delivery = strangers.receive(url, b"hello");
    assert_eq!(deliver(&client, &delivery).await, (403, Vec::new()));
    assert_eq!(deliver(&client, &(headers, body)).await.0, 200);
}

#[tokio::test]
async fn a_message_for_another_subscriber_is_refused_whatever_the_host_header_says() {
    let broadcaster = Broadcaster::new();
    let clock = Clock::standing_at(broadcaster.now);
    let client = client(&broadcaster.secrets, HOST, clock).await;
    let delivery = broadcaster.receive("http://elsewhere.example/v1/receive", b"hello");
    assert_eq!(deliver(&client, &delivery).await.0, 403);
    let delivery = broadcaster.receive("http://127.0.0.1:3002/v1/receive", b"hello");
    assert_eq!(deliver(&client, &delivery).await.0, 200);
}

#[tokio::test]
async fn a_message_counts_once_and_a_replay_ends_no_subscription() {
    let broadcaster = Broadcaster::new();
    let clock = Clock::standing_at(broadcaster.now);
    let client = client(&broadcaster.secrets, HOST, clock).await;
    let delivery = broadcaster.receive("http://127.0.0.1:3002/v1/receive", b"hello");
    assert_eq!(deliver(&client, &delivery).await.0, 200);
    assert_eq!(deliver(&client, &delivery).await, (403, Vec::new()));
}

#[tokio::test]
async fn a_clock_that_is_off_ends_no_subscription() {
    let broadcaster = Broadcaster::new();
    let clock = Clock::standing_at(broadcaster.now + Duration::from_secs(130));
    let client = client(&broadcaster.secrets, HOST, clock.clone()).await;
    let delivery = broadcaster.receive("http://127.0.0.1:3002/v1/receive", b"hello");
    assert_eq!(deliver(&client, &delivery).await, (403, Vec::new()));
    clock.set(broadcaster.now + Duration::from_secs(60));
    assert_eq!(deliver(&client, &delivery).await.0, 200);
}

#[tokio::test]
async fn after_the_end_nothing_is_taken() {
    let client = client(&Secrets::NONE, HOST, Clock::system()).await;
    let delivery = Broadcaster::new().receive("http://127.0.0.1:3002/v1/receive", b"hello");
    assert_eq!(deliver(&client, &delivery).await.0, 200);
    let router = client.clone();
    client.close().await.unwrap();
    assert_eq!(deliver(&router, &delivery).await, (503, Vec::new()));
    let missed = MissedHead {
        tracing: bytes::Bytes::new(),
        topic: Topic::new("foo").unwrap(),
    };
    let answered = post(&router, "/v1/recover", &[], missed.encode()).await;
    assert_eq!((answered.status.as_u16(), answered.body), (503, Vec::new()));
}

#[tokio::test]
async fn other_methods_and_paths_are_told_so() {
    let client = client(&Secrets::NONE, HOST, Clock::system()).await;
    let get = Request::get("/v1/receive").body(Body::empty()).unwrap();
    let response: Response = client.router().call(get).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "POST");
    let answered = post(&client, "/v1/receive/", &[], Vec::new()).await;
    assert_eq!(answered.status, StatusCode::NOT_FOUND);
}

/// Cannot be checked while the switch is on.
#[derive(Debug, Default)]
struct Sometimes(std::sync::atomic::AtomicBool);

impl Authorization for Sometimes {
    fn authorize(
        &self,
        _: &Claim<'_>,
        _: &[u8],
        _: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        Ok(None)
    }

    fn verify(
        &self,
        claim: &Claim<'_>,
        _: &[u8],
        _: Option<&[u8]>,
        _: Now,
    ) -> Result<Unspent, AuthError> {
        match self.0.load(std::sync::atomic::Ordering::Relaxed) {
            true if matches!(claim, Claim::Receive { .. }) => {
                Err(AuthError::Unavailable("switched off"))
            }
            _ => Ok(Unspent::reusable()),
        }
    }

    fn vouches(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn messages_that_could_not_be_checked_are_a_gap_once_they_can_be() {
    // A broadcaster that says yes to all it is asked.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broadcaster = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(|| async { StatusCode::OK });
    let stop = tokio_util::sync::CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(httppubsub_net::inbound::serve(
        listener,
        hyper_util::service::TowerToHyperService::new(app),
        httppubsub_net::inbound::ServeConfig::default(),
        stop,
    ));
    let switch = Arc::new(Sometimes::default());
    let config = ClientConfig::builder([broadcaster])
        .bind(Bind::Mounted)
        .host(HOST)
        .to_subscriber(switch.clone());
    let client = Client::start(config.build().unwrap()).await.unwrap();
    let topic = Topic::new("foo").unwrap();
    let mut subscription = client.subscribe([Interest::Exact(topic)]).await.unwrap();
    let (told, mut receiving) = tokio::sync::mpsc::unbounded_channel();
    subscription.on_gap(move |receiving| {
        told.send(receiving).unwrap();
        std::future::ready(())
    });
    let delivery =
        |message: &[u8]| Broadcaster::new().receive("http://127.0.0.1:3002/v1/receive", message);
    assert_eq!(deliver(&client, &delivery(b"first")).await.0, 200);
    switch.0.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        deliver(&client, &delivery(b"lost")).await,
        (503, Vec::new())
    );
    switch.0.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(deliver(&client, &delivery(b"second")).await.0, 200);

    let first = subscription.next().await.unwrap();
    assert_eq!(first.bytes().await.unwrap(), "first");
    assert_eq!(receiving.try_recv(), Ok(Receiving::First));
    assert!(receiving.try_recv().is_err());
    let second = subscription.next().await.unwrap();
    assert_eq!(second.bytes().await.unwrap(), "second");
    assert_eq!(receiving.try_recv(), Ok(Receiving::AfterGap));
}
