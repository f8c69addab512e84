//! One test's world: its secrets, and whoever takes part, of either side.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use httppubsub_e2e::{PATIENCE, Process, hex, httppubsub};
use tempfile::TempDir;

use crate::auth::{Auth, SecretsFiles, write_wrong};
use crate::broadcaster::Broadcaster;
use crate::notifier::Notifier;
use crate::programs::{Side, as_argument, peer, text};
use crate::subscriber::Subscriber;

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

    /// Starts one of ours that shares a PostgreSQL database with others; by its name it is known
    /// from one start to the next.
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

fn new_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("httppubsub-interop-")
        .tempdir()
        .expect("a temporary folder can be made")
}
