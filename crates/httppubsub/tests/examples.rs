//! The examples do what they say, against a real broadcaster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use httppubsub::Secrets;
use httppubsub::broadcaster::{Config, ServeConfig};
use httppubsub_e2e::{Connection, InProcess, Postgres, Process, exact};

const ANY_PORT: &str = "127.0.0.1:0";

/// The example of this name, as cargo built it beside this test.
fn example(name: &str, arguments: &[&str]) -> Process {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let mut command = Command::new(profile.join("examples").join(name));
    command.args(arguments);
    Process::spawn(name, command)
}

/// A broadcaster in memory, and its url.
fn broadcaster() -> (InProcess, String) {
    let server = InProcess::start(Config::default(), ServeConfig::default());
    let url = format!("http://{}", server.door.address);
    (server, url)
}

/// What stands behind `before` in the next line of `process`.
fn named(process: &Process, before: &str) -> String {
    let line = process.line();
    let named = line.strip_prefix(before);
    named.unwrap_or_else(|| panic!("{line}")).to_owned()
}

fn interrupted(mut process: Process) {
    process.interrupt();
    process.end_well();
}

#[test]
fn publish_and_subscribe_http_speak_with_each_other() {
    let (_server, url) = broadcaster();
    let subscriber = example("subscribe_http", &[&url]);
    assert!(named(&subscriber, "reached at ").starts_with("http://127.0.0.1:"));
    let mut publisher = example("publish", &[&url, "builds/7", "ready"]);
    assert_eq!(publisher.end_well(), ["confirmed by 1"]);
    assert_eq!(subscriber.line(), "builds/7: ready");
    interrupted(subscriber);
    let mut publisher = example("publish", &[&url, "builds/8"]);
    assert_eq!(publisher.end_well(), ["confirmed by 0"]);
}

#[test]
fn subscribe_websocket_drops_what_it_is_told_to() {
    let (server, url) = broadcaster();
    let subscriber = example("subscribe_websocket", &[&url]);
    // Only when its callback has run, everything is subscribed.
    assert_eq!(subscriber.line(), "receiving");
    assert_eq!(server.door.notify("cache/7", b""), 1);
    assert_eq!(subscriber.line(), "dropping cache/7");
    interrupted(subscriber);
}

#[test]
fn webhook_in_axum_has_its_own_routes_beside() {
    let (server, url) = broadcaster();
    let app = example("webhook_in_axum", &[&url, ANY_PORT]);
    let reached = named(&app, "reached at http://");
    assert_eq!(server.door.notify("orders", b"one"), 1);
    assert_eq!(app.line(), "1 orders");
    let address: SocketAddr = reached.split('/').next().unwrap().parse().unwrap();
    let front = Connection::open(address).unwrap().get("/");
    assert_eq!(front.text(), "1 orders\n");
    interrupted(app);
}

#[test]
fn large_file_arrives_as_it_was_sent() {
    let (_server, url) = broadcaster();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (from, to) = (path("from"), path("to"));
    let content: Vec<u8> = (0..24 * 1024 * 1024)
        .map(|it: u32| (it / 7) as u8)
        .collect();
    std::fs::write(&from, &content).unwrap();
    let lines = example("large_file", &[&url, &from, &to]).end_well();
    assert_eq!(lines.last().unwrap(), "received 25165824 bytes");
    assert!(std::fs::read(&to).unwrap() == content);
}

#[test]
fn mounted_is_a_broadcaster_under_its_prefix() {
    let app = example("mounted", &[ANY_PORT]);
    let url = named(&app, "the broadcaster is ");
    let subscriber = example("subscribe_http", &[&url]);
    subscriber.line();
    let mut publisher = example("publish", &[&url]);
    assert_eq!(publisher.end_well(), ["confirmed by 1"]);
    interrupted(subscriber);
    interrupted(app);
}

#[test]
fn in_memory_everything_is_one_process() {
    let lines = example("in_memory", &[]).end_well();
    let jobs = (1..=3).flat_map(|it| {
        let confirmed = format!("jobs/{it}: confirmed by 1");
        [confirmed, format!("received jobs/{it}")]
    });
    let wanted: Vec<_> = jobs.chain(["stopped in order: true".to_owned()]).collect();
    assert_eq!(lines, wanted);
}

#[test]
fn own_authorization_lets_only_some_topics_be_notified() {
    let lines = example("own_authorization", &[]).end_well();
    assert_eq!(lines[0], "public/news: notified");
    assert!(lines[1].contains("refused with status 403"), "{lines:?}");
    assert!(
        lines[1].contains("the topic is not below public/"),
        "{lines:?}"
    );
}

#[test]
fn cluster_is_two_broadcasters_that_act_as_one() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Postgres::shared().database());
    let lines = example("cluster", &[&database]).end_well();
    let wanted = ["confirmed by 1", "received orders", "stopped: true true"];
    assert_eq!(lines, wanted);
}

#[test]
fn shutdown_is_in_order_and_keeps_what_is_subscribed() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("broadcaster-secrets.json");
    std::fs::write(secrets, Secrets::NONE.to_text()).unwrap();
    let path = folder.path().to_str().unwrap();
    let mut service = example("shutdown", &[path, ANY_PORT]);
    let url = named(&service, "listening on ");
    let mut publisher = example("publish", &[&url]);
    assert_eq!(publisher.end_well(), ["confirmed by 0"]);
    service.terminate();
    assert_eq!(service.end_well(), ["stopped"]);
    assert!(folder.path().join("subscriptions.db").exists());
}

#[test]
fn testing_is_possible_without_and_with_a_broadcaster() {
    let lines = example("testing", &[]).end_well();
    let wanted = ["from a feed: 42", "from a broadcaster: 42"];
    assert_eq!(lines[..2], wanted);
    assert_eq!(lines[2], "stopped in order: true");
}

#[test]
fn subscriptions_of_others_are_added_once() {
    let (server, url) = broadcaster();
    let hook = "http://127.0.0.1:9/hook";
    let added = |word: &str| {
        let lines = example("subscriptions_of_others", &[&url, hook]).end_well();
        assert!(lines[0].ends_with(word), "{lines:?}");
        assert!(lines[1].ends_with(word), "{lines:?}");
        assert!(lines[2].starts_with("etag "), "{lines:?}");
    };
    added(": added");
    added(": there already");
    server.door.subscribe(hook, exact("another"), None);
}

/// The most lines that an example has.
const LINES_MAX: usize = 60;

#[test]
fn every_example_is_short_and_run_by_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let own = include_str!("examples.rs");
    let mut examples: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        examples.push(entry.unwrap().path());
    }
    assert!(examples.len() >= 10, "{examples:?}");
    for path in examples {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LINES_MAX, "{name}: {lines}");
        assert!(
            own.contains(&format!("example(\"{name}\", ")),
            "no test runs {name}"
        );
    }
}
