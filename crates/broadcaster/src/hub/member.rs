//! A websocket session as the hub knows it.

use std::sync::atomic::{AtomicBool, Ordering};

use httppubsub_proto::topic::Topic;
use tokio_util::sync::CancellationToken;

use crate::hub::queue::{NotHanded, Sender};

/// The sending side of a session.
#[derive(Debug)]
pub(crate) struct Member {
    /// Tells this session from others.
    pub(super) id: u64,
    /// For the log.
    pub(super) peer: String,
    /// The messages and notices that wait to be sent to it.
    pub(super) queue: Sender,
    /// `true` from when it had no room in time until half of its room is free: nobody waits for it
    /// meanwhile.
    pub(super) is_behind: AtomicBool,
    /// Cancelled when it cannot even be told what it missed.
    pub(crate) cut_off: CancellationToken,
    /// Cancelled when all have to begin anew.
    pub(crate) epoch: CancellationToken,
}

impl Member {
    /// For the log.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// `true` if nobody waits for room in its queue for now.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// `true` if it ends: nothing is handed to it any longer.
    pub(super) fn is_ending(&self) -> bool {
        self.cut_off.is_cancelled() || self.epoch.is_cancelled()
    }

    /// Waits until the session has taken all that was handed to it by now, or has ended.
    pub(crate) async fn took_all(&self) {
        self.queue.reached().await;
    }

    /// Tells it that it missed something about `topic`; if that cannot be told either, it ends.
    pub(super) fn missed(&self, topic: &Topic) {
        if self.queue.missed(topic) == Err(NotHanded::Full) {
            self.cut_off.cancel();
        }
    }
}
