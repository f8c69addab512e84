//! Compresses a notification before it is sent.

use std::io;

use httppubsub_net::body::{Payload, Spool, Zstd};
use httppubsub_proto::topic::Identifier;

/// The compressor's id, the notification, and the result of compressing it.
pub(crate) type Prepared = (u32, Identifier, Made);

/// The result of preparing a notification.
pub(crate) enum Made {
    Compressed(Payload),
    /// It is sent as it is.
    Plain,
    /// It is in a file, and the file is not what it was.
    Unreadable(io::Error),
}

/// Makes sure that the message is still there, and compresses it.
pub(crate) async fn prepare(zstd: Option<Zstd>, plain: &Payload, spool: &Spool) -> Made {
    let compressed = match zstd {
        Some(zstd) => Some(zstd.compress(plain, spool).await),
        None => None,
    };
    // Whose fault a failure is shows in whether the message can be read.
    if let Err(error) = read_last(plain).await {
        return Made::Unreadable(error);
    }
    match compressed {
        Some(Ok(wire)) => Made::Compressed(wire),
        Some(Err(error)) => {
            tracing::warn!(%error, "a notification cannot be compressed; sending it as it is");
            Made::Plain
        }
        None => Made::Plain,
    }
}

/// Fails if a file has become shorter than the message in it.
async fn read_last(plain: &Payload) -> io::Result<()> {
    let last = plain.len().saturating_sub(1)..plain.len();
    plain.read_range(last).await.map(drop)
}
