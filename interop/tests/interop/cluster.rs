//! Several of our broadcasters on one PostgreSQL, and published clients that know all of them.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use httppubsub_e2e::{PATIENCE, Postgres};
use httppubsub_interop::{
    Auth, Body, Notifier, Rows,
    Side::{Ours, Theirs},
    Subscriber, Wants, World,
};

/// Whatever is killed, and whoever is asked: what is notified reaches both, sooner or later, and
/// what confirmed it tells of it.
fn reach_both(notifier: &mut Notifier, subscribers: &[&Subscriber], what: &str) {
    let began = Instant::now();
    for attempt in 0.. {
        assert!(began.elapsed() < PATIENCE, "{what}: not both were reached");
        let body = format!("{what}, attempt {attempt}");
        let sent = notifier.notify(b"to/all", &Body::Bytes(body.as_bytes().to_vec()));
        match sent {
            Ok(sent) if sent.subscribers == subscribers.len() as u64 => {
                for subscriber in subscribers {
                    subscriber.hears(b"to/all", body.as_bytes());
                }
                return;
            }
            // One of them is on its way from one broadcaster to the other.
            Ok(_) | Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

#[test]
fn their_clients_that_know_two_broadcasters_work_through_kills_of_either_and_of_the_database() {
    let Some(postgres) = Postgres::own_if_possible(&["fsync=off"]) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let database = runtime.block_on(postgres.database());
    let world = World::new(Auth::HMAC)
        .serving_with(Ours, "--lease")
        .serving_with(Ours, "2");
    let ports = [(); 2].map(|()| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it is bound").port()
    });
    let start =
        |which: usize| world.one_of_several(["one", "other"][which], &database, ports[which]);
    let (first, second) = (start(0), start(1));
    let both = ["--broadcaster", &second.url];
    let rows = Rows {
        exact: &[b"to/all"],
        ..Rows::default()
    };
    let by_http = Wants {
        theirs: &both,
        resubscribe_interval: Duration::from_secs(1),
        ..Wants::new(rows, 0)
    };
    let over_websocket = [
        "--broadcaster",
        &second.url,
        "--ws",
        "--connect-retries",
        "50",
    ];
    let rows = Rows {
        globs: &["to/*"],
        ..Rows::default()
    };
    let by_websocket = Wants::new(rows, 0).over_a_websocket(&[], &over_websocket);
    let [by_http] = &world.subscribers(&first, &[Theirs], &by_http)[..] else {
        panic!("it is one");
    };
    let [by_websocket] = &world.subscribers(&first, &[Theirs], &by_websocket)[..] else {
        panic!("it is one");
    };
    let subscribers = [by_http, by_websocket];
    let mut notifier = world.notifier_told(&first, Theirs, &both);
    reach_both(&mut notifier, &subscribers, "at the start");
    let mut broadcasters = [Some(first), Some(second)];
    for round in 0..2 {
        for which in [0, 1] {
            let name = ["one", "other"][which];
            let running = broadcasters[which].take().expect("it runs");
            running.kill();
            let what = format!("round {round}, without {name}");
            reach_both(&mut notifier, &subscribers, &what);
            broadcasters[which] = Some(start(which));
            let what = format!("round {round}, {name} is back");
            reach_both(&mut notifier, &subscribers, &what);
        }
        postgres.restart();
        let what = format!("round {round}, the database is back");
        reach_both(&mut notifier, &subscribers, &what);
    }
}
