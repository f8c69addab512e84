//! Subscribes over HTTP: the program listens, and broadcasters post to it.
//!
//! `cargo run -p httppubsub --example subscribe_http -- http://127.0.0.1:3003`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::pin::pin;

use httppubsub::{Bind, Client, ClientConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broadcaster = std::env::args().nth(1);
    let broadcaster = broadcaster.unwrap_or_else(|| "http://127.0.0.1:3003".to_owned());

    // A free port will do on the broadcaster's own machine. From another one, bind a fixed port and
    // say by `host` where the broadcaster reaches it.
    let config = ClientConfig::builder([broadcaster])
        .bind(Bind::To("127.0.0.1:0".parse()?))
        .build()?;
    let client = Client::start(config).await?;
    let mut builds = client.subscribe_glob("builds/*").await?;
    println!("reached at {}", client.receive_url().unwrap_or_default());

    let mut ctrl_c = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            biased;
            _ = &mut ctrl_c => break,
            message = builds.next() => match message {
                Some(message) => {
                    let text = message.bytes().await?;
                    println!("{}: {}", message.topic, String::from_utf8_lossy(&text));
                }
                None => break,
            },
        }
    }
    // Unsubscribes; a program that only ends leaves that to the broadcaster to find out.
    client.close().await?;
    Ok(())
}
