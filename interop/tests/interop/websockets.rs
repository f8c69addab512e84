//! Websocket subscribers and notifiers of both sides at a broadcaster of either, beside such that
//! speak HTTP.

use httppubsub_interop::{
    Auth, Body, Message, Rows,
    Side::{self, Ours, Theirs},
    Wants, World, random_file,
};

for_each_auth!(
    their_websockets_work_with_our_broadcaster,
    [
        without_authorization = NONE,
        with_tokens = TOKEN,
        with_signatures = HMAC
    ],
    |auth| super::converse(
        super::World::new(auth),
        super::Ours,
        super::Theirs,
        &[],
        &[]
    )
);

for_each_auth!(
    our_websockets_work_with_their_broadcaster,
    [
        without_authorization = NONE,
        with_tokens = TOKEN,
        with_signatures = HMAC
    ],
    |auth| super::converse(
        super::World::new(auth),
        super::Theirs,
        super::Ours,
        &[],
        &[]
    )
);

#[test]
fn their_websockets_work_with_our_broadcaster_without_compression() {
    let world = World::new(Auth::HMAC).serving_with(Ours, "--no-compression");
    converse(world, Ours, Theirs, &[], &[]);
}

#[test]
fn their_websockets_that_do_not_compress_work_with_our_broadcaster() {
    let theirs = &["--no-compression"];
    converse(World::new(Auth::HMAC), Ours, Theirs, &[], theirs);
}

#[test]
fn our_websockets_work_with_their_broadcaster_with_compression() {
    let world = World::new(Auth::HMAC).serving_with(Theirs, "--compression");
    converse(world, Theirs, Ours, &[], &[]);
}

/// Of at most 257 parts: more cannot be acknowledged with signatures (D11).
#[test]
fn our_websockets_take_parts_of_their_messages() {
    let world = World::new(Auth::HMAC).serving_with(Theirs, "--max-message-size=524288");
    converse(world, Theirs, Ours, &[], &[]);
}

#[test]
fn our_broadcaster_takes_parts_of_their_messages() {
    let theirs = &["--max-message-size=65536", "--no-compression"];
    converse(World::new(Auth::HMAC), Ours, Theirs, &[], theirs);
}

#[test]
fn our_broadcaster_understands_their_expanded_headers() {
    let theirs = &["--expanded-headers"];
    converse(World::new(Auth::HMAC), Ours, Theirs, &[], theirs);
}

#[test]
fn our_websockets_understand_their_expanded_headers() {
    let world = World::new(Auth::HMAC).serving_with(Theirs, "--expanded-headers");
    converse(world, Theirs, Ours, &[], &[]);
}

#[test]
fn their_websockets_come_back_when_our_broadcaster_was_killed() {
    come_back(Ours, Theirs);
}

#[test]
fn our_websockets_come_back_when_their_broadcaster_was_killed() {
    come_back(Theirs, Ours);
}

/// Sessions of `side` at a broadcaster that is killed and started again.
fn come_back(broadcaster: Side, side: Side) {
    let world = World::new(Auth::HMAC);
    let mut broadcaster = world.broadcaster(broadcaster);
    let rows = Rows {
        exact: &[b"jobs/done"],
        globs: &["cache/*"],
        recovery: None,
    };
    let (ours, theirs) = (["--ws"], ["--ws", "--connect-retries=10"]);
    let wants = Wants::new(rows, 12).over_a_websocket(&ours, &theirs);
    let subscribers = world.subscribers(&broadcaster, &[side], &wants);
    let flags: &[&str] = match side {
        Ours => &ours,
        Theirs => &theirs,
    };
    let mut notifiers = [
        world.notifier_told(&broadcaster, side, flags),
        world.notifier(&broadcaster, Ours),
    ];
    let mut reach_all = |body: &[u8]| {
        for notifier in &mut notifiers {
            for topic in [&b"jobs/done"[..], b"cache/7"] {
                assert_eq!(notifier.reach(topic, body), 1, "{notifier:?}");
                assert_eq!(subscribers[0].message(), Message::new(topic, body));
            }
        }
    };
    reach_all(b"before");
    for body in [b"once", b"more"] {
        world.kill_and_restart(&mut broadcaster);
        subscribers[0].is_connected_again();
        reach_all(body);
    }
    for subscriber in subscribers {
        subscriber.left();
    }
}

#[test]
fn their_websocket_may_send_500_notifications_to_our_broadcaster_at_once() {
    at_once(Ours, 500);
}

/// It closes a websocket from which more than 255 messages wait.
#[test]
fn our_websocket_takes_200_notifications_that_their_broadcaster_got_at_once() {
    at_once(Theirs, 200);
}

/// So many messages may wait for a websocket, at either broadcaster (`docs/protocol/stateful.md`
/// §14).
const WAITING_MAX: usize = 255;

fn at_once(broadcaster: Side, count: usize) {
    let world = World::new(Auth::HMAC);
    let broadcaster = world.broadcaster(broadcaster);
    let rows = Rows {
        exact: &[b"t"],
        ..Rows::default()
    };
    let wants = Wants::new(rows, count);
    let wants = match count > WAITING_MAX {
        // More than wait for a websocket, which is cut off if it is slower than the notifier.
        true => wants,
        false => wants.over_a_websocket(&["--ws"], &["--ws"]),
    };
    let subscribers = world.subscribers(&broadcaster, &[Ours, Theirs], &wants);
    let mut notifier = world.notifier_told(&broadcaster, Theirs, &["--ws"]);
    assert_eq!(notifier.reach_at_once(b"t", count), 2 * count as u64);
    let numbers = (0..count).map(|number| Message::new(b"t", number.to_string().as_bytes()));
    let mut sent: Vec<_> = numbers.collect();
    sent.sort();
    for subscriber in subscribers {
        assert_eq!(subscriber.messages(count), sent);
        subscriber.left();
    }
}

/// More than it lets wait.
#[test]
fn our_websocket_may_want_600_topics_of_their_broadcaster() {
    let world = World::new(Auth::HMAC);
    let broadcaster = world.broadcaster(Theirs);
    let topics: Vec<_> = (0..600).map(|number| format!("topic/{number}")).collect();
    let topics: Vec<_> = topics.iter().map(String::as_bytes).collect();
    let rows = Rows {
        exact: &topics,
        ..Rows::default()
    };
    let wants = Wants::new(rows, 2).over_a_websocket(&["--ws"], &["--ws"]);
    let subscribers = world.subscribers(&broadcaster, &[Ours], &wants);
    let mut notifier = world.notifier(&broadcaster, Ours);
    for topic in [topics[0], topics[599]] {
        assert_eq!(notifier.reach(topic, b"body"), 1);
        assert_eq!(subscribers[0].message(), Message::new(topic, b"body"));
    }
    for subscriber in subscribers {
        subscriber.left();
    }
}

#[test]
fn their_websocket_is_told_by_our_broadcaster_that_it_missed_something() {
    missed(Ours, Theirs);
}

#[test]
fn our_websocket_is_told_by_their_broadcaster_that_it_missed_something() {
    missed(Theirs, Ours);
}

/// Another broadcaster could not deliver, and says so to that of the websocket.
fn missed(broadcaster: Side, side: Side) {
    let world = World::new(Auth::NONE);
    let broadcaster = world.broadcaster(broadcaster);
    let rows = Rows {
        exact: &[b"t"],
        ..Rows::default()
    };
    let wants = Wants::new(rows, 2).over_a_websocket(&["--ws"], &["--ws"]);
    let subscribers = world.subscribers(&broadcaster, &[side], &wants);
    let mut notifier = world.notifier(&broadcaster, Ours);
    assert_eq!(notifier.reach(b"t", b"before"), 1);
    assert_eq!(subscribers[0].message(), Message::new(b"t", b"before"));
    broadcaster.missed_for_websockets("t");
    // Theirs looks for it when something else comes (D12).
    assert_eq!(notifier.reach(b"t", b"after"), 1);
    match side {
        Ours => {
            subscribers[0].was_told_that_it_missed_something();
            assert_eq!(subscribers[0].message(), Message::new(b"t", b"after"));
        }
        Theirs => subscribers[0].tells_in_any_order(&["receiving", "message"]),
    }
    for subscriber in subscribers {
        subscriber.left();
    }
}

#[test]
fn nothing_is_left_of_websockets_that_have_unsubscribed() {
    for (broadcaster, side) in [(Ours, Theirs), (Theirs, Ours)] {
        let world = World::new(Auth::HMAC);
        let broadcaster = world.broadcaster(broadcaster);
        let rows = Rows {
            exact: &[b"t"],
            globs: &["g*"],
            recovery: None,
        };
        let wants = Wants::new(rows, 1).over_a_websocket(&["--ws"], &["--ws"]);
        let leaving = world.subscribers(&broadcaster, &[side], &wants);
        let staying = world.subscribers(&broadcaster, &[side], &Wants { count: 3, ..wants });
        let mut notifier = world.notifier(&broadcaster, Ours);
        assert_eq!(notifier.reach(b"t", b"both"), 2);
        for subscriber in leaving.iter().chain(&staying) {
            assert_eq!(subscriber.message(), Message::new(b"t", b"both"));
        }
        for subscriber in leaving {
            subscriber.left();
        }
        for topic in [b"t", b"g"] {
            assert_eq!(notifier.reach(topic, b"one"), 1);
            assert_eq!(staying[0].message(), Message::new(topic, b"one"));
        }
        for subscriber in staying {
            subscriber.left();
        }
        assert_eq!(notifier.reach(b"t", b"nobody"), 0);
        assert_eq!(notifier.reach(b"g", b"nobody"), 0);
    }
}

#[test]
fn a_preset_dictionary_is_the_same_to_both() {
    let world = World::new(Auth::HMAC);
    let path = world.path("dictionary");
    let text = "{\"event\":\"updated\",\"account\":\"acct-".repeat(40);
    std::fs::write(&path, text).expect("the test's folder can be written");
    let theirs = format!("--zstd-preset=7:{}", path.display());
    let serving = format!("--zstd-preset=7:5:64:{}", path.display());
    converse(
        world.serving_with(Ours, serving),
        Ours,
        Theirs,
        &[],
        &[&theirs],
    );
}

#[test]
fn dictionaries_that_our_broadcaster_trains_are_used_by_their_websockets() {
    let world = World::new(Auth::HMAC);
    let broadcaster = world.broadcaster(Ours);
    let rows = Rows {
        exact: &[b"t"],
        ..Rows::default()
    };
    const MESSAGES: usize = 400;
    let wants = Wants::new(rows, MESSAGES).over_a_websocket(&["--ws"], &["--ws"]);
    let subscribers = world.subscribers(&broadcaster, &[Theirs], &wants);
    let mut notifier = world.notifier_told(&broadcaster, Theirs, &["--ws"]);
    for number in 0..MESSAGES {
        // Together well beyond the low watermark.
        let account = number * 7919 % 1000;
        let body = format!("{{\"event\":\"updated\",\"account\":\"acct-{account}\"}}").repeat(10);
        assert_eq!(notifier.reach(b"t", body.as_bytes()), 1);
        assert_eq!(
            subscribers[0].message(),
            Message::new(b"t", body.as_bytes())
        );
    }
    for subscriber in subscribers {
        subscriber.left();
    }
}

/// Small, empty, binary, and compressible ones; the last is wanted, so that who has seen enough has
/// seen everything.
fn bodies() -> Vec<(&'static [u8], Vec<u8>)> {
    vec![
        (b"jobs/done", b"a text".to_vec()),
        (b"jobs/done", Vec::new()),
        (BINARY, b"\x00\x01\xfe\xff".to_vec()),
        (b"cache/7/drop", b"{\"event\":\"updated\"}".repeat(30)),
        (b"cache/7/drop", b"compressible ".repeat(5_000)),
        (b"jobs/done", b"compressible ".repeat(30_000)),
        (b"jobs/done", b"last".to_vec()),
    ]
}

const BINARY: &[u8] = b"\xff\x00\xfe binary";

/// What is large is sent as a file, by each notifier.
const LARGE: [usize; 3] = [300_000, 4_500_000, 64 << 20];

/// One websocket subscriber and notifier of `side`, and one of each that speaks HTTP, of the other
/// side; everything that either notifier sends arrives at both subscribers.
fn converse(world: World, broadcaster: Side, side: Side, ours: &[&str], theirs: &[&str]) {
    let broadcaster = world.broadcaster(broadcaster);
    let rows = Rows {
        exact: &[b"jobs/done", BINARY],
        globs: &["cache/*"],
        recovery: None,
    };
    let mut flags = vec!["--ws"];
    flags.extend(match side {
        Ours => ours,
        Theirs => theirs,
    });
    let mut notifiers = [
        world.notifier_told(&broadcaster, side, &flags),
        world.notifier(&broadcaster, Ours),
    ];
    let bodies = bodies();
    let count = (bodies.len() + LARGE.len()) * notifiers.len();
    let wants = Wants::new(rows, count);
    let over_websocket = wants.over_a_websocket(&flags, &flags);
    let mut subscribers = world.subscribers(&broadcaster, &[side], &over_websocket);
    subscribers.extend(world.subscribers(&broadcaster, &[Ours], &wants));

    for (number, notifier) in notifiers.iter_mut().enumerate() {
        for bytes in LARGE {
            let path = world.path("large");
            let sha512 = random_file(&path, bytes, (bytes + number) as u64);
            let sent = notifier.accepted(b"jobs/done", &Body::File(path));
            assert_eq!(
                (sent.subscribers, &sent.sha512),
                (2, &sha512),
                "{notifier:?}"
            );
            for subscriber in &subscribers {
                let message = subscriber.message();
                assert_eq!((message.bytes, &message.sha512), (bytes as u64, &sha512));
            }
        }
        for (topic, body) in &bodies {
            assert_eq!(
                notifier.reach(topic, body),
                2,
                "{notifier:?}; the broadcaster says:\n{}",
                broadcaster.log()
            );
            for subscriber in &subscribers {
                assert_eq!(
                    subscriber.message(),
                    Message::new(topic, body),
                    "{:?}",
                    subscriber.side
                );
            }
        }
    }
    for subscriber in subscribers {
        subscriber.left();
    }
}
