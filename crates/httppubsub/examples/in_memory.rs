//! Publishers, subscribers and the broadcaster in one process, subscriptions in memory: a program
//! that others may join later.
//!
//! `cargo run -p httppubsub --example in_memory`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::sync::Arc;

use httppubsub::store::MemoryStore;
use httppubsub::{Broadcaster, Client, Secrets};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let broadcaster = Broadcaster::builder(Arc::new(MemoryStore::new()))
        .secrets(&Secrets::NONE)
        .advertise(&url)
        .build()
        .await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async { drop(stopped.await) };
    let serving = tokio::spawn(async move { broadcaster.serve_until(listener, stopped).await });

    let subscriber = Client::connect(url.as_str()).await?;
    let publisher = Client::connect(url.as_str()).await?;
    let mut jobs = subscriber.subscribe_glob("jobs/*").await?;
    for number in 1..=3 {
        let notified = publisher.notify(format!("jobs/{number}"), "done").await?;
        println!("jobs/{number}: confirmed by {}", notified.subscribers);
        let message = jobs.next().await.ok_or("the subscription ended")?;
        println!("received {}", message.topic);
    }

    publisher.close().await?;
    subscriber.close().await?;
    drop(stop);
    println!("stopped in order: {}", serving.await?);
    Ok(())
}
