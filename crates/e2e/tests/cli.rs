//! The program as a person meets it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::thread;

use httppubsub_e2e::{
    Act, Asked, Connection, Deaf, Home, Process, Server, Subscriber, at_terminal, exact,
    http_answer, httppubsub, url,
};
use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::topic::Topic;
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
    _server: Server,
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
            _server: server,
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

    /// Tells the subscriber at `receive` that it missed something, as the broadcaster would.
    fn tell_missed(&self, receive: &str, topic: &'static str) {
        let recovery = receive.replace("/v1/receive", "/v1/recover");
        let (address, path) = recovery[7..].split_once('/').unwrap();
        let topic = Topic::new(topic).unwrap();
        let asked = self.home.signer().missed_for_websockets(&recovery, &topic);
        let path = format!("/{path}");
        let mut connection = Connection::open(address.parse().unwrap()).unwrap();
        assert_eq!(connection.ask(&Asked { path, ..asked }).status, 200);
    }
}

#[test]
fn help_explains_every_verb_and_version_says_which() {
    // The words after the program's name, and what their help must show at least.
    let shown: [(&[&str], &str); 15] = [
        (&[], "Exit status: 0 done"),
        (&["setup"], "httppubsub setup --dir secrets"),
        (&["serve"], "httppubsub serve --listen 0.0.0.0:3003"),
        (&["listen"], "httppubsub listen --exact builds/ready"),
        (&["notify"], "date | httppubsub notify time -"),
        (&["subscriptions"], "httppubsub subscriptions add --url"),
        (
            &["subscriptions", "check"],
            "has exactly these subscriptions",
        ),
        (&["subscriptions", "set"], "Give the url exactly these"),
        (&["subscriptions", "add"], "Add these subscriptions"),
        (&["subscriptions", "remove"], "Remove these subscriptions"),
        (
            &["check-url"],
            "httppubsub check-url --egress public --egress-allow",
        ),
        (&["cluster"], "httppubsub cluster status --db postgres://"),
        (
            &["cluster", "status"],
            "List the broadcasters, how far each is behind",
        ),
        (&["demo"], "See it work"),
        (&["completions"], "For bash: `httppubsub completions bash"),
    ];
    for (verb, example) in shown {
        let output = run(&[verb, &["--help"]].concat());
        assert!(output.status.success() && output.stderr.is_empty());
        let help = stdout(&output);
        let usage = ["Usage: httppubsub", &verb.join(" ")].join(" ");
        assert!(help.contains(usage.trim_end()), "{help}");
        assert!(help.contains(example), "{verb:?}: {help}");
        let version = run(&[verb, &["--version"]].concat());
        assert!(stdout(&version).ends_with(concat!(" ", env!("CARGO_PKG_VERSION"), "\n")));
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&run(&["completions", shell]));
        for verb in ["setup", "subscriptions", "--topic-hex"] {
            // Fish spells flags without their dashes.
            let word = verb.trim_start_matches('-');
            assert!(script.contains(word), "{shell}: {word}");
        }
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
        "use sqlite:PATH, postgres://USER@HOST/NAME or memory",
    );
    fails(&["serve", "--listen", "localhost"], 2, "--listen");
    fails(&["serve", "--connections-max", "0"], 2, "at least 1");
    let polling = ["serve", "--threads", "2", "--busy-poll", "50"];
    fails(&polling, 2, "--busy-poll needs --threads 1");
    fails(&["listen"], 2, "Usage: httppubsub listen");
    fails(
        &["notify", "topic"],
        2,
        "Usage: httppubsub notify [OPTIONS]",
    );
    fails(&["subscriptions", "add"], 2, "--url <URL>");
    fails(
        &["subscriptions", "remove", "--url", "http://other/"],
        2,
        "Usage: httppubsub subscriptions remove",
    );
    fails(&["publish"], 2, "unrecognized subcommand");
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
    let [broadcaster, subscriber] = ["broadcaster", "subscriber"]
        .map(|whose| Path::new(dir).join(format!("{whose}-secrets.json")));
    assert_eq!(std::fs::read_to_string(&broadcaster).unwrap(), contents[0]);
    // One of the two is enough to refuse, and the other is not made.
    std::fs::remove_file(&broadcaster).unwrap();
    fails(
        &["setup", "--dir", dir],
        1,
        "subscriber-secrets.json exists already",
    );
    assert!(!broadcaster.exists());
    assert_eq!(std::fs::read_to_string(&subscriber).unwrap(), contents[0]);
}

#[test]
fn setup_refuses_secrets_that_cannot_work() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new");
    let dir = dir.to_str().unwrap();
    for (scheme, secret, says) in [
        ("hmac", "short", "64 bytes"),
        ("token", "", "empty"),
        ("token", "two\nlines", "control characters"),
        ("token", "end ", "begins or ends with a space"),
        ("none", "secret", "the scheme none has no secret"),
    ] {
        for direction in ["--to-broadcasters", "--to-subscribers"] {
            let [auth, flag] = ["auth", "secret"].map(|it| format!("{direction}-{it}"));
            let arguments = ["setup", "--dir", dir, &auth, scheme, &flag, secret];
            fails(&arguments, 1, &format!("{flag}: "));
            fails(&arguments, 1, says);
        }
    }
    assert!(!Path::new(dir).exists());
    let arguments = ["setup", "--dir", dir, "--to-broadcasters-auth", "token"];
    let output = run(&[&arguments[..], &["--to-broadcasters-secret", "a b"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let text = std::fs::read_to_string(Path::new(dir).join("subscriber-secrets.json")).unwrap();
    let secrets: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(secrets["to-broadcaster"]["secret"], "a b");
}

#[test]
fn the_first_start_makes_secrets_and_says_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = httppubsub();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.current_dir(folder.path());
        let process = Process::spawn("serve", command);
        let line = process.line();
        let port = line.strip_prefix("listening on http://127.0.0.1:");
        assert!(port.unwrap().parse::<u16>().unwrap() > 0);
        process
    };
    let end = |mut process: Process| {
        process.terminate();
        assert_eq!(process.end_well(), [""; 0], "stdout has the one line only");
        let log = process.log();
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(
                line["message"].is_string() && line["level"].is_string(),
                "{line}"
            );
        }
        log
    };
    let process = start();
    let line = process.log_line("subscriber-secrets.json");
    let line: Value = serde_json::from_str(&line).unwrap();
    let file = folder.path().join(line["subscribers"].as_str().unwrap());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let secrets = std::fs::read_to_string(&file).unwrap();
    assert!(!end(process).contains("\"secret\""));
    // The second start finds them.
    let log = end(start());
    assert!(!log.contains("fresh"), "{log}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), secrets);
}

/// T17.
#[test]
fn no_log_has_a_secret_or_a_whole_url() {
    let token = "a-token-that-nobody-should-read";
    let home = Home::with(&Secrets {
        to_broadcaster: Scheme::Hmac([7; 64]),
        to_subscriber: Scheme::Token(token.to_owned()),
    });
    let mut server = home.serve(&["--db", "memory", "--log", "trace"]);
    let subscriber = Subscriber::start(home.signer());
    let refuses = subscriber.url("/refuses/key");
    subscriber.on(&refuses, |_| vec![Act::Say(http_answer(500, "", b"no"))]);
    let nobody = Deaf::closed();
    let gone = nobody.url("/gone/key");
    let recovery = subscriber.recovery("/key");
    for url in [&subscriber.url("/good/key"), &refuses, &gone] {
        server.door.subscribe(url, exact("t"), Some(&recovery));
    }
    assert_eq!(server.door.notify("t", b"the message"), 1);
    subscriber.await_deliveries(&recovery, 2);
    let mut forged = home.signer().check(&url(&refuses));
    forged.authorization = Some(b"Bearer x".to_vec());
    assert_eq!(server.door.ask(&forged).status, 403);
    server.process.terminate();
    server.process.end_well();
    let log = server.process.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    let file = std::fs::read_to_string(home.path().join("secrets.json")).unwrap();
    let file: Value = serde_json::from_str(&file).unwrap();
    let secret = file["to-broadcaster"]["secret"].as_str().unwrap();
    for hidden in [token, secret, "/key", "the message"] {
        let line = log.lines().find(|line| line.contains(hidden));
        assert_eq!(line, None, "{hidden}");
    }
}

#[test]
fn a_broadcaster_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let free = ["--data", data, "--listen", "127.0.0.1:0"];
    let missing = format!("{data}/no/such/subscriptions.db");
    let database = format!("sqlite:{missing}");
    let cases: [(&[&str], &str); 5] = [
        (
            &["--data", data, "--listen", &taken],
            &format!("cannot listen on {taken}"),
        ),
        (
            &["--data", file],
            &format!("cannot make the data folder {file}"),
        ),
        (
            &[&free[..], &["--secrets", "/no/such/secrets"]].concat(),
            "cannot use the secrets file /no/such/secrets",
        ),
        (
            &[&free[..], &["--db", &database]].concat(),
            &format!("cannot open the database {missing}"),
        ),
        (
            &[&free[..], &["--log", "info,=,"]].concat(),
            "--log \"info,=,\" is no filter",
        ),
    ];
    for (flags, says) in cases {
        fails(&[&["serve"], flags].concat(), 1, says);
    }
}

#[test]
fn colors_and_bars_are_for_terminals() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // It says that it made secrets, and then that it cannot listen.
    let serve = |data: &str| {
        let mut command = httppubsub();
        command.args(["serve", "--listen", &taken, "--data", data]);
        command.current_dir(folder.path()).env_remove("NO_COLOR");
        command
    };
    let (status, shown) = at_terminal(serve("1"));
    assert_eq!(status.code(), Some(1));
    assert!(
        shown.contains("fresh HMAC secrets") && shown.contains("\x1b["),
        "{shown}"
    );
    let mut plain = serve("2");
    plain.env("NO_COLOR", "1");
    let (_, shown) = at_terminal(plain);
    assert!(
        shown.contains("fresh HMAC secrets") && !shown.contains('\x1b'),
        "{shown}"
    );
    let shown = stderr(&serve("3").output().unwrap());
    assert!(
        shown.contains("fresh HMAC secrets") && !shown.contains('\x1b'),
        "{shown}"
    );

    let stage = Stage::new();
    let file = folder.path().join("file");
    std::fs::write(&file, vec![7; 40 * 1024 * 1024]).unwrap();
    let notify = || {
        let mut command = httppubsub();
        let own = ["notify", "t", "--file", file.to_str().unwrap()];
        command.args(stage.arguments(&own)).env("TERM", "xterm");
        command
    };
    let (status, shown) = at_terminal(notify());
    assert!(status.success() && shown.contains("40.00 MiB"), "{shown:?}");
    let output = notify().output().unwrap();
    assert_eq!(stdout(&output), "accepted; no subscriber confirmed\n");
    assert_eq!(stderr(&output), "");
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
        ("{\"version\": \"3\"}", "another than the text \"2\""),
        (
            "{\"version\": \"2\", \"to-broadcaster\": {\"type\": \"rsa\"}}",
            "its \"type\" is unknown: use none, token or hmac",
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
    let hook = "http://other/";
    let verbs: [&[&str]; 4] = [
        &["notify", "t", "--data", "x"],
        &["subscriptions", "add", "--url", hook, "--exact", "t"],
        &["subscriptions", "set", "--url", hook],
        &["listen", "--exact", "t"],
    ];
    thread::scope(|scope| {
        for verb in verbs {
            let arguments = [verb, &["--broadcaster", &url]].concat();
            scope.spawn(move || fails(&arguments, 3, "may or may not have done it"));
        }
    });

    // Not done: nobody is there.
    let nobody = Deaf::closed();
    let gone = nobody.url("");
    thread::scope(|scope| {
        for verb in verbs {
            let arguments = [verb, &["--broadcaster", &gone]].concat();
            scope.spawn(move || fails(&arguments, 1, "not done in 2 attempts"));
        }
    });
    // The next one does it.
    let both = ["--broadcaster", &gone];
    let output = stage.run(&[&["notify", "t", "--data", "x"], &both[..]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    fails(
        &["notify", "t", "--data", "x", "--broadcaster", "here"],
        1,
        "the broadcaster's url \"here\" cannot be used",
    );
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

    // What is long or no text is described, or saved beside what is there.
    let mut text = stage.listen(&["--exact", "t", "--count", "2"]);
    let mut saved = stage.listen(&[
        "--exact",
        "t",
        "--exact-hex",
        "612f62",
        "--count",
        "3",
        "--save",
        save,
    ]);
    let long = stage.home.path().join("long");
    std::fs::write(&long, "long ".repeat(20_000)).unwrap();
    let bytes = stage.home.path().join("bytes");
    std::fs::write(&bytes, b"\xff\0").unwrap();
    let mut digests = Vec::new();
    for file in [&long, &bytes] {
        let output = stage.run(&["notify", "t", "--json", "--file", file.to_str().unwrap()]);
        let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(told["subscribers"], 2);
        digests.push(told["sha512"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        text.end_well(),
        [
            format!("t\t(100000 bytes, sha512 {})", digests[0]),
            format!("t\t(2 bytes, sha512 {})", digests[1]),
        ]
    );
    stage.run(&["notify", "a/b", "--data", "again"]);
    saved.end_well();
    let content = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert!(content("000001-t") == std::fs::read(&long).unwrap());
    assert_eq!(content("000002-t"), b"\xff\0");
    assert_eq!(content("000001-a_b"), b"{\"drop\":\"it\"}\n");
    assert_eq!(content("000003-a_b"), b"again");

    // All of them have unsubscribed.
    let output = stage.run(&["notify", "a/b", "--data", "x"]);
    assert_eq!(stdout(&output), "accepted; no subscriber confirmed\n");
}

#[test]
fn listen_says_what_was_missed() {
    let stage = Stage::new();
    let mut json = stage.listen(&["--exact", "t", "--json", "--count", "2"]);
    let ready = json.event("listening");
    let mut text = stage.listen(&["--exact", "t", "--count", "2"]);
    let line = text.log_line("listening at ");
    stage.run(&["notify", "t", "--data", "first"]);
    assert_eq!(json.event("message")["body"], "first");
    assert_eq!(text.line(), "t\tfirst");
    stage.tell_missed(ready["receive_url"].as_str().unwrap(), "t");
    json.event("missed");
    stage.tell_missed(line.strip_prefix("listening at ").unwrap(), "t");
    text.log_line("some messages may have been missed");
    stage.run(&["notify", "t", "--data", "x"]);
    assert_eq!(json.event("message")["body"], "x");
    json.end_well();
    assert_eq!(text.end_well(), ["t\tx"]);
}

#[test]
fn listen_ends_by_time_and_by_signal_and_unsubscribes() {
    let stage = Stage::new();
    let output = stage.run(&["listen", "--exact", "t", "--timeout", "0.05"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("the time ran out"));
    assert!(output.stdout.is_empty());
    let mut listener = stage.listen(&["--exact", "t"]);
    listener.terminate();
    listener.end_well();
    let mut listener = stage.listen(&["--exact", "t", "--timeout", "1e18"]);
    listener.interrupt();
    listener.end_well();
    let output = stage.run(&["notify", "t", "--data", "x"]);
    assert_eq!(stdout(&output), "accepted; no subscriber confirmed\n");
    // What arrived before the time was over was printed.
    let mut listener = stage.listen(&["--exact", "t", "--timeout", "5"]);
    stage.run(&["notify", "t", "--data", "x"]);
    let (status, lines) = listener.end();
    assert_eq!((status.code(), lines), (Some(4), vec!["t\tx".to_owned()]));
}

/// A broadcaster that takes a request and answers nothing: even then it can be stopped.
#[test]
fn a_second_signal_ends_listening_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut command = httppubsub();
    command.args(["listen", "--exact", "t", "--broadcaster", &url]);
    let mut listener = Process::spawn("listen", command);
    let asking = silent.accept().unwrap();
    let (status, lines) = loop {
        // Two that come at the same time are one.
        listener.terminate();
        if listener.has_ended() {
            break listener.end();
        }
    };
    assert_eq!((status.code(), lines), (Some(1), vec![]));
    assert!(
        listener.log().contains("subscriptions may be left"),
        "{}",
        listener.log()
    );
    drop(asking);
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
    assert_eq!(ask("add", &["--exact", "a"]).status.code(), Some(1));
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
    let url = "http://other/hook";
    for (verb, want) in [
        (
            "add",
            serde_json::json!({"url": url, "added": 3, "existed": 0}),
        ),
        (
            "remove",
            serde_json::json!({"url": url, "removed": 3, "absent": 0}),
        ),
        ("set", serde_json::json!({"url": url, "subscriptions": 3})),
    ] {
        let told = ask(
            verb,
            &[&both[..], &["--exact-hex", "ff", "--json"]].concat(),
        );
        let told: Value = serde_json::from_str(&stdout(&told)).unwrap();
        assert_eq!(told, want);
    }
    // A recovery url is a part of what is held.
    let recovery = ["--exact", "a", "--recovery", "http://other/missed"];
    assert!(ask("set", &recovery).status.success());
    assert_eq!(ask("check", &recovery).status.code(), Some(0));
    assert_eq!(ask("check", &["--exact", "a"]).status.code(), Some(1));
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
    assert_eq!(child.wait().unwrap().code(), Some(141), "{said}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 1, "it ends quietly: {said}");

    // Whoever prints once says so as well, or says nothing.
    for arguments in [
        &["completions", "bash"][..],
        &["--help"],
        &["setup", "--help"],
        &stage.arguments(&["notify", "t", "--data", "x"]),
        &["demo"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = httppubsub()
            .args(arguments)
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        let said = stderr(&output);
        assert!(
            matches!(output.status.code(), Some(0 | 1 | 141)),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[test]
fn demo_shows_all_of_it_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = httppubsub();
    command.arg("demo").env("TMPDIR", folder.path());
    let output = command.current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let shown = stdout(&output);
    let mut rest = shown.as_str();
    for part in [
        "subscriptions in SQLite, every message signed (HMAC-SHA512)",
        "listening on http://",
        "wants the topic builds/ready and everything that matches cache/*",
        "notify builds/ready   \"build 1207 is ready\": 1 subscriber confirmed",
        "received on builds/ready: \"build 1207 is ready\"",
        "received on cache/user/7: \"drop it\"",
        "notify weather        \"nobody asked\": no subscriber confirmed",
        "a file of 24 MiB: 1 subscriber confirmed",
        "received on cache/logo: 25165824 bytes",
        "The subscriber unsubscribes:",
        "notify cache/user/7: no subscriber confirmed",
    ] {
        let (_, after) = rest
            .split_once(part)
            .unwrap_or_else(|| panic!("{part:?} is not in, or not in its place: {shown}"));
        rest = after;
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
