//! Faults that were seen from outside, each held by a test that carries its name.
//!
//! A file of this folder covers one subject and opens with a table of its faults:
//! `| fault | test |`, or `| fault | path of the file | test |` where the test lies elsewhere in
//! the workspace.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod delivery;
mod egress;
mod globs;
mod program;
mod serving;
mod sessions;
mod store;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The faults by the names that tests and commits cite.
const FAULTS: [&str; 83] = [
    // Defaults that broke a promise.
    "hang-doubles",
    "hang-never-opens",
    "burst-cut-off",
    "poison",
    "compressible",
    "stderr-gone",
    "one-bit",
    "resend",
    "no-webhook",
    // One party that took what all share.
    "dead-names",
    "dead-address",
    "glob-freeze",
    "glob-oom",
    "glob-websockets",
    "own-url",
    "silent-idle",
    "sweep-starved",
    "head-drip",
    "empty-frames",
    "ask-never-read",
    "neighbours",
    "copies",
    "who-subscribed",
    "slow-asker",
    "memory-beside",
    "all-places",
    "guard-full",
    "metrics-idle",
    "big-sets",
    // Failures of what it stands on.
    "pg-read-only",
    "pg-bouncer",
    "pg-silent",
    "pg-restore",
    "pg-reader",
    "pg-url",
    "torn-replay",
    "first-start",
    "not-ready",
    "clock-back",
    "files-gone",
    "slope",
    "dns-changed",
    "lost-rows",
    "page-lost",
    // The wire and the log.
    "half-closed",
    "no-agent",
    "log-stuck",
    "trace-leak",
    "bare-lf",
    "two-hosts",
    // The command line.
    "blocked-stdout",
    "timeout-of-names",
    "sighup",
    "wrong-secrets-over-ws",
    "terminal-escapes",
    "save-whole",
    "secrets-in-errors",
    "environment-flags",
    "dash-values",
    "huge-timeouts",
    "bad-globs",
    "subscriptions-truth",
    "hints",
    "units",
    "listen-tip",
    "finds-secrets",
    "refusals-counted",
    "websocket-counted",
    "counters-from-start",
    "database-mode",
    "secrets-typo",
    "host-slash",
    "add-other-recovery",
    "docs-say-other",
    "json-members",
    // The libraries.
    "topic-display",
    "error-causes",
    "outlived-runtime",
    "message-in-tests",
    "gap-in-tests",
    "time-table",
    "passing-trouble",
    "glob-refused",
];

#[test]
fn every_fault_has_a_test_that_exists_and_carries_its_name() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut tested = BTreeMap::new();
    for entry in std::fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        let own = std::fs::read_to_string(&path).unwrap();
        let rows = own.lines().filter_map(|line| line.strip_prefix("//! | "));
        for row in rows.filter(|row| !row.starts_with("fault |") && !row.starts_with('`')) {
            let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
            let (fault, test, text) = match cells[..] {
                [fault, test] => (fault, test, own.clone()),
                [fault, file, test] => {
                    let text = std::fs::read_to_string(root.join(file));
                    (
                        fault,
                        test,
                        text.unwrap_or_else(|error| panic!("{file}: {error}")),
                    )
                }
                _ => panic!("{}: not a row: {row}", path.display()),
            };
            let name = fault.replace('-', "_");
            assert!(test.starts_with(&name), "{test} does not begin with {name}");
            let is_there = text.contains(&format!("fn {test}("));
            assert!(is_there, "{fault}: there is no test {test}");
            tested.insert(fault.to_owned(), test.to_owned());
        }
    }
    let known: BTreeSet<_> = FAULTS.iter().map(|fault| (*fault).to_owned()).collect();
    let tested: BTreeSet<_> = tested.into_keys().collect();
    assert_eq!(tested.difference(&known).next(), None, "not in FAULTS");
    let untested: Vec<_> = known.difference(&tested).collect();
    assert!(untested.is_empty(), "without a test: {untested:?}");
}
