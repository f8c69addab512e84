//! A broadcaster on SQLite as a service: settings, secrets from a file, and an end in order.
//!
//! `cargo run -p httppubsub --example shutdown -- FOLDER 127.0.0.1:3003`, where FOLDER holds the
//! `broadcaster-secrets.json` that `httppubsub setup` wrote. SIGTERM and Ctrl-C stop it.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use httppubsub::Broadcaster;
use httppubsub::broadcaster::Config;
use httppubsub::store::SqliteStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let address = arguments.next();
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3003")).await?;
    let url = format!("http://{}", listener.local_addr()?);

    let mut config = Config::default();
    config.message_bytes_max = Some(1024 * 1024 * 1024);
    // Used authorizations are remembered over restarts.
    config.replay_folder = Some(folder.clone());
    // A load balancer has that long to notice that `/readyz` says 503, and requests under way have
    // that long to be answered.
    config.drain_delay = Duration::from_millis(500);
    config.serve.grace = Duration::from_secs(20);

    let store = SqliteStore::open(folder.join("subscriptions.db")).await?;
    let broadcaster = Broadcaster::builder(Arc::new(store))
        .secrets_file(folder.join("broadcaster-secrets.json"))
        .config(config)
        .advertise(&url)
        .build()
        .await?;
    println!("listening on {url}");

    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    match broadcaster.serve_until(listener, stop).await {
        true => println!("stopped"),
        false => println!("stopped while deliveries were under way"),
    }
    Ok(())
}
