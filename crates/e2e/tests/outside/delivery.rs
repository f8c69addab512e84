//! Faults of deliveries, notices and their deadlines.
//!
//! | fault | test |
//! |---|---|
//! | hang-doubles | hang_doubles_nothing_and_is_answered_before_the_client_gives_up |
//! | hang-never-opens | hang_never_opens_no_longer_where_notices_are_confirmed |
//! | time-table | time_table_holds_between_the_defaults_of_both_ends |
//! | neighbours | neighbours_of_a_url_that_fails_miss_nothing |
//! | secrets-in-errors | secrets_in_errors_of_a_circuit_breaker_are_no_paths |
//! | resend | resend_is_not_what_follows_a_request_that_was_read |
//! | resend | crates/net/tests/post.rs | resend_only_where_the_peer_closed_before_it_can_have_read |
//! | all-places | all_places_are_never_those_of_one_peer |
//! | sweep-starved | sweep_starved_by_nobody_who_is_owed_thousands_of_notices |
//! | clock-back | clock_back_by_an_hour_puts_off_no_notice |
//! | clock-back | crates/broadcaster/src/notices/sweep.rs | clock_back_while_it_was_down_puts_off_no_notice |
//! | no-agent | no_agent_is_named_by_no_request |
//! | no-webhook | no_webhook_without_a_hint |

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use httppubsub_broadcaster::Config;
use httppubsub_client::ClientConfig;
use httppubsub_e2e::{
    Act, Deaf, Home, InProcess, Metrics, PATIENCE, Process, Server, Subscriber, eventually, exact,
    glob, http_answer, httppubsub, url,
};
use httppubsub_net::Clock;
use httppubsub_net::body::BodyLimits;
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::outbound::PostConfig;
use httppubsub_net::websocket::SocketConfig;
use httppubsub_proto::subscription::SubscriptionSet;
use httppubsub_proto::time::Now;

/// `httppubsub` with these words, for the broadcaster at `url`.
fn client(home: &Home, url: &str, words: &[&str]) -> Command {
    let mut command = httppubsub();
    command.args(words).args(["--broadcaster", url]);
    command
        .arg("--secrets")
        .arg(home.path().join("secrets.json"));
    command
}

/// A subscriber that hangs on deliveries and confirms notices.
fn hanging(home: &Home, server: &Server, topic: &str) -> (Subscriber, String) {
    let hanging = Subscriber::start(home.signer());
    let (url, recovery) = (hanging.url("/hangs"), hanging.recovery("/hangs"));
    hanging.on(&url, |_| vec![Act::Hang]);
    server.door.subscribe(&url, exact(topic), Some(&recovery));
    (hanging, url)
}

#[test]
fn hang_doubles_nothing_and_is_answered_before_the_client_gives_up() {
    let home = Home::new();
    let server = home.serve(&[]);
    let (hanging, url) = hanging(&home, &server, "t");
    let good = Subscriber::start(home.signer());
    server.door.subscribe(&good.url("/"), exact("t"), None);
    let broadcaster = format!("http://{}", server.door.address);
    let command = client(&home, &broadcaster, &["notify", "t", "--data", "x"]);
    Process::spawn("notify", command).end_well();
    assert_eq!(good.deliveries().len(), 1, "nobody has it twice");
    assert_eq!(hanging.deliveries_to(&url).len(), 1);
}

#[test]
fn hang_never_opens_no_longer_where_notices_are_confirmed() {
    let home = Home::new();
    let flags = ["--answer-timeout", "1", "--db", "memory"];
    let (server, metrics) = Metrics::serve(&home, &flags);
    let (hanging, url) = hanging(&home, &server, "t");
    // Five failures in a row open it; each takes a second where the machine has time.
    let mut rounds = Vec::new();
    let opens = (0..20).any(|_| {
        let began = Instant::now();
        assert_eq!(server.door.notify("t", b"x"), 0);
        rounds.push(began.elapsed());
        metrics.open_breakers() == 1
    });
    if !opens {
        let deliveries = hanging.deliveries();
        let deliveries: Vec<_> = deliveries.iter().map(|it| (&it.url, it.at)).collect();
        server.process.fail(&format!(
            "did not open the circuit breaker\nrounds: {rounds:?}\ndeliveries: {deliveries:?}"
        ));
    }
    // What is missed is told, and each notice is confirmed, which does not close it.
    let recovery = hanging.recovery("/hangs");
    eventually("two notices come", || {
        assert_eq!(server.door.notify("t", b"x"), 0);
        (hanging.deliveries_to(&recovery).len() >= 2).then_some(())
    });
    assert_eq!(metrics.open_breakers(), 1);
    let tried = hanging.deliveries_to(&url);
    for _ in 0..20 {
        server.door.notify("t", b"x");
    }
    let all = hanging.deliveries_to(&url);
    // At pauses of at least two seconds, but for the one after the first notice.
    let seconds = tried.last().unwrap().at.elapsed().as_secs();
    let more = all.len() - tried.len();
    assert!(more as u64 <= 2 + seconds / 2, "{more} in {seconds} s");
}

/// The path of a subscriber's url may be all that keeps others from posting there.
#[test]
fn secrets_in_errors_of_a_circuit_breaker_are_no_paths() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--log", "debug"]);
    let host = Subscriber::start(home.signer());
    let url = host.url("/canary/hook?canary");
    host.on(&url, |_| vec![Act::Say(http_answer(404, "", b""))]);
    server.door.subscribe(&url, exact("t"), None);
    eventually("its circuit breaker opens", || {
        server.door.notify("t", b"x");
        (metrics.open_breakers() == 1).then_some(())
    });
    let line = server.process.log_line("circuit breaker opened");
    assert!(line.contains("path_sha512"), "{line}");
    let log = server.process.log();
    assert!(!log.contains("canary"), "{log}");
}

#[test]
fn neighbours_of_a_url_that_fails_miss_nothing() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    let host = Subscriber::start(home.signer());
    let short = |delivery: &httppubsub_e2e::Delivery| delivery.message().len() < 1_000;
    for (path, status) in [("/missing", 404), ("/fails", 500), ("/forbidden", 403)] {
        let url = host.url(path);
        host.on(&url, move |_| vec![Act::Say(http_answer(status, "", b""))]);
        server.door.subscribe(&url, exact("noise"), None);
    }
    let (healthy, own) = (host.url("/healthy"), host.clone());
    host.on(&healthy, move |delivery| {
        vec![Act::Say(match short(delivery) {
            true => own.confirms(delivery, 1),
            false => http_answer(413, "", b""),
        })]
    });
    server.door.subscribe(&healthy, exact("quiet"), None);
    assert_eq!(server.door.notify("quiet", b"x"), 1);
    let long = vec![7; 2_000];
    eventually("those that fail are left alone", || {
        assert_eq!(server.door.notify("noise", b"x"), 0);
        assert_eq!(server.door.notify("quiet", &long), 0);
        (metrics.open_breakers() == 3).then_some(())
    });
    for _ in 0..80 {
        server.door.notify("noise", b"x");
        assert_eq!(server.door.notify("quiet", &long), 0);
        assert_eq!(server.door.notify("quiet", b"x"), 1);
    }
}

#[test]
fn resend_is_not_what_follows_a_request_that_was_read() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &[]);
    let subscriber = Subscriber::start(home.signer());
    let (url, own) = (subscriber.url("/"), subscriber.clone());
    subscriber.on(&url, move |delivery| match delivery.message().as_slice() {
        b"kept" => vec![Act::Say(own.confirms(delivery, 1))],
        _ => {
            // The time is what this is about: within 50 ms, the end of a connection that was idle
            // for a second is taken for that of one that nobody reads.
            thread::sleep(Duration::from_millis(200));
            vec![Act::Close]
        }
    });
    server.door.subscribe(&url, exact("t"), None);
    for _ in 0..3 {
        assert_eq!(server.door.notify("t", b"kept"), 1);
        assert_eq!(server.door.notify("t", b"read, and no answer"), 0);
    }
    assert_eq!(subscriber.deliveries().len(), 6, "each was sent once");
    assert_eq!(metrics.value("httppubsub_requests_sent_again_total"), 0);
}

/// What comes over the next connection, up to the end of the head.
fn next_head(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "it was closed");
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap().to_lowercase())
}

#[test]
fn no_agent_is_named_by_no_request() {
    let agent = format!(
        "\r\nuser-agent: httppubsub/{}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let raw = format!("http://{}", listener.local_addr().unwrap());
    let home = Home::new();
    let server = home.serve(&[]);
    let recovery = format!("{raw}/recover");
    server
        .door
        .subscribe(&format!("{raw}/hook"), exact("t"), Some(&recovery));
    let notifying = thread::spawn({
        let door = server.door.clone();
        move || door.notify("t", b"x")
    });
    let refuse = |path: &str| {
        let (mut stream, head) = next_head(&listener);
        assert!(head.contains(path) && head.contains(&agent), "{head}");
        let _ =
            stream.write_all(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    refuse("post /hook ");
    assert_eq!(notifying.join().unwrap(), 0);
    refuse("post /recover ");
    drop(server);
    let mut notify = Process::spawn(
        "notify",
        client(&home, &raw, &["notify", "t", "--data", "x"]),
    );
    refuse("post /v1/notify ");
    notify.end();
    let words = ["listen", "--ws", "--exact", "t"];
    let _listen = Process::spawn("listen", client(&home, &raw, &words));
    refuse("get /v1/websocket ");
}

#[test]
fn no_webhook_without_a_hint() {
    let home = Home::new();
    let server = home.serve(&[]);
    let hook = Subscriber::start(home.signer());
    let url = hook.url("/");
    hook.on(&url, |_| vec![Act::Say(http_answer(200, "", b"ok"))]);
    server.door.subscribe(&url, exact("t"), None);
    assert_eq!(server.door.notify("t", b"x"), 0);
    let line = server.process.log_line("a delivery failed");
    let says = "it answered 200 but not a confirmation; see the README, What a subscriber answers";
    assert!(line.contains(says), "{line}");
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    assert!(readme.contains("\n## What a subscriber answers\n"));
}

#[test]
fn all_places_are_never_those_of_one_peer() {
    let home = Home::new();
    let flags = [
        "--deliveries-pending-max",
        "400",
        "--answer-timeout",
        "8",
        "--notify-timeout",
        "10",
    ];
    let (server, metrics) = Metrics::serve(&home, &flags);
    let hanging = Subscriber::start(home.signer());
    let url = hanging.url("/hangs");
    hanging.on(&url, |_| vec![Act::Hang]);
    let many = (0..1_000).map(|number| (glob(&matching(number)), None));
    let many: SubscriptionSet = many.collect();
    server.door.set(&url, &many);
    let good = Subscriber::start(home.signer());
    server.door.subscribe(&good.url("/"), exact("other"), None);
    let notifying = thread::spawn({
        let door = server.door.clone();
        move || door.notify(TOPIC, b"x")
    });
    hanging.await_deliveries(&url, 1);
    // Others have their places, and what is for that peer is missed at once.
    for _ in 0..20 {
        assert_eq!(server.door.notify("other", b"x"), 1);
    }
    assert_eq!(server.door.notify(TOPIC, b"x"), 0);
    assert!(!notifying.is_finished(), "the first hangs still");
    let without_place = metrics.value("httppubsub_deliveries_without_place_total");
    assert_eq!(without_place, 1_000);
    assert_eq!(
        notifying.join().unwrap(),
        0,
        "it is answered within its bound"
    );
    assert_eq!(metrics.deliveries("dropped"), 2_000);
    assert_eq!(metrics.value("httppubsub_notifications_rejected_total"), 0);
}

#[test]
fn sweep_starved_by_nobody_who_is_owed_thousands_of_notices() {
    let home = Home::new();
    let server = home.serve(&["--db", "memory"]);
    let hostile = Subscriber::start(home.signer());
    let recovery = hostile.recovery("/hangs");
    hostile.on(&recovery, |_| vec![Act::Hang]);
    let owed = 20_000;
    let many = (0..owed).map(|number| (glob(&matching(number)), Some(url(&recovery))));
    let many: SubscriptionSet = many.collect();
    server.door.set(&Deaf::closed().url("/"), &many);
    assert_eq!(server.door.notify(TOPIC, b"x"), 0);
    hostile.await_deliveries(&recovery, 1);
    let good = Subscriber::start(home.signer());
    let (receive, recover) = (good.url("/"), good.recovery("/"));
    good.on(&receive, |_| vec![Act::Say(http_answer(503, "", b""))]);
    server.door.subscribe(&receive, exact("t"), Some(&recover));
    assert_eq!(server.door.notify("t", b"x"), 0);
    good.await_deliveries(&recover, 1);
    let attempts = hostile.deliveries_to(&recovery).len();
    assert!(
        attempts < owed / 10,
        "{attempts} notices were sent before it"
    );
}

#[test]
fn clock_back_by_an_hour_puts_off_no_notice() {
    let at = |seconds| {
        Now::from_unix(Duration::from_secs(
            1_800_000_000_u64.saturating_add_signed(seconds),
        ))
    };
    let clock = Clock::standing_at(at(0));
    let mut config = Config::default();
    config.clock = clock.clone();
    let own = InProcess::start(config, ServeConfig::default());
    let subscriber = Subscriber::start(&own.door.signer);
    let (receive, recover) = (subscriber.url("/"), subscriber.recovery("/"));
    subscriber.on(&receive, |_| vec![Act::Say(http_answer(503, "", b""))]);
    own.door.subscribe(&receive, exact("t"), Some(&recover));
    assert_eq!(own.door.notify("t", b"x"), 0);
    // Whoever looks next finds an hour that did not pass.
    clock.step(at(-3_600));
    clock.set(at(-3_590));
    assert_eq!(subscriber.await_deliveries(&recover, 1).len(), 1);
    // What is owed from now on goes by the clock as it is set.
    assert_eq!(own.door.notify("t", b"x"), 0);
    clock.set(at(-3_580));
    subscriber.await_deliveries(&recover, 2);
}

/// What all of [`matching`] match.
const TOPIC: &str = "a-long-topic-of-many";

/// A glob of so many that differ.
fn matching(number: usize) -> String {
    let characters = TOPIC.chars().enumerate();
    let glob = characters.map(|(at, character)| match number >> at & 1 {
        1 => '?',
        _ => character,
    });
    glob.collect()
}

#[test]
fn time_table_holds_between_the_defaults_of_both_ends() {
    let (broadcaster, post, serve) = (
        Config::default(),
        PostConfig::default(),
        ServeConfig::default(),
    );
    let client = ClientConfig::builder(["http://b:1"]).build().unwrap();
    let (body, socket) = (BodyLimits::default(), SocketConfig::default());
    let (websockets, options) = (
        &broadcaster.websockets,
        httppubsub_client::WebSocketConfig::default(),
    );
    let published = Duration::from_secs(30);
    const MIB: u64 = 1024 * 1024;
    for bytes in [0, 1, MIB, MIB + 1, 10 * MIB, 1_000 * MIB, 5_000 * MIB + 7] {
        let one = broadcaster.post.timeout(bytes);
        let all = broadcaster.deliveries_timeout(bytes);
        let answer = broadcaster.notify_timeout(bytes);
        assert!(broadcaster.post.connect_timeout < one && one < all && all < answer);
        let sending = Duration::from_secs(bytes / MIB);
        assert!(sending + answer < client.notify_timeout(bytes), "{bytes}");
    }
    assert_eq!(broadcaster.notify_timeout(MIB), Duration::from_secs(15));
    assert_eq!(
        broadcaster.notify_timeout(10 * MIB),
        Duration::from_secs(24)
    );
    assert!(2 * broadcaster.notify_timeout(MIB) <= published);
    assert!(broadcaster.notify_timeout(MIB) < serve.grace);
    let published_idle = Duration::from_secs(15);
    assert!(post.idle_timeout.max(published_idle) < serve.idle_timeout);
    let sign = options.heartbeat_interval + options.heartbeat_interval / 2;
    assert!(sign < socket.ping_interval + socket.pong_timeout);

    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/timeouts.md");
    let document = std::fs::read_to_string(document).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| "));
    let rows = rows.map(|row| row.trim_end_matches(" |").split(" | ").collect::<Vec<_>>());
    let rows = rows.filter(|cells| cells[0] != "deadline");
    let documented: BTreeMap<_, _> = rows
        .map(|cells| (cells[2].to_owned(), cells[1].to_owned()))
        .collect();
    let seconds = |of: Duration| format!("{} s", of.as_secs());
    let longer = |of: Duration, each: u32| format!("{} s + {each} s/MiB", of.as_secs());
    let each = |timeout: &dyn Fn(u64) -> Duration| {
        longer(timeout(0), {
            let more = timeout(101 * MIB) - timeout(MIB);
            u32::try_from(more.as_secs() / 100).unwrap()
        })
    };
    let own = &broadcaster;
    let coded = [
        (
            "`PostConfig::connect_timeout`",
            seconds(own.post.connect_timeout),
        ),
        (
            "`serve --answer-timeout`",
            each(&|bytes| own.post.timeout(bytes)),
        ),
        (
            "four fifths of the next",
            each(&|bytes| own.deliveries_timeout(bytes)),
        ),
        (
            "`serve --notify-timeout`",
            each(&|bytes| own.notify_timeout(bytes)),
        ),
        (
            "`ClientConfigBuilder::post`",
            each(&|bytes| client.notify_timeout(bytes)),
        ),
        ("their `outgoing_http_timeout_total`", seconds(published)),
        ("`PostConfig::idle_timeout`", seconds(post.idle_timeout)),
        ("`ServeConfig::idle_timeout`", seconds(serve.idle_timeout)),
        ("`ServeConfig::head_timeout`", seconds(serve.head_timeout)),
        ("`BodyLimits::silence_max`", seconds(body.silence_max)),
        (
            "`WebSocketConfig::configure_timeout`",
            seconds(websockets.configure_timeout),
        ),
        (
            "`SocketConfig::ping_interval`",
            seconds(socket.ping_interval),
        ),
        ("`SocketConfig::pong_timeout`", seconds(socket.pong_timeout)),
        (
            "`SocketConfig::write_timeout`",
            seconds(socket.write_timeout),
        ),
        (
            "`httppubsub_client::WebSocketConfig::heartbeat_interval`",
            seconds(options.heartbeat_interval),
        ),
        ("`serve --grace`", seconds(serve.grace)),
        ("`Config::start_patience`", seconds(own.start_patience)),
    ];
    let coded = coded.map(|(setting, is)| (setting.to_owned(), is));
    assert_eq!(documented, BTreeMap::from(coded));
    // The program says the same.
    let help = httppubsub().args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for (flag, default) in [
        ("--notify-timeout", 15),
        ("--answer-timeout", 10),
        ("--grace", 30),
    ] {
        let (_, after) = help.split_once(&format!("{flag} <SECONDS>")).unwrap();
        let (_, after) = after.split_once("[default: ").unwrap();
        assert!(after.starts_with(&format!("{default}]")), "{flag}");
    }
}

#[test]
fn an_answer_timeout_that_does_not_fit_is_refused() {
    let home = Home::new();
    let mut process = home.spawn(&["--answer-timeout", "13"]);
    let (status, _) = process.end();
    assert_eq!(status.code(), Some(2));
    let log = process.log();
    assert!(
        log.contains("does not fit into --notify-timeout 15"),
        "{log}"
    );
    drop(home.serve(&["--answer-timeout", "24", "--notify-timeout", "30"]));
}
