//! The queue of one websocket session, bounded in bytes.
//!
//! A message takes as much room as it has bytes, so one bound serves sessions that get many small
//! messages and sessions that get few large ones. Notices that something was missed take room of
//! their own: a session gets them when there is none for messages.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use httppubsub_proto::topic::Topic;
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot};

use crate::message::Message;

/// An entry of the queue.
#[derive(Debug)]
pub(crate) enum ForSession {
    /// A message to deliver.
    Message(Arc<Message>),
    /// A topic on which something was missed.
    Missed(Topic),
    /// Somebody waits until all before it was taken out: to be told by dropping this.
    Reached(#[expect(dead_code, reason = "dropped to tell")] oneshot::Sender<()>),
}

/// A queue of at most `bytes_max` bytes of messages. A longer one goes in when nothing else waits.
pub(crate) fn queue(bytes_max: u32) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        room: Semaphore::new(bytes_max as usize),
        missed: Mutex::default(),
    });
    let sender = Sender {
        waiting: sender,
        shared: shared.clone(),
        bytes_max,
    };
    let receiver = Receiver {
        waiting: receiver,
        shared,
    };
    (sender, receiver)
}

/// What both ends of the queue share.
#[derive(Debug)]
struct Shared {
    /// A permit for each byte.
    room: Semaphore,
    /// Topics of the notices that wait. Those for the same topic are one.
    missed: Mutex<Missed>,
}

/// The topics of the notices that wait.
#[derive(Debug, Default)]
struct Missed {
    topics: HashSet<Topic>,
    /// Room that they take together.
    bytes: usize,
}

impl Shared {
    fn missed(&self) -> MutexGuard<'_, Missed> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end of the queue.
#[derive(Debug)]
pub(crate) struct Sender {
    /// Without a bound of its own: what is sent has taken room before.
    waiting: mpsc::UnboundedSender<(ForSession, u32)>,
    shared: Arc<Shared>,
    bytes_max: u32,
}

/// The end of the session.
#[derive(Debug)]
pub(crate) struct Receiver {
    waiting: mpsc::UnboundedReceiver<(ForSession, u32)>,
    shared: Arc<Shared>,
}

/// The reason for which a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotHanded {
    /// There is no room, for now.
    Full,
    /// The session has ended.
    Ended,
}

/// Cost of a message beside its bytes: the entry here, and its share of the message.
const BESIDE_BYTES: u64 = 256;

/// Bytes of topics of notices that may wait together: far more than all topics of most sessions.
const MISSED_BYTES_MAX: usize = 256 * 1024;

impl Sender {
    /// The cost of a message.
    fn cost(&self, message: &Message) -> u32 {
        let topic_bytes = message.topic.as_bytes().len() as u64;
        let bytes = message.payload.len().saturating_add(topic_bytes);
        // An empty message takes room as well, or there would be no bound on their number.
        let bytes = bytes.saturating_add(BESIDE_BYTES);
        u32::try_from(bytes).map_or(self.bytes_max, |bytes| bytes.min(self.bytes_max))
    }

    /// Hands a message over if there is room and nobody waits for it.
    pub(crate) fn try_send(&self, message: &Arc<Message>) -> Result<(), NotHanded> {
        let cost = self.cost(message);
        match self.shared.room.try_acquire_many(cost) {
            Ok(room) => {
                // It comes back when the entry is taken out.
                room.forget();
                self.push(ForSession::Message(message.clone()), cost)
            }
            Err(TryAcquireError::NoPermits) => Err(NotHanded::Full),
            Err(TryAcquireError::Closed) => Err(NotHanded::Ended),
        }
    }

    /// Queues a message when there is room, after those already waiting.
    pub(crate) async fn send(&self, message: &Arc<Message>) -> Result<(), NotHanded> {
        let cost = self.cost(message);
        match self.shared.room.acquire_many(cost).await {
            Ok(room) => {
                room.forget();
                self.push(ForSession::Message(message.clone()), cost)
            }
            Err(_) => Err(NotHanded::Ended),
        }
    }

    /// `true` if half of the room is free.
    pub(crate) fn is_half_free(&self) -> bool {
        self.shared.room.available_permits() >= self.bytes_max as usize / 2
    }

    /// Tells of something missed about `topic`, unless that is about to be told. Of more topics
    /// than can be kept nothing can be told.
    pub(crate) fn missed(&self, topic: &Topic) -> Result<(), NotHanded> {
        {
            let mut missed = self.shared.missed();
            // One notice tells of all that was missed on a topic until it is sent.
            if missed.topics.contains(topic) {
                return Ok(());
            }
            let bytes = missed.bytes + topic.as_bytes().len() + BESIDE_BYTES as usize;
            if bytes > MISSED_BYTES_MAX {
                return Err(NotHanded::Full);
            }
            missed.bytes = bytes;
            missed.topics.insert(topic.clone());
        }
        self.push(ForSession::Missed(topic.clone()), 0)
    }

    /// Waits until all that is in the queue by now was taken out, or the session has ended.
    pub(crate) async fn reached(&self) {
        let (here, reached) = oneshot::channel();
        if self.push(ForSession::Reached(here), 0).is_ok() {
            let _ = reached.await;
        }
    }

    /// Puts an entry into the queue that has taken its room.
    fn push(&self, what: ForSession, cost: u32) -> Result<(), NotHanded> {
        let pushed = self.waiting.send((what, cost));
        pushed.map_err(|_| NotHanded::Ended)
    }
}

impl Receiver {
    /// The next entry, when there is one; `None` when nobody can send any longer.
    pub(crate) async fn recv(&mut self) -> Option<ForSession> {
        let received = self.waiting.recv().await;
        received.map(|it| self.taken(it))
    }

    /// The next entry, if there is one.
    pub(crate) fn try_recv(&mut self) -> Option<ForSession> {
        let received = self.waiting.try_recv().ok();
        received.map(|it| self.taken(it))
    }

    /// `true` if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives back the room of an entry that leaves the queue.
    fn taken(&self, (what, cost): (ForSession, u32)) -> ForSession {
        match &what {
            ForSession::Message(_) => self.shared.room.add_permits(cost as usize),
            ForSession::Missed(topic) => {
                let mut missed = self.shared.missed();
                missed.topics.remove(topic);
                missed.bytes -= topic.as_bytes().len() + BESIDE_BYTES as usize;
            }
            ForSession::Reached(_) => {}
        }
        what
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Who waits for room finds out that the session has ended.
        self.shared.room.close();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use httppubsub_net::body::Payload;

    fn message(bytes: usize) -> Arc<Message> {
        let topic = Topic::new("t").unwrap();
        let payload = Payload::from_bytes(vec![0; bytes - 1 - BESIDE_BYTES as usize]);
        Arc::new(Message::new(topic, payload))
    }

    #[tokio::test]
    async fn messages_wait_in_bytes_and_a_longer_one_goes_when_nothing_else_waits() {
        let (sender, mut receiver) = queue(1_000);
        for _ in 0..2 {
            assert_eq!(sender.try_send(&message(500)), Ok(()));
        }
        assert_eq!(sender.try_send(&message(300)), Err(NotHanded::Full));
        let long = message(5_000);
        let mut sending = Box::pin(sender.send(&long));
        for _ in 0..2 {
            tokio::select! {
                biased;
                sent = &mut sending => panic!("{sent:?}"),
                () = std::future::ready(()) => {}
            }
            assert!(receiver.try_recv().is_some());
            // Nothing overtakes it.
            assert_eq!(sender.try_send(&message(300)), Err(NotHanded::Full));
        }
        assert_eq!(sending.await, Ok(()));
        assert_eq!(sender.try_send(&message(300)), Err(NotHanded::Full));
        assert!(receiver.recv().await.is_some() && receiver.is_empty());
        assert_eq!(sender.try_send(&message(1_000)), Ok(()));
        let short = message(300);
        let sending = sender.send(&short);
        drop(receiver);
        assert_eq!(sending.await, Err(NotHanded::Ended));
    }

    #[tokio::test]
    async fn what_was_missed_is_told_once_for_each_topic_and_has_a_bound() {
        let (sender, mut receiver) = queue(1_000);
        let topic = |number: usize| Topic::new(format!("{number:01000}")).unwrap();
        for number in [0, 1, 0, 1] {
            assert_eq!(sender.missed(&topic(number)), Ok(()));
        }
        for number in [0, 1] {
            let told = receiver.recv().await.unwrap();
            assert!(matches!(told, ForSession::Missed(it) if it == topic(number)));
        }
        assert!(receiver.try_recv().is_none());
        let full = (0..).find(|number| sender.missed(&topic(*number)).is_err());
        assert_eq!(full, Some(MISSED_BYTES_MAX / 1_256));
        assert!(receiver.try_recv().is_some());
        assert_eq!(sender.missed(&topic(0)), Ok(()));
    }
}
