//! How a program that uses httppubsub is tested: first without a broadcaster, then with one.
//!
//! `cargo run -p httppubsub --example testing`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use httppubsub::testing::{Feed, TestBroadcaster};
use httppubsub::{Client, Message, Subscription};

/// The code under test: adds up what arrives until the subscription ends.
async fn total(mut amounts: Subscription) -> Result<u64, Box<dyn std::error::Error>> {
    let mut total = 0;
    while let Some(message) = amounts.next().await {
        total += std::str::from_utf8(&message.bytes().await?)?.parse::<u64>()?;
    }
    Ok(total)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Nothing listens and nothing is sent: the test hands messages and gaps to the subscription.
    let (feed, subscription) = Feed::subscription().await;
    feed.message(Message::new("amounts/1", "40")?);
    feed.message(Message::new("amounts/2", "2")?);
    feed.end();
    println!("from a feed: {}", total(subscription).await?);

    // The whole way, over a real broadcaster in memory on a free port.
    let broadcaster = TestBroadcaster::start().await?;
    let client = Client::connect(broadcaster.url()).await?;
    let subscription = client.subscribe_glob("amounts/*").await?;
    let adding = total(subscription);
    client.notify("amounts/1", "40").await?;
    client.notify("amounts/2", "2").await?;
    client.close().await?;
    println!("from a broadcaster: {}", adding.await?);
    println!("stopped in order: {}", broadcaster.stop().await);
    Ok(())
}
