//! Readiness for requests: state kept by what fails, so that the answer costs nothing.
//!
//! The store, the replay guard and the spool remember that they failed, and probes find out when
//! they work again. So `/readyz` may be asked as often as anybody likes, and says what requests
//! would meet, not what a probe of its own does.

use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::Clock;
use httppubsub_net::body::Spool;
use httppubsub_store::Store;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::background::Background;
use crate::cluster::membership::Membership;
use crate::cluster::replay::Replay;
use crate::notices::notices::Notices;
use crate::observe::metrics;

/// Everything that may speak against sending requests here.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// Remembers whether its last use failed.
    pub(crate) store: Arc<dyn Store>,
    /// Another broadcaster may have the url of this one.
    pub(crate) membership: Arc<Membership>,
    /// Remembers whether used authorizations could be written down.
    pub(crate) replay: Arc<Replay>,
    /// Remembers whether a file could be made.
    pub(crate) spool: Spool,
    /// Knows when somebody looked last for notices that are due.
    pub(crate) notices: Arc<Notices>,
    /// Longest time without a look for notices that are due.
    pub(crate) sweep_silence_max: Duration,
    /// The replay guard writes the time of a probe down.
    pub(crate) clock: Clock,
    /// Cancelled when no further requests are wished for, though they are still served.
    pub(crate) withdrawn: CancellationToken,
}

/// A reason why no requests should be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The broadcaster is about to stop.
    Draining,
    /// The store fails, or another has the url of this broadcaster.
    Database,
    /// Used authorizations cannot be written down.
    ReplayGuard,
    /// The folder of temporary files is full or missing.
    Spool,
    /// Nobody looks for notices that are due.
    Notices,
}

impl Reason {
    /// Every reason, in the order of the variants.
    const ALL: [Self; 5] = [
        Self::Draining,
        Self::Database,
        Self::ReplayGuard,
        Self::Spool,
        Self::Notices,
    ];

    /// The value of the label `reason`, and the first word of the line at `/readyz`.
    fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Database => "database",
            Self::ReplayGuard => "replay_guard",
            Self::Spool => "spool",
            Self::Notices => "notices",
        }
    }
}

/// Something that speaks against readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    /// For everybody who asks.
    phrase: &'static str,
    /// For the log: it may name paths, hosts and users.
    why: String,
}

impl Trouble {
    /// A trouble of which the phrase says all.
    fn of(phrase: &'static str) -> Self {
        Self::because(phrase, String::new())
    }

    /// A trouble with a cause for the log.
    fn because(phrase: &'static str, why: String) -> Self {
        Self { phrase, why }
    }
}

/// Pause between two looks for troubles that are over, and for troubles that no request would meet.
/// `/readyz` says no sooner than this that something works again without traffic.
const BETWEEN_PROBES: Duration = Duration::from_secs(1);

impl Readiness {
    /// All reasons that hold now, a line each; empty if requests should be sent here.
    ///
    /// Anybody may ask, so a line is the name of the reason and a fixed phrase: what was met is in
    /// the log.
    pub(crate) fn reasons(&self) -> String {
        let found = Reason::ALL.iter().filter_map(|reason| {
            let Trouble { phrase, .. } = self.trouble(*reason)?;
            Some(format!("{}: {phrase}\n", reason.name()))
        });
        found.collect()
    }

    /// Sets the gauge of every reason.
    pub(crate) fn update_gauges(&self) {
        for reason in Reason::ALL {
            metrics::not_ready(reason.name(), self.trouble(reason).is_some());
        }
    }

    /// Keeps the state true without traffic until the broadcaster stops. Whatever one probe meets,
    /// the others and the next ones come.
    pub(crate) async fn run(self: Arc<Self>, background: Background) {
        // A loop each: one that waits for a slow disk holds up none of the others.
        let store = async {
            loop {
                tokio::time::sleep(BETWEEN_PROBES).await;
                self.store.probe().await;
            }
        };
        let guard = async {
            loop {
                tokio::time::sleep(BETWEEN_PROBES).await;
                self.replay.guard().probe(self.clock.now()).await;
            }
        };
        let spool = async {
            loop {
                tokio::time::sleep(BETWEEN_PROBES).await;
                self.spool.probe().await;
            }
        };
        let telling = async {
            let mut log = TroubleLog::default();
            loop {
                tokio::time::sleep(BETWEEN_PROBES).await;
                self.tell(&mut log);
            }
        };
        let all = futures_util::future::join4(store, guard, spool, telling);
        background.shutdown.run_until_cancelled(all).await;
    }

    /// Writes to the log what begins and ends to speak against readiness.
    fn tell(&self, log: &mut TroubleLog) {
        for reason in Reason::ALL {
            let trouble = self.trouble(reason);
            let name = reason.name();
            match log.news(reason, trouble.as_ref(), Instant::now()) {
                // Who stops the broadcaster knows.
                _ if reason == Reason::Draining => {}
                None => {}
                Some(News::Holds) => {
                    let Trouble { phrase, why } = trouble.expect("there is news of it");
                    tracing::error!(reason = name, why, "not ready: {phrase}");
                }
                Some(News::IsOver) => tracing::info!(reason = name, "ready again"),
            }
        }
    }

    /// The trouble that is `reason`; `None` if there is none. Answers from memory.
    fn trouble(&self, reason: Reason) -> Option<Trouble> {
        match reason {
            Reason::Draining => {
                let is_draining = self.withdrawn.is_cancelled();
                is_draining.then(|| Trouble::of("the broadcaster is shutting down"))
            }
            Reason::Database => {
                let trouble = self.store.trouble();
                let trouble =
                    trouble.map(|why| Trouble::because("the database cannot be used", why));
                trouble.or_else(|| self.membership.displaced().map(Trouble::of))
            }
            Reason::ReplayGuard => self
                .replay
                .guard()
                .trouble()
                .map(|why| Trouble::because("used authorizations cannot be written down", why)),
            Reason::Spool => self
                .spool
                .trouble()
                .map(|why| Trouble::because("the folder of temporary files cannot be used", why)),
            Reason::Notices => {
                let silent_for = self.notices.last_sweep().elapsed();
                let seconds = silent_for.as_secs();
                (silent_for > self.sweep_silence_max).then(|| {
                    let why = format!("the last time was {seconds} s ago");
                    Trouble::because("nobody looks for notices that are due", why)
                })
            }
        }
    }
}

/// The last words about each reason in the log, and their time.
#[derive(Debug, Default)]
struct TroubleLog([Option<(String, Instant)>; Reason::ALL.len()]);

/// A change that is not in the log yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The trouble has begun, or other words are known of it.
    Holds,
    /// The trouble is over.
    IsOver,
}

impl TroubleLog {
    /// The news about `reason`. Words that change while it holds are new once a minute: some
    /// count seconds.
    fn news(&mut self, reason: Reason, trouble: Option<&Trouble>, now: Instant) -> Option<News> {
        let told = &mut self.0[reason as usize];
        match (&*told, trouble) {
            (None, None) => None,
            (Some(_), None) => {
                *told = None;
                Some(News::IsOver)
            }
            (Some((why, at)), Some(trouble))
                if *why == trouble.why || now < *at + BETWEEN_WORDS =>
            {
                None
            }
            (_, Some(trouble)) => {
                *told = Some((trouble.why.clone(), now));
                Some(News::Holds)
            }
        }
    }
}

/// Least pause between two different words about one trouble.
const BETWEEN_WORDS: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_told_when_a_trouble_begins_and_ends_and_of_other_words_once_a_minute() {
        let mut log = TroubleLog::default();
        let (start, reason) = (Instant::now(), Reason::Database);
        let mut news = |why: Option<&str>, seconds| {
            let trouble =
                why.map(|why| Trouble::because("the database cannot be used", why.into()));
            log.news(
                reason,
                trouble.as_ref(),
                start + Duration::from_secs(seconds),
            )
        };
        assert_eq!(news(None, 0), None);
        assert_eq!(news(Some("disk full"), 1), Some(News::Holds));
        assert_eq!(news(Some("disk full"), 2), None);
        assert_eq!(news(Some("locked"), 3), None);
        assert_eq!(news(Some("locked"), 61), Some(News::Holds));
        assert_eq!(news(Some("locked"), 600), None);
        assert_eq!(news(None, 601), Some(News::IsOver));
        assert_eq!(news(None, 602), None);
        assert_eq!(news(Some("locked"), 603), Some(News::Holds));
    }
}
