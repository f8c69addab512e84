//! Two broadcasters on one PostgreSQL database, which behave as one: a subscription at the one gets
//! what is notified at the other.
//!
//! `cargo run -p httppubsub --example cluster -- postgres://me@localhost/httppubsub`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::sync::Arc;

use httppubsub::store::PostgresStore;
use httppubsub::{Broadcaster, Client, Secrets};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A broadcaster on a free port: its url, and the task that serves it until `stop` is cancelled.
async fn serve(
    database: &str,
    stop: &CancellationToken,
) -> Result<(String, JoinHandle<bool>), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let broadcaster = Broadcaster::builder(Arc::new(PostgresStore::open(database).await?))
        .secrets(&Secrets::NONE)
        // The others reach it here: keep the url over restarts, and give each its own.
        .advertise(&url)
        .build()
        .await?;
    let stop = stop.clone().cancelled_owned();
    let serving = async move { broadcaster.serve_until(listener, stop).await };
    Ok((url, tokio::spawn(serving)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = std::env::args().nth(1).ok_or("usage: cluster DATABASE")?;
    let stop = CancellationToken::new();
    let (one, serving_one) = serve(&database, &stop).await?;
    let (other, serving_other) = serve(&database, &stop).await?;

    // A client may also name both: `ClientConfig::builder([one, other])`.
    let subscriber = Client::connect(one).await?;
    let publisher = Client::connect(other).await?;
    let mut orders = subscriber.subscribe_exact("orders").await?;
    let notified = publisher.notify("orders", "one more").await?;
    println!("confirmed by {}", notified.subscribers);
    let message = orders.next().await.ok_or("the subscription ended")?;
    println!("received {}", message.topic);

    publisher.close().await?;
    subscriber.close().await?;
    stop.cancel();
    println!("stopped: {} {}", serving_one.await?, serving_other.await?);
    Ok(())
}
