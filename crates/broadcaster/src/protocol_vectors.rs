//! The recorded conversations with a broadcaster, held with ours (`crates/proto/tests/vectors`).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use httppubsub_net::Clock;
use httppubsub_net::outbound::PostConfig;
use httppubsub_proto::auth::{Authorization, Claim, Secrets};
use httppubsub_proto::digest::hex;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::number::Number;
use httppubsub_proto::stateless::{
    CheckRequest, CheckResponse, ConfirmReceive, GenericResponse, InterestKind, NotifyHead,
    NotifyResponse, NotifyTrace, ReceiveHead, SetHead, SubscribeRequest, UNSUBSCRIBE_IMMEDIATE,
    UnsubscribeRequest,
};
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{MemoryStore, Notices as _, Subscriptions as _};
use httppubsub_testkit::{secrets, unhex, vectors};
use hyper::service::Service as _;
use serde_json::Value;

use crate::broadcaster::Broadcaster;
use crate::config::{Authorizations, Config};
use crate::index::row::Row;

/// The moment at which all vectors were recorded.
const NOW: Now = Now::from_unix(Duration::from_millis(1_800_000_000_250));

fn list(value: &Value) -> &[Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

/// A request as the subscriber got it.
#[derive(Clone, Debug)]
struct Delivery {
    headers: HeaderMap,
    body: Bytes,
}

type Answers = Arc<dyn Fn(&Delivery) -> Option<(StatusCode, Vec<u8>)> + Send + Sync>;

#[derive(Clone)]
struct Subscriber {
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    answers: Answers,
}

impl Subscriber {
    /// Stands at 127.0.0.1:3002 as far as the broadcaster knows. `None` is an answer that never
    /// comes.
    async fn start(answers: Answers) -> (Self, PostConfig) {
        let own = Self {
            deliveries: Arc::default(),
            answers,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new()
            .fallback(receive)
            .with_state(own.clone());
        let service = hyper_util::service::TowerToHyperService::new(app);
        let (config, never) = Default::default();
        tokio::spawn(httppubsub_net::inbound::serve(
            listener, service, config, never,
        ));
        let pins = HashMap::from([(("127.0.0.1".to_owned(), 3002), address)]);
        let mut post = PostConfig::default();
        post.pins = pins;
        (own, post)
    }

    fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries.lock().unwrap())
    }
}

async fn receive(State(own): State<Subscriber>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let delivery = Delivery {
        headers: parts.headers,
        body,
    };
    own.deliveries.lock().unwrap().push(delivery.clone());
    let Some((status, body)) = (own.answers)(&delivery) else {
        return std::future::pending().await;
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}

fn confirming(to_broadcaster: Arc<dyn Authorization>) -> Answers {
    Arc::new(move |delivery| {
        let (head, _) = ReceiveHead::decode(&delivery.body).unwrap();
        let url = "http://127.0.0.1:3002/v1/receive";
        let (identifier, subscribers) = (&head.identifier, 1);
        let claim = Claim::ConfirmReceive {
            identifier,
            subscribers,
            url,
        };
        let confirm = ConfirmReceive {
            authorization: to_broadcaster
                .authorize(&claim, &[], &httppubsub_net::stamp(NOW))
                .unwrap(),
            tracing: Bytes::new(),
            identifier: head.identifier,
            subscribers,
        };
        Some((StatusCode::OK, confirm.encode()))
    })
}

struct Stage {
    broadcaster: Broadcaster,
    store: Arc<MemoryStore>,
    subscriber: Subscriber,
    secrets: Secrets,
}

impl Stage {
    async fn new(secrets: Secrets, answers: Option<Answers>) -> Self {
        let answers = answers.unwrap_or_else(|| confirming(secrets.to_broadcaster.authorization()));
        let (subscriber, post) = Subscriber::start(answers).await;
        let store = Arc::new(MemoryStore::new());
        let clock = Clock::standing_at(NOW);
        let config = Config {
            post,
            clock,
            ..Config::default()
        };
        let authorizations = Authorizations::from(&secrets);
        let broadcaster = Broadcaster::start(config, store.clone(), authorizations)
            .await
            .unwrap();
        Self {
            broadcaster,
            store,
            subscriber,
            secrets,
        }
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &Value,
        body: Vec<u8>,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers.as_object().into_iter().flatten() {
            request = request.header(name, value.as_str().unwrap());
        }
        let request = request.body(Body::from(body)).unwrap();
        let service = hyper_util::service::TowerToHyperService::new(self.broadcaster.router());
        let (parts, body) = service.call(request).await.unwrap().into_parts();
        (
            parts.status,
            parts.headers,
            body.collect().await.unwrap().to_bytes(),
        )
    }

    /// All rows, as the index knows them.
    fn rows(&self) -> BTreeSet<Subscription> {
        let rows = self.broadcaster.running.gauges.index.rows();
        let row = |row: &Row| Subscription {
            url: row.subscriber.url.clone(),
            interest: row.interest.clone(),
            recovery: row.recovery.clone(),
        };
        rows.iter().map(|it| row(it)).collect()
    }
}

fn subscriptions(rows: &Value) -> BTreeSet<Subscription> {
    let url = |value: &Value| SubscriberUrl::new(value.as_str().unwrap()).unwrap();
    let row = |row: &Value, interest| Subscription {
        url: url(&row["url"]),
        interest,
        recovery: (!row["recovery"].is_null()).then(|| url(&row["recovery"])),
    };
    let exacts = rows["exact"].as_array().unwrap().iter().map(|it| {
        let topic = Topic::new(unhex(it["topic"].as_str().unwrap())).unwrap();
        row(it, Interest::Exact(topic))
    });
    let globs = rows["globs"].as_array().unwrap().iter().map(|it| {
        row(
            it,
            Interest::Glob(GlobPattern::parse(it["glob"].as_str().unwrap()).unwrap()),
        )
    });
    exacts.chain(globs).collect()
}

#[tokio::test]
async fn the_recorded_conversation_goes_the_same_way() {
    let vectors = vectors("broadcaster.json");
    let stage = Stage::new(Secrets::NONE, None).await;
    let mut joined = false;
    for step in list(&vectors["steps"]) {
        if !joined && step["case"].as_str().unwrap().starts_with("fan-out") {
            joined = true;
            join(&stage).await;
        }
        let case = &step["case"];
        let (expected, path) = (&step["expected"], step["path"].as_str().unwrap());
        let body = unhex(step["body"].as_str().unwrap_or_default());
        let method = step["method"].as_str().unwrap();
        let (status, headers, body) = stage.ask(method, path, &step["headers"], body).await;
        assert_eq!(
            u64::from(status.as_u16()),
            expected["status"],
            "{case}: {body:?}"
        );
        // Overridden: of these answers only the one to a topic that nobody wants ends a row here
        // (`docs/design/threats.md` §5.1 no. 5).
        let ends_the_row = expected["body"] == hex(&UNSUBSCRIBE_IMMEDIATE);
        let is_overridden = ends_the_row && case != "fan-out: irrelevant topic";
        if is_overridden {
            assert_ne!(hex(&body), expected["body"], "{case}");
        }
        if let (false, Some(content_type)) = (is_overridden, expected["content_type"].as_str()) {
            assert_eq!(headers["content-type"], content_type, "{case}");
        }
        if let (false, Some(want)) = (is_overridden, expected["body"].as_str()) {
            assert_eq!(hex(&body), want, "{case}");
        }
        if let Some(subscribers) = expected["subscribers"].as_u64() {
            let response = NotifyResponse::decode(&body).unwrap();
            assert_eq!(u64::from(response.subscribers), subscribers, "{case}");
            assert_eq!(
                hex(response.identifier.as_bytes()),
                expected["identifier"],
                "{case}"
            );
            assert!(
                !NotifyTrace::entry_names(&response.tracing)
                    .unwrap()
                    .is_empty()
            );
        }
        let mut got: Vec<_> = stage.subscriber.take().iter().map(delivered).collect();
        got.sort();
        let want = expected["deliveries"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let mut want: Vec<_> = want
            .iter()
            .map(|it| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let digest = text(&it["headers"]["repr-digest"]);
                (text(&it["topic"]), text(&it["message"]), digest)
            })
            .collect();
        want.sort();
        assert_eq!(got, want, "{case}");
        if let Some(rows) = step.get("rows") {
            assert_eq!(stage.rows(), subscriptions(rows), "{case}");
        }
    }
}

/// The interest of websocket sessions that the recorded broadcaster had, and its rows.
async fn join(stage: &Stage) {
    let url = |path| SubscriberUrl::new(format!("http://127.0.0.1:3003/v1/{path}")).unwrap();
    for interest in [
        Interest::Exact(Topic::new("ws").unwrap()),
        Interest::Glob(GlobPattern::parse("ws/*").unwrap()),
    ] {
        let endpoints = &stage.broadcaster.running.endpoints;
        endpoints.forwarded.hub.count(&interest);
        let recovery = Some(url("missed_for_websockets"));
        let row = Subscription {
            url: url("receive_for_websockets"),
            interest,
            recovery,
        };
        stage.store.subscribe(row).await.unwrap();
    }
}

fn delivered(delivery: &Delivery) -> (String, String, String) {
    let (head, bytes) = ReceiveHead::decode(&delivery.body).unwrap();
    let digest = delivery.headers["repr-digest"].to_str().unwrap().to_owned();
    (
        hex(head.topic.as_bytes()),
        hex(&delivery.body[bytes..]),
        digest,
    )
}

#[tokio::test]
async fn set_applies_changed_recovery_urls() {
    let vectors = &vectors("broadcaster.json")["recovery_change"];
    let stage = Stage::new(Secrets::NONE, None).await;
    for row in subscriptions(&vectors["before"]) {
        stage.store.subscribe(row).await.unwrap();
    }
    let body = unhex(vectors["body"].as_str().unwrap());
    let (head, _) = SetHead::decode(&body).unwrap();
    let (status, ..) = stage
        .ask("POST", "/v1/set_subscriptions", &Value::Null, body)
        .await;
    assert_eq!(u64::from(status.as_u16()), vectors["expected"]["status"]);
    assert_eq!(stage.rows(), subscriptions(&vectors["expected"]["rows"]));
    assert_eq!(stage.store.etag(head.url).await.unwrap(), head.etag);
}

#[tokio::test]
async fn every_endpoint_asks_for_authorization_and_vouches_for_its_answer() {
    let vectors = vectors("broadcaster.json");
    for mode in ["token", "hmac"] {
        let stage = Stage::new(secrets(&vectors, mode), None).await;
        let mut seen = 0;
        for case in list(&vectors["authorized"]["cases"]) {
            if case["mode"] != mode {
                continue;
            }
            seen += 1;
            let path = case["path"].as_str().unwrap();
            let body = unhex(case["body"].as_str().unwrap());
            let asked = body.clone();
            let (status, _, body) = stage.ask("POST", path, &case["headers"], body).await;
            let what = format!("{mode} {} {path}: {body:?}", case["case"]);
            assert_eq!(
                u64::from(status.as_u16()),
                case["expected"]["status"],
                "{what}"
            );
            if status == StatusCode::OK {
                check_vouched(&stage.secrets, path, &asked, &body);
                if mode == "token" && path != "/v1/notify" {
                    assert_eq!(hex(&body), case["expected"]["body"], "{what}");
                }
            }
        }
        assert_eq!(seen, 21);
    }
}

/// Judges an answer as a subscriber does.
fn check_vouched(secrets: &Secrets, path: &str, asked: &[u8], body: &[u8]) {
    let scheme = secrets.to_subscriber.authorization();
    let check = |claim: &Claim<'_>, tracing: &[u8], value: Option<String>| {
        let value = value.as_ref().map(String::as_bytes);
        let _ = scheme.verify(claim, tracing, value, NOW).unwrap();
    };
    let generic = |claim: &Claim<'_>| {
        let GenericResponse {
            authorization,
            tracing,
        } = GenericResponse::decode(body).unwrap();
        check(claim, &tracing, authorization);
    };
    let kind = if path.ends_with("glob") {
        InterestKind::Glob
    } else {
        InterestKind::Exact
    };
    match path {
        "/v1/subscribe/exact" | "/v1/subscribe/glob" => {
            let it = SubscribeRequest::decode(kind, asked).unwrap();
            let recovery = it.recovery.as_ref().map(SubscriberUrl::as_str);
            let (url, interest) = (it.url.as_str(), &it.interest);
            generic(&Claim::ConfirmSubscribe {
                url,
                recovery,
                interest,
            });
        }
        "/v1/unsubscribe/exact" | "/v1/unsubscribe/glob" => {
            let it = UnsubscribeRequest::decode(kind, asked).unwrap();
            let (url, interest) = (it.url.as_str(), &it.interest);
            generic(&Claim::ConfirmSubscribe {
                url,
                recovery: None,
                interest,
            });
        }
        "/v1/check_subscriptions" => {
            CheckRequest::decode(asked).unwrap();
            let it = CheckResponse::decode(body).unwrap();
            check(
                &Claim::CheckResponse { etag: &it.etag },
                &it.tracing,
                it.authorization,
            );
        }
        "/v1/set_subscriptions" => {
            let (it, _) = SetHead::decode(asked).unwrap();
            generic(&Claim::SetResponse { etag: &it.etag });
        }
        "/v1/notify" => {
            let (head, _) = NotifyHead::decode(asked).unwrap();
            let it = NotifyResponse::decode(body).unwrap();
            let claim = Claim::ConfirmNotify {
                identifier: &it.identifier,
                subscribers: it.subscribers,
                topic: &head.topic,
                sha512: &head.sha512,
            };
            check(&claim, &it.tracing, it.authorization);
        }
        other => panic!("{other}"),
    }
}

async fn notify(stage: &Stage, topic: &str, message: &[u8]) -> NotifyResponse {
    let topic = Topic::new(topic).unwrap();
    let sha512 = httppubsub_proto::digest::Sha512::of(message);
    let identifier = Identifier::new(&b"1234"[..]).unwrap();
    let claim = Claim::Notify {
        topic: &topic,
        identifier: &identifier,
        sha512: &sha512,
    };
    let scheme = stage.secrets.to_broadcaster.authorization();
    let authorization = scheme
        .authorize(&claim, &[], &httppubsub_net::stamp(NOW))
        .unwrap();
    let head = NotifyHead {
        topic,
        sha512,
        tracing: Bytes::new(),
        identifier,
        message_bytes: message.len() as u64,
    };
    let headers = match authorization {
        Some(value) => serde_json::json!({ "authorization": value }),
        None => Value::Null,
    };
    let body = [head.encode(), message.to_vec()].concat();
    let (status, _, body) = stage.ask("POST", "/v1/notify", &headers, body).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    NotifyResponse::decode(&body).unwrap()
}

#[tokio::test]
async fn receive_is_posted_as_recorded() {
    let vectors = vectors("deliveries.json");
    let mut seen = 0;
    for sent in list(&vectors["sent"]["messages"]) {
        if sent["message"] != "RECEIVE" {
            continue;
        }
        seen += 1;
        let mode = sent["mode"].as_str().unwrap();
        let stage = Stage::new(
            secrets(&vectors, mode),
            Some(Arc::new(|_| {
                Some((StatusCode::SERVICE_UNAVAILABLE, Vec::new()))
            })),
        )
        .await;
        let fields = &sent["fields"];
        let text = |value: &Value| String::from_utf8(unhex(value.as_str().unwrap())).unwrap();
        let row_url = sent["row_url"].as_str().unwrap();
        let topic = text(&fields["topic"]);
        let row = Subscription {
            url: SubscriberUrl::new(row_url).unwrap(),
            interest: Interest::Exact(Topic::new(topic.clone()).unwrap()),
            recovery: None,
        };
        stage.store.subscribe(row).await.unwrap();
        let message = unhex(fields["message"].as_str().unwrap());
        assert_eq!(notify(&stage, &topic, &message).await.subscribers, 0);
        let [delivery] = &stage.subscriber.take()[..] else {
            panic!("{sent}")
        };
        let want = unhex(sent["request"]["body"].as_str().unwrap());
        let (head, bytes) = ReceiveHead::decode(&delivery.body).unwrap();
        let (want_head, want_bytes) = ReceiveHead::decode(&want).unwrap();
        // Ours is the first number of a line, where that of the vectors is 8 random bytes.
        assert_eq!(Number::of(&head.identifier).unwrap().number, 1);
        assert_eq!(delivery.body[bytes..], want[want_bytes..]);
        assert_eq!(
            ReceiveHead {
                identifier: want_head.identifier.clone(),
                ..head.clone()
            },
            want_head
        );
        for name in ["content-type", "repr-digest"] {
            assert_eq!(
                delivery.headers[name],
                sent["request"]["headers"][name].as_str().unwrap()
            );
        }
        assert!(!delivery.headers.contains_key("content-encoding"));
        let value = delivery
            .headers
            .get("authorization")
            .map(http::HeaderValue::as_bytes);
        assert_eq!(value.is_some(), mode != "none");
        let sha512 = httppubsub_proto::digest::Sha512::of(&message);
        let signed_url = sent["expected_signed_url"]
            .as_str()
            .or(sent["signed_url"].as_str());
        let claim = Claim::Receive {
            url: signed_url.unwrap_or(row_url),
            topic: &head.topic,
            identifier: &head.identifier,
            sha512: &sha512,
        };
        let _ = stage
            .secrets
            .to_subscriber
            .authorization()
            .verify(&claim, &[], value, NOW)
            .unwrap();
    }
    assert!(seen >= 6, "{seen}");
}

#[tokio::test]
async fn answers_to_receive_are_taken_as_recorded() {
    let vectors = vectors("deliveries.json");
    for case in list(&vectors["answers_to_receive"]["cases"]) {
        let answer = case["answer"].clone();
        let answers: Answers = Arc::new(move |delivery| {
            let body = answer["body_for_identifier_0000000000000000"].as_str()?;
            let (head, _) = ReceiveHead::decode(&delivery.body).unwrap();
            // With its length before it, which is another one than that of the vectors.
            let own = head.identifier.as_bytes();
            let own = format!("{:02x}{}", own.len(), hex(own));
            let body = body.replace("080000000000000000", &own);
            let status = StatusCode::from_u16(answer["status"].as_u64().unwrap() as u16).unwrap();
            Some((status, unhex(&body)))
        });
        let stage = match case["answer"].as_str() {
            Some(silence) => Stage::silent(silence == "TimeoutError").await,
            None => Stage::new(Secrets::NONE, Some(answers)).await,
        };
        let row = Subscription {
            url: SubscriberUrl::new("http://127.0.0.1:3002/v1/receive").unwrap(),
            interest: Interest::Exact(Topic::new("foo").unwrap()),
            recovery: Some(SubscriberUrl::new("http://127.0.0.1:3002/v1/recover").unwrap()),
        };
        stage.store.subscribe(row).await.unwrap();
        let response = notify(&stage, "foo", b"hello").await;
        let (expected, name) = (&case["expected"], &case["case"]);
        assert_eq!(
            u64::from(response.subscribers),
            expected["subscribers"],
            "{name}"
        );
        assert_eq!(
            !stage.rows().is_empty(),
            expected["still_subscribed"],
            "{name}"
        );
        let owed = stage.store.next_missed().await.unwrap();
        assert_eq!(owed.is_some(), expected["missed_recorded"], "{name}");
    }
}

impl Stage {
    /// A subscriber that never answers; with `connects` false it accepts no connection either.
    async fn silent(connects: bool) -> Self {
        let (subscriber, mut post) = Subscriber::start(Arc::new(|_| None)).await;
        post.answer_timeout = Duration::from_millis(200);
        if !connects {
            let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = closed.local_addr().unwrap();
            post.pins = HashMap::from([(("127.0.0.1".to_owned(), 3002), address)]);
        }
        let store = Arc::new(MemoryStore::new());
        let config = Config {
            post,
            clock: Clock::standing_at(NOW),
            ..Config::default()
        };
        let authorizations = Authorizations::from(&Secrets::NONE);
        let broadcaster = Broadcaster::start(config, store.clone(), authorizations)
            .await
            .unwrap();
        Self {
            broadcaster,
            store,
            subscriber,
            secrets: Secrets::NONE,
        }
    }
}
