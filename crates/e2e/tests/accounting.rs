//! What became of every subscription that matched, under faults of all kinds, counted from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use httppubsub_e2e::{
    Act, Deaf, Home, Metrics, Proxy, Random, Server, Subscriber, eventually, exact, http_answer,
};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::http::UNSUBSCRIBE_IMMEDIATE;

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
    confirmations: AtomicU64,
    unsubscribes: AtomicU64,
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
    let reached = notify_all(&server, &what);
    check(&home, &metrics, &all, reached, &what);
    // Nobody with a recovery url is left out: who did not get everything is told.
    let is_certain = |it: &&Subscribed| {
        it.kind != Kind::Unsubscribes
            && (it.sent.confirmations.load(Ordering::SeqCst) as usize) < NOTIFICATIONS
    };
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
    let random = std::sync::Mutex::new(Random::new(seed));
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
                sent.confirmations.fetch_add(1, Ordering::SeqCst);
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

/// Notifies all topics side by side, each several times; says how many confirmed what was sent to
/// each.
fn notify_all(server: &Server, what: &str) -> [u64; TOPICS] {
    let mut reached = [0; TOPICS];
    thread::scope(|scope| {
        for (topic, reached) in reached.iter_mut().enumerate() {
            let door = &server.door;
            scope.spawn(move || {
                for number in 0..NOTIFICATIONS {
                    // It is accepted, whatever its subscribers do.
                    let message = format!("{what}, {topic}, {number}");
                    let topic = format!("topic/{topic}");
                    *reached += u64::from(door.notify(&topic, message.as_bytes()));
                }
            });
        }
    });
    reached
}

fn check(home: &Home, metrics: &Metrics, all: &[Subscribed], reached: [u64; TOPICS], what: &str) {
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
    assert_eq!(confirmed, reached.iter().sum::<u64>(), "{what}");
    // The oracle's own account: a row is matched by each notification until it is removed.
    let rows = home.rows();
    let is_kept = |it: &Subscribed| rows.iter().any(|row| row.url == it.url);
    let removed = all.iter().filter(|it| !is_kept(it)).count() as u64;
    assert_eq!(unsubscribed, removed, "{what}");
    let kept = all.len() as u64 - removed;
    let (least, most) = (kept * NOTIFICATIONS as u64, all.len() * NOTIFICATIONS);
    assert!(
        matched >= least + removed && matched <= most as u64,
        "{what}"
    );
    for (topic, reached) in reached.into_iter().enumerate() {
        let of_topic = || all.iter().filter(move |it| it.topic == topic);
        let sum = |of: &mut dyn Iterator<Item = &Subscribed>| -> u64 {
            of.map(|it| it.sent.confirmations.load(Ordering::SeqCst))
                .sum()
        };
        let direct = sum(&mut of_topic().filter(|it| !it.is_behind_a_proxy));
        let any = sum(&mut of_topic());
        assert!(
            (direct..=any).contains(&reached),
            "{what}: {reached} counted, {direct} to {any} were sent"
        );
    }
    for it in all.iter().filter(|it| !is_kept(it)) {
        assert!(it.sent.unsubscribes.load(Ordering::SeqCst) > 0, "{what}");
    }
    let owed = rows.iter().filter(|row| row.is_owed_a_notice).count();
    assert!(owed as u64 <= missed, "{what}");
}

/// With `HTTPPUBSUB_TEST_ROUNDS` in the environment, so many runs; with `HTTPPUBSUB_TEST_SEED`, from
/// that seed on.
#[test]
fn under_random_faults_every_subscription_that_matched_is_accounted_for() {
    let number =
        |name: &str, usual: u64| std::env::var(name).map_or(usual, |it| it.parse().unwrap());
    let first = number("HTTPPUBSUB_TEST_SEED", 1);
    let next = AtomicU64::new(first);
    let end = first + number("HTTPPUBSUB_TEST_ROUNDS", 4);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}
