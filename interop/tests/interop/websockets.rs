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
