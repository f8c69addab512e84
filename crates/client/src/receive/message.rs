//! Messages, and the status of the connection that brings them.

use std::io;

use bytes::Bytes;
use httppubsub_net::Clock;
use httppubsub_net::body::{Payload, PayloadReader};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::number::Number;
use httppubsub_proto::time::Now;
use httppubsub_proto::topic::{Topic, TopicTooLong};

/// A notification as it was received: whole, and of the digest that was announced. Clones share
/// what it holds.
#[derive(Clone, Debug)]
pub struct Message {
    /// The topic.
    pub topic: Topic,
    /// The content: in memory, or in a temporary file if it is large.
    pub payload: Payload,
    /// The time at which it was received.
    pub received: Now,
    /// Its place among all that the broadcaster's process had for this client: by it the client
    /// finds out what it missed. `None` over a websocket, which keeps the order, and from
    /// broadcasters that do not number what they deliver.
    pub number: Option<Number>,
}

impl Message {
    /// A message as if it had been received now, for tests of what is done with messages.
    ///
    /// ```
    /// use httppubsub_client::Message;
    ///
    /// let message = Message::new("prices/7", "12.50")?;
    /// assert_eq!(message.topic.as_bytes(), b"prices/7");
    /// assert_eq!(message.payload.len(), 5);
    /// # Ok::<(), httppubsub_client::TopicTooLong>(())
    /// ```
    pub fn new(topic: impl AsRef<[u8]>, body: impl Into<Bytes>) -> Result<Self, TopicTooLong> {
        Ok(Self {
            topic: Topic::new(topic.as_ref())?,
            payload: Payload::from_bytes(body),
            received: Clock::system().now(),
            number: None,
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

/// The status of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionStatus {
    /// Everything that was asked for is subscribed, and messages arrive.
    Ok,
    /// There is no connection, or not everything is confirmed yet: messages may be missed.
    Lost,
    /// Nothing more is tried.
    Abandoned,
}
