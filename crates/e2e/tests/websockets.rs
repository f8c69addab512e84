//! Websocket subscribers, through the public door.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use httppubsub_broadcaster::{Config, Preset, WebSocketConfig};
use httppubsub_client::{
    Client, ClientConfig, ClientConfigBuilder, ConnectionStatus, NotifyError, PresetDictionary,
    Receiving, RequestError, Subscription,
};
use httppubsub_e2e::{
    Deaf, Delivery, Gate, Home, InProcess, PATIENCE, Server, Subscriber, eventually, exact,
    httppubsub, own_address,
};
use httppubsub_net::body::SpoolConfig;
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::random_bytes;
use httppubsub_net::websocket::{Socket, SocketConfig, SocketEvent};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::paths::MISSED_FOR_WEBSOCKETS;
use httppubsub_proto::session::{Outgoing, OutgoingBody};
use httppubsub_proto::stateful::{
    Configure, HeaderStyle, InterestMessage, ToBroadcaster, ToSubscriber,
};
use httppubsub_proto::topic::Topic;

fn builder(address: SocketAddr, secrets: &Secrets) -> ClientConfigBuilder {
    ClientConfig::builder([format!("http://{address}")])
        .secrets(secrets)
        .websocket({
            let mut websocket = httppubsub_client::WebSocketConfig::default();
            websocket.connect_retries = 20;
            websocket
        })
}

async fn client(server: &InProcess) -> Client {
    start(builder(server.door.address, &Secrets::NONE)).await
}

async fn start(builder: ClientConfigBuilder) -> Client {
    Client::start(builder.build().unwrap()).await.unwrap()
}

async fn text(subscription: &mut Subscription) -> String {
    let message = tokio::time::timeout(PATIENCE, subscription.next()).await;
    let bytes = message.unwrap().unwrap().bytes().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn comes_to_be(client: &Client, status: ConnectionStatus) {
    let mut statuses = client.statuses();
    let waiting = statuses.wait_for(status);
    assert!(tokio::time::timeout(PATIENCE, waiting).await.unwrap());
}

fn in_process(websockets: WebSocketConfig) -> InProcess {
    let mut config = Config::default();
    config.websockets = websockets;
    InProcess::start(config, ServeConfig::default())
}

/// What a request for a websocket with these headers is answered, as far as the first line.
fn shake_hands(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

const GOOD: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_handshake_is_answered_by_the_book_and_a_bad_one_clearly() {
    let server = in_process(WebSocketConfig::default());
    let address = server.door.address;
    let answer = shake_hands(address, "/v1/websocket?query=ignored", GOOD);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let answer = answer.to_lowercase();
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="));
    assert!(!answer.contains("sec-websocket-extensions") && !answer.contains("websocket-protocol"));
    let without = |line: &str| GOOD.replace(line, "");
    for (path, headers, status) in [
        ("/v1/websocket", String::new(), "426"),
        ("/v1/websocket", without("Upgrade: websocket\r\n"), "426"),
        (
            "/v1/websocket",
            GOOD.replace("Version: 13", "Version: 8"),
            "426",
        ),
        ("/v1/websocket", GOOD.replace("dGhl", ""), "400"),
        ("/v1/websocket/", GOOD.to_owned(), "404"),
    ] {
        let answer = shake_hands(address, path, &headers);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert_eq!(
            answer.contains("sec-websocket-version: 13"),
            status == "426"
        );
    }
}

#[test]
fn the_oldest_websocket_that_does_not_say_who_it_is_makes_room() {
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.unauthenticated_max = 2;
        websockets
    });
    let address = server.door.address;
    let open = || {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET /v1/websocket HTTP/1.1\r\nHost: {address}\r\n{GOOD}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        (stream, String::from_utf8(answer.to_vec()).unwrap())
    };
    let mut held = [open(), open(), open()];
    assert!(held.iter().all(|(_, answer)| answer == "HTTP/1.1 101"));
    let mut rest = Vec::new();
    held[0].0.set_read_timeout(Some(PATIENCE)).unwrap();
    // Closed without a word: it has said nothing either.
    held[0].0.read_to_end(&mut rest).unwrap();
    assert_eq!(server.door.get("/healthz").status, 200);
}

#[tokio::test]
async fn a_websocket_that_does_not_say_who_it_is_is_closed() {
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.configure_timeout = Duration::from_millis(50);
        websockets
    });
    let url = format!("ws://{}/v1/websocket", server.door.address);
    let mut socket = Socket::connect(&url, PATIENCE, SocketConfig::default())
        .await
        .unwrap();
    let closed = tokio::time::timeout(PATIENCE, socket.event()).await;
    let closed = closed.unwrap().unwrap();
    assert!(
        matches!(closed, SocketEvent::Closed(Some(1008))),
        "{closed:?}"
    );
}

#[tokio::test]
async fn nobody_unknown_sends_more_than_64_kib() {
    let server = in_process(WebSocketConfig::default());
    let url = format!("ws://{}/v1/websocket", server.door.address);
    let mut socket = Socket::connect(&url, PATIENCE, SocketConfig::default())
        .await
        .unwrap();
    let message = Outgoing {
        head: vec![0; 70_000].into(),
        body: OutgoingBody::Empty,
    };
    socket.send(message).await.unwrap();
    let mut ended = Ok(SocketEvent::Writable);
    while matches!(ended, Ok(SocketEvent::Writable)) {
        let event = tokio::time::timeout(PATIENCE, socket.event());
        ended = event.await.unwrap();
    }
    let refused = match &ended {
        Ok(SocketEvent::Closed(code)) => code.is_none_or(|code| code == 1009),
        // The rest of the message was thrown away with the connection.
        Err(_) => true,
        Ok(_) => false,
    };
    assert!(refused, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_websocket_wants_any_more_is_unsubscribed() {
    let server = in_process(WebSocketConfig::default());
    let own = "http://127.0.0.1:3003/v1/receive_for_websockets";
    let nothing = server.door.etag(own);
    let one = client(&server).await;
    let other = client(&server).await;
    let subscriptions = [
        one.subscribe_exact("t").await.unwrap(),
        other.subscribe_exact("t").await.unwrap(),
    ];
    let something = server.door.etag(own);
    assert_ne!(something, nothing);
    assert_eq!(server.door.notify("t", b"x"), 2);
    one.close().await.unwrap();
    eventually("one is gone", || {
        (server.door.notify("t", b"x") == 1).then_some(())
    });
    assert_eq!(server.door.etag(own), something);
    // One that just disappears unsubscribes as well.
    drop((other, subscriptions));
    eventually("all are gone", || {
        (server.door.etag(own) == nothing).then_some(())
    });
    assert_eq!(server.door.notify("t", b"x"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_is_received_by_a_client_that_is_closed_at_once() {
    let server = in_process(WebSocketConfig::default());
    let message = vec![b'x'; 100_000];
    for _ in 0..10 {
        let client = client(&server).await;
        let mut subscription = client.subscribe_exact("t").await.unwrap();
        let door = &server.door;
        let confirmed: u32 = (0..20).map(|_| door.notify("t", &message)).sum();
        assert_eq!(confirmed, 20);
        client.close().await.unwrap();
        let mut received = 0;
        while subscription.next().await.is_some() {
            received += 1;
        }
        assert_eq!(received, confirmed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_surfaces_at_once() {
    let home = Home::with(&Secrets::NONE);
    let server = home.serve(&[]);
    let client = start(builder(server.door.address, &Secrets::NONE)).await;
    let mut subscription = client.subscribe_glob("t*").await.unwrap();
    let seen: Arc<Mutex<Vec<Receiving>>> = Arc::default();
    let writing = seen.clone();
    subscription.on_gap(move |receiving| {
        writing.lock().unwrap().push(receiving);
        async {}
    });
    let nothing = Duration::from_millis(5);
    assert!(
        subscription
            .next_with_timeout(nothing)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(*seen.lock().unwrap(), [Receiving::First]);
    let url = format!("http://{}{MISSED_FOR_WEBSOCKETS}", server.door.address);
    let topic = Topic::new("topic").unwrap();
    let door = &server.door;
    let asked = door.signer.missed_for_websockets(&url, &topic);
    assert_eq!(door.ask(&asked).status, 200);
    let told = async {
        while !seen.lock().unwrap().contains(&Receiving::AfterGap) {
            let timeout = Duration::from_millis(5);
            assert!(
                subscription
                    .next_with_timeout(timeout)
                    .await
                    .unwrap()
                    .is_none()
            );
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert_eq!(client.status(), ConnectionStatus::Ok);
}

fn serve_at(home: &Home, address: SocketAddr) -> Server {
    home.serve(&["--listen", &address.to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_outlasts_a_broadcaster_that_is_killed() {
    let home = Home::new();
    let secrets =
        Secrets::parse(&std::fs::read_to_string(home.path().join("secrets.json")).unwrap())
            .unwrap();
    let address = own_address();
    let mut server = serve_at(&home, address);
    let client = start(builder(server.door.address, &secrets)).await;
    let publisher = start(builder(server.door.address, &secrets)).await;
    let mut subscription = client.subscribe([exact("t"), exact("u")]).await.unwrap();
    let seen: Arc<Mutex<Vec<Receiving>>> = Arc::default();
    let writing = seen.clone();
    subscription.on_gap(move |receiving| {
        writing.lock().unwrap().push(receiving);
        async {}
    });
    assert_eq!(
        publisher.notify("t", "before").await.unwrap().subscribers,
        1
    );
    assert_eq!(text(&mut subscription).await, "before");
    assert_eq!(client.status(), ConnectionStatus::Ok);
    server.process.kill();
    comes_to_be(&client, ConnectionStatus::Lost).await;
    comes_to_be(&publisher, ConnectionStatus::Lost).await;
    // Made while nobody is there, in this order.
    let waiting: Vec<_> = ["1", "2", "3"]
        .map(|body| {
            let publisher = publisher.clone();
            async move { publisher.notify("u", body).await.unwrap().subscribers }
        })
        .into_iter()
        .map(tokio::spawn)
        .collect();
    let _server = serve_at(&home, address);
    comes_to_be(&client, ConnectionStatus::Ok).await;
    for notified in waiting {
        // The publisher may have been there before the subscriber was.
        assert!(notified.await.unwrap() <= 1);
    }
    assert_eq!(publisher.notify("t", "after").await.unwrap().subscribers, 1);
    let mut last = String::new();
    while last != "after" {
        last = text(&mut subscription).await;
    }
    assert_eq!(
        *seen.lock().unwrap(),
        [Receiving::First, Receiving::AfterGap]
    );
}

#[tokio::test]
async fn a_client_that_finds_no_broadcaster_says_so_and_what_came_of_what_was_asked() {
    let nobody = Deaf::closed();
    let url = nobody.url("");
    let mut options = httppubsub_client::WebSocketConfig::default();
    options.connect_retries = 0;
    let config = ClientConfig::builder([url]).websocket(options);
    let client = start(config).await;
    let error = client.notify("t", "x").await.unwrap_err();
    let exhausted = matches!(
        &error,
        NotifyError::Request(RequestError::RetriesExhausted { .. })
    );
    assert!(exhausted && !error.is_ambiguous(), "{error:?}");
    comes_to_be(&client, ConnectionStatus::Abandoned).await;
    client.close().await.unwrap();
}

/// A websocket that is configured and subscribed, and whose messages nobody reads.
async fn connect(address: SocketAddr) -> Socket {
    let url = format!("ws://{address}/v1/websocket");
    let connecting = Socket::connect(&url, PATIENCE, SocketConfig::default());
    connecting.await.unwrap()
}

async fn say(socket: &mut Socket, message: Vec<u8>) {
    let message = Outgoing {
        head: message.into(),
        body: OutgoingBody::Empty,
    };
    socket.send(message).await.unwrap();
}

fn to_t() -> InterestMessage {
    InterestMessage {
        interest: exact("t"),
        authorization: None,
        tracing: Default::default(),
    }
}

/// One that is subscribed to `t`, and reads only when it is told to.
async fn subscribed(address: SocketAddr) -> Socket {
    let mut socket = connect(address).await;
    let configure = ToBroadcaster::Configure(Configure {
        subscriber_nonce: random_bytes(),
        enable_zstd: false,
        enable_training: false,
        initial_dict: 0,
        authorization: None,
        tracing: Default::default(),
    });
    let subscribe = ToBroadcaster::Subscribe(to_t());
    for (message, answer) in [
        (configure, "CONFIRM_CONFIGURE"),
        (subscribe, "CONFIRM_SUBSCRIBE_EXACT"),
    ] {
        say(&mut socket, message.encode_head(HeaderStyle::Minimal)).await;
        match socket.event().await.unwrap() {
            SocketEvent::Message(message) => {
                assert_eq!(ToSubscriber::decode(&message).unwrap().name(), answer);
            }
            other => panic!("{other:?}"),
        }
    }
    socket
}

/// The code that the broadcaster closes it with, whatever comes before.
async fn code_at_the_end(socket: &mut Socket) -> Option<u16> {
    let closed = async {
        loop {
            match socket.event().await.unwrap() {
                SocketEvent::Closed(code) => return code,
                SocketEvent::Message(_) | SocketEvent::Writable => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_does_not_keep_up_is_cut_off_and_delays_no_other() {
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.queue_bytes_max = NonZeroU32::new(2_000).unwrap();
        websockets.stall_timeout = Duration::from_millis(200);
        websockets
    });
    let mut slow = subscribed(server.door.address).await;
    let client = client(&server).await;
    let mut quick = client.subscribe_exact("t").await.unwrap();
    let mut counts = BTreeSet::new();
    for number in 0..20 {
        counts.insert(server.door.notify("t", format!("{number}").as_bytes()));
        assert_eq!(text(&mut quick).await, number.to_string());
    }
    // It was counted for as long as it had room.
    assert_eq!(counts, BTreeSet::from([1, 2]));
    assert_eq!(code_at_the_end(&mut slow).await, Some(1008));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_asks_for_more_than_can_be_done_waits_and_loses_nothing() {
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.unprocessed_max = NonZeroUsize::new(4).unwrap();
        websockets
    });
    let slow = Subscriber::start(&server.door.signer);
    let (url, gate) = (slow.url("/slow"), Gate::default());
    slow.confirm_behind(&url, &gate);
    server.door.subscribe(&url, exact("t"), None);
    let mut options = httppubsub_client::WebSocketConfig::default();
    options.expected_acknowledgements_max = None;
    let eager = start(builder(server.door.address, &Secrets::NONE).websocket(options)).await;
    let notifying = (0..100).map(|number| eager.notify("t", number.to_string()));
    let asking = futures_util::future::join_all(notifying);
    let opening = async {
        tokio::task::block_in_place(|| slow.await_deliveries(&url, 1));
        gate.open();
    };
    let (notified, ()) = tokio::join!(asking, opening);
    for it in notified {
        assert_eq!(it.unwrap().subscribers, 1);
    }
    let told: Vec<_> = slow.deliveries().iter().map(Delivery::message).collect();
    let sent: Vec<_> = (0..100).map(|it| it.to_string().into_bytes()).collect();
    assert_eq!(told, sent, "once each, in order");
    let topics: Vec<_> = (0..1_000).map(|it| exact(&it.to_string())).collect();
    let _subscription = eager.subscribe(topics).await.unwrap();
    assert_eq!(server.door.notify("999", b"body"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_go_in_parts_and_through_files_at_every_end() {
    let mut spool = SpoolConfig::default();
    spool.memory_each_max = 100_000;
    let mut config = Config::default();
    config.spool = spool.clone();
    let server = InProcess::start(config, ServeConfig::default());
    let client = start(builder(server.door.address, &Secrets::NONE).spool(spool)).await;
    let mut subscription = client.subscribe_exact("t").await.unwrap();
    let body: Vec<u8> = (0..64 * 256).flat_map(|_| random_bytes::<4096>()).collect();
    let notified = client.notify("t", body.clone()).await.unwrap();
    assert_eq!(notified.subscribers, 1);
    let message = tokio::time::timeout(PATIENCE, subscription.next()).await;
    let message = message.unwrap().unwrap();
    assert!(message.payload.in_memory().is_none());
    assert!(message.bytes().await.unwrap() == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_the_same_with_every_kind_of_compression() {
    let dictionary = bytes::Bytes::from("{\"event\":\"updated\",\"account\":".repeat(20));
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.presets = vec![Preset {
            id: 7,
            dictionary: dictionary.clone(),
            level: 5,
            min_size: 100,
        }];
        websockets.training_low_watermark = 20_000;
        websockets.training_high_watermark = 60_000;
        websockets.retrain_interval = Duration::from_millis(1);
        websockets
    });
    let websocket = |options: httppubsub_client::WebSocketConfig| {
        let config = ClientConfig::builder([format!("http://{}", server.door.address)]);
        config.websocket(options)
    };
    let clients = [
        start(websocket({
            let mut websocket = httppubsub_client::WebSocketConfig::default();
            websocket.compression = false;
            websocket
        }))
        .await,
        start(websocket({
            let mut websocket = httppubsub_client::WebSocketConfig::default();
            websocket.training = false;
            websocket.presets = vec![PresetDictionary { id: 7, dictionary }];
            websocket.initial_dict = 7;
            websocket
        }))
        .await,
        start(websocket(httppubsub_client::WebSocketConfig::default())).await,
    ];
    let mut subscriptions = Vec::new();
    for client in &clients {
        subscriptions.push(client.subscribe_exact("t").await.unwrap());
    }
    for number in 0..600 {
        let filler = if number % 50 == 0 {
            40_000
        } else {
            number % 90
        };
        let body = format!(
            "{{\"event\":\"updated\",\"account\":\"acct-{}\",\"n\":{number},\"filler\":\"{}\"}}",
            number * 7919 % 1000,
            "ab".repeat(filler)
        );
        let publisher = &clients[number % clients.len()];
        let notified = publisher.notify("t", body.clone()).await.unwrap();
        assert_eq!(notified.subscribers, 3);
        for subscription in &mut subscriptions {
            assert_eq!(text(subscription).await, body);
        }
    }
    assert!(clients.iter().all(|it| it.status() == ConnectionStatus::Ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_an_unknown_preset_is_told_by_the_connections_end() {
    let server = in_process(WebSocketConfig::default());
    let config = ClientConfig::builder([format!("http://{}", server.door.address)]);
    let config = config.websocket({
        let mut websocket = httppubsub_client::WebSocketConfig::default();
        websocket.connect_retries = 0;
        websocket.initial_dict = 9;
        websocket.presets = vec![PresetDictionary {
            id: 9,
            dictionary: "whatever".into(),
        }];
        websocket
    });
    let client = start(config).await;
    comes_to_be(&client, ConnectionStatus::Abandoned).await;
}

#[test]
fn the_program_speaks_over_websockets() {
    let home = Home::new();
    let server = home.serve(&[]);
    let url = format!("http://{}", server.door.address);
    let secrets = home.path().join("secrets.json");
    let common = [
        "--broadcaster",
        &url,
        "--secrets",
        secrets.to_str().unwrap(),
    ];
    let mut listen = httppubsub();
    listen.args(["listen", "--ws", "--glob", "a/*", "--count", "2", "--json"]);
    let mut listening = httppubsub_e2e::Process::spawn("listen", {
        listen.args(common);
        listen
    });
    assert_eq!(
        listening.event("listening")["receive_url"],
        serde_json::Value::Null
    );
    for flags in [&["--ws"][..], &[]] {
        let mut notify = httppubsub();
        notify
            .args(["notify", "a/b", "--data", "hello", "--json"])
            .args(common);
        let output = notify.args(flags).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && said.contains("\"subscribers\":1"),
            "{said}"
        );
        assert_eq!(listening.event("message")["body"], "hello");
    }
    listening.end_well();
}

/// What is said of `listen` and `notify` holds over a websocket too.
#[test]
fn ws_works_with_every_other_flag() {
    let home = Home::with(&Secrets::NONE);
    let dictionary = home.path().join("dictionary");
    std::fs::write(&dictionary, "a dictionary that both ends know").unwrap();
    let preset = format!("7:3:32:{}", dictionary.display());
    let server = home.serve(&["--zstd-preset", &preset]);
    let (nobody, url) = (Deaf::closed(), format!("http://{}", server.door.address));
    let (nobody, saved) = (nobody.url(""), home.path().join("saved"));
    let preset = format!("7:{}", dictionary.display());
    let secrets = home.path().join("secrets.json");
    let program = |verb: &str, flags: &[&str]| {
        let mut command = httppubsub();
        command.args([
            verb,
            "--ws",
            "--broadcaster",
            &nobody,
            "--broadcaster",
            &url,
        ]);
        command.arg("--secrets").arg(&secrets).args(flags);
        command
    };
    let interests = ["--exact", "a", "--exact-hex", "fffe", "--glob", "g/*"];
    let others = ["--bind", "127.0.0.1:0", "--host", "http://127.0.0.1:1"];
    let ends = ["--count", "5", "--timeout", "60", "--json"];
    let mut listen = program("listen", &[&interests[..], &others, &ends].concat());
    listen
        .arg("--zstd-preset")
        .arg(&preset)
        .arg("--save")
        .arg(&saved);
    let mut listening = httppubsub_e2e::Process::spawn("listen", listen);
    listening.event("listening");
    let file = home.path().join("message");
    std::fs::write(&file, "from a file").unwrap();
    let file = file.to_str().unwrap();
    for (flags, text) in [
        (&["a", "--data", "plain"][..], "plain"),
        (
            &["--topic-hex", "fffe", "--data", "bytes", "--json"],
            "bytes",
        ),
        (&["g/1", "--file", file, "--no-compression"], "from a file"),
        (
            &["g/2", "--zstd-preset", &preset, "--file", file],
            "from a file",
        ),
        (&["a", "-"], "from stdin"),
    ] {
        let mut notify = program("notify", flags);
        notify.stdin(std::process::Stdio::piped());
        notify.stdout(std::process::Stdio::piped());
        let mut notifying = notify.spawn().unwrap();
        let mut stdin = notifying.stdin.take().unwrap();
        // Those that do not read it may be gone.
        let _ = stdin.write_all(b"from stdin");
        drop(stdin);
        let told = notifying.wait_with_output().unwrap();
        let said = String::from_utf8(told.stdout).unwrap();
        assert!(told.status.success(), "{flags:?}: {said}");
        assert!(
            said.contains("1 subscriber") || said.contains("\"subscribers\":1"),
            "{said}"
        );
        let message = listening.event("message");
        let path = message["file"].as_str().unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), text, "{flags:?}");
    }
    listening.end_well();
    let mut listen = program("listen", &["--exact", "a", "--timeout", "0.2"]);
    assert_eq!(listen.status().unwrap().code(), Some(4));
}

/// The peer hears a code, and the operator the reason.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_websocket_is_ended_is_in_the_log_and_told_to_nobody() {
    let home = Home::with(&Secrets::NONE);
    let server = home.serve(&["--websocket-stall-timeout", "1"]);
    let mut unknown = connect(server.door.address).await;
    say(&mut unknown, vec![0xff; 4]).await;
    assert_eq!(code_at_the_end(&mut unknown).await, Some(1002));
    let mut known = subscribed(server.door.address).await;
    say(
        &mut known,
        ToBroadcaster::Subscribe(to_t()).encode_head(HeaderStyle::Minimal),
    )
    .await;
    assert_eq!(code_at_the_end(&mut known).await, Some(1002));
    let mut slow = subscribed(server.door.address).await;
    // More than goes into its queue and what lies before it.
    for _ in 0..600 {
        server.door.notify("t", &[7; 100_000]);
    }
    assert_eq!(code_at_the_end(&mut slow).await, Some(1008));
    tokio::task::block_in_place(|| {
        for reason in [
            "a websocket was ended",
            "SUBSCRIBE_EXACT",
            "cutting off a websocket that is too slow",
            "it does not keep up with what it subscribed",
        ] {
            server.process.log_line(reason);
        }
    });
}

/// Nobody is told to go at once but those that nobody knows.
#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_websockets_are_spread_when_the_broadcaster_stops() {
    let spread = Duration::from_secs(2);
    let server = in_process({
        let mut websockets = WebSocketConfig::default();
        websockets.close_spread = spread;
        websockets
    });
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(subscribed(server.door.address).await);
    }
    let began = std::time::Instant::now();
    server.broadcaster.shut_down();
    let ends = sockets.iter_mut().map(|socket| async {
        assert_eq!(code_at_the_end(socket).await, Some(1001));
        began.elapsed()
    });
    let mut ends = futures_util::future::join_all(ends).await;
    ends.sort();
    // Of twenty moments in two seconds.
    assert!(ends[19] - ends[0] > spread / 10, "{ends:?}");
}

#[test]
fn websockets_are_told_to_go_when_the_broadcaster_stops() {
    let home = Home::new();
    let mut server = home.serve(&["--grace", "2"]);
    let url = format!("http://{}", server.door.address);
    let secrets = home.path().join("secrets.json");
    let mut listen = httppubsub();
    listen.args([
        "listen",
        "--ws",
        "--exact",
        "t",
        "--broadcaster",
        &url,
        "--secrets",
    ]);
    listen.arg(&secrets);
    let mut listening = httppubsub_e2e::Process::spawn("listen", listen);
    listening.log_line("listening over a websocket");
    server.process.terminate();
    server.process.end_well();
    listening.log_line("the connection is lost");
    assert!(home.rows().is_empty());
    listening.terminate();
    listening.end_well();
}
