//! The plain door: publishing with nothing but HTTP and a token.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use httppubsub_broadcaster::{Config, Tokens};
use httppubsub_client::NotifyBody;
use httppubsub_client::plain::Plain;
use httppubsub_e2e::{
    Asked, Fault, Gate, Home, InProcess, Postgres, Proxy, Response, Server, Subscriber, eventually,
    exact, glob, httppubsub,
};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_proto::digest::Sha512;
use serde_json::Value;

/// A home with a tokens file, and a token for topics that begin with `t`.
struct Tokened {
    home: Home,
    token: String,
}

impl Tokened {
    fn new() -> Self {
        let home = Home::new();
        let token = add(&home, &["ci", "--publish", "t*"]);
        Self { home, token }
    }

    fn file(&self) -> PathBuf {
        file(&self.home)
    }

    fn serve(&self, flags: &[&str]) -> Server {
        let file = self.file().display().to_string();
        self.home.serve(&[&["--tokens", &file], flags].concat())
    }

    /// A publication of `body`, with the token.
    fn publication(&self, topic: &str, headers: &str, body: &[u8]) -> Asked {
        Asked {
            path: format!("/v1/topics/{topic}"),
            authorization: Some(format!("Bearer {}", self.token).into_bytes()),
            headers: headers.to_owned(),
            body: body.to_vec(),
        }
    }
}

fn file(home: &Home) -> PathBuf {
    home.path().join("tokens.json")
}

/// What `httppubsub token` with these words prints.
fn token(home: &Home, words: &[&str]) -> (bool, String) {
    let mut command = httppubsub();
    command
        .arg("token")
        .args(words)
        .arg("--tokens")
        .arg(file(home));
    let output = command.output().unwrap();
    let said = match output.status.success() {
        true => output.stdout,
        false => output.stderr,
    };
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn add(home: &Home, words: &[&str]) -> String {
    let (is_done, said) = token(home, &[&["add"], words].concat());
    assert!(is_done, "{said}");
    let token = said.trim_end_matches('\n');
    assert!(
        token.starts_with("hps_") && token.len() == 47,
        "nothing but the token"
    );
    token.to_owned()
}

fn said(response: &Response) -> Value {
    let text = std::str::from_utf8(&response.body).unwrap();
    assert!(text.ends_with("}\n"), "{text}");
    assert_eq!(response.header("cache-control"), Some("no-store"));
    serde_json::from_str(text).unwrap()
}

/// The code of a failure, which has the form of RFC 9457.
#[track_caller]
fn code(response: &Response) -> String {
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json"),
        "{response:?}"
    );
    let said = said(response);
    assert_eq!(said["status"], response.status);
    assert_eq!(said["type"], "about:blank");
    assert!(!said["title"].as_str().unwrap().is_empty());
    assert!(!said["detail"].as_str().unwrap().is_empty());
    said["code"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_published_is_delivered_and_what_became_of_it_is_said() {
    let tokened = Tokened::new();
    let server = tokened.serve(&[]);
    let subscriber = Subscriber::start(tokened.home.signer());
    for path in ["/one", "/other"] {
        server
            .door
            .subscribe(&subscriber.url(path), exact("t/7"), None);
    }
    let gone = httppubsub_e2e::Deaf::closed();
    server.door.subscribe(&gone.url("/"), exact("t/7"), None);
    let response = server.door.ask(&tokened.publication("t/7", "", b"drop it"));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    let said = said(&response);
    assert_eq!((&said["topic"], &said["bytes"]), (&"t/7".into(), &7.into()));
    assert_eq!(said["sha512"], Sha512::of(b"drop it").to_string());
    assert!(said["id"].as_str().unwrap().starts_with("msg_"));
    let counts = [
        "subscribers",
        "matched",
        "confirmed",
        "missed",
        "dropped",
        "unrecorded",
    ];
    let counts = counts.map(|name| said[name].as_u64().unwrap());
    assert_eq!(counts, [2, 3, 2, 0, 1, 0]);
    let delivery = &subscriber.await_deliveries(&subscriber.url("/one"), 1)[0];
    assert!(delivery.is_genuine);
    assert_eq!(delivery.message(), b"drop it");
    // Any bytes, in any length, chunked as well, and for the empty topic.
    let tokened_for_all = add(&tokened.home, &["all", "--publish", "*"]);
    eventually("the new token is read", || {
        let mut asked = tokened.publication("%00%ff", "", &[0xff, 0]);
        asked.authorization = Some(format!("Bearer {tokened_for_all}").into_bytes());
        (server.door.ask(&asked).status == 200).then_some(())
    });
    let mut connection = server.door.connect();
    let head = format!(
        "POST /v1/topics/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\
         Authorization: Basic {}\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        BASE64_STANDARD.encode(format!("anybody:{tokened_for_all}"))
    );
    connection.send(head.as_bytes()).unwrap();
    let response = connection.answer().unwrap().unwrap();
    let said = self::said(&response);
    assert_eq!((&said["topic"], &said["bytes"]), (&"".into(), &3.into()));
}

#[test]
fn every_mistake_has_its_code() {
    let tokened = Tokened::new();
    let server = tokened.serve(&["--message-bytes-max", "100"]);
    let ask = |topic: &str, headers: &str| {
        let asked = tokened.publication(topic, headers, b"drop it");
        let response = server.door.ask(&asked);
        (response.status, code(&response))
    };
    let long = "a".repeat(256);
    let too_long = format!("t{}", "a".repeat(65_535));
    for (topic, headers, status, code) in [
        ("t%4", String::new(), 400, "topic_malformed"),
        ("t?a", String::new(), 400, "query_not_allowed"),
        ("x", String::new(), 403, "not_allowed"),
        (
            "t",
            "Content-Digest: sha-256=:AA==:\r\n".to_owned(),
            400,
            "digest_mismatch",
        ),
        (
            "t",
            "Repr-Digest: sha-512\r\n".to_owned(),
            400,
            "digest_malformed",
        ),
        (
            "t",
            "ce-specversion: 1.0\r\n".to_owned(),
            400,
            "not_a_cloudevent",
        ),
        (
            "t",
            format!("Content-Type: {long}\r\n"),
            400,
            "content_type_too_long",
        ),
        (
            "t",
            format!("ce-a: {}\r\n", "a".repeat(8_192)),
            431,
            "headers_too_large",
        ),
        (
            "t",
            "Idempotency-Key: \"\"\r\n".to_owned(),
            400,
            "key_malformed",
        ),
        ("t", "Httppubsub-Hops: 5\r\n".to_owned(), 508, "loop"),
        (
            "t",
            "Httppubsub-Hops: x\r\n".to_owned(),
            400,
            "hops_malformed",
        ),
    ] {
        assert_eq!(
            ask(topic, &headers),
            (status, code.to_owned()),
            "{topic} {headers}"
        );
    }
    // A head has at most 64 KiB, so that a topic that is too long does not come.
    assert_eq!(
        server
            .door
            .ask(&tokened.publication(&too_long, "", b""))
            .status,
        431
    );
    let long_message = tokened.publication("t", "", &[0; 101]);
    assert_eq!(code(&server.door.ask(&long_message)), "too_long");
    for authorization in [
        None,
        Some("Bearer hps_unknown"),
        Some("Digest x"),
        Some("Bearer"),
    ] {
        let mut asked = tokened.publication("t", "", b"");
        asked.authorization = authorization.map(|it| it.as_bytes().to_vec());
        let response = server.door.ask(&asked);
        assert_eq!(
            (response.status, code(&response)),
            (401, "unauthorized".to_owned())
        );
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        assert!(
            !said(&response)["detail"]
                .as_str()
                .unwrap()
                .contains("unknown hps")
        );
    }
    let mut connection = server.door.connect();
    connection
        .send(b"DELETE /v1/topics/t HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let other_method = connection.answer().unwrap().unwrap();
    assert_eq!(
        (other_method.status, code(&other_method)),
        (405, "method_not_allowed".to_owned())
    );
    assert_eq!(other_method.header("allow"), Some("GET,HEAD,POST"));
    let without = Home::new().serve(&[]);
    let response = without.door.ask(&tokened.publication("t", "", b""));
    assert_eq!(
        (response.status, code(&response)),
        (404, "no_tokens".to_owned())
    );
    // A body that breaks off, and one for which there is no room.
    let mut connection = server.door.connect();
    connection
        .announce(&tokened.publication("t", "", b""), 50)
        .unwrap();
    connection.finish().unwrap();
    let response = connection.answer().unwrap().unwrap();
    assert_eq!(
        (response.status, code(&response)),
        (400, "body_broken".to_owned())
    );
}

#[test]
fn what_cannot_be_taken_now_may_be_sent_again() {
    let tokened = Tokened::new();
    let server = tokened.serve(&["--deliveries-pending-max", "1", "--notify-timeout", "150"]);
    let subscriber = Subscriber::start(tokened.home.signer());
    let (gate, url) = (Gate::default(), subscriber.url("/"));
    subscriber.confirm_behind(&url, &gate);
    server.door.subscribe(&url, exact("t"), None);
    let mut first = server.door.connect();
    first.post(&tokened.publication("t", "", b"first")).unwrap();
    subscriber.await_deliveries(&url, 1);
    // Of another peer, which has a place of its own and none among all.
    let other = Subscriber::start(tokened.home.signer());
    server.door.subscribe(&other.url("/"), exact("t/2"), None);
    let response = server.door.ask(&tokened.publication("t/2", "", b"second"));
    assert_eq!(
        (response.status, code(&response)),
        (503, "overloaded".to_owned())
    );
    assert_eq!(response.header("retry-after"), Some("1"));
    gate.open();
    assert_eq!(first.answer().unwrap().unwrap().status, 200);
    let data = tokened.home.path().join("full").display().to_string();
    let flags = [
        "--data",
        &data,
        "--db",
        "memory",
        "--spool-disk-max",
        "1MiB",
    ];
    let full = tokened.serve(&[&flags[..], &["--spool-above", "1kB"]].concat());
    let response = full
        .door
        .ask(&tokened.publication("t", "", &[0; 2_000_000]));
    assert_eq!(
        (response.status, code(&response)),
        (507, "disk_full".to_owned())
    );
}

#[test]
fn a_key_is_published_once_and_its_answer_repeated() {
    let tokened = Tokened::new();
    let server = tokened.serve(&["--notify-timeout", "150"]);
    let subscriber = Subscriber::start(tokened.home.signer());
    let (gate, url) = (Gate::default(), subscriber.url("/"));
    subscriber.confirm_behind(&url, &gate);
    server.door.subscribe(&url, exact("t"), None);
    let asked = tokened.publication("t", "Idempotency-Key: \"k1\"\r\n", b"drop it");
    let mut first = server.door.connect();
    first.post(&asked).unwrap();
    subscriber.await_deliveries(&url, 1);
    let meanwhile = server.door.ask(&asked);
    assert_eq!(
        (meanwhile.status, code(&meanwhile)),
        (409, "key_under_way".to_owned())
    );
    assert_eq!(meanwhile.header("retry-after"), Some("1"));
    // Who gives up and asks again does not publish twice.
    drop(first);
    gate.open();
    let again = eventually("the first is finished", || {
        let again = server.door.ask(&asked);
        (again.status == 200).then_some(again)
    });
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(said(&again)["confirmed"], 1);
    let bare = tokened.publication("t", "Idempotency-Key: k1\r\n", b"drop it");
    assert_eq!(
        said(&server.door.ask(&bare)),
        said(&again),
        "quotes are no part of the key"
    );
    let other = tokened.publication("t", "Idempotency-Key: k1\r\n", b"something else");
    let response = server.door.ask(&other);
    assert_eq!(
        (response.status, code(&response)),
        (422, "key_reused".to_owned())
    );
    assert_eq!(subscriber.deliveries().len(), 1);
    let new = tokened.publication("t", "Idempotency-Key: k2\r\n", b"drop it");
    let new = server.door.ask(&new);
    assert_eq!(new.header("idempotency-replayed"), None);
    assert_ne!(said(&new)["id"], said(&again)["id"]);
    assert_eq!(subscriber.deliveries().len(), 2);
}

#[test]
fn a_key_that_was_taken_at_one_broadcaster_is_refused_at_the_other() {
    let tokened = Tokened::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Postgres::shared().database());
    let serve = |name: &str| {
        let data = tokened.home.path().join(name).display().to_string();
        tokened.serve(&["--db", &database, "--data", &data])
    };
    let (one, other) = (serve("one"), serve("other"));
    let asked = tokened.publication("t", "Idempotency-Key: k\r\n", b"drop it");
    let first = one.door.ask(&asked);
    assert_eq!(first.status, 200);
    let response = other.door.ask(&asked);
    assert_eq!(
        (response.status, code(&response)),
        (409, "key_taken_elsewhere".to_owned())
    );
    let again = one.door.ask(&asked);
    assert_eq!(said(&again), said(&first));
    // One that came to nothing may be taken anywhere.
    let wrong = "Idempotency-Key: k2\r\nContent-Digest: sha-256=:AA==:\r\n";
    let wrong = one.door.ask(&tokened.publication("t", wrong, b"drop it"));
    assert_eq!(code(&wrong), "digest_mismatch");
    let right = tokened.publication("t", "Idempotency-Key: k2\r\n", b"drop it");
    let right = eventually("the key is given back", || {
        let response = other.door.ask(&right);
        (response.status == 200).then_some(response)
    });
    // The identifier is made of token, topic and key, wherever that is.
    let keyed = |server: &Server, key: &str| {
        let asked = tokened.publication("t", &format!("Idempotency-Key: {key}\r\n"), b"");
        said(&server.door.ask(&asked))["id"].clone()
    };
    let ids: BTreeSet<_> = [
        keyed(&one, "k3"),
        keyed(&other, "k4"),
        said(&right)["id"].clone(),
    ]
    .map(|id| id.to_string())
    .into();
    assert_eq!(ids.len(), 3);
}

#[test]
fn what_cannot_be_recorded_is_not_accounted_for() {
    let tokened = Tokened::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let postgres = runtime.block_on(Postgres::shared().database());
    let (user, rest) = postgres.split_once('@').unwrap();
    let (address, name) = rest.split_once('/').unwrap();
    let proxy = Proxy::start(address.parse().unwrap());
    let database = format!("{user}@{}/{name}", proxy.address);
    let server = tokened.serve(&["--db", &database]);
    let subscriber = Subscriber::start(tokened.home.signer());
    let (url, gate) = (subscriber.url("/"), Gate::default());
    let behind = gate.clone();
    subscriber.on(&url, move |_| {
        vec![
            httppubsub_e2e::Act::Pass(behind.clone()),
            httppubsub_e2e::Act::Close,
        ]
    });
    server
        .door
        .subscribe(&url, exact("t"), Some(&subscriber.recovery("/")));
    let mut connection = server.door.connect();
    connection
        .post(&tokened.publication("t", "", b"drop it"))
        .unwrap();
    subscriber.await_deliveries(&url, 1);
    // The database goes away between the delivery and the record of what was missed.
    proxy.set(Fault::ResetAfter(1));
    proxy.cut();
    gate.open();
    let response = connection.answer().unwrap().unwrap();
    assert_eq!(
        (response.status, code(&response)),
        (503, "not_accounted_for".to_owned())
    );
    let said = said(&response);
    assert_eq!(
        (&said["matched"], &said["unrecorded"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn tokens_are_read_again_when_their_file_changes() {
    let tokened = Tokened::new();
    let Server { door, mut process } = tokened.serve(&[]);
    let status = |token: &str| {
        let mut asked = tokened.publication("t", "", b"");
        asked.authorization = Some(format!("Bearer {token}").into_bytes());
        door.ask(&asked).status
    };
    assert_eq!(status(&tokened.token), 200);
    let second = add(&tokened.home, &["ci"]);
    process.hang_up();
    eventually("the second token is read", || {
        (status(&second) == 200).then_some(())
    });
    assert_eq!(status(&tokened.token), 200, "both are good");
    // A file that cannot be used changes nothing.
    let good = std::fs::read_to_string(tokened.file()).unwrap();
    std::fs::write(tokened.file(), good.replace("publish", "publsh")).unwrap();
    let line = process.log_line("the tokens file cannot be used");
    assert!(
        line.contains("\\\"publsh\\\" is unknown") || line.contains("\"publsh\" is unknown"),
        "{line}"
    );
    assert_eq!((status(&tokened.token), status(&second)), (200, 200));
    std::fs::write(tokened.file(), &good).unwrap();
    let (_, listed) = token(&tokened.home, &["list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let hash = listed["sha256"][0].as_str().unwrap();
    let (is_done, said) = token(&tokened.home, &["remove", "ci", "--hash", &hash[..10]]);
    assert!(is_done, "{said}");
    eventually("the first token is gone", || {
        (status(&tokened.token) == 401).then_some(())
    });
    assert_eq!(status(&second), 200);
    std::fs::remove_file(tokened.file()).unwrap();
    eventually("no token is left", || {
        (status(&second) == 404).then_some(())
    });
}

#[test]
fn tokens_are_made_and_removed_and_mistakes_are_told() {
    let home = Home::new();
    let wrong = |words: &[&str], part: &str| {
        let (is_done, said) = token(&home, words);
        assert!(!is_done && said.contains(part), "{words:?}: {said}");
    };
    wrong(&["add", "ci"], "give it rights");
    wrong(&["add", "c i", "--publish", "*"], "\"name\" is not");
    wrong(
        &["add", "ci", "--publish", "a*b"],
        "`*` may stand only at the end",
    );
    wrong(
        &["add", "ci", "--publish", "*", "--expires", "tomorrow"],
        "\"expires\" is not a time",
    );
    wrong(&["remove", "ci"], "there is none");
    assert!(!file(&home).exists());
    let expires = [
        "ci",
        "--publish",
        "a*",
        "--publish",
        "b",
        "--expires",
        "2999-01-01T00:00:00Z",
    ];
    add(&home, &expires);
    wrong(&["add", "ci", "--admin"], "is there already");
    let (_, listed) = token(&home, &["list"]);
    let words: Vec<_> = listed.trim_end().split('\t').collect();
    let wanted = [
        "ci",
        "publish \"a*\"",
        "publish \"b\"",
        "until 2999-01-01T00:00:00Z",
    ];
    assert_eq!(words[..4], wanted);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&file(&home).metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(file(&home)).unwrap();
    assert!(!text.contains("hps_"), "only hashes are kept");
    std::fs::write(file(&home), "{").unwrap();
    wrong(&["list"], "is not JSON");
    let refused = |file: &str, part: &str| {
        let mut serve = home.spawn(&["--tokens", file]);
        let (status, _) = serve.end();
        let log = serve.log();
        assert!(status.code() == Some(1) && log.contains(part), "{log}");
    };
    refused(&file(&home).display().to_string(), "is not JSON");
    refused(
        "/nowhere/tokens.json",
        "that --tokens or HTTPPUBSUB_TOKENS names is not there",
    );
}

#[test]
fn a_library_replaces_tokens_while_it_serves() {
    let mut config = Config::default();
    config.tokens =
        Tokens::parse(r#"{"version":"1","tokens":[{"name":"anyone","publish":["public/*"]}]}"#)
            .unwrap();
    let broadcaster = InProcess::start(config, ServeConfig::default());
    let asked = |topic: &str| Asked {
        path: format!("/v1/topics/{topic}"),
        authorization: None,
        headers: String::new(),
        body: b"x".to_vec(),
    };
    let status = |topic: &str| broadcaster.door.ask(&asked(topic)).status;
    assert_eq!((status("public/x"), status("private")), (200, 403));
    broadcaster.broadcaster.set_tokens(Tokens::default());
    assert_eq!(status("public/x"), 404);
    // A mounted router strips its prefix.
    let mut config = Config::default();
    config.tokens =
        Tokens::parse(r#"{"version":"1","tokens":[{"name":"anyone","publish":["*"]}]}"#).unwrap();
    let mounted = InProcess::mounted(config, ServeConfig::default(), "/pubsub", |broadcaster| {
        axum::Router::new().nest("/pubsub", broadcaster.router())
    });
    let said = said(&mounted.door.ask(&asked("a//b")));
    assert_eq!(said["topic"], "a//b");
}

#[test]
fn the_command_and_the_library_publish_by_a_token() {
    let tokened = Tokened::new();
    let server = tokened.serve(&[]);
    let subscriber = Subscriber::start(tokened.home.signer());
    let url = subscriber.url("/");
    server.door.subscribe(&url, exact("t/1"), None);
    let address = server.door.address;
    let notify = |words: &[&str], token: &str| {
        let mut command = httppubsub();
        command.args(["notify", "--token", token, "--broadcaster"]);
        let output = command
            .arg(format!("http://{address}/"))
            .args(words)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let done = |said: &str| (Some(0), said.to_owned(), String::new());
    let one = ["t/1", "--data", "drop it"];
    assert_eq!(
        notify(&one, &tokened.token),
        done("1 subscriber confirmed\n")
    );
    assert_eq!(
        subscriber.await_deliveries(&url, 1)[0].message(),
        b"drop it"
    );
    let keyed = ["t/1", "--data", "drop it", "--idempotency-key", "k"];
    assert_eq!(
        notify(&keyed, &tokened.token),
        done("1 subscriber confirmed\n")
    );
    assert_eq!(
        notify(&keyed, &tokened.token),
        done("1 subscriber confirmed\n")
    );
    assert_eq!(subscriber.deliveries().len(), 2, "of the key once");
    let (status, _, said) = notify(&["x", "--data", ""], &tokened.token);
    assert_eq!(status, Some(1));
    assert!(
        said.contains("403: the token ci may not publish to this topic"),
        "{said}"
    );
    let (status, _, said) = notify(&one, "hps_other");
    assert!(
        status == Some(1) && said.contains("the token is unknown"),
        "{said}"
    );
    assert!(!said.contains("hps_other"), "{said}");
    let (status, _, said) = notify(
        &["t/1", "--data", "", "--idempotency-key", "a b"],
        &tokened.token,
    );
    assert!(
        status == Some(1) && said.contains("idempotency key"),
        "{said}"
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let plain = Plain::new(format!("http://{address}"), tokened.token.as_str()).unwrap();
        let published = plain.publish(b"t/\xff//..", "x").await.unwrap();
        assert_eq!(published.topic.as_bytes(), b"t/\xff//..");
        assert_eq!((published.outcomes.matched(), published.bytes), (0, 1));
        let file = tokened.home.path().join("long");
        std::fs::write(&file, vec![7; 3_000_000]).unwrap();
        let long = plain
            .publish_once("long", "t/1", NotifyBody::path(&file))
            .await
            .unwrap();
        assert_eq!((long.bytes, long.outcomes.confirmed), (3_000_000, 1));
        let refused = plain
            .publish_once("long", "t/1", "another")
            .await
            .unwrap_err();
        assert!(
            !refused.is_ambiguous() && refused.to_string().contains("422"),
            "{refused}"
        );
        let nobody = httppubsub_e2e::Deaf::closed();
        let nobody = Plain::new(nobody.url(""), tokened.token.as_str()).unwrap();
        assert!(!nobody.publish("t", "x").await.unwrap_err().is_ambiguous());
        assert!(Plain::new("http://h/?q", "t").is_err());
        assert!(Plain::new("http://h", "a b").is_err());
        assert!(!format!("{plain:?}").contains("hps_"));
    });
}

/// The lines of an answer with receipts.
fn lines(response: &Response) -> Vec<Value> {
    assert_eq!(
        response.header("content-type"),
        Some("application/x-ndjson")
    );
    let text = std::str::from_utf8(&response.body).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_outcome_is_told_as_it_happens_and_only_to_admins_whose_it_is() {
    let tokened = Tokened::new();
    let admin = add(&tokened.home, &["ops", "--admin"]);
    let server = tokened.serve(&["--notify-timeout", "150"]);
    let (good, slow) = (
        Subscriber::start(tokened.home.signer()),
        Subscriber::start(tokened.home.signer()),
    );
    let gate = Gate::default();
    slow.confirm_behind(&slow.url("/"), &gate);
    let gone = httppubsub_e2e::Deaf::closed();
    let urls = [good.url("/"), slow.url("/"), gone.url("/")];
    for (url, topic) in urls.iter().zip(["t", "t", "t/gone"]) {
        server.door.subscribe(url, exact(topic), None);
    }
    let accept = "Accept: text/plain, application/x-ndjson;q=0.9\r\n";
    let mut connection = server.door.connect();
    connection
        .post(&tokened.publication("t", accept, b"drop it"))
        .unwrap();
    slow.await_deliveries(&slow.url("/"), 1);
    // The first two lines are here while another subscriber is waited for.
    let early = connection.read_until(b"confirmed").unwrap();
    assert!(
        early.contains("200 OK") && early.contains("\"accepted\""),
        "{early}"
    );
    assert!(!early.contains("done"), "{early}");
    gate.open();
    let rest = connection.read_until(b"\"done\"").unwrap();
    assert!(
        !(early + &rest).contains("127.0.0.1"),
        "whose it is is not for this token"
    );
    // With an admin's token, and of what is missed also why.
    let mut asked = tokened.publication("t/gone", accept, b"drop it");
    asked.authorization = Some(format!("Bearer {admin}").into_bytes());
    let told = lines(&server.door.ask(&asked));
    let kinds: Vec<_> = told.iter().map(|it| it["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["accepted", "delivery", "done"]);
    assert_eq!(
        (&told[0]["matched"], &told[0]["bytes"]),
        (&1.into(), &7.into())
    );
    assert_eq!(told[1]["outcome"], "dropped");
    let origin = gone.url("");
    assert_eq!(told[1]["url"], origin.trim_end_matches('/'));
    assert!(!told[1]["why"].as_str().unwrap().is_empty());
    assert_eq!(
        (&told[2]["dropped"], &told[2]["left_out"]),
        (&1.into(), &0.into())
    );
    // Nobody is subscribed, and what is refused.
    let told = lines(
        &server
            .door
            .ask(&tokened.publication("t/nobody", accept, b"")),
    );
    assert_eq!((told.len(), &told[0]["matched"]), (2, &0.into()));
    let refused = server.door.ask(&tokened.publication("x", accept, b""));
    assert_eq!(
        (refused.status, code(&refused)),
        (403, "not_allowed".to_owned())
    );
    // A repeated key gets the stored answer.
    let keyed = format!("{accept}Idempotency-Key: k\r\n");
    let first = lines(
        &server
            .door
            .ask(&tokened.publication("t/nobody", &keyed, b"")),
    );
    let again = server
        .door
        .ask(&tokened.publication("t/nobody", &keyed, b""));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(said(&again)["id"], first[0]["id"]);
}

#[test]
fn a_reader_of_receipts_that_leaves_stops_no_delivery() {
    let tokened = Tokened::new();
    let server = tokened.serve(&[]);
    let subscriber = Subscriber::start(tokened.home.signer());
    let (gate, url) = (Gate::default(), subscriber.url("/"));
    subscriber.confirm_behind(&url, &gate);
    server.door.subscribe(&url, exact("t"), None);
    let asked = tokened.publication("t", "Accept: application/x-ndjson\r\n", b"drop it");
    let mut connection = server.door.connect();
    connection.post(&asked).unwrap();
    let early = connection.read_until(b"accepted").unwrap();
    assert!(early.contains("200 OK"), "{early}");
    drop(connection);
    gate.open();
    subscriber.await_deliveries(&url, 1);
    assert_eq!(server.door.ask(&asked).status, 200);
}

#[test]
fn who_would_get_a_message_is_explained_with_nothing_sent() {
    let tokened = Tokened::new();
    let admin = add(&tokened.home, &["ops", "--admin"]);
    let server = tokened.serve(&[]);
    let subscriber = Subscriber::start(tokened.home.signer());
    let gone = httppubsub_e2e::Deaf::closed();
    server
        .door
        .subscribe(&subscriber.url("/"), glob("t/*"), None);
    server.door.subscribe(&gone.url("/"), exact("t/7"), None);
    let explain = |token: &str, topic: &str| {
        let head = format!(
            "GET /v1/topics/{topic} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let mut connection = server.door.connect();
        connection.send(head.as_bytes()).unwrap();
        connection.answer().unwrap().unwrap()
    };
    let told = said(&explain(&tokened.token, "t/7"));
    assert_eq!(
        (&told["matched"], &told["not_shown"]),
        (&2.into(), &2.into())
    );
    assert_eq!(told["subscriptions"].as_array().unwrap().len(), 0);
    let would = || {
        let told = said(&explain(&admin, "t/7"));
        assert_eq!(
            (&told["matched"], &told["not_shown"]),
            (&2.into(), &0.into())
        );
        let shown = told["subscriptions"].as_array().unwrap().clone();
        let of = |url: String| {
            let of_url = |it: &&Value| it["url"] == url;
            shown.iter().find(of_url).unwrap().clone()
        };
        [of(subscriber.url("/")), of(gone.url("/"))]
    };
    let [good, bad] = would();
    assert_eq!(good["matches"], serde_json::json!([{ "glob": "t/*" }]));
    assert_eq!(bad["matches"], serde_json::json!([{ "exact": "t/7" }]));
    assert_eq!([&good["would"], &bad["would"]], ["post", "post"]);
    eventually("the breaker opens", || {
        assert_eq!(
            server.door.ask(&tokened.publication("t/7", "", b"")).status,
            200
        );
        let [good, bad] = would();
        assert_eq!(good["would"], "post");
        let is_open = bad["would"] == "not_tried";
        assert!(!is_open || !bad["why"].as_str().unwrap().is_empty());
        is_open.then_some(())
    });
    let before = subscriber.deliveries().len();
    would();
    assert_eq!(subscriber.deliveries().len(), before);
    for (token, topic, status) in [(&tokened.token, "x", 403), (&tokened.token, "t?a", 400)] {
        assert_eq!(explain(token, topic).status, status);
    }
    assert_eq!(explain("hps_x", "t").status, 401);
}
