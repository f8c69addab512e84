//! Every command that the documents show is run, and what they say is held to tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use httppubsub_e2e::{Postgres, Process, httppubsub};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The documents: those of the workspace and those in `docs`.
fn documents() -> Vec<String> {
    let mut documents = Vec::new();
    for folder in ["", "docs/"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                documents.push(format!("{folder}{name}"));
            }
        }
    }
    assert!(documents.len() >= 7, "{documents:?}");
    documents
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The `sh` blocks of a document, each with the terminal it is typed into.
fn blocks(document: &str) -> Vec<(Option<String>, String)> {
    let text = read(document);
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```sh") else {
            continue;
        };
        let terminal = info.trim().strip_prefix("terminal=").map(str::to_owned);
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push((terminal, block.join("\n")));
    }
    blocks
}

/// A shell in which `httppubsub` is ours, speaking with a broadcaster at `address` by default.
fn shell(name: &str, script: &str, folder: &Path, address: &str) -> Process {
    let program = httppubsub();
    let own = Path::new(program.get_program())
        .parent()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let path = format!("{own}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command
        .args(["-euc", script])
        .current_dir(folder)
        .env("PATH", path);
    // Nothing of the test's environment configures it.
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("HTTPPUBSUB_LISTEN", address);
    command.env("HTTPPUBSUB_BROADCASTER", format!("http://{address}"));
    Process::spawn(name, command)
}

const ANY_PORT: &str = "127.0.0.1:0";

#[test]
fn the_tour_in_the_readme_goes_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let mut terminals = BTreeMap::new();
    for (terminal, script) in blocks("README.md") {
        let Some(terminal) = terminal else { continue };
        let mut process = shell(&terminal, &script, folder.path(), &address);
        match terminal.as_str() {
            "broadcaster" => assert_eq!(process.line(), format!("listening on http://{address}")),
            "listener" | "websocket-listener" => drop(process.log_line("listening ")),
            "notifier" => assert_eq!(process.end_well(), ["1 subscriber confirmed"; 3]),
            "websocket-notifier" => assert_eq!(process.end_well(), ["1 subscriber confirmed"]),
            other => panic!("what is to be seen in terminal {other}?"),
        }
        terminals.insert(terminal, process);
    }
    let host = std::fs::read_to_string("/etc/hostname").unwrap();
    let received = terminals.get_mut("listener").unwrap().end_well();
    assert_eq!(
        received,
        [
            "hello\tHello, world".to_owned(),
            "cache/user/7\tdrop it".to_owned(),
            format!("cache/logo\t{}", host.trim_end_matches('\n')),
        ]
    );
    let listener = terminals.get_mut("websocket-listener").unwrap();
    assert_eq!(listener.end_well(), ["cache/logo\tdrop it"]);
    let broadcaster = terminals.get_mut("broadcaster").unwrap();
    broadcaster.interrupt();
    broadcaster.end_well();
    let data = folder.path().join("httppubsub-data");
    for file in [
        "subscriptions.db",
        "broadcaster-secrets.json",
        "subscriber-secrets.json",
    ] {
        assert!(data.join(file).exists(), "{file}");
    }
}

#[test]
fn the_tour_through_two_broadcasters_goes_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(Postgres::shared().database());
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let addresses = [free(), free()];
    let mut running = BTreeMap::new();
    for (terminal, script) in blocks("docs/scaling.md") {
        let Some(terminal) = terminal else { continue };
        let shown = "postgres://httppubsub@db.internal/httppubsub";
        let script = script
            .replace(shown, &database)
            .replace("127.0.0.1:3003", &addresses[0])
            .replace("127.0.0.1:3004", &addresses[1]);
        let mut process = shell(&terminal, &script, folder.path(), ANY_PORT);
        match terminal.as_str() {
            "setup" => drop(process.end_well()),
            "one" | "other" => assert!(process.line().starts_with("listening on http://")),
            "listener" => drop(process.log_line("listening ")),
            "notifier" => assert_eq!(process.end_well(), ["1 subscriber confirmed"]),
            "status" => {
                let lines = process.end_well();
                assert!(lines[0].starts_with("BROADCASTER"), "{lines:?}");
                for address in &addresses {
                    let line = lines.iter().find(|it| it.contains(address));
                    assert!(line.is_some_and(|it| it.contains("alive")), "{lines:?}");
                }
            }
            other => panic!("what is to be seen in terminal {other}?"),
        }
        running.insert(terminal, process);
    }
    let received = running.get_mut("listener").unwrap().end_well();
    assert_eq!(received, ["hello\tHello, all"]);
}

#[test]
fn the_tour_through_the_plain_door_goes_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut running = BTreeMap::new();
    for (terminal, script) in blocks("docs/plain.md") {
        let Some(terminal) = terminal else { continue };
        let script = script.replace("127.0.0.1:3003", &address);
        let mut process = shell(&terminal, &script, folder.path(), &address);
        match terminal.as_str() {
            "token" => assert!(process.end_well().is_empty()),
            "broadcaster" => assert_eq!(process.line(), format!("listening on http://{address}")),
            "listener" => drop(process.log_line("listening ")),
            "receipts" => {
                let lines = process.end_well().into_iter().map(|line| {
                    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
                    said["type"].as_str().unwrap().to_owned()
                });
                assert_eq!(lines.collect::<Vec<_>>(), ["accepted", "delivery", "done"]);
            }
            "explain" => {
                let said: serde_json::Value = serde_json::from_str(&process.line()).unwrap();
                assert_eq!(
                    (&said["matched"], &said["not_shown"]),
                    (&1.into(), &1.into())
                );
            }
            "program" => assert_eq!(process.end_well(), ["1 subscriber confirmed"]),
            "publisher" => {
                let topics = process.end_well().into_iter().map(|line| {
                    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
                    assert_eq!(
                        (&said["matched"], &said["confirmed"]),
                        (&1.into(), &1.into())
                    );
                    said["topic"].as_str().unwrap().to_owned()
                });
                assert_eq!(
                    topics.collect::<Vec<_>>(),
                    ["cache/user/7", "cache/logo", "cache/time"]
                );
            }
            other => panic!("what is to be seen in terminal {other}?"),
        }
        running.insert(terminal, process);
    }
    let received = running.get_mut("listener").unwrap().end_well();
    assert_eq!(received.len(), 5);
    assert_eq!(received[0], "cache/user/7\tdrop it");
}

/// What the document about several broadcasters says, and the tests that hold it.
const SCALING_PROMISES: &[(&str, &[(&str, &str)])] = &[
    (
        "A subscription acknowledged by one is honoured by all",
        &[(
            CLUSTER,
            "a_subscription_acknowledged_at_one_is_honoured_by_a_notify_at_the_other_afterwards",
        )],
    ),
    (
        "What was used at one is refused by the others",
        &[(CLUSTER, "a_request_captured_at_one_is_refused_by_the_other")],
    ),
    (
        "Websockets get what is notified anywhere",
        &[(
            CLUSTER,
            "websockets_at_one_get_what_is_notified_at_the_other_once",
        )],
    ),
    (
        "A notice (MISSED) is sent by one of them",
        &[(
            POSTGRES_STORE,
            "no_notice_is_claimed_by_two_at_once_and_those_of_the_dead_are_taken_over",
        )],
    ),
    (
        "Clocks may differ",
        &[(
            CLUSTER,
            "f16_a_broadcaster_whose_clock_is_wrong_does_not_take_what_another_holds",
        )],
    ),
    (
        "Nothing acknowledged is lost.",
        &[(
            CLUSTER,
            "kills_of_either_lose_no_subscription_and_nothing_without_a_notice",
        )],
    ),
    (
        "the others stop trying",
        &[(
            CLUSTER,
            "a_broadcaster_that_was_killed_is_left_in_peace_and_starts_anew",
        )],
    ),
    (
        "it is forgotten, with what its websockets wanted",
        &[(
            CLUSTER,
            "a_broadcaster_that_does_not_come_back_is_forgotten",
        )],
    ),
    (
        "It ends its websockets, so that they know that they may have missed something",
        &[(
            CLUSTER,
            "a_broadcaster_that_others_have_forgotten_ends_its_websockets_which_subscribe_again",
        )],
    ),
    (
        "They are told that they missed something",
        &[(
            CLUSTER,
            "f18_websockets_of_a_broadcaster_that_cannot_be_reached_are_told_when_it_can",
        )],
    ),
    (
        "Each broadcaster goes on",
        &[(
            CLUSTER,
            "f13_restarts_of_the_database_lose_nothing_acknowledged_and_are_recovered_from",
        )],
    ),
    (
        "where it is not known whether a change was made",
        &[(
            CLUSTER,
            "f14_an_answer_of_the_database_that_is_lost_is_not_guessed",
        )],
    ),
    (
        "`GET /readyz` says 503",
        &[(
            CLUSTER,
            "f19_who_cannot_reach_the_database_says_503_and_goes_on_when_it_can",
        )],
    ),
    (
        "It is noticed when the connection is made anew",
        &[(
            POSTGRES_STORE,
            "another_database_in_the_place_of_the_first_is_noticed",
        )],
    ),
    (
        "Nothing is missed; the list of changes grows",
        &[(
            POSTGRES_STORE,
            "a_change_that_was_forgotten_before_it_was_read_makes_all_be_read_again",
        )],
    ),
    (
        "the server's certificate is checked",
        &[(
            CLUSTER,
            "the_way_to_the_database_is_encrypted_and_its_server_verified",
        )],
    ),
];

const CLUSTER: &str = "crates/e2e/tests/cluster.rs";
const POSTGRES_STORE: &str = "crates/e2e/tests/postgres_store.rs";

#[test]
fn what_is_said_of_several_broadcasters_has_a_test() {
    check_promises(&read("docs/scaling.md"), SCALING_PROMISES);
}

#[test]
fn the_command_line_is_used_as_its_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let mut terminals = BTreeMap::new();
    for (terminal, script) in blocks("docs/cli.md") {
        let terminal = terminal.unwrap_or_else(|| panic!("in which terminal? {script}"));
        let printed: Vec<_> = script
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .collect();
        let mut process = shell(&terminal, &script, folder.path(), &address);
        match terminal.as_str() {
            "shell" => assert_eq!(process.end_well(), printed, "{script}"),
            "broadcaster" => assert_eq!(process.line(), format!("listening on http://{address}")),
            _ => drop(process.log_line("listening ")),
        }
        terminals.insert(terminal, process);
    }
    for (terminal, printed) in [
        ("waiting", vec!["build 1208"]),
        (
            "reacting",
            vec!["dropping 7 of cache/user", "dropping 8 of cache/user"],
        ),
        ("websocket", vec!["cache/page\t7"]),
        ("saving", vec!["reports\tsaved as inbox/000001-reports"]),
    ] {
        let process = terminals.get_mut(terminal).unwrap();
        assert_eq!(process.end_well(), printed, "{terminal}");
    }
    for (terminal, said) in [
        ("misbehaving", "misbehaved: garbage upon jobs"),
        ("broadcaster", ""),
    ] {
        let process = terminals.get_mut(terminal).unwrap();
        process.log_line(said);
        process.terminate();
        process.end_well();
    }
    assert_eq!(terminals.len(), 7, "{:?}", terminals.keys());
    let text = read("docs/cli.md");
    let long = text.lines().find(|line| line.chars().count() > 100);
    assert_eq!(long, None);
}

#[test]
fn every_other_command_in_the_documents_works_or_names_what_there_is() {
    let mut checked = 0;
    for document in documents() {
        for (terminal, script) in blocks(&document) {
            if terminal.is_some() {
                continue;
            }
            let mut lines = script.lines().peekable();
            while let Some(line) = lines.next() {
                let (line, comment) = line.split_once('#').unwrap_or((line, ""));
                // What a command prints stands behind it, or on a line of its own below.
                let below = lines.next_if(|it| it.starts_with("# "));
                let comment = below.map_or(comment, |it| &it[2..]);
                check_command(&document, line.trim(), comment.trim());
                checked += 1;
            }
        }
    }
    assert!(checked >= 5, "{checked}");
}

/// `comment` is what stands behind or below the command.
fn check_command(document: &str, line: &str, comment: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        // Cargo builds the program and runs it with what follows.
        ["cargo", "run", "--release", "--", ref verb @ ..] => {
            let mut command = httppubsub();
            command.args(verb);
            Process::spawn(line, command).end_well();
        }
        // This test is a part of it.
        ["cargo", "xtask", "test"] => {
            assert!(read(".cargo/config.toml").contains("xtask = "));
            assert!(root().join("xtask/src/test.rs").exists());
        }
        // It says what the comment says.
        ["httppubsub", "check-url", ..] => {
            let folder = tempfile::tempdir().unwrap();
            let mut checking = shell(line, line, folder.path(), ANY_PORT);
            let (status, lines) = checking.end();
            assert_eq!(lines, [comment], "{document}: {line}");
            assert_eq!(status.success(), comment.starts_with("allowed: "));
        }
        ["httppubsub", "serve", ..] => {
            let folder = tempfile::tempdir().unwrap();
            let script = format!("exec {line}");
            let mut serving = shell(line, &script, folder.path(), ANY_PORT);
            assert!(serving.line().starts_with("listening on "));
            serving.terminate();
            serving.end_well();
        }
        ["httppubsub", "listen", ..] => {
            let folder = tempfile::tempdir().unwrap();
            let script = "exec httppubsub serve";
            let serving = shell("the broadcaster", script, folder.path(), ANY_PORT);
            let listening = serving.line();
            let address = listening.strip_prefix("listening on http://").unwrap();
            let secrets = folder
                .path()
                .join("httppubsub-data/subscriber-secrets.json");
            let secrets = secrets.display();
            let script = format!("export HTTPPUBSUB_SECRETS={secrets}; exec {line}");
            let mut listener = shell(line, &script, folder.path(), address);
            listener.log_line("listening ");
            listener.terminate();
            listener.end_well();
        }
        // The step `python` builds the package, installs it and tries it.
        ["python", "-m", "venv", ..] | ["pip", "install", "httppubsub"] => {
            assert!(read("pyproject.toml").contains("\nname = \"httppubsub\"\n"));
        }
        ["cargo", "install", "--path", path] => {
            let manifest = read(&format!("{path}/Cargo.toml"));
            let is_ours = manifest.contains("[[bin]]\nname = \"httppubsub\"");
            assert!(is_ours, "{document}: {line}");
        }
        _ => panic!("{document} shows a command that nothing tests: {line}"),
    }
}

#[test]
fn what_the_readme_says_of_defaults_is_what_help_says() {
    let mut command = httppubsub();
    let help = command.args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let readme = read("README.md");
    let mut seen = 0;
    for row in readme.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<_> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let flag = cells[1].split([' ', '`']).next().unwrap();
        let start = help
            .find(&format!(" {flag} "))
            .unwrap_or_else(|| panic!("no {flag} in {help}"));
        let about = help[start..].split("\n\n      --").next().unwrap();
        let file = cells[2]
            .split('`')
            .next()
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        assert!(about.contains(file), "{flag}: {file} is not in {about}");
        // What may hold a password is not shown.
        let is_named = ["=", "]"]
            .iter()
            .any(|end| about.contains(&format!("[env: {}{end}", cells[3])));
        assert!(is_named, "{flag}: {about}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}

#[test]
fn the_metrics_in_the_documents_are_those_that_there_are() {
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names = words.filter(|word| word.starts_with("httppubsub_"));
        names.map(str::to_owned).collect()
    };
    let source = read("crates/broadcaster/src/observe/metrics.rs");
    let mut there = names(&source);
    there.extend(names(&read("crates/cli/src/console.rs")));
    // A crate.
    there.remove("httppubsub_net");
    assert_eq!(names(&read("docs/operating.md")), there);
}

#[test]
fn what_the_documents_link_to_is_there() {
    let mut checked = 0;
    for document in documents() {
        let folder = root().join(&document).parent().unwrap().to_owned();
        for link in read(&document).split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            let path = target.split('#').next().unwrap();
            if !target.contains("://") && !path.is_empty() {
                assert!(folder.join(path).exists(), "{document} links to {target}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "{checked}");
}

/// What the README says, and the tests that hold it.
const PROMISES: &[(&str, &[(&str, &str)])] = &[
    // What it is.
    (
        "Messages may be larger than memory",
        &[(DELIVERY, "a_message_of_256_mib_costs_no_memory")],
    ),
    (
        "Publishers learn how many subscribers confirmed",
        &[(API, "what_is_notified_is_received_under_every_scheme")],
    ),
    (
        "subscribers that missed something are told so",
        &[(API, "a_gap_is_told_before_any_later_message")],
    ),
    (
        "work with it unchanged, in both directions",
        &[
            (THEIR_WEBSOCKETS, "a_preset_dictionary_is_the_same_to_both"),
            (
                THEIR_WEBSOCKETS,
                "our_websockets_take_parts_of_their_messages",
            ),
            (THEIRS, "all_of_500_messages_arrive_behind_our_broadcaster"),
            (
                THEIRS,
                "all_of_500_messages_arrive_behind_their_broadcaster",
            ),
        ],
    ),
    (
        "the same API runs over one websocket",
        &[(API, "messages_of_every_origin_and_size_arrive_whole")],
    ),
    (
        "over a websocket once in all",
        &[(API, "what_is_notified_is_received_under_every_scheme")],
    ),
    (
        "over one websocket that is opened anew whenever it is lost",
        &[(WEBSOCKETS, "a_client_outlasts_a_broadcaster_that_is_killed")],
    ),
    // The tour.
    (
        "its subscriptions are there again at the next start",
        &[(
            DURABILITY,
            "fifty_kills_lose_nothing_that_was_acknowledged_and_leave_no_set_half_done",
        )],
    ),
    (
        "`setup` writes secrets for other schemes",
        &[(
            CLI,
            "setup_writes_secrets_for_their_owner_only_and_never_overwrites",
        )],
    ),
    (
        "`subscriptions` looks after the subscriptions of programs",
        &[(CLI, "subscriptions_of_others_can_be_looked_after")],
    ),
    (
        "`check-url` says whether a broadcaster may post to a url",
        &[(EGRESS, "a_url_can_be_checked_beforehand")],
    ),
    (
        "`completions` is for your shell. `--help` explains each",
        &[(CLI, "help_explains_every_verb_and_version_says_which")],
    ),
    (
        "`listen`, `notify` and `subscriptions` take `--json`",
        &[
            (
                CLI,
                "listen_prints_what_arrives_as_text_as_json_and_as_files",
            ),
            (CLI, "subscriptions_of_others_can_be_looked_after"),
        ],
    ),
    (
        "0 for done, 1 for failed or refused, 2 for wrong usage, 3 for perhaps done, 4 for time \
         ran out",
        &[
            (CLI, "a_notification_says_in_its_status_what_came_of_it"),
            (CLI, "wrong_usage_is_told_with_status_2"),
            (CLI, "listen_ends_by_time_and_by_signal_and_unsubscribes"),
        ],
    ),
    // The library.
    (
        "Runs at the start and after every gap, before any later message",
        &[
            (API, "a_gap_is_told_before_any_later_message"),
            (
                API,
                "what_runs_at_a_gap_is_done_before_a_later_message_is_yielded",
            ),
        ],
    ),
    (
        "Files and readers are streamed",
        &[(API, "messages_of_every_origin_and_size_arrive_whole")],
    ),
    (
        "A broadcaster inside your own axum app",
        &[(
            MOUNT,
            "everything_works_through_the_prefix_and_the_apps_own_routes_stay",
        )],
    ),
    // What is promised.
    // Configuration.
    (
        "`GET /healthz` says that the process lives, `GET /readyz` that it should be sent requests",
        &[(SERVING, "a_broadcaster_that_stops_is_alive_and_not_ready")],
    ),
    (
        "of every subscription that matched, whether it confirmed, is owed a notice, or missed it \
         for good",
        &[(
            "crates/e2e/tests/metrics.rs",
            "every_subscription_that_matched_is_in_one_of_the_counts",
        )],
    ),
    (
        "SIGTERM and SIGINT stop it in an orderly way",
        &[(
            SERVING,
            "sigterm_finishes_what_is_under_way_and_takes_nothing_new",
        )],
    ),
];

const API: &str = "crates/e2e/tests/api.rs";
const CLI: &str = "crates/e2e/tests/cli.rs";
const DELIVERY: &str = "crates/e2e/tests/delivery.rs";
const DURABILITY: &str = "crates/e2e/tests/durability.rs";
const EGRESS: &str = "crates/e2e/tests/egress.rs";
const MOUNT: &str = "crates/e2e/tests/mount.rs";
const SERVING: &str = "crates/e2e/tests/serving.rs";
const THEIRS: &str = "interop/tests/interop/large.rs";
const THEIR_WEBSOCKETS: &str = "interop/tests/interop/websockets.rs";
const WEBSOCKETS: &str = "crates/e2e/tests/websockets.rs";

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn check_promises(document: &str, promises: &[(&str, &[(&str, &str)])]) {
    let said = words(document);
    for (promise, tests) in promises {
        assert!(said.contains(&words(promise)), "it does not say: {promise}");
        for (file, test) in *tests {
            let is_there = read(file).contains(&format!("\n#[test]\nfn {test}()"))
                || read(file).contains(&format!("\nasync fn {test}()"));
            assert!(is_there, "{promise}: there is no {test} in {file}");
        }
    }
}

#[test]
fn what_the_readme_promises_has_a_test() {
    let readme = read("README.md");
    check_promises(&(readme.clone() + &read("docs/guarantees.md")), PROMISES);
    // The page of guarantees has a table of its own, which `failures.rs` holds to the tests.
    let section = readme.split("## What is promised\n").nth(1).unwrap();
    assert!(section.contains("(docs/guarantees.md)"));
}
