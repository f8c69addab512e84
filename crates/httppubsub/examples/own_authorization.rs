//! A scheme of authorization of one's own: signed as usual, but only some topics may be notified:
//! `cargo run -p httppubsub --example own_authorization`
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::sync::Arc;

use httppubsub::auth::*;
use httppubsub::{Bind, Broadcaster, Client, ClientConfig};
use httppubsub::{broadcaster::Authorizations, store::MemoryStore, testing::TestBroadcaster};

/// HMAC, and an access list: only topics below `public/` may be notified.
#[derive(Debug)]
struct OnlyPublic(HmacAuthorization);

impl Authorization for OnlyPublic {
    fn authorize(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        stamp: &Stamp,
    ) -> Result<Option<String>, CannotAuthorize> {
        self.0.authorize(claim, tracing, stamp)
    }

    fn verify(
        &self,
        claim: &Claim<'_>,
        tracing: &[u8],
        value: Option<&[u8]>,
        now: Now,
    ) -> Result<Unspent, AuthError> {
        if let Claim::Notify { topic, .. } = claim
            && !topic.as_bytes().starts_with(b"public/")
        {
            return Err(AuthError::Wrong("the topic is not below public/"));
        }
        self.0.verify(claim, tracing, value, now)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hmac = HmacAuthorization::new(&[7; 64]); // For real use, 64 random bytes.
    let authorizations = Authorizations {
        to_broadcaster: Arc::new(OnlyPublic(hmac.clone())),
        to_subscriber: Arc::new(hmac.clone()),
    };
    let builder = Broadcaster::builder(Arc::new(MemoryStore::new()));
    let builder = builder.authorizations(authorizations);
    let broadcaster = TestBroadcaster::start_with(builder).await?;
    let config = ClientConfig::builder([broadcaster.url()]).bind(Bind::Nothing);
    let client = Client::start(config.to_broadcaster(Arc::new(hmac)).build()?).await?;
    for topic in ["public/news", "private/diary"] {
        match client.notify(topic, "something new").await {
            Ok(_) => println!("{topic}: notified"),
            Err(error) => println!("{topic}: {error}"),
        }
    }
    Ok(())
}
