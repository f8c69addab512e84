//! Numbers of deliveries: what was missed shows, and nothing shows where all came in order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use httppubsub_broadcaster::Config;
use httppubsub_client::{Bind, Client, ClientConfig, Event, Line, Message, Receiving};
use httppubsub_e2e::{
    Act, Fault, Home, InProcess, Proxy, Random, Subscriber, eventually, exact, glob, seeded_runs,
};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_proto::auth::Secrets;
use tokio::runtime::Runtime;

/// What a client told its program, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Message(Line, u64),
    Gap,
}

/// A client with one subscription to `*`, and what it was told.
struct Listening {
    told: Arc<Mutex<Vec<Told>>>,
    client: Client,
    runtime: Runtime,
}

/// Shorter than any exchange, so that what is to be told after it is told when the next arrives.
const GAP_PATIENCE: Duration = Duration::from_millis(1);

impl Listening {
    /// Reached at `host`, which leads to `listener`.
    fn start(broadcaster: String, listener: TcpListener, host: String) -> Self {
        let runtime = Runtime::new().unwrap();
        let config = ClientConfig::builder([broadcaster])
            .bind(Bind::Listener(Arc::new(listener)))
            .host(host)
            .gap_patience(Some(GAP_PATIENCE));
        let client = runtime.block_on(Client::start(config.build().unwrap()));
        let client = client.unwrap();
        let mut subscription = runtime.block_on(client.subscribe_glob("*")).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = told.clone();
        runtime.spawn(async move {
            while let Some(event) = subscription.next_event().await {
                let event = match event {
                    Event::Receiving(Receiving::First) => continue,
                    Event::Receiving(Receiving::AfterGap) => Told::Gap,
                    Event::Message(message) => number_of(&message),
                };
                telling.lock().unwrap().push(event);
            }
        });
        Self {
            told,
            client,
            runtime,
        }
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    fn close(self) {
        self.runtime.block_on(self.client.close()).unwrap();
    }
}

fn number_of(message: &Message) -> Told {
    let number = message.number.unwrap();
    Told::Message(number.line, number.number)
}

/// One run: messages one after the other through a network that fails, and a last one through one
/// that does not. The notification of number N has the number N, whatever became of it.
fn run(seed: u64) {
    let mut random = Random::new(seed);
    let mut config = Config::default();
    config.post.answer_timeout = Duration::from_millis(300);
    // No notice tells of a gap: only the numbers do.
    config.missed.constant = Duration::from_secs(3_600);
    let broadcaster = InProcess::start(config, ServeConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let faults = Random::new(random.next_u64());
    let proxy = Proxy::seeded(listener.local_addr().unwrap(), faults);
    let own = format!("http://{}", broadcaster.door.address);
    let listening = Listening::start(own, listener, proxy.url(""));
    let (notifications, has_faults) = (1 + random.below(20), random.below(4) > 0);
    if !has_faults {
        proxy.set(Fault::None);
    }
    for _ in 0..notifications {
        broadcaster.door.notify("t", b"a message");
        // Each new connection has a fault of its own.
        if has_faults && random.below(2) == 0 {
            proxy.cut();
        }
    }
    proxy.set(Fault::None);
    proxy.cut();
    let sent = Cell::new(notifications as u64);
    let one_arrives = || {
        eventually("a message arrives when nothing fails any more", || {
            sent.set(sent.get() + 1);
            (broadcaster.door.notify("t", b"one of the last") == 1).then_some(())
        });
    };
    one_arrives();
    // What is told after the patience is told by then.
    one_arrives();
    let sent = sent.get();
    let is_here = |number: u64| {
        let mut told = listening.told().into_iter();
        told.any(|it| matches!(it, Told::Message(_, of) if of == number))
    };
    eventually("it is handed out", || is_here(sent).then_some(()));
    let arrived: BTreeSet<u64> = (1..=sent).filter(|number| is_here(*number)).collect();
    for missed in (1..=sent).filter(|number| !arrived.contains(number)) {
        eventually("what was missed is told", || {
            let told = listening.told();
            let before = told
                .iter()
                .rposition(|it| matches!(it, Told::Message(_, of) if *of < missed));
            told[before.map_or(0, |at| at + 1)..]
                .contains(&Told::Gap)
                .then_some(())
        });
    }
    let told = listening.told();
    let lines: Vec<Line> = told
        .iter()
        .filter_map(|it| match it {
            Told::Message(line, _) => Some(*line),
            Told::Gap => None,
        })
        .collect();
    assert!(
        lines.iter().all(|line| *line == lines[0]),
        "one process, one line"
    );
    let in_order: Vec<_> = (1..=sent)
        .map(|number| Told::Message(lines[0], number))
        .collect();
    let messages: Vec<_> = told
        .iter()
        .filter(|it| **it != Told::Gap)
        .copied()
        .collect();
    if messages == in_order {
        assert_eq!(told, in_order, "no gap is told where all came in order");
    }
    let each_once: BTreeSet<_> = messages.iter().map(|it| format!("{it:?}")).collect();
    assert_eq!(each_once.len(), messages.len(), "{told:?}");
    assert!(has_faults || messages == in_order, "{told:?}");
    listening.close();
}

#[test]
fn under_random_faults_every_miss_shows_by_its_number_and_no_other_gap_does() {
    seeded_runs(24, 4, run);
}

#[test]
fn a_broadcaster_that_was_killed_numbers_anew_which_shows_as_a_gap() {
    let home = Home::with(&Secrets::NONE);
    let mut server = home.serve(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let address = server.door.address.to_string();
    let listening = Listening::start(format!("http://{address}"), listener, host);
    assert_eq!(server.door.notify("t", b"one"), 1);
    server.process.kill();
    let server = home.serve(&["--listen", &address]);
    assert_eq!(server.door.notify("t", b"two"), 1);
    let told = eventually("both are told", || {
        let told = listening.told();
        (told.len() == 3).then_some(told)
    });
    let [Told::Message(first, 1), Told::Gap, Told::Message(second, 1)] = told[..] else {
        panic!("{told:?}");
    };
    assert_ne!(first, second);
    listening.close();
}

#[test]
fn everything_a_subscriber_is_due_has_the_next_number_whatever_becomes_of_it() {
    let mut config = Config::default();
    config.post.answer_timeout = Duration::from_secs(1);
    let broadcaster = InProcess::start(config, ServeConfig::default());
    let door = &broadcaster.door;
    let subscriber = Subscriber::start(&broadcaster.door.signer);
    let (url, other) = (subscriber.url("/one"), subscriber.url("/other"));
    door.subscribe(&url, exact("t"), None);
    door.subscribe(&url, glob("t*"), None);
    door.subscribe(&other, exact("t"), None);
    // Two rows of one url are two deliveries, and two numbers of one line.
    assert_eq!(door.notify("t", b"to three rows"), 3);
    let number = |of: &str, at: usize| {
        let delivery = &subscriber.await_deliveries(of, at + 1)[at];
        delivery.number().unwrap()
    };
    let numbers: BTreeSet<_> = [number(&url, 0), number(&url, 1)]
        .map(|it| it.number)
        .into();
    assert_eq!(numbers, BTreeSet::from([1, 2]));
    assert_eq!(number(&url, 0).line, number(&url, 1).line);
    assert_eq!(number(&other, 0).number, 1);
    assert_ne!(number(&other, 0).line, number(&url, 0).line);
    // What fails has its number as well.
    subscriber.on(&other, |_| vec![Act::Close]);
    assert_eq!(door.notify("t", b"to two, as one answers nothing"), 2);
    let own = subscriber.clone();
    subscriber.on(&other, move |delivery| {
        let confirmation = own.confirms(delivery, 1);
        vec![Act::Say(confirmation)]
    });
    eventually("it is delivered to again", || {
        (door.notify("t", b"to all") == 3).then_some(())
    });
    let deliveries = subscriber.await_deliveries(&other, 3);
    let last = deliveries.last().unwrap().number().unwrap();
    assert!(last.number >= 3, "{last:?}");
    assert_eq!(last.line, number(&other, 0).line);
}
