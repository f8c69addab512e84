//! The program as a person meets it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use httppubsub_e2e::{Home, Process, Server, httppubsub};
use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    httppubsub().args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn fails(arguments: &[&str], status: i32, says: &str) {
    let output = run(arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    assert!(said.contains(says), "{arguments:?}: {said}");
    assert!(
        output.stdout.is_empty(),
        "{arguments:?}: {}",
        stdout(&output)
    );
}

/// A broadcaster, and the flags by which others speak with it.
struct Stage {
    home: Home,
    server: Server,
    url: String,
    secrets: String,
}

impl Stage {
    fn new() -> Self {
        let home = Home::new();
        let server = home.serve(&["--db", "memory"]);
        let url = format!("http://{}", server.door.address);
        let secrets = home.path().join("secrets.json").display().to_string();
        Self {
            home,
            server,
            url,
            secrets,
        }
    }

    fn arguments<'a>(&'a self, own: &[&'a str]) -> Vec<&'a str> {
        let own = own.iter().copied();
        own.chain(["--broadcaster", &self.url, "--secrets", &self.secrets])
            .collect()
    }

    fn run(&self, own: &[&str]) -> Output {
        run(&self.arguments(own))
    }

    fn listen(&self, own: &[&str]) -> Process {
        let mut command = httppubsub();
        command.arg("listen").args(self.arguments(own));
        let process = Process::spawn("listen", command);
        if !own.contains(&"--json") {
            process.log_line("listening at http://");
        }
        process
    }
}

#[test]
fn help_explains_every_verb_and_version_says_which() {
    for verb in [
        "setup",
        "serve",
        "listen",
        "notify",
        "subscriptions",
        "demo",
        "completions",
    ] {
        let output = run(&[verb, "--help"]);
        assert!(output.status.success());
        let help = stdout(&output);
        assert!(
            help.contains("Usage: httppubsub") && help.contains(verb),
            "{help}"
        );
    }
    assert_eq!(
        stdout(&run(&["--version"])),
        format!("httppubsub {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert!(stdout(&run(&["--help"])).contains("Exit status: 0 done"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            stdout(&run(&["completions", shell])).contains("httppubsub"),
            "{shell}"
        );
    }
}

#[test]
fn wrong_usage_is_told_with_status_2() {
    fails(&["notify"], 2, "give a TOPIC or --topic-hex");
    fails(&["notify", "topic"], 2, "give the message by one of");
    fails(
        &["notify", "topic", "--data", "x", "--file", "y"],
        2,
        "cannot be used with",
    );
    fails(
        &["notify", "topic", "-", "--data", "x"],
        2,
        "give the message by one of",
    );
    fails(
        &["notify", "--topic-hex", "0g", "--data", "x"],
        2,
        "not hexadecimal digits",
    );
    fails(
        &["listen", "--exact", "x", "--timeout", "soon"],
        2,
        "not a number of seconds",
    );
    fails(
        &["serve", "--db", "mysql:x"],
        2,
        "use sqlite:PATH or memory",
    );
    fails(&["serve", "--listen", "localhost"], 2, "--listen");
}

#[test]
fn setup_writes_secrets_for_their_owner_only_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new/folder");
    let dir = dir.to_str().unwrap();
    let output = run(&["setup", "--dir", dir, "--to-subscribers-auth", "token"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mut contents = Vec::new();
    for file in stdout(&output).lines() {
        assert_eq!(
            std::fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        contents.push(std::fs::read_to_string(file).unwrap());
    }
    assert_eq!(contents.len(), 2);
    assert_eq!(contents[0], contents[1]);
    let secrets: Value = serde_json::from_str(&contents[0]).unwrap();
    assert_eq!(secrets["version"], "2");
    assert_eq!(secrets["to-broadcaster"]["type"], "hmac");
    assert_eq!(secrets["to-subscriber"]["type"], "token");
    fails(&["setup", "--dir", dir], 1, "exists already");
    let other = folder.path().join("other");
    let other = other.to_str().unwrap();
    fails(
        &["setup", "--dir", other, "--to-broadcasters-secret", "short"],
        1,
        "64 bytes",
    );
    assert!(!Path::new(other).exists());
}

#[test]
fn the_first_start_makes_secrets_and_says_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = httppubsub();
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    let mut process = Process::spawn("serve", {
        command.current_dir(folder.path());
        command
    });
    assert!(process.line().starts_with("listening on http://127.0.0.1:"));
    let line = process.log_line("subscriber-secrets.json");
    let line: Value = serde_json::from_str(&line).unwrap();
    let file = line["subscribers"].as_str().unwrap();
    assert!(folder.path().join(file).exists(), "{line}");
    process.terminate();
    process.end_well();
    for line in process.log().lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets.json");
    let path = file.to_str().unwrap();
    let notify = ["notify", "t", "--data", "x", "--secrets", path];
    fails(&notify, 1, path);
    for (text, says) in [
        ("nonsense", "not JSON"),
        (
            "{\"version\": \"3\"}",
            "version \"3\", only \"2\" can be read",
        ),
        (
            "{\"version\": \"2\", \"to-broadcaster\": {\"type\": \"rsa\"}}",
            "unknown type \"rsa\"",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        fails(&notify, 1, says);
        fails(&notify, 1, path);
    }
    fails(
        &["notify", "t", "--file", "/no/such/file"],
        1,
        "/no/such/file",
    );
}

#[test]
fn a_notification_says_in_its_status_what_came_of_it() {
    let stage = Stage::new();
    let output = stage.run(&["notify", "t", "--data", ""]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "accepted; no subscriber confirmed\n");

    // Refused: the signature is somebody else's.
    let other = Home::new();
    let secrets = other.path().join("secrets.json").display().to_string();
    let arguments = [
        "notify",
        "t",
        "--data",
        "x",
        "--broadcaster",
        &stage.url,
        "--secrets",
        &secrets,
    ];
    fails(&arguments, 1, "refused with status 403: not authorized");

    // Perhaps done: the answer is lost.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().read(&mut [0; 1024]);
        }
    });
    fails(
        &["notify", "t", "--data", "x", "--broadcaster", &url],
        3,
        "may or may not have",
    );

    // Not done: nobody is there.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{gone}");
    fails(
        &["notify", "t", "--data", "x", "--broadcaster", &url],
        1,
        "not done in 2 attempts",
    );
    drop(stage.server);
}

#[test]
fn listen_prints_what_arrives_as_text_as_json_and_as_files() {
    let stage = Stage::new();
    let folder = stage.home.path().join("saved");
    let save = folder.to_str().unwrap();
    let mut text = stage.listen(&["--glob", "*", "--exact-hex", "ff00", "--count", "2"]);
    let mut json = stage.listen(&[
        "--glob",
        "*",
        "--exact-hex",
        "ff00",
        "--count",
        "2",
        "--json",
    ]);
    let ready = json.event("listening");
    assert!(
        ready["receive_url"]
            .as_str()
            .unwrap()
            .ends_with("/v1/receive"),
        "{ready}"
    );
    let mut saved = stage.listen(&["--glob", "*", "--count", "1", "--save", save]);

    let mut command = httppubsub();
    command.args(stage.arguments(&["notify", "a/b", "-", "--json"]));
    let mut notifier = Process::spawn("notify", command);
    notifier.tell(&serde_json::json!({"drop": "it"}));
    notifier.close_input();
    let told = notifier.json();
    assert_eq!(
        (&told["topic"], &told["subscribers"]),
        (&"a/b".into(), &3.into()),
        "{told}"
    );
    assert_eq!(told["bytes"], 14);
    notifier.end_well();
    let output = stage.run(&["notify", "--topic-hex", "ff00", "--data", "bytes"]);
    assert_eq!(
        stdout(&output),
        "2 subscribers confirmed\n",
        "{}",
        stderr(&output)
    );

    assert_eq!(
        text.end_well(),
        ["a/b\t{\"drop\":\"it\"}", "\\xff\\x00\tbytes"]
    );
    let first = json.event("message");
    assert_eq!(
        (&first["topic"], &first["body"]),
        (&"a/b".into(), &"{\"drop\":\"it\"}\n".into())
    );
    assert_eq!(first["sha512"], told["sha512"]);
    let second = json.event("message");
    assert_eq!(
        (&second["topic"], &second["topic_base64"]),
        (&Value::Null, &"/wA=".into())
    );
    assert_eq!(second["body_base64"], "Ynl0ZXM=");
    json.end_well();
    saved.end_well();
    let file = std::fs::read_to_string(folder.join("000001-a_b")).unwrap();
    assert_eq!(file, "{\"drop\":\"it\"}\n");

    // All of them have unsubscribed.
    let output = stage.run(&["notify", "a/b", "--data", "x"]);
    assert_eq!(stdout(&output), "accepted; no subscriber confirmed\n");
}

#[test]
fn listen_ends_by_time_and_by_signal_and_unsubscribes() {
    let stage = Stage::new();
    let output = stage.run(&["listen", "--exact", "t", "--timeout", "0.05"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let mut listener = stage.listen(&["--exact", "t"]);
    listener.terminate();
    listener.end_well();
    let output = stage.run(&["notify", "t", "--data", "x"]);
    assert_eq!(stdout(&output), "accepted; no subscriber confirmed\n");
    fails(&stage.arguments(&["listen"]), 2, "give --exact or --glob");
}

#[test]
fn subscriptions_of_others_can_be_looked_after() {
    let stage = Stage::new();
    let ask = |verb: &str, interests: &[&str]| {
        let own = ["subscriptions", verb, "--url", "http://other/hook"];
        stage.run(&[&own[..], interests].concat())
    };
    let both = ["--exact", "a", "--glob", "b*"];
    assert_eq!(ask("check", &[]).status.code(), Some(0));
    assert_eq!(stdout(&ask("add", &both)), "http://other/hook: added: 2\n");
    assert_eq!(ask("add", &["--exact", "a"]).status.code(), Some(0));
    assert_eq!(ask("check", &both).status.code(), Some(0));
    assert_eq!(ask("check", &["--exact", "a"]).status.code(), Some(1));
    assert!(ask("remove", &["--glob", "b*"]).status.success());
    assert_eq!(ask("check", &["--exact", "a"]).status.code(), Some(0));
    assert_eq!(
        stdout(&ask("set", &both)),
        "http://other/hook: subscriptions: 2\n"
    );
    let checked = ask("check", &[&both[..], &["--json"]].concat());
    let checked: Value = serde_json::from_str(&stdout(&checked)).unwrap();
    assert_eq!(
        (&checked["matches"], checked["etag"].as_str().unwrap().len()),
        (&true.into(), 128)
    );
    assert_eq!(
        stdout(&ask("set", &[])),
        "http://other/hook: subscriptions: 0\n"
    );
    assert_eq!(ask("add", &[]).status.code(), Some(2));
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let stage = Stage::new();
    let mut command = httppubsub();
    command
        .arg("listen")
        .args(stage.arguments(&["--exact", "t"]));
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    let mut talk = child.stderr.take().unwrap();
    let mut some = [0; 256];
    while !said.contains("listening at") {
        let bytes = talk.read(&mut some).unwrap();
        assert!(bytes > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&some[..bytes]));
    }
    assert_eq!(
        stdout(&stage.run(&["notify", "t", "--data", "x"])),
        "1 subscriber confirmed\n"
    );
    talk.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(
        said.contains("Broken pipe") && !said.contains("panicked"),
        "{said}"
    );
    std::io::stdout().flush().unwrap();
}

#[test]
fn demo_shows_all_of_it() {
    let output = run(&["demo"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stdout(&output);
    for part in [
        "listening on http://",
        "1 subscriber confirmed",
        "25165824 bytes",
        "no subscriber confirmed",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
