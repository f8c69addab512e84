//! A message on its way to many.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use httppubsub_net::body::{Payload, Spool, Zstd};
use httppubsub_net::outbound::repr_digest;
use httppubsub_proto::topic::Topic;
use tokio::sync::OnceCell;

/// A message on its way to many. Shared by all deliveries of a notification: nothing in it is of a
/// single subscriber.
#[derive(Debug)]
pub(crate) struct Message {
    /// The topic, as its publisher spelled it byte for byte.
    pub(crate) topic: Topic,
    /// The message as its publisher sent it.
    pub(crate) payload: Payload,
    /// Value of the header that every delivery carries.
    pub(crate) repr_digest: HeaderValue,
    /// The payload as each compressor makes it, once for all sessions that use it.
    compressed: Mutex<Vec<(Zstd, Arc<OnceCell<Payload>>)>>,
}

impl Message {
    /// A message that nobody has asked for compressed yet.
    pub(crate) fn new(topic: Topic, payload: Payload) -> Self {
        let repr_digest = repr_digest(payload.sha512());
        Self {
            topic,
            payload,
            repr_digest,
            compressed: Mutex::default(),
        }
    }

    /// The payload as `zstd` makes it, which is done once however many ask for it.
    pub(crate) async fn compressed(&self, zstd: &Zstd, spool: &Spool) -> io::Result<Payload> {
        let cell = self.cell(zstd);
        let made = cell.get_or_try_init(|| zstd.compress(&self.payload, spool));
        made.await.cloned()
    }

    /// The place of what `zstd` makes of the payload.
    fn cell(&self, zstd: &Zstd) -> Arc<OnceCell<Payload>> {
        let compressed = self.compressed.lock();
        let mut compressed = compressed.unwrap_or_else(PoisonError::into_inner);
        // There are as many as compressors that sessions share, which are few: a list will do.
        if let Some((_, cell)) = compressed.iter().find(|(one, _)| one.is_same(zstd)) {
            return cell.clone();
        }
        let cell = Arc::default();
        compressed.push((zstd.clone(), Arc::clone(&cell)));
        cell
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[tokio::test]
    async fn a_message_is_compressed_once_for_all_with_the_same_dictionary() {
        let spool = Spool::default();
        let body = "compressible ".repeat(1_000);
        let message = Message::new(Topic::new("t").unwrap(), Payload::from_bytes(body));
        let (zstd, other) = (Zstd::new(3), Zstd::new(3));
        let asking = (0..50).map(|_| message.compressed(&zstd, &spool));
        let made = futures_util::future::try_join_all(asking).await.unwrap();
        let place = |payload: &Payload| payload.in_memory().unwrap().as_ptr();
        assert!(made.iter().all(|it| place(it) == place(&made[0])));
        let by_other = message.compressed(&other, &spool).await.unwrap();
        assert_ne!(place(&by_other), place(&made[0]));
    }
}
