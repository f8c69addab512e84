//! Holds the workspace to `ARCHITECTURE.md`: who may use whom, and what faces look like.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may use.
const ARROWS: [(&str, &[&str]); 6] = [
    ("proto", &[]),
    ("store", &["proto"]),
    ("net", &["proto"]),
    ("broadcaster", &["store", "net", "proto"]),
    ("client", &["net", "proto"]),
    ("cli", &["broadcaster", "client", "store", "net", "proto"]),
];

/// Crates of the world outside that a room must not use.
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn dependencies(room: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("crates").join(room).join("Cargo.toml")).unwrap();
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
fn arrows_between_rooms_point_down() {
    for (room, allowed) in ARROWS {
        for used in dependencies(room) {
            if let Some(other) = used.strip_prefix("httppubsub-") {
                assert!(allowed.contains(&other), "{room} must not use {other}");
            }
        }
    }
    for (room, forbidden) in FORBIDDEN {
        let used = dependencies(room);
        for name in forbidden {
            assert!(!used.contains(*name), "{room} must not use {name}");
        }
    }
}

/// The source files of a room, by the path of their module (`http::reply`).
fn modules(room: &str) -> BTreeMap<String, (PathBuf, String)> {
    let source = root().join("crates").join(room).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(!files.is_empty());
    let module = |file: PathBuf| {
        let path = file.strip_prefix(&source).unwrap().with_extension("");
        let mut parts: Vec<_> = path.iter().map(|part| part.to_str().unwrap()).collect();
        if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
            parts.pop();
        }
        let text = fs::read_to_string(&file).unwrap();
        (parts.join("::"), (file, text))
    };
    files.into_iter().map(module).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// The part of a file that is not its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

fn is_face(file: &Path) -> bool {
    matches!(
        file.file_name().and_then(|it| it.to_str()),
        Some("lib.rs" | "mod.rs")
    )
}

/// The modules that a file names with `crate::`.
fn uses(modules: &BTreeMap<String, (PathBuf, String)>, text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for part in without_tests(text).split("crate::").skip(1) {
        let end = part.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        let path = &part[..end.unwrap_or(part.len())];
        let segments: Vec<_> = path.split("::").collect();
        let known = (1..=segments.len())
            .rev()
            .map(|count| segments[..count].join("::"));
        used.extend(known.into_iter().find(|path| modules.contains_key(path)));
    }
    used
}

#[test]
fn no_two_files_of_a_room_need_each_other() {
    for (room, _) in ARROWS {
        let modules = modules(room);
        let graph: BTreeMap<&String, BTreeSet<String>> = modules
            .iter()
            .filter(|(_, (file, _))| !is_face(file) && !file.ends_with("main.rs"))
            .map(|(name, (_, text))| (name, uses(&modules, text)))
            .collect();
        for start in graph.keys() {
            let mut reached = BTreeSet::new();
            let mut ahead: Vec<_> = graph[start].iter().collect();
            while let Some(next) = ahead.pop() {
                if reached.insert(next) {
                    ahead.extend(graph.get(next).into_iter().flatten());
                }
            }
            assert!(
                !reached.contains(start),
                "{room}: {start} needs itself, by way of others"
            );
        }
    }
}

#[test]
fn faces_declare_and_re_export_and_define_nothing() {
    for (room, _) in ARROWS {
        for (name, (file, text)) in modules(room) {
            if !is_face(&file) {
                continue;
            }
            let defining = [
                "fn ", "struct ", "enum ", "trait ", "impl ", "const ", "static ",
            ];
            for line in without_tests(&text).lines() {
                let words = line
                    .trim_start()
                    .trim_start_matches("pub ")
                    .trim_start_matches("pub(crate) ");
                let defines = defining.iter().any(|word| words.starts_with(word));
                assert!(
                    !defines,
                    "{room}: the face of {name:?} defines something: {line}"
                );
            }
        }
    }
}

#[test]
fn every_file_says_in_a_sentence_what_it_is_for() {
    for (room, _) in ARROWS {
        for (name, (_, text)) in modules(room) {
            assert!(
                text.starts_with("//! "),
                "{room}: {name} has no first sentence"
            );
        }
    }
}
