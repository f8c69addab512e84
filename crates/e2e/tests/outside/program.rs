//! Faults of `httppubsub serve` as a process.
//!
//! | fault | test |
//! |---|---|
//! | stderr-gone | stderr_gone_leaves_a_broadcaster_at_work |
//! | stderr-gone | stderr_gone_or_stdout_is_the_same_to_a_broadcaster |
//! | stderr-gone | stderr_gone_is_no_failure_of_listen |
//! | stderr-gone | stderr_gone_and_stdout_too_ends_listen_quietly |
//! | log-stuck | log_stuck_leaves_a_broadcaster_at_work |
//! | trace-leak | trace_leak_of_tokens_and_messages_is_none |
//! | trace-leak | crates/cli/src/telemetry/logs.rs | trace_leak_is_impossible_because_libraries_say_info_at_most |
//! | first-start | first_start_without_room_is_no_obstacle_to_the_next |
//! | first-start | first_start_killed_anywhere_is_no_obstacle_to_the_next |
//! | sighup | sighup_does_not_end_a_broadcaster |
//! | sighup | sighup_ends_listen_in_an_orderly_way_and_not_under_nohup |
//! | secrets-typo | crates/proto/tests/secrets.rs | secrets_typo_is_no_wish_to_go_without_authorization |
//! | secrets-typo | secrets_typo_is_warned_of_where_it_does_no_harm |
//! | secrets-in-errors | secrets_in_errors_logs_and_help_are_none |
//! | secrets-in-errors | crates/proto/src/url.rs | secrets_in_errors_are_stars_in_what_is_quoted_of_a_url |
//! | environment-flags | environment_flags_may_be_one_zero_or_empty |
//! | environment-flags | environment_flags_name_one_secrets_file_each |
//! | huge-timeouts | huge_timeouts_and_counts_of_flags_are_refused_or_work |
//! | huge-timeouts | huge_timeouts_of_the_libraries_are_for_ever |
//! | units | units_of_durations_and_sizes_and_names_of_hosts_are_taken |
//! | units | units_are_taken_by_every_flag_that_has_one |
//! | units | crates/cli/src/units.rs | units_of_durations_are_those_that_people_write |
//! | docs-say-other | docs_say_other_things_than_check_url_no_longer |

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use httppubsub_broadcaster::{Config, QuarantineConfig, WebSocketConfig};
use httppubsub_client::{Client, ClientConfig, ClientConfigBuilder};
use httppubsub_e2e::{
    Act, Home, InProcess, Metrics, Process, Server, Subscriber, eventually, exact, http_answer,
    httppubsub,
};
use httppubsub_net::body::BodyLimits;
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::outbound::{BreakerConfig, PostConfig, UnprovenLimits};
use httppubsub_net::websocket::SocketConfig;
use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::topic::Topic;

/// A shell's words that start a program with standard error at `path`.
fn with_stderr_at(path: &str) -> String {
    format!("exec \"$0\" \"$@\" 2>{path}")
}

/// A pipe, and how another process opens its writing end.
fn pipe() -> (PipeReader, PipeWriter, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), writer.as_raw_fd());
    (reader, writer, path)
}

/// A broadcaster with metrics whose standard error is at `path`.
fn serve_with_stderr_at(home: &Home, path: &str) -> (Server, Metrics) {
    let flags = ["--log", "trace", "--metrics", "127.0.0.1:0"];
    let process = home.spawn_through(&["sh", "-c", &with_stderr_at(path)], &flags);
    let server = home.if_it_listens(process).unwrap();
    let line = server.process.line();
    let address = line.strip_prefix("metrics on http://").unwrap();
    let address = address.strip_suffix("/metrics").unwrap().parse().unwrap();
    (server, Metrics { address })
}

/// Publishers are answered, notices are sent, rows are written, and SIGTERM ends it.
fn is_at_work(home: &Home, server: &mut Server, notifications: usize) {
    let subscriber = Subscriber::start(home.signer());
    let good = subscriber.url("/");
    server.door.subscribe(&good, exact("t"), None);
    let failing = Subscriber::start(home.signer());
    let (bad, recover) = (failing.url("/"), failing.recovery("/"));
    failing.on(&bad, |_| vec![Act::Say(http_answer(500, "", b""))]);
    server.door.subscribe(&bad, exact("t"), Some(&recover));
    for _ in 0..notifications {
        assert_eq!(server.door.notify("t", b"message"), 1);
    }
    assert!(failing.await_deliveries(&recover, 1)[0].is_missed());
    assert_eq!(server.door.get("/healthz").status, 200);
    server.door.subscribe(&good, exact("u"), None);
    assert_eq!(home.rows().len(), 3);
    server.process.terminate();
    server.process.end_well();
}

#[test]
fn stderr_gone_leaves_a_broadcaster_at_work() {
    let home = Home::new();
    let fifo = home.path().join("stderr");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    // A process of its own: what another test forks at this moment must not keep the reading end.
    let mut reader = Command::new("sh");
    reader.args(["-c", "exec sleep 600 <\"$0\""]).arg(&fifo);
    let mut reader = reader.spawn().unwrap();
    let (mut server, metrics) = serve_with_stderr_at(&home, fifo.to_str().unwrap());
    reader.kill().unwrap();
    reader.wait().unwrap();
    server.door.notify("nobody", b"");
    let dropped = || Some(metrics.value("httppubsub_log_lines_dropped_total")).filter(|it| *it > 0);
    eventually("lines are counted", dropped);
    is_at_work(&home, &mut server, 10);

    let home = Home::new();
    let (mut server, _) = serve_with_stderr_at(&home, "/dev/full");
    is_at_work(&home, &mut server, 10);
}

#[test]
fn stderr_gone_or_stdout_is_the_same_to_a_broadcaster() {
    for script in ["exec \"$0\" \"$@\" >/dev/full", "exec \"$0\" \"$@\" >&-"] {
        let home = Home::new();
        let process = home.spawn_through(&["sh", "-c", script], &["--log-format", "json"]);
        let line = process.log_line("\"listening\"");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let said = format!("listening on http://{}", line["address"].as_str().unwrap());
        let mut server = home.listening_on(process, &said).unwrap();
        is_at_work(&home, &mut server, 1);
    }
}

#[test]
fn log_stuck_leaves_a_broadcaster_at_work() {
    let home = Home::new();
    let (mut reader, writer, path) = pipe();
    let (mut server, _) = serve_with_stderr_at(&home, &path);
    drop(writer);
    is_at_work(&home, &mut server, 300);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    // The pipe was full but for less than the line that waited.
    assert!(read.len() >= 60_000, "{} bytes were logged", read.len());
}

fn listen(home: &Home, server: &Server, flags: &[&str]) -> Command {
    let mut command = httppubsub();
    command
        .args(["listen", "--exact", "t"])
        .args(flags)
        .arg("--broadcaster")
        .arg(format!("http://{}", server.door.address))
        .arg("--secrets")
        .arg(home.path().join("secrets.json"));
    command
}

/// The same, started by a shell's words.
fn listen_through(script: &str, home: &Home, server: &Server, flags: &[&str]) -> Command {
    let listen = listen(home, server, flags);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(listen.get_program());
    command.args(listen.get_args());
    command
}

#[test]
fn stderr_gone_is_no_failure_of_listen() {
    let home = Home::new();
    let server = home.serve(&[]);
    let script = with_stderr_at("/dev/full");
    let command = listen_through(&script, &home, &server, &["--count", "1"]);
    let mut process = Process::spawn("listen", command);
    eventually("it subscribes", || (home.rows().len() == 1).then_some(()));
    assert_eq!(server.door.notify("t", b"message"), 1);
    assert_eq!(process.end_well(), ["t\tmessage"]);
}

#[test]
fn stderr_gone_and_stdout_too_ends_listen_quietly() {
    let home = Home::new();
    let server = home.serve(&[]);
    let mut command = listen(&home, &server, &["--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    drop(stdout);
    server.door.notify("t", b"message");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(home.rows(), [], "it has unsubscribed");
}

#[test]
fn trace_leak_of_tokens_and_messages_is_none() {
    let token = |token: &str| Scheme::Token(token.to_owned());
    let home = Home::with(&Secrets {
        to_broadcaster: token("canary-of-subscribers"),
        to_subscriber: token("canary-of-broadcasters"),
    });
    let everything = "trace,tungstenite=trace,tungstenite::protocol=trace,hyper=trace";
    let mut server = home.serve(&["--log", everything]);
    let mut by_http = Process::spawn("listen", listen(&home, &server, &["--count", "2"]));
    let mut by_websocket = listen(&home, &server, &["--count", "2", "--ws"]);
    by_websocket.env("HTTPPUBSUB_LOG", everything);
    let mut by_websocket = Process::spawn("listen --ws", by_websocket);
    eventually("they subscribe", || (home.rows().len() == 2).then_some(()));
    let notify = |flags: &[&str]| {
        let mut command = httppubsub();
        command
            .args(["notify", "t", "--data", "canary-of-a-message"])
            .args(flags)
            .arg("--broadcaster")
            .arg(format!("http://{}", server.door.address))
            .arg("--secrets")
            .arg(home.path().join("secrets.json"));
        assert!(command.output().unwrap().status.success());
    };
    notify(&[]);
    notify(&["--ws"]);
    by_http.end_well();
    by_websocket.end_well();
    server.process.terminate();
    server.process.end_well();
    for process in [&server.process, &by_http, &by_websocket] {
        let log = process.log();
        assert!(!log.contains("canary"), "{log}");
    }
    assert!(server.process.log().contains("DEBUG"), "its own are there");
}

/// A broadcaster that has never been started before keeps all it has in `folder`.
fn first_start(mut command: Command, folder: &Path) -> Process {
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .arg("--data")
        .arg(folder.join("a/b/data"));
    Process::spawn("the broadcaster", command)
}

fn through(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(httppubsub().get_program());
    command
}

/// The next start works, and both files of secrets are whole and for their owner only.
fn next_start_works(folder: &Path, after: &str) {
    let mut process = first_start(httppubsub(), folder);
    let Some(line) = process.line_if_any() else {
        process.fail(&format!("does not start after {after}"))
    };
    assert!(line.starts_with("listening on "), "after {after}: {line}");
    let texts = ["broadcaster", "subscriber"].map(|whose| {
        let file = folder.join(format!("a/b/data/{whose}-secrets.json"));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "after {after}");
        std::fs::read_to_string(file).unwrap()
    });
    assert_eq!(texts[0], texts[1], "after {after}");
    Secrets::parse(&texts[0]).unwrap();
    process.terminate();
    process.end_well();
}

#[test]
fn first_start_without_room_is_no_obstacle_to_the_next() {
    for blocks in [0, 1, 8, 64] {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("trap '' XFSZ; ulimit -f {blocks} && exec \"$0\" \"$@\"");
        let mut process = first_start(through(&["sh", "-c", &script]), folder.path());
        let began = process.line_if_any();
        if blocks == 0 {
            assert_eq!(began, None);
        }
        process.kill();
        next_start_works(folder.path(), &format!("one with {blocks} blocks"));
    }
}

/// It needs `strace`, and leave to use it.
#[test]
fn first_start_killed_anywhere_is_no_obstacle_to_the_next() {
    let may_trace = Command::new("strace").args(["-f", "true"]).output();
    if !may_trace.is_ok_and(|it| it.status.success()) {
        eprintln!("not run: strace is missing, or this process must not trace others");
        return;
    }
    let mut killed = 0;
    for calls in [
        "mkdir,mkdirat",
        "write,pwrite64,fsync,fdatasync",
        "rename,renameat,renameat2,link,linkat,unlink,ftruncate",
    ] {
        for nth in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let inject = format!("inject={calls}:signal=KILL:when={nth}");
            let words = [
                "strace",
                "-D",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &inject,
            ];
            let mut process = first_start(through(&words), folder.path());
            let began = process.line_if_any();
            process.kill();
            if began.is_some() {
                break;
            }
            killed += 1;
            next_start_works(folder.path(), &format!("call {nth} of {calls}"));
        }
    }
    assert!(killed >= 8, "{killed}");
}

#[test]
fn sighup_does_not_end_a_broadcaster() {
    let home = Home::new();
    let mut server = home.serve(&[]);
    for _ in 0..2 {
        server.process.hang_up();
    }
    server
        .process
        .log_line("SIGHUP: the tokens file is read again");
    assert_eq!(server.door.notify("t", b""), 0);
    server.process.terminate();
    server.process.end_well();
}

#[test]
fn sighup_ends_listen_in_an_orderly_way_and_not_under_nohup() {
    let home = Home::new();
    let server = home.serve(&[]);
    // These tests may run under nohup themselves, and a shell cannot undo what it inherits.
    let script = "exec env --default-signal=HUP \"$0\" \"$@\"";
    let command = listen_through(script, &home, &server, &["--json"]);
    let mut process = Process::spawn("listen", command);
    process.event("listening");
    process.hang_up();
    process.end_well();
    assert_eq!(home.rows(), []);

    let script = "trap '' HUP; exec \"$0\" \"$@\"";
    let command = listen_through(script, &home, &server, &["--json"]);
    let mut process = Process::spawn("listen under nohup", command);
    process.event("listening");
    process.hang_up();
    assert_eq!(server.door.notify("t", b"message"), 1);
    process.event("message");
    process.terminate();
    process.end_well();
}

#[test]
fn secrets_typo_is_warned_of_where_it_does_no_harm() {
    let home = Home::new();
    let file = home.path().join("secrets.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let with_another_key = text.replacen('{', "{\"to_broadcaster\": 1,", 1);
    std::fs::write(&file, &with_another_key).unwrap();
    let server = home.serve(&[]);
    assert!(server.process.log_line("to_broadcaster").contains("WARN"));
    let misspelled = text.replacen("to-broadcaster", "to_broadcaster", 1);
    std::fs::write(&file, misspelled).unwrap();
    let mut process = home.spawn(&[]);
    let (status, _) = process.end();
    assert_eq!(status.code(), Some(1));
    process.log_line("no \"to-broadcaster\", but \"to_broadcaster\"");
}

const VERBS: [&[&str]; 11] = [
    &["setup"],
    &["serve"],
    &["listen"],
    &["notify"],
    &["subscriptions", "check"],
    &["subscriptions", "set"],
    &["subscriptions", "add"],
    &["subscriptions", "remove"],
    &["check-url"],
    &["cluster", "status"],
    &["completions"],
];

fn help(verb: &[&str]) -> String {
    let output = httppubsub().args(verb).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The flags of a verb that take a value, and what stands for the value, as its help lists them.
fn flags(verb: &[&str]) -> Vec<(String, String)> {
    let help = help(verb);
    let lines = help.lines().map(str::trim_start);
    let flags = lines.filter_map(|line| {
        let (flag, value) = line.split_once(" <")?;
        let flag = flag.strip_prefix("--")?;
        Some((format!("--{flag}"), value.split('>').next()?.to_owned()))
    });
    flags.collect()
}

/// The variables that a verb reads.
fn variables(verb: &[&str]) -> Vec<String> {
    let help = help(verb);
    let parts = help.split("[env: ").skip(1);
    let names = parts.map(|part| part.split([']', '=']).next().unwrap().to_owned());
    names.collect()
}

/// All that a program writes, until it ends by itself or has listened or answered for a while.
fn said(mut command: Command) -> String {
    let process = Process::spawn("the program", {
        command.env("NO_COLOR", "1");
        command
    });
    let mut process = process;
    let mut lines = Vec::new();
    while let Some(line) = process.line_if_any() {
        let listens = line.starts_with("listening on");
        lines.push(line);
        if listens {
            process.terminate();
        }
    }
    let (status, rest) = process.end();
    lines.extend(rest);
    if !status.success() && lines.is_empty() {
        process.log_line("");
    }
    format!("{}\n{}", lines.join("\n"), process.log())
}

#[test]
fn secrets_in_errors_logs_and_help_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let common = |verb: &[&str]| {
        let mut command = httppubsub();
        command.args(verb).current_dir(folder.path());
        command
    };
    // What each verb needs to come as far as it can.
    let needs = |verb: &[&str]| -> Vec<&str> {
        match verb {
            ["listen"] => vec!["--exact", "t", "--timeout", "0.1"],
            ["notify"] => vec!["t", "--data", "x"],
            ["check-url"] => vec!["http://127.0.0.1:1/"],
            ["subscriptions", _] => vec!["--exact", "t"],
            ["serve"] => vec!["--log", "trace"],
            _ => vec![],
        }
    };
    let is_url_needed = |verb: &[&str]| matches!(verb, ["subscriptions", _]);
    let values = [
        "http://me:canary@127.0.0.1:1/",
        "http://127.0.0.1:1/?token=canary",
        "http://127.0.0.1:1/canary path",
        "me:canary@127.0.0.1:1",
        "postgres://me:canary@127.0.0.1:1/x?connect_timeout=1",
        "postgres://me:canary@127.0.0.1:x/x",
        "postgres://me:can/canary@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?password=canary&connect_timeout=1",
        "host=127.0.0.1 port=1 password=canary",
        "host=127.0.0.1 port=1 password='canary",
    ];
    let shows_nothing = |what: &str, said: &str| {
        // Data on standard output repeats a url that was asked for.
        assert!(!said.contains("canary"), "{what}: {said}");
        assert!(!said.contains("a bug"), "{what}: {said}");
    };
    for verb in VERBS {
        let bears_urls = |flag: &str| {
            [
                "--db",
                "--broadcaster",
                "--host",
                "--advertise",
                "--url",
                "--recovery",
            ]
            .contains(&flag)
        };
        for (flag, of) in flags(verb) {
            // A name of a file is no secret.
            if ["DIR", "FILE", "PATH"].contains(&of.as_str()) {
                continue;
            }
            for value in values {
                // Elsewhere only what is unmistakably a url with a password is one.
                if !(bears_urls(&flag) || value.contains("://me:canary@")) {
                    continue;
                }
                // Asking a broadcaster takes its time.
                if flag == "--broadcaster" && !value.contains('@') && !value.contains('?') {
                    continue;
                }
                let mut command = common(verb);
                command.args(needs(verb));
                if is_url_needed(verb) && flag != "--url" {
                    command.args(["--url", "http://127.0.0.1:1/"]);
                }
                if verb == ["serve"] && flag != "--listen" {
                    command.args(["--listen", "127.0.0.1:0"]);
                }
                if !["--broadcaster", "--db"].contains(&flag.as_str()) && verb != ["serve"] {
                    let asks = flags(verb).iter().any(|(flag, _)| flag == "--broadcaster");
                    if asks {
                        command.args(["--broadcaster", "not a url"]);
                    }
                }
                command.arg(format!("{flag}={value}"));
                shows_nothing(&format!("{verb:?} {flag}={value}"), &said(command));
            }
        }
        let is_of_file = |name: &String| name.ends_with("SECRETS") || name.ends_with("DATA");
        for name in variables(verb).into_iter().filter(|name| !is_of_file(name)) {
            let mut command = common(verb);
            command.args(needs(verb)).env(&name, values[0]);
            if is_url_needed(verb) {
                command.args(["--url", "http://127.0.0.1:1/"]);
            }
            if verb == ["serve"] && name != "HTTPPUBSUB_LISTEN" {
                command.args(["--listen", "127.0.0.1:0"]);
            }
            if name != "HTTPPUBSUB_BROADCASTER" {
                command.env("HTTPPUBSUB_BROADCASTER", "not a url");
            }
            shows_nothing(&format!("{name} of {verb:?}"), &said(command));
            let mut command = common(verb);
            command.arg("--help").env(&name, values[0]);
            shows_nothing(&format!("help of {verb:?}"), &said(command));
        }
        let mut command = common(verb);
        command.arg(values[0]).arg(values[4]).arg("--no-such-flag");
        shows_nothing(&format!("words behind {verb:?}"), &said(command));
    }

    for text in [
        "canary",
        "\"canary\"",
        r#"{"version": "canary"}"#,
        r#"{"version": "2", "to-broadcaster": "canary", "to-subscriber": "canary"}"#,
        r#"{"version": "2", "to-broadcaster": {"type": "canary"},
            "to-subscriber": {"type": "none"}}"#,
        r#"{"version": "2", "to-broadcaster": {"type": "hmac", "secret": "canary"}}"#,
        r#"{"version": "2", "to-broadcaster": {"type": "token", "secret": "canary "}}"#,
        r#"{"version": "2", "to-broadcaster": {"type": "token", "secret": "canary"#,
        r#"{"version": "2", "to-broadcaster": {"type": "token", "secret": "canary"}, "x": 1}"#,
    ] {
        std::fs::write(path("secrets.json"), text).unwrap();
        for verb in VERBS.iter().filter(|verb| {
            let flags = flags(verb);
            flags.iter().any(|(flag, _)| flag == "--secrets")
        }) {
            let mut command = common(verb);
            command
                .args(needs(verb))
                .args(["--secrets", "secrets.json"]);
            if is_url_needed(verb) {
                command.args(["--url", "http://127.0.0.1:1/"]);
            }
            shows_nothing(&format!("{verb:?} with {text}"), &said(command));
        }
    }
    // Nor is anything said twice.
    let mut command = common(&["serve", "--listen", "127.0.0.1:0", "--db"]);
    command.arg(values[5]);
    let said_once = said(command);
    assert_eq!(
        said_once.matches("this is not the url").count(),
        1,
        "{said_once}"
    );
    for scheme in ["hmac", "none", "token"] {
        let mut command = common(&["setup", "--dir", "new", "--to-broadcasters-auth", scheme]);
        command.args(["--to-broadcasters-secret", "canary\n"]);
        shows_nothing(scheme, &said(command));
    }
}

#[test]
fn environment_flags_may_be_one_zero_or_empty() {
    let home = Home::new();
    let server = home.serve(&[]);
    for (value, is_websocket) in [
        ("1", true),
        ("yes", true),
        ("true", true),
        ("0", false),
        ("no", false),
        ("off", false),
        ("", false),
    ] {
        let mut command = listen(&home, &server, &["--json"]);
        command.env("HTTPPUBSUB_WS", value);
        let mut process = Process::spawn("listen", command);
        let listening = process.event("listening");
        assert_eq!(
            listening["receive_url"].is_null(),
            is_websocket,
            "{value:?}"
        );
        process.terminate();
        process.end_well();
    }
    // One that tokio reads as well.
    for verb in [
        &["completions", "bash"][..],
        &["notify", "t", "--data", "x"],
    ] {
        for value in ["", "0", "many"] {
            let mut command = httppubsub();
            command.args(verb).env("TOKIO_WORKER_THREADS", value);
            command.env("HTTPPUBSUB_BROADCASTER", "not a url");
            let code = command.output().unwrap().status.code();
            assert!(matches!(code, Some(0 | 1)), "{verb:?} with {value:?}");
        }
    }
    // None of them means anything while it is empty.
    let mut command = httppubsub();
    command.env("TOKIO_WORKER_THREADS", "");
    let mut seen = 0;
    for name in VERBS.iter().flat_map(|verb| variables(verb)) {
        command.env(name, "");
        seen += 1;
    }
    assert!(seen >= 12, "{seen}");
    let folder = tempfile::tempdir().unwrap();
    command.current_dir(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let process = Process::spawn("the broadcaster", command);
    assert!(process.line().starts_with("listening on "));
    assert!(
        folder
            .path()
            .join("httppubsub-data/subscriber-secrets.json")
            .exists()
    );
}

#[test]
fn environment_flags_name_one_secrets_file_each() {
    let home = Home::new();
    let secrets = home.path().join("secrets.json");
    let serve = |name: &str| {
        let mut command = httppubsub();
        command.env(name, &secrets).current_dir(home.path());
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        let process = Process::spawn("the broadcaster", command);
        process.line();
        process
    };
    let process = serve("HTTPPUBSUB_BROADCASTER_SECRETS");
    let made = home.path().join("httppubsub-data/broadcaster-secrets.json");
    assert!(!made.exists());
    drop(process);
    // That of its clients is not its own, and the log says so.
    let process = serve("HTTPPUBSUB_SECRETS");
    assert!(made.exists());
    process.log_line("HTTPPUBSUB_BROADCASTER_SECRETS");
}

#[test]
fn huge_timeouts_and_counts_of_flags_are_refused_or_work() {
    let home = Home::new();
    let subscriber = Subscriber::start(home.signer());
    let url = subscriber.url("/");
    let works = |flags: &[&str]| {
        let mut process = home.spawn(&[&["--db", "memory"], flags].concat());
        let Some(line) = process.line_if_any() else {
            let (status, _) = process.end();
            process.log_line("");
            let log = process.log();
            assert!(
                matches!(status.code(), Some(1 | 2)),
                "{flags:?}: {status}, {log}"
            );
            assert!(!log.contains("a bug"), "{flags:?}: {log}");
            return false;
        };
        let server = home.listening_on(process, &line).unwrap();
        server.door.subscribe(&url, exact("t"), None);
        let asked = server
            .door
            .signer
            .notify(&Topic::new("t").unwrap(), b"message");
        let status = server.door.ask(&asked).status;
        assert!(
            matches!(status, 200 | 413 | 503 | 507),
            "{flags:?}: {status}"
        );
        assert_eq!(server.door.get("/healthz").status, 200, "{flags:?}");
        let log = server.process.log();
        assert!(!log.contains("a bug"), "{flags:?}: {log}");
        true
    };
    let mut tried = 0;
    for (flag, of) in flags(&["serve"]) {
        if !["SECONDS", "BYTES", "N", "MICROSECONDS"].contains(&of.as_str()) {
            continue;
        }
        for value in ["18446744073709551615", "0", "-1", "1e300"] {
            let given = format!("{flag}={value}");
            let began = match flag.as_str() {
                "--busy-poll" => works(&["--threads=1", &given]),
                _ => works(&[&given]),
            };
            assert!(!began || value != "-1", "{given}");
            if value == "0" && flag.ends_with("-timeout") {
                assert!(!began, "{given}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 60, "{tried}");
    let longest = ["--answer-timeout=500000000d", "--notify-timeout=999999999d"];
    assert!(works(&longest) || works(&["--notify-timeout=999999999d"]));

    for flag in ["--timeout", "--count", "--misbehave-seed"] {
        for value in ["18446744073709551615", "0", "-1", "1e300"] {
            let mut command = httppubsub();
            command.args(["listen", "--exact", "t", "--misbehave", "hang@0"]);
            command.args(["--broadcaster", "not a url"]);
            command.arg(format!("{flag}={value}"));
            let said = said(command);
            assert!(!said.contains("a bug"), "{flag}={value}: {said}");
        }
    }
}

#[test]
fn huge_timeouts_of_the_libraries_are_for_ever() {
    const MAX: Duration = Duration::MAX;
    let mut post = PostConfig::default();
    post.in_flight_max = usize::MAX;
    post.in_flight_per_peer_max = usize::MAX;
    post.connections_max = usize::MAX;
    post.connect_timeout = MAX;
    post.answer_timeout = MAX;
    post.stall_timeout = MAX;
    post.idle_timeout = MAX;
    post.breaker = Some({
        let mut breaker = BreakerConfig::default();
        breaker.lasting = MAX;
        breaker.pause = MAX;
        breaker.pause_max = MAX;
        breaker.unproven = Some({
            let mut unproven = UnprovenLimits::default();
            unproven.pause = MAX;
            unproven
        });
        breaker
    });
    let mut body = BodyLimits::default();
    body.silence_max = MAX;
    body.rate_grace = MAX;
    body.rate_min = u64::MAX;
    #[allow(clippy::needless_update, reason = "there will be more of them")]
    let mut serve = ServeConfig::default();
    serve.head_timeout = MAX;
    serve.idle_timeout = MAX;
    serve.grace = MAX;
    serve.connections_max = usize::MAX;
    let mut config = Config::default();
    config.post = post.clone();
    config.notify_timeout = MAX;
    config.body = body;
    config.sweep_interval = MAX;
    config.missed_in_flight_max = usize::MAX;
    config.missed_in_flight_per_peer_max = usize::MAX;
    config.admission.lag_max = MAX;
    config.quarantine = Some({
        let mut quarantine = QuarantineConfig::default();
        quarantine.lasting = MAX;
        quarantine.pause = MAX;
        quarantine
    });
    config.missed.expo_factor = MAX;
    config.missed.constant = MAX;
    config.missed.jitter = MAX;
    config.cluster.lease = MAX;
    config.cluster.forget_after = MAX;
    config.websockets = {
        let mut websockets = WebSocketConfig::default();
        websockets.configure_timeout = MAX;
        websockets.retrain_interval = MAX;
        websockets.close_spread = MAX;
        websockets.socket = {
            let mut socket = SocketConfig::default();
            socket.ping_interval = MAX;
            socket.pong_timeout = MAX;
            socket.write_timeout = MAX;
            socket
        };
        websockets
    };
    let broadcaster = InProcess::start(config, serve.clone());
    // One that fails, so that a breaker, a notice and a quarantine are reckoned with.
    let failing = Subscriber::start(&broadcaster.door.signer);
    let (bad, recover) = (failing.url("/"), failing.recovery("/"));
    failing.on(&bad, |_| vec![Act::Say(http_answer(500, "", b""))]);
    failing.on(&recover, |_| vec![Act::Say(http_answer(500, "", b""))]);
    broadcaster.door.subscribe(&bad, exact("t"), Some(&recover));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = format!("http://{}", broadcaster.door.address);
        let of = |builder: ClientConfigBuilder| {
            let builder = builder.reconcile_interval(MAX).post(post.clone());
            Client::start(builder.serve(serve.clone()).body(body).build().unwrap())
        };
        let mut websocket = httppubsub_client::WebSocketConfig::default();
        websocket.open_timeout = MAX;
        websocket.close_timeout = MAX;
        websocket.heartbeat_interval = MAX;
        websocket.reconnect_interval_min = MAX;
        let builder = ClientConfig::builder([url.as_str()]);
        let by_http = of(builder.clone()).await.unwrap();
        let by_websocket = of(builder.websocket(websocket)).await.unwrap();
        let interests = || [exact("t")];
        let mut first = by_http.subscribe(interests()).await.unwrap();
        let second = by_websocket.subscribe(interests()).await.unwrap();
        let mut second = second.with_timeout(MAX);
        for client in [&by_http, &by_websocket] {
            for _ in 0..7 {
                client.notify("t", "message").await.unwrap();
                assert!(first.next_with_timeout(MAX).await.unwrap().is_some());
                assert!(second.next().await.unwrap().is_some());
            }
        }
        drop((first, second));
        by_http.close().await.unwrap();
        by_websocket.close().await.unwrap();
    });
}

#[test]
fn units_of_durations_and_sizes_and_names_of_hosts_are_taken() {
    let home = Home::new();
    let flags = [
        "--answer-timeout",
        "1500ms",
        "--grace",
        "1min",
        "--drain-delay",
        "0s",
    ];
    let sizes = [
        "--spool-above",
        "10MB",
        "--spool-memory-max",
        "64MiB",
        "--message-bytes-max",
        "1kB",
    ];
    let flags = [&["--listen", "localhost:0"][..], &flags, &sizes].concat();
    let mut server = home.serve(&flags);
    let address = server.door.address;
    assert!(address.is_ipv4() && address.ip().is_loopback(), "{address}");
    let secrets = home.path().join("secrets.json");
    for broadcaster in [address.to_string(), format!("localhost:{}", address.port())] {
        let notify = |message: &str| {
            let mut command = httppubsub();
            command.args([
                "notify",
                "t",
                "--data",
                message,
                "--broadcaster",
                &broadcaster,
            ]);
            command.arg("--secrets").arg(&secrets);
            command.output().unwrap().status.code()
        };
        assert_eq!(notify(&"x".repeat(1_000)), Some(0));
        assert_eq!(notify(&"x".repeat(1_001)), Some(1));
    }
    server.process.terminate();
    server.process.end_well();
}

#[test]
fn units_are_taken_by_every_flag_that_has_one() {
    let home = Home::new();
    let mut seen = 0;
    for (flag, of) in flags(&["serve"]) {
        let values = match of.as_str() {
            // The default of --answer-timeout has to fit into it.
            "SECONDS" if flag == "--notify-timeout" => ["1min", "60000ms"],
            "SECONDS" => ["5s", "5000ms"],
            "MICROSECONDS" => ["50us", "1ms"],
            "BYTES" => ["2MiB", "2000kB"],
            "ADDR:PORT" => ["localhost:0", "127.0.0.1:0"],
            _ => continue,
        };
        for value in values {
            let process = home.spawn(&["--db", "memory", "--threads", "1", &flag, value]);
            assert!(
                process.line().starts_with("listening on "),
                "{flag} {value}"
            );
        }
        seen += 1;
    }
    assert!(seen >= 14, "{seen}");
    let mut command = httppubsub();
    command.args(["listen", "--exact", "t", "--timeout", "500ms"]);
    command.args(["--broadcaster", "not a url"]);
    assert!(said(command).contains("cannot be used"));
}

#[test]
fn docs_say_other_things_than_check_url_no_longer() {
    // All that says where may be posted to is taken by both.
    let of_serve = flags(&["serve"]);
    let of_check_url = flags(&["check-url"]);
    let about_posting = of_serve.iter().filter(|(flag, _)| {
        flag.starts_with("--egress") || ["--listen", "--metrics"].contains(&flag.as_str())
    });
    let mut seen = 0;
    for flag in about_posting {
        assert!(of_check_url.contains(flag), "check-url has no {flag:?}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
    for (port, word) in [("9300", "forbidden"), ("9301", "allowed")] {
        let mut command = httppubsub();
        command.args(["check-url", "--metrics", "127.0.0.1:9300"]);
        command.arg(format!("http://127.0.0.1:{port}/"));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with(word), "{said}");
    }
}
