//! The yardstick of `cargo xtask bench python`: a subscriber by the Rust client, which says what
//! its messages took as the subscribers in `python/bench` do.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use httppubsub_client::{Client, ClientConfig, WebSocketConfig};
use serde_json::json;

use crate::machine;

/// The name of it on the command line.
pub(crate) const SUBCOMMAND: &str = "python-yardstick";

/// A subscriber in Rust, next to those in Python.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Yardstick {
    #[arg(value_parser = ["receive"])]
    task: String,
    #[arg(long, value_parser = ["listen", "websocket"])]
    kind: String,
    #[arg(long)]
    url: String,
    #[arg(long)]
    secrets: PathBuf,
    #[arg(long)]
    messages: u32,
}

impl Yardstick {
    /// Receives all messages, measured from the first one on.
    ///
    /// One thread, as the Python package has one besides that of the event loop.
    pub(crate) fn main(&self) -> anyhow::Result<()> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build()?;
        runtime.block_on(self.receive())
    }

    async fn receive(&self) -> anyhow::Result<()> {
        let mut config = ClientConfig::builder([self.url.as_str()])
            .secrets_file(&self.secrets)
            .queue_max(1_000_000);
        if self.kind == "websocket" {
            config = config.websocket(WebSocketConfig::default());
        }
        let client = Client::start(config.build()?).await?;
        let mut subscription = client.subscribe_exact("bench").await?;
        let pid = std::process::id();
        let idle = machine::memory_max(pid)?;
        crate::print(&format!("{}\n", json!({ "event": "ready" })))?;
        let mut began = None;
        for _ in 0..self.messages {
            let message = subscription.next().await.context("it has ended")?;
            if began.is_none() {
                began = Some((Instant::now(), machine::cpu_time(pid)?));
            }
            message.bytes().await?;
        }
        let (wall, cpu) = began.context("there is no message")?;
        let figures = json!({
            "event": "done",
            "messages": self.messages - 1,
            "seconds": wall.elapsed().as_secs_f64(),
            "cpu": (machine::cpu_time(pid)? - cpu).as_secs_f64(),
            "resident": machine::memory_max(pid)?.saturating_sub(idle),
        });
        crate::print(&format!("{figures}\n"))
    }
}
