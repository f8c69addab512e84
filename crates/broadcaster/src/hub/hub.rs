//! This process's websocket sessions, as far as other rooms need to know: what they want, and the
//! way to hand them something.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;
use httppubsub_proto::subscription::{Interest, Subscription};
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::{Store, StoreError, Subscribed};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hub::by_interest::{ByInterest, Row, Wanted};
use crate::hub::member::Member;
use crate::hub::queue::{NotHanded, Receiver, queue};
use crate::message::Message;

/// The sessions of this process, and the rows in the store that stand for them.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Holds the rows.
    store: Arc<dyn Store>,
    /// The url of the rows, at which this broadcaster receives for its sessions.
    url: SubscriberUrl,
    /// The recovery url of the rows.
    recovery: SubscriberUrl,
    /// The interests of sessions. Locked for moments only, and never while the store is asked.
    wanted: Mutex<ByInterest>,
    /// The id of the next session: it tells one from others that want the same.
    next_id: AtomicU64,
    /// Cancelled when all sessions that began in it have to begin anew.
    epoch: Mutex<CancellationToken>,
}

impl Hub {
    /// A hub without sessions, whose rows are those of `url` with the recovery url `recovery`.
    pub(crate) fn new(store: Arc<dyn Store>, url: SubscriberUrl, recovery: SubscriberUrl) -> Self {
        Self {
            store,
            url,
            recovery,
            wanted: Mutex::default(),
            next_id: AtomicU64::new(0),
            epoch: Mutex::default(),
        }
    }

    /// The url at which this broadcaster is subscribed on behalf of its sessions.
    pub(crate) fn url(&self) -> &SubscriberUrl {
        &self.url
    }

    /// The url at which other broadcasters tell this one what its sessions missed.
    pub(crate) fn recovery(&self) -> &SubscriberUrl {
        &self.recovery
    }

    /// A session that wants nothing yet, and what it is handed from now on: of messages at most
    /// `queue_bytes_max` bytes wait.
    pub(crate) fn member(&self, peer: String, queue_bytes_max: u32) -> (Arc<Member>, Receiver) {
        let (queue, inbox) = queue(queue_bytes_max);
        let member = Member {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            peer,
            queue,
            is_behind: AtomicBool::new(false),
            cut_off: CancellationToken::new(),
            epoch: self.epoch().clone(),
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

    /// Calls `visit` with each topic and glob that matches. What takes longer than a moment is
    /// found out beside the runtime, and with no lock held.
    async fn visit(&self, topic: &Topic, mut visit: impl FnMut(&Wanted)) {
        // The guard is gone at the end of this line: nothing is locked while globs are matched.
        let elsewhere = self.wanted().matching(topic, &mut visit);
        let Some(elsewhere) = elsewhere else { return };
        let globs = elsewhere.matching(topic).await;
        let wanted = self.wanted();
        for glob in &globs {
            if let Some(it) = wanted.get_glob(glob) {
                visit(it);
            }
        }
    }

    /// Hands a message to every session that is subscribed to its topic, once for each session, and
    /// returns the number of sessions. A full queue is waited for until `deadline`, as the answers
    /// of other subscribers are; a session that has made no room by then gets MISSED, and is not
    /// waited for again until it has caught up: it would hold up every publisher for as long as it
    /// is slow.
    pub(crate) async fn deliver(&self, message: &Arc<Message>, deadline: Instant) -> u32 {
        let mut handed = 0;
        let mut full = Vec::new();
        for member in self.matching(&message.topic).await {
            if member.is_ending() {
                continue;
            }
            // Sessions with room have it at once; nobody waits for a slow one before its turn.
            match member.queue.try_send(message) {
                Ok(()) => {
                    handed += 1;
                    if member.is_behind() && member.queue.is_half_free() {
                        member.is_behind.store(false, Ordering::Relaxed);
                    }
                }
                Err(NotHanded::Full) if member.is_behind() => member.missed(&message.topic),
                Err(NotHanded::Full) => full.push(member),
                // It has just ended.
                Err(NotHanded::Ended) => {}
            }
        }
        if full.is_empty() {
            return handed;
        }
        // All at once: the slowest decides how long this takes, not their number.
        let waiting = full.iter().map(|member| async move {
            let sending = member.queue.send(message);
            match tokio::time::timeout_at(deadline, sending).await {
                Ok(sent) => u32::from(sent.is_ok()),
                Err(_) => {
                    let (peer, topic) = (member.peer(), &message.topic);
                    tracing::info!(peer, %topic, "a websocket had no room for a message in time");
                    // The next publisher does not wait for it as well.
                    member.is_behind.store(true, Ordering::Relaxed);
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
            // A session whose topic and globs match has one copy, as one subscriber.
            all.sort_unstable_by_key(|member| member.id);
            all.dedup_by_key(|member| member.id);
        }
        all
    }

    /// Counts one more session that wants `interest`: the row is there when this returns. What
    /// matches it is not handed to the session before [`Hub::attach`].
    pub(crate) async fn acquire_row(&self, interest: &Interest) -> Result<(), StoreError> {
        let row = {
            let mut wanted = self.wanted();
            let counted = wanted.entry(interest);
            // Counted first: a removal that is on its way finds that it is wanted.
            counted.sessions += 1;
            counted.row.clone()
        };
        // One at a time changes the row: the store hears of changes in the order of the lock.
        let mut is_there = row.lock().await;
        if *is_there {
            return Ok(());
        }
        match self.store.subscribe(self.subscription(interest)).await {
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

    /// Ends all sessions, whose rows disappeared from the store without this broadcaster: they may
    /// have missed something, and subscribe anew.
    pub(crate) async fn begin_anew(&self) {
        let rows: Vec<_> = self.wanted().all().map(|it| it.row.clone()).collect();
        for row in rows {
            // A change in progress is waited for: what it found may be outdated.
            *row.lock().await = false;
        }
        // Rows first: a session that comes after this finds that its row is to be made.
        std::mem::take(&mut *self.epoch()).cancel();
    }

    /// Counts one session less that wants `interest`; after the last, the row is gone when this
    /// returns.
    pub(crate) async fn release_row(&self, interest: &Interest) -> Result<(), StoreError> {
        match self.discount(interest) {
            Some(row) => self.remove_row(row, interest).await,
            None => Ok(()),
        }
    }

    /// Removes a row that no session wants; one that is wanted by now stays.
    pub(crate) async fn remove_stale(&self, interest: &Interest) -> Result<(), StoreError> {
        let row = self.wanted().entry(interest).row.clone();
        self.remove_row(row, interest).await
    }

    /// Removes `row`, which is that of `interest`, unless a session wants it by now.
    async fn remove_row(&self, row: Row, interest: &Interest) -> Result<(), StoreError> {
        let mut is_there = row.lock().await;
        // Another may have removed it meanwhile, and those who came since wait for other turns.
        let is_unwanted = |it: &Wanted| it.sessions == 0 && Arc::ptr_eq(&it.row, &row);
        if !self.wanted().get(interest).is_some_and(is_unwanted) {
            return Ok(());
        }
        // After a failure the row may or may not exist: the next session that wants it makes it
        // anew, and it is kept in mind to be removed later.
        *is_there = false;
        let removed = self.store.unsubscribe(self.url.clone(), interest.clone());
        removed.await?;
        let mut wanted = self.wanted();
        if wanted.get(interest).is_some_and(is_unwanted) {
            wanted.remove(interest);
        }
        Ok(())
    }

    /// Removes the rows that no session wants, and could not be removed when the last left.
    pub(crate) async fn remove_unwanted(&self) -> Result<(), StoreError> {
        let unwanted: Vec<_> = {
            let wanted = self.wanted();
            let unwanted = wanted.filter(|it| it.sessions == 0);
            unwanted.map(|(of, it)| (of, it.row.clone())).collect()
        };
        for (interest, row) in unwanted {
            self.remove_row(row, &interest).await?;
        }
        Ok(())
    }

    /// The interests of sessions, which should have rows in the store.
    pub(crate) fn wanted_rows(&self) -> Vec<Interest> {
        let wanted = self.wanted();
        let with_rows = wanted.filter(|it| it.sessions > 0);
        with_rows.map(|(interest, _)| interest).collect()
    }

    /// Makes the row of something that sessions want, if it is not there although nobody here
    /// removed it, and tells them that they may have missed something. Returns `true` if that was
    /// so.
    pub(crate) async fn mend(&self, interest: &Interest) -> Result<bool, StoreError> {
        let row = self.wanted().get(interest).map(|it| it.row.clone());
        let Some(row) = row else { return Ok(false) };
        let is_there = row.lock().await;
        let is_wanted = |it: &Wanted| it.sessions > 0 && Arc::ptr_eq(&it.row, &row);
        if !*is_there || !self.wanted().get(interest).is_some_and(is_wanted) {
            return Ok(false);
        }
        let subscribed = self.store.subscribe(self.subscription(interest)).await?;
        if subscribed == Subscribed::Existed {
            return Ok(false);
        }
        // Of a glob it is not known which topics: clients look after all that they want.
        let topic = match interest {
            Interest::Exact(topic) => Some(topic.clone()),
            Interest::Glob(glob) => {
                Topic::new(Bytes::copy_from_slice(glob.as_str().as_bytes())).ok()
            }
        };
        // What was published while the row was missing is lost to them.
        let members = self.wanted().get(interest).map(|it| it.members.clone());
        for member in members.into_iter().flatten() {
            topic.iter().for_each(|topic| member.missed(topic));
        }
        Ok(true)
    }

    /// Counts one less, and says whose turn to wait for if that was the last.
    fn discount(&self, interest: &Interest) -> Option<Row> {
        let mut wanted = self.wanted();
        let counted = wanted.entry(interest);
        counted.sessions = counted.sessions.saturating_sub(1);
        (counted.sessions == 0).then(|| counted.row.clone())
    }

    /// The row that stands for all sessions that want `interest`.
    fn subscription(&self, interest: &Interest) -> Subscription {
        Subscription {
            url: self.url.clone(),
            interest: interest.clone(),
            recovery: Some(self.recovery.clone()),
        }
    }

    /// From now on the session is handed what matches.
    pub(crate) fn attach(&self, member: &Arc<Member>, interest: &Interest) {
        self.wanted().entry(interest).members.push(member.clone());
    }

    /// Stops handing what matches `interest` to the session.
    pub(crate) fn detach(&self, member: &Member, interest: &Interest) {
        if let Some(wanted) = self.wanted().get_mut(interest) {
            wanted.members.retain(|one| one.id != member.id);
        }
    }

    /// Counts a session that wants this, as if its row were there.
    #[cfg(test)]
    pub(crate) fn count(&self, interest: &Interest) {
        self.wanted().entry(interest).sessions += 1;
    }

    /// The epoch that lasts now.
    fn epoch(&self) -> MutexGuard<'_, CancellationToken> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The interests of sessions, locked.
    fn wanted(&self) -> MutexGuard<'_, ByInterest> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use crate::hub::queue::ForSession;
    use crate::index::matching_threads::hold_threads;
    use httppubsub_net::body::Payload;
    use httppubsub_proto::glob::GlobPattern;
    use httppubsub_proto::subscription::SubscriptionSet;
    use httppubsub_store::{MemoryStore, Subscriptions as _};

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

    fn hub_on(store: Arc<MemoryStore>) -> Hub {
        Hub::new(store, url("http://b/r"), url("http://b/m"))
    }

    fn hub() -> Hub {
        hub_on(Arc::new(MemoryStore::new()))
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_session_gets_one_copy_however_many_of_its_interests_match() {
        let hub = hub();
        let (one, mut inbox) = hub.member("one".to_owned(), 8_000);
        let (other, mut others) = hub.member("other".to_owned(), 8_000);
        for interest in [exact("ab"), glob("a*"), glob("*b")] {
            hub.attach(&one, &interest);
        }
        hub.attach(&other, &glob("a?"));
        assert_eq!(hub.deliver(&message("ab"), soon()).await, 2);
        assert!(inbox.try_recv().is_some() && others.try_recv().is_some());
        assert!(inbox.try_recv().is_none() && others.try_recv().is_none());
        hub.detach(&one, &exact("ab"));
        assert_eq!(hub.deliver(&message("a"), soon()).await, 1);
        assert_eq!(hub.deliver(&message("c"), soon()).await, 0);
    }

    #[tokio::test]
    async fn glob_websockets_globs_that_take_long_are_matched_beside_the_runtime() {
        let hub = hub();
        let (one, mut inbox) = hub.member("one".to_owned(), 8_000_000);
        let costly = glob(&format!("{}*x", "*a".repeat(60)));
        hub.attach(&one, &costly);
        hub.attach(&one, &exact("short"));
        let topic = Topic::new(format!("{}x", "a".repeat(20_000))).unwrap();
        let message = Arc::new(Message::new(topic.clone(), Payload::from_bytes("body")));
        let held = hold_threads().await;
        {
            let mut delivering = Box::pin(hub.deliver(&message, soon()));
            tokio::select! {
                biased;
                handed = &mut delivering => panic!("{handed} at once"),
                () = std::future::ready(()) => {}
            }
            // No lock is held meanwhile, and others are served.
            assert_eq!(hub.deliver(&self::message("short"), soon()).await, 1);
            drop(held);
            assert_eq!(delivering.await, 1);
        }
        assert!(inbox.try_recv().is_some() && inbox.try_recv().is_some());
        hub.detach(&one, &costly);
        assert_eq!(hub.deliver(&message, soon()).await, 0);
        assert!(!hub.wants(&topic).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_room_and_who_has_none_in_time_is_told() {
        let hub = hub();
        let (slow, mut slows) = hub.member("slow".to_owned(), 600);
        let (quick, mut quicks) = hub.member("quick".to_owned(), 600);
        hub.attach(&slow, &exact("t"));
        hub.attach(&quick, &exact("t"));
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
                matches!(next, crate::hub::queue::ForSession::Message(_)),
                is_message
            );
        }
        assert!(!slow.cut_off.is_cancelled());
        drop(slows);
        assert_eq!(hub.deliver(&message("t"), soon()).await, 1);
    }

    /// It takes a message every nine seconds and keeps its queue full: never deaf, and never done.
    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_behind_is_waited_for_once_and_again_when_it_has_caught_up() {
        let hub = hub();
        let (slow, mut slows) = hub.member("slow".to_owned(), 600);
        hub.attach(&slow, &exact("t"));
        for _ in 0..2 {
            assert_eq!(hub.deliver(&message("t"), soon()).await, 1);
        }
        let wait = async |handed| {
            let began = Instant::now();
            assert_eq!(hub.deliver(&message("t"), soon()).await, handed);
            began.elapsed().as_secs()
        };
        assert_eq!(wait(0).await, 60, "it may be slow for once");
        for _ in 0..10 {
            assert_eq!(wait(0).await, 0, "nobody waits for it again");
            while !matches!(slows.try_recv(), Some(ForSession::Message(_))) {}
            assert_eq!(wait(1).await, 0, "what there is room for it gets");
        }
        while slows.try_recv().is_some() {}
        assert_eq!(wait(1).await, 0);
        assert_eq!(wait(1).await, 0);
        assert_eq!(wait(0).await, 60, "it has caught up, and is waited for");
        assert!(!slow.cut_off.is_cancelled());
    }

    #[tokio::test]
    async fn sessions_that_begin_anew_make_new_rows_and_those_of_before_get_nothing() {
        let store = Arc::new(MemoryStore::new());
        let hub = hub_on(store.clone());
        let etag = || store.etag(url("http://b/r"));
        let no_row = etag().await.unwrap();
        let (old, mut olds) = hub.member("old".to_owned(), 8_000);
        hub.acquire_row(&exact("t")).await.unwrap();
        hub.attach(&old, &exact("t"));
        let one_row = etag().await.unwrap();
        // The others have forgotten this broadcaster, and its rows.
        let nothing = SubscriptionSet::default();
        store.set(url("http://b/r"), nothing).await.unwrap();
        hub.begin_anew().await;
        assert!(old.epoch.is_cancelled());
        let (new, mut news) = hub.member("new".to_owned(), 8_000);
        hub.acquire_row(&exact("t")).await.unwrap();
        hub.attach(&new, &exact("t"));
        assert_eq!(etag().await.unwrap(), one_row);
        assert_eq!(hub.deliver(&message("t"), soon()).await, 1);
        assert!(news.try_recv().is_some() && olds.try_recv().is_none());
        // The old session still counts.
        hub.release_row(&exact("t")).await.unwrap();
        assert_eq!(etag().await.unwrap(), one_row);
        hub.release_row(&exact("t")).await.unwrap();
        assert_eq!(etag().await.unwrap(), no_row);
        assert!(!new.epoch.is_cancelled());
    }

    #[tokio::test]
    async fn a_row_that_the_store_lost_is_made_again_and_its_sessions_are_told() {
        let store = Arc::new(MemoryStore::new());
        let hub = hub_on(store.clone());
        let (_one, mut inbox) = hub.member("one".to_owned(), 8_000);
        hub.acquire_row(&exact("t")).await.unwrap();
        hub.attach(&_one, &exact("t"));
        assert!(!hub.mend(&exact("t")).await.unwrap(), "it is there");
        let nothing = SubscriptionSet::default();
        store.set(url("http://b/r"), nothing).await.unwrap();
        assert!(hub.mend(&exact("t")).await.unwrap());
        let told = inbox.try_recv().unwrap();
        assert!(matches!(told, ForSession::Missed(topic) if topic == Topic::new("t").unwrap()));
        assert!(!hub.mend(&exact("other")).await.unwrap(), "nobody wants it");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_row_is_there_while_any_session_wants_it_and_gone_after_the_last() {
        let store = Arc::new(MemoryStore::new());
        let hub = Arc::new(hub_on(store.clone()));
        let empty = store.etag(hub.url().clone()).await.unwrap();
        let one_row = [(exact("t"), Some(hub.recovery().clone()))];
        let one_row = SubscriptionSet::from_iter(one_row).etag(hub.url());
        for _ in 0..50 {
            let sessions = (0..8).map(|_| {
                let (hub, store, one_row) = (hub.clone(), store.clone(), one_row);
                tokio::spawn(async move {
                    for _ in 0..5 {
                        let interest = exact("t");
                        hub.acquire_row(&interest).await.unwrap();
                        assert!(hub.wants(&Topic::new("t").unwrap()).await);
                        // The removal of unwanted rows leaves it alone.
                        hub.remove_unwanted().await.unwrap();
                        tokio::task::yield_now().await;
                        assert_eq!(store.etag(hub.url().clone()).await.unwrap(), one_row);
                        hub.release_row(&interest).await.unwrap();
                        hub.remove_unwanted().await.unwrap();
                        hub.remove_stale(&interest).await.unwrap();
                    }
                })
            });
            for session in sessions.collect::<Vec<_>>() {
                session.await.unwrap();
            }
            assert_eq!(store.etag(hub.url().clone()).await.unwrap(), empty);
            assert!(!hub.wants(&Topic::new("t").unwrap()).await);
            assert!(hub.wanted_rows().is_empty() && hub.wanted().all().count() == 0);
        }
    }
}
