//! A notifier of either side.

use std::path::PathBuf;

use httppubsub_e2e::{Process, hex, httppubsub};
use serde_json::{Value, json};

use crate::body::{Body, sha512};
use crate::programs::{as_argument, text};

/// Why a notification was not accepted, in the notifier's words.
#[derive(Clone, Debug)]
pub struct NotifyFailed(pub String);

/// What a notifier said about a notification that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// How many rows confirmed it.
    pub subscribers: u64,
    /// The length of what was sent.
    pub bytes: u64,
    /// The SHA-512 of what was sent, in hex.
    pub sha512: String,
}

/// A program that notifies.
#[derive(Debug)]
pub enum Notifier {
    /// Our binary, run once for each notification.
    Ours {
        /// The broadcaster.
        url: String,
        /// The secrets file.
        secrets: PathBuf,
        /// Where a body that is no text is put to be sent.
        body: PathBuf,
        /// Further flags.
        flags: Vec<String>,
    },
    /// The published client, which runs until it is dropped.
    Theirs {
        /// Takes a job a line.
        process: Process,
        /// Whether it was already heard that it is.
        ready: bool,
    },
}

impl Notifier {
    /// Sends a notification and waits for the answer.
    #[track_caller]
    pub fn notify(&mut self, topic: &[u8], body: &Body) -> Result<Sent, NotifyFailed> {
        match self {
            Notifier::Ours {
                url,
                secrets,
                body: path,
                flags,
            } => {
                let mut command = httppubsub();
                command
                    .args(["notify", "--json", "--broadcaster", url])
                    .arg("--secrets")
                    .arg(secrets)
                    .args(&*flags);
                match as_argument(topic) {
                    Some(text) => command.arg(text),
                    None => command.arg(format!("--topic-hex={}", hex(topic))),
                };
                match body {
                    Body::Bytes(bytes) => match as_argument(bytes).filter(|it| it.len() < 65_536) {
                        Some(text) => command.arg(format!("--data={text}")),
                        None => {
                            std::fs::write(&*path, bytes)
                                .expect("the test's folder can be written");
                            command.arg("--file").arg(&*path)
                        }
                    },
                    Body::File(path) => command.arg("--file").arg(path),
                };
                let mut process = Process::spawn("our notifier", command);
                let (status, lines) = process.end();
                if !status.success() {
                    return Err(NotifyFailed(format!(
                        "{status}: {lines:?} {}",
                        process.log()
                    )));
                }
                let answer = lines
                    .first()
                    .and_then(|line| serde_json::from_str(line).ok());
                match answer {
                    Some(answer) => Ok(sent(&process, &answer)),
                    None => process.fail(&format!("answered {lines:?}")),
                }
            }
            Notifier::Theirs { process, ready } => {
                if !*ready {
                    process.event("ready");
                    *ready = true;
                }
                let mut job = json!({ "topic_hex": hex(topic) });
                match body {
                    Body::Bytes(bytes) => job["data_hex"] = hex(bytes).into(),
                    Body::File(path) => job["file"] = path.to_string_lossy().into(),
                }
                process.tell(&job);
                let answer = process.json();
                if answer["event"] == "failed" {
                    return Err(NotifyFailed(answer.to_string()));
                }
                Ok(sent(process, &answer))
            }
        }
    }

    /// Sends a notification that must be accepted; says how many rows confirmed it.
    #[track_caller]
    pub fn reach(&mut self, topic: &[u8], body: &[u8]) -> u64 {
        let sent = self.accepted(topic, &Body::from(body));
        assert_eq!((sent.bytes, sent.sha512), (body.len() as u64, sha512(body)));
        sent.subscribers
    }

    /// Has one of theirs send `0`, `1` and so on to `count`, all at once; says how many rows
    /// confirmed them all together.
    #[track_caller]
    pub fn reach_at_once(&mut self, topic: &[u8], count: usize) -> u64 {
        let Self::Theirs { process, ready } = self else {
            panic!("our binary sends one")
        };
        if !*ready {
            process.event("ready");
            *ready = true;
        }
        process.tell(&json!({ "topic_hex": hex(topic), "count": count }));
        let answers = (0..count).map(|_| sent(process, &process.event("notified")));
        answers.map(|it| it.subscribers).sum()
    }

    /// Sends a notification that must be accepted.
    #[track_caller]
    pub fn accepted(&mut self, topic: &[u8], body: &Body) -> Sent {
        match self.notify(topic, body) {
            Ok(sent) => sent,
            Err(NotifyFailed(why)) => panic!("the notification was not accepted: {why}"),
        }
    }
}

#[track_caller]
fn sent(process: &Process, answer: &Value) -> Sent {
    let (Some(subscribers), Some(bytes)) =
        (answer["subscribers"].as_u64(), answer["bytes"].as_u64())
    else {
        process.fail(&format!("answered {answer}"))
    };
    Sent {
        subscribers,
        bytes,
        sha512: text(process, answer, "sha512"),
    }
}
