//! What was acknowledged stays, whatever is killed, locked or shared.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use httppubsub_e2e::{
    Act, Asked, Connection, Deaf, Door, Gate, Home, PATIENCE, Random, Response, Subscriber, exact,
    url,
};
use httppubsub_proto::subscription::{Subscription, SubscriptionSet};
use httppubsub_proto::topic::Topic;

const MESSAGE: &[u8] = b"a message";

fn subscribe(door: &Door, url: &str, topic: &str) -> Asked {
    let (url, interest) = (self::url(url), exact(topic));
    door.signer.subscribe(&Subscription {
        url,
        interest,
        recovery: None,
    })
}

/// The answer, unless the broadcaster is gone.
fn ask(connection: &mut Connection, asked: &Asked) -> Option<Response> {
    connection.post(asked).ok()?;
    connection.answer().ok().flatten()
}

/// As many as `HTTPPUBSUB_TEST_ROUNDS` in the environment says, otherwise these.
fn rounds(usual: usize) -> usize {
    std::env::var("HTTPPUBSUB_TEST_ROUNDS").map_or(usual, |it| it.parse().unwrap())
}

/// F8 and F9. With `HTTPPUBSUB_TEST_ROUNDS` in the environment, so many rounds.
#[test]
fn fifty_kills_lose_nothing_that_was_acknowledged_and_leave_no_set_half_done() {
    const SUBSCRIBERS: usize = 4;
    let home = Home::new();
    let set_url = "http://127.0.0.1:9/set";
    let entry = |index: u32| (exact(&format!("set/{index:04}")), None);
    // Half of each is in the other as well.
    let sets: [SubscriptionSet; 2] = [
        (0..200).map(entry).collect(),
        (100..300).map(entry).collect(),
    ];
    let etags = sets.clone().map(|set| set.etag(&url(set_url)));
    let mut random = Random::new(50);
    let acknowledged = Mutex::new(Vec::new());
    let (mut set_acknowledgements, mut set_cut_off) = (0, 0);
    let mut server = home.serve(&[]);
    server.door.set(set_url, &sets[0]);
    let mut last_set = 0;
    let rounds = rounds(50);
    for round in 0..rounds {
        let kill_after = 1 + random.below(40);
        let (acked, acks) = channel();
        let (acknowledged, sets, door) = (&acknowledged, &sets, server.door.clone());
        let process = &mut server.process;
        let set_on = thread::scope(|scope| {
            // All are connected before anybody kills.
            for number in 0..SUBSCRIBERS {
                let (door, acked) = (&door, acked.clone());
                let mut connection = door.connect();
                scope.spawn(move || {
                    for count in 0.. {
                        let topic = format!("round/{round}/{number}/{count}");
                        let asked = subscribe(door, "http://127.0.0.1:9/one", &topic);
                        match ask(&mut connection, &asked) {
                            Some(response) => assert_eq!(response.status, 200),
                            None => return,
                        }
                        acknowledged.lock().unwrap().push(topic.into_bytes());
                        let _ = acked.send(());
                    }
                });
            }
            let door = &door;
            let mut connection = door.connect();
            let setting = scope.spawn(move || {
                let (mut last, mut count) = (last_set, 0);
                loop {
                    let asked = door.signer.set(&url(set_url), &sets[1 - last]);
                    match ask(&mut connection, &asked) {
                        Some(response) => assert_eq!(response.status, 200),
                        None => return (last, count),
                    }
                    last = 1 - last;
                    count += 1;
                    let _ = acked.send(());
                }
            });
            scope.spawn(move || {
                let came = acks.iter().take(kill_after).count();
                process.kill();
                assert_eq!(came, kill_after, "all ended before the kill");
            });
            setting.join().unwrap()
        });
        set_acknowledgements += set_on.1;
        server = home.serve(&[]);
        let etag = server.door.etag(set_url);
        let found = etags.iter().position(|it| *it == etag);
        let found = found.unwrap_or_else(|| panic!("round {round}: neither A nor B"));
        // The one under way may be done or not; the ones before are.
        set_cut_off += usize::from(found != set_on.0);
        last_set = found;
    }
    let rows = home.rows();
    let kept: std::collections::BTreeSet<_> = rows.iter().map(|row| &row.interest).collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|topic| !kept.contains(topic))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    let (one, set): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.url != set_url);
    assert_eq!(set.len(), 200);
    assert!(
        one.len() - acknowledged.len() <= rounds * SUBSCRIBERS,
        "one more each at most"
    );
    let database = rusqlite::Connection::open(home.database()).unwrap();
    let check = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    assert_eq!(
        database
            .query_row("PRAGMA integrity_check", [], check)
            .unwrap(),
        "ok"
    );
    eprintln!(
        "{} subscriptions and {set_acknowledgements} sets acknowledged, none lost; {set_cut_off} \
         sets were done and not acknowledged",
        acknowledged.len()
    );
}

/// F7: what was acknowledged to the publisher is accounted for.
#[test]
fn who_missed_an_acknowledged_notification_is_told_after_a_kill() {
    let home = Home::new();
    let told = Subscriber::start(home.signer());
    let down = Deaf::closed();
    let mut server = home.serve(&[]);
    let recoveries: Vec<_> = (0..20)
        .map(|index| told.recovery(&format!("/{index}")))
        .collect();
    for (index, recover) in recoveries.iter().enumerate() {
        server
            .door
            .subscribe(&down.url(&format!("/{index}")), exact("t"), Some(recover));
    }
    assert_eq!(server.door.notify("t", MESSAGE), 0);
    server.process.kill();
    let _server = home.serve(&[]);
    for recover in &recoveries {
        assert!(told.await_deliveries(recover, 1)[0].is_genuine);
    }
}

/// F7. With `HTTPPUBSUB_TEST_ROUNDS` in the environment, so many rounds.
#[test]
fn who_was_not_reached_when_the_broadcaster_was_killed_is_told() {
    // More than are delivered to at once, since all are at one peer.
    const SUBSCRIBERS: usize = 90;
    let rounds = rounds(6);
    let home = Home::new();
    let subscriber = Subscriber::start(home.signer());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let listen = format!("127.0.0.1:{}", port.unwrap().port());
    let mut server = home.serve(&["--listen", &listen]);
    let mut random = Random::new(7);
    let place = |round: usize, number: usize| format!("/{round}/{number}");
    for round in 0..rounds {
        let gate = Gate::default();
        let topic = format!("round/{round}");
        let (reached, reaching) = channel();
        for number in 0..SUBSCRIBERS {
            let place = place(round, number);
            let (url, recovery) = (subscriber.url(&place), subscriber.recovery(&place));
            let (own, reached) = (subscriber.clone(), Mutex::new(reached.clone()));
            // Some confirm, and others keep the broadcaster waiting.
            let pass = (random.below(2) == 0).then(|| Act::Pass(gate.clone()));
            subscriber.on(&url, move |delivery| {
                let _ = reached.lock().unwrap().send(());
                let confirm = Act::Say(own.confirms(delivery, 1));
                pass.iter().cloned().chain([confirm]).collect()
            });
            server.door.subscribe(&url, exact(&topic), Some(&recovery));
        }
        let topic = Topic::new(topic).unwrap();
        let asked = server.door.signer.notify(&topic, MESSAGE);
        let mut connection = server.door.connect();
        connection.post(&asked).unwrap();
        for _ in 0..=random.below(60) {
            reaching.recv_timeout(PATIENCE).unwrap();
        }
        server.process.kill();
        // What they answer reaches nobody.
        gate.open();
        server = home.serve(&["--listen", &listen]);
    }
    let (mut whole, mut told) = (0, 0);
    let came = subscriber.deliveries().into_iter().map(|it| it.url);
    let came: HashSet<_> = came.collect();
    for round in 0..rounds {
        let got = |number: &usize| came.contains(&subscriber.url(&place(round, *number)));
        let reached: Vec<_> = (0..SUBSCRIBERS).filter(got).collect();
        whole += usize::from(reached.len() == SUBSCRIBERS);
        for number in (0..SUBSCRIBERS).filter(|it| !reached.contains(it)) {
            let recovery = subscriber.recovery(&place(round, number));
            let notice = &subscriber.await_deliveries(&recovery, 1)[0];
            assert!(notice.is_genuine && notice.is_missed());
            told += 1;
        }
    }
    println!("{rounds} rounds: {whole} with everybody reached; {told} were not and were told");
    assert!(told > 0, "no kill was in the middle");
}

#[test]
fn nobody_is_told_anything_after_an_orderly_end() {
    let home = Home::new();
    let subscriber = Subscriber::start(home.signer());
    let (url, recovery) = (subscriber.url("/a"), subscriber.recovery("/a"));
    let mut server = home.serve(&[]);
    server.door.subscribe(&url, exact("t"), Some(&recovery));
    assert_eq!(server.door.notify("t", MESSAGE), 1);
    let in_flight = || home.count("httppubsub_in_flight");
    assert_eq!(in_flight(), 1);
    server.process.terminate();
    server.process.end_well();
    assert_eq!(in_flight(), 0);
}

#[test]
fn what_another_process_acknowledged_is_delivered_by_this_one_at_once() {
    let home = Home::new();
    let one = home.serve(&[]);
    let data = home.path().join("other-data");
    let other = home.serve(&["--data", data.to_str().unwrap()]);
    let subscriber = Subscriber::start(home.signer());
    let mut asking = other.door.connect();
    for round in 0..100 {
        let (topic, url) = (format!("t/{round}"), subscriber.url(&format!("/{round}")));
        assert_eq!(
            asking.ask(&subscribe(&other.door, &url, &topic)).status,
            200
        );
        assert_eq!(one.door.notify(&topic, MESSAGE), 1, "round {round}");
        assert_eq!(other.door.notify(&topic, MESSAGE), 1, "round {round}");
        let leave = other
            .door
            .signer
            .unsubscribe(&self::url(&url), &exact(&topic));
        assert_eq!(asking.ask(&leave).status, 200);
        assert_eq!(one.door.notify(&topic, MESSAGE), 0, "round {round}");
    }
}

#[test]
fn two_processes_with_one_data_folder_are_one_too_many() {
    let home = Home::new();
    let _one = home.serve(&[]);
    let mut other = home.spawn(&[]);
    let (status, lines) = other.end();
    assert_eq!((status.code(), lines), (Some(1), vec![]));
    assert!(
        other.log().contains("in use by another broadcaster"),
        "{}",
        other.log()
    );
}

/// F12.
#[test]
fn a_locked_database_is_a_503_and_the_same_request_is_good_afterwards() {
    let home = Home::new();
    let server = home.serve(&[]);
    let door = &server.door;
    let subscriber = Subscriber::start(home.signer());
    let there = subscriber.url("/there");
    door.subscribe(&there, exact("t"), None);

    let foreign = rusqlite::Connection::open(home.database()).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (one, set_url) = (subscriber.url("/one"), url(&subscriber.url("/set")));
    let set: SubscriptionSet = [(exact("t"), None)].into_iter().collect();
    let refused = [
        subscribe(door, &one, "t"),
        door.signer.unsubscribe(&url(&there), &exact("t")),
        door.signer.set(&set_url, &set),
    ];
    let began = Instant::now();
    let asking: Vec<_> = refused
        .iter()
        .map(|asked| {
            let (door, asked) = (door.clone(), asked.clone());
            thread::spawn(move || door.ask(&asked))
        })
        .collect();
    // Nobody else waits for the lock.
    let mut meanwhile = 0;
    while !asking.iter().all(|it| it.is_finished()) {
        assert_eq!(door.notify("t", MESSAGE), 1);
        assert_eq!(door.ask(&door.signer.check(&set_url)).status, 200);
        assert_eq!(door.get("/healthz").status, 200);
        meanwhile += 1;
    }
    for asking in asking {
        let response = asking.join().unwrap();
        assert_eq!(response.status, 503, "{}", response.text());
        assert!(response.header("retry-after").is_some());
        assert!(response.text().contains("locked"), "{}", response.text());
    }
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_secs(4),
        "the lock is waited for: {waited:?}"
    );
    // Had one of them waited for the lock, all the others had waited for that one.
    assert!(meanwhile > 2, "{meanwhile}");
    let rows = home.rows();
    assert_eq!(rows.len(), 1, "nothing of it was done: {rows:?}");

    foreign.execute_batch("ROLLBACK").unwrap();
    for asked in &refused {
        let response = door.ask(asked);
        assert_eq!(response.status, 200, "{}: {}", asked.path, response.text());
        assert_eq!(door.ask(asked).status, 403, "now it is spent");
    }
    assert_eq!(door.notify("t", MESSAGE), 2);
    eprintln!("503 after {waited:?}, {meanwhile} rounds of other requests meanwhile");
}

#[test]
fn a_database_of_a_newer_program_is_refused_and_left_alone() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    server
        .door
        .subscribe("http://127.0.0.1:9/", exact("t"), None);
    server.process.terminate();
    server.process.end_well();
    let database = rusqlite::Connection::open(home.database()).unwrap();
    database
        .execute("UPDATE httppubsub_schema SET version = 99", [])
        .unwrap();
    let mut refused = home.spawn(&[]);
    let (status, lines) = refused.end();
    assert_eq!((status.code(), lines), (Some(1), vec![]));
    let log = refused.log();
    assert!(
        log.contains("schema version 99") && log.contains("use the newer program"),
        "{log}"
    );
    let version = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let found = database.query_row("SELECT version FROM httppubsub_schema", [], version);
    assert_eq!(found.unwrap(), 99);
    assert_eq!(home.rows().len(), 1);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let home = Home::new();
    let text = b"this is not a database, and it is somebody's".repeat(100);
    std::fs::write(home.database(), &text).unwrap();
    let mut refused = home.spawn(&[]);
    let (status, lines) = refused.end();
    assert_eq!((status.code(), lines), (Some(1), vec![]));
    refused.log_line("cannot open the database");
    assert_eq!(std::fs::read(home.database()).unwrap(), text);
}

/// T5 and W13.
#[test]
fn a_signature_stays_spent_across_an_orderly_end_and_a_kill() {
    let home = Home::new();
    let topic = Topic::new("t").unwrap();
    let kinds: [fn(&Door, &Topic) -> Asked; 3] = [
        |door, topic| door.signer.notify(topic, MESSAGE),
        |door, _| door.signer.check(&url("http://127.0.0.1:9/")),
        |door, topic| subscribe(door, "http://127.0.0.1:9/", topic.as_str().unwrap()),
    ];
    let mut spent: Vec<Asked> = Vec::new();
    for (round, kill) in [false, true, true, false].into_iter().enumerate() {
        let mut server = home.serve(&[]);
        for asked in &spent {
            let response = server.door.ask(asked);
            assert_eq!(response.status, 403, "{}: {}", asked.path, response.text());
            assert!(response.text().contains("used before"));
        }
        for kind in kinds {
            let topic = Topic::new(format!("{topic:?}{round}")).unwrap();
            let asked = kind(&server.door, &topic);
            assert_eq!(server.door.ask(&asked).status, 200);
            spent.push(asked);
        }
        if kill {
            server.process.kill();
        } else {
            server.process.terminate();
            server.process.end_well();
        }
    }
    let server = home.serve(&[]);
    assert!(
        spent
            .iter()
            .all(|asked| server.door.ask(asked).status == 403)
    );
}

/// Both ends at once: every change is acknowledged by one of them, and both see all of it.
#[test]
fn changes_at_two_processes_end_in_one_state() {
    let home = Home::new();
    let data = home.path().join("other-data");
    let servers = [
        home.serve(&[]),
        home.serve(&["--data", data.to_str().unwrap()]),
    ];
    let receive = "http://127.0.0.1:9/receive";
    let sets: Arc<Vec<SubscriptionSet>> = Arc::new(
        (0..4)
            .map(|set| {
                (0..50)
                    .map(|entry| (exact(&format!("{}", entry * (set + 1))), None))
                    .collect()
            })
            .collect(),
    );
    for round in 0..25 {
        thread::scope(|scope| {
            for (index, server) in servers.iter().enumerate() {
                let (door, sets) = (&server.door, &sets);
                scope.spawn(move || door.set(receive, &sets[(round + 2 * index) % 4]));
            }
        });
        let etags = [servers[0].door.etag(receive), servers[1].door.etag(receive)];
        assert_eq!(etags[0], etags[1], "round {round}");
        let written = sets.iter().any(|set| set.etag(&url(receive)) == etags[0]);
        assert!(written, "round {round}: a mix of both");
    }
}
