//! What was published, and what each subscriber heard of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use tokio::sync::Notify;

/// What a subscriber of the soak subscribes: a topic, or all topics with a prefix.
#[derive(Clone, Debug)]
pub(crate) enum Wants {
    Exact(String),
    Under(String),
}

impl Wants {
    pub(crate) fn interest(&self) -> anyhow::Result<Interest> {
        Ok(match self {
            Self::Exact(topic) => Interest::Exact(Topic::new(topic.clone())?),
            Self::Under(prefix) => Interest::Glob(GlobPattern::parse(format!("{prefix}*"))?),
        })
    }

    fn covers(&self, topic: &str) -> bool {
        match self {
            Self::Exact(own) => own == topic,
            Self::Under(prefix) => topic.starts_with(prefix),
        }
    }

    /// A topic that it covers; `number` makes it one that nobody used before, where that matters.
    fn topic(&self, number: u64) -> String {
        match self {
            Self::Exact(topic) => topic.clone(),
            Self::Under(prefix) => format!("{prefix}{number}"),
        }
    }
}

/// The account of one run.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Book {
    subscribers: BTreeMap<u64, Member>,
    last_subscriber: u64,
    last_message: u64,
    tally: Tally,
}

#[derive(Debug)]
struct Member {
    wants: Wants,
    /// It leaves: what is published from now on need not reach it.
    is_leaving: bool,
    /// Messages that it neither received nor was told that it missed.
    owed: BTreeSet<u64>,
    received: BTreeSet<u64>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Pairs of a message and a subscriber that it was for.
    pub(crate) expected: u64,
    pub(crate) received: u64,
    /// Pairs that a notice stands for.
    pub(crate) noticed: u64,
    pub(crate) doubled: u64,
    /// Pairs of which the subscriber never heard: the difference.
    pub(crate) lost: u64,
    /// The first of those, for a person who looks for the reason.
    pub(crate) first_lost: Option<String>,
}

impl Oracle {
    /// A subscriber whose subscription was confirmed.
    pub(crate) fn join(&self, wants: Wants) -> u64 {
        let mut book = self.book();
        book.last_subscriber += 1;
        let number = book.last_subscriber;
        let member = Member {
            wants,
            is_leaving: false,
            owed: BTreeSet::new(),
            received: BTreeSet::new(),
        };
        book.subscribers.insert(number, member);
        number
    }

    /// Nothing that is published from now on is for this subscriber.
    pub(crate) fn leaves(&self, subscriber: u64) {
        if let Some(member) = self.book().subscribers.get_mut(&subscriber) {
            member.is_leaving = true;
        }
    }

    /// Waits until the subscriber is owed nothing, at most for `patience`; then it is forgotten,
    /// and what it is still owed is lost.
    pub(crate) async fn settle(&self, subscriber: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            let owes = |book: &Book| {
                let member = book.subscribers.get(&subscriber);
                member.is_some_and(|member| !member.owed.is_empty())
            };
            if !owes(&self.book()) {
                break;
            }
            if tokio::time::timeout_at(deadline.into(), changed)
                .await
                .is_err()
            {
                break;
            }
        }
        let mut book = self.book();
        if let Some(member) = book.subscribers.remove(&subscriber)
            && let Some(first) = member.owed.first()
        {
            let text = format!(
                "subscriber {subscriber} ({:?}), {} messages, the first is {first}",
                member.wants,
                member.owed.len()
            );
            book.tally.lost += member.owed.len() as u64;
            book.tally.first_lost.get_or_insert(text);
        }
    }

    /// A topic that somebody subscribes: of the subscriber that `random` chooses.
    pub(crate) fn topic(&self, random: usize) -> Option<String> {
        let book = self.book();
        let here = book.subscribers.values().filter(|it| !it.is_leaving);
        let here: Vec<_> = here.collect();
        let member = here.get(random.checked_rem(here.len())?)?;
        Some(member.wants.topic(book.last_message))
    }

    /// A message is about to be published; its number.
    pub(crate) fn publishes(&self, topic: &str) -> u64 {
        let mut book = self.book();
        book.last_message += 1;
        let message = book.last_message;
        let mut expected = 0;
        for member in book.subscribers.values_mut() {
            if !member.is_leaving && member.wants.covers(topic) {
                member.owed.insert(message);
                expected += 1;
            }
        }
        book.tally.expected += expected;
        message
    }

    /// The publisher got no 200: nobody has a claim to this message.
    pub(crate) fn not_published(&self, message: u64) {
        let mut book = self.book();
        let owed = book.subscribers.values_mut();
        let withdrawn = owed.filter_map(|member| member.owed.remove(&message).then_some(()));
        let withdrawn = withdrawn.count() as u64;
        book.tally.expected -= withdrawn;
        self.changed.notify_waiters();
    }

    pub(crate) fn received(&self, subscriber: u64, message: u64) {
        let mut book = self.book();
        let Some(member) = book.subscribers.get_mut(&subscriber) else {
            return;
        };
        let (was_owed, is_new) = (
            member.owed.remove(&message),
            member.received.insert(message),
        );
        book.tally.received += u64::from(was_owed);
        book.tally.doubled += u64::from(!is_new);
        self.changed.notify_waiters();
    }

    /// The subscriber was told that it may have missed what was published until now.
    pub(crate) fn noticed(&self, subscriber: u64) {
        let mut book = self.book();
        if let Some(member) = book.subscribers.get_mut(&subscriber) {
            let noticed = std::mem::take(&mut member.owed).len() as u64;
            book.tally.noticed += noticed;
        }
        self.changed.notify_waiters();
    }

    pub(crate) fn tally(&self) -> Tally {
        self.book().tally.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_subscriber_never_heard_of_is_the_difference() {
        let oracle = Oracle::default();
        let one = oracle.join(Wants::Exact("t".to_owned()));
        let other = oracle.join(Wants::Under("t".to_owned()));
        let message = oracle.publishes("t");
        oracle.received(one, message);
        oracle.received(one, message);
        let refused = oracle.publishes("t");
        oracle.not_published(refused);
        let unheard = oracle.publishes("tt");
        oracle.received(other, unheard);
        oracle.leaves(other);
        oracle.publishes("t");
        oracle.noticed(one);
        for subscriber in [one, other] {
            oracle.settle(subscriber, Duration::from_millis(1)).await;
        }
        let tally = oracle.tally();
        assert_eq!((tally.expected, tally.received), (4, 2));
        assert_eq!((tally.noticed, tally.doubled, tally.lost), (1, 1, 1));
    }
}
