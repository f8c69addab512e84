//! Holds the workspace to `ARCHITECTURE.md` and `docs/design/style.md`: which module may use which,
//! what a face holds, and how comments are written (`language`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod language;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::source::{modules, root, uses, without_tests};

/// Each crate and the crates of the workspace it may use.
const ARROWS: [(&str, &[&str]); 8] = [
    ("proto", &[]),
    ("store", &["proto"]),
    ("net", &["proto"]),
    ("broadcaster", &["store", "net", "proto"]),
    ("client", &["net", "proto"]),
    (
        "httppubsub",
        &["broadcaster", "client", "store", "net", "proto"],
    ),
    ("cli", &["broadcaster", "client", "store", "net", "proto"]),
    ("python", &["client"]),
];

/// Crates that no registry of crates shows.
const UNPUBLISHED: [&str; 1] = ["python"];

/// The folders and files at the top of each crate: each may use those after it in its list, and
/// files of one line may not use each other. Those on the last line are the ground floor, where
/// only circles are forbidden.
const ORDER: [(&str, &[&str]); 8] = [
    (
        "proto",
        &[
            "session",
            "stateful",
            "stateless",
            "auth plain",
            "subscription glob url number topic digest wire time backoff limits paths error_chain",
        ],
    ),
    (
        "store",
        &[
            "conformance",
            "postgres sqlite memory",
            "contract lock urls",
        ],
    ),
    (
        "net",
        &[
            "websocket",
            "inbound",
            "outbound",
            "egress",
            "body",
            "clock identity log_limit party places random secrets_file",
        ],
    ),
    (
        "broadcaster",
        &[
            "testing",
            "builder",
            "broadcaster",
            "composition",
            "http",
            "websocket",
            "readiness",
            "notify",
            "journal",
            "notices",
            "delivery",
            "subscriptions",
            "cluster",
            "hub",
            "admission",
            "index",
            "observe background config message",
        ],
    ),
    (
        "client",
        &[
            "testing plain",
            "client",
            "subscriptions",
            "state statuses",
            "websocket",
            "receive",
            "requests",
            "config desired error",
        ],
    ),
    ("httppubsub", &[""]),
    (
        "cli",
        &[
            "",
            "verbs listen serve",
            "telemetry",
            "connection console egress exit files hints lines output secrets shown signals tokens \
             topic units usage",
        ],
    ),
    (
        "python",
        &[
            "module",
            "client",
            "statuses subscription",
            "body config message",
            "bridge",
            "runtime",
            "log",
            "queue",
            "failure fork",
        ],
    ),
];

/// Crates of the world outside that a crate must not depend on.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    (
        "proto",
        &[
            "tokio", "tracing", "rand", "axum", "hyper", "rusqlite", "http",
        ],
    ),
    ("store", &["axum", "hyper", "http", "rand"]),
    ("client", &["rusqlite"]),
];

/// Crates of the world outside, and the only modules that may name them.
const ONLY_IN: [(&str, &[&str]); 7] = [
    (
        "axum",
        &[
            // The face, which re-exports the router's type.
            "broadcaster::",
            "broadcaster::http",
            "broadcaster::protocol_vectors",
            "client::client",
            "client::receive",
            "cli::telemetry",
            "cli::listen",
        ],
    ),
    ("rusqlite", &["store::sqlite"]),
    ("tokio_postgres", &["store::postgres"]),
    ("deadpool_postgres", &["store::postgres"]),
    (
        "metrics",
        &["broadcaster::observe", "cli::console", "cli::telemetry"],
    ),
    ("tungstenite", &["net::websocket"]),
    ("tokio_tungstenite", &["net::websocket"]),
];

fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let names = section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn published_crates_say_what_a_registry_shows() {
    for (name, _) in ARROWS {
        if UNPUBLISHED.contains(&name) {
            continue;
        }
        let file = root().join("crates").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(file).unwrap();
        for key in [
            "description = ",
            "license.workspace",
            "repository.workspace",
            "readme.workspace",
            "keywords.workspace",
            "categories.workspace",
            "documentation = ",
            "[package.metadata.docs.rs]",
        ] {
            assert!(manifest.contains(&format!("\n{key}")), "{name}: {key}");
        }
    }
    for name in [
        "crates/e2e",
        "crates/python",
        "crates/testkit",
        "benches",
        "fuzz",
        "interop",
        "xtask",
    ] {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("\npublish = false\n"), "{name}");
    }
}

#[test]
fn arrows_between_crates_point_down() {
    for (name, allowed) in ARROWS {
        for used in dependencies(name) {
            if let Some(other) = used.strip_prefix("httppubsub-") {
                assert!(allowed.contains(&other), "{name} must not use {other}");
            }
        }
    }
    for (name, forbidden) in FORBIDDEN {
        let used = dependencies(name);
        for outside in forbidden {
            assert!(!used.contains(*outside), "{name} must not use {outside}");
        }
    }
}

#[test]
fn no_two_files_of_a_crate_need_each_other() {
    let mut circles = Vec::new();
    for (name, _) in ARROWS {
        let modules = modules(name);
        let graph: BTreeMap<&str, BTreeSet<String>> = modules
            .iter()
            .filter(|(_, module)| !module.is_face())
            .map(|(path, module)| (path.as_str(), uses(modules, module)))
            .collect();
        for start in graph.keys() {
            let mut reached = BTreeSet::new();
            let mut ahead: Vec<_> = graph[start].iter().collect();
            while let Some(next) = ahead.pop() {
                if reached.insert(next.as_str()) {
                    ahead.extend(graph.get(next.as_str()).into_iter().flatten());
                }
            }
            if reached.contains(start) {
                circles.push(format!("{name}::{start}"));
            }
        }
    }
    assert!(circles.is_empty(), "in circles: {circles:#?}");
}

#[test]
fn folders_of_a_crate_use_only_those_below_them() {
    let mut upward = Vec::new();
    for (name, order) in ORDER {
        let modules = modules(name);
        let floor_of = |path: &str| {
            let top = path.split("::").next().unwrap();
            order
                .iter()
                .position(|floor| floor.split(' ').any(|it| it == top))
        };
        for module in modules.values() {
            let is_root = module.path.is_empty();
            if (is_root && module.is_face()) || module.path == "protocol_vectors" {
                continue;
            }
            let own = floor_of(&module.path).unwrap_or_else(|| {
                let path = &module.path;
                panic!("{name}::{path} has no place in the order of its crate")
            });
            for used in uses(modules, module) {
                let same = used.split("::").next() == module.path.split("::").next();
                let on_the_ground = own + 1 == order.len() && floor_of(&used) == Some(own);
                if !same && !on_the_ground && floor_of(&used).is_none_or(|floor| floor <= own) {
                    upward.push(format!("{name}::{} uses {used}", module.path));
                }
            }
        }
    }
    assert!(upward.is_empty(), "upward: {upward:#?}");
}

#[test]
fn crates_from_outside_are_used_where_they_belong() {
    let mut elsewhere = Vec::new();
    for (name, _) in ARROWS {
        for module in modules(name).values() {
            let path = format!("{name}::{}", module.path);
            for (outside, places) in ONLY_IN {
                let is_there = places
                    .iter()
                    .any(|place| path == *place || path.starts_with(&format!("{place}::")));
                let (begins, ends) = (format!("::{outside}::"), format!("::{outside}"));
                let mentions = || module.mentions.iter();
                // A module of ours may have the name of a crate.
                let is_ours = mentions().any(|it| !it.starts_with("::") && it.ends_with(&ends));
                let uses_it = !is_ours && mentions().any(|it| it.starts_with(&begins));
                if uses_it && !is_there {
                    elsewhere.push(format!("{path} uses {outside}"));
                }
            }
        }
    }
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

/// The only module that opens connections: what it connects to was judged.
const DIALS: &str = "net::egress::dial";

#[test]
fn connections_are_opened_in_one_place() {
    let mut dialing = Vec::new();
    for (name, _) in ARROWS {
        for (path, module) in modules(name) {
            if module.without_tests().contains("TcpStream::connect") {
                dialing.push(format!("{name}::{path}"));
            }
        }
    }
    assert_eq!(dialing, [DIALS]);
}

#[test]
fn faces_declare_and_re_export_and_define_nothing() {
    for (name, _) in ARROWS {
        for (path, module) in modules(name) {
            if !module.is_face() {
                continue;
            }
            let defining = [
                "fn ", "struct ", "enum ", "trait ", "impl ", "const ", "static ",
            ];
            for line in module.without_tests().lines() {
                let words = line
                    .trim_start()
                    .trim_start_matches("pub ")
                    .trim_start_matches("pub(crate) ");
                let defines = defining.iter().any(|word| words.starts_with(word));
                assert!(
                    !defines,
                    "{name}: the face of {path:?} defines something: {line}"
                );
            }
        }
    }
}

#[test]
fn every_file_says_in_a_sentence_what_it_is_for() {
    for (name, _) in ARROWS {
        for (path, module) in modules(name) {
            assert!(
                module.text.starts_with("//! "),
                "{name}: {path} has no first sentence"
            );
        }
    }
}

/// The longest file, in lines without its tests.
const FILE_LINES_MAX: usize = 600;

/// Files that are one long table or one long list of cases.
const LONG_FILES: [&str; 0] = [];

#[test]
fn files_are_short_enough_to_be_read_at_once() {
    let mut long = Vec::new();
    for (name, _) in ARROWS {
        for (path, module) in modules(name) {
            let lines = module.without_tests().lines().count();
            let path = format!("{name}::{path}");
            if lines > FILE_LINES_MAX && !LONG_FILES.contains(&path.as_str()) {
                long.push(format!("{path}: {lines}"));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// The most fields of a struct that is not configuration or flags.
const FIELDS_MAX: usize = 15;

/// Structs with more fields that are still to be parted: their number may only fall.
const WIDE_STRUCTS_LEFT: usize = 1;

#[test]
fn structs_have_few_fields() {
    let mut wide = Vec::new();
    for (name, _) in ARROWS {
        for (path, module) in modules(name) {
            for (of, fields) in &module.structs {
                let is_setting = ["Config", "Options", "Serve", "Listen", "Flags", "Builder"];
                if *fields > FIELDS_MAX && !is_setting.iter().any(|it| of.ends_with(it)) {
                    wide.push(format!("{name}::{path}::{of}: {fields}"));
                }
            }
        }
    }
    assert!(wide.len() <= WIDE_STRUCTS_LEFT, "{wide:#?}");
}

#[test]
fn the_part_before_the_tests_is_found() {
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {}"), "a\n");
}
