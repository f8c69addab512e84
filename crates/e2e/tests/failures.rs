//! The test that holds each failure of `docs/design/threats.md`, and tests of what makes peers and
//! the network fail.
//!
//! | failure | file | test |
//! |---|---|---|
//! | F1 | delivery.rs | a_subscriber_that_was_down_is_told_until_it_accepts_once |
//! | F1 | delivery.rs | a_notice_that_is_owed_survives_a_kill |
//! | F2 | delivery.rs | a_subscriber_that_hangs_delays_no_other |
//! | F2 | delivery.rs | a_peer_that_hangs_takes_only_its_own_turns |
//! | F2 | delivery.rs | rows_of_a_peer_that_hangs_delay_no_other_row_of_the_same_notification |
//! | F3 | delivery.rs | answers_of_every_kind_are_taken_for_what_they_are |
//! | F4 | delivery.rs | a_subscriber_that_never_reads_is_given_up_and_holds_up_nobody |
//! | F5 | faults.rs | f05_a_half_open_connection_is_found_by_its_deadline_and_another_is_made |
//! | F5 | delivery.rs | a_kept_connection_that_the_peer_closed_costs_no_delivery |
//! | F6 | delivery.rs | answers_of_every_kind_are_taken_for_what_they_are |
//! | F6 | misbehave.rs | who_misbehaves_is_not_counted_and_is_told_that_it_missed_something |
//! | F7 | durability.rs | who_was_not_reached_when_the_broadcaster_was_killed_is_told |
//! | F7 | durability.rs | who_missed_an_acknowledged_notification_is_told_after_a_kill |
//! | F8 | durability.rs | fifty_kills_lose_nothing_that_was_acknowledged_and_leave_no_set_half_done |
//! | F9 | durability.rs | fifty_kills_lose_nothing_that_was_acknowledged_and_leave_no_set_half_done |
//! | F10 | bad_input.rs | a_message_without_room_on_disk_is_refused_before_it_comes_and_others_are_not |
//! | F11 | faults.rs | f11_a_full_disk_is_a_503_and_never_a_200_and_all_is_well_when_there_is_room_again |
//! | F11 | faults.rs | f11_what_cannot_be_made_durable_is_not_acknowledged |
//! | F12 | durability.rs | a_locked_database_is_a_503_and_the_same_request_is_good_afterwards |
//! | F15 | bad_input.rs | a_clock_that_is_off_is_told_ours_and_costs_no_subscription |
//! | F20 | faults.rs | f20_a_subscriber_that_is_killed_and_started_again_has_its_subscriptions_once |
//! | F21 | faults.rs | f21_who_took_over_a_port_gets_no_more_than_a_few_requests_and_ends_no_subscription |
//! | F22 | serving.rs | sigterm_finishes_what_is_under_way_and_takes_nothing_new |
//! | F23 | overload.rs | f23_more_connections_than_there_are_file_descriptors_stop_no_work_that_was_begun |
//! | F24 | overload.rs | f24_what_would_be_too_much_is_answered_503_at_once_and_may_be_sent_again_as_it_is |
//! | F25 | delivery.rs | a_recovery_url_that_hangs_delays_no_other_notice |
//! | F25 | failures.rs | f25_recovery_urls_that_drip_are_given_up_and_delay_no_other_notice |

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use httppubsub_e2e::{
    Act, Asked, Deaf, Fault, Home, PATIENCE, Process, Proxy, Random, Server, Subscriber, exact,
    hex, httppubsub,
};
use httppubsub_net::Clock;
use httppubsub_proto::auth::{Claim, Secrets};
use httppubsub_proto::paths::RECEIVE;
use httppubsub_proto::stateless::{ConfirmReceive, ReceiveAnswer, ReceiveHead};
use httppubsub_proto::topic::Topic;

const MESSAGE: &[u8] = b"a message";

/// Long enough for what happens at once to have happened.
const A_MOMENT: Duration = Duration::from_millis(300);

#[test]
fn the_table_above_names_every_failure_and_tests_that_exist() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let own = std::fs::read_to_string(folder.join("failures.rs")).unwrap();
    let mut named = BTreeSet::new();
    for row in own.lines().filter_map(|line| line.strip_prefix("//! | F")) {
        let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
        let [failure, file, test] = cells[..] else {
            panic!("not a row: {row}")
        };
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let is_there = text.contains(&format!("\n#[test]\nfn {test}() {{"));
        assert!(is_there, "F{failure}: there is no test {test} in {file}");
        named.insert(failure.parse::<u32>().unwrap());
    }
    let wanted: BTreeSet<_> = (1..=12).chain([15]).chain(20..=25).collect();
    assert_eq!(named, wanted);
}

#[test]
fn the_table_of_guarantees_names_tests_that_exist() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let page = tests.join("../../../docs/guarantees.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut texts = String::new();
    for folder in [tests.clone(), tests.join("outside")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "rs") {
                texts.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| ")).collect();
    let promises = rows.iter().filter(|row| **row != "| promise | test |");
    let mut count = 0;
    for row in promises {
        let test = row.trim_end_matches("` |").rsplit('`').next().unwrap();
        let is_there = texts.contains(&format!("\n#[test]\nfn {test}() {{"))
            || texts.contains(&format!("async fn {test}() {{"));
        assert!(is_there, "there is no test {test:?}: {row}");
        count += 1;
    }
    assert!(count >= 20, "{count} promises");
}

/// F25: each byte comes in time, and the end never does.
#[test]
fn f25_recovery_urls_that_drip_are_given_up_and_delay_no_other_notice() {
    let home = Home::new();
    let server = home.serve(&["--answer-timeout", "1"]);
    let down = Deaf::closed();
    let drip = || {
        let head = [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(1_000)].concat();
        vec![Act::Drip(head, Duration::from_millis(50))]
    };
    // More at one peer than it may have at once, and as many peers.
    let one = Subscriber::start(home.signer());
    let many: Vec<_> = (0..20).map(|_| Subscriber::start(home.signer())).collect();
    let urls_of_one = (0..20).map(|index| (one.clone(), one.recovery(&format!("/{index}"))));
    let urls_of_many = many.iter().map(|it| (it.clone(), it.recovery("/")));
    let dripping: Vec<_> = urls_of_one.chain(urls_of_many).collect();
    for (index, (subscriber, recover)) in dripping.iter().enumerate() {
        subscriber.on(recover, move |_| drip());
        let receive = down.url(&format!("/{index}"));
        server.door.subscribe(&receive, exact("bad"), Some(recover));
    }
    assert_eq!(server.door.notify("bad", MESSAGE), 0);
    // Whatever is due later comes, again and again, while they drip.
    for round in 0..2 {
        let told = Subscriber::start(home.signer());
        let topic = format!("good/{round}");
        for index in 0..10 {
            let path = format!("/{round}/{index}");
            let recover = told.recovery(&path);
            server
                .door
                .subscribe(&down.url(&path), exact(&topic), Some(&recover));
        }
        assert_eq!(server.door.notify(&topic, MESSAGE), 0);
        for index in 0..10 {
            let recover = told.recovery(&format!("/{round}/{index}"));
            assert!(told.await_deliveries(&recover, 1)[0].is_genuine);
        }
    }
    // They were given up, for they are tried again.
    for (subscriber, recover) in &dripping {
        subscriber.await_deliveries(recover, 2);
    }
    assert_eq!(server.door.get("/healthz").status, 200);
    let owed = home.rows().into_iter().filter(|it| it.is_owed_a_notice);
    assert_eq!(owed.count(), dripping.len(), "a drip confirms nothing");
}

/// A subscriber that misbehaves so, and what the test posts to it as its broadcaster would.
struct Misbehaving {
    home: Home,
    process: Process,
    url: String,
    address: SocketAddr,
    /// It asks there for its subscription.
    _server: Server,
}

impl Misbehaving {
    fn start(list: &str) -> Self {
        let home = Home::new();
        let server = home.serve(&["--db", "memory"]);
        let mut command = httppubsub();
        command
            .args(["listen", "--json", "--exact", "t", "--misbehave", list])
            .arg("--broadcaster")
            .arg(format!("http://{}", server.door.address))
            .arg("--secrets")
            .arg(home.path().join("secrets.json"));
        let process = Process::spawn(format!("the subscriber that does {list}"), command);
        let listening = process.event("listening");
        let url = listening["receive_url"].as_str().unwrap().to_owned();
        let address = url.strip_prefix("http://").unwrap();
        let address = address.strip_suffix(RECEIVE).unwrap().parse().unwrap();
        Self {
            home,
            process,
            url,
            address,
            _server: server,
        }
    }

    /// A delivery and its head.
    fn delivery(&self, message: &[u8]) -> (Asked, ReceiveHead) {
        let topic = Topic::new("t").unwrap();
        let signer = self.home.signer();
        let mut asked = signer.receive_for_websockets(&self.url, &topic, message);
        asked.path = RECEIVE.to_owned();
        let (head, _) = ReceiveHead::decode(&asked.body).unwrap();
        (asked, head)
    }

    /// A connection over which this was sent, as far as it was taken.
    fn post(&self, asked: &Asked) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = asked.head(&self.address.to_string(), asked.body.len() as u64);
        stream.write_all(&head).unwrap();
        stream.write_all(&asked.body).unwrap();
        stream
    }

    /// What is answered to a delivery, which must be told to have been misbehaved upon.
    #[track_caller]
    fn answer(&self, how: &str) -> (Answer, ReceiveHead) {
        let (asked, head) = self.delivery(MESSAGE);
        let answer = Answer::read(&mut self.post(&asked));
        self.tells(how, &head);
        (answer, head)
    }

    /// It says which delivery it misbehaved upon.
    #[track_caller]
    fn tells(&self, how: &str, head: &ReceiveHead) {
        let mut told = self.process.json();
        // An earlier one may have been taken, and told late.
        while told["event"] == "message" {
            told = self.process.json();
        }
        assert_eq!(told["event"], "misbehaved");
        assert_eq!(told["how"], how);
        assert_eq!(told["topic"], "t");
        assert_eq!(told["identifier"], hex(head.identifier.as_bytes()));
    }

    /// What it says to the end, asked to leave; misbehaviours are not the end of it.
    #[track_caller]
    fn events_left(&mut self) -> Vec<String> {
        self.process.terminate();
        let events = self.process.end_well();
        let name = |line: String| {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            event["event"].as_str().unwrap().to_owned()
        };
        events.into_iter().map(name).collect()
    }

    /// Whether it has signed this confirmation.
    fn has_signed(&self, confirm: &ConfirmReceive) -> bool {
        let secrets = std::fs::read_to_string(self.home.path().join("secrets.json")).unwrap();
        let secrets = Secrets::parse(&secrets).unwrap();
        let claim = Claim::ConfirmReceive {
            identifier: &confirm.identifier,
            subscribers: confirm.subscribers,
            url: &self.url,
        };
        let value = confirm.authorization.as_deref().map(str::as_bytes);
        let now = Clock::system().now();
        let authorization = secrets.to_broadcaster.authorization();
        authorization
            .verify(&claim, &confirm.tracing, value, now)
            .is_ok()
    }
}

/// An answer, and whether it is whole.
struct Answer {
    head: String,
    body: Vec<u8>,
    announced: usize,
}

impl Answer {
    /// Up to the end of the body or of the connection.
    #[track_caller]
    fn read(stream: &mut TcpStream) -> Self {
        let head = read_head(stream);
        let length = head
            .lines()
            .find_map(|it| it.strip_prefix("content-length: "));
        let announced = length.unwrap().parse().unwrap();
        let mut body = Vec::new();
        let read = stream.take(announced as u64).read_to_end(&mut body);
        read.unwrap();
        Self {
            head,
            body,
            announced,
        }
    }

    fn is_whole(&self) -> bool {
        self.body.len() == self.announced
    }

    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    #[track_caller]
    fn confirmation(&self) -> ConfirmReceive {
        match ReceiveAnswer::decode(&self.body) {
            Ok(ReceiveAnswer::Confirm(confirm)) => confirm,
            other => panic!("{other:?}"),
        }
    }
}

/// The lines before a body, names in lower case.
#[track_caller]
fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

/// Whether nothing comes for a moment, and the connection stays.
#[track_caller]
fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(A_MOMENT)).unwrap();
    let read = stream.read(&mut [0]);
    read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn slow_takes_the_message_and_confirms_it_later() {
    let mut slow = Misbehaving::start("slow=0.2");
    let began = Instant::now();
    let (answer, head) = slow.answer("slow");
    assert!(began.elapsed() >= Duration::from_millis(200));
    let confirm = answer.confirmation();
    assert_eq!(confirm.identifier, head.identifier);
    assert!(answer.is_whole() && slow.has_signed(&confirm));
    assert_eq!(slow.events_left(), ["message"]);
}

#[test]
fn hang_takes_all_of_it_and_says_nothing() {
    let mut hanging = Misbehaving::start("hang");
    // More than fits between the two.
    let (asked, head) = hanging.delivery(&[b'm'; 20_000_000]);
    let mut stream = hanging.post(&asked);
    hanging.tells("hang", &head);
    assert!(is_silent(&mut stream));
    drop(stream);
    assert_eq!(hanging.events_left(), [""; 0], "nothing was taken");
}

#[test]
fn no_read_takes_nothing() {
    let mut deaf = Misbehaving::start("no-read");
    let (asked, _) = deaf.delivery(&[b'm'; 20_000_000]);
    let mut stream = TcpStream::connect(deaf.address).unwrap();
    stream.set_write_timeout(Some(A_MOMENT)).unwrap();
    let head = asked.head("h", asked.body.len() as u64);
    stream.write_all(&head).unwrap();
    let stuck = stream.write_all(&asked.body).unwrap_err();
    assert_eq!(stuck.kind(), io::ErrorKind::WouldBlock);
    assert!(is_silent(&mut stream));
    let told = deaf.process.event("misbehaved");
    assert_eq!(told["how"], "no-read");
    assert!(told["identifier"].is_null(), "it was not read");
    drop(stream);
    assert_eq!(deaf.events_left(), [""; 0], "nothing was taken");
}

#[test]
fn drip_answers_byte_by_byte() {
    let dripping = Misbehaving::start("drip");
    let (asked, head) = dripping.delivery(MESSAGE);
    let mut stream = dripping.post(&asked);
    dripping.tells("drip", &head);
    assert!(read_head(&mut stream).starts_with("http/1.1 200 "));
    for _ in 0..2 {
        let began = Instant::now();
        assert_eq!(stream.read(&mut [0; 100]).unwrap(), 1);
        // What came a little late makes the next wait a little shorter.
        assert!(began.elapsed() > Duration::from_millis(100));
    }
}

#[test]
fn truncate_announces_more_than_it_sends_and_closes() {
    let (answer, head) = Misbehaving::start("truncate").answer("truncate");
    assert_eq!(answer.status(), "200");
    assert!(!answer.body.is_empty() && !answer.is_whole());
    let confirm = ConfirmReceive {
        authorization: None,
        tracing: Default::default(),
        identifier: head.identifier,
        subscribers: 1,
    };
    assert_eq!(answer.body[..2], confirm.encode()[..2], "it begins well");
}

#[test]
fn garbage_makes_no_sense() {
    let mut senseless = Misbehaving::start("garbage");
    let (answer, _) = senseless.answer("garbage");
    assert_eq!(answer.status(), "200");
    assert!(answer.is_whole() && ReceiveAnswer::decode(&answer.body).is_err());
    assert_eq!(senseless.events_left(), [""; 0], "nothing was taken");
}

#[test]
fn status_and_redirect_are_answers_with_nothing_in_them() {
    let mut refusing = Misbehaving::start("status=418");
    let (answer, _) = refusing.answer("status");
    assert_eq!((answer.status(), answer.announced), ("418", 0));
    assert_eq!(refusing.events_left(), [""; 0], "nothing was taken");
    let mut redirecting = Misbehaving::start("redirect=http://127.0.0.1:9/x");
    let (answer, _) = redirecting.answer("redirect");
    assert_eq!((answer.status(), answer.announced), ("307", 0));
    assert!(answer.head.contains("location: http://127.0.0.1:9/x\r\n"));
    assert_eq!(redirecting.events_left(), [""; 0], "nothing was taken");
}

#[test]
fn wrong_id_confirms_another_delivery_as_if_it_were_this_one() {
    let wrong = Misbehaving::start("wrong-id");
    let (first, first_head) = wrong.answer("wrong-id");
    assert_ne!(first.confirmation().identifier, first_head.identifier);
    // From the second on, it confirms what it did not confirm before, and has signed it.
    let (second, _) = wrong.answer("wrong-id");
    assert_eq!((second.status(), second.is_whole()), ("200", true));
    let confirm = second.confirmation();
    assert_eq!(confirm.identifier, first_head.identifier);
    assert!(wrong.has_signed(&confirm));
}

#[test]
fn reset_ends_the_connection_in_the_middle() {
    let mut resetting = Misbehaving::start("reset");
    let (asked, head) = resetting.delivery(MESSAGE);
    let mut stream = resetting.post(&asked);
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    resetting.tells("reset", &head);
    assert_eq!(resetting.events_left(), [""; 0], "nothing was taken");
}

#[test]
fn a_list_that_makes_no_sense_is_wrong_usage_and_says_what_would() {
    for (flags, why) in [
        (
            &["--misbehave", "sulk"][..],
            "\"sulk\" is none of slow=SECONDS",
        ),
        (&["--misbehave", "hang,drip"], "sum up to 2"),
        (&["--misbehave-seed", "1"], "--misbehave <LIST>"),
        (&["--misbehave", "hang@often"], "is between 0 and 1"),
        (&["--misbehave", "hang@2"], "is between 0 and 1"),
        (&["--misbehave", "slow=soon"], "a number of seconds"),
        (&["--misbehave", "status=99"], "from 200 to 599"),
        (&["--misbehave", "redirect="], "no url"),
        (&["--misbehave", "hang", "--ws"], "cannot be used with"),
    ] {
        let mut command = httppubsub();
        command.args(["listen", "--exact", "t"]).args(flags);
        let mut process = Process::spawn("listen", command);
        let (status, _) = process.end();
        assert_eq!(status.code(), Some(2), "{flags:?}");
        assert!(process.log().contains(why), "{}", process.log());
    }
    // As without it: which of all addresses others reach is not known.
    let mut command = httppubsub();
    command.args(["listen", "--exact", "t", "--misbehave", "hang"]);
    command.args(["--bind", "0.0.0.0:0"]);
    let mut process = Process::spawn("listen", command);
    assert_eq!(process.end().0.code(), Some(2));
    assert!(process.log().contains("--host URL"), "{}", process.log());
}

/// Says back what it is told, until its peer ends.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

/// Sends so many bytes through the proxy and says what comes back, and how that ends.
fn through(proxy: &Proxy, bytes: usize) -> (Vec<u8>, io::Result<()>, TcpStream) {
    let mut stream = TcpStream::connect(proxy.address).unwrap();
    stream.set_read_timeout(Some(A_MOMENT)).unwrap();
    let sent = Random::new(1).bytes(bytes);
    let mut reading = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            // A fault may stop it.
            let _ = stream.write_all(&sent);
        });
        let (mut back, mut part) = (Vec::new(), [0; 4096]);
        let ended = loop {
            match reading.read(&mut part) {
                Ok(0) => break Ok(()),
                Ok(read) => back.extend_from_slice(&part[..read]),
                Err(error) => break Err(error),
            }
            if back.len() == bytes {
                break Ok(());
            }
        };
        assert_eq!(back[..], sent[..back.len()], "what passes is not changed");
        (back, ended, reading)
    })
}

#[test]
fn the_proxy_does_to_connections_what_it_says() {
    let proxy = Proxy::start(echo());
    let kind = |ended: io::Result<()>| ended.err().map(|error| error.kind());
    let silent = Some(io::ErrorKind::WouldBlock);
    let reset = Some(io::ErrorKind::ConnectionReset);

    assert_eq!(through(&proxy, 1_000_000).0.len(), 1_000_000);
    proxy.set(Fault::Split);
    assert_eq!(through(&proxy, 2_000).0.len(), 2_000);
    for fault in [Fault::Delay(Duration::from_millis(50)), Fault::Rate(20_000)] {
        proxy.set(fault.clone());
        let began = Instant::now();
        assert_eq!(through(&proxy, 1_000).0.len(), 1_000, "{fault:?}");
        assert!(began.elapsed() >= Duration::from_millis(99), "{fault:?}");
    }
    // What passes in one direction comes back in the other.
    proxy.set(Fault::FreezeAfter(100));
    let (back, ended, mut stays) = through(&proxy, 1_000);
    assert_eq!((back.len(), kind(ended)), (100, silent));
    assert!(is_silent(&mut stays));
    proxy.set(Fault::HalfCloseAfter(100));
    let (back, ended, _) = through(&proxy, 100);
    assert_eq!((back.len(), kind(ended)), (100, None));
    proxy.set(Fault::ResetAfter(100));
    let (back, ended, _) = through(&proxy, 1_000);
    assert!(back.len() <= 100);
    assert_eq!(kind(ended), reset);
    proxy.set(Fault::CloseAfter(100));
    let (back, ended, _) = through(&proxy, 1_000);
    assert!(back.len() <= 100 && kind(ended) != silent);

    // It is switched while it runs, also for the connections there are.
    assert_eq!(proxy.connections(), 8);
    proxy.cut();
    assert_eq!(proxy.connections(), 0);
    assert_eq!(
        stays.read(&mut [0]).unwrap(),
        0,
        "also who is frozen is cut"
    );
    proxy.set(Fault::None);
    let (mut first, mut second) = (through(&proxy, 10).2, through(&proxy, 10).2);
    assert_eq!(proxy.connections(), 2);
    proxy.freeze();
    first.write_all(b"into the void").unwrap();
    assert!(is_silent(&mut first) && is_silent(&mut second));
    let third = through(&proxy, 10).2;
    proxy.cut();
    for mut ended in [second, third] {
        assert_eq!(ended.read(&mut [0]).unwrap(), 0);
    }
    let mut last = through(&proxy, 10).2;
    last.shutdown(Shutdown::Write).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap(), 0, "an end is passed on");
    let address = proxy.address;
    drop(proxy);
    httppubsub_e2e::eventually("it is gone", || {
        TcpStream::connect(address).is_err().then_some(())
    });
}

#[test]
fn faults_are_drawn_by_a_seed_and_all_are_drawn() {
    let drawn = |seed| {
        let mut random = Random::new(seed);
        (0..200)
            .map(|_| Fault::draw(&mut random))
            .collect::<Vec<_>>()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    let name = |fault: &Fault| format!("{fault:?}").split('(').next().unwrap().to_owned();
    let kinds: BTreeSet<_> = drawn(1).iter().map(name).collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
}
