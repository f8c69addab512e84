//! MISSED: what comes after a delivery that failed.

use httppubsub_interop::{
    Auth, Message, Rows,
    Side::{Ours, Theirs},
    Wants, World,
};

/// Takes as long as the default settings say, which is up to 14 seconds.
#[test]
fn our_broadcaster_tells_their_subscriber_what_it_missed_and_keeps_its_row() {
    let world = World::new(Auth::HMAC);
    let broadcaster = world.broadcaster(Ours);
    let mut notifier = world.notifier(&broadcaster, Theirs);
    let rows = Rows {
        exact: &[b"topic"],
        ..Rows::default()
    };
    for mut subscriber in world.subscribers(&broadcaster, &[Theirs], &Wants::new(rows, 1)) {
        subscriber.refuse(1);
        assert_eq!(notifier.reach(b"topic", b"turned away"), 0);
        subscriber.was_told_that_it_missed_something();

        assert_eq!(notifier.reach(b"topic", b"welcome"), 1);
        assert_eq!(subscriber.message(), Message::new(b"topic", b"welcome"));
        subscriber.left();
    }
}
