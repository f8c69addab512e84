//! Resolves names with few threads of its own, so that names that no server answers for hold up
//! nothing but themselves.
//!
//! The system's resolver blocks a thread for as long as it likes, up to half a minute for a name
//! whose servers are down. Anybody can subscribe with thousands of such names. So names are put
//! into three lanes by what became of them the last time (resolved, failed, never asked for), each
//! with its own threads: names that fail, however many, delay only each other.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The addresses of `host`, which may be an address itself, in the order in which the system would
/// try them; their ports are 0.
///
/// The system is asked as every program asks it, so that `/etc/hosts`, `nsswitch.conf` and search
/// domains count. It may take its time, and cannot be stopped: so there are few look-ups at once,
/// one for each name, and nobody waits for one longer than 5 s. A name that could not be resolved
/// is not asked for again for as long as that took, 1 s at least and 30 s at most.
pub async fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, 0)]),
        Err(_) => Ok(NAMES.resolve(host).await?.to_vec()),
    }
}

/// Look-ups of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookUps {
    /// Look-ups that have a thread.
    pub under_way: usize,
    /// Names that wait for a thread.
    pub waiting: usize,
}

/// The look-ups of this process at this moment.
pub fn look_ups() -> LookUps {
    let state = NAMES.state();
    let lanes = [&state.good, &state.failed, &state.unknown];
    LookUps {
        under_way: lanes.iter().map(|lane| lane.threads).sum(),
        waiting: lanes.iter().map(|lane| lane.waiting.len()).sum(),
    }
}

/// One for the process, since threads of look-ups are what is scarce.
static NAMES: LazyLock<Names> =
    LazyLock::new(|| Names::new(|host| Ok((host, 0).to_socket_addrs()?.collect())));

/// Longest wait for a look-up. The same as
/// [`PostConfig::connect_timeout`](crate::outbound::PostConfig::connect_timeout) by default: a name
/// that takes longer could not be connected to either.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how long a failure is remembered: as long as it took to find out, within these bounds.
const FAILURE_MEMORY_MIN: Duration = Duration::from_secs(1);
/// As long as the system's resolver takes at most: a name that is repaired is used half a minute
/// later.
const FAILURE_MEMORY_MAX: Duration = Duration::from_secs(30);

/// Look-ups under way at once of names of each kind, each in a thread.
const THREADS_PER_KIND: usize = 32;

/// Names that wait for a thread; one more fails at once.
const WAITING_MAX: usize = 10_000;

/// For how long it is remembered whether a name was resolved, which decides in which lane it waits.
const KIND_MEMORY: Duration = Duration::from_secs(3_600);

/// Bounds of that memory, in names: all names, and of these the ones that failed. At most some
/// 300 bytes a name.
const NAMES_MAX: usize = 65_536;
/// Fewer, as anybody can think of names that do not exist.
const FAILED_MAX: usize = 16_384;

/// Failure to resolve a name.
#[derive(Clone, Debug, thiserror::Error)]
enum Unresolved {
    /// The system said so. Kept as text, because all that wait for the name get the same answer,
    /// and an [`io::Error`] cannot be cloned.
    #[error("{message}")]
    Failed {
        /// As the system had it: callers tell a name that does not exist from a server that is
        /// away.
        kind: io::ErrorKind,
        /// The system's words.
        message: Arc<str>,
    },
    /// The system had not answered yet; its answer counts for the next that asks.
    #[error("the name was not resolved within {} s", PATIENCE.as_secs())]
    TooLate,
    /// The queue of its lane was full ([`WAITING_MAX`]).
    #[error("too many names are being resolved")]
    TooMany,
}

impl From<io::Error> for Unresolved {
    fn from(error: io::Error) -> Self {
        Self::Failed {
            kind: error.kind(),
            message: error.to_string().into(),
        }
    }
}

impl From<Unresolved> for io::Error {
    fn from(error: Unresolved) -> Self {
        let kind = match &error {
            Unresolved::Failed { kind, .. } => *kind,
            Unresolved::TooLate => io::ErrorKind::TimedOut,
            Unresolved::TooMany => io::ErrorKind::ResourceBusy,
        };
        Self::new(kind, error)
    }
}

/// Shared by all that asked: a name with many addresses is not copied for each delivery.
type Answer = Result<Arc<[SocketAddr]>, Unresolved>;

/// A resolver with a short memory. Clones are the same.
#[derive(Clone)]
pub(crate) struct Names(Arc<Inner>);

/// The system's resolver, or one that a test has. It may block.
type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Shared by all clones.
struct Inner {
    /// Called on a thread of the lane, never with the lock held.
    look_up: Box<LookUp>,
    /// Held for a moment only: never while a name is looked up or a thread is started.
    state: Mutex<State>,
}

/// The names of all lanes, and who works on them.
#[derive(Default)]
struct State {
    /// By host as urls spell it, in lower case.
    names: HashMap<Arc<str>, Name>,
    /// Number of known names at which names of no use are forgotten.
    forget_at: usize,
    /// Names that resolved the last time. They are asked for again whenever they are needed: only
    /// the kind is remembered, since the system caches as its owner wants it.
    good: Lane,
    /// Names that failed the last time.
    failed: Lane,
    /// Names never asked for, or forgotten.
    unknown: Lane,
}

/// Kind of a name by its last answer. Each kind has threads that the others do not take: names
/// that no server answers for hold up neither the names that resolve nor the ones never asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It resolved.
    Good,
    /// It did not.
    Failed,
    /// Nobody knows.
    Unknown,
}

/// The share of one kind of names.
#[derive(Default)]
struct Lane {
    /// Threads that look up names of this lane, at most [`THREADS_PER_KIND`]. One ends when nothing
    /// waits.
    threads: usize,
    /// Names without a thread, the oldest first, at most [`WAITING_MAX`].
    waiting: VecDeque<Arc<str>>,
}

/// The state of a name.
enum Name {
    /// It has a thread, or waits for one.
    Asked {
        /// When it was asked for first: patience counts from there, for all that wait.
        since: Instant,
        /// All that wait for the answer look at this one.
        answer: watch::Sender<Option<Answer>>,
    },
    /// It was answered, well or not.
    Known {
        /// The last answer, kept for its kind even when it is too old to be used.
        answer: Answer,
        /// Until then it is not asked for again.
        until: Instant,
    },
}

impl State {
    /// The threads and the queue of names of this kind.
    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Good => &mut self.good,
            Kind::Failed => &mut self.failed,
            Kind::Unknown => &mut self.unknown,
        }
    }

    /// Forgets names if there are many: first the old ones, then failed ones, then all that may be
    /// asked for again anyway. Names that are being looked up stay.
    fn forget_some(&mut self, now: Instant) {
        if self.names.len() < self.forget_at {
            return;
        }
        self.keep_known(|_, until| now < until + KIND_MEMORY);
        let is_failed = |name: &&Name| matches!(name, Name::Known { answer: Err(_), .. });
        if self.names.values().filter(is_failed).count() > FAILED_MAX {
            self.keep_known(|answer, until| answer.is_ok() || now < until);
        }
        if self.names.len() >= NAMES_MAX {
            self.keep_known(|_, until| now < until);
        }
        // Far enough that a look at all names is rare, whatever they are.
        let more = self.names.len().clamp(1_024, NAMES_MAX / 4);
        let known = self.names.len();
        self.forget_at = (known + more).min(NAMES_MAX.max(known + 1_024));
    }

    /// Forgets the known names for which `keeps` is `false`.
    fn keep_known(&mut self, keeps: impl Fn(&Answer, Instant) -> bool) {
        self.names.retain(|_, name| match name {
            Name::Asked { .. } => true,
            Name::Known { answer, until } => keeps(answer, *until),
        });
    }
}

impl Names {
    /// A resolver that asks `look_up`, which may block.
    pub(crate) fn new(
        look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            look_up: Box::new(look_up),
            state: Mutex::default(),
        }))
    }

    /// Asks for `host` and waits, from when the look-up was begun by anybody, at most [`PATIENCE`].
    async fn resolve(&self, host: &str) -> Answer {
        let now = Instant::now();
        let (since, mut answer) = self.ask(host, now)?;
        let patience = (since + PATIENCE).saturating_duration_since(now);
        let answered = answer.wait_for(Option::is_some);
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Err(Unresolved::TooLate)),
            // Its thread is gone, or it was not looked at in time.
            Ok(Err(_)) | Err(_) => Err(Unresolved::TooLate),
        }
    }

    /// The look-up of `host` that is under way from now on, or since when it is, and where its
    /// answer comes.
    fn ask(
        &self,
        host: &str,
        now: Instant,
    ) -> Result<(Instant, watch::Receiver<Option<Answer>>), Unresolved> {
        let mut state = self.state();
        let kind = match state.names.get(host) {
            // One look-up for all that ask, however many deliveries go there.
            Some(Name::Asked { since, answer }) => return Ok((*since, answer.subscribe())),
            Some(Name::Known { answer, until }) if now < *until => {
                return answer.clone().map(|known| {
                    let (_, answer) = watch::channel(Some(Ok(known)));
                    (now, answer)
                });
            }
            Some(Name::Known { answer: Ok(_), .. }) => Kind::Good,
            Some(Name::Known { answer: Err(_), .. }) => Kind::Failed,
            None => Kind::Unknown,
        };
        state.forget_some(now);
        let host: Arc<str> = host.into();
        let lane = state.lane(kind);
        let has_thread = lane.threads < THREADS_PER_KIND;
        if has_thread {
            lane.threads += 1;
        } else if lane.waiting.len() < WAITING_MAX {
            lane.waiting.push_back(host.clone());
        } else {
            return Err(Unresolved::TooMany);
        }
        // Noted before the thread begins, since the thread looks up who waits.
        let (sender, answer) = watch::channel(None);
        let asked = Name::Asked {
            since: now,
            answer: sender,
        };
        state.names.insert(host.clone(), asked);
        // To start a thread may take long, and all others would wait for the lock.
        drop(state);
        if has_thread {
            let (names, own) = (self.clone(), host.clone());
            let thread = std::thread::Builder::new().name("look-up".to_owned());
            // Without a thread nobody would come for the names that wait in this lane, either: all
            // of them fail.
            if let Err(error) = thread.spawn(move || names.look_up(own, kind)) {
                let failed = Unresolved::from(error);
                let mut unanswered = Some(host);
                while let Some(host) = unanswered {
                    let answer = Err(failed.clone());
                    unanswered = self.answered(host, kind, answer, now, FAILURE_MEMORY_MIN);
                }
            }
        }
        Ok((now, answer))
    }

    /// Looks up `host`, and then the names that wait for a thread.
    fn look_up(&self, mut host: Arc<str>, kind: Kind) {
        loop {
            let began = Instant::now();
            let found = (self.0.look_up)(&host);
            let now = Instant::now();
            let took = now.saturating_duration_since(began);
            let (answer, memory): (Answer, _) = match found {
                // A caller that gave up has it when it comes again.
                Ok(addresses) if took >= PATIENCE => (Ok(addresses.into()), PATIENCE),
                Ok(addresses) => (Ok(addresses.into()), Duration::ZERO),
                Err(error) => (
                    Err(error.into()),
                    took.clamp(FAILURE_MEMORY_MIN, FAILURE_MEMORY_MAX),
                ),
            };
            match self.answered(host, kind, answer, now, memory) {
                Some(next) => host = next,
                None => return,
            }
        }
    }

    /// Hands the answer to all that wait for it; returns which name the thread is to look up next,
    /// if there is one.
    fn answered(
        &self,
        host: Arc<str>,
        kind: Kind,
        answer: Answer,
        now: Instant,
        memory: Duration,
    ) -> Option<Arc<str>> {
        let mut state = self.state();
        let known = Name::Known {
            answer: answer.clone(),
            until: now + memory,
        };
        if let Some(Name::Asked { answer: sender, .. }) = state.names.insert(host, known) {
            sender.send_replace(Some(answer));
        }
        let lane = state.lane(kind);
        let next = lane.waiting.pop_front();
        // Under the same lock as the look at the queue: a name that comes now either was seen, or
        // sees that there is room for a thread.
        if next.is_none() {
            lane.threads -= 1;
        }
        next
    }

    /// A thread that panicked with the lock left at most one name without an answer, and callers
    /// give up on their own.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;
    use std::sync::Condvar;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Names that begin with `dead` are not answered for before the gate is opened.
    #[derive(Default)]
    struct World {
        gate: Mutex<bool>,
        opened: Condvar,
        asked: AtomicUsize,
    }

    const SOMEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    impl World {
        fn names() -> (Arc<Self>, Names) {
            let world = Arc::new(Self::default());
            let own = world.clone();
            let names = Names::new(move |host| {
                own.asked.fetch_add(1, Ordering::SeqCst);
                if !host.starts_with("dead") {
                    return Ok(vec![SOMEWHERE]);
                }
                let gate = own.gate.lock().unwrap();
                drop(own.opened.wait_while(gate, |open| !*open).unwrap());
                Err(io::Error::other("nobody answers for it"))
            });
            (world, names)
        }

        fn open(&self) {
            *self.gate.lock().unwrap() = true;
            self.opened.notify_all();
        }

        fn close(&self) {
            *self.gate.lock().unwrap() = false;
        }
    }

    /// Asks for it without waiting for it.
    fn ask(names: &Names, host: &str) -> watch::Receiver<Option<Answer>> {
        names.ask(host, Instant::now()).unwrap().1
    }

    async fn answered(mut answer: watch::Receiver<Option<Answer>>) -> Answer {
        let answer = answer.wait_for(Option::is_some).await.unwrap();
        answer.clone().unwrap()
    }

    #[tokio::test]
    async fn dead_names_hold_up_no_other_and_are_asked_for_once() {
        let (world, names) = World::names();
        let began = Instant::now();
        let dead: Vec<_> = (0..540)
            .map(|it| ask(&names, &format!("dead{}", it % 9)))
            .collect();
        assert_eq!(*answered(ask(&names, "good")).await.unwrap(), [SOMEWHERE]);
        world.open();
        for answer in dead {
            assert!(answered(answer).await.is_err());
        }
        assert_eq!(world.asked.load(Ordering::SeqCst), 10);
        // It is remembered for a while that they failed.
        assert!(names.ask("dead0", began).is_err());
        let later = Instant::now() + FAILURE_MEMORY_MAX;
        let (_, answer) = names.ask("dead0", later).unwrap();
        assert!(answered(answer).await.is_err());
        assert_eq!(world.asked.load(Ordering::SeqCst), 11);
    }

    #[tokio::test]
    async fn dead_names_hold_up_no_name_that_was_never_asked_for() {
        let (world, names) = World::names();
        world.open();
        let hosts: Vec<_> = (0..200).map(|it| format!("dead{it}")).collect();
        for host in &hosts {
            assert!(answered(ask(&names, host)).await.is_err());
        }
        world.close();
        let later = Instant::now() + FAILURE_MEMORY_MAX;
        let again = hosts.iter().map(|host| names.ask(host, later).unwrap().1);
        let again: Vec<_> = again.collect();
        assert_eq!(*answered(ask(&names, "new")).await.unwrap(), [SOMEWHERE]);
        world.open();
        for answer in again {
            assert!(answered(answer).await.is_err());
        }
    }

    #[test]
    fn what_is_known_of_names_is_bounded() {
        let now = Instant::now();
        let known = |answer: Answer, until| Name::Known { answer, until };
        let failed = || Err(Unresolved::TooLate);
        let mut state = State::default();
        for it in 0..FAILED_MAX {
            let host = format!("failed{it}").into();
            state.names.insert(host, known(failed(), now));
        }
        state.forget_some(now);
        assert_eq!(
            state.names.len(),
            FAILED_MAX,
            "it decides who waits with whom"
        );
        for it in 0..NAMES_MAX - FAILED_MAX - 2 {
            let host = format!("good{it}").into();
            state.names.insert(host, known(Ok([].into()), now));
        }
        let recent = now + Duration::from_secs(1);
        state.names.insert("recent".into(), known(failed(), recent));
        state.forget_at = 0;
        state.forget_some(now);
        assert_eq!(
            state.names.len(),
            NAMES_MAX - FAILED_MAX - 1,
            "failures first"
        );
        for it in 0..FAILED_MAX + 1 {
            let host = format!("better{it}").into();
            state.names.insert(host, known(Ok([].into()), now));
        }
        state.forget_at = 0;
        state.forget_some(now);
        assert_eq!(state.names.len(), 1);
        assert!(state.forget_at <= NAMES_MAX);
    }

    #[tokio::test]
    async fn share_of_look_ups_is_kept_for_names_that_were_resolved_before() {
        let (world, names) = World::names();
        names.resolve("good").await.unwrap();
        let dead: Vec<_> = (0..2 * THREADS_PER_KIND)
            .map(|it| ask(&names, &format!("dead{it}")))
            .collect();
        let new = ask(&names, "new");
        assert_eq!(*names.resolve("good").await.unwrap(), [SOMEWHERE]);
        assert!(new.borrow().is_none(), "it waits behind those");
        assert_eq!(
            names.0.state.lock().unwrap().unknown.threads,
            THREADS_PER_KIND
        );
        world.open();
        for mut answer in dead.into_iter().chain([new]) {
            answer.wait_for(Option::is_some).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dead_names_are_waited_for_only_so_long() {
        let (world, names) = World::names();
        let began = tokio::time::Instant::now();
        let error = names.resolve("dead").await.unwrap_err();
        assert!(matches!(error, Unresolved::TooLate), "{error}");
        assert!(began.elapsed() >= PATIENCE - Duration::from_secs(1));
        world.open();
    }

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
        let addresses = resolve("::1").await.unwrap();
        assert_eq!(addresses, [SocketAddr::new("::1".parse().unwrap(), 0)]);
    }
}
