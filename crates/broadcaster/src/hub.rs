//! This process's websocket sessions, as far as other rooms need to know: what they want.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use httppubsub_net::Payload;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;

/// What the sessions want, with how many of them want it. A row of the store stands for each
/// interest; while none is there, notifications for this broadcaster's own url end that row.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    interests: Mutex<BTreeMap<Interest, usize>>,
}

impl Hub {
    /// Whether any session is subscribed to `topic`.
    pub(crate) fn wants(&self, topic: &Topic) -> bool {
        let interests = self
            .interests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        interests.keys().any(|interest| interest.covers(topic))
    }

    /// Hands a message to every session that is subscribed to `topic`, and says to how many: none,
    /// for as long as this broadcaster serves no websockets.
    pub(crate) fn deliver(&self, _topic: &Topic, _payload: &Payload) -> u32 {
        0
    }

    /// One more session wants this.
    #[cfg(test)]
    pub(crate) fn join(&self, interest: Interest) {
        let mut interests = self
            .interests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *interests.entry(interest).or_default() += 1;
    }
}
