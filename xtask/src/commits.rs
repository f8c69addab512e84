//! The form of commit messages: a short subject, and the reason in the body.

use std::process::Command;

use anyhow::ensure;

use crate::command::{ask, read, root};

/// The longest subject, in characters: what `git log --oneline` shows of it on a narrow terminal.
const SUBJECT_MAX: usize = 72;

/// The branch whose commits are not checked: they are public and cannot be changed any longer.
const PUBLIC: &str = "origin/main";

/// Checks the messages of all commits that are on top of [`PUBLIC`].
///
/// Returns why they were not checked: there is no such branch here, or a shallow clone does not
/// reach back to where the two parted.
pub(crate) fn check() -> anyhow::Result<Option<String>> {
    if ask(&mut git(&["merge-base", PUBLIC, "HEAD"])).is_none() {
        return Ok(Some(format!(
            "commits were not checked: {PUBLIC} is not there"
        )));
    }
    let range = format!("{PUBLIC}..HEAD");
    // `%x1f` and `%x1e` are control characters that no message has.
    let log = read(&mut git(&[
        "log",
        "--no-merges",
        "--format=%h%x1f%s%x1f%b%x1e",
        &range,
    ]))?;
    let commits = log.split('\u{1e}').map(str::trim);
    let problems: Vec<_> = commits.filter_map(problem).collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(None)
}

/// The problem of a commit, given as its hash, subject and body.
fn problem(commit: &str) -> Option<String> {
    let mut parts = commit.split('\u{1f}');
    let (hash, subject, body) = (parts.next()?, parts.next()?, parts.next()?);
    let characters = subject.chars().count();
    if characters > SUBJECT_MAX {
        return Some(format!(
            "{hash}: the subject has {characters} characters, at most {SUBJECT_MAX} fit: {subject}"
        ));
    }
    let speaks_for_itself = ["Docs:", "Test"].iter().any(|it| subject.starts_with(it));
    if body.trim().is_empty() && !speaks_for_itself {
        return Some(format!("{hash}: the body gives no reason: {subject}"));
    }
    None
}

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(root());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_a_short_subject_and_a_reason() {
        let commit = |subject: &str, body: &str| problem(&format!("1\u{1f}{subject}\u{1f}{body}"));
        assert_eq!(
            commit("Net: refuse without a task", "A task costs.\n"),
            None
        );
        assert_eq!(commit("Docs: a table", "\n"), None);
        assert_eq!(commit("Test of SIGHUP", ""), None);
        assert!(commit("Net: refuse without a task", "\n").is_some());
        assert!(commit(&"long ".repeat(15), "A reason.").is_some());
        assert_eq!(problem(""), None);
    }
}
