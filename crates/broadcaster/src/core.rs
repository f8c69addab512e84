//! What every use case of a broadcaster works with.

use std::sync::Arc;

use httppubsub_net::{Clock, Places, Poster, ReplayGuard, ServeCounts, Spool, SteadyClock, Zstd};
use httppubsub_proto::auth::Authorization;
use httppubsub_proto::session::BroadcasterConfig;
use httppubsub_proto::url::SubscriberUrl;
use httppubsub_store::Store;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::busy_poll::BusyPoll;
use crate::config::{Config, Preset};
use crate::forbidden::ForbiddenPeers;
use crate::globs::GlobLimits;
use crate::heartbeat::Heartbeat;
use crate::hub::Hub;
use crate::in_flight::InFlight;
use crate::index::Index;
use crate::load::Load;
use crate::others::Others;
use crate::quarantine::Quarantine;
use crate::refusals::Refusals;
use crate::spending::Spenders;
use crate::training::SampleRoom;

/// The parts of a running broadcaster.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) index: Arc<Index>,
    pub(crate) glob_limits: GlobLimits,
    pub(crate) hub: Hub,
    pub(crate) in_flight: InFlight,
    pub(crate) others: Others,
    pub(crate) load: Load,
    pub(crate) busy_poll: BusyPoll,
    /// There is none unless it is asked for.
    pub(crate) quarantine: Option<Quarantine>,
    /// How many of the runtime a large fan-out may keep busy.
    pub(crate) threads: usize,
    /// What all websocket sessions have in common.
    pub(crate) session: Arc<BroadcasterConfig>,
    /// Compressor 1.
    pub(crate) zstd: Zstd,
    pub(crate) presets: Vec<(Preset, Zstd)>,
    pub(crate) sample_room: Arc<SampleRoom>,
    /// Places for websocket sessions.
    pub(crate) sessions: Arc<Semaphore>,
    /// Places for those of them that have not shown who they are.
    pub(crate) unauthenticated: Places,
    /// What its own server counts.
    pub(crate) serve: ServeCounts,
    /// What is refused, and told to the log once a second.
    pub(crate) refusals: Refusals,
    /// Where this broadcaster is subscribed on behalf of its sessions.
    pub(crate) receiver_url: SubscriberUrl,
    pub(crate) missed_url: SubscriberUrl,
    pub(crate) poster: Poster,
    pub(crate) forbidden: ForbiddenPeers,
    pub(crate) spool: Spool,
    pub(crate) guard: ReplayGuard,
    pub(crate) spenders: Spenders,
    pub(crate) to_broadcaster: Arc<dyn Authorization>,
    pub(crate) to_subscriber: Arc<dyn Authorization>,
    pub(crate) clock: Clock,
    /// For what is due some time from now.
    pub(crate) steady: SteadyClock,
    /// Everything that runs on behalf of this broadcaster.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when no further requests are wished for, though they are still served.
    pub(crate) withdrawn: CancellationToken,
    /// Cancelled when the broadcaster is to stop.
    pub(crate) shutdown: CancellationToken,
    /// Woken when a notice was recorded that may be due before those known so far.
    pub(crate) missed_recorded: Notify,
    /// When the sweep for notices last came around.
    pub(crate) swept: Heartbeat,
}
