//! Faults of connections that are served.
//!
//! | fault | test |
//! |---|---|
//! | silent-idle | silent_idle_connections_make_room_for_newcomers |
//! | silent-idle | silent_idle_websockets_make_room_for_newcomers |
//! | silent-idle | crates/net/src/places.rs | silent_idle_holders_go_first_the_oldest_of_the_address_with_most |
//! | metrics-idle | metrics_idle_readers_keep_nobody_out |
//! | memory-beside | memory_beside_of_unfinished_sets_is_bounded_and_told |
//! | memory-beside | crates/net/src/body/spool.rs | memory_beside_of_parts_of_one_byte_is_that_of_their_bytes |
//! | memory-beside | memory_beside_before_authorization_is_small |
//! | memory-beside | crates/net/src/body/spool.rs | memory_beside_bodies_comes_of_the_same_budget_and_has_a_share |
//! | memory-beside | crates/net/src/body/payload.rs | memory_beside_of_readers_of_files_takes_room_or_is_small |
//! | head-drip | crates/net/src/body/reader.rs | head_drip_is_looked_at_once_a_field |
//! | half-closed | half_closed_publishers_are_answered_and_those_that_are_gone_keep_no_place |
//! | bare-lf | bare_lf_is_a_400 |
//! | bare-lf | crates/net/src/inbound/framing.rs | bare_lf_and_the_like_are_found |
//! | two-hosts | two_hosts_are_a_400 |
//! | two-hosts | crates/net/src/inbound/framing.rs | two_hosts_and_the_like_are_found |
//! | refusals-counted | refusals_counted_and_logged_with_who_asked_for_what |
//! | counters-from-start | counters_from_start_are_all_that_the_docs_name |
//! | docs-say-other | docs_say_other_methods_are_answered_as_they_are |

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Instant;

use httppubsub_broadcaster::Config;
use httppubsub_e2e::{
    Asked, Connection, Door, Home, InProcess, Metrics, PATIENCE, Subscriber, eventually, exact, url,
};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::stateless::SetHead;
use httppubsub_proto::subscription::StrongEtag;
use httppubsub_proto::topic::Topic;
use socket2::{Domain, SockRef, Socket, Type};

const MIB: u64 = 1024 * 1024;

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

/// A connection from another address of this machine.
fn connect_from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), 0);
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The first line of the answer to these bytes; empty if the connection was closed instead.
fn status_line(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut line = String::new();
    // Closed or reset, it says nothing.
    let _ = BufReader::new(stream).read_line(&mut line);
    line.trim_end().to_owned()
}

const HEALTHZ: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";

const UPGRADE: &[u8] = b"GET /v1/websocket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn silent_idle_connections_make_room_for_newcomers() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--db", "memory", "--connections-max", "20"]);
    let subscriber = Subscriber::start(home.signer());
    let mut idle = Vec::new();
    for at in 0..60 {
        let mut connection = server.door.connect();
        if at % 2 == 0 {
            assert_eq!(connection.get("/healthz").status, 200);
        }
        idle.push(connection);
    }
    server
        .door
        .subscribe(&subscriber.url("/s"), exact("t"), None);
    assert_eq!(server.door.notify("t", b"message"), 1);
    let mut other = connect_from([127, 0, 0, 2], server.door.address);
    assert_eq!(status_line(&mut other, HEALTHZ), "HTTP/1.1 200 OK");
    assert!(metrics.value("httppubsub_evicted_total{place=\"connection\"}") >= 40);
    drop(idle);
}

/// One address takes all the places that it can, with requests that go on.
#[test]
fn share_of_connections_leaves_room_for_another_address() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--db", "memory", "--connections-max", "20"]);
    let message = vec![b'm'; 100_000];
    let mut busy = Vec::new();
    for _ in 0..16 {
        let asked = home.signer().notify(&topic("t"), &message);
        let mut connection = server.door.connect();
        connection
            .announce(&asked, asked.body.len() as u64)
            .unwrap();
        connection.send(&asked.body[..50_000]).unwrap();
        busy.push((connection, asked));
    }
    // Each is being read on behalf of somebody who is known.
    eventually("all are being taken", || {
        (metrics.value("httppubsub_spool_bytes{place=\"memory\"}") >= 16 * 40_000).then_some(())
    });
    for _ in 0..20 {
        let mut other = connect_from([127, 0, 0, 2], server.door.address);
        assert_eq!(status_line(&mut other, HEALTHZ), "HTTP/1.1 200 OK");
    }
    // Its own further ones are told so, and what it has begun it may end.
    let refused = eventually("it has its share", || {
        let mut connection = server.door.connect();
        let response = Connection::get(&mut connection, "/healthz");
        (response.status == 503).then_some(response)
    });
    assert!(
        refused.text().contains("too many connections"),
        "{}",
        refused.text()
    );
    assert!(metrics.value("httppubsub_requests_refused_total{reason=\"connections\"}") >= 1);
    server
        .process
        .log_line("an address has too many connections open");
    for (mut connection, asked) in busy {
        connection.send(&asked.body[50_000..]).unwrap();
        assert_eq!(connection.answer().unwrap().unwrap().status, 200);
    }
}

#[test]
fn silent_idle_websockets_make_room_for_newcomers() {
    let mut config = Config::default();
    config.websockets.unauthenticated_max = 8;
    config.websockets.configure_timeout = PATIENCE * 2;
    let server = InProcess::start(config, ServeConfig::default());
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(server.door.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let line = status_line(&mut stream, UPGRADE);
        assert_eq!(line, "HTTP/1.1 101 Switching Protocols");
        silent.push(stream);
    }
    let mut other = connect_from([127, 0, 0, 2], server.door.address);
    let line = status_line(&mut other, UPGRADE);
    assert_eq!(line, "HTTP/1.1 101 Switching Protocols");
    // The oldest were closed, the latest were not.
    let mut rest = Vec::new();
    let _ = silent[0].read_to_end(&mut rest);
    let last = silent.last_mut().unwrap();
    last.set_nonblocking(true).unwrap();
    let read = last.read(&mut [0; 1]).unwrap_err();
    assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock);
}

/// Who made so many leave that it is refused waits for that, and nobody else does.
#[test]
fn share_of_handshakes_is_refused_late_and_others_are_served() {
    let mut config = Config::default();
    config.websockets.unauthenticated_max = 8;
    config.websockets.configure_timeout = PATIENCE * 2;
    let server = InProcess::start(config, ServeConfig::default());
    let began = Instant::now();
    let mut greedy = Vec::new();
    for _ in 0..400 {
        let mut stream = connect_from([127, 0, 0, 2], server.door.address);
        stream.write_all(UPGRADE).unwrap();
        greedy.push(stream);
    }
    let mut other = TcpStream::connect(server.door.address).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    let line = status_line(&mut other, UPGRADE);
    assert_eq!(line, "HTTP/1.1 101 Switching Protocols");
    let mut lines = Vec::new();
    for mut stream in greedy {
        lines.push(status_line(&mut stream, b""));
    }
    let refused = lines.iter().filter(|it| it.contains(" 503 ")).count();
    let seconds = began.elapsed().as_secs_f64();
    assert!(seconds >= 2.0, "the refusals came after {seconds} s");
    // The share, those that were made to leave at once, and 64 a second.
    let served_max = 8 + 128 + (64.0 * seconds) as usize;
    assert!(refused + served_max >= 400, "{refused} were refused");
}

#[test]
fn metrics_idle_readers_keep_nobody_out() {
    let home = Home::new();
    let (_server, metrics) = Metrics::serve(&home, &["--db", "memory"]);
    let mut idle = Vec::new();
    for _ in 0..70 {
        let mut connection = Connection::open(metrics.address).unwrap();
        assert_eq!(connection.get("/metrics").status, 200);
        idle.push(connection);
    }
    assert!(metrics.text().contains("httppubsub_subscriptions "));
    let mut other = connect_from([127, 0, 0, 2], metrics.address);
    let request = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(status_line(&mut other, request), "HTTP/1.1 200 OK");
}

#[test]
fn memory_beside_of_unfinished_sets_is_bounded_and_told() {
    let home = Home::new();
    let budget = 64 * MIB;
    let flag = budget.to_string();
    let (server, metrics) = Metrics::serve(&home, &["--db", "memory", "--spool-memory-max", &flag]);
    let subscriber = Subscriber::start(home.signer());
    server
        .door
        .subscribe(&subscriber.url("/s"), exact("t"), None);
    assert_eq!(server.door.notify("t", b"message"), 1);
    let before = server.process.resident_bytes();
    let lists = vec![7; 12 * MIB as usize];
    let mut sets = Vec::new();
    for at in 0..12 {
        let head = SetHead {
            tracing: Default::default(),
            url: url(&format!("http://127.0.0.1:9/{at}")),
            etag: StrongEtag(Sha512::of(b"")),
        };
        let asked = home.signer().set_of(&head, b"");
        let mut connection = server.door.connect();
        let body_bytes = asked.body.len() + lists.len() + 1;
        connection.announce(&asked, body_bytes as u64).unwrap();
        // Refused, it is read no further than what is under way.
        let _ = connection
            .send(&asked.body)
            .and_then(|()| connection.send(&lists));
        sets.push(connection);
    }
    let used = eventually("what they hold is told", || {
        let used = metrics.value("httppubsub_spool_bytes{place=\"memory\"}");
        (used >= 3 * 12 * MIB).then_some(used)
    });
    assert!(used <= budget, "{used}");
    let refused = metrics.value("httppubsub_requests_refused_total{reason=\"no_room\"}");
    assert!(refused >= 6, "{refused}");
    let grown = server.process.kept_bytes().saturating_sub(before);
    assert!(grown < budget + 16 * MIB, "{grown} bytes");
    // Others are served, also from the same address.
    for _ in 0..10 {
        assert_eq!(server.door.notify("t", &[b'm'; 10_000]), 1);
    }
    drop(sets);
    eventually("all of it is given back", || {
        (metrics.value("httppubsub_spool_bytes{place=\"memory\"}") == 0).then_some(())
    });
}

/// A share of what others send is left to those who come from elsewhere.
#[test]
fn share_of_memory_leaves_room_for_another_address() {
    let home = Home::new();
    let flags = ["--db", "memory", "--spool-memory-max", "1048576"];
    let (server, metrics) = Metrics::serve(&home, &flags);
    let part = vec![b'm'; 100_000];
    let unfinished = |stream: &mut TcpStream| {
        let head = home
            .signer()
            .notify_head(&topic("t"), Sha512::of(b""), 200_000);
        let asked = home.signer().notify_of(&head, b"");
        let body_bytes = asked.body.len() as u64 + 200_000;
        stream.write_all(&asked.head("h", body_bytes)).unwrap();
        stream.write_all(&asked.body).unwrap();
        stream.write_all(&part).unwrap();
    };
    let mut all = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(server.door.address).unwrap();
        unfinished(&mut stream);
        all.push(stream);
    }
    let of_disk = || metrics.value("httppubsub_spool_bytes{place=\"disk\"}");
    let of_memory = || metrics.value("httppubsub_spool_bytes{place=\"memory\"}");
    // What has no room in memory goes to files.
    eventually("some went to files", || (of_disk() > 0).then_some(()));
    let held = eventually("it has its share", || {
        let held = of_memory();
        (held >= 500_000).then_some(held)
    });
    assert!(held <= 1_048_576 * 3 / 4 + 12 * 4_096, "{held}");
    let mut other = connect_from([127, 0, 0, 2], server.door.address);
    unfinished(&mut other);
    eventually("another has room", || (of_memory() > held).then_some(()));
}

#[test]
fn memory_beside_before_authorization_is_small() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    // The longest head that there is, less a byte.
    let asked = home
        .signer()
        .subscribe(&httppubsub_proto::subscription::Subscription {
            url: url(&format!("http://127.0.0.1:9/{}", "u".repeat(65_000))),
            interest: exact(&"t".repeat(65_000)),
            recovery: Some(url(&format!("http://127.0.0.1:9/{}", "r".repeat(65_000)))),
        });
    let mut warm = server.door.connect();
    assert_eq!(warm.ask(&asked).status, 200);
    let before = server.process.resident_bytes();
    let count = 400;
    let mut unfinished = Vec::new();
    for at in 0..count {
        let mut connection = server.door.connect();
        let asked = asked.with_authorization(None);
        connection
            .announce(&asked, asked.body.len() as u64)
            .unwrap();
        // As much as is taken: who has no place for a long head waits, or is refused.
        let parts = asked.body[..asked.body.len() - 1].chunks(16_000);
        connection.set_write_timeout(std::time::Duration::from_millis(20));
        for part in parts {
            if connection.send(part).is_err() {
                break;
            }
        }
        if at % 50 == 0 {
            // A long head from elsewhere gets in meanwhile.
            let mut other = connect_from([127, 0, 0, 2], server.door.address);
            let asked = home
                .signer()
                .check(&url(&format!("http://h/{}", "u".repeat(65_000))));
            let head = asked.head("h", asked.body.len() as u64);
            let line = status_line(&mut other, &[head, asked.body].concat());
            assert_eq!(line, "HTTP/1.1 200 OK");
        }
        unfinished.push(connection);
    }
    let grown = server.process.kept_bytes().saturating_sub(before);
    // Heads longer than anybody may have kept have 16 MiB together.
    let most = count * 64 * 1024 + 16 * MIB;
    assert!(grown <= most, "{grown} bytes, at most {most}");
}

#[test]
fn half_closed_publishers_are_answered_and_those_that_are_gone_keep_no_place() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--db", "memory"]);
    let subscriber = Subscriber::start(home.signer());
    server
        .door
        .subscribe(&subscriber.url("/s"), exact("t"), None);
    for _ in 0..20 {
        let asked = home.signer().notify(&topic("t"), b"message");
        let mut connection = server.door.connect();
        connection.post(&asked).unwrap();
        connection.finish().unwrap();
        let response = connection.answer().unwrap().unwrap();
        assert_eq!(server.door.reached(&asked, &response), 1);
        assert!(connection.is_closed_within(PATIENCE));
    }
    assert_eq!(
        subscriber.await_deliveries(&subscriber.url("/s"), 20).len(),
        20
    );
    // In the middle of a body, before a head, and behind a whole request.
    for sent in [0, 10, usize::MAX] {
        let asked = home.signer().notify(&topic("t"), b"message");
        let head = asked.head("h", asked.body.len() as u64);
        let bytes = [&head, &asked.body[..]].concat();
        let mut stream = TcpStream::connect(server.door.address).unwrap();
        stream.write_all(&bytes[..bytes.len().min(sent)]).unwrap();
        if sent == 10 {
            stream.shutdown(Shutdown::Write).unwrap();
        } else {
            // Dropped, it resets the connection.
            SockRef::from(&stream)
                .set_linger(Some(Default::default()))
                .unwrap();
        }
        drop(stream);
    }
    eventually("no connection is left", || {
        (metrics.value("httppubsub_connections") == 0).then_some(())
    });
}

/// Sends these bytes and asserts that the answer is 400 and the connection is closed; says whose
/// line of the log tells of it.
#[track_caller]
fn malformed(door: &Door, request: &str) {
    let mut stream = TcpStream::connect(door.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 "),
        "{request:?}: {answer:?}"
    );
    assert_eq!(
        answer.matches("HTTP/1.1 ").count(),
        1,
        "{request:?}: {answer:?}"
    );
}

#[test]
fn bare_lf_is_a_400() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--db", "memory"]);
    for request in [
        "GET /healthz HTTP/1.1\nHost: h\n\n",
        "GET /healthz HTTP/1.1\r\nHost: h\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: h\r\n\n",
        "GET /healthz HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n",
    ] {
        malformed(&server.door, request);
    }
    // Behind a good request on the same connection, in one piece and in two.
    let bad = "GET /healthz HTTP/1.1\nHost: h\r\n\r\n";
    for pause in [false, true] {
        let mut connection = server.door.connect();
        let good = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
        if pause {
            assert_eq!(connection.get("/healthz").status, 200);
            connection.send(bad.as_bytes()).unwrap();
        } else {
            connection.send(format!("{good}{bad}").as_bytes()).unwrap();
            assert_eq!(connection.answer().unwrap().unwrap().status, 200);
        }
        assert_eq!(connection.answer().unwrap().unwrap().status, 400);
    }
    let counted = metrics.value("httppubsub_requests_refused_total{reason=\"malformed\"}");
    assert_eq!(counted, 7);
    server.process.log_line("a line does not end with CRLF");
}

#[test]
fn two_hosts_are_a_400() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    for request in [
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        "GET http://other/healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /v1/notify HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "POST /v1/notify HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /v1/notify HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/notify HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nAuthorization: b\r\n\
         Content-Length: 0\r\n\r\n",
        "GET /v1/websocket HTTP/1.0\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ] {
        malformed(&server.door, request);
    }
    // HTTP/1.0 does not need one.
    let mut old = TcpStream::connect(server.door.address).unwrap();
    old.set_read_timeout(Some(PATIENCE)).unwrap();
    let line = status_line(&mut old, b"GET /healthz HTTP/1.0\r\n\r\n");
    assert!(line.ends_with("200 OK"), "{line}");
}

#[test]
fn refusals_counted_and_logged_with_who_asked_for_what() {
    let home = Home::new();
    let flags = ["--db", "memory", "--message-bytes-max", "100"];
    let (server, metrics) = Metrics::serve(&home, &flags);
    let signer = home.signer();
    let secret = "a-topic-that-nobody-should-read";
    let notify = || signer.notify(&topic(secret), b"message");
    let replayed = signer.notify(&topic(secret), b"message");
    assert_eq!(server.door.ask(&replayed).status, 200);
    let too_long: Vec<_> = (0..3)
        .map(|_| signer.notify(&topic(secret), &[7; 101]))
        .collect();
    let thrice = |asked: Asked| vec![asked.clone(), asked.clone(), asked];
    let check = signer.check(&url("http://127.0.0.1:9/"));
    let cases = [
        (
            thrice(notify().with_authorization(None)),
            401,
            "unauthorized",
            "NOTIFY",
        ),
        (
            thrice(notify().with_authorization(Some(b"X secret-value"))),
            403,
            "forbidden",
            "NOTIFY",
        ),
        (
            thrice(signer.with_skew(-3_600).notify(&topic(secret), b"")),
            403,
            "clock",
            "NOTIFY",
        ),
        (thrice(replayed), 403, "replayed", "NOTIFY"),
        (
            thrice(check.with_body(b"\0")),
            400,
            "bad_request",
            "CHECK_SUBSCRIPTIONS",
        ),
        (too_long, 413, "too_long", "NOTIFY"),
    ];
    for (asked, status, reason, verb) in cases {
        let name = format!("httppubsub_requests_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(metrics.value(&name), 0, "{reason}");
        for asked in &asked {
            assert_eq!(server.door.ask(asked).status, status, "{reason}");
        }
        assert_eq!(metrics.value(&name), 3, "{reason}");
        // One of the three at least: the others may be counted with the next.
        let line = server.process.log_line(&format!("status={status}"));
        assert!(line.contains("a request was refused"), "{line}");
        let of_reason = || {
            let log = server.process.log();
            let line = log.lines().find(|line| {
                line.contains("a request was refused")
                    && line.contains(&format!("status={status}"))
                    && line.contains(verb)
                    && line.contains("127.0.0.1:")
            });
            line.map(str::to_owned)
        };
        eventually(reason, of_reason);
    }
    let log = server.process.log();
    assert!(
        !log.contains(secret) && !log.contains("secret-value"),
        "{log}"
    );
}

#[test]
fn counters_from_start_are_all_that_the_docs_name() {
    let home = Home::new();
    let (_server, metrics) = Metrics::serve(&home, &["--db", "memory"]);
    let text = metrics.text();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let names = docs.split('`').filter(|it| it.starts_with("httppubsub_"));
    let names: Vec<_> = names.map(|it| it.split('{').next().unwrap()).collect();
    let counters = names.iter().filter(|name| name.ends_with("_total"));
    assert!(counters.count() >= 9, "{names:?}");
    for name in &names {
        let is_there = text.lines().any(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(is_there, "{name} is missing at the start:\n{text}");
    }
    // And the docs name all that there is.
    for line in text.lines().filter(|line| line.starts_with("httppubsub_")) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(names.contains(&name), "{name} is missing in the docs");
    }
    assert!(
        text.contains("httppubsub_deliveries_total{outcome=\"unrecorded\"} 0"),
        "{text}"
    );
    assert!(
        text.contains("httppubsub_requests_refused_total{reason=\"forbidden\"} 0"),
        "{text}"
    );
}

#[test]
fn docs_say_other_methods_are_answered_as_they_are() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let answered = |request: &str| {
        let mut connection = server.door.connect();
        connection.send(request.as_bytes()).unwrap();
        connection.answer().unwrap().unwrap()
    };
    let options = answered("OPTIONS /v1/notify HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(
        (options.status, options.header("allow")),
        (405, Some("POST"))
    );
    let plain = answered("GET /v1/websocket HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(
        (plain.status, plain.header("upgrade")),
        (426, Some("websocket"))
    );
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol/stateless.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let path = docs
        .lines()
        .find(|line| line.contains("| `/v1/websocket` |"))
        .unwrap();
    assert!(path.contains("426"), "{path}");
    let methods = docs
        .lines()
        .find(|line| line.starts_with("| method |"))
        .unwrap();
    assert!(
        methods.contains("OPTIONS") && methods.contains("405"),
        "{methods}"
    );
}
