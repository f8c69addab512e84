//! Hands what arrived, by whichever door, to the subscriptions that want it.
//!
//! ```text
//!   webhook, websocket
//!        | message on a topic
//!        v
//!   by topic: hash       by glob: each is tried
//!        \                   /
//!         inboxes that want it, each once
//!            | offer: taken, full, or ended
//!            v
//!   one answer to the broadcaster
//! ```
//!
//! A broadcaster sends one copy for each row that matches, and a client has one row for all its
//! subscriptions to the same interest. So every copy is handed to every subscription that covers
//! its topic, by whichever row it came.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;

use crate::receive::inbox::{EndReason, Inbox, Offered, Waiting};
use crate::receive::message::Message;

/// The fate of a message.
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
    /// Of each subscription.
    messages_max: usize,
    registry: Mutex<Registry>,
}

/// Subscriptions by number, and the two ways to find them by topic.
#[derive(Debug, Default)]
struct Registry {
    /// Never used twice, so that a late call with an old number finds nothing.
    next_id: u64,
    all: HashMap<u64, Entry>,
    by_topic: HashMap<Topic, Vec<Arc<Inbox>>>,
    by_glob: HashMap<GlobPattern, Vec<Arc<Inbox>>>,
    /// `true` if all subscriptions may miss messages now.
    is_paused: bool,
    /// Set once the client is closed or has given up: subscriptions made from now on end at once.
    ended: Option<EndReason>,
}

/// A subscription and what it wants, which is also the key to the other two maps.
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
        let inbox = Arc::new(Inbox::new(id, self.messages_max, !registry.is_paused));
        // Closed while it was being made.
        if let Some(reason) = registry.ended {
            inbox.end(reason).wake();
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
        inbox.end(EndReason::Closed).wake();
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
        // Counted once for each subscription, however often it asks for the same.
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

    /// The interests of the subscription.
    pub(crate) fn interests(&self, inbox: &Inbox) -> Vec<Interest> {
        let registry = self.registry();
        let entry = registry.all.get(&inbox.id());
        entry.map_or_else(Vec::new, |entry| entry.interests.iter().cloned().collect())
    }

    /// Hands a message to each subscription that wants it, once. One that has no room has a gap
    /// in its place; the others do not wait for it.
    pub(crate) fn hand(&self, message: &Message) -> Handed {
        let mut handed = Handed::Unwanted;
        for inbox in self.covering(&message.topic) {
            match (inbox.offer(message.clone()), handed) {
                // One that took it is enough to confirm it; the others have marked their gap.
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
            inbox.missed().wake();
        }
    }

    /// Broadcasters subscribe this no more: the subscriptions that want it end.
    #[cfg(any(feature = "websocket", test))]
    pub(crate) fn refused(&self, interest: &Interest) {
        let registry = self.registry();
        let inboxes = match interest {
            Interest::Exact(topic) => registry.by_topic.get(topic),
            Interest::Glob(glob) => registry.by_glob.get(glob),
        };
        let ended = inboxes.into_iter().flatten();
        let waiting: Vec<_> = ended.map(|inbox| inbox.end(EndReason::Refused)).collect();
        drop(registry);
        waiting.into_iter().for_each(Waiting::wake);
    }

    /// Something was missed, whatever it was about. While messages are lost anyway, all hear of it
    /// when they arrive again, and not before.
    pub(crate) fn gap(&self) {
        self.each_inbox(|registry| !registry.is_paused, Inbox::missed);
    }

    /// Messages may be missed from now on, whatever they are about.
    pub(crate) fn pause(&self) {
        let mut registry = self.registry();
        registry.is_paused = true;
        registry.all.values().for_each(|entry| entry.inbox.pause());
    }

    /// Messages arrive: if they did not, all subscriptions have a gap.
    pub(crate) fn resume(&self) {
        let was_paused = |registry: &mut Registry| std::mem::take(&mut registry.is_paused);
        self.each_inbox(was_paused, Inbox::resume);
    }

    /// Ends all subscriptions. The first reason stays.
    pub(crate) fn end(&self, reason: EndReason) {
        let end = |registry: &mut Registry| {
            registry.ended.get_or_insert(reason);
            true
        };
        self.each_inbox(end, |inbox| inbox.end(reason));
    }

    /// Changes all inboxes at once if `change` returns `true`, and wakes who waits for them when
    /// the registry is free again.
    fn each_inbox(
        &self,
        change: impl FnOnce(&mut Registry) -> bool,
        tell: impl Fn(&Inbox) -> Waiting,
    ) {
        let mut registry = self.registry();
        if !change(&mut registry) {
            return;
        }
        let all = registry.all.values();
        let waiting: Vec<_> = all.map(|entry| tell(&entry.inbox)).collect();
        drop(registry);
        waiting.into_iter().for_each(Waiting::wake);
    }

    /// Each subscription that wants `topic`, once.
    fn covering(&self, topic: &Topic) -> Vec<Arc<Inbox>> {
        let registry = self.registry();
        let exact = registry.by_topic.get(topic).into_iter().flatten();
        let globs = registry.by_glob.iter();
        // A client has few globs; a broadcaster, which may have many, has an index for them.
        let globs = globs.filter(|(glob, _)| glob.matches(topic));
        let mut inboxes: Vec<_> = exact
            .chain(globs.flat_map(|(_, inboxes)| inboxes))
            .cloned()
            .collect();
        // A subscription may want a topic by its name and by several globs.
        inboxes.sort_unstable_by_key(|inbox| inbox.id());
        inboxes.dedup_by_key(|inbox| inbox.id());
        inboxes
    }

    /// Messages are offered without it: [`Dispatch::covering`] returns the inboxes first.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Removes a subscription from the map of `interest`.
    fn forget(&mut self, id: u64, interest: &Interest) {
        match interest {
            Interest::Exact(topic) => forget_in(&mut self.by_topic, topic, id),
            Interest::Glob(glob) => forget_in(&mut self.by_glob, glob, id),
        }
    }
}

/// Removes the inbox `id` under `key`, and the key with the last of them: a program may subscribe
/// to a topic of its own for each request.
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
    use std::sync::Weak;
    use std::task::{Context, Poll, Waker};

    use httppubsub_net::body::Payload;
    use httppubsub_proto::time::Now;

    use crate::receive::inbox::{EndReason, Event, Receiving};

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
            number: None,
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
                Event::Receiving(Receiving::First) => "!".to_owned(),
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
        dispatch.pause();
        let meanwhile = open(&dispatch, [exact("b")]);
        assert_eq!(taken(&before), ["!", "1"]);
        assert_eq!(taken(&meanwhile), [""; 0]);
        dispatch.resume();
        dispatch.resume();
        assert_eq!(taken(&before), ["?"]);
        assert_eq!(taken(&meanwhile), ["!"]);
    }

    #[test]
    fn an_interruption_is_told_to_all_at_once_unless_messages_are_lost_anyway() {
        let dispatch = Dispatch::new(10);
        let inbox = open(&dispatch, [exact("a")]);
        assert_eq!(taken(&inbox), ["!"]);
        dispatch.gap();
        assert_eq!(taken(&inbox), ["?"]);
        dispatch.pause();
        dispatch.gap();
        assert_eq!(taken(&inbox), [""; 0]);
        dispatch.resume();
        assert_eq!(taken(&inbox), ["?"]);
    }

    #[test]
    fn what_waits_can_be_taken_after_the_end() {
        let dispatch = Dispatch::new(10);
        let inbox = open(&dispatch, [exact("a")]);
        dispatch.hand(&message("a", "1"));
        dispatch.end(EndReason::Closed);
        assert_eq!(dispatch.hand(&message("a", "2")), Handed::Unwanted);
        assert_eq!(taken(&inbox), ["!", "1"]);
        assert!(dispatch.open().is_ended());
    }

    #[test]
    fn what_is_refused_ends_the_subscriptions_that_want_it_and_no_others() {
        let dispatch = Dispatch::new(10);
        let both = open(&dispatch, [exact("a"), glob("b*")]);
        let other = open(&dispatch, [exact("a")]);
        dispatch.refused(&glob("b*"));
        assert!(both.is_ended() && !other.is_ended());
        dispatch.refused(&glob("c*"));
        assert_eq!(dispatch.hand(&message("a", "1")), Handed::Taken);
        assert_eq!(taken(&other), ["!", "1"]);
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

    /// A waker that looks at all that its caller could have locked.
    struct Looks {
        dispatch: Weak<Dispatch>,
        woken: std::sync::atomic::AtomicUsize,
    }

    impl std::task::Wake for Looks {
        fn wake(self: Arc<Self>) {
            let dispatch = self.dispatch.upgrade().unwrap();
            let inboxes: Vec<_> = {
                let registry = dispatch.registry.try_lock().unwrap();
                registry.all.values().map(|it| it.inbox.clone()).collect()
            };
            assert!(inboxes.iter().all(|inbox| !inbox.is_locked()));
            self.woken
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn wakers_are_called_when_nothing_is_locked() {
        let dispatch = Arc::new(Dispatch::new(1));
        let inbox = open(&dispatch, [exact("a")]);
        let looks = Arc::new(Looks {
            dispatch: Arc::downgrade(&dispatch),
            woken: Default::default(),
        });
        let waker = Waker::from(looks.clone());
        let mut woken = 0;
        let mut wakes = |work: &dyn Fn()| {
            taken(&inbox);
            let polled = inbox.poll_next(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            work();
            woken += 1;
            assert_eq!(
                looks.woken.load(std::sync::atomic::Ordering::Relaxed),
                woken
            );
        };
        let topic = Topic::new("a").unwrap();
        wakes(&|| assert_eq!(dispatch.hand(&message("a", "1")), Handed::Taken));
        wakes(&|| dispatch.missed(&topic));
        wakes(&|| dispatch.gap());
        wakes(&|| {
            dispatch.pause();
            dispatch.resume();
        });
        wakes(&|| dispatch.refused(&exact("a")));
    }

    #[test]
    fn the_first_reason_of_an_end_is_kept() {
        let dispatch = Dispatch::new(1);
        let (refused, other) = (open(&dispatch, [exact("a")]), open(&dispatch, [exact("b")]));
        assert_eq!(refused.end_reason(), None);
        dispatch.refused(&exact("a"));
        dispatch.end(EndReason::Abandoned);
        dispatch.end(EndReason::Closed);
        assert_eq!(refused.end_reason(), Some(EndReason::Refused));
        assert_eq!(other.end_reason(), Some(EndReason::Abandoned));
        assert_eq!(dispatch.open().end_reason(), Some(EndReason::Abandoned));
    }
}
