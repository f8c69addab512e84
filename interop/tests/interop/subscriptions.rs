//! What a broadcaster holds for a subscriber: checked, set, repaired, and removed by its answer.

use std::time::{Duration, Instant};

use httppubsub_interop::{
    Answer, Auth, PATIENCE, RawSubscriber, Rows,
    Side::{Ours, Theirs},
    Wants, World,
};

const URL: &str = "http://192.0.2.1:9/v1/receive";

const ROWS: Rows<'_> = Rows {
    exact: &[b"b", b"a", b"a/b", b"", b"\xff", b"\x00"],
    globs: &["b/*", "a/*", "\u{e9}*", "[a-c]?"],
    recovery: Some("http://192.0.2.1:9/v1/recover"),
};

#[test]
fn both_broadcasters_hold_what_was_set_and_agree_on_its_etag() {
    for auth in [Auth::NONE, Auth::TOKEN, Auth::HMAC] {
        let world = World::new(auth);
        let mut etags = Vec::new();
        for side in [Theirs, Ours] {
            let broadcaster = world.broadcaster_on(side, &world.path(&format!("{side:?}.db")));
            let nothing = Rows::default();
            let mut seen = vec![world.check_rows(&broadcaster, URL, &nothing)];
            world.set_rows(&broadcaster, URL, &ROWS);
            seen.push(world.check_rows(&broadcaster, URL, &ROWS));
            world.remove_rows(
                &broadcaster,
                URL,
                &Rows {
                    exact: &[b"a/b"],
                    ..ROWS_WITHOUT_GLOBS
                },
            );
            let (etag, matches) = world.check_rows(&broadcaster, URL, &ROWS);
            assert!(!matches, "a row is missing at {side:?}");
            seen.push((etag, true));
            world.add_rows(
                &broadcaster,
                URL,
                &Rows {
                    exact: &[b"a/b"],
                    ..ROWS_WITHOUT_GLOBS
                },
            );
            seen.push(world.check_rows(&broadcaster, URL, &ROWS));
            for (at, (_, matches)) in seen.iter().enumerate() {
                assert!(matches, "check {at} at {side:?} with {auth:?}");
            }
            assert_eq!(seen[1], seen[3]);
            etags.push(seen);
            broadcaster.stop();
        }
        assert_eq!(etags[0], etags[1], "theirs and ours with {auth:?}");
    }
}

const ROWS_WITHOUT_GLOBS: Rows<'_> = Rows {
    exact: &[],
    globs: &[],
    recovery: ROWS.recovery,
};

#[test]
fn their_subscriber_repairs_its_rows_at_our_broadcaster() {
    let world = World::new(Auth::HMAC);
    let broadcaster = world.broadcaster(Ours);
    let rows = Rows {
        exact: &[b"kept", b"lost"],
        globs: &["lost/*"],
        recovery: None,
    };
    let wants = Wants {
        resubscribe_interval: Duration::from_millis(500),
        ..Wants::new(rows, 2)
    };
    let subscribers = world.subscribers(&broadcaster, &[Theirs], &wants);
    for subscriber in subscribers {
        let recovery = subscriber.recovery_url();
        let wanted = Rows {
            recovery: Some(&recovery),
            ..rows
        };
        let lost = Rows {
            exact: &[b"lost"],
            globs: &["lost/*"],
            recovery: None,
        };
        assert!(
            world
                .check_rows(&broadcaster, &subscriber.receive_url, &wanted)
                .1
        );
        world.remove_rows(&broadcaster, &subscriber.receive_url, &lost);

        let deadline = Instant::now() + PATIENCE;
        while !world
            .check_rows(&broadcaster, &subscriber.receive_url, &wanted)
            .1
        {
            assert!(Instant::now() < deadline, "its rows were not repaired");
        }
        let mut notifier = world.notifier(&broadcaster, Theirs);
        assert_eq!(notifier.reach(b"lost", b"exact"), 1);
        assert_eq!(notifier.reach(b"lost/again", b"glob"), 1);
        subscriber.messages(2);
        subscriber.left();
    }
}

#[test]
fn an_answer_to_unsubscribe_immediately_removes_that_row_and_no_other() {
    for side in [Ours, Theirs] {
        let world = World::new(Auth::HMAC);
        let broadcaster = world.broadcaster(side);
        let mut notifier = world.notifier(&broadcaster, Ours);
        for status in [200, 400, 403] {
            let raw = RawSubscriber::start(Answer {
                status,
                ..Answer::UNSUBSCRIBE_IMMEDIATE
            });
            let rows = Rows {
                exact: &[b"row", b"other"],
                globs: &["ro[w]/*"],
                recovery: None,
            };
            world.set_rows(&broadcaster, &raw.url, &rows);

            assert_eq!(notifier.reach(b"row", b"nobody wants this"), 0);
            assert_eq!(raw.delivery().path, "/v1/receive");
            let left = Rows {
                exact: &[b"other"],
                ..rows
            };
            assert!(
                world.check_rows(&broadcaster, &raw.url, &left).1,
                "the row is gone from {side:?} after status {status}, and only that row"
            );
            assert_eq!(notifier.reach(b"row", b"nor this"), 0);
            assert_eq!(
                raw.deliveries_so_far().len(),
                0,
                "a removed row gets nothing"
            );

            assert_eq!(notifier.reach(b"row/a", b"nor this by glob"), 0);
            raw.delivery();
            let left = Rows { globs: &[], ..left };
            assert!(
                world.check_rows(&broadcaster, &raw.url, &left).1,
                "{side:?}, {status}"
            );
            world.set_rows(&broadcaster, &raw.url, &Rows::default());
        }
    }
}
