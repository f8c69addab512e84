//! What the client asks of the task that keeps its websocket.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use httppubsub_net::body::Payload;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use tokio::sync::oneshot;

use crate::error::{NotifyError, RequestError};

/// A request of the client to its websocket task.
#[derive(Debug)]
pub(crate) enum Command {
    Request(Request),
    Notify(Notification),
}

/// Subscribe or unsubscribe.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) interest: Interest,
    pub(crate) subscribe: bool,
    pub(crate) reply: oneshot::Sender<Result<(), RequestError>>,
}

impl Request {
    /// `true` if it asks to subscribe to this.
    pub(super) fn wants(&self, interest: &Interest) -> bool {
        self.subscribe && self.interest == *interest
    }

    pub(super) fn done(self) {
        // The caller may have gone.
        let _ = self.reply.send(Ok(()));
    }
}

/// A notification on its way.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) identifier: Identifier,
    pub(crate) topic: Topic,
    pub(crate) payload: Payload,
    /// Number of bytes that were handed to the websocket.
    pub(crate) sent: Arc<AtomicU64>,
    /// Length of what is sent on this connection: compressed, or as it is.
    pub(crate) wire_bytes: u64,
    /// `true` if a broadcaster may have it: it was sent whole.
    pub(crate) was_sent: bool,
    /// On how many connections it was begun.
    pub(crate) attempts: u32,
    /// `None` once the caller was told, while the broadcaster still has to answer.
    pub(crate) reply: Option<Reply>,
}

pub(crate) type Reply = oneshot::Sender<Result<u32, NotifyError>>;

impl Notification {
    /// `true` if its caller has gone and no broadcaster has it, so that it need not be sent.
    pub(super) fn is_moot(&self) -> bool {
        !self.was_sent && self.reply.as_ref().is_none_or(Reply::is_closed)
    }

    pub(super) fn tell(&mut self, result: Result<u32, NotifyError>) {
        if let Some(reply) = self.reply.take() {
            // The caller may have gone.
            let _ = reply.send(result);
        }
    }
}
