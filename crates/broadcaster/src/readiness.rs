//! Whether requests should be sent here: kept as state by what fails, so that the answer costs nothing.

use std::sync::Arc;
use std::time::Duration;

use crate::core::Core;
use crate::measures;

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

    /// What speaks against readiness; `None` if this does not. Answers from memory.
    fn found(self, core: &Core) -> Option<String> {
        match self {
            Self::Draining => {
                let is_draining = core.withdrawn.is_cancelled();
                is_draining.then(|| "the broadcaster is shutting down".to_owned())
            }
            Self::Database => core.store.trouble().or_else(|| core.others.displaced()),
            Self::ReplayGuard => core.guard.trouble(),
            Self::Spool => core.spool.trouble(),
            Self::Notices => {
                let silent_for = core.swept.silent_for();
                // A look at a slow store may take as long as its time-outs.
                let allowed = 3 * core.config.sweep_interval + Duration::from_secs(30);
                let seconds = silent_for.as_secs();
                (silent_for > allowed).then(|| format!("no notice was looked for in {seconds} s"))
            }
        }
    }
}

/// All reasons that hold now, a line each; empty if requests should be sent here.
pub(crate) fn reasons(core: &Core) -> String {
    let found = Reason::ALL.iter().filter_map(|reason| {
        let why = reason.found(core)?;
        Some(format!("{}: {why}\n", reason.name()))
    });
    found.collect()
}

/// Sets the gauge of every reason.
pub(crate) fn measure(core: &Core) {
    for reason in Reason::ALL {
        measures::not_ready(reason.name(), reason.found(core).is_some());
    }
}

/// How often it is looked whether a trouble is over, and for those that no request would meet.
const BETWEEN_PROBES: Duration = Duration::from_secs(1);

/// Keeps the state true without traffic until the broadcaster stops. Whatever one probe meets, the
/// others and the next ones come.
pub(crate) async fn probe(core: Arc<Core>) {
    let store = repeat(&core, |core| async move { core.store.probe().await });
    let guard = repeat(
        &core,
        |core| async move { core.guard.probe(core.clock.now()) },
    );
    let spool = repeat(&core, |core| async move { core.spool.probe().await });
    tokio::join!(store, guard, spool);
}

async fn repeat<Probing: Future<Output = ()>>(
    core: &Arc<Core>,
    probe: impl Fn(Arc<Core>) -> Probing,
) {
    let probing = async {
        loop {
            tokio::time::sleep(BETWEEN_PROBES).await;
            probe(core.clone()).await;
        }
    };
    core.shutdown.run_until_cancelled(probing).await;
}
