//! A message as one session gets it: compressed as its subscriber accepts it.

use httppubsub_net::body::{Payload, Spool, Zstd};
use httppubsub_proto::session::Delivery;
use httppubsub_proto::stateful::BodyHead;
use httppubsub_proto::topic::Identifier;

use crate::message::Message;

/// First id of the dictionaries that were trained for one connection. Below it are presets, which
/// are the same for all (`docs/protocol/stateful.md` §11).
pub(crate) const CUSTOM_MIN: u32 = 65_536;

/// The message as it is.
pub(crate) fn plain(identifier: Identifier, message: &Message) -> Delivery<Payload> {
    let payload = &message.payload;
    Delivery {
        identifier,
        topic: message.topic.clone(),
        head: BodyHead {
            compressor: 0,
            compressed_length: payload.len(),
            decompressed_length: payload.len(),
            compressed_sha512: *payload.sha512(),
        },
        body: payload.clone(),
    }
}

/// The message compressed by `zstd`; as it is, if there is no room for that.
pub(crate) async fn compressed(
    spool: &Spool,
    identifier: Identifier,
    message: &Message,
    id: u32,
    zstd: &Zstd,
) -> Delivery<Payload> {
    // Compressed once for all sessions with this compressor.
    let wire = if id < CUSTOM_MIN {
        message.compressed(zstd, spool).await
    } else {
        // Nobody else has this dictionary.
        zstd.compress(&message.payload, spool).await
    };
    let wire = match wire {
        Ok(wire) => wire,
        Err(error) => {
            tracing::warn!(%error, "a message cannot be compressed; sending it as it is");
            return plain(identifier, message);
        }
    };
    Delivery {
        identifier,
        topic: message.topic.clone(),
        head: BodyHead {
            compressor: id.into(),
            compressed_length: wire.len(),
            decompressed_length: message.payload.len(),
            compressed_sha512: *wire.sha512(),
        },
        body: wire,
    }
}
