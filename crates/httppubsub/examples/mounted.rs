//! An axum app with a broadcaster under `/pubsub`, beside a route of its own.
//!
//! `cargo run -p httppubsub --example mounted`, and subscribers and publishers use
//! `http://127.0.0.1:3003/pubsub` as their broadcaster.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use httppubsub::store::MemoryStore;
use httppubsub::{Broadcaster, Secrets};
use tokio::net::TcpListener;

/// The app: its own front page, and the broadcaster.
pub fn app(broadcaster: &Broadcaster) -> Router {
    Router::new()
        .route("/", get(|| async { "an app of its own\n" }))
        .nest("/pubsub", broadcaster.router())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3003")).await?;
    let url = format!("http://{}/pubsub", listener.local_addr()?);
    // Everybody who can connect may subscribe and notify: for real use, `.secrets_file(path)`.
    let broadcaster = Broadcaster::builder(Arc::new(MemoryStore::new()))
        .secrets(&Secrets::NONE)
        .advertise(&url)
        .build()
        .await?;
    println!("the broadcaster is {url}");
    let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
    // `axum::serve` would do, but it sets no deadlines for slow peers.
    let app = app(&broadcaster);
    broadcaster.serve_app_until(listener, app, ctrl_c).await;
    Ok(())
}
