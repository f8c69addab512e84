//! Keeps a cache that others tell to drop entries, over one websocket: nobody needs to reach it.
//!
//! `cargo run -p httppubsub --example subscribe_websocket -- http://127.0.0.1:3003`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::pin::pin;

use httppubsub::{Client, Receiving};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broadcaster = std::env::args().nth(1);
    let broadcaster = broadcaster.unwrap_or_else(|| "http://127.0.0.1:3003".to_owned());
    let client = Client::connect(broadcaster).await?;

    let mut entries = client.subscribe_glob("cache/*").await?;
    // Runs at the start and after every gap, before any later message.
    entries.on_gap(|receiving| async move {
        match receiving {
            Receiving::First => println!("receiving"),
            // Nobody knows which entries were meant.
            Receiving::AfterGap => println!("something was missed: dropping all entries"),
        }
    });
    let mut ctrl_c = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            biased;
            _ = &mut ctrl_c => break,
            message = entries.next() => match message {
                Some(message) => println!("dropping {}", message.topic),
                None => break,
            },
        }
    }
    client.close().await?;
    Ok(())
}
