//! Faults of the network, of disks and of those who listen, by their names in
//! `docs/design/threats.md`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use httppubsub_e2e::{
    Act, Deaf, Fault, Home, Metrics, Process, Proxy, Server, Subscriber, eventually, exact,
    http_answer, httppubsub, url,
};
use httppubsub_proto::subscription::Subscription;

const MESSAGE: &[u8] = b"a message";

/// F5: the peer is gone, and nothing says so.
#[test]
fn f05_a_half_open_connection_is_found_by_its_deadline_and_another_is_made() {
    let home = Home::with(&httppubsub_proto::auth::Secrets::NONE);
    let server = home.serve(&["--answer-timeout", "1"]);
    let subscriber = Subscriber::start(home.signer());
    let proxy = Proxy::start(subscriber.address());
    let recover = subscriber.recovery("/");
    server
        .door
        .subscribe(&proxy.url("/"), exact("t"), Some(&recover));
    for _ in 0..3 {
        assert_eq!(server.door.notify("t", MESSAGE), 1);
    }
    assert_eq!(proxy.connections(), 1, "it is kept");
    proxy.freeze();
    let began = Instant::now();
    assert_eq!(server.door.notify("t", b"into the void"), 0);
    assert!(began.elapsed() >= Duration::from_secs(1), "not before");
    assert!(subscriber.await_deliveries(&recover, 1)[0].is_missed());
    // The one that hangs is not used again.
    assert_eq!(server.door.notify("t", MESSAGE), 1);
    assert_eq!(proxy.connections(), 1);
    // What breaks in the middle of an answer, or of a message, is a failure and no confirmation.
    for fault in [
        Fault::FreezeAfter(60),
        Fault::CloseAfter(60),
        Fault::ResetAfter(60),
        Fault::HalfCloseAfter(60),
    ] {
        proxy.set(fault.clone());
        proxy.cut();
        assert_eq!(server.door.notify("t", MESSAGE), 0, "{fault:?}");
        proxy.set(Fault::Split);
        proxy.cut();
        assert_eq!(server.door.notify("t", MESSAGE), 1, "after {fault:?}");
    }
}

/// Subscribes one topic after the other until that fails; says how many were acknowledged.
#[track_caller]
fn subscribe_until_it_fails(server: &Server, url_of: &str, first: usize) -> usize {
    let mut connection = server.door.connect();
    for number in first.. {
        let asked = server.door.signer.subscribe(&Subscription {
            url: url(url_of),
            interest: exact(&format!("{number:0>1000}")),
            recovery: None,
        });
        let response = connection.ask(&asked);
        if response.status != 200 {
            assert_eq!(response.status, 503, "{}", response.text());
            assert!(response.header("retry-after").is_some());
            return number;
        }
        assert!(number < 1_000_000, "there is no limit");
    }
    unreachable!()
}

/// F11: there is no room for the database.
#[test]
fn f11_a_full_disk_is_a_503_and_never_a_200_and_all_is_well_when_there_is_room_again() {
    let home = Home::new();
    // Blocks of 512 or of 1024 bytes.
    let server = home.serve_within("-S -f 4096", &[]);
    let subscriber = Subscriber::start(home.signer());
    server
        .door
        .subscribe(&subscriber.url("/"), exact("t"), None);
    let nowhere = "http://127.0.0.1:9/";
    let acknowledged = subscribe_until_it_fails(&server, nowhere, 0);
    assert!(acknowledged > 10, "{acknowledged}");
    for _ in 0..20 {
        assert_eq!(
            subscribe_until_it_fails(&server, nowhere, acknowledged),
            acknowledged
        );
        assert_eq!(server.door.notify("t", MESSAGE), 1, "what is there works");
    }
    assert_eq!(server.door.get("/healthz").status, 200);
    // Nothing that was refused is there.
    assert_eq!(home.rows().len(), acknowledged + 1);
    let pid = server.process.id().to_string();
    let raised = Command::new("prlimit")
        .args(["--fsize=unlimited", "--pid", &pid])
        .status();
    assert!(raised.unwrap().success());
    for number in acknowledged..acknowledged + 100 {
        let topic = format!("{number:0>1000}");
        server.door.subscribe(nowhere, exact(&topic), None);
    }
    assert_eq!(home.rows().len(), acknowledged + 101);
    drop(server);
    let server = home.serve(&[]);
    assert_eq!(home.rows().len(), acknowledged + 101);
    assert_eq!(server.door.notify("t", MESSAGE), 1);
}

/// F11: the disk fails when something is to be made durable. It needs `strace`, and leave to use
/// it.
#[test]
fn f11_what_cannot_be_made_durable_is_not_acknowledged() {
    let may_trace = Command::new("strace").args(["-f", "true"]).output();
    if !may_trace.is_ok_and(|it| it.status.success()) {
        eprintln!("not run: strace is missing, or this process must not trace others");
        return;
    }
    let mut failed = 0;
    for nth in 1..=12 {
        let home = Home::new();
        // The database is made in peace.
        drop(home.serve(&[]));
        let inject = format!("inject=fdatasync,fsync:error=EIO:when={nth}");
        let words = [
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &inject,
        ];
        let spawned = home.spawn_through(&words, &[]);
        let Some(server) = home.if_it_listens(spawned) else {
            // It did not start, and said why.
            failed += 1;
            continue;
        };
        let mut acknowledged = Vec::new();
        for number in 0..30 {
            let topic = format!("{nth}/{number}");
            let asked = server.door.signer.subscribe(&Subscription {
                url: url("http://127.0.0.1:9/"),
                interest: exact(&topic),
                recovery: None,
            });
            match server.door.ask(&asked).status {
                200 => acknowledged.push(topic.into_bytes()),
                503 => failed += 1,
                other => panic!("{nth}, {number}: {other}"),
            }
        }
        assert!(acknowledged.len() >= 20, "{nth}: it does not recover");
        assert_eq!(server.door.get("/healthz").status, 200);
        drop(server);
        let server = home.serve(&[]);
        let rows = home.rows();
        for interest in acknowledged {
            assert!(rows.iter().any(|row| row.interest == interest), "{nth}");
        }
        drop(server);
    }
    assert!(failed > 0, "nothing was made to fail");
}

/// A subscriber that is a process of its own, once it listens.
fn listener(home: &Home, server: &Server, port: u16, host: &str) -> Process {
    let mut command = httppubsub();
    command
        .args(["listen", "--json", "--exact", "t", "--glob", "g/*"])
        .args(["--bind", &format!("127.0.0.1:{port}"), "--host", host])
        .arg("--broadcaster")
        .arg(format!("http://{}", server.door.address))
        .arg("--secrets")
        .arg(home.path().join("secrets.json"));
    let process = Process::spawn("the subscriber", command);
    process.event("listening");
    process
}

/// F20.
#[test]
fn f20_a_subscriber_that_is_killed_and_started_again_has_its_subscriptions_once() {
    let home = Home::new();
    let server = home.serve(&[]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let port = free.unwrap().port();
    let host = format!("http://127.0.0.1:{port}");
    for round in 0..20 {
        let mut listener = listener(&home, &server, port, &host);
        let rows = home.rows();
        assert_eq!(rows.len(), 2, "round {round}: {rows:?}");
        for (topic, reached) in [("t", 1), ("g/1", 1), ("h", 0)] {
            assert_eq!(server.door.notify(topic, MESSAGE), reached, "round {round}");
        }
        for topic in ["t", "g/1"] {
            assert_eq!(listener.event("message")["topic"], topic);
        }
        listener.kill();
    }
    // What was stored with another recovery url is put right.
    let stored = home.rows().remove(0);
    assert_eq!(server.door.notify("t", MESSAGE), 0, "it is dead");
    let wrong = server.door.signer.set(
        &url(&stored.url),
        &[(exact("t"), Some(url("http://127.0.0.1:9/elsewhere")))]
            .into_iter()
            .collect(),
    );
    assert_eq!(server.door.ask(&wrong).status, 200);
    let wrong = server.door.etag(&stored.url);
    let listener = listener(&home, &server, port, &host);
    assert_ne!(server.door.etag(&stored.url), wrong);
    assert_eq!(home.rows().len(), 2);
    assert_eq!(server.door.notify("g/2", MESSAGE), 1);
    assert_eq!(listener.event("message")["topic"], "g/2");
}

/// F21: somebody else listens at that port now.
#[test]
fn f21_who_took_over_a_port_gets_no_more_than_a_few_requests_and_ends_no_subscription() {
    for answer in [
        http_answer(404, "", b"no such page"),
        http_answer(200, "Content-Type: text/html\r\n", b"<html></html>"),
    ] {
        let home = Home::new();
        let (server, metrics) = Metrics::serve(&home, &[]);
        let told = Subscriber::start(home.signer());
        let (gone, recover) = (Deaf::closed(), told.recovery("/"));
        let receive = gone.url("/receive");
        server.door.subscribe(&receive, exact("t"), Some(&recover));
        let other = gone.come_back(home.signer());
        other.on(&receive, move |_| vec![Act::Say(answer.clone())]);
        eventually("it is left alone", || {
            assert_eq!(server.door.notify("t", MESSAGE), 0);
            (metrics.open_breakers() == 1).then_some(())
        });
        let (before, began) = (other.deliveries().len(), Instant::now());
        while began.elapsed() < Duration::from_secs(3) {
            assert_eq!(server.door.notify("t", MESSAGE), 0);
        }
        let more = other.deliveries().len() - before;
        assert!(more <= 2, "{more} more");
        assert_eq!(home.rows().len(), 1, "it is kept");
        assert_eq!(metrics.deliveries("missed"), metrics.matched());
        assert!(told.await_deliveries(&recover, 1)[0].is_genuine);
    }
}
