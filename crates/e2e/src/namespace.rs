//! A machine of its own for a process, as far as the network goes: a namespace with one link out.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace, gone when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    link: String,
    /// The end of the link on this side.
    pub here: String,
    /// The end of the link inside.
    pub inside: String,
}

impl Namespace {
    /// `None`, with a word about it, where none may be made.
    pub fn new() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        // Of many tests that run at once, each has a network of its own.
        let network = format!(
            "10.{}.{}",
            (process / 256) % 200 + 20,
            (process + number) % 256
        );
        let namespace = Self {
            name: format!("httppubsub-{process}-{number}"),
            link: format!("hps{}-{number}", process % 1_000_000),
            here: format!("{network}.1"),
            inside: format!("{network}.2"),
        };
        let Self {
            name,
            link,
            here,
            inside,
        } = &namespace;
        let steps = [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name out netns {name}"),
            format!("addr add {here}/24 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {inside}/24 dev out"),
            format!("-n {name} link set out up"),
            format!("-n {name} link set lo up"),
        ];
        for step in &steps {
            if let Err(why) = ip(step) {
                eprintln!("left out: no network namespace can be made here: ip {step}: {why}");
                return None;
            }
        }
        Some(namespace)
    }

    /// The words before a command that runs it inside.
    pub fn words(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Nothing gets out or in any more.
    pub fn cut(&self) {
        ip(&format!("link set {} down", self.link)).expect("it is our own");
    }

    /// All is as before the cut.
    pub fn heal(&self) {
        ip(&format!("link set {} up", self.link)).expect("it is our own");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.link));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(step: &str) -> Result<(), String> {
    let done = Command::new("ip").args(step.split(' ')).output();
    match done {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
