//! A subscriber of either side, and the messages that it tells of.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httppubsub_e2e::{Process, unhex};
use serde_json::json;

use crate::body::sha512;
use crate::programs::{Side, text};

/// A message as a subscriber told it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// What it is about.
    pub topic: Vec<u8>,
    /// The length of its body.
    pub bytes: u64,
    /// The SHA-512 of its body, in hex.
    pub sha512: String,
}

impl Message {
    /// The message that a notification with this body becomes.
    pub fn new(topic: &[u8], body: &[u8]) -> Self {
        Self {
            topic: topic.to_vec(),
            bytes: body.len() as u64,
            sha512: sha512(body),
        }
    }
}

/// A running subscriber.
#[derive(Debug)]
pub struct Subscriber {
    /// Who plays it.
    pub side: Side,
    /// Where it wants to get RECEIVE.
    pub receive_url: String,
    pub(crate) process: Process,
}

impl Subscriber {
    /// The recovery url that both sides' clients derive from their receive url.
    pub fn recovery_url(&self) -> String {
        self.receive_url.replace("/v1/receive", "/v1/recover")
    }

    /// The next message.
    #[track_caller]
    pub fn message(&self) -> Message {
        let event = self.process.event("message");
        let (topic, body) = match self.side {
            Side::Ours => (
                event["topic_base64"]
                    .as_str()
                    .and_then(|it| STANDARD.decode(it).ok()),
                event["body_base64"]
                    .as_str()
                    .and_then(|it| STANDARD.decode(it).ok()),
            ),
            Side::Theirs => (
                event["topic_hex"].as_str().and_then(unhex),
                event["body_hex"].as_str().and_then(unhex),
            ),
        };
        let (Some(topic), Some(bytes)) = (topic, event["bytes"].as_u64()) else {
            self.process
                .fail(&format!("told of a message in a form of its own: {event}"))
        };
        let message = Message {
            topic,
            bytes,
            sha512: text(&self.process, &event, "sha512"),
        };
        if let Some(body) = body
            && (body.len() as u64, sha512(&body)) != (bytes, message.sha512.clone())
        {
            self.process
                .fail(&format!("told of a message that is not its body: {event}"));
        }
        message
    }

    /// Waits until it tells of this message, whatever else it tells before.
    #[track_caller]
    pub fn hears(&self, topic: &[u8], body: &[u8]) {
        let wanted = sha512(body);
        loop {
            let event = self.process.json();
            let told = match self.side {
                Side::Ours => event["topic_base64"]
                    .as_str()
                    .and_then(|it| STANDARD.decode(it).ok()),
                Side::Theirs => event["topic_hex"].as_str().and_then(unhex),
            };
            if event["event"] == "message"
                && told.as_deref() == Some(topic)
                && event["sha512"] == wanted
            {
                return;
            }
        }
    }

    /// The next `count` messages, sorted.
    #[track_caller]
    pub fn messages(&self, count: usize) -> Vec<Message> {
        let mut messages: Vec<_> = (0..count).map(|_| self.message()).collect();
        messages.sort();
        messages
    }

    /// Has one of theirs turn away the next `count` deliveries.
    #[track_caller]
    pub fn refuse(&mut self, count: usize) {
        self.process.tell(&json!({ "refuse": count }));
        self.process.event("refusing");
    }

    /// Waits until it was told that it missed something.
    #[track_caller]
    pub fn was_told_that_it_missed_something(&self) {
        match self.side {
            Side::Ours => self.process.event("missed"),
            Side::Theirs => self.process.event("receiving"),
        };
    }

    /// Waits until one that holds a websocket has lost it, has another, and was told that it may
    /// have missed something.
    #[track_caller]
    pub fn is_connected_again(&self) {
        match self.side {
            // The connection and what arrives over it are told apart.
            Side::Ours => {
                self.process.event("disconnected");
                self.tells_in_any_order(&["connected", "missed"]);
            }
            Side::Theirs => self.was_told_that_it_missed_something(),
        }
    }

    /// Waits for one event of each of these names.
    #[track_caller]
    pub fn tells_in_any_order(&self, names: &[&str]) {
        let mut told: Vec<_> = names.iter().map(|_| self.process.json()).collect();
        let mut names = names.to_vec();
        names.sort_unstable();
        told.sort_by_key(|it| it["event"].to_string());
        let told: Vec<_> = told.iter().map(|it| it["event"].as_str()).collect();
        assert_eq!(told, names.into_iter().map(Some).collect::<Vec<_>>());
    }

    /// Waits until it has left by itself, having seen all it wanted and nothing more.
    #[track_caller]
    pub fn left(mut self) {
        for line in self.process.end_well() {
            if line.contains("\"message\"") {
                self.process
                    .fail(&format!("got more than was sent: {line}"));
            }
        }
    }
}
