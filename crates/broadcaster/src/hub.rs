//! This process's websocket sessions, as far as other rooms need to know: what they want, and the
//! way to hand them something.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{Store, StoreError, Subscribed};
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::globs::{Globs, Key, Snapshot};
use crate::message::Message;
use crate::queue::{NotHanded, Receiver, Sender, queue};

/// The sessions of this process.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    wanted: Mutex<ByInterest>,
    next_id: AtomicU64,
    /// Cancelled when all sessions that began in it have to begin anew.
    era: Mutex<CancellationToken>,
}

/// What is kept for each topic and glob.
#[derive(Debug, Default)]
struct ByInterest {
    exacts: FxHashMap<Topic, Wanted>,
    globs: FxHashMap<GlobPattern, (Wanted, Key)>,
    found_by: Globs,
}

impl ByInterest {
    fn entry(&mut self, interest: &Interest) -> &mut Wanted {
        match interest {
            Interest::Exact(topic) => self.exacts.entry(topic.clone()).or_default(),
            Interest::Glob(glob) => {
                let found_by = &mut self.found_by;
                let entry = self.globs.entry(glob.clone());
                let (wanted, _) = entry.or_insert_with(|| (Wanted::default(), found_by.add(glob)));
                wanted
            }
        }
    }

    fn remove(&mut self, interest: &Interest) {
        match interest {
            Interest::Exact(topic) => drop(self.exacts.remove(topic)),
            Interest::Glob(glob) => {
                if let Some((_, key)) = self.globs.remove(glob) {
                    self.found_by.remove(glob, key);
                }
            }
        }
    }

    fn get(&self, interest: &Interest) -> Option<&Wanted> {
        match interest {
            Interest::Exact(topic) => self.exacts.get(topic),
            Interest::Glob(glob) => self.globs.get(glob).map(|(wanted, _)| wanted),
        }
    }

    fn get_mut(&mut self, interest: &Interest) -> Option<&mut Wanted> {
        match interest {
            Interest::Exact(topic) => self.exacts.get_mut(topic),
            Interest::Glob(glob) => self.globs.get_mut(glob).map(|(wanted, _)| wanted),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (Interest, &Wanted)> {
        let exacts = self.exacts.iter();
        let exacts = exacts.map(|(topic, it)| (Interest::Exact(topic.clone()), it));
        let globs = self.globs.iter();
        let globs = globs.map(|(glob, (it, _))| (Interest::Glob(glob.clone()), it));
        exacts.chain(globs)
    }

    /// Calls `visit` with what is kept of each topic and glob that matches, if that is found out in a
    /// moment; otherwise with that of the topic, and returns the globs to be matched elsewhere.
    fn matching(&self, topic: &Topic, mut visit: impl FnMut(&Wanted)) -> Option<Snapshot> {
        if let Some(exact) = self.exacts.get(topic) {
            visit(exact);
        }
        let text = topic.as_str()?;
        let candidates = self.found_by.candidates(text);
        let matching = candidates.matching_at_once(text, |glob| {
            if let Some((wanted, _)) = self.globs.get(glob) {
                visit(wanted);
            }
        });
        matching.err()
    }
}

/// A topic or glob that sessions want. A row of the store stands for all of them.
#[derive(Debug, Default)]
struct Wanted {
    /// How many want it, or are about to.
    sessions: usize,
    /// Those that are handed what matches.
    members: Vec<Arc<Member>>,
    /// Whoever changes the row waits for its turn, and says in here whether there is one.
    row: Arc<tokio::sync::Mutex<bool>>,
}

/// A session, for whoever has something for it.
#[derive(Debug)]
pub(crate) struct Member {
    id: u64,
    /// For the log.
    peer: String,
    queue: Sender,
    /// Cancelled when it cannot even be told what it missed.
    pub(crate) cut_off: CancellationToken,
    /// Cancelled when all have to begin anew.
    pub(crate) era: CancellationToken,
}

impl Member {
    /// For the log.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    fn is_ending(&self) -> bool {
        self.cut_off.is_cancelled() || self.era.is_cancelled()
    }

    /// Tells it that it missed something about `topic`; if that cannot be told either, it ends.
    fn missed(&self, topic: &Topic) {
        if self.queue.missed(topic) == Err(NotHanded::Full) {
            self.cut_off.cancel();
        }
    }
}

impl Hub {
    /// A session that wants nothing yet, and what it is handed from now on: of messages at most
    /// `queue_bytes_max` bytes wait.
    pub(crate) fn member(&self, peer: String, queue_bytes_max: u32) -> (Arc<Member>, Receiver) {
        let (queue, inbox) = queue(queue_bytes_max);
        let member = Member {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            peer,
            queue,
            cut_off: CancellationToken::new(),
            era: self.era().clone(),
        };
        (Arc::new(member), inbox)
    }

    /// `true` if any session is subscribed to `topic`, or about to be.
    pub(crate) async fn wants(&self, topic: &Topic) -> bool {
        let mut sessions = 0;
        self.visit(topic, |wanted| sessions += wanted.sessions)
            .await;
        sessions > 0
    }

    /// Calls `visit` with each topic and glob that matches. What takes longer than a moment is found
    /// out beside the runtime, and with no lock held.
    async fn visit(&self, topic: &Topic, mut visit: impl FnMut(&Wanted)) {
        let elsewhere = self.wanted().matching(topic, &mut visit);
        let Some(elsewhere) = elsewhere else { return };
        let globs = elsewhere.matching(topic).await;
        let wanted = self.wanted();
        for glob in &globs {
            if let Some((it, _)) = wanted.globs.get(glob) {
                visit(it);
            }
        }
    }

    /// Hands a message to every session that is subscribed to its topic, once however many of its
    /// topics and globs match, and says to how many. Where there is no room it waits for it until
    /// `deadline`, as one waits for the answer of other subscribers; a session that has made none by
    /// then is told that it missed something.
    pub(crate) async fn deliver(&self, message: &Arc<Message>, deadline: Instant) -> u32 {
        let mut handed = 0;
        let mut full = Vec::new();
        for member in self.matching(&message.topic).await {
            if member.is_ending() {
                continue;
            }
            match member.queue.try_send(message) {
                Ok(()) => handed += 1,
                Err(NotHanded::Full) => full.push(member),
                // It has just ended.
                Err(NotHanded::Ended) => {}
            }
        }
        if full.is_empty() {
            return handed;
        }
        let waiting = full.iter().map(|member| async move {
            let sending = member.queue.send(message);
            match tokio::time::timeout_at(deadline, sending).await {
                Ok(sent) => u32::from(sent.is_ok()),
                Err(_) => {
                    let (peer, topic) = (member.peer(), &message.topic);
                    tracing::info!(peer, %topic, "a websocket had no room for a message in time");
                    member.missed(topic);
                    0
                }
            }
        });
        handed + join_all(waiting).await.into_iter().sum::<u32>()
    }

    /// Tells every session that is subscribed to `topic` that it missed something.
    pub(crate) async fn missed(&self, topic: &Topic) {
        for member in self.matching(topic).await {
            member.missed(topic);
        }
    }

    /// The sessions to hand something about `topic`, each once.
    async fn matching(&self, topic: &Topic) -> Vec<Arc<Member>> {
        let (mut all, mut lists) = (Vec::new(), 0);
        let collect = |wanted: &Wanted| {
            lists += usize::from(!wanted.members.is_empty());
            all.extend_from_slice(&wanted.members);
        };
        self.visit(topic, collect).await;
        if lists > 1 {
            all.sort_unstable_by_key(|member| member.id);
            all.dedup_by_key(|member| member.id);
        }
        all
    }

    /// One more session wants this: the row is there when this returns. What matches it is not
    /// handed to the session before [`Hub::begin`].
    pub(crate) async fn join(
        &self,
        store: &dyn Store,
        receiver: &SubscriberUrl,
        recovery: &SubscriberUrl,
        interest: &Interest,
    ) -> Result<(), StoreError> {
        let row = {
            let mut wanted = self.wanted();
            let counted = wanted.entry(interest);
            counted.sessions += 1;
            counted.row.clone()
        };
        let mut is_there = row.lock().await;
        if *is_there {
            return Ok(());
        }
        let subscription = Subscription {
            url: receiver.clone(),
            interest: interest.clone(),
            recovery: Some(recovery.clone()),
        };
        match store.subscribe(subscription).await {
            Ok(_) => {
                *is_there = true;
                Ok(())
            }
            Err(error) => {
                drop(is_there);
                self.discount(interest);
                Err(error)
            }
        }
    }

    /// The rows are gone, though nobody here removed them. All sessions are told to end, as they may
    /// have missed something, and those that come make new rows.
    pub(crate) async fn begin_anew(&self) {
        let rows: Vec<_> = self.wanted().iter().map(|(_, it)| it.row.clone()).collect();
        for row in rows {
            // Whoever changes it is waited for: what it says of the row may be of before.
            *row.lock().await = false;
        }
        std::mem::take(&mut *self.era()).cancel();
    }

    /// One session less wants this; after the last, the row is gone when this returns.
    pub(crate) async fn leave(
        &self,
        store: &dyn Store,
        receiver: &SubscriberUrl,
        interest: &Interest,
    ) -> Result<(), StoreError> {
        match self.discount(interest) {
            Some(row) => self.remove_row(row, store, receiver, interest).await,
            None => Ok(()),
        }
    }

    /// Removes a row that no session wants; one that is wanted by now stays.
    pub(crate) async fn remove_stale(
        &self,
        store: &dyn Store,
        receiver: &SubscriberUrl,
        interest: &Interest,
    ) -> Result<(), StoreError> {
        let row = self.wanted().entry(interest).row.clone();
        self.remove_row(row, store, receiver, interest).await
    }

    async fn remove_row(
        &self,
        row: Arc<tokio::sync::Mutex<bool>>,
        store: &dyn Store,
        receiver: &SubscriberUrl,
        interest: &Interest,
    ) -> Result<(), StoreError> {
        let mut is_there = row.lock().await;
        // Another may have removed it meanwhile, and those who came since wait for other turns.
        let is_unwanted = |it: &Wanted| it.sessions == 0 && Arc::ptr_eq(&it.row, &row);
        if !self.wanted().get(interest).is_some_and(is_unwanted) {
            return Ok(());
        }
        // Of one that fails nobody knows whether it is there: whoever wants it makes it anew, and
        // it is kept in mind to be removed later.
        *is_there = false;
        store
            .unsubscribe(receiver.clone(), interest.clone())
            .await?;
        let mut wanted = self.wanted();
        if wanted.get(interest).is_some_and(is_unwanted) {
            wanted.remove(interest);
        }
        Ok(())
    }

    /// Removes the rows that no session wants, and could not be removed when the last left.
    pub(crate) async fn remove_unwanted(
        &self,
        store: &dyn Store,
        receiver: &SubscriberUrl,
    ) -> Result<(), StoreError> {
        let unwanted: Vec<_> = {
            let wanted = self.wanted();
            let unwanted = wanted.iter().filter(|(_, it)| it.sessions == 0);
            unwanted.map(|(of, it)| (of, it.row.clone())).collect()
        };
        for (interest, row) in unwanted {
            self.remove_row(row, store, receiver, &interest).await?;
        }
        Ok(())
    }

    /// What sessions want, and should have rows in the store.
    pub(crate) fn wanted_rows(&self) -> Vec<Interest> {
        let wanted = self.wanted();
        let with_rows = wanted.iter().filter(|(_, it)| it.sessions > 0);
        with_rows.map(|(interest, _)| interest).collect()
    }

    /// Makes the row of something that sessions want, if it is not there although nobody here removed
    /// it, and tells them that they may have missed something. Says whether that was so.
    pub(crate) async fn mend(
        &self,
        store: &dyn Store,
        subscription: Subscription,
    ) -> Result<bool, StoreError> {
        let interest = subscription.interest.clone();
        let row = self.wanted().get(&interest).map(|it| it.row.clone());
        let Some(row) = row else { return Ok(false) };
        let is_there = row.lock().await;
        let is_wanted = |it: &Wanted| it.sessions > 0 && Arc::ptr_eq(&it.row, &row);
        if !*is_there || !self.wanted().get(&interest).is_some_and(is_wanted) {
            return Ok(false);
        }
        if store.subscribe(subscription).await? == Subscribed::Existed {
            return Ok(false);
        }
        // Of a glob it is not known which topics: clients look after all that they want.
        let topic = match &interest {
            Interest::Exact(topic) => Some(topic.clone()),
            Interest::Glob(glob) => {
                Topic::new(Bytes::copy_from_slice(glob.as_str().as_bytes())).ok()
            }
        };
        let members = self.wanted().get(&interest).map(|it| it.members.clone());
        for member in members.into_iter().flatten() {
            topic.iter().for_each(|topic| member.missed(topic));
        }
        Ok(true)
    }

    /// Counts one less, and says whose turn to wait for if that was the last.
    fn discount(&self, interest: &Interest) -> Option<Arc<tokio::sync::Mutex<bool>>> {
        let mut wanted = self.wanted();
        let counted = wanted.entry(interest);
        counted.sessions = counted.sessions.saturating_sub(1);
        (counted.sessions == 0).then(|| counted.row.clone())
    }

    /// From now on the session is handed what matches.
    pub(crate) fn begin(&self, member: &Arc<Member>, interest: &Interest) {
        self.wanted().entry(interest).members.push(member.clone());
    }

    /// From now on the session is not handed any more what matches.
    pub(crate) fn end(&self, member: &Member, interest: &Interest) {
        if let Some(wanted) = self.wanted().get_mut(interest) {
            wanted.members.retain(|one| one.id != member.id);
        }
    }

    /// Counts a session that wants this, as if its row were there.
    #[cfg(test)]
    pub(crate) fn count(&self, interest: &Interest) {
        self.wanted().entry(interest).sessions += 1;
    }

    fn era(&self) -> MutexGuard<'_, CancellationToken> {
        self.era.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> MutexGuard<'_, ByInterest> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use httppubsub_net::Payload;
    use httppubsub_store::MemoryStore;

    fn exact(topic: &'static str) -> Interest {
        Interest::Exact(Topic::new(topic).unwrap())
    }

    fn glob(glob: &str) -> Interest {
        Interest::Glob(GlobPattern::parse(glob).unwrap())
    }

    fn message(topic: &'static str) -> Arc<Message> {
        let topic = Topic::new(topic).unwrap();
        Arc::new(Message::new(topic, Payload::from_bytes("body")))
    }

    fn url(text: &str) -> SubscriberUrl {
        SubscriberUrl::new(text).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_session_gets_one_copy_however_many_of_its_interests_match() {
        let hub = Hub::default();
        let (one, mut inbox) = hub.member("one".to_owned(), 8_000);
        let (other, mut others) = hub.member("other".to_owned(), 8_000);
        for interest in [exact("ab"), glob("a*"), glob("*b")] {
            hub.begin(&one, &interest);
        }
        hub.begin(&other, &glob("a?"));
        assert_eq!(hub.deliver(&message("ab"), soon()).await, 2);
        assert!(inbox.try_recv().is_some() && others.try_recv().is_some());
        assert!(inbox.try_recv().is_none() && others.try_recv().is_none());
        hub.end(&one, &exact("ab"));
        assert_eq!(hub.deliver(&message("a"), soon()).await, 1);
        assert_eq!(hub.deliver(&message("c"), soon()).await, 0);
    }

    #[tokio::test]
    async fn glob_websockets_globs_that_take_long_are_matched_beside_the_runtime() {
        let hub = Hub::default();
        let (one, mut inbox) = hub.member("one".to_owned(), 8_000_000);
        let costly = glob(&format!("{}*x", "*a".repeat(60)));
        hub.begin(&one, &costly);
        hub.begin(&one, &exact("short"));
        let topic = Topic::new(format!("{}x", "a".repeat(20_000))).unwrap();
        let message = Arc::new(Message::new(topic.clone(), Payload::from_bytes("body")));
        {
            let mut delivering = Box::pin(hub.deliver(&message, soon()));
            tokio::select! {
                biased;
                handed = &mut delivering => panic!("{handed} at once"),
                () = std::future::ready(()) => {}
            }
            // No lock is held meanwhile, and others are served.
            assert_eq!(hub.deliver(&self::message("short"), soon()).await, 1);
            assert_eq!(delivering.await, 1);
        }
        assert!(inbox.try_recv().is_some() && inbox.try_recv().is_some());
        hub.end(&one, &costly);
        assert_eq!(hub.deliver(&message, soon()).await, 0);
        assert!(!hub.wants(&topic).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_room_and_who_has_none_in_time_is_told() {
        let hub = Hub::default();
        let (slow, mut slows) = hub.member("slow".to_owned(), 600);
        let (quick, mut quicks) = hub.member("quick".to_owned(), 600);
        hub.begin(&slow, &exact("t"));
        hub.begin(&quick, &exact("t"));
        for _ in 0..2 {
            assert_eq!(hub.deliver(&message("t"), soon()).await, 2);
            assert!(quicks.try_recv().is_some());
        }
        let third = message("t");
        let delivering = hub.deliver(&third, soon());
        let reading = async {
            tokio::time::sleep(std::time::Duration::from_secs(30)).await;
            assert!(quicks.try_recv().is_some());
            assert!(slows.try_recv().is_some());
        };
        let (handed, ()) = tokio::join!(delivering, reading);
        assert_eq!(handed, 2);
        // Now it takes nothing.
        assert_eq!(hub.deliver(&message("t"), soon()).await, 1);
        for is_message in [true, true, false] {
            let next = slows.try_recv().unwrap();
            assert_eq!(
                matches!(next, crate::queue::ForSession::Message(_)),
                is_message
            );
        }
        assert!(!slow.cut_off.is_cancelled());
        drop(slows);
        assert_eq!(hub.deliver(&message("t"), soon()).await, 1);
    }

    #[tokio::test]
    async fn sessions_that_begin_anew_make_new_rows_and_those_of_before_get_nothing() {
        let hub = Hub::default();
        let (receiver, recovery) = (url("http://b/r"), url("http://b/m"));
        let before = MemoryStore::new();
        let (old, mut olds) = hub.member("old".to_owned(), 8_000);
        hub.join(&before, &receiver, &recovery, &exact("t"))
            .await
            .unwrap();
        hub.begin(&old, &exact("t"));
        hub.begin_anew().await;
        assert!(old.era.is_cancelled());
        let after = MemoryStore::new();
        let (new, mut news) = hub.member("new".to_owned(), 8_000);
        hub.join(&after, &receiver, &recovery, &exact("t"))
            .await
            .unwrap();
        hub.begin(&new, &exact("t"));
        let etag_before = before.etag(receiver.clone()).await.unwrap();
        assert_eq!(after.etag(receiver.clone()).await.unwrap(), etag_before);
        assert_eq!(hub.deliver(&message("t"), soon()).await, 1);
        assert!(news.try_recv().is_some() && olds.try_recv().is_none());
        hub.leave(&after, &receiver, &exact("t")).await.unwrap();
        assert_eq!(after.etag(receiver.clone()).await.unwrap(), etag_before);
        assert!(!new.era.is_cancelled());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_row_is_there_while_any_session_wants_it_and_gone_after_the_last() {
        let hub = Arc::new(Hub::default());
        let store = Arc::new(MemoryStore::new());
        let (receiver, recovery) = (url("http://b/r"), url("http://b/m"));
        let empty = store.etag(receiver.clone()).await.unwrap();
        let one_row = [(exact("t"), Some(recovery.clone()))];
        let one_row = httppubsub_proto::subscription::SubscriptionSet::from_iter(one_row);
        let one_row = one_row.etag(&receiver);
        for _ in 0..50 {
            let sessions = (0..8).map(|_| {
                let (hub, store) = (hub.clone(), store.clone());
                let (receiver, recovery) = (receiver.clone(), recovery.clone());
                tokio::spawn(async move {
                    for _ in 0..5 {
                        let interest = exact("t");
                        hub.join(&*store, &receiver, &recovery, &interest)
                            .await
                            .unwrap();
                        assert!(hub.wants(&Topic::new("t").unwrap()).await);
                        // Whoever removes what nobody wants leaves it alone.
                        hub.remove_unwanted(&*store, &receiver).await.unwrap();
                        tokio::task::yield_now().await;
                        let etag = store.etag(receiver.clone()).await.unwrap();
                        assert_eq!(etag, one_row);
                        hub.leave(&*store, &receiver, &interest).await.unwrap();
                        hub.remove_unwanted(&*store, &receiver).await.unwrap();
                        hub.remove_stale(&*store, &receiver, &interest)
                            .await
                            .unwrap();
                    }
                })
            });
            for session in sessions.collect::<Vec<_>>() {
                session.await.unwrap();
            }
            assert_eq!(store.etag(receiver.clone()).await.unwrap(), empty);
            assert!(!hub.wants(&Topic::new("t").unwrap()).await);
            assert!(hub.wanted().exacts.is_empty());
        }
    }
}
