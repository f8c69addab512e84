//! `listen --misbehave`: what a broadcaster makes of those who fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::thread;

use httppubsub_e2e::{Door, Home, Metrics, Process, httppubsub};

/// A subscriber to `topic` that was told `flags`.
fn listener(home: &Home, door: &Door, topic: &str, flags: &[&str]) -> Process {
    let mut command = httppubsub();
    command
        .args(["listen", "--json", "--exact", topic])
        .arg("--broadcaster")
        .arg(format!("http://{}", door.address))
        .arg("--secrets")
        .arg(home.path().join("secrets.json"))
        .args(flags);
    let process = Process::spawn(format!("the subscriber of {topic}"), command);
    process.event("listening");
    process
}

/// F2, F3, F4 and F6 by a program that real broadcasters can be tried with.
#[test]
fn who_misbehaves_is_not_counted_and_is_told_that_it_missed_something() {
    let home = Home::new();
    let (server, metrics) = Metrics::serve(&home, &["--answer-timeout", "1"]);
    let kinds = [
        ("hang", true),
        ("drip", true),
        ("truncate", true),
        ("garbage", true),
        ("status=503", true),
        ("redirect=http://127.0.0.1:9/", true),
        ("wrong-id", true),
        ("no-read", true),
        ("reset", true),
        ("slow=30", true),
        ("slow=0.1", false),
    ];
    thread::scope(|scope| {
        for (kind, is_missed) in kinds {
            let (home, door) = (&home, &server.door);
            scope.spawn(move || {
                let flags = ["--misbehave", kind];
                let subscriber = listener(home, door, kind, &flags);
                let reached = door.notify(kind, b"a message");
                assert_eq!(reached, u32::from(!is_missed), "{kind}");
                let how = kind.split('=').next().unwrap();
                assert_eq!(subscriber.event("misbehaved")["how"], how);
                // Some have the message, and the broadcaster does not know.
                let want = if is_missed { "missed" } else { "message" };
                let mut told = subscriber.json();
                while told["event"] != want {
                    assert_eq!(told["event"], "message", "{kind}: {told}");
                    told = subscriber.json();
                }
            });
        }
    });
    let outcome = |outcome| metrics.deliveries(outcome);
    assert_eq!((outcome("confirmed"), outcome("missed")), (1, 10));
    assert_eq!(metrics.matched(), 11);
}

#[test]
fn a_seed_repeats_what_was_done_to_which_delivery() {
    let home = Home::new();
    let server = home.serve(&[]);
    let reached = |topic: &str, seed: &str| {
        let flags = ["--misbehave", "garbage@0.5", "--misbehave-seed", seed];
        let _subscriber = listener(&home, &server.door, topic, &flags);
        let notify = |_| server.door.notify(topic, b"a message");
        (0..30).map(notify).collect::<Vec<_>>()
    };
    let first = reached("one", "7");
    assert_eq!(first, reached("two", "7"));
    assert_ne!(first, reached("three", "8"));
    assert!(first.contains(&0) && first.contains(&1), "{first:?}");
}
