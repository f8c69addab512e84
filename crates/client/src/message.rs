//! What a subscription yields, and whether it can.

use std::io;

use bytes::Bytes;
use httppubsub_net::{Clock, Payload, PayloadReader};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Topic, TopicTooLong};

/// A notification as it was received: whole, and of the digest that was announced. Clones share
/// what it holds.
#[derive(Clone, Debug)]
pub struct Message {
    /// What it is about.
    pub topic: Topic,
    /// What it says: in memory, or in a temporary file if it is large.
    pub payload: Payload,
    /// When it was received.
    pub received: Now,
}

impl Message {
    /// A message as if it had been received now, for tests of what is done with messages.
    pub fn new(topic: impl AsRef<[u8]>, body: impl Into<Bytes>) -> Result<Self, TopicTooLong> {
        Ok(Self {
            topic: Topic::new(topic.as_ref())?,
            payload: Payload::from_bytes(body),
            received: Clock::system().now(),
        })
    }

    /// Digest of what it says.
    pub fn sha512(&self) -> &Sha512 {
        self.payload.sha512()
    }

    /// All it says, read into memory.
    pub async fn bytes(&self) -> io::Result<Bytes> {
        self.payload.to_bytes().await
    }

    /// Reads what it says from the start, however large it is.
    pub fn reader(&self) -> PayloadReader {
        self.payload.reader()
    }
}

/// How the connection of a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionStatus {
    /// Everything that was asked for is subscribed, and messages arrive.
    Ok,
    /// There is no connection, or not everything is confirmed yet: messages may be missed.
    Lost,
    /// Nothing more is tried.
    Abandoned,
}
