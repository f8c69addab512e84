//! Receives messages in an axum app of one's own, beside its other routes.
//!
//! `cargo run -p httppubsub --example webhook_in_axum -- http://127.0.0.1:3003 127.0.0.1:8080`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use httppubsub::{Bind, Client, ClientConfig};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let broadcaster = arguments.next();
    let broadcaster = broadcaster.unwrap_or_else(|| "http://127.0.0.1:3003".to_owned());
    let address = arguments.next();
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:8080")).await?;
    let host = format!("http://{}/pubsub", listener.local_addr()?);

    let config = ClientConfig::builder([broadcaster])
        .bind(Bind::Mounted)
        .host(host)
        .build()?;
    let client = Client::start(config).await?;
    let count = Arc::new(AtomicU64::new(0));
    let shown = count.clone();
    let front = get(|| async move { format!("{} orders\n", shown.load(Ordering::Relaxed)) });
    let app = Router::new()
        .route("/", front)
        .nest("/pubsub", client.router());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });

    // The app serves already: the first message may come before this returns.
    let mut orders = client.subscribe_exact("orders").await?;
    println!("reached at {}", client.receive_url().unwrap_or_default());
    let mut ctrl_c = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            biased;
            _ = &mut ctrl_c => break,
            Some(_order) = orders.next() => {
                println!("{} orders", count.fetch_add(1, Ordering::Relaxed) + 1);
            }
        }
    }
    client.close().await?;
    serving.abort();
    Ok(())
}
