//! The broadcaster as users run it: a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use httppubsub_proto::auth::{Claim, Secrets};
use httppubsub_proto::http::{GenericResponse, SUBSCRIBE_EXACT, SubscribeRequest};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::url::{Endpoint, SubscriberUrl};
use hyper::StatusCode;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};

use crate::connection::{Connection, path};
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
    _stdout: BufReader<ChildStdout>,
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
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let secrets_file = folder.path().join("secrets.json");
        std::fs::write(&secrets_file, secrets.to_text())?;
        let log = File::create(folder.path().join(LOG_FILE))?;
        let mut process = machine::measured_command(program, cores)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--db",
                database,
                "--data",
            ])
            .arg(folder.path().join("data"))
            .arg("--secrets")
            .arg(&secrets_file)
            .stdin(Stdio::null())
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
            Ok(Ok(_)) => line.trim().strip_prefix("listening on "),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(url) = url else {
            let log = read_log(folder.path());
            anyhow::bail!(
                "{} did not start; it said {line:?}\n{log}",
                program.display()
            );
        };
        let endpoint = Endpoint::parse_str(url)?;
        Ok(Self {
            process,
            pid,
            endpoint,
            folder,
            _stdout: stdout,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
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
            subscribe(&mut connection, url, interest, keys)
                .await
                .context("cannot subscribe")?;
        }
        Ok(())
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

async fn subscribe(
    connection: &mut Connection,
    url: &SubscriberUrl,
    interest: &Interest,
    keys: &Keys,
) -> anyhow::Result<()> {
    let claim = Claim::Subscribe {
        url: url.as_str(),
        recovery: None,
        interest,
    };
    let authorization = keys.to_broadcaster.authorize(&claim, machine::now())?;
    let request = SubscribeRequest {
        url: url.clone(),
        interest: interest.clone(),
        recovery: None,
        tracing: Bytes::new(),
    };
    let body = Outgoing::whole(request.encode());
    let answer = connection
        .post(&path(SUBSCRIBE_EXACT), authorization, None, body)
        .await?;
    ensure!(
        answer.status == StatusCode::OK,
        "the answer is {}",
        answer.status
    );
    let response = GenericResponse::decode(&answer.body)?;
    let claim = Claim::ConfirmSubscribe {
        url: url.as_str(),
        recovery: None,
        interest,
    };
    let authorization = response.authorization.as_deref().map(str::as_bytes);
    keys.to_subscriber
        .verify(&claim, &response.tracing, authorization, machine::now())
}

/// The broadcaster's program: `given`, or the one that was built beside this program.
pub(crate) fn program(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("httppubsub"),
    };
    ensure!(
        program.is_file(),
        "there is no {}: build it with `cargo build --release -p httppubsub`, or run \
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

const READY_TIMEOUT: Duration = Duration::from_secs(60);
