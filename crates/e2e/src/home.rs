//! What a test's broadcasters share, and the broadcasters themselves, each a process.

use std::path::{Path, PathBuf};
use std::process::Command;

use httppubsub_net::random_bytes;
use httppubsub_proto::auth::{Scheme, Secrets};
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_store::{SqliteStore, Subscribed, Subscriptions as _};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::door::{self, Door};
use crate::process::Process;
use crate::program::httppubsub;
use crate::signer::Signer;

/// Secrets and a database, gone with the test.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    signer: Signer,
}

impl Home {
    /// One where everything is signed.
    pub fn new() -> Self {
        Self::with(&Secrets {
            to_broadcaster: Scheme::Hmac(random_bytes()),
            to_subscriber: Scheme::Hmac(random_bytes()),
        })
    }

    /// One with these secrets.
    pub fn with(secrets: &Secrets) -> Self {
        let folder = tempfile::Builder::new().prefix("httppubsub-e2e-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        std::fs::write(folder.path().join("secrets.json"), secrets.to_text())
            .expect("the test's own folder can be written");
        Self {
            folder,
            signer: secrets.into(),
        }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The database of all broadcasters that are not told otherwise.
    pub fn database(&self) -> PathBuf {
        self.path().join("subscriptions.db")
    }

    /// Signs requests.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The process of a broadcaster that was told `flags` beside the usual ones.
    pub fn spawn(&self, flags: &[&str]) -> Process {
        self.spawn_with(httppubsub(), flags)
    }

    fn spawn_with(&self, mut command: Command, flags: &[&str]) -> Process {
        command.arg("serve");
        if !flags.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command
            .arg("--secrets")
            .arg(self.path().join("secrets.json"));
        if !flags.contains(&"--data") {
            command.arg("--data").arg(self.path().join("data"));
        }
        if !flags.contains(&"--db") {
            command
                .arg("--db")
                .arg(format!("sqlite:{}", self.database().display()));
        }
        command.args(flags);
        Process::spawn("the broadcaster", command)
    }

    /// A broadcaster that listens.
    #[track_caller]
    pub fn serve(&self, flags: &[&str]) -> Server {
        self.listening(self.spawn(flags))
    }

    /// The same under a limit that `ulimit` sets, as `-n 256`.
    #[track_caller]
    pub fn serve_within(&self, ulimit: &str, flags: &[&str]) -> Server {
        // Whoever writes more than it may is told so, and not killed.
        let script = format!("trap '' XFSZ; ulimit {ulimit} && exec \"$0\" \"$@\"");
        let process = self.spawn_through(&["sh", "-c", &script], flags);
        self.listening(process)
    }

    /// The process of a broadcaster, started by a program that is told these words and then the
    /// broadcaster's command line.
    pub fn spawn_through(&self, words: &[&str], flags: &[&str]) -> Process {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(httppubsub().get_program());
        self.spawn_with(command, flags)
    }

    #[track_caller]
    fn listening(&self, process: Process) -> Server {
        let line = process.line();
        match line.strip_prefix("listening on http://") {
            Some(address) => self.server(process, address),
            None => process.fail(&format!("said {line:?}")),
        }
    }

    /// The broadcaster that this process is; `None` if it ended before it listened.
    #[track_caller]
    pub fn if_it_listens(&self, process: Process) -> Option<Server> {
        let line = process.line_if_any()?;
        self.listening_on(process, &line)
    }

    /// The broadcaster that this process is, which said `line` first.
    #[track_caller]
    pub fn listening_on(&self, process: Process, line: &str) -> Option<Server> {
        let address = line.strip_prefix("listening on http://")?;
        Some(self.server(process, address))
    }

    #[track_caller]
    fn server(&self, process: Process, address: &str) -> Server {
        let Ok(address) = address.parse() else {
            process.fail(&format!("listens on {address:?}"))
        };
        let door = Door {
            address,
            prefix: String::new(),
            signer: self.signer.clone(),
        };
        Server { process, door }
    }

    /// How many rows this table of the database has.
    #[track_caller]
    pub fn count(&self, table: &str) -> i64 {
        let read = || -> rusqlite::Result<i64> {
            let database = Connection::open(self.database())?;
            database.busy_timeout(crate::patience::PATIENCE)?;
            database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0)
            })
        };
        read().expect("the database can be read")
    }

    /// Writes a subscription into the database, as another program may: nobody judges it.
    #[track_caller]
    pub fn store(&self, url: &str, interest: Interest, recovery: Option<&str>) {
        let subscription = Subscription {
            url: door::url(url),
            interest,
            recovery: recovery.map(door::url),
        };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        let stored = runtime.block_on(async {
            let store = SqliteStore::open(&self.database()).await?;
            store.subscribe(subscription).await
        });
        assert_eq!(stored.expect("the database is there"), Subscribed::Added);
    }

    /// All rows of the database, by url and then by topic or glob.
    #[track_caller]
    pub fn rows(&self) -> Vec<Row> {
        let read = || -> rusqlite::Result<Vec<Row>> {
            let database = Connection::open(self.database())?;
            database.busy_timeout(crate::patience::PATIENCE)?;
            let mut rows = database.prepare(
                "SELECT url, exact AS interest, missed_next_retry_at IS NOT NULL, missed_attempts
                     FROM httppubsub_subscription_exacts
                 UNION ALL
                 SELECT url, CAST(glob AS BLOB), missed_next_retry_at IS NOT NULL, missed_attempts
                     FROM httppubsub_subscription_globs
                 ORDER BY url, interest",
            )?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok(Row {
                    url: row.get(0)?,
                    interest: row.get(1)?,
                    is_owed_a_notice: row.get(2)?,
                    attempts: row.get(3)?,
                })
            };
            rows.query_map([], row)?.collect()
        };
        read().expect("the database can be read")
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

/// A subscription as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whose.
    pub url: String,
    /// The topic or the glob.
    pub interest: Vec<u8>,
    /// Whether MISSED is to be sent.
    pub is_owed_a_notice: bool,
    /// How often it was sent in vain.
    pub attempts: Option<u32>,
}

/// A broadcaster in a process of its own.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub process: Process,
    /// The way in.
    pub door: Door,
}
