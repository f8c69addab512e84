//! Subscribers and notifiers of both sides at a broadcaster of either.

use httppubsub_interop::{
    Auth, Message, Rows,
    Side::{self, Ours, Theirs},
    Wants, World,
};

for_each_auth!(
    their_subscriber_and_notifier_work_with_our_broadcaster,
    [
        without_authorization = NONE,
        with_tokens = TOKEN,
        with_signatures = HMAC
    ],
    |auth| super::converse(auth, super::Ours, &[super::Theirs], &[super::Theirs])
);

for_each_auth!(
    our_subscriber_and_notifier_work_with_their_broadcaster,
    [
        without_authorization = NONE,
        with_tokens = TOKEN,
        with_signatures = HMAC
    ],
    |auth| super::converse(auth, super::Theirs, &[super::Ours], &[super::Ours])
);

for_each_auth!(
    our_subscriber_and_notifier_work_with_our_broadcaster,
    [
        without_authorization = NONE,
        with_tokens = TOKEN,
        with_signatures = HMAC
    ],
    |auth| super::converse(auth, super::Ours, &[super::Ours], &[super::Ours])
);

for_each_auth!(
    both_sides_share_topics_behind_our_broadcaster,
    [with_signatures = HMAC, with_another_scheme_each_way = MIXED],
    |auth| super::converse(auth, super::Ours, super::BOTH, super::BOTH)
);

for_each_auth!(
    both_sides_share_topics_behind_their_broadcaster,
    [with_signatures = HMAC, with_another_scheme_each_way = MIXED],
    |auth| super::converse(auth, super::Theirs, super::BOTH, super::BOTH)
);

const BOTH: &[Side] = &[Theirs, Ours];

const BINARY: &[u8] = b"\xff\x00\xfe binary";

const ROWS: Rows<'_> = Rows {
    exact: &[b"jobs/done", BINARY, "caf\u{e9}".as_bytes()],
    globs: &["cache/*/drop", "n?ws/[a-c]*", "\u{fc}ber/*"],
    recovery: None,
};

/// A notification: its topic, its body, and whether [`ROWS`] has a row for it. The last one has,
/// so that a subscriber that has seen enough has seen everything.
const NOTIFICATIONS: &[(&[u8], &[u8], bool)] = &[
    (b"jobs/done", b"a text", true),
    (b"jobs/done", b"", true),
    (b"jobs/doneX", b"no row", false),
    (b"jobs", b"no row", false),
    (BINARY, b"\x00\x01\xfe\xff", true),
    ("caf\u{e9}".as_bytes(), "\u{1f600}".as_bytes(), true),
    (b"cache/users/drop", b"one segment", true),
    (b"cache/users/7/drop", b"two segments", true),
    (b"cache/drop", b"no segment", false),
    (b"CACHE/users/drop", b"another case", false),
    (b"news/beta", b"in the set", true),
    (b"nws/beta", b"nothing for the question mark", false),
    (b"news/delta", b"not in the set", false),
    ("\u{fc}ber/alles".as_bytes(), b"", true),
];

/// Sends everything from every notifier and checks that every subscriber got what it wanted, that
/// the counts say so, and that nobody is left subscribed.
pub(crate) fn converse(auth: Auth, broadcaster: Side, subscribers: &[Side], notifiers: &[Side]) {
    let world = World::new(auth);
    let broadcaster = world.broadcaster(broadcaster);
    let mut notifiers: Vec<_> = notifiers
        .iter()
        .map(|&side| world.notifier(&broadcaster, side))
        .collect();

    let mut expected = Vec::new();
    for (topic, body, _) in NOTIFICATIONS.iter().filter(|(_, _, wanted)| *wanted) {
        expected.extend(notifiers.iter().map(|_| Message::new(topic, body)));
    }
    expected.sort();

    let wants = Wants::new(ROWS, expected.len());
    let subscribers = world.subscribers(&broadcaster, subscribers, &wants);

    for (topic, body, wanted) in NOTIFICATIONS {
        let reached = if *wanted { subscribers.len() as u64 } else { 0 };
        for notifier in &mut notifiers {
            assert_eq!(
                notifier.reach(topic, body),
                reached,
                "rows that confirmed {:?}, sent by {notifier:?}; the broadcaster says:\n{}",
                String::from_utf8_lossy(topic),
                broadcaster.log(),
            );
        }
    }
    for subscriber in subscribers {
        assert_eq!(
            subscriber.messages(expected.len()),
            expected,
            "{:?}",
            subscriber.side
        );
        subscriber.left();
    }
    for notifier in &mut notifiers {
        assert_eq!(
            notifier.reach(b"jobs/done", b"too late"),
            0,
            "all of them have unsubscribed"
        );
    }
    broadcaster.stop();
}
