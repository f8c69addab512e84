//! What became of every subscription that matched, under faults of all kinds, counted from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use httppubsub_e2e::{
    Act, Deaf, Door, Home, Metrics, Process, Proxy, Random, Subscriber, eventually, exact,
    http_answer, httppubsub, seeded_runs,
};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::stateless::UNSUBSCRIBE_IMMEDIATE;

/// How a subscriber answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Confirms,
    /// As it likes.
    Fickle,
    Fails,
    NotFound,
    Redirects,
    Garbage,
    WrongIdentifier,
    Truncates,
    Drips,
    Hangs,
    Closes,
    Unsubscribes,
    /// Nobody listens.
    Down,
}

const KINDS: [Kind; 13] = [
    Kind::Confirms,
    Kind::Fickle,
    Kind::Fails,
    Kind::NotFound,
    Kind::Redirects,
    Kind::Garbage,
    Kind::WrongIdentifier,
    Kind::Truncates,
    Kind::Drips,
    Kind::Hangs,
    Kind::Closes,
    Kind::Unsubscribes,
    Kind::Down,
];

/// What the oracle counted.
#[derive(Debug, Default)]
struct Sent {
    /// How often each message was confirmed.
    confirmations: Mutex<BTreeMap<Vec<u8>, u64>>,
    unsubscribes: AtomicU64,
}

impl Sent {
    fn confirmations_of(&self, message: &[u8]) -> u64 {
        let confirmations = self.confirmations.lock().unwrap();
        confirmations.get(message).copied().unwrap_or(0)
    }

    fn confirmations(&self) -> usize {
        self.confirmations.lock().unwrap().len()
    }
}

/// A subscription and all that was said to the broadcaster in its name.
struct Subscribed {
    kind: Kind,
    topic: usize,
    url: String,
    recovery: Option<String>,
    /// What it says may be lost on its way.
    is_behind_a_proxy: bool,
    sent: Arc<Sent>,
}

const TOPICS: usize = 3;
const SUBSCRIBERS: usize = 24;
const NOTIFICATIONS: usize = 6;
/// Subscribers that are processes of their own, each of a topic of its own.
const PROGRAMS: usize = 2;

/// The message that is sent to `topic` as the one of that number.
fn message(topic: usize, number: usize) -> Vec<u8> {
    format!("{topic}, {number}").into_bytes()
}

/// One run, all of which depends on the seed but for the order in which things happen.
fn run(seed: u64) {
    let mut random = Random::new(seed);
    let home = Home::with(&Secrets::NONE);
    let (server, metrics) = Metrics::serve(&home, &["--answer-timeout", "2", "--log", "error"]);
    let told = Subscriber::start(home.signer());
    let mut proxies = Vec::new();
    let mut nobody = Vec::new();
    let mut all = Vec::new();
    for number in 0..SUBSCRIBERS {
        let kind = *random.pick(&KINDS);
        let path = format!("/{number}");
        let recovery = (random.below(3) > 0).then(|| told.recovery(&path));
        let sent = Arc::new(Sent::default());
        let is_behind_a_proxy = kind != Kind::Down && random.below(2) == 0;
        let url = if kind == Kind::Down {
            let down = Deaf::closed();
            let url = down.url(&path);
            nobody.push(down);
            url
        } else {
            let subscriber = Subscriber::start(home.signer());
            let own = subscriber.url(&path);
            answer(&subscriber, &own, kind, random.next_u64(), &sent);
            if is_behind_a_proxy {
                let faults = Random::new(random.next_u64());
                let proxy = Proxy::seeded(subscriber.address(), faults);
                let url = proxy.url(&path);
                proxies.push(proxy);
                url
            } else {
                own
            }
        };
        let topic = random.below(TOPICS);
        let interest = exact(&format!("topic/{topic}"));
        server.door.subscribe(&url, interest, recovery.as_deref());
        all.push(Subscribed {
            kind,
            topic,
            url,
            recovery,
            is_behind_a_proxy,
            sent,
        });
    }
    let what = format!("seed {seed}");
    let (reached, reached_programs) = thread::scope(|scope| {
        let programs = (0..PROGRAMS).map(|number| {
            let (home, door, what) = (&home, &server.door, &what);
            // What each draws does not depend on which is first.
            let mut random = Random::new(random.next_u64());
            scope.spawn(move || {
                let mut program = Program::start(home, door, seed, number, &mut random);
                program.is_notified_and_killed(home, door, &mut random, what);
                program.reached
            })
        });
        let programs: Vec<_> = programs.collect();
        let reached = notify_all(&server.door);
        let reached_programs = programs.into_iter().map(|it| it.join().unwrap());
        (reached, reached_programs.sum())
    });
    check(&home, &metrics, &all, &reached, reached_programs, &what);
    // Nobody with a recovery url is left out: who did not get everything is told.
    let is_certain =
        |it: &&Subscribed| it.kind != Kind::Unsubscribes && it.sent.confirmations() < NOTIFICATIONS;
    for it in all.iter().filter(is_certain) {
        if let Some(recovery) = &it.recovery {
            assert!(told.await_deliveries(recovery, 1)[0].is_missed(), "{what}");
        }
    }
    eventually("every notice is settled", || {
        (home.rows().iter().all(|row| !row.is_owed_a_notice)).then_some(())
    });
}

/// From now on, what is posted to `url` is answered so, and counted.
fn answer(subscriber: &Subscriber, url: &str, kind: Kind, seed: u64, sent: &Arc<Sent>) {
    let (own, sent) = (subscriber.clone(), sent.clone());
    let random = Mutex::new(Random::new(seed));
    subscriber.on(url, move |delivery| {
        let confirm = own.confirms(delivery, 1);
        let mut kind = kind;
        while kind == Kind::Fickle || kind == Kind::Down {
            kind = match random.lock().unwrap().below(2) {
                0 => Kind::Confirms,
                _ => *random.lock().unwrap().pick(&KINDS[..11]),
            };
        }
        let say = |answer: Vec<u8>| vec![Act::Say(answer)];
        match kind {
            Kind::Confirms | Kind::Fickle | Kind::Down => {
                let mut confirmations = sent.confirmations.lock().unwrap();
                *confirmations.entry(delivery.message()).or_default() += 1;
                say(confirm)
            }
            Kind::Fails => say(http_answer(503, "", b"")),
            Kind::NotFound => say(http_answer(404, "", b"no such page")),
            Kind::Redirects => say(http_answer(307, "Location: http://127.0.0.1:9/\r\n", b"")),
            Kind::Garbage => say(b"\0\x01\x02 this is no HTTP\r\n\r\n".to_vec()),
            Kind::WrongIdentifier => {
                let mut wrong = confirm;
                // The identifier is followed by the count of 4 bytes.
                let at = wrong.len() - 5;
                wrong[at] ^= 1;
                say(wrong)
            }
            Kind::Truncates => {
                let cut = confirm.len() - 3;
                vec![Act::Say(confirm[..cut].to_vec()), Act::Close]
            }
            // It takes longer than the broadcaster waits.
            Kind::Drips => vec![Act::Drip(confirm, Duration::from_millis(100)), Act::Close],
            Kind::Hangs => vec![Act::Hang],
            Kind::Closes => vec![Act::Close],
            Kind::Unsubscribes => {
                sent.unsubscribes.fetch_add(1, Ordering::SeqCst);
                say(http_answer(200, "", &UNSUBSCRIBE_IMMEDIATE))
            }
        }
    });
}

/// How many confirmed each notification of a topic.
type Reached = [u64; NOTIFICATIONS];

/// Notifies all topics side by side, each several times; says how many confirmed what was sent to
/// each.
fn notify_all(door: &Door) -> [Reached; TOPICS] {
    let mut reached = [[0; NOTIFICATIONS]; TOPICS];
    thread::scope(|scope| {
        for (topic, reached) in reached.iter_mut().enumerate() {
            scope.spawn(move || {
                for (number, reached) in reached.iter_mut().enumerate() {
                    // It is accepted, whatever its subscribers do.
                    let name = format!("topic/{topic}");
                    *reached = u64::from(door.notify(&name, &message(topic, number)));
                }
            });
        }
    });
    reached
}

/// `httppubsub listen --misbehave`, which is killed in the middle and started again.
struct Program {
    process: Process,
    topic: String,
    /// Where it listens, and will again.
    bind: String,
    reached: u64,
    /// What it says it did to deliveries, by their identifiers. It does not know those of which it
    /// read nothing, which are told apart by a number.
    spoilt: BTreeMap<String, Vec<String>>,
}

/// What programs do to deliveries.
const LISTS: &[&str] = &[
    "slow=0.1@0.1,hang@0.05,drip@0.05,truncate@0.1,garbage@0.1,status=503@0.1,\
     redirect=http://127.0.0.1:9/@0.1,wrong-id@0.1,no-read@0.05,reset@0.1",
    "slow=0.1@0.2,truncate@0.2,wrong-id@0.2",
    "reset@0.3,status=404@0.2",
    "no-read@0.1,hang@0.1,drip@0.1",
    "garbage@0",
];

impl Program {
    fn start(home: &Home, door: &Door, seed: u64, number: usize, random: &mut Random) -> Self {
        let topic = format!("program/{number}");
        // Nobody else listens there, so that its port is still free when it is started again.
        let [.., high, low] = seed.to_be_bytes();
        let own = u8::try_from(number + 1).unwrap();
        let address = Ipv4Addr::new(127, 100 + own, high, low);
        let (process, bind) = start_program(home, door, &topic, &format!("{address}:0"), random);
        Self {
            process,
            topic,
            bind,
            reached: 0,
            spoilt: BTreeMap::new(),
        }
    }

    /// It gets its notifications one after the other.
    fn is_notified_and_killed(
        &mut self,
        home: &Home,
        door: &Door,
        random: &mut Random,
        what: &str,
    ) {
        let killed_at = random.below(NOTIFICATIONS - 2);
        for number in 0..NOTIFICATIONS {
            let text = format!("{what}, {number}");
            if number == killed_at {
                // Whether it had the message nobody knows, and the broadcaster says what it saw.
                let (topic, text) = (self.topic.clone(), text.clone());
                let reached = thread::scope(|scope| {
                    let notifying = scope.spawn(|| door.notify(&topic, text.as_bytes()));
                    self.process.kill();
                    notifying.join().unwrap()
                });
                self.reached += u64::from(reached);
                let (_, rest) = self.process.end();
                for line in rest {
                    self.heard(&serde_json::from_str(&line).unwrap());
                }
                continue;
            }
            let reached = door.notify(&self.topic, text.as_bytes());
            self.reached += u64::from(reached);
            if number == killed_at + 1 {
                assert_eq!(reached, 0, "{what}: it is dead");
                let started = start_program(home, door, &self.topic, &self.bind, random);
                self.process = started.0;
                // What it got while it was dead, it is told that it missed.
                self.await_event(|event| event["event"] == "missed");
            } else if reached > 0 {
                assert_eq!(reached, 1, "{what}");
                self.await_event(|event| event["event"] == "message" && event["body"] == text);
            }
        }
        self.process.terminate();
        for line in self.process.end_well() {
            self.heard(&serde_json::from_str(&line).unwrap());
        }
        // Nobody confirmed for it what it spoilt, but for what it reset before it said anything:
        // that is sent once again, if it was sent over a connection that was kept from before.
        for (identifier, hows) in &self.spoilt {
            let is_sent_again = hows.len() == 2 && hows[0] == "reset";
            assert!(
                hows.len() == 1 || is_sent_again,
                "{what}: {identifier} was sent too often: {hows:?}"
            );
        }
        let is_lost = |hows: &&Vec<String>| hows.last().unwrap() != "reset" || hows.len() == 2;
        let lost = self.spoilt.values().filter(is_lost).count() as u64;
        let all = NOTIFICATIONS as u64;
        assert!(
            self.reached + lost <= all,
            "{what}: {} reached it, it spoilt {:?}",
            self.reached,
            self.spoilt
        );
    }

    fn heard(&mut self, event: &serde_json::Value) {
        if event["event"] != "misbehaved" || event["how"] == "slow" {
            return;
        }
        let identifier = match event["identifier"].as_str() {
            Some(identifier) => identifier.to_owned(),
            None => format!("unread {}", self.spoilt.len()),
        };
        let how = event["how"].as_str().unwrap().to_owned();
        self.spoilt.entry(identifier).or_default().push(how);
    }

    #[track_caller]
    fn await_event(&mut self, is_it: impl Fn(&serde_json::Value) -> bool) {
        loop {
            let event = self.process.json();
            self.heard(&event);
            if is_it(&event) {
                return;
            }
        }
    }
}

/// A program that listens, and where it does.
fn start_program(
    home: &Home,
    door: &Door,
    topic: &str,
    bind: &str,
    random: &mut Random,
) -> (Process, String) {
    let list: &str = random.pick::<&str>(LISTS);
    let mut command = httppubsub();
    command
        .args(["listen", "--json", "--exact", topic, "--bind", bind])
        .args(["--misbehave", list])
        .args(["--misbehave-seed", &random.next_u64().to_string()])
        .arg("--broadcaster")
        .arg(format!("http://{}", door.address))
        .arg("--secrets")
        .arg(home.path().join("secrets.json"));
    let process = Process::spawn(format!("the program at {bind}"), command);
    let url = process.event("listening")["receive_url"].clone();
    let address = url.as_str().unwrap().strip_prefix("http://").unwrap();
    let address = address.split('/').next().unwrap().to_owned();
    (process, address)
}

/// `reached` is what publishers were told of subscribers, and `reached_programs` of programs.
fn check(
    home: &Home,
    metrics: &Metrics,
    all: &[Subscribed],
    reached: &[Reached; TOPICS],
    reached_programs: u64,
    what: &str,
) {
    let outcomes = [
        "confirmed",
        "unsubscribed",
        "missed",
        "dropped",
        "unrecorded",
    ];
    let [confirmed, unsubscribed, missed, dropped, unrecorded] =
        outcomes.map(|it| metrics.deliveries(it));
    let matched = metrics.matched();
    let sum = confirmed + unsubscribed + missed + dropped + unrecorded;
    assert_eq!(matched, sum, "{what}");
    assert_eq!(unrecorded, 0, "{what}");
    let reached_subscribers: u64 = reached.iter().flatten().sum();
    assert_eq!(confirmed, reached_subscribers + reached_programs, "{what}");
    // The oracle's own account: a row is matched by each notification until it is removed.
    let rows = home.rows();
    let is_kept = |it: &Subscribed| rows.iter().any(|row| row.url == it.url);
    let removed = all.iter().filter(|it| !is_kept(it)).count() as u64;
    assert_eq!(unsubscribed, removed, "{what}");
    let always = all.len() as u64 - removed + PROGRAMS as u64;
    let (least, most) = (always * NOTIFICATIONS as u64, all.len() + PROGRAMS);
    assert!(
        matched >= least + removed && matched <= (most * NOTIFICATIONS) as u64,
        "{what}"
    );
    for (topic, reached) in reached.iter().enumerate() {
        for (number, reached) in reached.iter().enumerate() {
            let message = message(topic, number);
            let (mut direct, mut any) = (0, 0);
            for it in all.iter().filter(|it| it.topic == topic) {
                let sent = it.sent.confirmations_of(&message);
                // What was cut off before any answer may have been sent again.
                let most = 1 + u64::from(it.is_behind_a_proxy);
                assert!(sent <= most, "{what}: a message was confirmed {sent} times");
                let sent = sent.min(1);
                any += sent;
                direct += sent * u64::from(!it.is_behind_a_proxy);
            }
            assert!(
                (direct..=any).contains(reached),
                "{what}: {reached} counted, {direct} to {any} were sent"
            );
        }
    }
    for it in all.iter().filter(|it| !is_kept(it)) {
        assert!(it.sent.unsubscribes.load(Ordering::SeqCst) > 0, "{what}");
    }
    let owed = rows.iter().filter(|row| row.is_owed_a_notice).count();
    assert!(owed as u64 <= missed, "{what}");
}

#[test]
fn under_random_faults_every_subscription_that_matched_is_accounted_for() {
    seeded_runs(4, 8, run);
}
