//! Several broadcasters on one PostgreSQL behave as one, whatever fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use httppubsub_broadcaster::{Authorizations, Broadcaster, Config};
use httppubsub_client::{Client, ClientConfig, Subscription as Subscribed, WebSocketConfig};
use httppubsub_e2e::{
    Act, Asked, Connection, Door, Fault, Gate, Home, Metrics, Namespace, PATIENCE, Postgres, Proxy,
    Random, Response, Server, Subscriber, eventually, exact, glob, httppubsub, own_address, url,
};
use httppubsub_net::Clock;
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::subscription::{Interest, Subscription, SubscriptionSet};
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::Topic;
use httppubsub_store::{Cluster as _, Missed, Notices as _, PostgresStore, Subscriptions as _};
use tokio::runtime::Runtime;

const MESSAGE: &[u8] = b"a message";

/// The metric: others that live, as this broadcaster knows it.
const OTHERS: &str = "httppubsub_other_broadcasters";

/// As many as `HTTPPUBSUB_TEST_ROUNDS` in the environment says, otherwise these.
fn rounds(usual: usize) -> usize {
    std::env::var("HTTPPUBSUB_TEST_ROUNDS").map_or(usual, |it| it.parse().unwrap())
}

/// Lets between so many milliseconds pass. Nothing is waited for: a fault is to come at any moment
/// of what is under way, and stay for long and for short.
fn some_time(random: &mut Random, milliseconds: Range<usize>) {
    let more = random.below(milliseconds.len());
    thread::sleep(Duration::from_millis((milliseconds.start + more) as u64));
}

/// A database, and what its broadcasters have in common.
struct Cluster {
    home: Home,
    runtime: Runtime,
    database: String,
}

impl Cluster {
    fn on(postgres: &Postgres) -> Self {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(postgres.database());
        let home = Home::new();
        Self {
            home,
            runtime,
            database,
        }
    }

    fn new() -> Self {
        Self::on(Postgres::shared())
    }

    /// The broadcaster of this name; it has a data folder of its own.
    fn serve(&self, name: &str, flags: &[&str]) -> Server {
        self.home.serve(&self.flags(name, flags, &self.database))
    }

    fn serve_measured(&self, name: &str, flags: &[&str]) -> (Server, Metrics) {
        Metrics::serve(&self.home, &self.flags(name, flags, &self.database))
    }

    fn flags<'a>(&self, name: &str, flags: &[&'a str], database: &'a str) -> Vec<&'a str> {
        let data = self.home.path().join(name).display().to_string();
        let data: &'static str = data.leak();
        [&["--data", data, "--db", database], flags].concat()
    }

    /// A proxy before the database, and the database's url through it.
    fn proxy(&self) -> (Proxy, String) {
        let (user, rest) = self.database.split_once('@').unwrap();
        let (address, name) = rest.split_once('/').unwrap();
        let proxy = Proxy::start(address.parse().unwrap());
        let through = format!("{user}@{}/{name}", proxy.address);
        (proxy, through)
    }

    fn status(&self) -> serde_json::Value {
        let mut command = httppubsub();
        command.args(["cluster", "status", "--json", "--db", &self.database]);
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn query(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        self.runtime.block_on(async {
            let client = Postgres::connect(&self.database).await;
            client.query(sql, &[]).await.unwrap()
        })
    }

    fn client(&self, address: SocketAddr) -> Client {
        let secrets = std::fs::read_to_string(self.home.path().join("secrets.json")).unwrap();
        let builder = ClientConfig::builder([format!("http://{address}")])
            .secrets(&Secrets::parse(&secrets).unwrap())
            .websocket({
                let mut websocket = WebSocketConfig::default();
                websocket.connect_retries = 200;
                websocket
            });
        let started = self
            .runtime
            .block_on(Client::start(builder.build().unwrap()));
        started.unwrap()
    }

    fn subscribe(&self, client: &Client, interests: &[Interest]) -> Subscribed {
        let subscribing = client.subscribe(interests.to_vec());
        self.runtime.block_on(subscribing).unwrap()
    }

    fn next(&self, subscription: &mut Subscribed) -> Vec<u8> {
        self.runtime.block_on(async {
            let message = tokio::time::timeout(PATIENCE, subscription.next()).await;
            message.unwrap().unwrap().bytes().await.unwrap().to_vec()
        })
    }
}

fn subscription(url: &str, interest: Interest, recovery: Option<&str>) -> Subscription {
    Subscription {
        url: self::url(url),
        interest,
        recovery: recovery.map(self::url),
    }
}

/// The answer over a connection that is kept, made anew when it is gone.
fn ask(connection: &mut Option<Connection>, door: &Door, asked: &Asked) -> Option<Response> {
    if connection.is_none() {
        *connection = Connection::open(door.address).ok();
    }
    let open = connection.as_mut()?;
    let answer = match open.post(asked) {
        Ok(()) => open.answer().ok().flatten(),
        Err(_) => None,
    };
    if answer.is_none() {
        *connection = None;
    }
    answer
}

#[test]
fn a_subscription_acknowledged_at_one_is_honoured_by_a_notify_at_the_other_afterwards() {
    let cluster = Cluster::new();
    let servers = [cluster.serve("one", &[]), cluster.serve("other", &[])];
    let subscriber = Subscriber::start(cluster.home.signer());
    let rounds = rounds(300);
    let mut connections = [None, None];
    let mut at = |which: usize, asked: &Asked| {
        let door = &servers[which].door;
        ask(&mut connections[which], door, asked).expect("it answers")
    };
    let signer = cluster.home.signer();
    for round in 0..rounds {
        let (here, there) = (round % 2, 1 - round % 2);
        let (topic, url) = (format!("t/{round}"), subscriber.url("/"));
        let interest = match round % 3 {
            0 => glob(&format!("?/{round}")),
            _ => exact(&topic),
        };
        let topic = Topic::new(topic).unwrap();
        let subscribe = signer.subscribe(&subscription(&url, interest.clone(), None));
        assert_eq!(at(here, &subscribe).status, 200);
        let asked = signer.notify(&topic, MESSAGE);
        let response = at(there, &asked);
        assert_eq!(
            servers[there].door.reached(&asked, &response),
            1,
            "round {round}"
        );
        let unsubscribe = signer.unsubscribe(&self::url(&url), &interest);
        assert_eq!(at(here, &unsubscribe).status, 200);
        let asked = signer.notify(&topic, MESSAGE);
        let response = at(there, &asked);
        assert_eq!(
            servers[there].door.reached(&asked, &response),
            0,
            "round {round}"
        );
    }
    assert_eq!(subscriber.deliveries().len(), rounds);
}

/// F17.
#[test]
fn f17_sets_of_one_url_at_both_end_in_one_of_them() {
    let cluster = Cluster::new();
    let servers = [cluster.serve("one", &[]), cluster.serve("other", &[])];
    let receive = "http://127.0.0.1:9/receive";
    for round in 0..rounds(200) {
        let sets = [1_usize, 2].map(|who| -> SubscriptionSet {
            let entry = |entry: usize| {
                let topic = format!("{}", (entry * who + round) % 70);
                (exact(&topic), None)
            };
            (0..50).map(entry).collect()
        });
        thread::scope(|scope| {
            for (server, set) in servers.iter().zip(&sets) {
                let door = &server.door;
                scope.spawn(move || door.set(receive, set));
            }
        });
        let etags = servers.each_ref().map(|it| it.door.etag(receive));
        assert_eq!(etags[0], etags[1], "round {round}");
        let asked_for = sets.map(|set| set.etag(&url(receive)));
        assert!(
            asked_for.contains(&etags[0]),
            "round {round}: a mix of both"
        );
    }
}

/// T5 and W14.
#[test]
fn a_request_captured_at_one_is_refused_by_the_other() {
    let cluster = Cluster::new();
    let servers = [cluster.serve("one", &[]), cluster.serve("other", &[])];
    let signer = cluster.home.signer();
    for round in 0..20 {
        let asked = signer.notify(&Topic::new("t").unwrap(), MESSAGE);
        let (here, there) = (round % 2, 1 - round % 2);
        assert_eq!(servers[here].door.ask(&asked).status, 200);
        for which in [there, here] {
            let response = servers[which].door.ask(&asked);
            assert_eq!(response.status, 403, "{}", response.text());
            assert!(
                response.text().contains("used before"),
                "{}",
                response.text()
            );
        }
    }
    // Who does not want to pay for it need not.
    let third = cluster.serve("third", &["--replay-guard", "own"]);
    let asked = signer.notify(&Topic::new("t").unwrap(), MESSAGE);
    assert_eq!(servers[0].door.ask(&asked).status, 200);
    assert_eq!(third.door.ask(&asked).status, 200);
    assert_eq!(third.door.ask(&asked).status, 403);
}

#[test]
fn websockets_at_one_get_what_is_notified_at_the_other_once() {
    let cluster = Cluster::new();
    let one = cluster.serve("one", &[]);
    let (other, metrics) = cluster.serve_measured("other", &[]);
    let client = cluster.client(one.door.address);
    let second = cluster.client(one.door.address);
    let mut exactly = cluster.subscribe(&client, &[exact("t/1"), glob("t/?")]);
    let mut by_glob = cluster.subscribe(&second, &[glob("t/*")]);
    for round in 0..20 {
        let message = format!("message {round}");
        assert_eq!(other.door.notify("t/1", message.as_bytes()), 2);
        for subscription in [&mut exactly, &mut by_glob] {
            assert_eq!(cluster.next(subscription), message.as_bytes());
        }
    }
    // Three rows of one broadcaster matched, and one request was for all of them.
    assert_eq!(metrics.value("httppubsub_matched_total"), 60);
    assert_eq!(metrics.deliveries("confirmed"), 60);
    let status = cluster.status();
    let websockets = || {
        let status = cluster.status();
        let all = status["broadcasters"].as_array().unwrap().clone();
        all.iter()
            .map(|it| it["websockets"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(status["subscriptions"], 3);
    eventually("both websockets are counted", || {
        (websockets() == 2).then_some(())
    });
}

#[test]
fn websockets_that_come_and_go_at_one_are_not_unsubscribed_by_the_other() {
    let cluster = Cluster::new();
    let one = cluster.serve("one", &[]);
    let other = cluster.serve("other", &[]);
    let client = cluster.client(one.door.address);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (door, stop) = (&other.door, &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                door.notify("t", MESSAGE);
            }
        });
        for round in 0..rounds(60) {
            let mut subscription = cluster.subscribe(&client, &[exact("t")]);
            assert_eq!(cluster.next(&mut subscription), MESSAGE, "round {round}");
            cluster.runtime.block_on(subscription.close()).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// F18.
#[test]
fn f18_websockets_of_a_broadcaster_that_cannot_be_reached_are_told_when_it_can() {
    let cluster = Cluster::new();
    let listen = own_address().to_string();
    let proxy = Proxy::start(listen.parse().unwrap());
    let advertise = format!("http://{}", proxy.address);
    let one = cluster.serve("one", &["--listen", &listen, "--advertise", &advertise]);
    let other = cluster.serve("other", &["--answer-timeout", "1"]);
    let client = cluster.client(one.door.address);
    let mut subscription = cluster.subscribe(&client, &[exact("t")]);
    let missed = Arc::new(AtomicUsize::new(0));
    let count = missed.clone();
    subscription.on_gap(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(())
    });
    assert_eq!(other.door.notify("t", b"before"), 1);
    assert_eq!(cluster.next(&mut subscription), b"before");
    let before = missed.load(Ordering::SeqCst);
    proxy.freeze();
    proxy.set(Fault::FreezeAfter(0));
    assert_eq!(other.door.notify("t", b"lost"), 0);
    proxy.set(Fault::None);
    proxy.cut();
    // The notice comes, the subscription stays, and what is notified now arrives. The callback runs
    // while somebody waits for messages.
    let waiting = Instant::now();
    while missed.load(Ordering::SeqCst) == before {
        assert!(waiting.elapsed() < PATIENCE, "it is not told");
        let some = Duration::from_millis(50);
        let none = cluster
            .runtime
            .block_on(subscription.next_with_timeout(some));
        assert!(none.unwrap().is_none());
    }
    eventually("the breaker has closed", || {
        (other.door.notify("t", b"after") == 1).then_some(())
    });
    assert_eq!(cluster.next(&mut subscription), b"after");
    assert_eq!(cluster.status()["subscriptions"], 1);
}

/// F18 and F19 in one: a machine whose network is gone for a while.
#[test]
fn f18_a_machine_that_was_cut_off_is_in_time_again_when_it_is_back() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let Some(postgres) = Postgres::own_if_possible(&["fsync=off", "listen_addresses=*"]) else {
        return;
    };
    let mut cluster = Cluster::on(&postgres);
    cluster.database = cluster.database.replace("127.0.0.1", &namespace.here);
    // What is private is not verified by default elsewhere than on this machine.
    cluster.database += "?sslmode=disable";
    // Nobody else is in there.
    let listen = format!("{}:3003", namespace.inside);
    // Long enough for a machine that is busy with other work.
    let (listen_here, lease) = (format!("{}:0", namespace.here), ["--lease", "8"]);
    let flags = ["--listen", &listen, lease[0], lease[1]];
    let flags = cluster.flags("inside", &flags, &cluster.database);
    let inside = cluster.home.spawn_through(&namespace.words(), &flags);
    assert_eq!(inside.line(), format!("listening on http://{listen}"));
    let flags = [
        "--listen",
        &listen_here,
        "--answer-timeout",
        "30",
        "--notify-timeout",
        "40",
        lease[0],
        lease[1],
        "--log",
        "info,httppubsub_broadcaster=debug",
    ];
    let (other, metrics) = cluster.serve_measured("other", &flags);
    // A subscriber on the machine that is cut off.
    let program = httppubsub();
    let mut command = std::process::Command::new("ip");
    command
        .args(&namespace.words()[1..])
        .arg(program.get_program());
    command.args(["listen", "--ws", "--exact", "t", "--json", "--broadcaster"]);
    command.arg(format!("http://{listen}"));
    command
        .arg("--secrets")
        .arg(cluster.home.path().join("secrets.json"));
    let subscriber = httppubsub_e2e::Process::spawn("the subscriber", command);
    subscriber.event("listening");
    // Whatever was tried too early is told as missed, at any time before it.
    let message_comes = || {
        let mut event = subscriber.json();
        while event["event"] == "missed" {
            event = subscriber.json();
        }
        assert_eq!(event["event"], "message", "{event}");
    };
    eventually("it is reached", || {
        (other.door.notify("t", b"before") == 1).then_some(())
    });
    message_comes();

    namespace.cut();
    // The log may have said so before, of a machine that was busy.
    eventually("a broadcaster is silent", || {
        (metrics.value(OTHERS) == 0).then_some(())
    });
    let not_tried = || other.process.log().matches("was not tried").count();
    let before = not_tried();
    eventually("it is not tried", || {
        assert_eq!(other.door.notify("t", b"lost"), 0);
        (not_tried() > before).then_some(())
    });
    inside.log_line("the database cannot be reached");
    namespace.heal();
    subscriber.event("missed");
    eventually("it is reached again", || {
        (other.door.notify("t", b"after") == 1).then_some(())
    });
    message_comes();
    assert_eq!(cluster.status()["subscriptions"], 1);
}

#[test]
fn a_broadcaster_that_was_killed_is_left_in_peace_and_starts_anew() {
    let cluster = Cluster::new();
    let listen = own_address().to_string();
    // Long enough for a machine that is busy with other work.
    let lease = ["--lease", "8"];
    let flags = [&lease[..], &["--listen", &listen]].concat();
    let mut one = cluster.serve("one", &flags);
    let (other, metrics) = cluster.serve_measured("other", &lease);
    let client = cluster.client(one.door.address);
    let mut subscription = cluster.subscribe(&client, &[exact("t")]);
    assert_eq!(other.door.notify("t", b"before"), 1);
    assert_eq!(cluster.next(&mut subscription), b"before");
    one.process.kill();
    eventually("it is silent", || {
        (metrics.value(OTHERS) == 0).then_some(())
    });
    other.process.log_line("a broadcaster fell silent");
    let mut status = httppubsub();
    status.args(["cluster", "status", "--db", &cluster.database]);
    let status = status.output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("silent for"));
    let missed = metrics.deliveries("missed");
    assert_eq!(other.door.notify("t", b"lost"), 0);
    assert_eq!(metrics.deliveries("missed"), missed + 1);

    let one = cluster.serve("one", &flags);
    eventually("it is silent no more", || {
        (metrics.value(OTHERS) == 1).then_some(())
    });
    other.process.log_line("silent no more");
    // Its client comes back and subscribes again.
    eventually("the websocket is back", || {
        (other.door.notify("t", b"after") == 1).then_some(())
    });
    assert_eq!(cluster.next(&mut subscription), b"after");
    assert_eq!(cluster.status()["subscriptions"], 1);
    drop(one);
}

#[test]
fn a_database_that_answers_late_is_waited_for_at_the_start() {
    let cluster = Cluster::new();
    // It makes the tables.
    drop(cluster.serve("first", &[]));
    let (locker, locked) = cluster.runtime.block_on(async {
        let locker = Postgres::connect(&cluster.database).await;
        let lock = "BEGIN; LOCK TABLE httppubsub_broadcasters IN EXCLUSIVE MODE";
        let locked = locker.batch_execute(lock).await;
        (locker, locked)
    });
    locked.unwrap();
    let flags = cluster.flags("second", &[], &cluster.database);
    let process = cluster.home.spawn(&flags);
    // It waits for 5 s each time, and tries again.
    process.log_line("joining the other broadcasters failed at the start; trying again");
    let unlocked = locker.batch_execute("COMMIT");
    cluster.runtime.block_on(unlocked).unwrap();
    let server = cluster.home.if_it_listens(process).unwrap();
    assert_eq!(server.door.notify("t", MESSAGE), 0);
}

#[test]
fn a_broadcaster_that_does_not_come_back_is_forgotten() {
    let cluster = Cluster::new();
    // Long enough for a machine that is busy with other work.
    let flags = ["--lease", "5", "--forget-after", "5"];
    let mut one = cluster.serve("one", &flags);
    let other = cluster.serve("other", &flags);
    let client = cluster.client(one.door.address);
    let _subscription = cluster.subscribe(&client, &[exact("t"), glob("t*")]);
    assert_eq!(cluster.status()["subscriptions"], 2);
    one.process.kill();
    other
        .process
        .log_line("forgot a broadcaster that is silent");
    let status = cluster.status();
    assert_eq!(status["subscriptions"], 0);
    assert_eq!(status["broadcasters"].as_array().unwrap().len(), 1);
    assert_eq!(other.door.notify("t", MESSAGE), 0);
}

#[test]
fn a_broadcaster_that_others_have_forgotten_ends_its_websockets_which_subscribe_again() {
    let cluster = Cluster::new();
    // Long enough for a machine that is busy with other work.
    let one = cluster.serve("one", &["--lease", "8"]);
    let other = cluster.serve("other", &["--lease", "8"]);
    let client = cluster.client(one.door.address);
    let mut subscription = cluster.subscribe(&client, &[exact("t")]);
    // As if it had been cut off from the database for an hour.
    cluster.query("DELETE FROM httppubsub_subscriptions");
    cluster.query("DELETE FROM httppubsub_broadcasters");
    one.process
        .log_line("others have forgotten this broadcaster");
    eventually("what is notified arrives again", || {
        (other.door.notify("t", MESSAGE) == 1).then_some(())
    });
    assert_eq!(cluster.next(&mut subscription), MESSAGE);
}

#[test]
fn a_broadcaster_that_stops_in_good_order_is_not_missed() {
    let cluster = Cluster::new();
    let mut one = cluster.serve("one", &[]);
    let client = cluster.client(one.door.address);
    let _subscription = cluster.subscribe(&client, &[exact("t")]);
    one.process.terminate();
    one.process.end_well();
    let status = cluster.status();
    assert_eq!(status["broadcasters"].as_array().unwrap().len(), 0);
    assert_eq!(status["subscriptions"], 0);
}

/// F13. With `HTTPPUBSUB_TEST_ROUNDS` in the environment, so many restarts.
#[test]
fn f13_restarts_of_the_database_lose_nothing_acknowledged_and_are_recovered_from() {
    const WORKERS: usize = 4;
    let Some(postgres) = Postgres::own_if_possible(&[]) else {
        return;
    };
    let cluster = Cluster::on(&postgres);
    let servers = [cluster.serve("one", &[]), cluster.serve("other", &[])];
    let doors = [servers[0].door.clone(), servers[1].door.clone()];
    let subscriber = Subscriber::start(cluster.home.signer());
    let signer = cluster.home.signer();
    let stop = AtomicBool::new(false);
    let acknowledged = Mutex::new(Vec::new());
    let statuses = Mutex::new(BTreeMap::<(&str, u16), usize>::new());
    let last_good = [Mutex::new(Instant::now()), Mutex::new(Instant::now())];
    let mut slowest = Duration::ZERO;
    let mut random = Random::new(13);
    let rounds = rounds(5);
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (doors, stop, subscriber) = (&doors, &stop, &subscriber);
            let (acknowledged, statuses, last_good) = (&acknowledged, &statuses, &last_good);
            scope.spawn(move || {
                let mut connections = [None, None];
                for count in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let which = (worker + count) % 2;
                    let topic = format!("w/{worker}/{count}");
                    let url = subscriber.url("/");
                    let asked = signer.subscribe(&subscription(&url, exact(&topic), None));
                    let began = Instant::now();
                    let mut at = |which: usize, asked: &Asked| {
                        let door = &doors[which];
                        ask(&mut connections[which], door, asked).expect("it answers")
                    };
                    let response = at(which, &asked);
                    *statuses
                        .lock()
                        .unwrap()
                        .entry(("subscribe", response.status))
                        .or_default() += 1;
                    match response.status {
                        200 => *last_good[which].lock().unwrap() = began,
                        409 | 503 => continue,
                        status => panic!("{status}: {}", response.text()),
                    }
                    acknowledged.lock().unwrap().push(topic.clone());
                    let asked = signer.notify(&Topic::new(topic).unwrap(), MESSAGE);
                    let response = at(1 - which, &asked);
                    *statuses
                        .lock()
                        .unwrap()
                        .entry(("notify", response.status))
                        .or_default() += 1;
                    match response.status {
                        200 => {
                            let reached = doors[which].reached(&asked, &response);
                            assert_eq!(reached, 1, "it was acknowledged");
                        }
                        503 => {}
                        status => panic!("{status}: {}", response.text()),
                    }
                }
            });
        }
        for _ in 0..rounds {
            some_time(&mut random, 300..1_300);
            postgres.restart();
            let up = Instant::now();
            for good in &last_good {
                eventually("a subscription is granted again", || {
                    (*good.lock().unwrap() > up).then_some(())
                });
            }
            slowest = slowest.max(up.elapsed());
        }
        stop.store(true, Ordering::SeqCst);
    });
    let acknowledged = acknowledged.into_inner().unwrap();
    let rows = cluster.query("SELECT interest FROM httppubsub_subscriptions");
    let kept: BTreeSet<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|it| !kept.contains(it.as_bytes()))
        .collect();
    assert_eq!(lost, Vec::<&String>::new());
    let statuses = statuses.into_inner().unwrap();
    println!(
        "{rounds} restarts, {} acknowledged and kept, {statuses:?}; served again at most \
         {slowest:?} after PostgreSQL was",
        acknowledged.len()
    );
    // Both know all of it.
    for server in &servers {
        let last = acknowledged.last().unwrap();
        assert_eq!(server.door.notify(last, MESSAGE), 1);
    }
}

/// F14: whatever happens to the connections to the database, what is answered is true.
#[test]
fn f14_an_answer_of_the_database_that_is_lost_is_not_guessed() {
    let cluster = Cluster::new();
    let (proxy, through) = cluster.proxy();
    let flags = cluster.flags("one", &[], &through);
    let server = cluster.home.serve(&flags);
    let signer = cluster.home.signer();
    let mut random = Random::new(14);
    let mut connection = None;
    let (mut done, mut unknown) = (0, 0);
    let mut wanted = BTreeMap::new();
    for round in 0..rounds(60) {
        let topic = format!("t/{}", random.below(40));
        let is_there: Option<bool> = wanted.get(&topic).copied().unwrap_or(Some(false));
        // So many bytes after a connection was made, its answers are lost; what was sent is done.
        proxy.set(Fault::CloseAfter(400 + random.below(3_000) as u64));
        if round % 3 == 0 {
            proxy.cut();
        }
        let it = subscription("http://127.0.0.1:9/", exact(&topic), None);
        let removes = random.below(2) == 0;
        let asked = match removes {
            true => signer.unsubscribe(&it.url, &it.interest),
            false => signer.subscribe(&it),
        };
        let response = ask(&mut connection, &server.door, &asked).expect("it answers");
        // What it must answer if it is known whether it was there.
        let good = is_there.is_none_or(|is_there| match response.status {
            200 => is_there == removes,
            404 | 409 => is_there != removes,
            _ => true,
        });
        assert!(good, "round {round}: {} for {is_there:?}", response.status);
        let is_there = match response.status {
            200 | 404 | 409 => {
                done += 1;
                Some(!removes)
            }
            503 => {
                unknown += 1;
                None
            }
            status => panic!("{status}: {}", response.text()),
        };
        wanted.insert(topic, is_there);
    }
    proxy.set(Fault::None);
    proxy.cut();
    let rows = cluster.query("SELECT interest FROM httppubsub_subscriptions");
    let kept: Vec<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    for (topic, is_there) in &wanted {
        let is_kept = kept.iter().any(|it| it == topic.as_bytes());
        assert!(
            is_there.is_none_or(|it| it == is_kept),
            "{topic}: {is_kept}"
        );
    }
    println!("{done} answered, {unknown} times 503");
    assert!(done > 0);
}

/// F19.
#[test]
fn f19_who_cannot_reach_the_database_says_503_and_goes_on_when_it_can() {
    let cluster = Cluster::new();
    let (proxy, through) = cluster.proxy();
    let flags = cluster.flags("one", &[], &through);
    let server = cluster.home.serve(&flags);
    let subscriber = Subscriber::start(cluster.home.signer());
    let url = subscriber.url("/");
    server.door.subscribe(&url, exact("t"), None);
    assert_eq!(server.door.notify("t", MESSAGE), 1);
    proxy.freeze();
    proxy.set(Fault::FreezeAfter(0));
    let signer = cluster.home.signer();
    let subscribe = signer.subscribe(&subscription(&url, exact("u"), None));
    let notify = signer.notify(&Topic::new("t").unwrap(), MESSAGE);
    let check = signer.check(&self::url(&url));
    thread::scope(|scope| {
        let door = &server.door;
        // What it knows is good for some milliseconds more.
        eventually("it knows nothing for sure any longer", || {
            let asked = signer.notify(&Topic::new("t").unwrap(), MESSAGE);
            (door.ask(&asked).status == 503).then_some(())
        });
        let asking =
            [&subscribe, &notify, &check].map(|asked| scope.spawn(move || door.ask(asked)));
        // It lives, and says that it should be sent nothing.
        assert_eq!(door.get("/healthz").status, 200);
        eventually("it is not ready", || {
            let response = door.get("/readyz");
            (response.status == 503 && response.text().contains("database")).then_some(())
        });
        for asked in asking {
            let response = asked.join().unwrap();
            assert_eq!(response.status, 503, "{}", response.text());
            assert!(response.header("retry-after").is_some());
        }
    });
    proxy.set(Fault::None);
    proxy.cut();
    eventually("it is ready again", || {
        (server.door.get("/readyz").status == 200).then_some(())
    });
    // The very same may be sent again: nothing came of it.
    assert_eq!(server.door.ask(&notify).status, 200);
    let again = server.door.ask(&subscribe).status;
    assert!(again == 200 || again == 409, "{again}");
}

#[test]
fn a_websocket_that_left_while_the_database_was_away_leaves_no_row() {
    let cluster = Cluster::new();
    let (proxy, through) = cluster.proxy();
    let server = cluster
        .home
        .serve(&cluster.flags("one", &["--lease", "1"], &through));
    let way = Proxy::start(server.door.address);
    let client = cluster.client(way.address);
    let subscription = cluster.subscribe(&client, &[exact("t")]);
    assert_eq!(cluster.status()["subscriptions"], 1);
    proxy.freeze();
    proxy.set(Fault::FreezeAfter(0));
    // It leaves without a word, and does not come back: of what it said last, and whether it was
    // heard, nothing depends.
    way.freeze();
    way.set(Fault::FreezeAfter(0));
    drop(subscription);
    drop(client);
    way.cut();
    server
        .process
        .log_line("cannot unsubscribe what no websocket wants");
    assert_eq!(cluster.status()["subscriptions"], 1);
    proxy.set(Fault::None);
    proxy.cut();
    eventually("the row is gone", || {
        (cluster.status()["subscriptions"] == 0).then_some(())
    });
}

/// With `HTTPPUBSUB_TEST_ROUNDS` in the environment, so many kills.
#[test]
fn kills_of_either_lose_no_subscription_and_nothing_without_a_notice() {
    const TOPICS: usize = 6;
    const SUBSCRIBERS: usize = 6;
    let cluster = Cluster::new();
    let addresses = [own_address(), own_address()].map(|it| it.to_string());
    let serve = |which: usize| {
        let name = ["one", "other"][which];
        // Few are delivered to at once, so that kills leave some without.
        let few = ["--deliveries-per-peer-max", "1"];
        let flags = ["--listen", &addresses[which], "--lease", "8"];
        cluster.serve(name, &[&flags[..], &few].concat())
    };
    let mut servers = [serve(0), serve(1)];
    let doors = [servers[0].door.clone(), servers[1].door.clone()];
    let signer = cluster.home.signer();
    let subscriber = Subscriber::start(signer);
    let place = |number: usize, who: usize| format!("/{number}/{who}");
    for number in 0..TOPICS {
        for who in 0..SUBSCRIBERS {
            let place = place(number, who);
            let (url, recovery) = (subscriber.url(&place), subscriber.recovery(&place));
            let own = subscriber.clone();
            subscriber.on(&url, move |delivery| {
                // As long as work takes: a kill is to find deliveries that have not begun.
                thread::sleep(Duration::from_millis(5 + who as u64));
                vec![Act::Say(own.confirms(delivery, 1))]
            });
            doors[0].subscribe(&url, exact(&format!("t/{number}")), Some(&recovery));
        }
    }
    let stop = AtomicBool::new(false);
    // Of each notification that a broadcaster may have begun: its topic, its message, and whether
    // it was answered.
    let sent = Mutex::new(Vec::new());
    let acknowledged = Mutex::new(Vec::new());
    let mut random = Random::new(5);
    let rounds = rounds(8);
    thread::scope(|scope| {
        for worker in 0..6 {
            let (doors, stop, sent, acknowledged) = (&doors, &stop, &sent, &acknowledged);
            scope.spawn(move || {
                let mut connections = [None, None];
                for count in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let which = (worker + count) % 2;
                    let number = (worker + count) % TOPICS;
                    let message = format!("{worker}/{count}");
                    let topic = Topic::new(format!("t/{number}")).unwrap();
                    let asked = signer.notify(&topic, message.as_bytes());
                    let began = Instant::now();
                    match ask(&mut connections[which], &doors[which], &asked) {
                        Some(response) if response.status == 200 => {
                            sent.lock().unwrap().push((number, message, began, true));
                        }
                        Some(response) => assert_eq!(response.status, 503),
                        // It may have been taken before the kill, or not.
                        None => {
                            sent.lock().unwrap().push((number, message, began, false));
                            eventually("it is there again", || {
                                TcpStream::connect(doors[which].address).ok()
                            });
                        }
                    }
                    let topic = format!("s/{worker}/{count}");
                    let it = subscription("http://127.0.0.1:9/", exact(&topic), None);
                    let asked = signer.subscribe(&it);
                    let answer = ask(&mut connections[which], &doors[which], &asked);
                    if answer.is_some_and(|it| it.status == 200) {
                        acknowledged.lock().unwrap().push(topic);
                    }
                }
            });
        }
        for _ in 0..rounds {
            some_time(&mut random, 200..1_000);
            let which = random.below(2);
            servers[which].process.kill();
            some_time(&mut random, 0..500);
            servers[which] = serve(which);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let rows = cluster.query("SELECT interest FROM httppubsub_subscriptions");
    let kept: BTreeSet<Vec<u8>> = rows.iter().map(|row| row.get(0)).collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost = acknowledged
        .iter()
        .filter(|it| !kept.contains(it.as_bytes()));
    assert_eq!(lost.count(), 0);
    // Whatever was answered 200, or has reached anybody, has reached all or they are told.
    let sent = sent.into_inner().unwrap();
    let (mut arrived, mut told, mut never_taken) = (0, 0, 0);
    let all = subscriber.deliveries();
    let all = all.iter().filter(|it| !it.is_missed());
    let came: HashSet<_> = all.map(|it| (it.url.clone(), it.message())).collect();
    for (number, message, began, is_answered) in &sent {
        let has_come = |who: &usize| {
            let url = subscriber.url(&place(*number, *who));
            came.contains(&(url, message.as_bytes().to_vec()))
        };
        let (there, absent): (Vec<_>, Vec<_>) = (0..SUBSCRIBERS).partition(has_come);
        arrived += there.len();
        if there.is_empty() && !is_answered {
            never_taken += absent.len();
            continue;
        }
        for who in absent {
            let recovery = subscriber.recovery(&place(*number, who));
            eventually("it is told", || {
                let notices = subscriber.deliveries_to(&recovery);
                notices.iter().any(|it| it.at > *began).then_some(())
            });
            told += 1;
        }
    }
    println!(
        "{rounds} kills: {} subscriptions acknowledged and kept; {} notifications to {SUBSCRIBERS} \
         each: {arrived} arrived, {told} did not and were told; {never_taken} were not answered \
         and reached nobody",
        acknowledged.len(),
        sent.len()
    );
    assert!(told > 0, "no kill was in the middle");
}

#[test]
fn what_cannot_be_a_cluster_is_said_clearly() {
    let cluster = Cluster::new();
    let refused = |flags: &[&str], database: &str, why: &str| {
        let flags = cluster.flags("refused", flags, database);
        let mut process = cluster.home.spawn(&flags);
        let (status, lines) = process.end();
        assert!(!status.success() && lines.is_empty(), "{flags:?}");
        assert!(process.log().contains(why), "{}", process.log());
        assert!(!process.log().contains("panicked"), "{}", process.log());
    };
    let database = cluster.database.as_str();
    refused(
        &["--listen", "0.0.0.0:0"],
        database,
        "--advertise http://HOST:PORT",
    );
    refused(&["--advertise", "ftp://h:1"], database, "--advertise");
    refused(
        &["--advertise", "http://h:1/path"],
        database,
        "serves at the root",
    );
    refused(&["--lease", "0"], database, "--lease");
    refused(
        &["--replay-guard", "shared"],
        "memory",
        "only broadcasters on PostgreSQL",
    );
    let nobody = "postgres://secret-user:secret-word@127.0.0.1:1/d";
    refused(&[], nobody, "cannot open the PostgreSQL database");
    refused(
        &[],
        "postgres://u@db.example/d?sslmode=prefer",
        "verify-full",
    );
    refused(
        &[],
        "postgres://h:x/d",
        "not the url of a PostgreSQL database",
    );
    refused(&[], "mysql://h/d", "postgres://USER@HOST/NAME");
    let status = |database: &str| {
        let mut command = httppubsub();
        command.args(["cluster", "status", "--db", database]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let unused = cluster.runtime.block_on(Postgres::shared().database());
    let error = status(&unused);
    assert!(error.contains("no broadcaster has ever used it"), "{error}");
    let error = status(nobody);
    assert!(!error.contains("secret-word"), "{error}");
}

#[test]
fn a_database_that_does_not_wait_for_its_disk_is_warned_of() {
    let cluster = Cluster::new();
    let (_, name) = cluster.database.rsplit_once('/').unwrap();
    cluster.query(&format!(
        "ALTER DATABASE {name} SET synchronous_commit = off"
    ));
    let server = cluster.serve("one", &[]);
    server.process.log_line("synchronous_commit is off");
}

#[test]
fn the_way_to_the_database_is_encrypted_and_its_server_verified() {
    let certify = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let right = certify("localhost");
    let postgres = Postgres::own_with_tls(&right.cert.pem(), &right.signing_key.serialize_pem());
    let cluster = Cluster::on(&postgres);
    let roots = cluster.home.path().join("roots.pem");
    std::fs::write(&roots, right.cert.pem()).unwrap();
    let others = cluster.home.path().join("others.pem");
    std::fs::write(&others, certify("localhost").cert.pem()).unwrap();
    let url = |host: &str, roots: &std::path::Path| {
        let database = cluster.database.replace("127.0.0.1", host);
        format!(
            "{database}?sslmode=verify-full&sslrootcert={}",
            roots.display()
        )
    };
    let good = url("localhost", &roots);
    let server = cluster.home.serve(&cluster.flags("good", &[], &good));
    server
        .door
        .subscribe("http://127.0.0.1:9/", exact("t"), None);
    let sql = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE ssl AND application_name = 'httppubsub'";
    assert!(cluster.query(sql)[0].get::<_, i64>(0) > 0);
    for bad in [url("127.0.0.1", &roots), url("localhost", &others)] {
        let mut process = cluster.home.spawn(&cluster.flags("bad", &[], &bad));
        assert!(!process.end().0.success());
        assert!(process.log().contains("certificate"), "{}", process.log());
    }
}

/// Notes who looks for notices that are due: each look claims them by an UPDATE, if only of none.
const NOTE_SWEEPS: &str = "\
    CREATE TABLE sweeps (who text); \
    CREATE FUNCTION note_sweep() RETURNS trigger LANGUAGE plpgsql AS \
    $$ BEGIN INSERT INTO sweeps VALUES (current_setting('application_name')); RETURN NULL; END $$; \
    CREATE TRIGGER note_sweep AFTER UPDATE ON httppubsub_notices \
    FOR EACH STATEMENT EXECUTE FUNCTION note_sweep()";

/// F16.
#[test]
fn f16_a_broadcaster_whose_clock_is_wrong_does_not_take_what_another_holds() {
    let runtime = Runtime::new().unwrap();
    let home = Home::with(&Secrets::NONE);
    let subscriber = Subscriber::start(home.signer());
    let recovery = subscriber.recovery("/");
    let gate = Gate::default();
    subscriber.confirm_behind(&recovery, &gate);
    runtime.block_on(async {
        let database = Postgres::shared().database().await;
        let hour = Duration::from_secs(3_600);
        let now = Clock::system().now();
        let behind = Now::from_unix(now.since_unix() - hour);
        let clocks = [now, now + hour, behind].map(Clock::standing_at);
        let mut broadcasters = Vec::new();
        for (number, clock) in clocks.into_iter().enumerate() {
            let own = format!("{database}?application_name=sweeper-{number}");
            let store = Arc::new(PostgresStore::open(&own).await.unwrap());
            let mut config = Config::default();
            config.clock = clock;
            config.sweep_interval = Duration::from_millis(200);
            config.receiver_url = format!("http://127.0.0.1:{number}/v1/receive_for_websockets");
            let authorizations = Authorizations::from(&Secrets::NONE);
            let started = Broadcaster::start(config, store, authorizations).await;
            broadcasters.push(started.unwrap());
        }
        let store = PostgresStore::open(&database).await.unwrap();
        let it = subscription("http://127.0.0.1:9/", exact("t"), Some(&recovery));
        store.subscribe(it.clone()).await.unwrap();
        let missed = Missed {
            url: it.url,
            interest: it.interest,
            topic: Topic::new("t").unwrap(),
            due: behind,
        };
        store.record_missed(missed).await.unwrap();
        // All look for what is due several times a second; the first to come holds it.
        subscriber.await_deliveries(&recovery, 1);
        let client = Postgres::connect(&database).await;
        client.batch_execute(NOTE_SWEEPS).await.unwrap();
        let sweeps = "SELECT 1 FROM sweeps WHERE who LIKE 'sweeper-%' \
             GROUP BY who HAVING count(*) >= 3";
        let began = Instant::now();
        while client.query(sweeps, &[]).await.unwrap().len() < 3 {
            assert!(began.elapsed() < PATIENCE, "not all look for what is due");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(store.census().await.unwrap().held, 1);
    });
    assert_eq!(subscriber.deliveries_to(&recovery).len(), 1);
    gate.open();
}
