//! Faults of globs and of what they cost.
//!
//! | fault | test |
//! |---|---|
//! | glob-freeze | glob_freeze_globs_that_take_long_hold_up_nobody |
//! | glob-oom | glob_oom_long_globs_are_refused_and_stored_ones_passed_over |
//! | bad-globs | bad_globs_are_refused_or_warned_of_where_they_are_written |

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use httppubsub_client::{Client, ClientConfig, WebSocketConfig};
use httppubsub_e2e::{Home, Subscriber, exact, glob, httppubsub, url};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::subscription::{Subscription, SubscriptionSet};
use httppubsub_store::{SqliteStore, Subscriptions as _};

const MESSAGE: &[u8] = b"a message";

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:9/";

fn set(globs: impl IntoIterator<Item = String>) -> SubscriptionSet {
    globs.into_iter().map(|it| (glob(&it), None)).collect()
}

/// None of these has a part by which it could be found, and each has to be looked at.
#[test]
fn glob_freeze_globs_that_take_long_hold_up_nobody() {
    let home = Home::new();
    let server = home.serve(&[]);
    let door = &server.door;
    let subscriber = Subscriber::start(&door.signer);
    let good = subscriber.url("/good");
    door.subscribe(&good, exact("ordinary/topic"), None);
    let short = (0..10_000).map(|it| format!("?[{it}]*?[q]"));
    door.set(NOWHERE, &set(short));
    let is_over = AtomicBool::new(false);
    let hostile = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    door.notify("12345678/q/12345678", MESSAGE);
                    hostile.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 0..20 {
            assert_eq!(door.get("/healthz").status, 200);
            assert_eq!(door.notify("ordinary/topic", MESSAGE), 1);
            door.subscribe(&good, exact(&number.to_string()), None);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    eprintln!("beside {} hostile ones", hostile.load(Ordering::Relaxed));
    assert_eq!(subscriber.deliveries_to(&good).len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn glob_oom_long_globs_are_refused_and_stored_ones_passed_over() {
    let home = Home::with(&Secrets::NONE);
    let long = |number: usize| format!("*{number}{}*", "?x".repeat(32_000));
    let too_long = url(NOWHERE);
    // As others may have stored them.
    let store = SqliteStore::open(&home.database()).await.unwrap();
    store
        .set(too_long.clone(), set((0..200).map(long)))
        .await
        .unwrap();
    drop(store);
    let server = home.serve(&[]);
    let door = &server.door;
    let subscriber = Subscriber::start(&door.signer);
    let good = subscriber.url("/good");
    door.subscribe(&good, glob("t*"), None);
    let topic = "t".repeat(1_000);
    assert_eq!(door.notify(&topic, MESSAGE), 1);
    server
        .process
        .log_line("a stored subscription is passed over");
    // They had taken 400 MB.
    let resident = server.process.resident_bytes_max();
    assert!(resident < 150 * 1024 * 1024, "{resident} bytes");
    // What is refused says why, and may be removed.
    let asked = |text: &str| {
        let (url, interest, recovery) = (url(NOWHERE), glob(text), None);
        let subscription = Subscription {
            url,
            interest,
            recovery,
        };
        let response = door.ask(&door.signer.subscribe(&subscription));
        (response.status, response.text())
    };
    let (status, reason) = asked(&"x".repeat(4_097));
    assert_eq!(
        (status, reason.as_str()),
        (400, "a glob has 4097 bytes, 4096 are allowed here\n")
    );
    let (status, reason) = asked(&"*x".repeat(65));
    assert_eq!(
        (status, reason.as_str()),
        (400, "a glob has 65 stars, 64 are allowed here\n")
    );
    assert_eq!(asked(&"x".repeat(4_096)).0, 200);
    let response = door.ask(&door.signer.set(&too_long, &set((0..1_000).map(long))));
    assert_eq!(response.status, 400);
    door.set(NOWHERE, &SubscriptionSet::default());
    let other = Home::with(&Secrets::NONE);
    let wider = other.serve(&["--glob-bytes-max", "5000"]);
    wider
        .door
        .subscribe(NOWHERE, glob(&"x".repeat(5_000)), None);
    // A websocket is told when it ends.
    let config = ClientConfig::builder([format!("http://{}", door.address)])
        .secrets(&Secrets::NONE)
        .websocket(WebSocketConfig::default());
    let client = Client::start(config.build().unwrap()).await.unwrap();
    let subscribing = tokio::spawn(async move { client.subscribe_glob("x".repeat(4_097)).await });
    server.process.log_line("a glob has 4097 bytes");
    subscribing.abort();
}

#[test]
fn bad_globs_are_refused_or_warned_of_where_they_are_written() {
    let home = Home::new();
    let server = home.serve(&[]);
    let broadcaster = format!("http://{}", server.door.address);
    let secrets = home.path().join("secrets.json");
    let run = |words: &[&str], glob: &str| {
        let mut command = httppubsub();
        command
            .args(words)
            .args(["--glob", glob, "--broadcaster", &broadcaster]);
        command.arg("--secrets").arg(&secrets);
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), told)
    };
    let add = ["subscriptions", "add", "--url", "http://127.0.0.1:9/"];
    let set = ["subscriptions", "set", "--url", "http://127.0.0.1:9/"];
    let remove = ["subscriptions", "remove", "--url", "http://127.0.0.1:9/"];
    let listen = ["listen", "--timeout", "0.1"];
    for words in [&add[..], &set, &listen] {
        let (code, told) = run(words, "a/[b");
        assert_eq!(code, Some(2), "{told}");
        assert!(
            told.contains("the set that begins at byte 2 is never closed"),
            "{told}"
        );
    }
    for (glob, warning) in [
        (
            "[z-a]",
            "the range z-a is descending: it stands for 'z' alone",
        ),
        ("", "an empty glob matches only the empty topic"),
    ] {
        let (code, told) = run(&add, glob);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains(warning), "{told}");
        let (code, told) = run(&remove, glob);
        assert_eq!((code, told.as_str()), (Some(0), ""));
    }
    let (code, told) = run(&add, "[a-z]/*");
    assert_eq!((code, told.as_str()), (Some(0), ""));
    // On the wire all of them are legal: published peers may have subscribed them, and remove them.
    server.door.subscribe(NOWHERE, glob("a/[b"), None);
    let (code, told) = run(&remove, "a/[b");
    assert_eq!((code, told.as_str()), (Some(0), ""));
}
