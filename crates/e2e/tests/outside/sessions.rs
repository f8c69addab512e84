//! Faults of websocket sessions.
//!
//! | fault | test |
//! |---|---|
//! | burst-cut-off | burst_cut_off_nobody_and_lost_nothing |
//! | bad-globs | bad_globs_end_a_session_behind_what_it_asked_before |
//! | poison | poison_fails_that_one_notification_and_nothing_else_notices |
//! | poison | poison_of_a_failing_database_is_refused_and_the_session_goes_on |
//! | compressible | compressible_messages_arrive_whatever_their_ratio |
//! | ask-never-read | ask_never_read_is_held_and_cut_off |
//! | slow-asker | slow_asker_is_read_no_further_than_its_answers_go |
//! | guard-full | guard_full_of_parts_of_one_notification_it_never_is |
//! | lost-rows | lost_rows_are_made_again_and_told |
//! | websocket-counted | websocket_counted_notifications_are_counted_like_others |
//! | memory-beside | memory_beside_is_room_of_the_spool |
//! | memory-beside | crates/net/src/websocket/socket/tests.rs | memory_beside_a_message_that_comes_is_taken_of_the_spool_and_waited_for |
//! | glob-refused | glob_refused_over_a_websocket_fails_that_call_and_nothing_else |
//! | glob-refused | crates/client/tests/websocket/refusals.rs | glob_refused_fails_that_call_and_everything_else_stays |
//! | glob-refused | crates/client/tests/websocket/refusals.rs | glob_refused_that_was_confirmed_before_ends_its_subscriptions_and_no_others |
//! | glob-refused | crates/client/tests/websocket/refusals.rs | glob_refused_or_not_answered_holds_up_no_other_call |
//! | glob-websockets | crates/broadcaster/src/hub/hub.rs | glob_websockets_globs_that_take_long_are_matched_beside_the_runtime |
//! | empty-frames | crates/net/src/websocket/socket/tests.rs | empty_frames_and_pings_without_end_end_the_websocket |

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_broadcaster::{Config, WebSocketConfig};
use httppubsub_client::{
    Client, ClientConfig, ConnectionStatus, GlobPattern, Interest, NotifyError, RequestError,
    SubscribeError,
};
use httppubsub_e2e::{
    Door, Gate, Home, InProcess, Metrics, PATIENCE, Subscriber, eventually, exact, glob,
};
use httppubsub_net::body::{Payload, Spool, Zstd};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::random_bytes;
use httppubsub_net::websocket::{Socket, SocketConfig, SocketEvent};
use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::session::{Outgoing, OutgoingBody};
use httppubsub_proto::stateful::{
    BodyHead, Configure, ConfirmReceive, HeaderStyle, InterestMessage, Notify, Part, Refusal,
    StreamPart, ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::topic::{Identifier, Topic};

fn in_process(websockets: WebSocketConfig) -> InProcess {
    let mut config = Config::default();
    config.websockets = websockets;
    InProcess::start(config, ServeConfig::default())
}

async fn client(
    address: SocketAddr,
    secrets: &Secrets,
    options: httppubsub_client::WebSocketConfig,
) -> Client {
    let config = ClientConfig::builder([format!("http://{address}")]);
    let config = config.secrets(secrets).websocket(options);
    Client::start(config.build().unwrap()).await.unwrap()
}

/// A websocket whose peer is the test: it reads and says what it is told to, and nothing else.
struct Raw(Socket);

impl Raw {
    async fn configured(address: SocketAddr, enable_zstd: bool) -> Self {
        let url = format!("ws://{address}/v1/websocket");
        let socket = Socket::connect(&url, PATIENCE, SocketConfig::default()).await;
        let mut own = Self(socket.unwrap());
        own.say(configure(enable_zstd)).await;
        assert_eq!(own.next().await.name(), "CONFIRM_CONFIGURE");
        if enable_zstd {
            assert_eq!(own.next().await.name(), "ENABLE_ZSTD_PRESET");
        }
        own
    }

    async fn subscribed(address: SocketAddr, topic: &str) -> Self {
        let mut own = Self::configured(address, false).await;
        own.subscribe(topic).await;
        own
    }

    async fn subscribe(&mut self, topic: &str) {
        self.say(ToBroadcaster::Subscribe(InterestMessage {
            interest: exact(topic),
            authorization: None,
            tracing: Bytes::new(),
        }))
        .await;
        assert_eq!(self.next().await.name(), "CONFIRM_SUBSCRIBE_EXACT");
    }

    async fn say(&mut self, message: ToBroadcaster) {
        let message = Outgoing {
            head: message.encode(HeaderStyle::Minimal).into(),
            body: OutgoingBody::Empty,
        };
        self.0.send(message).await.unwrap();
    }

    async fn next(&mut self) -> ToSubscriber {
        let closed = |code| -> ToSubscriber { panic!("closed with {code:?}") };
        self.next_or_closed().await.unwrap_or_else(closed)
    }

    /// The next message, or the code with which the broadcaster closes.
    async fn next_or_closed(&mut self) -> Result<ToSubscriber, Option<u16>> {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.0.event());
            match event.await.unwrap().unwrap() {
                SocketEvent::Message(message) => return Ok(ToSubscriber::decode(&message).unwrap()),
                SocketEvent::Writable => {}
                SocketEvent::Closed(code) => return Err(code),
            }
        }
    }

    /// The next message, which must be a delivery of one part; it is acknowledged.
    async fn receive(&mut self) -> Bytes {
        let part = match self.next().await {
            ToSubscriber::ReceiveStream(part) => part,
            other => panic!("{other:?}"),
        };
        self.say(ToBroadcaster::ConfirmReceive(ConfirmReceive {
            identifier: part.identifier,
            num_subscribers: 1,
            authorization: None,
            tracing: Bytes::new(),
        }))
        .await;
        part.body
    }

    /// How many a notification reached, or why it was refused.
    async fn told(&mut self) -> Result<u64, Refusal> {
        let confirmed = loop {
            match self.next().await {
                ToSubscriber::ConfirmNotify(it) => break it,
                ToSubscriber::ContinueNotify(_) => {}
                other => panic!("{other:?}"),
            }
        };
        match Refusal::of_tracing(&confirmed.tracing) {
            None => Ok(confirmed.subscribers),
            Some(refusal) => {
                assert_eq!(confirmed.subscribers, 0);
                Err(refusal)
            }
        }
    }
}

fn configure(enable_zstd: bool) -> ToBroadcaster {
    ToBroadcaster::Configure(Configure {
        subscriber_nonce: random_bytes(),
        enable_zstd,
        enable_training: false,
        initial_dict: 0,
        authorization: None,
        tracing: Bytes::new(),
    })
}

fn plain(body: &[u8]) -> BodyHead {
    BodyHead {
        compressor: 0,
        compressed_length: body.len() as u64,
        decompressed_length: body.len() as u64,
        compressed_sha512: Sha512::of(body),
    }
}

fn identifier() -> Identifier {
    Identifier::new(random_bytes::<4>().to_vec()).unwrap()
}

fn notify(topic: &str, head: BodyHead, body: impl Into<Bytes>) -> ToBroadcaster {
    ToBroadcaster::Notify(Notify {
        identifier: identifier(),
        topic: Topic::new(Bytes::copy_from_slice(topic.as_bytes())).unwrap(),
        head,
        authorization: None,
        tracing: Bytes::new(),
        body: body.into(),
    })
}

/// The parts of a NOTIFY_STREAM to `t`.
fn stream(head: BodyHead, parts: &[&[u8]]) -> Vec<ToBroadcaster> {
    let identifier = identifier();
    let part = |(number, body): (usize, &&[u8])| {
        let part = match std::num::NonZeroU64::new(number as u64) {
            Some(number) => Part::Later(number),
            None => Part::First {
                topic: Topic::new("t").unwrap(),
                head,
            },
        };
        ToBroadcaster::NotifyStream(StreamPart {
            identifier: identifier.clone(),
            part,
            authorization: None,
            tracing: Bytes::new(),
            body: Bytes::copy_from_slice(body),
        })
    };
    parts.iter().enumerate().map(part).collect()
}

/// Notifies from 16 connections at once, 125 times from each, and says how many each reached.
fn burst(door: &Door) -> BTreeSet<u32> {
    std::thread::scope(|scope| {
        let publishing = (0..16).map(|publisher| {
            scope.spawn(move || {
                let mut connection = door.connect();
                let notified = (0..125).map(|number| {
                    let body = format!("{publisher:02}-{number:097}");
                    let topic = Topic::new("t").unwrap();
                    let asked = door.signer.notify(&topic, body.as_bytes());
                    let response = connection.ask(&asked);
                    door.reached(&asked, &response)
                });
                notified.collect::<BTreeSet<_>>()
            })
        });
        let publishing: Vec<_> = publishing.collect();
        let reached = publishing.into_iter().map(|it| it.join().unwrap());
        reached.flatten().collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn burst_cut_off_nobody_and_lost_nothing() {
    // The second queue has room for five: publishers are held back.
    for (queue_bytes_max, reads_at_once) in [(4 << 20, false), (2_000, true)] {
        let server = in_process({
            let mut websockets = WebSocketConfig::default();
            websockets.queue_bytes_max = NonZeroU32::new(queue_bytes_max).unwrap();
            websockets.stall_timeout = PATIENCE;
            websockets
        });
        let mut subscriber = Raw::subscribed(server.door.address, "t").await;
        let door = server.door.clone();
        let mut publishing = tokio::task::spawn_blocking(move || burst(&door));
        if !reads_at_once {
            assert_eq!((&mut publishing).await.unwrap(), BTreeSet::from([1]));
        }
        let mut got = BTreeSet::new();
        for _ in 0..2_000 {
            let body = subscriber.receive().await;
            assert_eq!(body.len(), 100);
            assert!(got.insert(body), "twice");
        }
        if reads_at_once {
            assert_eq!(publishing.await.unwrap(), BTreeSet::from([1]));
        }
    }
}

/// One session takes all the room that it can, and reads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn share_of_a_queue_is_one_sessions_and_others_are_served() {
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.stall_timeout = PATIENCE;
        websockets
    });
    let _deaf = Raw::subscribed(server.door.address, "t").await;
    let mut good = Raw::subscribed(server.door.address, "u").await;
    let body = vec![7; 1 << 20];
    let door = server.door.clone();
    // Two are on their way, four wait, and the others are held back.
    let _publishing: Vec<_> = (0..16)
        .map(|_| {
            let (door, body) = (door.clone(), body.clone());
            tokio::task::spawn_blocking(move || door.notify("t", &body))
        })
        .collect();
    for number in 0..100_u32 {
        let door = door.clone();
        let notified = tokio::task::spawn_blocking(move || door.notify("u", &number.to_be_bytes()));
        assert_eq!(good.receive().await, number.to_be_bytes()[..]);
        assert_eq!(notified.await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_globs_end_a_session_behind_what_it_asked_before() {
    let server = in_process(WebSocketConfig::default());
    let subscriber = Subscriber::start(&server.door.signer);
    let (slow, gate) = (subscriber.url("/slow"), Gate::default());
    subscriber.confirm_behind(&slow, &gate);
    server.door.subscribe(&slow, exact("slow"), None);
    let quick = subscriber.url("/quick");
    server.door.subscribe(&quick, exact("quick"), None);
    let mut raw = Raw::configured(server.door.address, false).await;
    raw.say(notify("slow", plain(b"x"), "x")).await;
    raw.say(notify("quick", plain(b"x"), "x")).await;
    raw.say(ToBroadcaster::Subscribe(InterestMessage {
        interest: glob(&"x".repeat(4_097)),
        authorization: None,
        tracing: Bytes::new(),
    }))
    .await;
    raw.say(notify("quick", plain(b"behind"), "behind")).await;
    let own = subscriber.clone();
    tokio::task::spawn_blocking(move || {
        own.await_deliveries(&slow, 1);
        gate.open();
    });
    assert_eq!(raw.told().await, Ok(1));
    assert_eq!(raw.told().await, Ok(1));
    match raw.next_or_closed().await {
        Err(code) => assert_eq!(code, Some(1008)),
        Ok(message) => panic!("{message:?}"),
    }
    let quick = subscriber.deliveries_to(&quick);
    assert_eq!(quick.len(), 1, "what came behind it is nobody's");
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_fails_that_one_notification_and_nothing_else_notices() {
    let mut config = Config::default();
    config.message_bytes_max = Some(2_000_000);
    config.spool.memory_each_max = 100_000;
    config.spool.disk_total_max = 1_000_000;
    let server = InProcess::start(config, ServeConfig::default());
    let mut raw = Raw::configured(server.door.address, true).await;
    raw.subscribe("t").await;
    let body = vec![b'x'; 1_500_000];
    let other = BodyHead {
        compressed_sha512: Sha512::of(b"another"),
        ..plain(&body[..2_000])
    };
    let compressed = |plain_bytes| BodyHead {
        compressor: 1,
        decompressed_length: plain_bytes,
        ..plain(&body[..2_000])
    };
    let long = vec![b'x'; 2_000_001];
    let parts = [&body[..1_000], &body[1_000..2_000]];
    let one = |message| vec![message];
    for (messages, refusal) in [
        (
            one(notify("t", plain(&long), long.clone())),
            Refusal::TooLong,
        ),
        (
            stream(plain(&long), &[&long[1..], &long[..1]]),
            Refusal::TooLong,
        ),
        (
            one(notify("t", compressed(2_000_001), body[..2_000].to_vec())),
            Refusal::TooLong,
        ),
        (
            one(notify("t", plain(&body), body.clone())),
            Refusal::NotNow,
        ),
        (
            one(notify("t", other, body[..2_000].to_vec())),
            Refusal::NotAsAnnounced,
        ),
        (stream(other, &parts), Refusal::NotAsAnnounced),
        (
            one(notify("t", compressed(5_000), body[..2_000].to_vec())),
            Refusal::NotDecompressed,
        ),
        (stream(compressed(5_000), &parts), Refusal::NotDecompressed),
    ] {
        for message in messages {
            raw.say(message).await;
        }
        assert_eq!(raw.told().await, Err(refusal));
    }
    // What our client makes of it: the call fails, and the connection is the same.
    let publisher = client(server.door.address, &Secrets::NONE, {
        let mut websocket = httppubsub_client::WebSocketConfig::default();
        websocket.compression = false;
        websocket
    })
    .await;
    let mut subscription = publisher.subscribe_exact("t").await.unwrap();
    for (body, is_refused) in [(&long, true), (&body, false)] {
        let error = publisher.notify("t", body.clone()).await.unwrap_err();
        let NotifyError::Request(error) = error else {
            panic!("{error}");
        };
        assert_eq!(matches!(error, RequestError::Refused { .. }), is_refused);
        assert!(!error.is_ambiguous(), "{error}");
    }
    assert_eq!(publisher.status(), ConnectionStatus::Ok);
    let mut other = Raw::configured(server.door.address, false).await;
    other.say(notify("t", plain(b"good"), "good")).await;
    assert_eq!(other.told().await, Ok(2));
    assert_eq!(raw.receive().await, "good");
    let message = tokio::time::timeout(PATIENCE, subscription.next()).await;
    let message = message.unwrap().unwrap();
    assert_eq!(message.bytes().await.unwrap(), "good");
}

/// Nobody has a notification whose topic could not be recorded: it may be sent again.
#[test]
fn poison_of_a_failing_database_is_refused_and_the_session_goes_on() {
    let home = Home::with(&Secrets::NONE);
    let server = home.serve(&[]);
    let subscriber = Subscriber::start(&server.door.signer);
    let (url, recovery) = (subscriber.url("/"), subscriber.recovery("/"));
    server.door.subscribe(&url, exact("t"), Some(&recovery));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let raw = runtime.block_on(Raw::configured(server.door.address, false));
    let raw = tokio::sync::Mutex::new(raw);
    let notified = |body: &'static str| {
        runtime.block_on(async {
            let mut raw = raw.lock().await;
            raw.say(notify("t", plain(body.as_bytes()), body)).await;
            raw.told().await
        })
    };
    let aside = home.path().join("aside");
    std::fs::rename(home.database(), &aside).unwrap();
    assert_eq!(notified("meanwhile"), Err(Refusal::NotNow));
    std::fs::rename(&aside, home.database()).unwrap();
    let reached = eventually("it is taken again", || notified("after").ok());
    assert_eq!(reached, 1);
    let deliveries = subscriber.deliveries_to(&url);
    assert_eq!(deliveries.len(), 1, "nobody had the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressible_messages_arrive_whatever_their_ratio() {
    let server = in_process(WebSocketConfig::default());
    let listener = client(
        server.door.address,
        &Secrets::NONE,
        httppubsub_client::WebSocketConfig::default(),
    )
    .await;
    let mut subscription = listener.subscribe_exact("t").await.unwrap();
    let mut raw = Raw::configured(server.door.address, true).await;
    let line = "the very same line, again and again\n";
    let body = Payload::from_bytes(line.repeat((64 << 20) / line.len()));
    let spool = Spool::default();
    let wire = Zstd::new(3).compress(&body, &spool).await.unwrap();
    assert!(body.len() / wire.len() > 1_000);
    let head = BodyHead {
        compressor: 1,
        compressed_length: wire.len(),
        decompressed_length: body.len(),
        compressed_sha512: *wire.sha512(),
    };
    let wire = wire.to_bytes().await.unwrap();
    raw.say(notify("t", head, wire)).await;
    let received = async {
        let message = subscription.next().await.unwrap();
        Sha512::of(&message.bytes().await.unwrap())
    };
    let (received, told) = tokio::join!(received, raw.told());
    assert_eq!((received, told), (*body.sha512(), Ok(1)));
}

/// A websocket by hand, which never reads what is answered. Little is on its way at once.
fn never_reading(address: SocketAddr) -> TcpStream {
    use socket2::{Domain, Type};
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.set_send_buffer_size(4_096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET /v1/websocket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    stream.write_all(&frame(&configure(false))).unwrap();
    stream
}

/// A message in one frame, masked with nothing.
fn frame(message: &ToBroadcaster) -> Vec<u8> {
    let message = message.encode(HeaderStyle::Minimal);
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(message);
    frame
}

/// Sends parts of a byte until they are not taken, and says how many were.
fn send_parts(stream: &mut TcpStream) -> (usize, ErrorKind) {
    let head = BodyHead {
        compressed_length: 10_000_000,
        decompressed_length: 10_000_000,
        ..plain(b"")
    };
    let identifier = identifier();
    for number in 0..1_000_000 {
        let part = match std::num::NonZeroU64::new(number) {
            Some(number) => Part::Later(number),
            None => Part::First {
                topic: Topic::new("t").unwrap(),
                head,
            },
        };
        let part = ToBroadcaster::NotifyStream(StreamPart {
            identifier: identifier.clone(),
            part,
            authorization: None,
            tracing: Bytes::new(),
            body: Bytes::from_static(b"x"),
        });
        if let Err(error) = stream.write_all(&frame(&part)) {
            return (usize::try_from(number).unwrap(), error.kind());
        }
    }
    panic!("a million answers wait for somebody who does not read them");
}

#[test]
fn ask_never_read_is_held_and_cut_off() {
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.stall_timeout = Duration::from_millis(300);
        websockets
    });
    let mut stream = never_reading(server.door.address);
    let (_, error) = send_parts(&mut stream);
    let is_cut_off = matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(is_cut_off, "{error}");
    assert_eq!(server.door.get("/healthz").status, 200);
}

/// The answers wait for one that takes long, which nobody is to blame for: nobody is cut off.
#[test]
fn slow_asker_is_read_no_further_than_its_answers_go() {
    let server = in_process(WebSocketConfig::default());
    let hangs = Subscriber::start(&server.door.signer);
    let (url, gate) = (hangs.url("/hangs"), Gate::default());
    hangs.confirm_behind(&url, &gate);
    server.door.subscribe(&url, exact("slow"), None);
    let mut stream = never_reading(server.door.address);
    let slow = frame(&notify("slow", plain(b"x"), "x"));
    stream.write_all(&slow).unwrap();
    hangs.await_deliveries(&url, 1);
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let (_, error) = send_parts(&mut stream);
    assert!(
        matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    assert_eq!(server.door.notify("others", b"are served"), 0);
    gate.open();
}

fn hmac() -> Secrets {
    Secrets {
        to_broadcaster: Scheme::Hmac(random_bytes()),
        to_subscriber: Scheme::Hmac(random_bytes()),
    }
}

fn with_few_codes(secrets: &Secrets) -> InProcess {
    let mut config = Config::default();
    config.replay_codes_max = 40;
    InProcess::with_secrets(config, ServeConfig::default(), secrets)
}

#[tokio::test(flavor = "multi_thread")]
async fn guard_full_of_parts_of_one_notification_it_never_is() {
    let secrets = hmac();
    let server = with_few_codes(&secrets);
    let mut options = httppubsub_client::WebSocketConfig::default();
    options.message_bytes_max = 1_024;
    options.compression = false;
    let publisher = client(server.door.address, &secrets, options).await;
    let notified = publisher.notify("t", vec![7; 100_000]).await.unwrap();
    assert_eq!(notified.subscribers, 0);
    for _ in 0..10 {
        assert_eq!(server.door.notify("t", b"others"), 0);
    }
}

/// One websocket spends as many authorizations as it can.
#[tokio::test(flavor = "multi_thread")]
async fn share_of_the_guard_leaves_room_for_others() {
    let secrets = hmac();
    let server = with_few_codes(&secrets);
    let eager = client(
        server.door.address,
        &secrets,
        httppubsub_client::WebSocketConfig::default(),
    )
    .await;
    let mut refused = 0;
    for _ in 0..60 {
        refused += usize::from(eager.notify("t", "x").await.is_err());
    }
    assert!((40..60).contains(&refused), "{refused}");
    assert_eq!(eager.status(), ConnectionStatus::Ok);
    for _ in 0..10 {
        assert_eq!(server.door.notify("t", b"others"), 0);
    }
}

#[test]
fn websocket_counted_notifications_are_counted_like_others() {
    let home = Home::with(&Secrets::NONE);
    let (server, metrics) = Metrics::serve(&home, &["--message-bytes-max", "100"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut raw = Raw::configured(server.door.address, false).await;
        for _ in 0..3 {
            raw.say(notify("t", plain(b"x"), "x")).await;
            assert_eq!(raw.told().await, Ok(0));
        }
        let long = vec![b'x'; 101];
        raw.say(notify("t", plain(&long), long.clone())).await;
        assert_eq!(raw.told().await, Err(Refusal::TooLong));
    });
    server.door.notify("t", b"x");
    assert_eq!(metrics.value("httppubsub_notifications_total"), 4);
}

#[test]
fn memory_beside_is_room_of_the_spool() {
    let home = Home::with(&Secrets::NONE);
    let (server, metrics) = Metrics::serve(
        &home,
        &["--spool-above", "1000000", "--notify-timeout", "60"],
    );
    let hangs = Subscriber::start(&server.door.signer);
    let (url, gate) = (hangs.url("/hangs"), Gate::default());
    hangs.confirm_behind(&url, &gate);
    server.door.subscribe(&url, exact("t"), None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut raw = Raw::configured(server.door.address, false).await;
        for bytes in [500_000, 3_000_000] {
            let body = vec![7; bytes];
            for _ in 0..4 {
                raw.say(notify("t", plain(&body), body.clone())).await;
            }
        }
        let used =
            |place: &str| metrics.value(&format!("httppubsub_spool_bytes{{place=\"{place}\"}}"));
        // It is sent while it is listened for what comes.
        let listening = tokio::spawn(async move {
            for _ in 0..8 {
                assert_eq!(raw.told().await, Ok(1));
            }
        });
        tokio::task::block_in_place(|| {
            eventually("all that waits is counted", || {
                (used("memory") >= 2_000_000 && used("disk") >= 12_000_000).then_some(())
            });
        });
        gate.open();
        listening.await.unwrap();
    });
}

#[test]
fn lost_rows_are_made_again_and_told() {
    let home = Home::with(&Secrets::NONE);
    let server = home.serve(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut raw = runtime.block_on(Raw::subscribed(server.door.address, "t"));
    assert_eq!(server.door.notify("t", b"before"), 1);
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    let lost = database.execute("DELETE FROM httppubsub_subscription_exacts", []);
    assert_eq!(lost.unwrap(), 1);
    runtime.block_on(async {
        assert_eq!(raw.receive().await, "before");
        match raw.next().await {
            ToSubscriber::Missed(missed) => assert_eq!(missed.topic, Topic::new("t").unwrap()),
            other => panic!("{other:?}"),
        }
        let door = server.door.clone();
        let notified = tokio::task::spawn_blocking(move || door.notify("t", b"after"));
        assert_eq!(raw.receive().await, "after");
        assert_eq!(notified.await.unwrap(), 1);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn glob_refused_over_a_websocket_fails_that_call_and_nothing_else() {
    let mut config = Config::default();
    config.glob_bytes_max = 16;
    let server = InProcess::start(config, ServeConfig::default());
    let mut options = httppubsub_client::WebSocketConfig::default();
    options.connect_retries = u32::MAX;
    let client = client(server.door.address, &Secrets::NONE, options).await;
    let mut good = client.subscribe_exact("t").await.unwrap();
    let long = GlobPattern::parse("longer than that*").unwrap();
    for interests in [
        vec![Interest::Glob(long.clone())],
        vec![exact("u"), Interest::Glob(long)],
    ] {
        let refused = tokio::time::timeout(PATIENCE, client.subscribe(interests)).await;
        let error = refused.expect("it is answered").unwrap_err();
        assert!(
            matches!(error, SubscribeError::Request(RequestError::Refused { .. })),
            "{error}"
        );
        // Calls after it are answered, and what was subscribed before is.
        let other = tokio::time::timeout(PATIENCE, client.subscribe_glob("short*")).await;
        let other = other.expect("it is answered").unwrap();
        let mut statuses = client.statuses();
        let ok = statuses.wait_for(ConnectionStatus::Ok);
        assert!(tokio::time::timeout(PATIENCE, ok).await.unwrap());
        assert_eq!(client.notify("t", "x").await.unwrap().subscribers, 1);
        let message = tokio::time::timeout(PATIENCE, good.next()).await;
        assert!(message.expect("it comes").is_some());
        let closing = tokio::time::timeout(PATIENCE, other.close()).await;
        closing.expect("it is answered").unwrap();
    }
}
