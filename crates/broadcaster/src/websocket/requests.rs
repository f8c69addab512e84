//! Requests of a subscriber over its websocket, one after the other.
//!
//! They are answered in the order in which they came, so one is worked on at a time. The session
//! goes on meanwhile: deliveries, acknowledgements and pings do not wait for a request.

use std::sync::Arc;

use httppubsub_net::body::{DecompressError, Payload, Spool, Zstd};
use httppubsub_proto::session::{InterestTicket, NotifyTicket};
use httppubsub_proto::stateful::{BodyHead, Refusal};
use httppubsub_proto::topic::Topic;
use httppubsub_store::StoreError;

use crate::hub::member::Member;
use crate::notify::notify::{IfFull, NotBegun, NotifyError};
use crate::websocket::sessions::Sessions;

/// A request of a subscriber.
pub(crate) enum Request {
    /// SUBSCRIBE or UNSUBSCRIBE.
    Interest(InterestTicket),
    /// NOTIFY or NOTIFY_STREAM.
    Notify(Box<NotifyRequest>),
}

/// A notification that has arrived whole.
pub(crate) struct NotifyRequest {
    /// For the answer.
    pub(crate) ticket: NotifyTicket,
    /// Announced with the first part.
    pub(crate) topic: Topic,
    /// The body as it came over the wire.
    pub(crate) wire: Payload,
    /// Announces the body, and its length when it is not compressed.
    pub(crate) head: BodyHead,
    /// Decompresses the message, if it is compressed.
    pub(crate) zstd: Option<Zstd>,
}

/// The outcome of a request.
pub(crate) enum Completion {
    /// The row is there, or gone.
    Interest(InterestTicket, Result<(), StoreError>),
    /// The message, and the number of subscribers that have it.
    Notify(NotifyTicket, Result<(Payload, u32), RequestError>),
}

/// A notification failed: nobody has it, or not everybody may have it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The body is not what its head announces, or there is no room for it.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// It may be sent again.
    #[error("nobody has it")]
    NotBegun(#[source] NotBegun),
    /// Some may have it, so the publisher must not be told that nobody has.
    #[error("the notification may not have reached everybody")]
    Notify(#[source] NotifyError),
}

impl From<NotifyError> for RequestError {
    fn from(error: NotifyError) -> Self {
        match error {
            NotifyError::NotBegun(why) => Self::NotBegun(why),
            error => Self::Notify(error),
        }
    }
}

impl Request {
    /// Does what is asked, to its end.
    ///
    /// A SUBSCRIBE is done when its row is durable, an UNSUBSCRIBE when the row is gone and
    /// everything that was handed over before is taken, and a NOTIFY when every subscriber is
    /// accounted for.
    pub(crate) async fn work(
        self,
        sessions: Arc<Sessions>,
        member: Arc<Member>,
        spool: Spool,
    ) -> Completion {
        match self {
            Self::Interest(ticket) if ticket.subscribe => {
                let result = sessions.hub.acquire_row(&ticket.interest).await;
                Completion::Interest(ticket, result)
            }
            Self::Interest(ticket) => {
                let result = sessions.hub.release_row(&ticket.interest).await;
                // The confirmation comes behind what was handed over before, so that a subscriber
                // that leaves can tell when it has everything that was counted as confirmed.
                member.took_all().await;
                Completion::Interest(ticket, result)
            }
            Self::Notify(it) => {
                let NotifyRequest {
                    ticket,
                    topic,
                    wire,
                    head,
                    zstd,
                } = *it;
                let notified = async {
                    let payload = match &zstd {
                        None => wire,
                        Some(zstd) => {
                            let limits = &sessions.config.decompress;
                            let plain_bytes = head.decompressed_length;
                            zstd.decompress(&wire, plain_bytes, limits, &spool).await?
                        }
                    };
                    let notifying = sessions.notify.notify(topic, payload.clone(), IfFull::Wait);
                    let reached = notifying.await?;
                    Ok((payload, reached.subscribers))
                };
                let notified = notified.await;
                Completion::Notify(ticket, notified)
            }
        }
    }
}

impl RequestError {
    /// The refusal for the publisher, if nobody has the notification and the session goes on.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Decompress(DecompressError::Spool(_)) => Some(Refusal::NotNow),
            Self::Decompress(DecompressError::Zstd(_) | DecompressError::Length { .. }) => {
                Some(Refusal::NotDecompressed)
            }
            Self::NotBegun(_) => Some(Refusal::NotNow),
            Self::Notify(_) => None,
        }
    }
}
