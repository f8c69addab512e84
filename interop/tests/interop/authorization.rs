//! Secrets files of ours at theirs, and what happens to those who have the wrong ones.

use httppubsub_interop::{
    Auth, Body, NotifyFailed, Rows,
    Side::{Ours, Theirs},
    Wants, World,
};

#[test]
fn the_published_packages_take_the_secrets_our_setup_writes() {
    for auth in [Auth::HMAC, Auth::MIXED] {
        let world = World::set_up_by_us(auth);
        let broadcaster = world.broadcaster(Theirs);
        let mut notifier = world.notifier(&broadcaster, Theirs);
        let rows = Rows {
            exact: &[b"topic"],
            ..Rows::default()
        };
        let subscribers = world.subscribers(&broadcaster, &[Theirs], &Wants::new(rows, 1));
        assert_eq!(
            notifier.reach(b"topic", b"under secrets of ours"),
            1,
            "{auth:?}"
        );
        for subscriber in subscribers {
            subscriber.message();
            subscriber.left();
        }
    }
}

#[test]
fn a_notifier_with_the_wrong_secret_is_refused_and_reaches_nobody() {
    for auth in [Auth::HMAC, Auth::TOKEN] {
        for (at, from) in [(Ours, Theirs), (Theirs, Ours), (Ours, Ours)] {
            let world = World::new(auth);
            let broadcaster = world.broadcaster(at);
            let rows = Rows {
                exact: &[b"topic"],
                ..Rows::default()
            };
            let subscribers = world.subscribers(&broadcaster, &[from], &Wants::new(rows, 1));

            let mut stranger = world.notifier_with_wrong_secrets(&broadcaster, from);
            let said = stranger.notify(b"topic", &Body::Bytes(b"forged".to_vec()));
            let Err(NotifyFailed(_)) = said else {
                panic!("{at:?} took a notification of {from:?} with the wrong secrets: {said:?}")
            };

            // The next message they get is the good one.
            assert_eq!(
                world.notifier(&broadcaster, from).reach(b"topic", b"good"),
                1
            );
            for subscriber in subscribers {
                assert_eq!(subscriber.message().bytes, 4);
                subscriber.left();
            }
        }
    }
}
