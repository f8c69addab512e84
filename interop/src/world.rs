//! One test's world: its secrets, and whoever takes part, of either side.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httppubsub_e2e::{Door, PATIENCE, Process, hex, httppubsub, unhex};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::http::MISSED_FOR_WEBSOCKETS;
use httppubsub_proto::topic::Topic;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::auth::{Auth, SecretsFiles, write_wrong};
use crate::body::{Body, sha512};
use crate::programs::{Side, peer};

/// Holds what the participants of one test share. Everything they write is gone with it.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    auth: Auth,
    secrets: SecretsFiles,
    /// Further flags of broadcasters, by side.
    serving: Vec<(Side, String)>,
}

impl World {
    /// A world whose secrets files were written by this kit.
    pub fn new(auth: Auth) -> Self {
        let dir = new_dir();
        let secrets = SecretsFiles::write(dir.path(), auth);
        Self {
            dir,
            auth,
            secrets,
            serving: Vec::new(),
        }
    }

    /// A world whose secrets files were written by `httppubsub setup`.
    #[track_caller]
    pub fn set_up_by_us(auth: Auth) -> Self {
        let dir = new_dir();
        let mut command = httppubsub();
        command
            .args(["setup", "--dir"])
            .arg(dir.path())
            .args(["--to-broadcasters-auth", auth.to_broadcaster.name()])
            .args(["--to-subscribers-auth", auth.to_subscriber.name()]);
        Process::spawn("our setup", command).end_well();
        let secrets = SecretsFiles::in_dir(dir.path());
        Self {
            dir,
            auth,
            secrets,
            serving: Vec::new(),
        }
    }

    /// The same, whose broadcasters of this side get a further flag.
    pub fn serving_with(mut self, side: Side, flag: impl Into<String>) -> Self {
        self.serving.push((side, flag.into()));
        self
    }

    fn flags_of(&self, side: Side) -> impl Iterator<Item = &String> {
        let flags = self.serving.iter();
        flags.filter_map(move |(whose, flag)| (*whose == side).then_some(flag))
    }

    /// A path inside this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a broadcaster with a store of its own.
    #[track_caller]
    pub fn broadcaster(&self, side: Side) -> Broadcaster {
        self.broadcaster_on(side, &self.path("subscriptions.db"))
    }

    /// Starts a broadcaster on that SQLite file.
    #[track_caller]
    pub fn broadcaster_on(&self, side: Side, db: &Path) -> Broadcaster {
        self.broadcaster_at(side, db, 0)
    }

    /// Kills the broadcaster, which gets no chance to do anything, and starts it again at the same
    /// address with the same store.
    #[track_caller]
    pub fn kill_and_restart(&self, broadcaster: &mut Broadcaster) {
        let port = broadcaster.url.rsplit_once(':').map(|(_, port)| port);
        let port = port.and_then(|it| it.parse().ok());
        let port = port.expect("broadcasters of this kit say their port");
        broadcaster.process.kill();
        *broadcaster = self.broadcaster_at(broadcaster.side, &self.path("subscriptions.db"), port);
    }

    /// Starts one of ours that shares a PostgreSQL database with others; by its name it is known from
    /// one start to the next.
    #[track_caller]
    pub fn one_of_several(&self, name: &str, database: &str, port: u16) -> Broadcaster {
        self.ours(name, database.as_ref(), port)
    }

    #[track_caller]
    fn ours(&self, name: &str, store: &std::ffi::OsStr, port: u16) -> Broadcaster {
        let mut command = httppubsub();
        command
            .arg("serve")
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--data")
            .arg(self.path(name))
            .arg("--db")
            .arg(store)
            .arg("--secrets")
            .arg(&self.secrets.broadcaster)
            .args(self.flags_of(Side::Ours));
        let process = Process::spawn("our broadcaster", command);
        let line = process.line();
        let Some(url) = line.strip_prefix("listening on ") else {
            process.fail(&format!(
                "said {line:?} where \"listening on\" was expected"
            ))
        };
        Broadcaster {
            side: Side::Ours,
            url: url.to_owned(),
            process,
        }
    }

    /// With port 0, on a free port.
    #[track_caller]
    fn broadcaster_at(&self, side: Side, db: &Path, port: u16) -> Broadcaster {
        match side {
            Side::Ours => {
                let mut store = std::ffi::OsString::from("sqlite:");
                store.push(db);
                self.ours("ours", &store, port)
            }
            Side::Theirs => {
                let mut command = peer("broadcaster.py");
                command
                    .args(["--port", &port.to_string()])
                    .arg("--data")
                    .arg(self.path("theirs"))
                    .arg("--db")
                    .arg(db)
                    .arg("--secrets")
                    .arg(&self.secrets.broadcaster)
                    .args(self.flags_of(side));
                let process = Process::spawn("their broadcaster", command);
                let url = text(&process, &process.event("ready"), "url");
                Broadcaster { side, url, process }
            }
        }
    }

    /// Starts a subscriber of each of these sides and returns when all of them are subscribed.
    #[track_caller]
    pub fn subscribers(
        &self,
        broadcaster: &Broadcaster,
        sides: &[Side],
        wants: &Wants<'_>,
    ) -> Vec<Subscriber> {
        // All are started before the first is waited for: a Python takes its time.
        let started: Vec<_> = sides
            .iter()
            .map(|&side| (side, self.spawn_subscriber(broadcaster, side, wants)))
            .collect();
        started
            .into_iter()
            .map(|(side, process)| {
                let event = match side {
                    Side::Ours => process.event("listening"),
                    Side::Theirs => process.event("ready"),
                };
                // One that holds a websocket has none.
                let receive_url = event["receive_url"].as_str().unwrap_or("websocket:");
                let receive_url = receive_url.to_owned();
                Subscriber {
                    side,
                    receive_url,
                    process,
                }
            })
            .collect()
    }

    fn spawn_subscriber(
        &self,
        broadcaster: &Broadcaster,
        side: Side,
        wants: &Wants<'_>,
    ) -> Process {
        let (name, mut command) = match side {
            Side::Ours => {
                let mut command = httppubsub();
                command.args(["listen", "--bind", "127.0.0.1:0", "--json"]);
                command.args(wants.ours);
                ("our subscriber", command)
            }
            Side::Theirs => {
                let mut command = peer("subscriber.py");
                let interval = wants.resubscribe_interval.as_secs_f64().to_string();
                command.args(["--resubscribe-interval", &interval]);
                command.args(wants.theirs);
                ("their subscriber", command)
            }
        };
        wants.rows.add_to(&mut command);
        command
            .args(["--count", &wants.count.to_string()])
            .args(["--timeout", &PATIENCE.as_secs().to_string()])
            .args(["--broadcaster", &broadcaster.url])
            .arg("--secrets")
            .arg(&self.secrets.subscriber);
        Process::spawn(name, command)
    }

    /// Starts a notifier. It may still be starting when this returns.
    #[track_caller]
    pub fn notifier(&self, broadcaster: &Broadcaster, side: Side) -> Notifier {
        self.notifier_with(broadcaster, side, &self.secrets.subscriber, &[])
    }

    /// Starts a notifier that gets these further flags.
    #[track_caller]
    pub fn notifier_told(&self, broadcaster: &Broadcaster, side: Side, flags: &[&str]) -> Notifier {
        self.notifier_with(broadcaster, side, &self.secrets.subscriber, flags)
    }

    /// Starts a notifier that has got secrets of the right kind and the wrong content.
    #[track_caller]
    pub fn notifier_with_wrong_secrets(&self, broadcaster: &Broadcaster, side: Side) -> Notifier {
        let secrets = self.path("wrong-secrets.json");
        write_wrong(&secrets, self.auth);
        self.notifier_with(broadcaster, side, &secrets, &[])
    }

    fn notifier_with(
        &self,
        broadcaster: &Broadcaster,
        side: Side,
        secrets: &Path,
        flags: &[&str],
    ) -> Notifier {
        match side {
            Side::Ours => Notifier::Ours {
                url: broadcaster.url.clone(),
                secrets: secrets.to_owned(),
                body: self.path("body"),
                flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            },
            Side::Theirs => {
                let mut command = peer("notifier.py");
                command
                    .args(["--broadcaster", &broadcaster.url])
                    .arg("--secrets")
                    .arg(secrets)
                    .args(flags);
                Notifier::Theirs {
                    process: Process::spawn("their notifier", command),
                    ready: false,
                }
            }
        }
    }

    /// Has our binary give `url` these rows and no others.
    #[track_caller]
    pub fn set_rows(&self, broadcaster: &Broadcaster, url: &str, rows: &Rows<'_>) {
        self.subscriptions(broadcaster, "set", url, rows).end_well();
    }

    /// Has our binary add these rows to those of `url`.
    #[track_caller]
    pub fn add_rows(&self, broadcaster: &Broadcaster, url: &str, rows: &Rows<'_>) {
        self.subscriptions(broadcaster, "add", url, rows).end_well();
    }

    /// Has our binary remove these rows from those of `url`.
    #[track_caller]
    pub fn remove_rows(&self, broadcaster: &Broadcaster, url: &str, rows: &Rows<'_>) {
        self.subscriptions(broadcaster, "remove", url, rows)
            .end_well();
    }

    /// Has our binary ask the broadcaster for the etag of `url`; says whether it is that of `rows`.
    #[track_caller]
    pub fn check_rows(
        &self,
        broadcaster: &Broadcaster,
        url: &str,
        rows: &Rows<'_>,
    ) -> (String, bool) {
        let mut process = self.subscriptions(broadcaster, "check", url, rows);
        let answer = process.json();
        // Whether it ends well when the etags differ is not what is asked here.
        process.end();
        let Some(matches) = answer["matches"].as_bool() else {
            process.fail(&format!("answered {answer}"))
        };
        (text(&process, &answer, "etag"), matches)
    }

    fn subscriptions(
        &self,
        broadcaster: &Broadcaster,
        verb: &str,
        url: &str,
        rows: &Rows<'_>,
    ) -> Process {
        let mut command = httppubsub();
        command.args(["subscriptions", verb, "--url", url]);
        if let Some(recovery) = rows.recovery {
            command.args(["--recovery", recovery]);
        }
        rows.add_to(&mut command);
        command
            .args(["--json", "--broadcaster", &broadcaster.url])
            .arg("--secrets")
            .arg(&self.secrets.subscriber);
        Process::spawn(format!("our subscriptions {verb}"), command)
    }
}

/// The rows of one subscriber.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// Exact topics, any bytes.
    pub exact: &'a [&'a [u8]],
    /// Glob patterns.
    pub globs: &'a [&'a str],
    /// The recovery url of each of them. Subscribers bring their own.
    pub recovery: Option<&'a str>,
}

impl Rows<'_> {
    /// Both sides' programs take the same flags.
    fn add_to(&self, command: &mut Command) {
        for topic in self.exact {
            match as_argument(topic) {
                Some(text) => command.arg(format!("--exact={text}")),
                None => command.arg(format!("--exact-hex={}", hex(topic))),
            };
        }
        for glob in self.globs {
            command.arg(format!("--glob={glob}"));
        }
    }
}

/// What a subscriber is started for.
#[derive(Clone, Copy, Debug)]
pub struct Wants<'a> {
    /// What it subscribes to.
    pub rows: Rows<'a>,
    /// After how many messages it leaves.
    pub count: usize,
    /// How often the published client looks whether its rows are still there.
    pub resubscribe_interval: Duration,
    /// Further flags of ours.
    pub ours: &'a [&'a str],
    /// Further flags of theirs.
    pub theirs: &'a [&'a str],
}

impl<'a> Wants<'a> {
    /// These rows until `count` messages have come, without reconciliation in between.
    pub fn new(rows: Rows<'a>, count: usize) -> Self {
        Self {
            rows,
            count,
            resubscribe_interval: Duration::from_secs(300),
            ours: &[],
            theirs: &[],
        }
    }

    /// The same over a websocket, with these further flags of ours and of theirs.
    pub fn over_a_websocket(self, ours: &'a [&'a str], theirs: &'a [&'a str]) -> Self {
        Self {
            ours,
            theirs,
            ..self
        }
    }
}

/// A running broadcaster.
#[derive(Debug)]
pub struct Broadcaster {
    side: Side,
    /// Its address, without a path.
    pub url: String,
    process: Process,
}

impl Broadcaster {
    /// Stops it in good order and waits until it has gone.
    #[track_caller]
    pub fn stop(mut self) {
        match self.side {
            Side::Ours => self.process.terminate(),
            Side::Theirs => self.process.close_input(),
        }
        self.process.end_well();
    }

    /// Kills it: it gets no chance to do anything.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Plays another broadcaster that could not deliver something about `topic` to the websockets of
    /// this one, which checks no authorization.
    #[track_caller]
    pub fn missed_for_websockets(&self, topic: &str) {
        let address = self.url.strip_prefix("http://");
        let address = address.and_then(|it| it.parse().ok());
        let door = Door {
            address: address.expect("broadcasters of this kit have an address"),
            prefix: String::new(),
            signer: (&Secrets::NONE).into(),
        };
        let topic = Topic::new(topic).expect("it is short");
        let url = format!("{}{MISSED_FOR_WEBSOCKETS}", self.url);
        let answer = door.ask(&door.signer.missed_for_websockets(&url, &topic));
        assert_eq!(answer.status, 200, "{}", self.log());
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

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
    process: Process,
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

    /// Has one of theirs send `0`, `1` and so on to `count`, all at once; says how many rows confirmed
    /// them all together.
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

/// What can be said to a program in plain text: UTF-8 without NUL.
fn as_argument(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
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

#[track_caller]
fn text(process: &Process, event: &Value, name: &str) -> String {
    match event[name].as_str() {
        Some(it) => it.to_owned(),
        None => process.fail(&format!("named no {name} in {event}")),
    }
}

fn new_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("httppubsub-interop-")
        .tempdir()
        .expect("a temporary folder can be made")
}
