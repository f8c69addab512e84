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

    /// Something was missed, whatever it was about. While messages are lost anyway, all are told
    /// when they arrive again, and not before.
    pub(crate) fn interrupted(&self) {
        let registry = self.registry();
        if !registry.lost {
            registry.all.values().for_each(|entry| entry.inbox.missed());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    use httppubsub_net::Payload;
    use httppubsub_proto::time::Now;

    use crate::inbox::{Event, Receiving};

    fn exact(topic: &'static str) -> Interest {
        Interest::Exact(Topic::new(topic).unwrap())
    }

    fn glob(glob: &str) -> Interest {
        Interest::Glob(GlobPattern::parse(glob).unwrap())
    }

    fn message(topic: &'static str, text: &'static str) -> Message {
        Message {
            topic: Topic::new(topic).unwrap(),
            payload: Payload::from_bytes(text),
            received: Now::from_unix(std::time::Duration::ZERO),
        }
    }

    fn open(dispatch: &Dispatch, interests: impl IntoIterator<Item = Interest>) -> Arc<Inbox> {
        let inbox = dispatch.open();
        for interest in interests {
            assert!(dispatch.add(&inbox, interest));
        }
        inbox
    }

    /// All that waits, a mark as `!` for the beginning and `?` for a gap.
    fn taken(inbox: &Inbox) -> Vec<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = Vec::new();
        while let Poll::Ready(Some(event)) = inbox.poll_next(&mut cx) {
            taken.push(match event {
                Event::Receiving(Receiving::Began) => "!".to_owned(),
                Event::Receiving(Receiving::AfterGap) => "?".to_owned(),
                Event::Message(message) => {
                    let bytes = message.payload.in_memory().unwrap();
                    String::from_utf8(bytes.to_vec()).unwrap()
                }
            });
        }
        taken
    }

    #[test]
    fn each_subscription_that_wants_a_message_gets_it_once() {
        let dispatch = Dispatch::new(10);
        let both = open(&dispatch, [exact("a/b"), glob("a/*"), glob("*")]);
        let one = open(&dispatch, [exact("a/b")]);
        let other = open(&dispatch, [exact("a/c")]);
        assert_eq!(dispatch.hand(&message("a/b", "x")), Handed::Taken);
        assert_eq!(dispatch.hand(&message("zz", "y")), Handed::Taken);
        assert_eq!(taken(&both), ["!", "x", "y"]);
        assert_eq!(taken(&one), ["!", "x"]);
        assert_eq!(taken(&other), ["!"]);
        dispatch.close(&both);
        assert_eq!(dispatch.hand(&message("zz", "y")), Handed::Unwanted);
    }

    #[test]
    fn one_that_is_full_is_told_and_the_others_do_not_wait_for_it() {
        let dispatch = Dispatch::new(2);
        let slow = open(&dispatch, [exact("a")]);
        let quick = open(&dispatch, [exact("a")]);
        for text in ["1", "2", "3", "4"] {
            assert_eq!(dispatch.hand(&message("a", text)), Handed::Taken);
            taken(&quick);
        }
        assert_eq!(taken(&slow), ["!", "1", "2", "?"]);
        assert_eq!(dispatch.hand(&message("a", "5")), Handed::Taken);
        assert_eq!(taken(&slow), ["5"]);
    }

    #[test]
    fn a_message_that_nobody_has_room_for_is_not_taken() {
        let dispatch = Dispatch::new(1);
        let inbox = open(&dispatch, [exact("a")]);
        assert_eq!(dispatch.hand(&message("a", "1")), Handed::Taken);
        assert_eq!(dispatch.hand(&message("a", "2")), Handed::Full);
        assert_eq!(taken(&inbox), ["!", "1", "?"]);
        assert_eq!(dispatch.hand(&message("b", "3")), Handed::Unwanted);
    }

    #[test]
    fn a_gap_stands_where_it_was_and_two_in_a_row_are_one() {
        let dispatch = Dispatch::new(10);
        let covered = open(&dispatch, [glob("a*")]);
        let other = open(&dispatch, [exact("b")]);
        dispatch.hand(&message("a1", "1"));
        dispatch.missed(&Topic::new("a2").unwrap());
        dispatch.missed(&Topic::new("a3").unwrap());
        dispatch.hand(&message("a4", "4"));
        assert_eq!(taken(&covered), ["!", "1", "?", "4"]);
        assert_eq!(taken(&other), ["!"]);
    }

    #[test]
    fn what_was_lost_is_told_to_all_when_messages_arrive_again() {
        let dispatch = Dispatch::new(10);
        let before = open(&dispatch, [exact("a")]);
        dispatch.hand(&message("a", "1"));
        dispatch.lost();
        let meanwhile = open(&dispatch, [exact("b")]);
        assert_eq!(taken(&before), ["!", "1"]);
        assert_eq!(taken(&meanwhile), [""; 0]);
        dispatch.found();
        dispatch.found();
        assert_eq!(taken(&before), ["?"]);
        assert_eq!(taken(&meanwhile), ["!"]);
    }

    #[test]
    fn an_interruption_is_told_to_all_at_once_unless_messages_are_lost_anyway() {
        let dispatch = Dispatch::new(10);
        let inbox = open(&dispatch, [exact("a")]);
        assert_eq!(taken(&inbox), ["!"]);
        dispatch.interrupted();
        assert_eq!(taken(&inbox), ["?"]);
        dispatch.lost();
        dispatch.interrupted();
        assert_eq!(taken(&inbox), [""; 0]);
        dispatch.found();
        assert_eq!(taken(&inbox), ["?"]);
    }

    #[test]
    fn what_waits_can_be_taken_after_the_end() {
        let dispatch = Dispatch::new(10);
        let inbox = open(&dispatch, [exact("a")]);
        dispatch.hand(&message("a", "1"));
        dispatch.end();
        assert_eq!(dispatch.hand(&message("a", "2")), Handed::Unwanted);
        assert_eq!(taken(&inbox), ["!", "1"]);
        assert!(dispatch.open().is_ended());
    }

    #[test]
    fn interests_come_and_go_one_at_a_time() {
        let dispatch = Dispatch::new(10);
        let inbox = open(&dispatch, [exact("a"), exact("b")]);
        assert!(!dispatch.add(&inbox, exact("a")));
        assert!(dispatch.remove(&inbox, &exact("a")));
        assert!(!dispatch.remove(&inbox, &exact("a")));
        assert_eq!(dispatch.hand(&message("a", "1")), Handed::Unwanted);
        assert_eq!(dispatch.interests(&inbox), [exact("b")]);
    }
}
