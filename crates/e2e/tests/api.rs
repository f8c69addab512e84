//! The client library against a broadcaster, under every scheme of authorization.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use httppubsub_broadcaster::{Authorizations, Broadcaster, Config};
use httppubsub_client::{
    Bind, Client, ClientConfig, ClientConfigBuilder, Interest, Message, NotifyBody, NotifyError,
    Receiving, RequestError, SubscribeError, Subscription, SubscriptionsOf, Topic,
};
use httppubsub_e2e::{PATIENCE, exact, glob, url};
use httppubsub_net::{ServeConfig, SpoolConfig, random_bytes};
use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_store::MemoryStore;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn secrets() -> [Secrets; 3] {
    let token = |text: &str| Scheme::Token(text.to_owned());
    let hmac = || Scheme::Hmac(random_bytes());
    [
        Secrets::NONE,
        Secrets {
            to_broadcaster: token("to b"),
            to_subscriber: token("to s"),
        },
        Secrets {
            to_broadcaster: hmac(),
            to_subscriber: hmac(),
        },
    ]
}

/// A broadcaster in this process.
struct Stage {
    address: SocketAddr,
    secrets: Secrets,
}

impl Stage {
    async fn new(secrets: Secrets) -> Self {
        let authorizations = Authorizations::from(&secrets);
        let store = Arc::new(MemoryStore::new());
        let broadcaster = Broadcaster::start(Config::default(), store, authorizations);
        let address = serve(broadcaster.await.unwrap().router()).await;
        Self { address, secrets }
    }

    fn builder(&self) -> ClientConfigBuilder {
        ClientConfig::builder([format!("http://{}", self.address)]).secrets(&self.secrets)
    }

    async fn client(&self) -> Client {
        Client::start(self.builder().build().unwrap())
            .await
            .unwrap()
    }

    /// Whether the broadcaster holds exactly `interests` for a client.
    async fn holds(&self, client: &Client, interests: &[Interest]) -> bool {
        let receive = client.receive_url().unwrap();
        let recovery = url(&receive.replace("/v1/receive", "/v1/recover"));
        let set = interests
            .iter()
            .map(|it| (it.clone(), Some(recovery.clone())));
        let set: SubscriptionSet = set.collect();
        let of = SubscriptionsOf::new(&self.builder().build().unwrap(), url(receive), None);
        of.etag().await.unwrap() == set.etag(of.url())
    }

    /// Waits until it does.
    async fn comes_to_hold(&self, client: &Client, interests: &[Interest]) {
        let holds = async {
            while !self.holds(client, interests).await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, holds).await.unwrap();
    }
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_at(listener, app);
    address
}

fn serve_at(listener: TcpListener, app: Router) {
    let (service, never) = (TowerToHyperService::new(app), CancellationToken::new());
    tokio::spawn(httppubsub_net::serve(
        listener,
        service,
        ServeConfig::default(),
        never,
    ));
}

async fn next(subscription: &mut Subscription) -> Message {
    tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .unwrap()
        .unwrap()
}

async fn text(subscription: &mut Subscription) -> String {
    String::from_utf8(next(subscription).await.bytes().await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn what_is_notified_is_received_under_every_scheme() {
    for secrets in secrets() {
        let stage = Stage::new(secrets).await;
        let client = stage.client().await;
        let mut topic = client.subscribe_exact("a/b").await.unwrap();
        let mut pattern = client.subscribe_glob("a/*").await.unwrap();
        let mut binary = client.subscribe_exact([0xff, 0]).await.unwrap();
        // Two rows match, so each subscription that matches gets two copies.
        assert_eq!(client.notify("a/b", "text").await.unwrap().subscribers, 2);
        for subscription in [&mut topic, &mut pattern] {
            for _ in 0..2 {
                let message = next(subscription).await;
                assert_eq!(message.topic, Topic::new("a/b").unwrap());
                assert_eq!(
                    (message.bytes().await.unwrap(), message.sha512()),
                    ("text".into(), &Sha512::of(b"text"))
                );
            }
        }
        assert_eq!(client.notify([0xff, 0], "").await.unwrap().subscribers, 1);
        assert!(next(&mut binary).await.payload.is_empty());
        assert_eq!(client.notify("nobody", "x").await.unwrap().subscribers, 0);
        client.close().await.unwrap();
        assert!(topic.next().await.is_none());
    }
}

#[tokio::test]
async fn a_path_prefix_and_a_fragment_work_under_every_scheme() {
    for secrets in secrets() {
        let stage = Stage::new(secrets).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let host = format!("http://{address}/some/prefix#two");
        let config = stage
            .builder()
            .bind(Bind::Mounted)
            .host(host)
            .build()
            .unwrap();
        let client = Client::start(config).await.unwrap();
        serve_at(
            listener,
            Router::new().nest("/some/prefix", client.router()),
        );
        let mut subscription = client.subscribe_exact("t").await.unwrap();
        for number in ["1", "2"] {
            assert_eq!(client.notify("t", number).await.unwrap().subscribers, 1);
            assert_eq!(text(&mut subscription).await, number);
        }
        assert!(stage.holds(&client, &[exact("t")]).await);
    }
}

#[tokio::test]
async fn subscriptions_to_the_same_cost_one_row_and_go_one_at_a_time() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let client = stage.client().await;
    let first = client.subscribe_exact("t").await.unwrap();
    let second = client.subscribe([exact("t"), glob("t*")]).await.unwrap();
    assert!(stage.holds(&client, &[exact("t"), glob("t*")]).await);
    second.close().await.unwrap();
    assert!(stage.holds(&client, &[exact("t")]).await);
    assert_eq!(client.notify("t", "x").await.unwrap().subscribers, 1);
    // Dropping unsubscribes as well, in its own time.
    drop(first);
    stage.comes_to_hold(&client, &[]).await;
    assert_eq!(client.notify("t", "x").await.unwrap().subscribers, 0);
}

#[tokio::test]
async fn what_a_subscription_wants_changes_while_it_is_open() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let client = stage.client().await;
    let mut subscription = client.subscribe_multi().await.unwrap();
    let interests = subscription.interests();
    interests.add(exact("a")).await.unwrap();
    subscription.add(glob("b*")).await.unwrap();
    assert_eq!(interests.list(), [exact("a"), glob("b*")]);
    for topic in ["a", "bcd", "other"] {
        client.notify(topic, topic).await.unwrap();
    }
    assert_eq!(text(&mut subscription).await, "a");
    assert_eq!(text(&mut subscription).await, "bcd");
    interests.remove(&exact("a")).await.unwrap();
    assert!(stage.holds(&client, &[glob("b*")]).await);
    assert_eq!(client.notify("a", "x").await.unwrap().subscribers, 0);
    let refused = interests
        .add(Interest::Exact(Topic::new(vec![0; 65_535]).unwrap()))
        .await;
    refused.unwrap();
}

#[tokio::test]
async fn waiting_may_end_at_any_time_without_losing_a_message() {
    let stage = Stage::new(Secrets::NONE).await;
    let client = stage.client().await;
    let subscription = client.subscribe_exact("t").await.unwrap();
    let mut subscription = subscription.with_timeout(Duration::from_millis(1));
    assert!(subscription.next().await.unwrap().is_none(), "nothing came");
    let notify = async {
        for number in 0..50 {
            client.notify("t", format!("{number}")).await.unwrap();
        }
    };
    let receive = async {
        let mut received = Vec::new();
        while received.len() < 50 {
            if let Some(message) = subscription.next().await.unwrap() {
                let bytes = message.bytes().await.unwrap();
                received.push(String::from_utf8_lossy(&bytes).parse::<u32>().unwrap());
            }
        }
        received
    };
    let (received, ()) = tokio::join!(receive, notify);
    assert_eq!(received, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_gap_is_told_before_any_later_message() {
    for secrets in secrets() {
        let stage = Stage::new(secrets).await;
        let broken = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        let config = stage
            .builder()
            .bind(Bind::Mounted)
            .host(host)
            .build()
            .unwrap();
        let client = Client::start(config).await.unwrap();
        let gate = broken.clone();
        let app = client
            .router()
            .layer(from_fn(move |request: Request, next: Next| {
                let broken = gate.load(Ordering::SeqCst) && request.uri().path() == "/v1/receive";
                async move {
                    match broken {
                        true => StatusCode::BAD_GATEWAY.into_response(),
                        false => next.run(request).await,
                    }
                }
            }));
        serve_at(listener, app);
        let mut subscription = client.subscribe_exact("t").await.unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = seen.clone();
        subscription.on_receiving(move |receiving: Receiving| {
            told.lock().unwrap().push(format!("{receiving:?}"));
            async {}
        });
        let mut take = async |seen: &Mutex<Vec<String>>| {
            let text = text(&mut subscription).await;
            seen.lock().unwrap().push(text);
        };
        assert_eq!(client.notify("t", "1").await.unwrap().subscribers, 1);
        take(&seen).await;
        broken.store(true, Ordering::SeqCst);
        assert_eq!(client.notify("t", "lost").await.unwrap().subscribers, 0);
        broken.store(false, Ordering::SeqCst);
        // The notice comes after some seconds; a message behind it ends the wait for it.
        let of = async {
            // Cancelled again and again, which loses nothing.
            while tokio::time::timeout(Duration::from_millis(200), take(&seen))
                .await
                .is_err()
            {
                if seen.lock().unwrap().iter().any(|it| it == "AfterGap") {
                    assert_eq!(client.notify("t", "2").await.unwrap().subscribers, 1);
                }
            }
        };
        tokio::time::timeout(PATIENCE, of).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["Began", "1", "AfterGap", "2"]);
    }
}

#[tokio::test]
async fn a_slow_subscription_is_told_what_it_lost_and_holds_up_no_other() {
    let stage = Stage::new(Secrets::NONE).await;
    let client = Client::start(stage.builder().queue_max(2).build().unwrap())
        .await
        .unwrap();
    let gaps = Arc::new(Mutex::new(0));
    let mut slow = client.subscribe_exact("t").await.unwrap();
    let counted = gaps.clone();
    slow.on_receiving(move |receiving| {
        *counted.lock().unwrap() += u32::from(receiving == Receiving::AfterGap);
        async {}
    });
    let mut quick = client.subscribe_exact("t").await.unwrap();
    for number in ["1", "2", "3", "4"] {
        assert_eq!(client.notify("t", number).await.unwrap().subscribers, 1);
        assert_eq!(text(&mut quick).await, number);
    }
    assert_eq!(text(&mut slow).await, "1");
    assert_eq!(text(&mut slow).await, "2");
    assert_eq!(*gaps.lock().unwrap(), 0);
    client.notify("t", "5").await.unwrap();
    assert_eq!(text(&mut slow).await, "5");
    assert_eq!(*gaps.lock().unwrap(), 1);
}

#[tokio::test]
async fn messages_of_every_origin_and_size_arrive_whole() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    // Everything above 100 kB goes through files, at this end.
    let spool = SpoolConfig {
        memory_each_max: 100_000,
        ..SpoolConfig::default()
    };
    let config = stage.builder().spool(spool).build().unwrap();
    let client = Client::start(config).await.unwrap();
    let mut subscription = client.subscribe_exact("t").await.unwrap();
    let large: Vec<u8> = random_bytes::<4096>().repeat(12 * 256);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, &large).unwrap();
    let mut at_offset = std::fs::File::open(&path).unwrap();
    at_offset.seek(SeekFrom::Start(1_000)).unwrap();
    let small = &large[..500];
    let cases: [(NotifyBody, &[u8]); 6] = [
        (NotifyBody::from(small), small),
        (NotifyBody::from(large.clone()), &large),
        (NotifyBody::path(&path), &large),
        (NotifyBody::file(at_offset), &large[1_000..]),
        (
            NotifyBody::reader(std::io::Cursor::new(large.clone())),
            &large,
        ),
        (
            NotifyBody::reader_of(std::io::Cursor::new(large.clone()), large.len() as u64),
            &large,
        ),
    ];
    for (body, want) in cases {
        let mut progress = Vec::new();
        let told = |sent, all| progress.push((sent, all));
        let notified = client.notify_with_progress("t", body, told).await.unwrap();
        let bytes = want.len() as u64;
        assert_eq!(
            (notified.subscribers, notified.bytes, notified.sha512),
            (1, bytes, Sha512::of(want))
        );
        assert_eq!(progress.last(), Some(&(bytes, bytes)));
        let message = next(&mut subscription).await;
        assert_eq!(message.payload.in_memory().is_some(), bytes <= 100_000);
        assert!(message.bytes().await.unwrap() == want);
    }
    for announced in [499, 501] {
        let body = NotifyBody::reader_of(std::io::Cursor::new(small.to_vec()), announced);
        let error = client.notify("t", body).await.unwrap_err();
        assert!(matches!(error, NotifyError::Length { .. }), "{error}");
    }
    let error = client
        .notify("t", NotifyBody::path(folder.path().join("none")))
        .await
        .unwrap_err();
    assert!(
        matches!(error, NotifyError::Body(_)) && !error.is_ambiguous(),
        "{error}"
    );
    std::fs::File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"!")
        .unwrap();
    assert_eq!(client.notify("t", "last").await.unwrap().subscribers, 1);
    assert_eq!(text(&mut subscription).await, "last");
}

#[tokio::test]
async fn who_is_asked_and_what_came_of_it_is_told_apart() {
    let [_, token, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (gone, here) = (
        format!("http://{gone}"),
        format!("http://{}", stage.address),
    );
    let client = async |broadcasters: Vec<&str>, secrets: &Secrets| {
        let config = ClientConfig::builder(broadcasters)
            .secrets(secrets)
            .bind(Bind::Nothing);
        Client::start(config.passes(1).build().unwrap())
            .await
            .unwrap()
    };
    // Whoever cannot do it is passed over.
    let both = client(vec![&gone, &here], &stage.secrets).await;
    for _ in 0..10 {
        assert_eq!(both.notify("t", "x").await.unwrap().subscribers, 0);
    }
    let none = client(vec![&gone], &stage.secrets).await;
    let error = none.notify("t", "x").await.unwrap_err();
    assert!(
        matches!(
            error,
            NotifyError::Request(RequestError::RetriesExhausted { .. })
        ),
        "{error:?}"
    );
    let wrong = client(vec![&here], &token).await;
    let error = wrong.notify("t", "x").await.unwrap_err();
    let NotifyError::Request(RequestError::Refused { status, reason, .. }) = error else {
        panic!("{error:?}")
    };
    assert!(
        status == 403 && reason.contains("authorization is wrong"),
        "{status} {reason}"
    );
    let error = both.subscribe_exact("t").await.unwrap_err();
    assert!(matches!(error, SubscribeError::CannotReceive), "{error:?}");
    assert!(both.local_addr().is_none() && both.receive_url().is_none());
    // A broadcaster that takes the request and says nothing may have done it.
    let silent = serve(Router::new().fallback(async || {
        Response::builder()
            .status(200)
            .body(axum::body::Body::from("?"))
            .unwrap()
    }));
    let silent = format!("http://{}", silent.await);
    let error = client(vec![&silent], &stage.secrets)
        .await
        .notify("t", "x")
        .await
        .unwrap_err();
    assert!(error.is_ambiguous(), "{error:?}");
}

#[tokio::test]
async fn what_was_changed_behind_its_back_is_put_right() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let config = stage
        .builder()
        .reconcile_interval(Duration::from_millis(50))
        .build()
        .unwrap();
    let client = Client::start(config).await.unwrap();
    let _subscription = client.subscribe([exact("a"), glob("b*")]).await.unwrap();
    let receive = url(client.receive_url().unwrap());
    let of = SubscriptionsOf::new(&stage.builder().build().unwrap(), receive, None);
    of.remove(&exact("a")).await.unwrap();
    of.add(&exact("c")).await.unwrap();
    stage
        .comes_to_hold(&client, &[exact("a"), glob("b*")])
        .await;
}

#[tokio::test]
async fn a_client_that_starts_again_at_the_same_place_keeps_one_set_of_rows() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let before = stage.client().await;
    let address = before.local_addr().unwrap();
    let left = before.subscribe([exact("a"), exact("b")]).await.unwrap();
    // Killed: it never gets to unsubscribe.
    let kept = SubscriptionsOf::new(
        &stage.builder().build().unwrap(),
        url(before.receive_url().unwrap()),
        None,
    );
    let etag = kept.etag().await.unwrap();
    before.close().await.unwrap();
    drop(left);
    let recovery = url(&format!("http://{address}/v1/recover"));
    let rows = [exact("a"), exact("b")].map(|it| (it, Some(recovery.clone())));
    kept.set(&rows.into_iter().collect()).await.unwrap();
    assert_eq!(kept.etag().await.unwrap(), etag);

    let config = stage.builder().bind(Bind::To(address)).build().unwrap();
    let after = Client::start(config).await.unwrap();
    let _subscription = after.subscribe([exact("b"), exact("c")]).await.unwrap();
    assert!(stage.holds(&after, &[exact("b"), exact("c")]).await);
}
