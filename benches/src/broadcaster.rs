//! The broadcaster as users run it: a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use httppubsub_proto::auth::{Claim, Secrets};
use httppubsub_proto::paths::{
    SUBSCRIBE_EXACT, SUBSCRIBE_GLOB, UNSUBSCRIBE_EXACT, UNSUBSCRIBE_GLOB,
};
use httppubsub_proto::stateless::{GenericResponse, SubscribeRequest, UnsubscribeRequest};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::url::{Endpoint, SubscriberUrl};
use hyper::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};

use crate::connection::{self, Connection};
use crate::keys::Keys;
use crate::machine::{self, Cores};
use crate::message::Outgoing;
use crate::sinks::topic;

/// A running broadcaster; dropping it kills it.
pub(crate) struct Broadcaster {
    process: Child,
    pid: u32,
    endpoint: Endpoint,
    folder: TempDir,
    /// Kept open: a process that writes to a closed pipe may die of it.
    stdout: BufReader<ChildStdout>,
}

impl Broadcaster {
    /// Starts `program` and waits until it listens.
    pub(crate) async fn start(
        program: &Path,
        secrets: &Secrets,
        cores: Option<Cores>,
    ) -> anyhow::Result<Self> {
        Self::start_on(program, secrets, cores, "memory").await
    }

    /// The same on this database.
    pub(crate) async fn start_on(
        program: &Path,
        secrets: &Secrets,
        cores: Option<Cores>,
        database: &str,
    ) -> anyhow::Result<Self> {
        Self::start_with(program, secrets, cores, database, &[]).await
    }

    /// The same, told these flags besides.
    pub(crate) async fn start_with(
        program: &Path,
        secrets: &Secrets,
        cores: Option<Cores>,
        database: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let secrets_file = folder.path().join(SECRETS_FILE);
        std::fs::write(&secrets_file, secrets.to_text())?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--db", database])
            .arg("--data")
            .arg(folder.path().join("data"))
            .arg("--secrets")
            .arg(&secrets_file)
            .args(flags);
        let url_of = |line: &str| line.strip_prefix("listening on ").map(str::to_owned);
        Self::launch(command, cores, folder, url_of).await
    }

    /// Starts the published broadcaster, lonelypss, on a database on disk, and waits until it
    /// listens. `command` runs it, see [`published_command`].
    pub(crate) async fn start_published(
        mut command: Command,
        secrets: &Secrets,
        cores: Option<Cores>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let secrets_file = folder.path().join("secrets.json");
        std::fs::write(&secrets_file, secrets.to_text())?;
        command
            .args(["--delivery-timeout", "3600", "--data"])
            .arg(folder.path().join("data"))
            .arg("--secrets")
            .arg(&secrets_file);
        let url_of = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            (event["event"] == "ready").then(|| event["url"].as_str().map(str::to_owned))?
        };
        Self::launch(command, cores, folder, url_of).await
    }

    /// Runs `command` and waits until it says in its first line what `url_of` finds there.
    async fn launch(
        command: Command,
        cores: Option<Cores>,
        folder: TempDir,
        url_of: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let log = File::create(folder.path().join(LOG_FILE))?;
        // Its stdin stays open as long as this does: the published one ends with it.
        let mut process = machine::measured(command, cores)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = process.id().context("the broadcaster has no process id")?;
        let stdout = process
            .stdout
            .take()
            .context("the broadcaster's stdout is gone")?;
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let ready = tokio::time::timeout(READY_TIMEOUT, stdout.read_line(&mut line)).await;
        let url = match ready {
            Ok(Ok(_)) => url_of(line.trim()),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(url) = url else {
            let log = read_log(folder.path());
            anyhow::bail!(
                "{} did not start; it said {line:?}\n{log}",
                program.display()
            );
        };
        let endpoint = Endpoint::parse_str(&url)?;
        Ok(Self {
            process,
            pid,
            endpoint,
            folder,
            stdout,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What it says next on its stdout.
    pub(crate) async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(READY_TIMEOUT, self.stdout.read_line(&mut line)).await;
        read.context("the broadcaster says nothing")??;
        Ok(line.trim().to_owned())
    }

    /// The file of the secrets that it was started with.
    pub(crate) fn secrets_file(&self) -> PathBuf {
        self.folder.path().join(SECRETS_FILE)
    }

    /// Subscribes each of `urls` to [`topic`].
    pub(crate) async fn subscribe(
        &self,
        urls: impl Iterator<Item = &SubscriberUrl>,
        keys: &Keys,
    ) -> anyhow::Result<()> {
        self.subscribe_to(urls, &Interest::Exact(topic()), keys)
            .await
    }

    /// Subscribes each of `urls` to `interest`.
    pub(crate) async fn subscribe_to(
        &self,
        urls: impl Iterator<Item = &SubscriberUrl>,
        interest: &Interest,
        keys: &Keys,
    ) -> anyhow::Result<()> {
        let mut connection = Connection::open(&self.endpoint).await?;
        for url in urls {
            subscribe(&mut connection, url, interest, None, keys).await?;
        }
        Ok(())
    }

    /// Subscribes `url` to [`topic`], and has MISSED posted to it as well.
    pub(crate) async fn subscribe_with_recovery(
        &self,
        url: &SubscriberUrl,
        keys: &Keys,
    ) -> anyhow::Result<()> {
        let mut connection = Connection::open(&self.endpoint).await?;
        let interest = Interest::Exact(topic());
        subscribe(&mut connection, url, &interest, Some(url), keys).await
    }

    /// How long it has been computing.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        machine::cpu_time(self.pid)
    }

    /// Its resident memory, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        machine::memory(self.pid)
    }

    /// The most it ever had, in bytes.
    pub(crate) fn memory_max(&self) -> anyhow::Result<u64> {
        machine::memory_max(self.pid)
    }

    /// What it complained about, for a person who has to find out why a run failed.
    pub(crate) fn log(&self) -> String {
        read_log(self.folder.path())
    }

    /// Ends it at once.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.process
            .kill()
            .await
            .context("cannot stop the broadcaster")
    }
}

/// Subscribes over a connection that is there.
pub(crate) async fn subscribe(
    connection: &mut Connection,
    url: &SubscriberUrl,
    interest: &Interest,
    recovery: Option<&SubscriberUrl>,
    keys: &Keys,
) -> anyhow::Result<()> {
    let recovery_text = recovery.map(SubscriberUrl::as_str);
    let asked = Claim::Subscribe {
        url: url.as_str(),
        recovery: recovery_text,
        interest,
    };
    let request = SubscribeRequest {
        url: url.clone(),
        interest: interest.clone(),
        recovery: recovery.cloned(),
        tracing: Bytes::new(),
    };
    let confirmed = Claim::ConfirmSubscribe {
        url: url.as_str(),
        recovery: recovery_text,
        interest,
    };
    let path = match interest {
        Interest::Exact(_) => SUBSCRIBE_EXACT,
        Interest::Glob(_) => SUBSCRIBE_GLOB,
    };
    call(connection, path, request.encode(), &asked, &confirmed, keys)
        .await
        .context("cannot subscribe")
}

/// Unsubscribes over a connection that is there.
pub(crate) async fn unsubscribe(
    connection: &mut Connection,
    url: &SubscriberUrl,
    interest: &Interest,
    keys: &Keys,
) -> anyhow::Result<()> {
    // The two sign alike.
    let asked = Claim::Subscribe {
        url: url.as_str(),
        recovery: None,
        interest,
    };
    let request = UnsubscribeRequest {
        url: url.clone(),
        interest: interest.clone(),
        tracing: Bytes::new(),
    };
    let confirmed = Claim::ConfirmSubscribe {
        url: url.as_str(),
        recovery: None,
        interest,
    };
    let path = match interest {
        Interest::Exact(_) => UNSUBSCRIBE_EXACT,
        Interest::Glob(_) => UNSUBSCRIBE_GLOB,
    };
    call(connection, path, request.encode(), &asked, &confirmed, keys)
        .await
        .context("cannot unsubscribe")
}

async fn call(
    connection: &mut Connection,
    path: &'static str,
    request: Vec<u8>,
    asked: &Claim<'_>,
    confirmed: &Claim<'_>,
    keys: &Keys,
) -> anyhow::Result<()> {
    let authorization = keys.to_broadcaster.authorize(asked, machine::now())?;
    let body = Outgoing::whole(request);
    let answer = connection
        .post(&connection::path(path), authorization, None, body)
        .await?;
    ensure!(
        answer.status == StatusCode::OK,
        "the answer is {}",
        answer.status
    );
    let response = GenericResponse::decode(&answer.body)?;
    let authorization = response.authorization.as_deref().map(str::as_bytes);
    keys.to_subscriber
        .verify(confirmed, &response.tracing, authorization, machine::now())
}

/// What runs the published broadcaster. It is installed first if it is not there, which asks the
/// package index; fails with the reason if that does not work.
pub(crate) async fn published_command() -> anyhow::Result<Command> {
    let made = tokio::task::spawn_blocking(|| httppubsub_interop::peer("broadcaster.py")).await;
    made.map_err(|failed| {
        // The kit of the interop tests says what it lacks by panicking.
        let reason = failed.try_into_panic().ok();
        let reason = reason.and_then(|it| it.downcast::<String>().ok());
        anyhow::anyhow!(
            "{}",
            reason.map_or_else(|| "it ended early".to_owned(), |it| *it)
        )
    })
}

/// The broadcaster's program: `given`, or the one that was built beside this program.
pub(crate) fn program(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("httppubsub"),
    };
    ensure!(
        program.is_file(),
        "there is no {}: build it with `cargo build --release -p httppubsub-cli`, or run \
         `cargo xtask bench`, which does",
        program.display()
    );
    Ok(program)
}

fn read_log(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join(LOG_FILE)).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(20)..];
    format!("the broadcaster's log ends with:\n{}", last.join("\n"))
}

const LOG_FILE: &str = "stderr.log";
const SECRETS_FILE: &str = "secrets.json";

const READY_TIMEOUT: Duration = Duration::from_secs(60);
