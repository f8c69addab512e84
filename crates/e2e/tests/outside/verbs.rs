//! Faults of the command line.
//!
//! | fault | test |
//! |---|---|
//! | blocked-stdout | blocked_stdout_holds_up_neither_the_time_nor_a_signal |
//! | timeout-of-names | timeout_of_names_that_nobody_answers_for_is_kept |
//! | timeout-of-names | timeout_of_names_is_not_put_off_by_a_broadcaster_that_says_nothing |
//! | timeout-of-names | crates/client/src/requests/requests.rs | timeout_of_names_nothing_is_waited_for_that_was_not_sent_when_a_client_closes |
//! | wrong-secrets-over-ws | wrong_secrets_over_ws_end_listening_as_they_do_over_http |
//! | wrong-secrets-over-ws | crates/client/src/websocket/reconnect.rs | wrong_secrets_over_ws_are_not_tried_for_ever_before_the_first_connection |
//! | terminal-escapes | terminal_escapes_of_a_message_are_written_out_on_its_one_line |
//! | terminal-escapes | terminal_escapes_in_what_a_broadcaster_says_are_written_out |
//! | terminal-escapes | crates/cli/src/shown.rs | terminal_escapes_in_json_mean_the_same |
//! | save-whole | save_whole_files_only_have_their_final_name |
//! | dash-values | dash_values_are_values |
//! | subscriptions-truth | subscriptions_truth_is_told_of_what_was_so_already |
//! | add-other-recovery | add_other_recovery_says_that_nothing_changed |
//! | hints | hints_say_what_can_be_done |
//! | listen-tip | listen_tip_names_the_flags |
//! | finds-secrets | finds_secrets_of_a_broadcaster_that_was_started_in_the_same_folder |
//! | finds-secrets | crates/cli/src/connection.rs | finds_secrets_for_a_broadcaster_on_this_machine |
//! | host-slash | crates/client/src/config/client.rs | host_slash_is_not_doubled_in_the_urls_of_a_client |
//! | json-members | json_members_in_the_document_are_those_that_are_printed |

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use httppubsub_e2e::{
    Fault, Home, PATIENCE, Postgres, Process, Proxy, Server, eventually, http_answer, httppubsub,
};
use serde_json::Value;

/// A broadcaster, and the flags by which others speak with it.
struct Stage {
    home: Home,
    server: Server,
    url: String,
    secrets: String,
}

impl Stage {
    fn new(flags: &[&str]) -> Self {
        let home = Home::new();
        let server = home.serve(flags);
        let url = format!("http://{}", server.door.address);
        let secrets = home.path().join("secrets.json").display().to_string();
        Self {
            home,
            server,
            url,
            secrets,
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = httppubsub();
        command.args(words);
        command.args(["--broadcaster", &self.url, "--secrets", &self.secrets]);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn spawn(&self, words: &[&str]) -> Process {
        Process::spawn(words.join(" "), self.command(words))
    }

    /// A listener that is subscribed.
    fn listen(&self, words: &[&str]) -> Process {
        let process = self.spawn(&[&["listen"], words].concat());
        match words.contains(&"--json") {
            true => drop(process.event("listening")),
            false => drop(process.log_line("listening ")),
        }
        process
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn says(output: &Output, status: i32, parts: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// A listener whose stdout is a pipe that nobody reads, and fuller than full.
fn blocked(stage: &Stage, flags: &[&str]) -> (Process, File) {
    let path = stage.home.path().join(format!("pipe{}", flags.join("")));
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    // Open at both ends, so that nobody waits for the other and nobody is told that it is gone.
    let pipe = OpenOptions::new().read(true).write(true).open(&path);
    let listen = stage.command(&[&["listen", "--exact", "t"], flags].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" > \"$0\""]).arg(&path);
    shell.arg(listen.get_program()).args(listen.get_args());
    let process = Process::spawn("a blocked listener", shell);
    process.log_line("listening ");
    let long = "x".repeat(60_000);
    for _ in 0..3 {
        assert_eq!(stage.server.door.notify("t", long.as_bytes()), 1);
    }
    (process, pipe.unwrap())
}

#[test]
fn blocked_stdout_holds_up_neither_the_time_nor_a_signal() {
    let stage = Stage::new(&[]);
    let (mut stopped, _pipe) = blocked(&stage, &[]);
    stopped.terminate();
    let (status, _) = stopped.end();
    assert_eq!(status.code(), Some(1), "{}", stopped.log());
    stopped.log_line("not all that was received is printed");
    assert_eq!(stage.home.rows(), [], "it has unsubscribed");

    let (mut timed, _pipe) = blocked(&stage, &["--timeout=20"]);
    let (status, _) = timed.end();
    assert_eq!(status.code(), Some(4), "{}", timed.log());
    timed.log_line("not all that was received is printed");
    assert_eq!(stage.home.rows(), [], "it has unsubscribed");
}

/// Words before a command that make it ask `names` for all names, or why that cannot be.
fn asking(names: Ipv4Addr, folder: &Path) -> Result<Vec<String>, String> {
    let file = folder.join("resolv.conf");
    // Longer than any patience, so that it is seen who waits for it.
    let text = format!("nameserver {names}\noptions timeout:30 attempts:5\n");
    fs::write(&file, text).unwrap();
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let words = ["unshare", "-m", "sh", "-c", script, file.to_str().unwrap()];
    let mut command = Command::new(words[0]);
    match command.args(&words[1..]).arg("true").output() {
        Ok(output) if output.status.success() => Ok(words.map(str::to_owned).to_vec()),
        tried => Err(format!("{tried:?}")),
    }
}

#[test]
fn timeout_of_names_that_nobody_answers_for_is_kept() {
    let home = Home::new();
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, high, low, 53);
    let names = match UdpSocket::bind((address, 53)) {
        Ok(names) => names,
        Err(error) => return eprintln!("left out: nobody can be asked for names here: {error}"),
    };
    names.set_read_timeout(Some(PATIENCE)).unwrap();
    let words = match asking(address, home.path()) {
        Ok(words) => words,
        Err(why) => return eprintln!("left out: names cannot be looked up elsewhere here: {why}"),
    };
    for flags in [&[][..], &["--ws"]] {
        let listen = |more: &[&str]| {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg(httppubsub().get_program());
            command.args(["listen", "--exact", "t", "--broadcaster"]);
            command.arg("http://nobody.example:3003").args(flags);
            Process::spawn("listen", {
                command.args(more);
                command
            })
        };
        let mut timed = listen(&["--timeout", "1"]);
        let (status, _) = timed.end();
        assert_eq!(status.code(), Some(4), "{flags:?}: {}", timed.log());

        while names.set_nonblocking(true).is_ok() && names.recv(&mut [0; 512]).is_ok() {}
        names.set_nonblocking(false).unwrap();
        let mut stopped = listen(&[]);
        names.recv(&mut [0; 512]).expect("it asks for the name");
        stopped.terminate();
        let (status, _) = stopped.end();
        assert_eq!(status.code(), Some(0), "{flags:?}: {}", stopped.log());
    }
}

#[test]
fn timeout_of_names_is_not_put_off_by_a_broadcaster_that_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut command = httppubsub();
    command.args(["listen", "--exact", "t", "--timeout", "1", "--broadcaster"]);
    let mut listener = Process::spawn("listen", {
        command.arg(url);
        command
    });
    let asking = silent.accept().unwrap();
    let (status, _) = listener.end();
    // It was asked to subscribe, so it may have done it.
    assert_eq!(status.code(), Some(1), "{}", listener.log());
    listener.log_line("subscriptions may be left");
    drop(asking);
}

#[test]
fn wrong_secrets_over_ws_end_listening_as_they_do_over_http() {
    let stage = Stage::new(&["--db", "memory"]);
    let other = Home::new();
    let secrets = other.path().join("secrets.json");
    for flags in [&[][..], &["--ws"]] {
        let mut command = httppubsub();
        command.args(["listen", "--exact", "t", "--broadcaster", &stage.url]);
        command.arg("--secrets").arg(&secrets).args(flags);
        let mut listener = Process::spawn("listen", command);
        let (status, _) = listener.end();
        assert_eq!(status.code(), Some(1), "{flags:?}: {}", listener.log());
        let hint = format!("hint: the secrets in {} are not those", secrets.display());
        listener.log_line(&hint);
    }
    // Without any.
    let mut command = httppubsub();
    command.args(["listen", "--exact", "t", "--ws", "--broadcaster"]);
    let output = command.arg(&stage.url).output().unwrap();
    says(
        &output,
        1,
        &["CONFIGURE", "hint: give the secrets", "--secrets FILE"],
    );
}

#[test]
fn terminal_escapes_of_a_message_are_written_out_on_its_one_line() {
    let stage = Stage::new(&["--db", "memory"]);
    let mut text = stage.listen(&["--glob", "*", "--count", "2"]);
    let mut json = stage.listen(&["--glob", "*", "--count", "2", "--json"]);
    let misbehaving = ["--glob", "*", "--misbehave", "garbage"];
    let mut misbehaving = stage.listen(&misbehaving);
    let topic = "a\tb\nforged\tline\u{1b}[2J\u{9b}\u{202e}";
    let body = "x\\n\ny\tz\u{1b}]0;title\u{7}\u{85}\u{2028}\u{feff} \u{e9}\u{1f980}\n";
    assert_eq!(stage.server.door.notify(topic, body.as_bytes()), 2);
    assert_eq!(stage.server.door.notify("plain", b"C:\\new"), 2);
    let shown_topic = r"a\tb\nforged\tline\u{1b}[2J\u{9b}\u{202e}";
    let shown = r"x\\n\ny\tz\u{1b}]0;title\u{7}\u{85}\u{2028}\u{feff} ";
    let lines = [
        format!("{shown_topic}\t{shown}\u{e9}\u{1f980}"),
        r"plain	C:\\new".to_owned(),
    ];
    assert_eq!(text.end_well(), lines);
    let line = json.line();
    let acts = |c: char| c.is_control() || "\u{202e}\u{2028}\u{feff}".contains(c);
    assert!(!line.contains(acts), "{line:?}");
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&event["topic"], &event["body"]),
        (&topic.into(), &body.into())
    );
    json.line();
    json.end_well();
    misbehaving.log_line(&format!("misbehaved: garbage upon {shown_topic} ("));
    misbehaving.terminate();
    misbehaving.end_well();
}

/// The url of something that answers like this.
fn answering(status: u16, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let answer = http_answer(status, "Connection: close\r\n", body.as_bytes());
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // To the end, so that what was not read yet does not reset the connection.
            let said = stream.read(&mut [0; 4096]).and(stream.write_all(&answer));
            let _ = said.and(stream.shutdown(Shutdown::Write));
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    url
}

#[test]
fn terminal_escapes_in_what_a_broadcaster_says_are_written_out() {
    let url = answering(403, "no\u{1b}[2J\u{202e}\u{2028}more");
    let mut command = httppubsub();
    command.args(["notify", "t", "--data", "x", "--broadcaster", &url]);
    let output = command.output().unwrap();
    says(&output, 1, &["refused with status 403: no", "more"]);
    let said = stderr(&output);
    let acts = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2028}".contains(c));
    assert!(!said.contains(acts), "{said:?}");
}

#[test]
fn save_whole_files_only_have_their_final_name() {
    let stage = Stage::new(&["--db", "memory"]);
    let folder = stage.home.path().join("saved");
    let save = folder.to_str().unwrap();
    let mut listener = stage.listen(&["--exact", "t", "--count", "1", "--save", save]);
    let long = stage.home.path().join("long");
    fs::write(&long, vec![b'x'; LONG_BYTES]).unwrap();
    let mut notifier = stage.spawn(&["notify", "t", "--file", long.to_str().unwrap()]);
    let file = folder.join("000001-t");
    let bytes = eventually("the file", || Some(fs::metadata(&file).ok()?.len()));
    assert_eq!(bytes, LONG_BYTES as u64);
    notifier.end_well();
    assert_eq!(
        listener.end_well(),
        [format!("t\tsaved as {}", file.display())]
    );
    let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    // It is a file like others.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), mode(&long));
}

/// Takes longer to write than to look for.
const LONG_BYTES: usize = 32 * 1024 * 1024;

#[test]
fn dash_values_are_values() {
    let stage = Stage::new(&["--db", "memory"]);
    let flags = ["--exact", "-t", "--glob", "-*", "--count", "2"];
    let mut listener = stage.listen(&flags);
    // A topic that begins so stands behind `--`, as it does for other programs.
    let notified = stage.run(&["notify", "--topic-hex", "2d74", "--data", "-5"]);
    assert_eq!(stdout(&notified), "2 subscribers confirmed\n");
    assert_eq!(listener.end_well(), ["-t\t-5", "-t\t-5"]);
    let mut command = httppubsub();
    command.args(["notify", "--data", "--x", "--broadcaster", &stage.url]);
    command.args(["--secrets", &stage.secrets, "--", "-t"]);
    let output = command.output().unwrap();
    assert_eq!(stdout(&output), "accepted; no subscriber confirmed\n");
    let folder = stage.home.path().join("-setup");
    let mut command = httppubsub();
    command.current_dir(stage.home.path());
    command.args([
        "setup",
        "--dir",
        "-setup",
        "--to-broadcasters-auth",
        "token",
    ]);
    command.args(["--to-broadcasters-secret", "-s"]);
    says(&command.output().unwrap(), 0, &[]);
    let text = fs::read_to_string(folder.join("subscriber-secrets.json")).unwrap();
    let secrets: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(secrets["to-broadcaster"]["secret"], "-s");
}

#[test]
fn subscriptions_truth_is_told_of_what_was_so_already() {
    let stage = Stage::new(&[]);
    let ask = |verb: &str, words: &[&str]| {
        let own = ["subscriptions", verb, "--url", "http://other/hook"];
        stage.run(&[&own[..], words].concat())
    };
    let output = ask("remove", &["--exact", "a"]);
    says(&output, 1, &["1 of 1 not there"]);
    assert_eq!(
        stdout(&output),
        "http://other/hook: removed: 0, not there: 1\n"
    );
    assert!(ask("add", &["--exact", "a"]).status.success());
    let both = ["--exact", "a", "--glob", "b*"];
    let output = ask("add", &both);
    says(&output, 1, &["1 of 2 there already"]);
    assert_eq!(
        stdout(&output),
        "http://other/hook: added: 1, there already: 1\n"
    );
    let told = |verb, words: &[&str]| -> (Option<i32>, Value) {
        let output = ask(verb, &[words, &["--json"]].concat());
        let told = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), told)
    };
    let url = "http://other/hook";
    let added = serde_json::json!({"url": url, "added": 0, "existed": 2});
    assert_eq!(told("add", &both), (Some(1), added));
    let removed = serde_json::json!({"url": url, "removed": 2, "absent": 0});
    assert_eq!(told("remove", &both), (Some(0), removed));
    assert_eq!(stage.home.rows(), []);
}

#[test]
fn add_other_recovery_says_that_nothing_changed() {
    let stage = Stage::new(&[]);
    let ask = |verb: &str, recovery: &str| {
        let own = ["subscriptions", verb, "--url", "http://other/hook"];
        let what = ["--exact", "a", "--recovery", recovery];
        stage.run(&[&own[..], &what].concat())
    };
    let [one, other] = ["http://other/1", "http://other/2"];
    says(&ask("add", one), 0, &[]);
    says(
        &ask("add", other),
        1,
        &["there already", "hint: ", "subscriptions set"],
    );
    says(&ask("check", one), 0, &[]);
    says(&ask("check", other), 1, &[]);
    says(&ask("set", other), 0, &[]);
    says(&ask("check", other), 0, &[]);
}

#[test]
fn hints_say_what_can_be_done() {
    let stage = Stage::new(&["--db", "memory", "--egress", "public"]);
    let bare = |words: &[&str], url: &str| {
        let mut command = httppubsub();
        command.args(words).args(["--broadcaster", url]);
        command.output().unwrap()
    };
    let hook = ["--url", "http://127.0.0.1:1/hook", "--exact", "t"];
    let notify = ["notify", "t", "--data", "x"];
    let add = [&["subscriptions", "add"], &hook[..]].concat();
    let verbs: [&[&str]; 3] = [&notify, &["listen", "--exact", "t"], &add];
    let elsewhere = answering(404, "");
    for verb in verbs {
        says(
            &bare(verb, &stage.url),
            1,
            &["status 401", "\nhint: ", "--secrets FILE"],
        );
        let output = bare(verb, &elsewhere);
        says(&output, 1, &["status 404", "\nhint: ", "--broadcaster"]);
    }
    let output = stage.run(&["listen", "--exact", "t"]);
    let parts = ["status 403", "\nhint: ", "--host URL", "--ws", "check-url"];
    says(&output, 1, &parts);
    let output = stage.run(&add);
    says(&output, 1, &["status 403", "\nhint: ", "check-url"]);
    assert!(
        !stderr(&output).contains("--host"),
        "it is the url of another"
    );
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = bare(&notify, &format!("http://{gone}"));
    says(&output, 1, &["\nhint: is a broadcaster running there?"]);
    let mut command = httppubsub();
    command.args(["listen", "--exact", "t", "--bind", "0.0.0.0:0"]);
    says(&command.output().unwrap(), 2, &["--host URL"]);
}

#[test]
fn listen_tip_names_the_flags() {
    let url = ["--url", "http://other/hook"];
    let verbs: [&[&str]; 3] = [
        &["listen"],
        &["subscriptions", "add", url[0], url[1]],
        &["subscriptions", "check", url[0], url[1]],
    ];
    for verb in verbs {
        let run = |word| httppubsub().args(verb).arg(word).output().unwrap();
        says(
            &run("hello"),
            2,
            &["give --exact 'hello', or --glob 'hello'", "Usage: "],
        );
        says(&run("cache/*"), 2, &["give --glob 'cache/*', or --exact"]);
        assert!(!stderr(&run("\u{1b}[2J")).contains('\u{1b}'));
    }
    let help = httppubsub().args(["listen", "--help"]).output().unwrap();
    assert!(stdout(&help).contains("Usage: httppubsub listen [OPTIONS]\n"));
}

#[test]
fn finds_secrets_of_a_broadcaster_that_was_started_in_the_same_folder() {
    let stage = Stage::new(&["--db", "memory"]);
    let folder = stage.home.path().join("here");
    let file = folder.join("httppubsub-data/subscriber-secrets.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::copy(&stage.secrets, &file).unwrap();
    let command = |words: &[&str]| {
        let mut command = httppubsub();
        command.args(words).args(["--broadcaster", &stage.url]);
        command.current_dir(&folder);
        command
    };
    let mut listener = Process::spawn("listen", command(&["listen", "--exact", "t"]));
    listener.log_line("with the secrets found in httppubsub-data/subscriber-secrets.json");
    listener.log_line("listening ");
    let notify = ["notify", "t", "--data", "x"];
    let output = command(&notify).output().unwrap();
    assert_eq!(
        stdout(&output),
        "1 subscriber confirmed\n",
        "{}",
        stderr(&output)
    );
    assert_eq!(stderr(&output), "");
    listener.terminate();
    assert_eq!(listener.end_well(), ["t\tx"]);
    let hook = "http://other/hook";
    let add = ["subscriptions", "add", "--url", hook, "--exact", "a"];
    says(&command(&add).output().unwrap(), 0, &[]);

    // What is named is what is used.
    let other = Home::new();
    let named = other.path().join("secrets.json");
    let in_words = command(&notify).arg("--secrets").arg(&named).output();
    let in_environment = command(&notify).env("HTTPPUBSUB_SECRETS", &named).output();
    for output in [in_words, in_environment] {
        let hint = format!("hint: the secrets in {} ", named.display());
        says(&output.unwrap(), 1, &["status 403", &hint]);
    }
    // And where it is the wrong one that was found, it is said which that was.
    fs::copy(&named, &file).unwrap();
    let output = command(&notify).output().unwrap();
    says(
        &output,
        1,
        &["status 403", "hint: the secrets found in httppubsub-data/"],
    );
}

/// The section of `docs/cli.md` with this heading.
fn section(heading: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The words in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn members(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn json_members_in_the_document_are_those_that_are_printed() {
    let mut documented = BTreeMap::new();
    let mut explained = BTreeSet::new();
    let section = section("What `--json` prints");
    for bullet in section.split("\n- ").skip(1) {
        let bullet = bullet.split("\n\n").next().unwrap();
        let (by, members) = bullet.split_once(": ").unwrap();
        let members: BTreeSet<_> = quoted(members).into_iter().collect();
        documented.insert(quoted(by).join(" "), members);
    }
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        explained.extend(quoted(row.split(" | ").next().unwrap()));
    }
    let named: BTreeSet<_> = documented.values().flatten().cloned().collect();
    assert_eq!(explained, named);

    let mut printed = BTreeMap::new();
    let mut note = |by: &str, value: &Value| {
        let before = printed.insert(by.to_owned(), members(value));
        assert!(
            before.is_none_or(|it| it == members(value)),
            "{by}: {value}"
        );
    };
    let stage = Stage::new(&[]);
    let proxy = Proxy::start(stage.server.door.address);
    let mut through = httppubsub();
    through.args(["listen", "--ws", "--json", "--exact", "t", "--secrets"]);
    through.args([&stage.secrets, "--broadcaster", &proxy.url("")]);
    let websocket = Process::spawn("listen --ws", through);
    note("listen listening", &websocket.event("listening"));
    proxy.set(Fault::CloseAfter(1));
    proxy.cut();
    note("listen disconnected", &websocket.event("disconnected"));
    proxy.set(Fault::None);
    let mut awaited = BTreeSet::from(["connected".to_owned(), "missed".to_owned()]);
    while !awaited.is_empty() {
        let event = websocket.json();
        let name = event["event"].as_str().unwrap();
        awaited.remove(name);
        note(&format!("listen {name}"), &event);
    }
    drop(websocket);

    let listener = stage.spawn(&["listen", "--exact", "t", "--json"]);
    note("listen listening", &listener.event("listening"));
    let misbehaving = ["listen", "--exact", "t", "--json", "--misbehave", "garbage"];
    let misbehaving = stage.spawn(&misbehaving);
    note("listen listening", &misbehaving.event("listening"));
    let run = |words: &[&str]| -> Value {
        let output = stage.run(&[words, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    note("notify", &run(&["notify", "t", "--data", "x"]));
    note("listen message", &listener.event("message"));
    note("listen misbehaved", &misbehaving.event("misbehaved"));
    for verb in ["add", "set", "check", "remove"] {
        let verb = ["subscriptions", verb];
        let what = ["--url", "http://other/hook", "--exact", "a"];
        note(&verb.join(" "), &run(&[&verb[..], &what].concat()));
    }
    let folder = tempfile::tempdir().unwrap();
    let token = |words: &[&str]| {
        let mut token = httppubsub();
        token
            .arg("token")
            .args(words)
            .arg("--data")
            .arg(folder.path());
        token.output().unwrap().stdout
    };
    token(&["add", "ci", "--publish", "t*"]);
    let listed: Value = serde_json::from_slice(&token(&["list", "--json"])).unwrap();
    note("token list", &listed);
    let mut check = httppubsub();
    check.args(["check-url", "http://localhost:8080/hook", "--json"]);
    let checked: Value = serde_json::from_slice(&check.output().unwrap().stdout).unwrap();
    note("check-url", &checked);
    note("check-url addresses", &checked["addresses"][0]);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Postgres::shared().database());
    let cluster = Home::new();
    let _server = cluster.serve(&["--db", &database]);
    let mut status = httppubsub();
    status.args(["cluster", "status", "--json", "--db", &database]);
    let status: Value = serde_json::from_slice(&status.output().unwrap().stdout).unwrap();
    note("cluster status", &status);
    note("cluster status broadcasters", &status["broadcasters"][0]);
    assert_eq!(documented, printed);
}

#[test]
fn the_exit_statuses_in_the_document_are_those_of_the_help() {
    let help = stdout(&httppubsub().arg("--help").output().unwrap());
    let (_, listed) = help.split_once("Exit status: ").unwrap();
    let statuses = |text: &str, separator| -> Vec<u8> {
        let parts = text.split(separator);
        let numbers = parts.filter_map(|part| part.trim().split_once(' ')?.0.parse().ok());
        numbers.collect()
    };
    let documented = section("Exit statuses");
    assert_eq!(statuses(&documented, "\n| "), statuses(listed, ", "));
}
