//! Keeps a cache that others tell to drop entries: subscribes to `cache/*` and prints what comes.
//!
//! ```sh
//! cargo run -p httppubsub-client --example cache_invalidation -- http://127.0.0.1:3003
//! ```
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use httppubsub_client::{Client, ClientConfig, Receiving};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broadcaster = std::env::args().nth(1);
    let broadcaster = broadcaster.unwrap_or_else(|| "http://127.0.0.1:3003".to_owned());
    let client = Client::start(ClientConfig::builder([broadcaster]).build()?).await?;

    let mut entries = client.subscribe_glob("cache/*").await?;
    entries.on_receiving(|receiving| async move {
        match receiving {
            Receiving::Began => println!("receiving"),
            // Which entries were meant is not known any more.
            Receiving::AfterGap => println!("something was missed: dropping all entries"),
        }
    });
    println!("reached at {}", client.receive_url().unwrap_or_default());
    loop {
        tokio::select! {
            message = entries.next() => match message {
                Some(message) => println!("dropping {}", message.topic),
                None => break,
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    client.close().await?;
    Ok(())
}
