//! Faults of the client library.
//!
//! | fault | test |
//! |---|---|
//! | one-bit | crates/client/tests/subscriber.rs | one_bit_that_flips_on_the_way_costs_one_delivery_and_no_subscription |
//! | poison | crates/client/tests/websocket/calls.rs | poison_is_not_sent_for_ever_and_ends_nothing_but_its_own_call |
//! | poison | crates/client/tests/websocket/calls.rs | poison_that_cannot_be_read_any_more_fails_alone_on_a_connection_that_goes_on |
//! | poison | crates/client/tests/websocket/messages.rs | poison_that_finds_no_room_here_is_a_gap_on_a_connection_that_goes_on |
//! | outlived-runtime | outlived_runtime_ends_subscriptions_and_close_says_so |
//! | outlived-runtime | outlived_runtime_that_ran_no_task_stops_the_client_too |
//! | message-in-tests | message_in_tests_is_made_and_yielded |
//! | gap-in-tests | gap_in_tests_runs_the_callback_where_it_is |
//! | huge-timeouts | huge_timeouts_of_a_subscription_are_as_good_as_none |
//! | slope | slope_is_flat_since_what_was_freed_is_given_back |
//! | passing-trouble | crates/client/src/websocket/over.rs | passing_trouble_is_no_refusal_of_a_client |
//! | passing-trouble | crates/client/src/websocket/attempt.rs | passing_trouble_is_the_answer_of_an_ingress_whose_service_starts |
//! | error-causes | error_causes_are_told_once_whatever_prints_the_error |

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use httppubsub_client::testing::Feed;
use httppubsub_client::{
    Bind, Client, ClientConfig, ConnectionStatus, Message, Receiving, WebSocketConfig,
};
use httppubsub_e2e::{Deaf, Home, PATIENCE, Subscriber, eventually, exact};
use httppubsub_proto::auth::Secrets;

/// What `anyhow` prints with `{:#}`.
fn with_all_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |it: &&dyn Error| (*it).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[tokio::test]
async fn error_causes_are_told_once_whatever_prints_the_error() {
    let nobody = Deaf::closed();
    let config = ClientConfig::builder([nobody.url("")])
        .passes(1)
        .bind(Bind::Nothing);
    let client = Client::start(config.build().unwrap()).await.unwrap();
    let error = client.notify("t", "x").await.unwrap_err();
    for text in [error.to_string(), with_all_causes(&error)] {
        assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
        assert!(
            text.starts_with("cannot notify: not done in 1 attempts"),
            "{text}"
        );
    }
    let file = httppubsub_client::NotifyBody::path("/nowhere/at/all");
    let error = client.notify("t", file).await.unwrap_err();
    for text in [error.to_string(), with_all_causes(&error)] {
        assert_eq!(text.matches("/nowhere/at/all").count(), 1, "{text}");
        assert_eq!(text.matches("No such file").count(), 1, "{text}");
    }
    let error = ClientConfig::builder(["ftp://h"]).build().unwrap_err();
    for text in [error.to_string(), with_all_causes(&error)] {
        assert_eq!(text.matches("only http and https").count(), 1, "{text}");
    }
    // The kind: the message of a public error ends with its cause, which is not its source as well.
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = Vec::new();
    for name in ["proto", "net", "store", "broadcaster", "client"] {
        for file in sources(&crates.join(name).join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            wrong.extend(
                sources_beside_messages(&text).map(|it| format!("{}: {it}", file.display())),
            );
        }
    }
    assert!(
        wrong.is_empty(),
        "told twice by some, or never by others: {wrong:#?}"
    );
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.flat_map(|path| match path.is_dir() {
        true => sources(&path),
        false => vec![path],
    });
    files.collect()
}

/// The lines of public errors that give them a source which their message does not replace.
fn sources_beside_messages(text: &str) -> impl Iterator<Item = &str> {
    let errors = text.split("thiserror::Error").skip(1);
    let public = errors.filter_map(|it| {
        let declared = it.split_once("\npub ")?;
        let is_next = !declared.0.contains("\nenum ") && !declared.0.contains("\npub(");
        is_next.then(|| declared.1.split("\n}").next()).flatten()
    });
    public.flat_map(|body| {
        let lines = body.lines().zip(body.lines().skip(1));
        lines.filter_map(|(before, line)| {
            let is_source = line.contains("#[source]") || line.trim().starts_with("source: ");
            let is_from = line.contains("#[from]") && !before.contains("error(transparent)");
            (is_source || is_from).then_some(line.trim())
        })
    })
}

#[test]
fn outlived_runtime_ends_subscriptions_and_close_says_so() {
    let home = Home::with(&Secrets::NONE);
    let server = home.serve(&["--db", "memory"]);
    let url = format!("http://{}", server.door.address);
    let own = || tokio::runtime::Runtime::new().unwrap();
    let websocket = WebSocketConfig::default;
    for config in [
        ClientConfig::builder([url.as_str()]),
        ClientConfig::builder([url.as_str()]).websocket(websocket()),
    ] {
        let (first, second) = (own(), own());
        let client = first.block_on(Client::start(config.build().unwrap()));
        let client = client.unwrap();
        let mut subscription = first.block_on(client.subscribe_exact("t")).unwrap();
        let waiting = std::thread::spawn(move || {
            second.block_on(async {
                let next = tokio::time::timeout(PATIENCE, subscription.next()).await;
                assert!(next.expect("it ends").is_none());
                let more = subscription.next_with_timeout(PATIENCE).await;
                assert!(more.is_err(), "it stays so");
                drop(subscription);
                second_thoughts(&client).await;
            });
        });
        drop(first);
        waiting.join().unwrap();
    }
}

#[test]
fn outlived_runtime_that_ran_no_task_stops_the_client_too() {
    let url = Deaf::closed().url("");
    for config in [
        ClientConfig::builder([url.as_str()]).bind(Bind::Nothing),
        ClientConfig::builder([url.as_str()]).websocket(WebSocketConfig::default()),
    ] {
        // Its tasks run while it is blocked on and something is waited for, which starting such a
        // client is not.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(Client::start(config.build().unwrap()));
        let client = client.unwrap();
        drop(runtime);
        assert_eq!(client.status(), ConnectionStatus::Abandoned);
        let second = tokio::runtime::Runtime::new().unwrap();
        second.block_on(async {
            let mut statuses = client.statuses();
            let abandoned = statuses.wait_for(ConnectionStatus::Abandoned);
            let told = tokio::time::timeout(PATIENCE, abandoned).await;
            assert!(told.expect("it is told"));
            second_thoughts(&client).await;
        });
    }
}

/// What a client says that has outlived its runtime.
async fn second_thoughts(client: &Client) {
    let error = tokio::time::timeout(PATIENCE, client.close()).await;
    let error = error.expect("it ends").unwrap_err();
    assert!(error.runtime_ended, "{error}");
    assert!(
        error.to_string().contains("subscriptions may be left"),
        "{error}"
    );
    assert!(client.notify("t", "x").await.is_err());
    assert!(client.subscribe_exact("t").await.is_err());
}

#[tokio::test]
async fn message_in_tests_is_made_and_yielded() {
    let (feed, mut subscription) = Feed::subscription().await;
    feed.message(Message::new("builds/7", "ready").unwrap());
    feed.end();
    let message = subscription.next().await.unwrap();
    assert_eq!(message.topic.as_bytes(), b"builds/7");
    assert_eq!(message.bytes().await.unwrap(), "ready");
    assert!(subscription.next().await.is_none());
    assert!(Message::new([0; 70_000], "").is_err());
}

#[tokio::test]
async fn gap_in_tests_runs_the_callback_where_it_is() {
    let (feed, mut subscription) = Feed::subscription().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let writes = seen.clone();
    subscription.on_gap(move |receiving| {
        writes.lock().unwrap().push(receiving);
        std::future::ready(())
    });
    feed.message(Message::new("t", "1").unwrap());
    feed.gap();
    feed.message(Message::new("t", "2").unwrap());
    feed.end();
    assert_eq!(
        subscription.next().await.unwrap().bytes().await.unwrap(),
        "1"
    );
    assert_eq!(*seen.lock().unwrap(), [Receiving::First]);
    assert_eq!(
        subscription.next().await.unwrap().bytes().await.unwrap(),
        "2"
    );
    assert_eq!(
        *seen.lock().unwrap(),
        [Receiving::First, Receiving::AfterGap]
    );
    assert!(subscription.next().await.is_none());
    subscription.close().await.unwrap();
}

#[tokio::test]
async fn huge_timeouts_of_a_subscription_are_as_good_as_none() {
    let (feed, mut subscription) = Feed::subscription().await;
    for text in ["1", "2"] {
        feed.message(Message::new("t", text).unwrap());
    }
    let message = subscription.next_with_timeout(Duration::MAX).await;
    assert!(message.unwrap().is_some());
    let mut subscription = subscription.with_timeout(Duration::MAX);
    assert!(subscription.next().await.unwrap().is_some());
    feed.message(Message::new("t", "3").unwrap());
    assert!(subscription.next().await.unwrap().is_some());
    feed.end();
    assert!(subscription.next().await.is_none());
}

/// What many threads freed is not kept by each of them. The long form is `cargo xtask soak`.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
fn slope_is_flat_since_what_was_freed_is_given_back() {
    const PUBLISHERS: usize = 16;
    let home = Home::with(&Secrets::NONE);
    let server = home.serve(&[]);
    let subscriber = Subscriber::start(home.signer());
    for number in 0..PUBLISHERS {
        let (url, topic) = (subscriber.url(&format!("/{number}")), number.to_string());
        server.door.subscribe(&url, exact(&topic), None);
    }
    assert_eq!(server.door.notify("0", b"a message"), 1);
    let began = server.process.resident_bytes();
    std::thread::scope(|scope| {
        for number in 0..PUBLISHERS {
            let door = &server.door;
            scope.spawn(move || {
                for round in 1..=4 {
                    // Of all lengths, since the longest that was freed decides what glibc keeps.
                    let message = vec![7; (number + 1) * round * 100_000];
                    door.notify(&number.to_string(), &message);
                }
            });
        }
    });
    let kept = || server.process.resident_bytes().saturating_sub(began);
    eventually("what was freed is given back", || {
        (kept() < 16 << 20).then_some(())
    });
}
