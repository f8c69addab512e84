//! Hands what arrived, by whichever door, to the subscriptions that want it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;

use crate::inbox::{Inbox, Offered};
use crate::message::Message;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// At least one subscription took it.
    Taken,
    /// No subscription wants it.
    Unwanted,
    /// It is wanted, and nobody who wants it had room.
    Full,
}

/// All subscriptions of a client.
#[derive(Debug)]
pub(crate) struct Dispatch {
    messages_max: usize,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    next_id: u64,
    all: HashMap<u64, Entry>,
    by_topic: HashMap<Topic, Vec<Arc<Inbox>>>,
    by_glob: HashMap<GlobPattern, Vec<Arc<Inbox>>>,
    /// Whether messages may be missed now, by all.
    lost: bool,
    ended: bool,
}

#[derive(Debug)]
struct Entry {
    inbox: Arc<Inbox>,
    interests: BTreeSet<Interest>,
}

impl Dispatch {
    /// No subscriptions yet; each will hold at most `messages_max` messages.
    pub(crate) fn new(messages_max: usize) -> Self {
        Self {
            messages_max,
            registry: Mutex::default(),
        }
    }

    /// A further subscription, which wants nothing yet.
    pub(crate) fn open(&self) -> Arc<Inbox> {
        let mut registry = self.registry();
        let id = registry.next_id;
        registry.next_id += 1;
        let inbox = Arc::new(Inbox::new(id, self.messages_max, !registry.lost));
        if registry.ended {
            inbox.end();
        }
        let entry = Entry {
            inbox: inbox.clone(),
            interests: BTreeSet::new(),
        };
        registry.all.insert(id, entry);
        inbox
    }

    /// Lets a subscription go, and says what it wanted.
    pub(crate) fn close(&self, inbox: &Inbox) -> BTreeSet<Interest> {
        inbox.end();
        let mut registry = self.registry();
        let entry = registry.all.remove(&inbox.id());
        let interests = entry.map(|entry| entry.interests).unwrap_or_default();
        for interest in &interests {
            registry.forget(inbox.id(), interest);
        }
        interests
    }

    /// From now on the subscription gets what `interest` covers. Whether it did not before.
    pub(crate) fn add(&self, inbox: &Inbox, interest: Interest) -> bool {
        let mut registry = self.registry();
        let Some(entry) = registry.all.get_mut(&inbox.id()) else {
            return false;
        };
        if !entry.interests.insert(interest.clone()) {
            return false;
        }
        let inbox = entry.inbox.clone();
        let inboxes = match interest {
            Interest::Exact(topic) => registry.by_topic.entry(topic).or_default(),
            Interest::Glob(glob) => registry.by_glob.entry(glob).or_default(),
        };
        inboxes.push(inbox);
        true
    }

    /// From now on the subscription does not get what only `interest` covers. Whether it did
    /// before.
    pub(crate) fn remove(&self, inbox: &Inbox, interest: &Interest) -> bool {
        let mut registry = self.registry();
        let entry = registry.all.get_mut(&inbox.id());
        let removed = entry.is_some_and(|entry| entry.interests.remove(interest));
        if removed {
            registry.forget(inbox.id(), interest);
        }
        removed
    }

    /// What the subscription wants.
    pub(crate) fn interests(&self, inbox: &Inbox) -> Vec<Interest> {
        let registry = self.registry();
        let entry = registry.all.get(&inbox.id());
        entry.map_or_else(Vec::new, |entry| entry.interests.iter().cloned().collect())
    }

    /// Hands a message to each subscription that wants it, once. One that has no room is told that
    /// it missed something; the others do not wait for it.
    pub(crate) fn hand(&self, message: &Message) -> Handed {
        let mut handed = Handed::Unwanted;
        for inbox in self.covering(&message.topic) {
            match (inbox.offer(message.clone()), handed) {
                (Offered::Taken, _) => handed = Handed::Taken,
                (Offered::Full, Handed::Unwanted) => handed = Handed::Full,
                (Offered::Full | Offered::Ended, _) => {}
            }
        }
        handed
    }

    /// Something on `topic` was missed.
    pub(crate) fn missed(&self, topic: &Topic) {
        for inbox in self.covering(topic) {
            inbox.missed();
        }
    }

    /// Messages may be missed from now on, whatever they are about.
    pub(crate) fn lost(&self) {
        let mut registry = self.registry();
        registry.lost = true;
        registry.all.values().for_each(|entry| entry.inbox.lost());
    }

    /// Messages arrive: if they did not, all subscriptions are told that they missed something.
    pub(crate) fn found(&self) {
        let mut registry = self.registry();
        if std::mem::take(&mut registry.lost) {
            registry.all.values().for_each(|entry| entry.inbox.found());
        }
    }

    /// No subscription gets anything any more.
    pub(crate) fn end(&self) {
        let mut registry = self.registry();
        registry.ended = true;
        registry.all.values().for_each(|entry| entry.inbox.end());
    }

    /// Each subscription that wants `topic`, once.
    fn covering(&self, topic: &Topic) -> Vec<Arc<Inbox>> {
        let registry = self.registry();
        let exact = registry.by_topic.get(topic).into_iter().flatten();
        let globs = registry.by_glob.iter();
        let globs = globs.filter(|(glob, _)| glob.matches(topic));
        let mut inboxes: Vec<_> = exact
            .chain(globs.flat_map(|(_, inboxes)| inboxes))
            .cloned()
            .collect();
        inboxes.sort_unstable_by_key(|inbox| inbox.id());
        inboxes.dedup_by_key(|inbox| inbox.id());
        inboxes
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    fn forget(&mut self, id: u64, interest: &Interest) {
        match interest {
            Interest::Exact(topic) => forget_in(&mut self.by_topic, topic, id),
            Interest::Glob(glob) => forget_in(&mut self.by_glob, glob, id),
        }
    }
}

fn forget_in<K>(inboxes_by: &mut HashMap<K, Vec<Arc<Inbox>>>, key: &K, id: u64)
where
    K: std::hash::Hash + Eq,
{
    if let Some(inboxes) = inboxes_by.get_mut(key) {
        inboxes.retain(|inbox| inbox.id() != id);
        if inboxes.is_empty() {
            inboxes_by.remove(key);
        }
    }
}
