//! What a program's own tests need: messages made by hand, and a subscription that a test feeds.
//!
//! [`Message::new`] makes a message; [`Feed`] hands messages and gaps to a subscription that has no
//! broadcaster. Nothing listens and nothing is asked of anybody.

use std::sync::Arc;

use crate::client::Client;
use crate::config::{Bind, ClientConfig};
use crate::receive::inbox::{EndReason, Inbox};
use crate::receive::message::Message;
use crate::subscriptions::subscription::Subscription;

/// Feeds a subscription that has no broadcaster, for tests of what a program does with messages and
/// with gaps.
///
/// ```
/// use httppubsub_client::testing::Feed;
/// use httppubsub_client::{Message, Receiving};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (feed, mut subscription) = Feed::subscription().await;
/// subscription.on_gap(|receiving| async move {
///     if receiving == Receiving::AfterGap {
///         println!("reading all prices anew");
///     }
/// });
/// feed.message(Message::new("prices/7", "12.50")?);
/// feed.gap();
/// feed.end();
/// while let Some(message) = subscription.next().await {
///     println!("{} bytes", message.payload.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Feed {
    inbox: Arc<Inbox>,
}

impl Feed {
    /// A subscription that receives already, and what feeds it. What it is subscribed to cannot be
    /// changed: there is nobody to ask. Must be called inside a tokio runtime.
    pub async fn subscription() -> (Self, Subscription) {
        // The port of the discard protocol, where nobody listens; nothing is sent there either.
        let nobody = "http://127.0.0.1:9";
        let config = ClientConfig::builder([nobody])
            .bind(Bind::Mounted)
            .host(nobody);
        let config = config.build().expect("the urls are good");
        let client = Client::start(config).await;
        let client = client.expect("nothing is listened on");
        let (inbox, subscription) = client.fed();
        (Self { inbox }, subscription)
    }

    /// The subscription receives this. Beyond [`queue_max`] messages that were not taken, it is
    /// dropped and there is a gap in its place.
    ///
    /// [`queue_max`]: crate::ClientConfigBuilder::queue_max
    pub fn message(&self, message: Message) {
        self.inbox.offer(message);
    }

    /// The subscription may have missed something: its callback gets [`AfterGap`]. Two in a row are
    /// one.
    ///
    /// [`AfterGap`]: crate::Receiving::AfterGap
    pub fn gap(&self) {
        self.inbox.missed().wake();
    }

    /// Nothing more comes, as when the client was closed.
    pub fn end(&self) {
        self.inbox.end(EndReason::Closed).wake();
    }
}
