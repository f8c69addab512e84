//! What a program sees of a client, and a broadcaster of its requests.
#![allow(
    clippy::unwrap_used,
    reason = "whatever is not as it should be fails the test"
)]

use std::collections::VecDeque;
use std::io::{Seek as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use httppubsub_client::{
    Bind, Client, ClientConfig, ClientConfigBuilder, EndReason, Event, GlobPattern, Interest,
    NotifyBody, NotifyError, Receiving, RequestError, SubscribeError, SubscriptionEndedError,
    Topic,
};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::outbound::{Post, PostConfig, Poster};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::stateless::{
    CheckResponse, GenericResponse, MissedHead, NotifyHead, NotifyResponse, ReceiveHead, SetHead,
    decode_set_lists,
};
use httppubsub_proto::subscription::{StrongEtag, SubscriptionSet};
use httppubsub_proto::topic::Identifier;
use httppubsub_proto::url::SubscriberUrl;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A broadcaster that says yes to all it is asked, unless it is told otherwise.
struct Stub {
    url: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    behaviour: Arc<Behaviour>,
    _stop: DropGuard,
}

struct Behaviour {
    asked: mpsc::UnboundedSender<Asked>,
    /// What is answered to the next requests.
    replies: Mutex<VecDeque<Reply>>,
    /// Of the last SET, or as a test has it.
    etag: Mutex<StrongEtag>,
}

#[derive(Debug)]
struct Asked {
    path: String,
    body: Bytes,
}

enum Reply {
    Status(u16),
    /// Says yes when it is allowed to.
    Later(oneshot::Receiver<()>),
}

impl Stub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked_sender, asked) = mpsc::unbounded_channel();
        let behaviour = Arc::new(Behaviour {
            asked: asked_sender,
            replies: Mutex::default(),
            etag: Mutex::new(StrongEtag(Sha512::of(b"nothing yet"))),
        });
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(behaviour.clone());
        let stop = CancellationToken::new();
        tokio::spawn(httppubsub_net::inbound::serve(
            listener,
            hyper_util::service::TowerToHyperService::new(app),
            ServeConfig::default(),
            stop.clone(),
        ));
        Self {
            url,
            asked,
            behaviour,
            _stop: stop.drop_guard(),
        }
    }

    fn config(&self) -> ClientConfigBuilder {
        // One pass, so that nothing waits for the time of day.
        ClientConfig::builder([self.url.as_str()]).passes(1)
    }

    async fn client(&self) -> Client {
        Client::start(self.config().build().unwrap()).await.unwrap()
    }

    fn reply(&self, reply: Reply) {
        self.behaviour.replies.lock().unwrap().push_back(reply);
    }

    /// The next request, which must be a SET: the topics and globs in it.
    async fn set(&mut self) -> Vec<String> {
        let asked = self.asked.recv().await.unwrap();
        assert_eq!(asked.path, "/v1/set_subscriptions");
        let (_, used) = SetHead::decode(&asked.body).unwrap();
        let set = decode_set_lists(&asked.body[used..]).unwrap();
        let names = set.iter().map(|(interest, recovery)| {
            assert!(recovery.unwrap().as_str().ends_with("/v1/recover"));
            String::from_utf8(interest.as_bytes().to_vec()).unwrap()
        });
        names.collect()
    }

    async fn path(&mut self) -> String {
        self.asked.recv().await.unwrap().path
    }

    fn was_asked_nothing_more(&mut self) {
        let asked = self.asked.try_recv();
        assert!(asked.is_err(), "{asked:?}");
    }
}

async fn answer(State(stub): State<Arc<Behaviour>>, request: axum::extract::Request) -> Response {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = Asked {
        path: path.clone(),
        body: body.clone(),
    };
    stub.asked.send(asked).unwrap();
    let reply = stub.replies.lock().unwrap().pop_front();
    match reply {
        Some(Reply::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap();
            return (status, "as the test says\n").into_response();
        }
        Some(Reply::Later(gate)) => gate.await.unwrap(),
        None => {}
    }
    let (authorization, tracing) = (None, Bytes::new());
    match path.as_str() {
        "/v1/notify" => {
            let (head, used) = NotifyHead::decode(&body).unwrap();
            assert_eq!(Sha512::of(&body[used..]), head.sha512);
            let answer = NotifyResponse {
                authorization,
                tracing,
                subscribers: 7,
                identifier: head.identifier,
            };
            answer.encode().into_response()
        }
        "/v1/check_subscriptions" => {
            let etag = *stub.etag.lock().unwrap();
            let answer = CheckResponse {
                authorization,
                tracing,
                etag,
            };
            answer.encode().into_response()
        }
        _ => {
            if let Ok((head, _)) = SetHead::decode(&body) {
                *stub.etag.lock().unwrap() = head.etag;
            }
            let answer = GenericResponse {
                authorization,
                tracing,
            };
            answer.encode().into_response()
        }
    }
}

fn exact(topic: &'static str) -> Interest {
    Interest::Exact(Topic::new(topic).unwrap())
}

fn glob(glob: &str) -> Interest {
    Interest::Glob(GlobPattern::parse(glob).unwrap())
}

/// Posts to the client as a broadcaster does.
async fn post(url: &str, head: Vec<u8>, message: Option<&'static str>) -> u16 {
    let poster = Poster::new(PostConfig::default());
    let target = poster.target_str(url).unwrap();
    let payload = message.map(httppubsub_net::body::Payload::from_bytes);
    let bytes = payload
        .as_ref()
        .map_or(0, httppubsub_net::body::Payload::len);
    let post = || {
        Ok(Post {
            authorization: None,
            repr_digest: payload
                .as_ref()
                .map(|it| httppubsub_net::outbound::repr_digest(it.sha512())),
            headers: Vec::new(),
            head: head.clone().into(),
            payload: payload.clone(),
        })
    };
    let answer = poster.post(&target, bytes, post).await.unwrap();
    answer.status.as_u16()
}

async fn deliver(client: &Client, topic: &'static str, message: &'static str) -> u16 {
    let head = ReceiveHead {
        tracing: Bytes::new(),
        topic: Topic::new(topic).unwrap(),
        identifier: Identifier::new("12345678").unwrap(),
        message_bytes: message.len() as u64,
    };
    post(client.receive_url().unwrap(), head.encode(), Some(message)).await
}

async fn tell_missed(client: &Client, topic: &'static str) -> u16 {
    let url = client.receive_url().unwrap();
    let head = MissedHead {
        tracing: Bytes::new(),
        topic: Topic::new(topic).unwrap(),
    };
    post(
        &url.replace("/v1/receive", "/v1/recover"),
        head.encode(),
        None,
    )
    .await
}

#[tokio::test]
async fn only_the_first_and_the_last_subscription_to_a_topic_are_told() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    stub.was_asked_nothing_more();
    let first = client.subscribe_exact("a").await.unwrap();
    assert_eq!(stub.set().await, ["a"]);
    let second = client.subscribe([exact("a"), glob("b*")]).await.unwrap();
    assert_eq!(stub.set().await, ["a", "b*"]);
    let third = client.subscribe_exact("a").await.unwrap();
    first.close().await.unwrap();
    third.close().await.unwrap();
    stub.was_asked_nothing_more();
    drop(second);
    assert_eq!(stub.set().await, [""; 0]);
    client.close().await.unwrap();
    stub.was_asked_nothing_more();
}

#[tokio::test]
async fn interests_are_added_and_removed_while_messages_are_awaited() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    let mut subscription = client.subscribe_multi().await.unwrap();
    assert_eq!(stub.set().await, [""; 0]);
    let interests = subscription.interests();
    let changing = async {
        interests.add(glob("a/*")).await.unwrap();
        interests.add(exact("b")).await.unwrap();
        interests.add(exact("b")).await.unwrap();
        assert_eq!(deliver(&client, "b", "hello").await, 200);
    };
    let (message, ()) = tokio::join!(subscription.next(), changing);
    assert_eq!(message.unwrap().topic, Topic::new("b").unwrap());
    assert_eq!(stub.set().await, ["a/*"]);
    assert_eq!(stub.set().await, ["b", "a/*"]);
    subscription.remove(&glob("a/*")).await.unwrap();
    assert_eq!(stub.set().await, ["b"]);
    assert_eq!(interests.list(), [exact("b")]);
    subscription.close().await.unwrap();
    assert_eq!(stub.set().await, [""; 0]);
    let closed = interests.add(exact("c")).await;
    assert!(matches!(closed, Err(SubscribeError::Closed)), "{closed:?}");
}

#[tokio::test]
async fn a_failed_subscribe_leaves_the_counts_as_they_were() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    let _kept = client.subscribe_exact("kept").await.unwrap();
    assert_eq!(stub.set().await, ["kept"]);
    stub.reply(Reply::Status(403));
    let refused = client.subscribe([exact("a"), exact("kept")]).await;
    let Err(SubscribeError::Request(RequestError::Refused {
        broadcaster,
        status,
        reason,
    })) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (broadcaster, status.as_u16(), reason.as_str()),
        (stub.url.clone(), 403, "as the test says")
    );
    assert_eq!(stub.set().await, ["a", "kept"]);
    assert_eq!(deliver(&client, "a", "nobody wants it").await, 200);
    let _b = client.subscribe_exact("b").await.unwrap();
    assert_eq!(stub.set().await, ["b", "kept"]);
    let _a = client.subscribe_exact("a").await.unwrap();
    assert_eq!(stub.set().await, ["a", "b", "kept"]);
}

#[tokio::test]
async fn whoever_stops_waiting_for_a_subscription_leaves_nothing_subscribed() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    let (allow, gate) = oneshot::channel();
    stub.reply(Reply::Later(gate));
    let mut subscribing = Box::pin(client.subscribe_exact("a"));
    tokio::select! {
        subscribed = &mut subscribing => panic!("{subscribed:?}"),
        set = stub.set() => assert_eq!(set, ["a"]),
    }
    drop(subscribing);
    allow.send(()).unwrap();
    assert_eq!(stub.set().await, [""; 0]);
}

#[tokio::test]
async fn above_512_topics_each_is_told_by_itself_and_undone_if_another_fails() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    let many = (0..1_100).map(|at| Interest::Exact(Topic::new(format!("{at:04}")).unwrap()));
    let _many = client.subscribe(many).await.unwrap();
    assert_eq!(stub.set().await.len(), 1_100);
    let one = client.subscribe_exact("one").await.unwrap();
    assert_eq!(stub.path().await, "/v1/subscribe/exact");
    one.close().await.unwrap();
    assert_eq!(stub.path().await, "/v1/unsubscribe/exact");

    stub.reply(Reply::Status(409));
    stub.reply(Reply::Status(400));
    let two = client.subscribe([exact("one"), glob("g*")]).await;
    assert!(matches!(two, Err(SubscribeError::Request(_))), "{two:?}");
    for path in [
        "/v1/subscribe/exact",
        "/v1/subscribe/glob",
        "/v1/unsubscribe/exact",
    ] {
        assert_eq!(stub.path().await, path);
    }
    // That it had the first one already is checked, since nothing vouches for a 409.
    assert_eq!(stub.path().await, "/v1/check_subscriptions");
}

#[tokio::test]
async fn messages_are_yielded_as_they_come_and_confirmed_before_they_are_taken() {
    let stub = Stub::start().await;
    let client = stub.client().await;
    let mut subscription = client.subscribe_glob("a/*").await.unwrap();
    for text in ["1", "2"] {
        assert_eq!(deliver(&client, "a/b", text).await, 200);
    }
    let message = subscription.next().await.unwrap();
    assert_eq!(message.topic.as_str(), Some("a/b"));
    assert_eq!(*message.sha512(), Sha512::of(b"1"));
    assert_eq!(message.bytes().await.unwrap(), "1");
    client.close().await.unwrap();
    let rest: Vec<_> = subscription.collect().await;
    assert_eq!(rest.len(), 1);
}

#[tokio::test]
async fn a_full_queue_costs_its_own_subscription_messages_and_the_broadcaster_hears_of_it() {
    let stub = Stub::start().await;
    let config = stub.config().queue_max(1).build().unwrap();
    let client = Client::start(config).await.unwrap();
    let mut subscription = client.subscribe_exact("a").await.unwrap();
    let (told, mut receiving) = mpsc::unbounded_channel();
    subscription.on_gap(move |receiving| {
        told.send(receiving).unwrap();
        std::future::ready(())
    });
    assert_eq!(deliver(&client, "a", "1").await, 200);
    assert_eq!(deliver(&client, "a", "2").await, 503);
    assert_eq!(deliver(&client, "b", "nobody wants it").await, 200);
    let message = subscription.next().await.unwrap();
    assert_eq!(message.bytes().await.unwrap(), "1");
    assert_eq!(deliver(&client, "a", "3").await, 200);
    assert_eq!(receiving.recv().await, Some(Receiving::First));
    assert!(receiving.try_recv().is_err());
    let message = subscription.next().await.unwrap();
    assert_eq!(message.bytes().await.unwrap(), "3");
    assert_eq!(receiving.try_recv(), Ok(Receiving::AfterGap));
}

#[tokio::test]
async fn missed_is_told_before_any_later_message_and_the_broadcaster_is_checked_at_once() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    let mut subscription = client.subscribe_glob("a/*").await.unwrap();
    let mut other = client.subscribe_exact("b").await.unwrap();
    stub.set().await;
    stub.set().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let noting = order.clone();
    subscription.on_gap(move |receiving| {
        let noting = noting.clone();
        async move {
            tokio::task::yield_now().await;
            noting.lock().unwrap().push(format!("{receiving:?}"));
        }
    });
    assert_eq!(deliver(&client, "a/1", "before").await, 200);
    // What the broadcaster holds is not what was set.
    let url = SubscriberUrl::new(client.receive_url().unwrap()).unwrap();
    *stub.behaviour.etag.lock().unwrap() = SubscriptionSet::default().etag(&url);
    assert_eq!(tell_missed(&client, "a/2").await, 200);
    assert_eq!(deliver(&client, "a/3", "after").await, 200);
    assert_eq!(stub.path().await, "/v1/check_subscriptions");
    assert_eq!(stub.set().await, ["b", "a/*"]);
    for _ in 0..2 {
        let message = subscription.next().await.unwrap();
        let text = message.bytes().await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        order.lock().unwrap().push(text);
    }
    let order = order.lock().unwrap().join(" ");
    assert_eq!(order, "First before AfterGap after");
    let (told, mut receiving) = mpsc::unbounded_channel();
    other.on_gap(move |receiving| {
        told.send(receiving).unwrap();
        std::future::ready(())
    });
    client.close().await.unwrap();
    assert!(other.next().await.is_none());
    assert_eq!(receiving.recv().await, Some(Receiving::First));
    assert!(receiving.try_recv().is_err());
}

#[tokio::test]
async fn the_broadcaster_is_checked_at_every_interval_while_something_is_wanted() {
    let mut stub = Stub::start().await;
    let config = stub.config().reconcile_interval(Duration::from_millis(1));
    let client = Client::start(config.build().unwrap()).await.unwrap();
    let subscription = client.subscribe_exact("a").await.unwrap();
    assert_eq!(stub.set().await, ["a"]);
    for _ in 0..3 {
        assert_eq!(stub.path().await, "/v1/check_subscriptions");
    }
    // What another client did to it is put right.
    *stub.behaviour.etag.lock().unwrap() = StrongEtag(Sha512::of(b"other"));
    while stub.path().await == "/v1/check_subscriptions" {}
    subscription.close().await.unwrap();
    client.close().await.unwrap();
}

#[tokio::test]
async fn what_was_perhaps_subscribed_is_put_right() {
    let mut stub = Stub::start().await;
    let config = stub.config().retry_ambiguous(false);
    let client = Client::start(config.build().unwrap()).await.unwrap();
    let (forget, gate) = oneshot::channel();
    stub.reply(Reply::Later(gate));
    let subscribing = client.subscribe_exact("a");
    let breaking = async {
        assert_eq!(stub.set().await, ["a"]);
        // The handler panics, and the connection breaks.
        drop(forget);
        assert_eq!(stub.path().await, "/v1/check_subscriptions");
        assert_eq!(stub.set().await, [""; 0]);
    };
    let (subscribed, ()) = tokio::join!(subscribing, breaking);
    let error = match subscribed {
        Err(SubscribeError::Request(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(error.is_ambiguous(), "{error:?}");
}

#[tokio::test]
async fn closing_unsubscribes_each_if_it_cannot_do_so_at_once() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    let mut kept = client.subscribe([exact("a"), glob("g")]).await.unwrap();
    stub.set().await;
    stub.reply(Reply::Status(413));
    client.close().await.unwrap();
    assert_eq!(stub.set().await, [""; 0]);
    assert_eq!(stub.path().await, "/v1/unsubscribe/exact");
    assert_eq!(stub.path().await, "/v1/unsubscribe/glob");
    assert!(kept.next().await.is_none());
    drop(kept);
    client.close().await.unwrap();
    stub.was_asked_nothing_more();
    let closed = client.subscribe_exact("b").await;
    assert!(matches!(closed, Err(SubscribeError::Closed)), "{closed:?}");
    let closed = client.notify("a", "x").await;
    assert!(matches!(closed, Err(NotifyError::Closed)), "{closed:?}");
}

#[tokio::test]
async fn closing_says_what_may_be_left_and_closes_all_the_same() {
    let stub = Stub::start().await;
    let client = stub.client().await;
    let _subscription = client.subscribe_exact("a").await.unwrap();
    stub.reply(Reply::Status(503));
    stub.reply(Reply::Status(503));
    let error = client.close().await.unwrap_err();
    assert_eq!(error.unsubscribe.len(), 2);
    let told = error.to_string();
    let want = "closed, but subscriptions may be left: not done in 1 attempts";
    assert!(told.starts_with(want), "{told}");
    assert!(told.ends_with(": status 503: as the test says"), "{told}");
    let address = client.local_addr().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn closing_with_a_bound_does_not_wait_for_a_broadcaster_that_is_silent() {
    let mut stub = Stub::start().await;
    let client = stub.client().await;
    let mut subscription = client.subscribe_exact("a").await.unwrap();
    assert_eq!(deliver(&client, "a", "1").await, 200);
    stub.set().await;
    let (_never, gate) = oneshot::channel();
    stub.reply(Reply::Later(gate));
    let closing = client.close_within(Duration::from_millis(1));
    let error = closing.await.unwrap_err();
    assert!(error.timed_out, "{error}");
    let want = "closed, but subscriptions may be left: the time was over";
    assert_eq!(error.to_string(), want);
    assert!(subscription.next().await.is_some());
    assert!(subscription.next().await.is_none());
    assert_eq!(subscription.end_reason(), Some(EndReason::Closed));
    let closed = client.notify("a", "x").await;
    assert!(matches!(closed, Err(NotifyError::Closed)), "{closed:?}");
    let client = stub.client().await;
    client.close_within(Duration::MAX).await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_dropped_stops_listening() {
    let stub = Stub::start().await;
    let client = stub.client().await;
    let address = client.local_addr().unwrap();
    let subscription = client.subscribe_exact("a").await.unwrap();
    drop(client);
    // The subscription keeps it alive.
    tokio::net::TcpStream::connect(address).await.unwrap();
    drop(subscription);
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_bound_to_nothing_notifies_and_cannot_subscribe() {
    let stub = Stub::start().await;
    let config = stub.config().bind(Bind::Nothing).build().unwrap();
    let client = Client::start(config).await.unwrap();
    assert_eq!(client.receive_url(), None);
    // Everything can be done in a task of its own.
    let notifying = client.clone();
    let notifying = tokio::spawn(async move { notifying.notify("a", "hello").await });
    assert_eq!(notifying.await.unwrap().unwrap().subscribers, 7);
    let subscribed = client.subscribe_exact("a").await;
    assert!(
        matches!(subscribed, Err(SubscribeError::CannotReceive)),
        "{subscribed:?}"
    );
    client.close().await.unwrap();
}

#[tokio::test]
async fn a_notification_is_sent_whole_wherever_it_is_read_from() {
    let mut stub = Stub::start().await;
    let mut spool = httppubsub_net::body::SpoolConfig::default();
    spool.memory_each_max = 1_000;
    let config = stub.config().bind(Bind::Nothing).spool(spool);
    let client = Client::start(config.build().unwrap()).await.unwrap();
    for bytes in [0, 10, 3_000_000] {
        let text: Vec<u8> = (0..bytes).map(|at: u32| at.to_le_bytes()[1]).collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"skip").unwrap();
        file.write_all(&text).unwrap();
        let mut opened = file.reopen().unwrap();
        opened.seek(std::io::SeekFrom::Start(4)).unwrap();
        let mut whole = tempfile::NamedTempFile::new().unwrap();
        whole.write_all(&text).unwrap();
        let reader = || std::io::Cursor::new(text.clone());
        for body in [
            NotifyBody::from(text.clone()),
            NotifyBody::from(text.as_slice()),
            NotifyBody::file_range(opened.try_clone().unwrap(), 4..u64::from(bytes) + 4),
            NotifyBody::file_range(opened.try_clone().unwrap(), 4..u64::from(bytes) + 4)
                .with_sha512(Sha512::of(&text)),
            NotifyBody::file(opened),
            NotifyBody::path(whole.path()).with_sha512(Sha512::of(&text)),
            NotifyBody::reader(reader()).with_sha512(Sha512::of(&text)),
            NotifyBody::path(whole.path()),
            NotifyBody::reader(reader()),
            NotifyBody::reader_of(reader(), text.len() as u64),
        ] {
            let source = format!("{body:?} of {bytes}");
            let mut last = None;
            let progress = |sent, all| last = Some((sent, all));
            let notified = client.notify_with_progress("a", body, progress).await;
            assert_eq!(notified.unwrap().subscribers, 7, "{source}");
            assert_eq!(last, Some((text.len() as u64, text.len() as u64)));
            let asked = stub.asked.recv().await.unwrap();
            let (_, used) = NotifyHead::decode(&asked.body).unwrap();
            assert!(asked.body[used..] == text, "{source}");
        }
        let longer = NotifyBody::reader_of(reader(), text.len() as u64 + 1);
        let error = client.notify("a", longer).await.unwrap_err();
        assert!(matches!(error, NotifyError::Length { .. }), "{error}");
    }
    let short = NotifyBody::file_range(tempfile::tempfile().unwrap(), 4..5);
    let error = client.notify("a", short).await.unwrap_err();
    assert!(
        matches!(
            error,
            NotifyError::Length {
                announced: 1,
                got: 0
            }
        ),
        "{error}"
    );
    let (pipe, _writer) = std::io::pipe().unwrap();
    let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(pipe));
    let error = client
        .notify("a", NotifyBody::file_range(pipe, 0..1))
        .await
        .unwrap_err();
    assert!(matches!(error, NotifyError::Body(_)), "{error}");
    let other = NotifyBody::from("hello").with_sha512(Sha512::of(b"hallo"));
    let error = client.notify("a", other).await.unwrap_err();
    assert!(matches!(error, NotifyError::Digest { .. }), "{error}");
    let missing = NotifyBody::path("/nowhere/at/all");
    let error = client.notify("a", missing).await.unwrap_err();
    assert!(matches!(error, NotifyError::Body(_)), "{error}");
    stub.was_asked_nothing_more();
}

#[tokio::test]
async fn a_time_out_is_told_apart_from_the_end() {
    let stub = Stub::start().await;
    let client = stub.client().await;
    let mut subscription = client.subscribe_exact("a").await.unwrap();
    assert_eq!(deliver(&client, "a", "1").await, 200);
    tokio::time::pause();
    let minute = Duration::from_secs(60);
    let next = subscription.next_with_timeout(minute).await;
    assert_eq!(next.unwrap().unwrap().bytes().await.unwrap(), "1");
    assert!(
        subscription
            .next_with_timeout(minute)
            .await
            .unwrap()
            .is_none()
    );
    let mut subscription = subscription.with_timeout(minute);
    assert!(subscription.next().await.unwrap().is_none());
    tokio::time::resume();
    assert_eq!(deliver(&client, "a", "2").await, 200);
    assert!(
        futures_util::StreamExt::next(&mut subscription)
            .await
            .unwrap()
            .is_some()
    );
    client.close().await.unwrap();
    assert!(subscription.next().await.is_none());
    let mut subscription = subscription.into_inner();
    let next = subscription.next_with_timeout(minute).await;
    assert_eq!(next.unwrap_err(), SubscriptionEndedError);
}

#[tokio::test]
async fn a_router_can_be_mounted_under_a_prefix() {
    let stub = Stub::start().await;
    let config = stub
        .config()
        .bind(Bind::Mounted)
        .host("http://me.example/pubsub#1");
    let client = Client::start(config.build().unwrap()).await.unwrap();
    assert_eq!(
        client.receive_url(),
        Some("http://me.example/pubsub/v1/receive#1")
    );
    assert_eq!(client.local_addr(), None);
    let mut app = axum::Router::new().nest("/pubsub", client.router());
    let request = Request::post("/pubsub/v1/recover");
    let request = request.body(axum::body::Body::empty()).unwrap();
    let response: Response = tower_service::Service::call(&mut app, request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = ClientConfig::builder(["http://127.0.0.1:1"]).bind(Bind::To(address));
    let error = Client::start(config.build().unwrap()).await.unwrap_err();
    let want = format!("cannot listen on {address}: Address already in use");
    assert!(error.to_string().starts_with(&want), "{error}");
}

#[tokio::test]
async fn a_client_listens_on_a_name_and_on_a_listener_that_is_there() {
    let stub = Stub::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for bind in [
        Bind::Listener(Arc::new(listener)),
        Bind::Name("localhost:0".to_owned()),
    ] {
        let given = matches!(bind, Bind::Listener(_));
        let config = stub.config().bind(bind).build().unwrap();
        let client = Client::start(config).await.unwrap();
        let listens = client.local_addr().unwrap();
        assert!(listens.ip().is_loopback() && listens.port() != 0);
        assert!(!given || listens == address);
        let mut subscription = client.subscribe_exact("a").await.unwrap();
        assert_eq!(deliver(&client, "a", "1").await, 200);
        assert!(subscription.next().await.is_some());
        client.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_listener_of_all_addresses_needs_a_host() {
    let everywhere = || std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    for bind in [
        Bind::Name("0.0.0.0:0".to_owned()),
        Bind::Listener(Arc::new(everywhere())),
    ] {
        let config = ClientConfig::builder(["http://127.0.0.1:1"]).bind(bind);
        let error = Client::start(config.build().unwrap()).await.unwrap_err();
        assert!(error.to_string().ends_with("set `host`"), "{error}");
    }
    let bind = Bind::Name("127.0.0.1:no".to_owned());
    let config = ClientConfig::builder(["http://127.0.0.1:1"]).bind(bind);
    let error = Client::start(config.build().unwrap()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot listen on 127.0.0.1:no: "),
        "{error}"
    );
}

#[tokio::test]
async fn messages_and_marks_can_be_taken_without_the_callback() {
    let stub = Stub::start().await;
    let client = stub.client().await;
    let mut subscription = client.subscribe_exact("a").await.unwrap();
    subscription.on_gap(|receiving| async move { panic!("was told of {receiving:?}") });
    assert_eq!(deliver(&client, "a", "1").await, 200);
    assert_eq!(tell_missed(&client, "a").await, 200);
    let mut taken = Vec::new();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(Some(event)) = subscription.poll_event(&mut cx) {
        taken.push(match event {
            Event::Receiving(receiving) => format!("{receiving:?}"),
            Event::Message(message) => format!("{:?}", message.bytes().await.unwrap()),
        });
    }
    assert_eq!(taken, ["First", "b\"1\"", "AfterGap"]);
    assert_eq!(subscription.end_reason(), None);
    client.close().await.unwrap();
    assert!(subscription.next_event().await.is_none());
    assert_eq!(subscription.end_reason(), Some(EndReason::Closed));
}
