//! Holds comments and documents to `docs/design/style.md`: words, openings, how much is said, and
//! the width of lines.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ARROWS;
use crate::source::{Lines, collect, modules, root};

/// Words and phrases that engineers elsewhere stumble over (`docs/design/style.md`).
const UNPLAIN: [&str; 12] = [
    "whoever",
    "any more",
    "by and by",
    "those that",
    "is told",
    "are told",
    "so many",
    "of those",
    "whom",
    "makes good",
    "at least in part",
    "comes of",
];

/// Comments of each crate that still hold one of [`UNPLAIN`]: may only fall.
const UNPLAIN_LEFT: [(&str, usize); 8] = [
    ("proto", 0),
    ("store", 0),
    ("net", 0),
    ("broadcaster", 0),
    ("client", 0),
    ("httppubsub", 0),
    ("cli", 0),
    ("python", 0),
];

#[test]
fn comments_are_in_plain_english() {
    let mut too_many = Vec::new();
    for (name, left) in UNPLAIN_LEFT {
        let mut found = Vec::new();
        for module in modules(name).values() {
            for (number, line) in module.text.lines().enumerate() {
                let Some((_, comment)) = line.split_once("//") else {
                    continue;
                };
                let comment = format!(" {} ", comment.to_lowercase());
                for phrase in UNPLAIN {
                    if comment.contains(&format!(" {phrase}")) {
                        let file = module.file.strip_prefix(root()).unwrap().display();
                        found.push(format!("{file}:{}: {phrase}", number + 1));
                    }
                }
            }
        }
        if found.len() > left {
            too_many.push(format!("{name}: {} of {left}: {found:#?}", found.len()));
        }
    }
    assert!(too_many.is_empty(), "{}", too_many.join("\n"));
}

/// Words that open an indirect question instead of naming the thing.
const INDIRECT: [&str; 9] = [
    "What", "How", "Whether", "Which", "Who", "Whom", "Where", "When", "Why",
];

/// Of a hundred documentation comments of a crate, those that open with one of [`INDIRECT`].
const INDIRECT_MAX: [(&str, usize); 8] = [
    ("proto", 6),
    ("store", 1),
    ("net", 3),
    ("broadcaster", 6),
    ("client", 6),
    ("httppubsub", 6),
    ("cli", 6),
    ("python", 6),
];

#[test]
fn documentation_opens_with_a_noun_phrase_or_a_verb() {
    let mut too_many = Vec::new();
    for (name, of_a_hundred) in INDIRECT_MAX {
        let (mut all, mut indirect) = (0, 0);
        for module in modules(name).values() {
            for doc in &module.docs {
                all += 1;
                let first = doc.text.split_whitespace().next().unwrap_or_default();
                indirect += usize::from(INDIRECT.contains(&first));
            }
        }
        if indirect * 100 > all * of_a_hundred {
            too_many.push(format!("{name}: {indirect} of {all}"));
        }
    }
    assert!(too_many.is_empty(), "{too_many:#?}");
}

/// Documentation examples that `cargo test` compiles, in all crates.
const EXAMPLES_MIN: usize = 40;

#[test]
fn documentation_shows_how_things_are_used() {
    let crates = ARROWS.iter().map(|(name, _)| modules(name));
    let examples = crates.map(|modules| {
        let docs = modules.values().flat_map(|module| &module.docs);
        docs.map(|doc| doc.examples()).sum::<usize>()
    });
    let examples = examples.sum::<usize>();
    assert!(examples >= EXAMPLES_MIN, "{examples}");
}

/// The longest line of code, comments and documents.
const COLUMNS: usize = 100;

/// Folders with Rust and documents that are written here.
const WRITTEN: [&str; 6] = ["crates", "docs", "interop", "benches", "xtask", "fuzz"];

/// Files below the root folder that end in `extension` and are written here, not built.
fn written(extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == extension))
        .collect();
    for folder in WRITTEN {
        collect(&root().join(folder), extension, &mut files);
    }
    let is_built = |file: &Path| file.iter().any(|part| part == "target" || part == ".venv");
    files.retain(|file| !is_built(file));
    files
}

/// `true` for a line that cannot be broken without becoming something else: a row of a table, or a
/// single word, such as a url, behind the signs of a comment, a quotation or a list.
fn is_unbreakable(line: &str) -> bool {
    let content = line.trim_start_matches(['/', '!', ' ', '>', '-']);
    content.starts_with('|') || !content.contains(' ')
}

/// Lines of `text`, with their numbers, that are longer than [`COLUMNS`] and could be broken. In a
/// document, fenced blocks without a language are left out: they show what a program prints.
fn too_long(text: &str, is_document: bool) -> Vec<usize> {
    let mut long = Vec::new();
    let mut printed = false;
    for (number, line) in (1..).zip(text.lines()) {
        if is_document && let Some(language) = line.trim_start().strip_prefix("```") {
            printed = !printed && matches!(language, "" | "text");
        }
        if line.chars().count() > COLUMNS && !printed && !is_unbreakable(line) {
            long.push(number);
        }
    }
    long
}

#[test]
fn lines_are_at_most_100_columns_wide() {
    let mut long = Vec::new();
    for (extension, is_document) in [("rs", false), ("md", true)] {
        for file in written(extension) {
            let text = fs::read_to_string(&file).unwrap();
            let file = file.strip_prefix(root()).unwrap().display();
            let places = too_long(&text, is_document);
            long.extend(places.iter().map(|number| format!("{file}:{number}")));
        }
    }
    assert!(long.is_empty(), "{}: {long:#?}", long.len());
}

#[test]
fn only_lines_that_can_be_broken_are_too_long() {
    let words = "word ".repeat(30);
    let url = format!("<https://example.com/{}>", "a".repeat(100));
    assert_eq!(too_long(&words, true), [1]);
    assert_eq!(
        too_long(&format!("//! | {words} |\n/// {url}\n> {url}"), false),
        []
    );
    assert_eq!(too_long(&format!("see {url}"), false), [1]);
    let printed = format!("```\n{words}\n```\n{words}\n```sh\n{words}\n```");
    assert_eq!(too_long(&printed, true), [4, 6]);
}

/// Modules that are one long list of cases: the names of the cases say what they are for.
const CASES: &str = "store::conformance";

/// Lines of a crate by what they hold, without tests and [`CASES`].
fn lines_of(name: &'static str) -> Lines {
    let mut sum = Lines::default();
    for (path, module) in modules(name) {
        if !format!("{name}::{path}").starts_with(CASES) {
            sum.code += module.lines.code;
            sum.docs += module.lines.docs;
            sum.why += module.lines.why;
        }
    }
    sum
}

/// Of a hundred lines of code of each crate, the least lines of documentation, and of comments
/// inside of functions, which give reasons. `python` has its documentation in the package around
/// it, which is what programs see.
const COMMENTS_MIN: [(&str, usize, usize); 8] = [
    ("proto", 25, 3),
    ("store", 25, 3),
    ("net", 25, 3),
    ("broadcaster", 25, 3),
    ("client", 25, 3),
    ("httppubsub", 25, 0),
    ("cli", 25, 3),
    ("python", 11, 1),
];

#[test]
fn code_is_documented_and_gives_its_reasons() {
    let mut too_few = Vec::new();
    for (name, docs_min, why_min) in COMMENTS_MIN {
        let Lines { code, docs, why } = lines_of(name);
        if docs * 100 < code * docs_min || why * 100 < code * why_min {
            too_few.push(format!("{name}: {docs} and {why} of {code}"));
        }
    }
    assert!(too_few.is_empty(), "{too_few:#?}");
}

/// The least lines of documentation with which each crate opens. `cli` has no library and is not
/// read on docs.rs, but an engineer who changes it begins at its first lines.
const CRATE_DOCS_MIN: usize = 40;

#[test]
fn crates_open_with_a_manual() {
    let mut short = Vec::new();
    for (name, _) in ARROWS {
        let face = modules(name).get("").unwrap();
        let lines = face.text.lines().filter(|line| line.starts_with("//!"));
        let lines = lines.count();
        if lines < CRATE_DOCS_MIN {
            short.push(format!("{name}: {lines}"));
        }
    }
    assert!(short.is_empty(), "{short:#?}");
}
