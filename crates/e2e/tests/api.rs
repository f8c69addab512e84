//! The client library against a broadcaster, under every scheme of authorization.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::{Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse as _;
use futures_util::StreamExt as _;
use httppubsub_broadcaster::{Authorizations, Broadcaster, Config};
use httppubsub_client::{
    Bind, BroadcasterAddress, Client, ClientConfig, ClientConfigBuilder, Interest, Message,
    NotifyBody, NotifyError, Receiving, RequestError, SubscribeError, Subscription,
    SubscriptionEndedError, SubscriptionsAdmin, Topic, UnsubscribeError, WebSocketConfig,
};
use httppubsub_e2e::{Asked, Connection, Deaf, PATIENCE, Signer, exact, glob, url};
use httppubsub_net::body::SpoolConfig;
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::random_bytes;
use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::paths;
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_store::MemoryStore;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

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

/// Sees what is asked of an app, and answers in its place where it is told to.
#[derive(Clone)]
struct Tap {
    /// The paths of all requests that were answered.
    answered: watch::Sender<Vec<String>>,
    broken: Arc<Mutex<Option<(&'static str, StatusCode)>>>,
}

impl Tap {
    fn new() -> Self {
        Self {
            answered: watch::Sender::new(Vec::new()),
            broken: Arc::default(),
        }
    }

    fn on(&self, app: Router) -> Router {
        let own = self.clone();
        app.layer(from_fn(move |request: Request, next: Next| {
            let own = own.clone();
            async move {
                let path = request.uri().path().to_owned();
                let broken = *own.broken.lock().unwrap();
                let response = match broken {
                    Some((ending, status)) if path.ends_with(ending) => status.into_response(),
                    _ => next.run(request).await,
                };
                own.answered.send_modify(|answered| answered.push(path));
                response
            }
        }))
    }

    /// From now on, requests whose path ends so are answered with nothing but `status`.
    fn breaks(&self, ending: &'static str, status: StatusCode) {
        *self.broken.lock().unwrap() = Some((ending, status));
    }

    /// From now on, the app answers again.
    fn mends(&self) {
        *self.broken.lock().unwrap() = None;
    }

    fn count(&self, ending: &str) -> usize {
        count(&self.answered.borrow(), ending)
    }

    /// Waits until so many requests whose path ends so were answered.
    async fn comes_to_see(&self, ending: &str, requests: usize) {
        let mut answered = self.answered.subscribe();
        let seen = answered.wait_for(|paths| count(paths, ending) >= requests);
        tokio::time::timeout(PATIENCE, seen).await.unwrap().unwrap();
    }
}

fn count(paths: &[String], ending: &str) -> usize {
    paths.iter().filter(|path| path.ends_with(ending)).count()
}

/// How clients receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Http,
    WebSocket,
}

const BOTH: [Transport; 2] = [Transport::Http, Transport::WebSocket];

/// A broadcaster in this process.
struct Stage {
    transport: Transport,
    url: String,
    router: Router,
    tap: Tap,
    secrets: Secrets,
}

impl Stage {
    async fn new(secrets: Secrets) -> Self {
        Self::at(secrets, "").await
    }

    /// One that is mounted under `prefix`.
    async fn at(secrets: Secrets, prefix: &str) -> Self {
        let mut config = Config::default();
        config.missed.expo_factor = Duration::from_millis(10);
        config.missed.constant = Duration::ZERO;
        config.missed.jitter = Duration::ZERO;
        let authorizations = Authorizations::from(&secrets);
        let store = Arc::new(MemoryStore::new());
        let broadcaster = Broadcaster::start(config, store, authorizations).await;
        let router = broadcaster.unwrap().router();
        let tap = Tap::new();
        let app = match prefix {
            "" => router.clone(),
            prefix => Router::new().nest(prefix, router.clone()),
        };
        let url = format!("http://{}{prefix}", serve(tap.on(app)).await);
        Self {
            transport: Transport::Http,
            url,
            router,
            tap,
            secrets,
        }
    }

    /// The same, with clients that receive so.
    fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    fn builder(&self) -> ClientConfigBuilder {
        let builder = ClientConfig::builder([self.url.as_str()]).secrets(&self.secrets);
        match self.transport {
            Transport::Http => builder,
            Transport::WebSocket => builder.websocket(WebSocketConfig::default()),
        }
    }

    async fn client(&self) -> Client {
        start(self.builder()).await
    }

    /// A client that is reached at `prefix` of a server of the test's, and the tap on the way.
    async fn mounted(&self, prefix: &str, fragment: &str) -> (Client, Tap) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let host = format!("http://{address}{prefix}{fragment}");
        let client = start(self.builder().bind(Bind::Mounted).host(host)).await;
        let app = match prefix {
            "" => client.router(),
            prefix => Router::new().nest(prefix, client.router()),
        };
        let tap = Tap::new();
        serve_at(listener, tap.on(app));
        (client, tap)
    }

    /// The rows of a client.
    fn rows_of(&self, client: &Client) -> SubscriptionsAdmin {
        let receive = url(client.receive_url().unwrap());
        SubscriptionsAdmin::new(&self.builder().build().unwrap(), receive, None)
    }

    /// Whether the broadcaster holds exactly `interests` for a client.
    async fn holds(&self, client: &Client, interests: &[Interest]) -> bool {
        let of = self.rows_of(client);
        of.etag().await.unwrap() == rows(client, interests).etag(of.url())
    }

    /// Waits until it does.
    async fn comes_to_hold(&self, client: &Client, interests: &[Interest]) {
        let holds = async {
            while !self.holds(client, interests).await {
                yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, holds).await.unwrap();
    }
}

/// What the broadcaster should hold for a client that wants `interests`.
fn rows(client: &Client, interests: &[Interest]) -> SubscriptionSet {
    let receive = client.receive_url().unwrap();
    let recovery = url(&receive.replace("/v1/receive", "/v1/recover"));
    let row = |interest: &Interest| (interest.clone(), Some(recovery.clone()));
    interests.iter().map(row).collect()
}

async fn start(builder: ClientConfigBuilder) -> Client {
    Client::start(builder.build().unwrap()).await.unwrap()
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_at(listener, app);
    address
}

fn serve_at(listener: TcpListener, app: Router) {
    let (service, never) = (TowerToHyperService::new(app), CancellationToken::new());
    tokio::spawn(httppubsub_net::inbound::serve(
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

/// The same subscription, and where it was told that it begins to receive.
fn told(mut subscription: Subscription) -> (Subscription, Arc<Mutex<Vec<Receiving>>>) {
    let seen: Arc<Mutex<Vec<Receiving>>> = Arc::default();
    let writing = seen.clone();
    subscription.on_gap(move |receiving| {
        writing.lock().unwrap().push(receiving);
        async {}
    });
    (subscription, seen)
}

#[tokio::test]
async fn what_is_notified_is_received_under_every_scheme() {
    for transport in BOTH {
        for secrets in secrets() {
            let stage = Stage::new(secrets).await.over(transport);
            let client = stage.client().await;
            let mut topic = client.subscribe_exact("a/b").await.unwrap();
            let mut pattern = client.subscribe_glob("a/*").await.unwrap();
            let mut binary = client.subscribe_exact([0xff, 0]).await.unwrap();
            // Two rows match, so each subscription that matches gets two copies; over a websocket,
            // one.
            let copies = match transport {
                Transport::Http => 2,
                Transport::WebSocket => 1,
            };
            let notified = client.notify("a/b", "text").await.unwrap();
            assert_eq!(notified.subscribers, copies);
            for subscription in [&mut topic, &mut pattern] {
                for _ in 0..copies {
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
}

#[tokio::test]
async fn path_prefixes_and_a_fragment_work_under_every_scheme() {
    for secrets in secrets() {
        let stage = Stage::at(secrets, "/b").await;
        let (client, tap) = stage.mounted("/some/prefix", "#two").await;
        let (mut subscription, seen) = told(client.subscribe_exact("t").await.unwrap());
        for number in ["1", "2"] {
            assert_eq!(client.notify("t", number).await.unwrap().subscribers, 1);
            assert_eq!(text(&mut subscription).await, number);
        }
        assert!(stage.holds(&client, &[exact("t")]).await);
        tap.breaks("/v1/receive", StatusCode::BAD_GATEWAY);
        assert_eq!(client.notify("t", "lost").await.unwrap().subscribers, 0);
        tap.comes_to_see("/some/prefix/v1/recover", 1).await;
        tap.mends();
        assert_eq!(client.notify("t", "3").await.unwrap().subscribers, 1);
        assert_eq!(text(&mut subscription).await, "3");
        assert_eq!(
            *seen.lock().unwrap(),
            [Receiving::First, Receiving::AfterGap]
        );
        client.close().await.unwrap();
        assert!(stage.holds(&client, &[]).await);
    }
}

/// Two instances behind one balancer.
#[tokio::test]
async fn clients_at_one_place_that_differ_by_their_fragments_keep_their_rows() {
    for secrets in secrets() {
        let stage = Stage::new(secrets).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        let instance = async |fragment: &str| {
            let host = format!("{host}{fragment}");
            start(stage.builder().bind(Bind::Mounted).host(host)).await
        };
        let clients = [instance("#1").await, instance("#2").await];
        let turn = Arc::new(AtomicUsize::new(0));
        let routers = clients.each_ref().map(Client::router);
        serve_at(
            listener,
            Router::new().fallback(move |request: Request| {
                let mut router = routers[turn.fetch_add(1, Ordering::SeqCst) % 2].clone();
                async move { router.call(request).await }
            }),
        );
        let [one, two] = &clients;
        let mut first = one.subscribe_exact("t").await.unwrap();
        let mut second = two.subscribe([exact("t"), exact("u")]).await.unwrap();
        assert!(stage.holds(one, &[exact("t")]).await);
        assert!(stage.holds(two, &[exact("t"), exact("u")]).await);
        // Each row's delivery goes to either instance, which takes it for what it is.
        assert_eq!(one.notify("t", "x").await.unwrap().subscribers, 2);
        assert_eq!(text(&mut first).await, "x");
        assert_eq!(text(&mut second).await, "x");
        two.close().await.unwrap();
        assert!(stage.holds(one, &[exact("t")]).await);
        assert!(stage.holds(two, &[]).await);
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
    for transport in BOTH {
        let [_, _, hmac] = secrets();
        let stage = Stage::new(hmac).await.over(transport);
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
        if transport == Transport::Http {
            assert!(stage.holds(&client, &[glob("b*")]).await);
        }
        assert_eq!(client.notify("a", "x").await.unwrap().subscribers, 0);
        // The longest topic there is.
        let longest = Interest::Exact(Topic::new(vec![0; 65_535]).unwrap());
        interests.add(longest.clone()).await.unwrap();
        if transport == Transport::Http {
            assert!(stage.holds(&client, &[longest, glob("b*")]).await);
        }
        let error = client.subscribe_exact(vec![0; 65_536]).await.unwrap_err();
        assert!(matches!(error, SubscribeError::Topic(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_small_change_of_many_subscriptions_is_told_alone() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let client = stage.client().await;
    let many: Vec<_> = (0..600).map(|number| exact(&format!("{number}"))).collect();
    let _many = client.subscribe(many.clone()).await.unwrap();
    let sets = stage.tap.count(paths::SET_SUBSCRIPTIONS);
    let mut one = client.subscribe([exact("one")]).await.unwrap();
    let pattern = client.subscribe_glob("pattern*").await.unwrap();
    assert_eq!(client.notify("one", "x").await.unwrap().subscribers, 1);
    assert_eq!(text(&mut one).await, "x");
    one.close().await.unwrap();
    pattern.close().await.unwrap();
    for path in [
        paths::SUBSCRIBE_EXACT,
        paths::SUBSCRIBE_GLOB,
        paths::UNSUBSCRIBE_EXACT,
        paths::UNSUBSCRIBE_GLOB,
    ] {
        assert_eq!(stage.tap.count(path), 1, "{path}");
    }
    assert_eq!(stage.tap.count(paths::SET_SUBSCRIPTIONS), sets);
    assert!(stage.holds(&client, &many).await);
}

#[tokio::test]
async fn a_subscription_that_was_refused_is_not_counted() {
    let stage = Stage::new(Secrets::NONE).await;
    let client = stage.client().await;
    stage
        .tap
        .breaks(paths::SET_SUBSCRIPTIONS, StatusCode::FORBIDDEN);
    let error = client.subscribe_exact("t").await.unwrap_err();
    let SubscribeError::Request(RequestError::Refused { status, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(status, 403);
    stage.tap.mends();
    // Were it counted, the broadcaster would not be asked again.
    let _subscription = client.subscribe_exact("t").await.unwrap();
    assert!(stage.holds(&client, &[exact("t")]).await);
}

#[tokio::test]
async fn a_subscription_that_nobody_waits_for_any_more_is_given_up() {
    let stage = Stage::new(Secrets::NONE).await;
    let client = stage.client().await;
    tokio::select! {
        biased;
        _ = client.subscribe_exact("t") => panic!("the broadcaster has not answered yet"),
        () = yield_now() => {}
    }
    // Subscribed, and unsubscribed.
    stage.tap.comes_to_see(paths::SET_SUBSCRIPTIONS, 2).await;
    assert!(stage.holds(&client, &[]).await);
}

#[tokio::test]
async fn waiting_may_end_at_any_time_without_losing_a_message() {
    for transport in BOTH {
        let stage = Stage::new(Secrets::NONE).await.over(transport);
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
}

#[tokio::test]
async fn next_may_be_dropped_at_any_time() {
    for transport in BOTH {
        let stage = Stage::new(Secrets::NONE).await.over(transport);
        let client = stage.client().await;
        let mut subscription = client.subscribe_exact("t").await.unwrap();
        subscription.on_gap(|_| yield_now());
        let publisher = client.clone();
        let notifying = tokio::spawn(async move {
            for number in 0..50 {
                let text = number.to_string();
                publisher.notify("t", text).await.unwrap();
            }
        });
        let (mut received, mut dropped) = (Vec::new(), 0);
        let receiving = async {
            while received.len() < 50 {
                tokio::select! {
                    biased;
                    message = subscription.next() => {
                        received.push(message.unwrap().bytes().await.unwrap());
                    }
                    () = yield_now() => dropped += 1,
                }
            }
        };
        tokio::time::timeout(PATIENCE, receiving).await.unwrap();
        notifying.await.unwrap();
        assert!(dropped > 50, "{dropped}");
        for (number, text) in received.iter().enumerate() {
            assert_eq!(text, number.to_string().as_bytes());
        }
    }
}

#[tokio::test]
async fn a_subscription_is_a_stream() {
    for transport in BOTH {
        let stage = Stage::new(Secrets::NONE).await.over(transport);
        let client = stage.client().await;
        let subscription = client.subscribe_exact("t").await.unwrap();
        let publisher = client.clone();
        for text in ["1", "2"] {
            publisher.notify("t", text).await.unwrap();
        }
        let texts = subscription.then(async |message| message.bytes().await.unwrap());
        let texts: Vec<_> = texts.take(2).collect().await;
        assert_eq!(texts, ["1", "2"]);
    }
}

#[tokio::test]
async fn a_gap_is_told_before_any_later_message() {
    for secrets in secrets() {
        let stage = Stage::new(secrets).await;
        let (client, tap) = stage.mounted("", "").await;
        let (mut subscription, seen) = told(client.subscribe_exact("t").await.unwrap());
        assert_eq!(client.notify("t", "1").await.unwrap().subscribers, 1);
        assert_eq!(text(&mut subscription).await, "1");
        assert_eq!(*seen.lock().unwrap(), [Receiving::First]);
        tap.breaks("/v1/receive", StatusCode::BAD_GATEWAY);
        assert_eq!(client.notify("t", "lost").await.unwrap().subscribers, 0);
        tap.comes_to_see("/v1/recover", 1).await;
        tap.mends();
        assert_eq!(client.notify("t", "2").await.unwrap().subscribers, 1);
        assert_eq!(text(&mut subscription).await, "2");
        assert_eq!(
            *seen.lock().unwrap(),
            [Receiving::First, Receiving::AfterGap]
        );
    }
}

#[tokio::test]
async fn what_runs_at_a_gap_is_done_before_a_later_message_is_yielded() {
    for transport in BOTH {
        let stage = Stage::new(Secrets::NONE).await.over(transport);
        let client = stage.client().await;
        let mut subscription = client.subscribe_exact("t").await.unwrap();
        let (runs, may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, awaited) = (runs.clone(), may_end.clone());
        subscription.on_gap(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let awaited = awaited.clone();
            async move { awaited.acquire().await.unwrap().forget() }
        });
        client.notify("t", "1").await.unwrap();
        for _ in 0..100 {
            tokio::select! {
                biased;
                message = subscription.next() => panic!("{message:?} came before its time"),
                () = yield_now() => {}
            }
        }
        may_end.add_permits(1);
        assert_eq!(text(&mut subscription).await, "1");
        assert_eq!(
            runs.load(Ordering::SeqCst),
            1,
            "dropping `next` does not run it anew"
        );
    }
}

#[tokio::test]
async fn a_message_that_no_subscription_has_room_for_is_not_confirmed() {
    let stage = Stage::new(Secrets::NONE).await;
    let client = start(stage.builder().queue_max(1)).await;
    let (mut subscription, seen) = told(client.subscribe_exact("t").await.unwrap());
    assert_eq!(client.notify("t", "1").await.unwrap().subscribers, 1);
    assert_eq!(client.notify("t", "lost").await.unwrap().subscribers, 0);
    assert_eq!(text(&mut subscription).await, "1");
    assert_eq!(client.notify("t", "2").await.unwrap().subscribers, 1);
    assert_eq!(text(&mut subscription).await, "2");
    assert!(seen.lock().unwrap().contains(&Receiving::AfterGap));
}

#[tokio::test]
async fn a_slow_subscription_is_told_what_it_lost_and_holds_up_no_other() {
    for transport in BOTH {
        let stage = Stage::new(Secrets::NONE).await.over(transport);
        let client = start(stage.builder().queue_max(2)).await;
        let (mut slow, seen) = told(client.subscribe_exact("t").await.unwrap());
        let (mut quick, none) = told(client.subscribe_exact("t").await.unwrap());
        for number in ["1", "2", "3", "4"] {
            assert_eq!(client.notify("t", number).await.unwrap().subscribers, 1);
            assert_eq!(text(&mut quick).await, number);
        }
        assert_eq!(text(&mut slow).await, "1");
        assert_eq!(text(&mut slow).await, "2");
        assert_eq!(*seen.lock().unwrap(), [Receiving::First]);
        client.notify("t", "5").await.unwrap();
        assert_eq!(text(&mut slow).await, "5");
        let both = [Receiving::First, Receiving::AfterGap];
        assert_eq!(*seen.lock().unwrap(), both);
        assert_eq!(text(&mut quick).await, "5");
        assert_eq!(*none.lock().unwrap(), [Receiving::First]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_arrive_once_each() {
    for transport in BOTH {
        let [_, _, hmac] = secrets();
        let stage = Stage::new(hmac).await.over(transport);
        let clients = [stage.client().await, stage.client().await];
        let mut subscriptions = Vec::new();
        for client in &clients {
            subscriptions.push(client.subscribe_exact("t").await.unwrap());
        }
        let notifying: Vec<_> = (0..200)
            .map(|number| {
                let publisher = clients[number % 2].clone();
                tokio::spawn(async move { publisher.notify("t", number.to_string()).await })
            })
            .collect();
        for notified in notifying {
            assert_eq!(notified.await.unwrap().unwrap().subscribers, 2);
        }
        let all: BTreeSet<_> = (0..200).map(|number| number.to_string()).collect();
        for subscription in &mut subscriptions {
            let mut received = BTreeSet::new();
            for _ in 0..200 {
                assert!(received.insert(text(subscription).await));
            }
            assert_eq!(received, all);
        }
    }
}

#[tokio::test]
async fn messages_of_every_origin_and_size_arrive_whole() {
    for transport in BOTH {
        let [_, _, hmac] = secrets();
        let stage = Stage::new(hmac).await.over(transport);
        // Everything above 100 kB goes through files, at this end.
        let mut spool = SpoolConfig::default();
        spool.memory_each_max = 100_000;
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
            let mut read = Vec::new();
            message.reader().read_to_end(&mut read).await.unwrap();
            assert!(read == want);
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
        // Nothing of these was sent.
        assert_eq!(client.notify("t", "last").await.unwrap().subscribers, 1);
        assert_eq!(text(&mut subscription).await, "last");
    }
}

#[tokio::test]
async fn broadcasters_are_asked_by_priority_and_the_next_when_one_cannot_do_it() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let other = Tap::new();
    let other_url = format!("http://{}", serve(other.on(stage.router.clone())).await);
    let gone = Deaf::closed();
    let config = ClientConfig::builder([
        BroadcasterAddress::new(gone.url("")),
        BroadcasterAddress::new(other_url).priority(2),
        BroadcasterAddress::new(stage.url.as_str()).priority(1),
    ]);
    let client = start(config.secrets(&stage.secrets).passes(1)).await;
    let mut subscription = client.subscribe_exact("t").await.unwrap();
    for number in 1..=5 {
        assert_eq!(client.notify("t", "x").await.unwrap().subscribers, 1);
        assert_eq!(
            (stage.tap.count(paths::NOTIFY), other.count("")),
            (number, 0)
        );
    }
    stage
        .tap
        .breaks(paths::NOTIFY, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(client.notify("t", "last").await.unwrap().subscribers, 1);
    assert_eq!(other.count(paths::NOTIFY), 1);
    for _ in 1..=5 {
        assert_eq!(text(&mut subscription).await, "x");
    }
    assert_eq!(text(&mut subscription).await, "last");
    // The dead one comes last, and says how it ended.
    other.breaks(paths::NOTIFY, StatusCode::BAD_GATEWAY);
    let error = client.notify("t", "x").await.unwrap_err();
    let NotifyError::Request(error) = error else {
        panic!("{error:?}")
    };
    assert!(
        matches!(error, RequestError::RetriesExhausted { attempts: 3, .. }),
        "{error:?}"
    );
    assert_eq!(error.broadcaster(), gone.url(""));
}

#[tokio::test]
async fn what_came_of_a_request_is_told_apart() {
    let [_, token, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let nobody = Deaf::closed();
    let gone = nobody.url("");
    let here = stage.url.as_str();
    let client = async |broadcasters: &[&str], secrets: &Secrets| {
        let addresses = broadcasters.iter().zip(1..);
        let addresses = addresses.map(|(url, at)| BroadcasterAddress::new(*url).priority(at));
        let config = ClientConfig::builder(addresses).secrets(secrets);
        config.bind(Bind::Nothing).passes(1)
    };
    let request = async |config: ClientConfigBuilder| {
        let notified = start(config).await.notify("t", "x").await;
        match notified {
            Err(NotifyError::Request(error)) => error,
            other => panic!("{other:?}"),
        }
    };

    // Nobody is there.
    let error = request(client(&[&gone], &stage.secrets).await).await;
    let exhausted = matches!(error, RequestError::RetriesExhausted { .. });
    assert!(exhausted, "{error:?}");

    // The broadcaster does not believe the client.
    let error = request(client(&[here], &token).await).await;
    let RequestError::Refused { status, reason, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(status, 403);
    assert!(reason.contains("authorization is wrong"), "{reason}");

    // The client does not believe the broadcaster.
    let one_way = Secrets {
        to_subscriber: Scheme::Hmac(random_bytes()),
        ..stage.secrets.clone()
    };
    let error = request(client(&[here], &one_way).await).await;
    assert!(error.is_ambiguous(), "{error:?}");

    // An answer that makes no sense; who may ask again asks the next, if that is asked for.
    let odd = format!(
        "http://{}",
        serve(Router::new().fallback(async || "?")).await
    );
    let error = request(client(&[&odd], &stage.secrets).await).await;
    assert!(error.is_ambiguous(), "{error:?}");
    let both = client(&[&odd, here], &stage.secrets).await;
    let twice = both.clone().retry_ambiguous(true);
    let notified = start(twice).await.notify("t", "x").await;
    assert_eq!(notified.unwrap().subscribers, 0);
    let error = request(both).await;
    assert!(error.is_ambiguous(), "{error:?}");

    // No answer at all.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = silent.accept().await {
            let _ = stream.read(&mut [0; 64]).await;
        }
    });
    let error = request(client(&[&silent_url], &stage.secrets).await).await;
    assert!(error.is_ambiguous(), "{error:?}");
}

#[tokio::test]
async fn who_only_notifies_binds_nothing() {
    let stage = Stage::new(Secrets::NONE).await;
    let client = start(stage.builder().bind(Bind::Nothing)).await;
    assert_eq!(client.notify("t", "x").await.unwrap().subscribers, 0);
    assert!(client.local_addr().is_none() && client.receive_url().is_none());
    let error = client.subscribe_exact("t").await.unwrap_err();
    assert!(matches!(error, SubscribeError::CannotReceive), "{error:?}");
    client.close().await.unwrap();
}

#[tokio::test]
async fn what_was_changed_behind_its_back_is_put_right_in_time() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let config = stage.builder();
    let client = start(config.reconcile_interval(Duration::from_millis(50))).await;
    let _subscription = client.subscribe([exact("a"), glob("b*")]).await.unwrap();
    let of = stage.rows_of(&client);
    of.remove(&exact("a")).await.unwrap();
    of.add(&exact("c")).await.unwrap();
    let wanted = [exact("a"), glob("b*")];
    stage.comes_to_hold(&client, &wanted).await;
}

#[tokio::test]
async fn what_was_changed_behind_its_back_is_put_right_at_once_after_a_notice() {
    for secrets in secrets() {
        let stage = Stage::new(secrets).await;
        let client = stage.client().await;
        let _subscription = client.subscribe([exact("a"), glob("b*")]).await.unwrap();
        let of = stage.rows_of(&client);
        of.remove(&exact("a")).await.unwrap();
        let address = client.local_addr().unwrap();
        let recovery = format!("http://{address}/v1/recover");
        let topic = Topic::new("bc").unwrap();
        let asked = Asked {
            path: "/v1/recover".to_owned(),
            ..Signer::from(&stage.secrets).missed_for_websockets(&recovery, &topic)
        };
        let posting = move || Connection::open(address).unwrap().ask(&asked).status;
        assert_eq!(tokio::task::spawn_blocking(posting).await.unwrap(), 200);
        let wanted = [exact("a"), glob("b*")];
        stage.comes_to_hold(&client, &wanted).await;
    }
}

#[tokio::test]
async fn a_client_that_starts_again_at_the_same_place_keeps_one_set_of_rows() {
    let [_, _, hmac] = secrets();
    let stage = Stage::new(hmac).await;
    let before = stage.client().await;
    let subscription = before.subscribe([exact("a"), exact("b")]).await.unwrap();
    let (address, of) = (before.local_addr().unwrap(), stage.rows_of(&before));
    let left = rows(&before, &[exact("a"), exact("b")]);
    before.close().await.unwrap();
    drop(subscription);
    // As if it had been killed, which leaves it no time to unsubscribe.
    of.set(&left).await.unwrap();

    let after = start(stage.builder().bind(Bind::To(address))).await;
    let _subscription = after.subscribe([exact("b"), exact("c")]).await.unwrap();
    assert!(stage.holds(&after, &[exact("b"), exact("c")]).await);
}

#[tokio::test]
async fn a_closed_client_yields_what_it_has_and_does_nothing_more() {
    for transport in BOTH {
        let [_, _, hmac] = secrets();
        let stage = Stage::new(hmac).await.over(transport);
        let client = stage.client().await;
        let mut subscription = client.subscribe_exact("t").await.unwrap();
        let interests = subscription.interests();
        assert_eq!(client.notify("t", "1").await.unwrap().subscribers, 1);
        client.close().await.unwrap();
        client.close().await.unwrap();
        if transport == Transport::Http {
            assert!(stage.holds(&client, &[]).await);
            let address = client.local_addr().unwrap();
            assert!(TcpStream::connect(address).await.is_err());
        }

        assert_eq!(text(&mut subscription).await, "1");
        assert!(subscription.next().await.is_none());
        let ended = subscription.next_with_timeout(PATIENCE).await;
        assert!(matches!(ended, Err(SubscriptionEndedError)), "{ended:?}");
        let error = client.notify("t", "x").await.unwrap_err();
        assert!(matches!(error, NotifyError::Closed), "{error:?}");
        let error = client.subscribe_exact("t").await.unwrap_err();
        assert!(matches!(error, SubscribeError::Closed), "{error:?}");
        let error = interests.add(exact("u")).await.unwrap_err();
        assert!(matches!(error, SubscribeError::Closed), "{error:?}");
        let error = interests.remove(&exact("t")).await.unwrap_err();
        assert!(matches!(error, UnsubscribeError::Closed), "{error:?}");
        subscription.close().await.unwrap();
    }
}

#[tokio::test]
async fn closing_says_what_may_be_left_and_closes_all_the_same() {
    let stage = Stage::new(Secrets::NONE).await;
    let client = start(stage.builder().passes(1)).await;
    let mut subscription = client.subscribe_exact("t").await.unwrap();
    stage.tap.breaks("", StatusCode::SERVICE_UNAVAILABLE);
    let error = client.close().await.unwrap_err();
    assert!(!error.unsubscribe.is_empty() && error.connections_cut_off == 0);
    let said = error.to_string();
    assert!(
        said.contains("subscriptions may be left") && said.contains("status 503"),
        "{said}"
    );
    assert!(subscription.next().await.is_none());
    assert!(
        TcpStream::connect(client.local_addr().unwrap())
            .await
            .is_err()
    );

    // Nothing can be left of what was never done.
    stage.tap.mends();
    let client = start(stage.builder().passes(1)).await;
    stage.tap.breaks("", StatusCode::SERVICE_UNAVAILABLE);
    client.subscribe_exact("t").await.unwrap_err();
    let asked = stage.tap.count("");
    client.close().await.unwrap();
    assert_eq!(stage.tap.count(""), asked);
}

#[tokio::test]
async fn a_client_lives_as_long_as_anything_of_it_does() {
    let stage = Stage::new(Secrets::NONE).await;
    let publisher = start(stage.builder().bind(Bind::Nothing)).await;
    let client = stage.client().await;
    let address = client.local_addr().unwrap();
    let mut subscription = client.subscribe_exact("t").await.unwrap();
    drop(client);
    assert_eq!(publisher.notify("t", "x").await.unwrap().subscribers, 1);
    assert_eq!(text(&mut subscription).await, "x");
    drop(subscription);
    let stops = async {
        while TcpStream::connect(address).await.is_ok() {
            yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, stops).await.unwrap();
}
