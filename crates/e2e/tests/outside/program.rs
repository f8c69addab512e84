//! Faults of `httppubsub serve` as a process.
//!
//! | fault | test |
//! |---|---|
//! | stderr-gone | stderr_gone_leaves_a_broadcaster_at_work |
//! | stderr-gone | stderr_gone_is_no_failure_of_listen |
//! | stderr-gone | stderr_gone_and_stdout_too_ends_listen_quietly |
//! | log-stuck | log_stuck_leaves_a_broadcaster_at_work |
//! | trace-leak | trace_leak_of_tokens_and_messages_is_none |
//! | trace-leak | crates/cli/src/logs.rs | trace_leak_is_impossible_because_libraries_say_info_at_most |
//! | first-start | first_start_without_room_is_no_obstacle_to_the_next |
//! | first-start | first_start_killed_anywhere_is_no_obstacle_to_the_next |
//! | sighup | sighup_does_not_end_a_broadcaster |
//! | sighup | sighup_ends_listen_in_an_orderly_way_and_not_under_nohup |
//! | secrets-typo | crates/proto/tests/secrets.rs | secrets_typo_is_no_wish_to_go_without_authorization |
//! | secrets-typo | secrets_typo_is_warned_of_where_it_does_no_harm |

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use httppubsub_e2e::{
    Act, Home, Metrics, Process, Server, Subscriber, eventually, exact, http_answer, httppubsub,
};
use httppubsub_proto::auth::{Scheme, Secrets};

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
    let (reader, writer, path) = pipe();
    let (mut server, metrics) = serve_with_stderr_at(&home, &path);
    drop((reader, writer));
    server.door.notify("nobody", b"");
    let dropped = || Some(metrics.value("httppubsub_log_lines_dropped_total")).filter(|it| *it > 0);
    eventually("lines are counted", dropped);
    is_at_work(&home, &mut server, 10);

    let home = Home::new();
    let (mut server, _) = serve_with_stderr_at(&home, "/dev/full");
    is_at_work(&home, &mut server, 10);
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
    let (reader, writer, path) = pipe();
    let command = listen_through(&with_stderr_at(&path), &home, &server, &["--count", "1"]);
    let mut process = Process::spawn("listen", command);
    drop(reader);
    drop(writer);
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
    server.process.log_line("SIGHUP is ignored");
    assert_eq!(server.door.notify("t", b""), 0);
    server.process.terminate();
    server.process.end_well();
}

#[test]
fn sighup_ends_listen_in_an_orderly_way_and_not_under_nohup() {
    let home = Home::new();
    let server = home.serve(&[]);
    let mut process = Process::spawn("listen", listen(&home, &server, &["--json"]));
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
