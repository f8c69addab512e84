//! A program at a terminal, which shows people other things than a pipe would carry.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Runs `command` to its end with standard error at a terminal, and returns how it ended and all
/// that the terminal was sent.
///
/// # Panics
///
/// If the system has no terminals.
pub fn at_terminal(mut command: Command) -> (ExitStatus, String) {
    let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
    grantpt(&own).expect("the terminal is ours");
    unlockpt(&own).expect("the terminal is ours");
    let name = ptsname(&own, Vec::new()).expect("the terminal has a name");
    let theirs = open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(theirs.expect("the terminal can be opened"))
        .spawn()
        .expect("the program can be started");
    // It holds a copy of the program's side.
    drop(command);
    let (mut own, mut shown) = (File::from(own), Vec::new());
    let mut part = [0; 4096];
    // The end of the other side is an error.
    while let Ok(read @ 1..) = own.read(&mut part) {
        shown.extend_from_slice(&part[..read]);
    }
    let status = child.wait().expect("it was started");
    (status, String::from_utf8_lossy(&shown).into_owned())
}
