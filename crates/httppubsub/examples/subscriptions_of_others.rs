//! Subscribes the webhook of a program that cannot do it itself, and shows all it is subscribed to.
//!
//! `cargo run -p httppubsub --example subscriptions_of_others -- \
//!     http://127.0.0.1:3003 http://127.0.0.1:8080/hook`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use httppubsub::client::{SubscriberUrl, SubscriptionsAdmin};
use httppubsub::{Bind, ClientConfig, GlobPattern, Interest, Topic};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(broadcaster), Some(hook)) = (arguments.next(), arguments.next()) else {
        return Err("usage: subscriptions_of_others BROADCASTER HOOK".into());
    };
    let config = ClientConfig::builder([broadcaster]).bind(Bind::Nothing);
    let hook = SubscriberUrl::new(hook)?;
    let admin = SubscriptionsAdmin::new(&config.build()?, hook, None);
    for interest in [
        Interest::Exact(Topic::new("orders")?),
        Interest::Glob(GlobPattern::parse("builds/*")?),
    ] {
        let word = match admin.add(&interest).await? {
            true => "added",
            false => "there already",
        };
        println!("{interest:?}: {word}");
    }
    println!("etag {:?}", admin.etag().await?);
    Ok(())
}
