//! Messages and notices that other broadcasters post for the websocket sessions of this one.
//!
//! A row of this broadcaster stands for all of its sessions, so what arrives is for each of them
//! that wants the topic. It was matched elsewhere: here only the sessions of this process are
//! asked.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::body::Payload;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use tokio::time::Instant;

use crate::hub::hub::Hub;
use crate::message::Message;

/// Hands on what other broadcasters post.
#[derive(Debug)]
pub(crate) struct Forwarded {
    /// Has the sessions, and the urls that stand for them.
    pub(crate) hub: Arc<Hub>,
}

/// Longest wait of a message for room at a session: published broadcasters wait 5 s for the answer.
const ROOM_TIMEOUT: Duration = Duration::from_secs(4);

impl Forwarded {
    /// The url that messages are posted to, as the store has it.
    pub(crate) fn url(&self) -> &SubscriberUrl {
        self.hub.url()
    }

    /// The url that notices are posted to.
    pub(crate) fn missed_url(&self) -> &SubscriberUrl {
        self.hub.recovery()
    }

    /// `true` if a session wants `topic`. If not, the row at the other broadcaster is one that was
    /// left over, and the answer ends it.
    pub(crate) async fn wants(&self, topic: &Topic) -> bool {
        self.hub.wants(topic).await
    }

    /// Hands a message to all sessions that want its topic, and returns how many they are. One that
    /// has no room for [`ROOM_TIMEOUT`] hears that it missed something, and does not count.
    pub(crate) async fn deliver(&self, topic: Topic, payload: Payload) -> u32 {
        let message = Arc::new(Message::new(topic, payload));
        // Not the publisher's deadline: what is posted does not say when that is.
        let deadline = Instant::now() + ROOM_TIMEOUT;
        self.hub.deliver(&message, deadline).await
    }

    /// Says to all sessions that want `topic` that they missed something. Without any there is
    /// nobody who missed it, so this does not fail.
    pub(crate) async fn missed(&self, topic: &Topic) {
        self.hub.missed(topic).await;
    }
}
