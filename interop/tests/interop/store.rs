//! One `subscriptions.db` that broadcasters of both sides open in turn.

use httppubsub_interop::{
    Auth, Broadcaster, Message, Rows,
    Side::{self, Ours, Theirs},
    Wants, World,
};

/// An address that nobody answers at; no topic of this test matches its rows, because their
/// broadcaster removes the rows of a subscriber that it failed to reach.
const URL: &str = "http://192.0.2.1:9/v1/receive#fragment";

#[test]
fn a_store_goes_from_their_broadcaster_to_ours_and_back() {
    let world = World::new(Auth::HMAC);
    let db = world.path("handed-over.db");
    let before = Rows {
        exact: &[b"", b"a", b"a/b", b"\xff\x00", "\u{e9}".as_bytes()],
        globs: &["zz*", "[!x]/?", "\u{e9}/*"],
        recovery: Some("http://192.0.2.1:9/v1/recover#fragment"),
    };
    let after = Rows {
        exact: &before.exact[1..],
        globs: &before.globs[..2],
        ..before
    };

    // A subscriber that is told nothing of all this: its rows are in the file.
    let wanted = Rows {
        exact: &[b"\xfe exact"],
        globs: &["over/*"],
        recovery: None,
    };
    let theirs = world.broadcaster_on(Theirs, &db);
    let subscribers = world.subscribers(&theirs, &[Theirs], &Wants::new(wanted, 6));
    world.set_rows(&theirs, URL, &before);
    let (etag_before, matches) = world.check_rows(&theirs, URL, &before);
    assert!(matches, "their broadcaster, having stored it");

    reach(&world, &theirs, Ours);
    theirs.stop();

    let ours = world.broadcaster_on(Ours, &db);
    assert_eq!(
        world.check_rows(&ours, URL, &before),
        (etag_before.clone(), true)
    );
    reach(&world, &ours, Theirs);
    world.set_rows(&ours, URL, &after);
    let (etag_after, matches) = world.check_rows(&ours, URL, &after);
    assert!(matches, "our broadcaster, having stored it");
    assert_ne!(etag_before, etag_after);
    ours.stop();

    let theirs = world.broadcaster_on(Theirs, &db);
    assert_eq!(world.check_rows(&theirs, URL, &after), (etag_after, true));
    reach(&world, &theirs, Ours);

    let mut expected = Vec::new();
    for _ in 0..3 {
        expected.push(Message::new(b"\xfe exact", b"exact"));
        expected.push(Message::new(b"over/there", b"glob"));
    }
    expected.sort();
    // It cannot leave in good order: the broadcaster it knows has moved.
    for subscriber in subscribers {
        assert_eq!(subscriber.messages(6), expected);
    }
    theirs.stop();
}

#[track_caller]
fn reach(world: &World, broadcaster: &Broadcaster, side: Side) {
    let mut notifier = world.notifier(broadcaster, side);
    assert_eq!(notifier.reach(b"\xfe exact", b"exact"), 1);
    assert_eq!(notifier.reach(b"over/there", b"glob"), 1);
}
