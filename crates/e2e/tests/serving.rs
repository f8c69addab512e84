//! How connections are kept, bounded and ended: slow peers, early answers, shutdown, paths.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use httppubsub_broadcaster::Config;
use httppubsub_e2e::{
    Connection, Deaf, Filler, Gate, Home, InProcess, Metrics, Server, Subscriber, eventually,
    exact, url,
};
use httppubsub_net::body::BodyLimits;
use httppubsub_net::inbound::ServeConfig;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::topic::Topic;

const MESSAGE: &[u8] = b"a message";
const SHORT: Duration = Duration::from_millis(400);

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

/// Sends `bytes` one by one, slowly, until the peer closes the connection; says how long that took.
#[track_caller]
fn drip_until_closed(connection: &mut Connection, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    for byte in bytes {
        if connection.is_closed_within(Duration::from_millis(20))
            || connection.send(&[*byte]).is_err()
        {
            return began.elapsed();
        }
    }
    panic!("the connection is still open after {:?}", began.elapsed());
}

/// T8. The binary allows 10 s.
#[test]
fn a_head_that_drips_is_cut_off_at_its_deadline_also_behind_other_requests() {
    let mut serve = ServeConfig::default();
    serve.head_timeout = SHORT;
    let server = InProcess::start(Config::default(), serve);
    let head = format!("GET /healthz HTTP/1.1\r\nA: {}", "a".repeat(2_000));
    let mut first = server.door.connect();
    let took = drip_until_closed(&mut first, head.as_bytes());
    assert!(took >= SHORT, "{took:?}");

    let mut second = server.door.connect();
    assert_eq!(second.get("/healthz").status, 200);
    let took = drip_until_closed(&mut second, head.as_bytes());
    assert!(took >= SHORT, "{took:?}");

    let mut silent = server.door.connect();
    assert!(
        silent.is_closed_within(Duration::from_secs(30)),
        "who says nothing is closed as well"
    );
    assert_eq!(server.door.get("/healthz").status, 200);
}

#[test]
fn a_connection_between_requests_has_the_longer_deadline() {
    let mut serve = ServeConfig::default();
    serve.head_timeout = SHORT / 4;
    serve.idle_timeout = SHORT;
    let server = InProcess::start(Config::default(), serve);
    let mut connection = server.door.connect();
    for _ in 0..3 {
        assert_eq!(connection.get("/healthz").status, 200);
        // Idle for longer than a head may take, and not for as long as it may idle.
        assert!(!connection.is_closed_within(SHORT / 2));
    }
    assert_eq!(connection.get("/healthz").status, 200);
    let idle_since = Instant::now();
    assert!(connection.is_closed_within(Duration::from_secs(30)));
    assert!(
        idle_since.elapsed() >= SHORT / 2,
        "{:?}",
        idle_since.elapsed()
    );
}

/// T8. The binary allows 15 s of silence, and any rate for 10 s.
#[test]
fn a_body_that_drips_or_stops_is_a_408_that_can_be_read() {
    let mut body = BodyLimits::default();
    body.silence_max = SHORT;
    body.rate_min = 1_024;
    body.rate_grace = SHORT;
    let server = InProcess::start(
        {
            let mut config = Config::default();
            config.body = body;
            config
        },
        ServeConfig::default(),
    );
    let signer = &server.door.signer;
    let message = vec![b'm'; 100_000];
    let notify = signer.notify(&topic(), &message);
    let head_bytes = notify.body.len() - message.len();
    // Before the head of the message is whole, and behind it.
    for sent in [5, head_bytes + 1_000] {
        let mut stopping = server.door.connect();
        stopping
            .announce(&notify, notify.body.len() as u64)
            .unwrap();
        stopping.send(&notify.body[..sent]).unwrap();
        let response = stopping.answer().unwrap().unwrap();
        assert_eq!(response.status, 408, "{}", response.text());
        assert!(
            response.text().contains("too slowly"),
            "{}",
            response.text()
        );

        let mut dripping = TcpStream::connect(server.door.address).unwrap();
        let host = server.door.address.to_string();
        dripping
            .write_all(&notify.head(&host, notify.body.len() as u64))
            .unwrap();
        dripping.write_all(&notify.body[..sent]).unwrap();
        dripping
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let (mut answer, mut part) = (Vec::new(), [0; 1_024]);
        for byte in &notify.body[sent..] {
            match dripping.read(&mut part) {
                Ok(read) => {
                    answer.extend_from_slice(&part[..read]);
                    break;
                }
                Err(_) => dripping.write_all(&[*byte]).unwrap(),
            }
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 408"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(server.door.notify("t", MESSAGE), 0);
}

#[test]
fn connections_beyond_the_bound_wait_for_a_place_when_all_are_in_use() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--db", "memory", "--connections-max", "2"]);
    let begun = || {
        let notify = home.signer().notify(&topic(), MESSAGE);
        let mut connection = server.door.connect();
        connection
            .announce(&notify, notify.body.len() as u64)
            .unwrap();
        let (last, first) = notify.body.split_last().unwrap();
        connection.send(first).unwrap();
        (connection, *last)
    };
    let ((mut first, last), second) = (begun(), begun());
    eventually("both are being taken", || {
        let taken = metrics.value("httppubsub_spool_bytes{place=\"memory\"}");
        (taken == 2 * (MESSAGE.len() as u64 - 1)).then_some(())
    });
    let mut third = server.door.connect();
    third
        .send(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    assert!(
        !third.is_closed_within(SHORT / 4),
        "nobody serves it, nobody closes it"
    );
    first.send(&[last]).unwrap();
    first.finish().unwrap();
    assert_eq!(
        first.answer().unwrap().unwrap().status,
        200,
        "who has a place keeps it while it uses it"
    );
    assert_eq!(third.answer().unwrap().unwrap().status, 200);
    drop(second);
}

/// T28.
#[test]
fn an_early_refusal_of_a_large_upload_can_be_read_every_time() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory", "--message-bytes-max", "20000000"]);
    let large = Filler::new(30_000_000, 1);
    let signer = home.signer();
    let refused = || {
        let head = signer.notify_head(&topic(), large.sha512, large.bytes);
        let asked = signer.notify_of(&head, b"");
        [
            (asked.with_authorization(None), 401),
            (asked.with_authorization(Some(b"X")), 403),
            (asked, 413),
        ]
    };
    let mut read = 0;
    for _ in 0..20 {
        for (asked, want) in refused() {
            let mut connection = server.door.connect();
            // All of it is sent before the answer is looked at.
            let sent = connection.post_with(&asked, &large);
            let response = connection.answer().unwrap().unwrap();
            assert_eq!(response.status, want, "{}", response.text());
            assert!(!response.body.is_empty());
            read += usize::from(sent.is_ok());
            // The rest was taken and dropped, so the connection is still good.
            if sent.is_ok() {
                assert_eq!(connection.get("/healthz").status, 200);
            }
        }
    }
    assert_eq!(read, 60, "all of each was taken");
}

/// An upload larger than what is read and dropped is cut off, but the answer comes first.
#[test]
fn an_early_refusal_of_an_endless_upload_is_read_by_who_reads_while_it_sends() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let huge = Filler::new(200_000_000, 1);
    for _ in 0..5 {
        let head = home.signer().notify_head(&topic(), huge.sha512, huge.bytes);
        let asked = home.signer().notify_of(&head, b"").with_authorization(None);
        let mut sending = TcpStream::connect(server.door.address).unwrap();
        let mut reading = sending.try_clone().unwrap();
        let host = server.door.address.to_string();
        let filler = huge.clone();
        let sender = thread::spawn(move || {
            sending.write_all(&asked.head(&host, 300 + filler.bytes))?;
            sending.write_all(&asked.body)?;
            filler.write_to(&mut sending)
        });
        let mut status = [0; 12];
        reading.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 401");
        // It cannot go on for ever.
        assert!(sender.join().unwrap().is_err());
    }
    assert_eq!(server.door.get("/healthz").status, 200);
}

#[test]
fn who_asks_whether_to_continue_is_told_so() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let mut asked = home.signer().notify(&topic(), MESSAGE);
    asked.headers = "Expect: 100-continue\r\n".to_owned();
    let mut connection = server.door.connect();
    connection
        .announce(&asked, asked.body.len() as u64)
        .unwrap();
    assert_eq!(connection.answer().unwrap().unwrap().status, 100);
    connection.send(&asked.body).unwrap();
    let response = connection.answer().unwrap().unwrap();
    assert_eq!(server.door.reached(&asked, &response), 0);
    // Chunked bodies are as good.
    let asked = home.signer().notify(&topic(), MESSAGE);
    let head = String::from_utf8(asked.head("h", 0)).unwrap();
    let head = head.replace("Content-Length: 0", "Transfer-Encoding: chunked");
    connection.send(head.as_bytes()).unwrap();
    for chunk in asked.body.chunks(7) {
        connection
            .send(format!("{:x}\r\n", chunk.len()).as_bytes())
            .unwrap();
        connection.send(&[chunk, b"\r\n"].concat()).unwrap();
    }
    connection.send(b"0\r\n\r\n").unwrap();
    let response = connection.answer().unwrap().unwrap();
    assert_eq!(server.door.reached(&asked, &response), 0);
}

/// F22.
#[test]
fn sigterm_finishes_what_is_under_way_and_takes_nothing_new() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let subscriber = Subscriber::start(home.signer());
    let gate = Gate::default();
    let (slow, quick) = (subscriber.url("/slow"), subscriber.url("/quick"));
    subscriber.confirm_behind(&slow, &gate);
    let down = Deaf::closed();
    for url in [&slow, &quick] {
        server.door.subscribe(url, exact("t"), None);
    }
    server
        .door
        .subscribe(&down.url("/"), exact("t"), Some(&subscriber.recovery("/")));
    let mut idle = server.door.connect();
    assert_eq!(idle.get("/readyz").status, 200);
    let asked = home.signer().notify(&topic(), MESSAGE);
    let mut waiting = server.door.connect();
    waiting.post(&asked).unwrap();
    subscriber.await_deliveries(&slow, 1);

    server.process.terminate();
    server.process.log_line("stopping");
    eventually("nobody is let in", || {
        Connection::open(server.door.address).is_err().then_some(())
    });
    assert!(
        idle.is_closed_within(Duration::from_secs(30)),
        "who waits for nothing is let go"
    );
    gate.open();
    let response = waiting.answer().unwrap().unwrap();
    assert_eq!(server.door.reached(&asked, &response), 2);
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(server.process.end_well(), [""; 0]);
    // What is owed is owed by whoever runs next.
    let told = home
        .rows()
        .into_iter()
        .filter(|row| row.is_owed_a_notice)
        .count();
    assert_eq!(
        told + subscriber.deliveries_to(&subscriber.recovery("/")).len(),
        1
    );
}

#[test]
fn the_grace_period_ends() {
    let home = Home::new();
    let mut server = home.serve(&["--grace", "1"]);
    let subscriber = Subscriber::start(home.signer());
    let gate = Gate::default();
    let slow = subscriber.url("/slow");
    subscriber.confirm_behind(&slow, &gate);
    server.door.subscribe(&slow, exact("t"), None);
    let mut waiting = server.door.connect();
    waiting
        .post(&home.signer().notify(&topic(), MESSAGE))
        .unwrap();
    subscriber.await_deliveries(&slow, 1);
    server.process.terminate();
    assert!(
        !matches!(waiting.answer(), Ok(Some(_))),
        "no answer says less than it should"
    );
    let (status, _) = server.process.end();
    assert_eq!(status.code(), Some(0));
    gate.open();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    let subscriber = Subscriber::start(home.signer());
    let gate = Gate::default();
    let slow = subscriber.url("/slow");
    subscriber.confirm_behind(&slow, &gate);
    server.door.subscribe(&slow, exact("t"), None);
    let mut waiting = server.door.connect();
    waiting
        .post(&home.signer().notify(&topic(), MESSAGE))
        .unwrap();
    subscriber.await_deliveries(&slow, 1);
    server.process.terminate();
    server.process.log_line("stopping");
    server.process.terminate();
    let (status, _) = server.process.end();
    assert_eq!(status.code(), Some(1));
    gate.open();
}

#[test]
fn a_broadcaster_that_stops_is_alive_and_not_ready() {
    let server = InProcess::start(Config::default(), ServeConfig::default());
    let status = |path: &str| {
        let response = server.door.get(path);
        assert!(!response.body.is_empty());
        response.status
    };
    assert_eq!((status("/healthz"), status("/readyz")), (200, 200));
    server.broadcaster.shut_down();
    assert_eq!((status("/healthz"), status("/readyz")), (200, 503));
}

/// More than the sockets between them hold: a peer that is not read any further never sends it all.
#[test]
fn an_answer_is_there_for_all_who_send_their_body_first() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let body = vec![b'x'; 16 << 20];
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n";
    for (asked, headers, status) in [
        ("POST /v1/nowhere", "", "404"),
        ("PUT /v1/notify", "", "405"),
        ("POST /v1/websocket", "", "405"),
        ("GET /v1/websocket", upgrade, "426"),
        ("GET /healthz", "", "200"),
        ("GET /readyz", "", "200"),
        ("POST /v1/notify", "", "401"),
    ] {
        let mut stream = TcpStream::connect(server.door.address).unwrap();
        let length = body.len();
        let head =
            format!("{asked} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let sent = stream.write_all(&body);
        assert!(sent.is_ok(), "{asked}: {sent:?}");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        assert_eq!(answer, format!("HTTP/1.1 {status}"), "{asked}");
    }
}

#[test]
fn what_is_asked_wrongly_is_told_so() {
    let home = Home::new();
    let server: Server = home.serve(&["--db", "memory"]);
    let paths = [
        "/v1/subscribe/exact",
        "/v1/subscribe/glob",
        "/v1/unsubscribe/exact",
        "/v1/unsubscribe/glob",
        "/v1/check_subscriptions",
        "/v1/set_subscriptions",
        "/v1/notify",
        "/v1/receive_for_websockets",
        "/v1/missed_for_websockets",
    ];
    let mut connection = server.door.connect();
    let mut ask = |method: &str, path: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        connection.send(request.as_bytes()).unwrap();
        connection.answer().unwrap().unwrap()
    };
    for path in paths {
        for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"] {
            let response = ask(method, path);
            assert_eq!(response.status, 405, "{method} {path}");
            let allow = response.header("allow");
            assert!(
                allow.is_some_and(|it| it.contains("POST")),
                "{method} {path}: {allow:?}"
            );
        }
        assert_eq!(ask("POST", &format!("{path}/")).status, 404, "{path}/");
        assert_eq!(
            ask("POST", &path.to_uppercase()).status,
            404,
            "{path} in capitals"
        );
        assert_eq!(ask("POST", path).status, 400, "{path}: an empty body");
        assert_eq!(
            ask("POST", &format!("{path}?query")).status,
            400,
            "{path}: queries do not matter"
        );
    }
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/notify",
        "/v1/notify/x",
        "//v1/notify",
        "/v1/../v1/notify",
        "/%00",
    ] {
        assert_eq!(ask("POST", path).status, 404, "{path}");
        assert_eq!(ask("GET", path).status, 404, "{path}");
    }
    assert_eq!(ask("GET", "/v1/websocket").status, 426, "a plain GET");
    let check = home.signer().check(&url("http://127.0.0.1:9/"));
    assert_eq!(server.door.ask(&check).status, 200);
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let mut connection = server.door.connect();
    let wrong = home.signer().notify_head(&topic(), Sha512::of(b""), 1);
    let asked = [
        home.signer().notify(&topic(), MESSAGE),
        home.signer()
            .check(&url("http://127.0.0.1:9/"))
            .with_authorization(None),
        home.signer().notify_of(&wrong, b"1"),
        home.signer().check(&url("http://127.0.0.1:9/")),
    ];
    for asked in &asked {
        connection.post(asked).unwrap();
    }
    let statuses = asked.map(|_| connection.answer().unwrap().unwrap().status);
    assert_eq!(statuses, [200, 401, 400, 200]);
}

/// What is measured of it is in `docs/performance.md`; here is that it does its work.
#[test]
fn a_single_thread_that_looks_for_what_comes_next_serves_like_any_other() {
    let home = Home::new();
    let server = home.serve(&["--threads", "1", "--busy-poll", "100"]);
    let subscriber = Subscriber::start(home.signer());
    for index in 0..10 {
        let url = subscriber.url(&format!("/{index}"));
        server.door.subscribe(&url, exact("topic"), None);
    }
    for _ in 0..20 {
        assert_eq!(server.door.notify("topic", MESSAGE), 10);
    }
}
