//! Resolves names with few threads of its own, so that names that no server answers for hold up
//! nothing but themselves.

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
/// domains count. It may take its time, and cannot be stopped: so there are few look-ups at once, one
/// for each name, and nobody waits for one longer than 5 s. A name that could not be resolved is not
/// asked for again for as long as that took, 1 s at least and 30 s at most.
pub async fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(vec![SocketAddr::new(address, 0)]),
        Err(_) => Ok(NAMES.resolve(host).await?.to_vec()),
    }
}

/// Look-ups of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookUps {
    /// How many have a thread.
    pub under_way: usize,
    /// How many names wait for one.
    pub waiting: usize,
}

/// The look-ups of this process at this moment.
pub fn look_ups() -> LookUps {
    let state = NAMES.state();
    let lanes = [&state.good, &state.unknown];
    LookUps {
        under_way: lanes.iter().map(|lane| lane.threads).sum(),
        waiting: lanes.iter().map(|lane| lane.waiting.len()).sum(),
    }
}

static NAMES: LazyLock<Names> =
    LazyLock::new(|| Names::new(|host| Ok((host, 0).to_socket_addrs()?.collect())));

/// Longest wait for a look-up.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how long a failure is remembered: as long as it took to find out, within these bounds.
const FAILURE_MEMORY_MIN: Duration = Duration::from_secs(1);
const FAILURE_MEMORY_MAX: Duration = Duration::from_secs(30);

/// Look-ups under way at once of names of each kind, each in a thread.
const THREADS_PER_KIND: usize = 32;

/// Names that wait for a thread; one more fails at once.
const WAITING_MAX: usize = 10_000;

/// For how long it is remembered that a name was resolved.
const GOOD_MEMORY: Duration = Duration::from_secs(3_600);

/// Why a name is not resolved.
#[derive(Clone, Debug, thiserror::Error)]
enum Unresolved {
    #[error("{message}")]
    Failed {
        kind: io::ErrorKind,
        message: Arc<str>,
    },
    #[error("the name was not resolved within {} s", PATIENCE.as_secs())]
    TooLate,
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

type Answer = Result<Arc<[SocketAddr]>, Unresolved>;

/// What names resolve to. Clones are the same.
#[derive(Clone)]
pub(crate) struct Names(Arc<Inner>);

type LookUp = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

struct Inner {
    look_up: Box<LookUp>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    names: HashMap<Arc<str>, Name>,
    /// When this many are known, those that are of no use are forgotten.
    forget_at: usize,
    good: Lane,
    unknown: Lane,
}

/// Names that were resolved the last time have threads that others do not take from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    Unknown,
}

#[derive(Default)]
struct Lane {
    threads: usize,
    waiting: VecDeque<Arc<str>>,
}

enum Name {
    Asked {
        since: Instant,
        answer: watch::Sender<Option<Answer>>,
    },
    Known {
        answer: Answer,
        /// Until then it is not asked for again.
        until: Instant,
    },
}

impl State {
    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Good => &mut self.good,
            Kind::Unknown => &mut self.unknown,
        }
    }

    fn forget_some(&mut self, now: Instant) {
        if self.names.len() < self.forget_at {
            return;
        }
        self.names.retain(|_, name| match name {
            Name::Asked { .. } => true,
            Name::Known { answer, until } => {
                let memory = match answer {
                    Ok(_) => GOOD_MEMORY,
                    Err(_) => Duration::ZERO,
                };
                now < *until + memory
            }
        });
        self.forget_at = (self.names.len() * 2).max(1_024);
    }
}

impl Names {
    /// What `look_up` says, which may block.
    pub(crate) fn new(
        look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            look_up: Box::new(look_up),
            state: Mutex::default(),
        }))
    }

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

    /// The look-up of `host` that is under way from now on, or since when it is, and where its answer
    /// comes.
    fn ask(
        &self,
        host: &str,
        now: Instant,
    ) -> Result<(Instant, watch::Receiver<Option<Answer>>), Unresolved> {
        let mut state = self.state();
        let kind = match state.names.get(host) {
            Some(Name::Asked { since, answer }) => return Ok((*since, answer.subscribe())),
            Some(Name::Known { answer, until }) if now < *until => {
                return answer.clone().map(|known| {
                    let (_, answer) = watch::channel(Some(Ok(known)));
                    (now, answer)
                });
            }
            Some(Name::Known { answer: Ok(_), .. }) => Kind::Good,
            Some(Name::Known { answer: Err(_), .. }) | None => Kind::Unknown,
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
        let (sender, answer) = watch::channel(None);
        let asked = Name::Asked {
            since: now,
            answer: sender,
        };
        state.names.insert(host.clone(), asked);
        drop(state);
        if has_thread {
            let (names, own) = (self.clone(), host.clone());
            let thread = std::thread::Builder::new().name("look-up".to_owned());
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

    /// Looks up `host`, and then those that wait for a thread.
    fn look_up(&self, mut host: Arc<str>, kind: Kind) {
        loop {
            let began = Instant::now();
            let found = (self.0.look_up)(&host);
            let now = Instant::now();
            let took = now.saturating_duration_since(began);
            let (answer, memory): (Answer, _) = match found {
                // Those that did not wait for it any longer have it when they come again.
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

    /// Hands the answer to those that wait for it; returns which name the thread is to look up next,
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
        if next.is_none() {
            lane.threads -= 1;
        }
        next
    }

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
    }

    /// Asks for it without waiting for it.
    fn ask(names: &Names, host: &str) -> watch::Receiver<Option<Answer>> {
        names.ask(host, Instant::now()).unwrap().1
    }

    #[tokio::test]
    async fn dead_names_hold_up_no_other_and_are_asked_for_once() {
        let (world, names) = World::names();
        let dead: Vec<_> = (0..540)
            .map(|it| ask(&names, &format!("dead{}", it % 9)))
            .collect();
        assert_eq!(*names.resolve("good").await.unwrap(), [SOMEWHERE]);
        world.open();
        for mut answer in dead {
            let answer = answer.wait_for(Option::is_some).await.unwrap().clone();
            assert!(answer.unwrap().is_err());
        }
        assert_eq!(world.asked.load(Ordering::SeqCst), 10);
        // It is remembered for a while that they failed.
        assert!(names.resolve("dead0").await.is_err());
        let later = Instant::now() + FAILURE_MEMORY_MAX;
        let (_, mut answer) = names.ask("dead0", later).unwrap();
        answer.wait_for(Option::is_some).await.unwrap();
        assert_eq!(world.asked.load(Ordering::SeqCst), 11);
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
