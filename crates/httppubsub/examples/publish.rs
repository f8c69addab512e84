//! Publishes one message and says how many subscribers confirmed it.
//!
//! `cargo run -p httppubsub --example publish -- http://127.0.0.1:3003 builds/7 ready`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use httppubsub::{Bind, Client, ClientConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let broadcaster = arguments.next();
    let broadcaster = broadcaster.unwrap_or_else(|| "http://127.0.0.1:3003".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "builds/7".to_owned());
    let text = arguments.next().unwrap_or_else(|| "ready".to_owned());

    // It only notifies, so nobody needs to reach it. For secrets, add `.secrets_file(path)`.
    let config = ClientConfig::builder([broadcaster]).bind(Bind::Nothing);
    let client = Client::start(config.build()?).await?;
    match client.notify(topic, text).await {
        Ok(notified) => println!("confirmed by {}", notified.subscribers),
        // Sent again, some subscribers might get it twice: that is for the program to decide.
        Err(error) if error.is_ambiguous() => println!("perhaps done: {error}"),
        Err(error) => return Err(error.into()),
    }
    client.close().await?;
    Ok(())
}
