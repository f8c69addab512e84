//! Idempotency keys that were used: a repeated message gets the answer of the first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use httppubsub_proto::plain::{MessageId, Published};
use httppubsub_store::{Store, StoreError};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// The keys that were used at this broadcaster.
#[derive(Debug)]
pub(super) struct Keys {
    /// Where keys are spent that count at all broadcasters on it.
    store: Arc<dyn Store>,
    /// Tells the store that a key may be used again.
    tasks: TaskTracker,
    /// Never held across an await.
    known: Mutex<Known>,
}

/// Keys by the identifier of their message, which is made of token, topic and key.
#[derive(Debug, Default)]
struct Known {
    /// Those under way are as many as requests; the finished ones have a bound.
    by_id: HashMap<MessageId, State>,
    /// The finished ones, the oldest first.
    finished: VecDeque<(MessageId, Instant)>,
}

/// The state of a key.
#[derive(Debug)]
enum State {
    /// Its message is read, or delivered.
    UnderWay,
    /// What is answered to a repeated request.
    Finished(Arc<Published>),
}

/// What is known of a key.
#[derive(Debug)]
pub(super) enum Key {
    /// It was not used: the message is to be taken.
    New(UnderWay),
    /// The message is being taken.
    UnderWay,
    /// The message was taken.
    Finished(Arc<Published>),
}

/// A message that is being taken. If it is dropped before it is finished, the key may be used
/// again.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// Where it is finished, or forgotten.
    keys: Arc<Keys>,
    /// Also the code by which the store knows it.
    id: MessageId,
    /// `true` if the store has it as spent.
    is_spent: bool,
    /// `true` if its answer is remembered.
    is_finished: bool,
}

/// Keys that are remembered, and for how long.
const KEYS_MAX: usize = 100_000;
/// See [`KEYS_MAX`].
const MEMORY: Duration = Duration::from_secs(600);

impl Keys {
    /// No key was used yet. Without a cluster in `store` keys count at this broadcaster alone.
    pub(super) fn new(store: Arc<dyn Store>, tasks: TaskTracker) -> Self {
        Self {
            store,
            tasks,
            known: Mutex::default(),
        }
    }

    /// Begins to take the message of a key, unless that was done.
    pub(super) fn begin(self: &Arc<Self>, id: MessageId) -> Key {
        let mut known = self.known();
        // Here and not in a round of its own: without requests nothing grows.
        known.forget(Instant::now());
        match known.by_id.get(&id) {
            Some(State::UnderWay) => Key::UnderWay,
            Some(State::Finished(published)) => Key::Finished(published.clone()),
            None => {
                known.by_id.insert(id, State::UnderWay);
                Key::New(UnderWay {
                    keys: self.clone(),
                    id,
                    is_spent: false,
                    is_finished: false,
                })
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Spends the key at all broadcasters on the store. `false` if another one has.
    pub(super) async fn spend(&mut self) -> Result<bool, StoreError> {
        let Some(cluster) = self.keys.store.cluster() else {
            return Ok(true);
        };
        // A publisher that gives up meanwhile may have spent it. What another broadcaster spent is
        // not given back by this one.
        self.is_spent = true;
        self.is_spent = cluster.spend(*self.id.as_bytes(), MEMORY).await?;
        Ok(self.is_spent)
    }

    /// The message was taken, and this is the answer.
    pub(super) fn finish(mut self, published: Published) {
        self.is_finished = true;
        let mut known = self.keys.known();
        let finished = State::Finished(Arc::new(published));
        known.by_id.insert(self.id, finished);
        known.finished.push_back((self.id, Instant::now()));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        self.keys.known().by_id.remove(&self.id);
        if self.is_spent {
            // Behind the answer: until it is done, the key is refused elsewhere.
            let (store, code) = (self.keys.store.clone(), *self.id.as_bytes());
            self.keys.tasks.spawn(async move {
                if let Some(cluster) = store.cluster()
                    && let Err(error) = cluster.release(code).await
                {
                    tracing::warn!(%error, "cannot tell others that a key may be used again");
                }
            });
        }
    }
}

impl Known {
    /// Forgets what is too old, or too much.
    fn forget(&mut self, now: Instant) {
        while let Some((id, at)) = self.finished.front()
            && (self.finished.len() > KEYS_MAX || now.duration_since(*at) >= MEMORY)
        {
            self.by_id.remove(id);
            self.finished.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use httppubsub_proto::digest::Sha512;
    use httppubsub_proto::topic::Topic;
    use httppubsub_store::MemoryStore;

    use super::*;

    fn keys() -> Arc<Keys> {
        Arc::new(Keys::new(Arc::new(MemoryStore::new()), TaskTracker::new()))
    }

    fn id(number: u32) -> MessageId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        MessageId::from_bytes(bytes)
    }

    fn published() -> Published {
        Published {
            id: "msg_x".to_owned(),
            topic: Topic::new("t").unwrap(),
            bytes: 0,
            sha512: Sha512::of(b""),
            subscribers: 0,
            outcomes: Default::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_counts_once_for_ten_minutes_and_not_if_it_came_to_nothing() {
        let keys = keys();
        let Key::New(mut first) = keys.begin(id(1)) else {
            panic!("it is new");
        };
        assert!(first.spend().await.unwrap());
        assert!(matches!(keys.begin(id(1)), Key::UnderWay));
        drop(first);
        let Key::New(second) = keys.begin(id(1)) else {
            panic!("the first came to nothing");
        };
        second.finish(published());
        tokio::time::advance(MEMORY - Duration::from_secs(1)).await;
        assert!(matches!(keys.begin(id(1)), Key::Finished(_)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(keys.begin(id(1)), Key::New(_)));
    }

    #[tokio::test]
    async fn keys_that_are_remembered_are_bounded() {
        let keys = keys();
        let more = u32::try_from(KEYS_MAX).unwrap() + 10;
        for number in 0..more {
            let Key::New(under_way) = keys.begin(id(number)) else {
                panic!("it is new");
            };
            under_way.finish(published());
        }
        assert!(keys.known().by_id.len() <= KEYS_MAX + 1);
        assert!(matches!(keys.begin(id(0)), Key::New(_)));
        assert!(matches!(keys.begin(id(more - 1)), Key::Finished(_)));
    }
}
