//! More to do than can be done.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::thread;

use httppubsub_e2e::{
    Connection, Filler, Gate, Home, Metrics, Server, Subscriber, eventually, exact,
};
use httppubsub_proto::topic::Topic;
use socket2::{Domain, Socket, Type};

const MESSAGE: &[u8] = b"a message";

/// Notifies beside the test; the answer says how many confirmed.
fn notify_beside(server: &Server, topic: &'static str) -> thread::JoinHandle<u32> {
    let door = server.door.clone();
    thread::spawn(move || door.notify(topic, MESSAGE))
}

/// F24.
#[test]
fn f24_what_would_be_too_much_is_answered_503_at_once_and_may_be_sent_again_as_it_is() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--deliveries-pending-max", "9"]);
    // One peer has no more than its share of the places.
    let slow = [(); 8].map(|()| Subscriber::start(home.signer()));
    let good = Subscriber::start(home.signer());
    let gate = Gate::default();
    for slow in &slow {
        let url = slow.url("/");
        slow.confirm_behind(&url, &gate);
        server.door.subscribe(&url, exact("slow"), None);
    }
    for index in 0..3 {
        let url = good.url(&format!("/{index}"));
        server.door.subscribe(&url, exact("good"), None);
    }
    server.door.subscribe(&good.url("/"), exact("one"), None);
    let waiting = notify_beside(&server, "slow");
    eventually("eight are under way", || {
        let all = slow.iter().map(|slow| slow.deliveries().len());
        (all.sum::<usize>() == 8).then_some(())
    });
    assert_eq!(metrics.value("httppubsub_deliveries_pending"), 8);
    let asked = home.signer().notify(&Topic::new("good").unwrap(), MESSAGE);
    let refused = server.door.ask(&asked);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    let why = refused.text();
    assert!(
        why.contains("too many deliveries wait for their turn here; send it again later"),
        "{why}"
    );
    assert_eq!(metrics.value("httppubsub_notifications_rejected_total"), 1);
    assert_eq!(
        server.door.notify("one", MESSAGE),
        1,
        "for this there is room"
    );
    gate.open();
    assert_eq!(waiting.join().unwrap(), 8);
    // The very same bytes: a 503 has not used up their signature.
    let accepted = server.door.ask(&asked);
    assert_eq!(server.door.reached(&asked, &accepted), 3);
    assert_eq!(metrics.value("httppubsub_deliveries_pending"), 0);
    assert_eq!(metrics.value("httppubsub_notifications_total"), 3);
}

/// F23.
#[test]
fn f23_more_connections_than_there_are_file_descriptors_stop_no_work_that_was_begun() {
    let home = Home::new();
    let spool_above = ["--spool-above", "1000"];
    let server = home.serve_within("-n 256", &spool_above);
    server
        .process
        .log_line("file descriptors allow fewer than configured");
    let subscriber = Subscriber::start(home.signer());
    for index in 0..20 {
        let url = subscriber.url(&format!("/{index}"));
        server.door.subscribe(&url, exact("t"), None);
    }
    let mut connection = server.door.connect();
    // Whoever is known keeps its connection when others need places.
    let url = httppubsub_e2e::url(&subscriber.url("/more"));
    let asked = home.signer().check(&url);
    assert_eq!(connection.ask(&asked).status, 200);
    let before = server.process.open_files().len();
    // The kernel finishes no more of them than its queue holds.
    let connect = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _in_progress = socket.connect(&server.door.address.into());
        socket
    };
    let many: Vec<_> = (0..1_000).map(connect).collect();
    // Deliveries, the database and temporary files have theirs.
    for size in [10, 100_000] {
        let message = vec![7; size];
        let asked = home.signer().notify(&Topic::new("t").unwrap(), &message);
        let response = connection.ask(&asked);
        assert_eq!(server.door.reached(&asked, &response), 20);
    }
    let asked = home.signer().check(&url);
    assert_eq!(connection.ask(&asked).status, 200);
    drop(many);
    // When it has seen that they are gone: it keeps a connection to each subscriber. And what waits
    // to be accepted is served in its order.
    eventually("it recovers", || {
        let mut another = Connection::open(server.door.address).ok()?;
        another.post(&home.signer().check(&url)).ok()?;
        let is_served = matches!(another.answer(), Ok(Some(it)) if it.status == 200);
        (is_served && server.process.open_files().len() < before + 40).then_some(())
    });
    let filler = Filler::new(1_000_000, 1);
    assert_eq!(server.door.notify_filler("t", &filler), 20);
    let open = server.process.open_files().len();
    assert!(open < 256, "{open}");
    drop(Connection::open(server.door.address).unwrap());
}
