//! One large message from one websocket to another, through programs as users run them.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::Websocket;
use crate::broadcaster::Broadcaster;
use crate::machine;
use crate::report::{Report, mebibytes, table};
use crate::setting::Setting;

pub(super) async fn run(options: &Websocket, setting: &Setting) -> anyhow::Result<Report> {
    let secrets = options.auth.fresh_secrets();
    let broadcaster = Broadcaster::start(&setting.program, &secrets, setting.cores).await?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = folder.path().join("message");
    make(&file, options.mib)?;
    let secrets_file = folder.path().join("secrets.json");
    std::fs::write(&secrets_file, secrets.to_text())?;
    let url = format!("http://{}", broadcaster.endpoint().host_header());
    let client = |verb: &str| {
        let mut command = Command::new(&setting.program);
        command
            .arg(verb)
            .args(["--ws", "--broadcaster", &url])
            .arg("--secrets")
            .arg(&secrets_file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    let saved = folder.path().join("saved");
    let mut listening = client("listen")
        .args(["--exact", "large", "--count", "1", "--json", "--save"])
        .arg(&saved)
        .spawn()?;
    let stdout = listening.stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await;
    let line = line.context("listen does not begin")??.unwrap_or_default();
    ensure!(line.contains("listening"), "listen says {line}");

    eprintln!("sending {} MiB from one websocket to another", options.mib);
    let began = Instant::now();
    let notifying = client("notify")
        .arg("large")
        .arg("--file")
        .arg(&file)
        .arg("--json")
        .spawn()?;
    let mut watched = [
        Watched::new("broadcaster", broadcaster.pid())?,
        Watched::new("subscriber", pid(&listening)?)?,
        Watched::new("publisher", pid(&notifying)?)?,
    ];
    let done = async {
        let output = notifying.wait_with_output().await?;
        ensure!(output.status.success(), "notify failed");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(told["subscribers"] == 1, "notify says {told}");
        let notified = began.elapsed();
        while lines.next_line().await?.is_some() {}
        ensure!(listening.wait().await?.success(), "listen failed");
        Ok(notified)
    };
    let done = tokio::time::timeout(Duration::from_secs(60 + options.mib / 4), done);
    let mut done = std::pin::pin!(done);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let notified = loop {
        tokio::select! {
            done = &mut done => break done.context("the message does not arrive").flatten(),
            _ = ticks.tick() => watched.iter_mut().for_each(Watched::look),
        }
    };
    let notified = notified.with_context(|| broadcaster.log())?;
    let received = began.elapsed();
    let cpu = broadcaster.cpu_time()?;
    let arrived = std::fs::read_dir(&saved)?
        .map(|file| Ok(file?.metadata()?.len()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(
        arrived == [options.mib << 20],
        "saved were {arrived:?} bytes"
    );
    broadcaster.stop().await?;

    let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
    let mut rows = vec![
        vec!["notified after".to_owned(), seconds(notified)],
        vec!["received and saved after".to_owned(), seconds(received)],
        vec!["broadcaster's CPU time".to_owned(), seconds(cpu)],
    ];
    for it in &watched {
        rows.push(vec![
            format!("growth of the {}'s memory, peak", it.name),
            format!("{:.1} MiB", it.growth_mib()),
        ]);
    }
    let text = format!(
        "one message of {} MiB from one websocket to another, auth {}\n{}\n\n{}",
        options.mib,
        options.auth.name(),
        setting.describe(),
        table(&rows, 1)
    );
    let growth: serde_json::Map<_, _> = watched
        .iter()
        .map(|it| (it.name.to_owned(), it.growth_mib().into()))
        .collect();
    let json = json!({
        "bench": "websocket large",
        "mib": options.mib,
        "auth": options.auth.name(),
        "setting": setting.to_json(),
        "notified_seconds": notified.as_secs_f64(),
        "received_seconds": received.as_secs_f64(),
        "cpu_seconds": cpu.as_secs_f64(),
        "memory_growth_mib": growth,
    });
    Ok(Report { text, json })
}

/// A file that cannot be compressed.
fn make(file: &Path, mib: u64) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(file)?;
    let mut part = vec![0; 1 << 20];
    for _ in 0..mib {
        rand::fill(&mut part[..]);
        file.write_all(&part)?;
    }
    Ok(())
}

fn pid(process: &Child) -> anyhow::Result<u32> {
    process.id().context("a program has ended already")
}

/// A process whose memory is looked at.
struct Watched {
    name: &'static str,
    pid: u32,
    before: u64,
    max: u64,
}

impl Watched {
    fn new(name: &'static str, pid: u32) -> anyhow::Result<Self> {
        let before = machine::memory(pid)?;
        Ok(Self {
            name,
            pid,
            before,
            max: before,
        })
    }

    fn look(&mut self) {
        // It may have ended: then it has no memory.
        if let Ok(now) = machine::memory(self.pid) {
            self.max = self.max.max(now);
        }
    }

    fn growth_mib(&self) -> f64 {
        mebibytes(self.max - self.before)
    }
}
