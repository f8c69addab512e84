//! Every command that the documents show is run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use httppubsub_e2e::{Process, httppubsub};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The `sh` blocks of a document, each with the terminal it is typed into.
fn blocks(document: &str) -> Vec<(Option<String>, String)> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
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
    assert!(!blocks.is_empty(), "{document} shows no commands");
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
    command.env("HTTPPUBSUB_LISTEN", address);
    command.env("HTTPPUBSUB_BROADCASTER", format!("http://{address}"));
    Process::spawn(name, command)
}

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
            "listener" => drop(process.log_line("listening at http://")),
            "notifier" => assert_eq!(process.end_well(), ["1 subscriber confirmed"; 3]),
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
    let broadcaster = terminals.get_mut("broadcaster").unwrap();
    broadcaster.terminate();
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
fn every_other_command_in_the_documents_works_or_names_what_there_is() {
    for document in ["README.md", "CONTRIBUTING.md"] {
        for (terminal, script) in blocks(document) {
            if terminal.is_some() {
                continue;
            }
            for line in script.lines() {
                let line = line.split('#').next().unwrap().trim();
                check_command(document, line);
            }
        }
    }
}

fn check_command(document: &str, line: &str) {
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
            let alias = std::fs::read_to_string(root().join(".cargo/config.toml")).unwrap();
            assert!(alias.contains("xtask = ") && root().join("xtask/src/test.rs").exists());
        }
        ["cargo", "install", "--path", path] => {
            let manifest = std::fs::read_to_string(root().join(path).join("Cargo.toml")).unwrap();
            assert!(
                manifest.contains("name = \"httppubsub\""),
                "{document}: {line}"
            );
        }
        _ => panic!("{document} shows a command that nothing tests: {line}"),
    }
}

#[test]
fn what_the_readme_says_of_defaults_is_what_help_says() {
    let mut command = httppubsub();
    let help = command.args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
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
        assert!(
            about.contains(&format!("[env: {}=", cells[3])),
            "{flag}: {about}"
        );
        seen += 1;
    }
    assert!(seen >= 6, "{seen}");
}
