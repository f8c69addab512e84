//! A broadcaster, from start to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use httppubsub_net::{
    Places, Poster, ReplayGuard, ReplayGuardError, ServeConfig, ServeCounts, Spool, SteadyClock,
    Zstd,
};
use httppubsub_proto::session::BroadcasterConfig;
use httppubsub_proto::url::{SubscriberUrl, UrlTooLong};
use httppubsub_store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::busy_poll::BusyPoll;
use crate::cluster::{self, JoinError};
use crate::config::{Authorizations, Config, Preset};
use crate::core::Core;
use crate::forbidden::ForbiddenPeers;
use crate::globs::GlobLimits;
use crate::heartbeat::Heartbeat;
use crate::hub::Hub;
use crate::in_flight::InFlight;
use crate::index::{Index, IndexLimits};
use crate::load::Load;
use crate::measures::{self, Levels};
use crate::others::Others;
use crate::quarantine::Quarantine;
use crate::readiness;
use crate::refusals::Refusals;
use crate::session::PLAIN_LEVEL;
use crate::spending::Spenders;
use crate::training::SampleRoom;
use crate::{http, missed, own_rows, unfinished};

/// A running broadcaster. Clones are the same one.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use httppubsub_broadcaster::{Authorizations, Broadcaster, Config};
/// use httppubsub_proto::auth::Secrets;
/// use httppubsub_store::SqliteStore;
///
/// let secrets = Secrets::parse(&std::fs::read_to_string("broadcaster-secrets.json")?)?;
/// let store = Arc::new(SqliteStore::open("subscriptions.db").await?);
/// let broadcaster =
///     Broadcaster::start(Config::default(), store, Authorizations::from(&secrets)).await?;
/// let app = axum::Router::new().nest("/pubsub", broadcaster.router());
/// # let _: axum::Router = app;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Broadcaster {
    pub(crate) core: Arc<Core>,
}

/// Why a broadcaster does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its subscriptions cannot be read.
    #[error("cannot load the subscriptions: {0}")]
    Store(StoreError),
    /// Used authorizations cannot be remembered.
    #[error("cannot open the replay guard: {0}")]
    ReplayGuard(ReplayGuardError),
    /// The identity of this broadcaster cannot be read or kept.
    #[error("cannot keep an identity in {}: {source}", folder.display())]
    Identity {
        /// Where.
        folder: PathBuf,
        /// Why not.
        r#source: std::io::Error,
    },
    /// Another broadcaster that lives has the url of this one.
    #[error("another broadcaster on this database lives at {url}: give each its own (--advertise)")]
    UrlTaken {
        /// Which.
        url: String,
    },
    /// The folder of temporary files cannot be used.
    #[error("cannot use the folder of temporary files {}: {source}", folder.display())]
    Spool {
        /// Which.
        folder: PathBuf,
        /// Why not.
        r#source: std::io::Error,
    },
    /// A url of its own cannot be subscribed.
    #[error("the url at which it receives for its websockets cannot be subscribed: {0}")]
    Url(UrlTooLong),
}

impl From<StoreError> for StartError {
    fn from(cause: StoreError) -> Self {
        Self::Store(cause)
    }
}

impl From<ReplayGuardError> for StartError {
    fn from(cause: ReplayGuardError) -> Self {
        Self::ReplayGuard(cause)
    }
}

impl From<UrlTooLong> for StartError {
    fn from(cause: UrlTooLong) -> Self {
        Self::Url(cause)
    }
}

impl Broadcaster {
    /// Loads the subscriptions of `store` and begins to send the notices that are owed. Must be
    /// called inside a tokio runtime.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        authorizations: Authorizations,
    ) -> Result<Self, StartError> {
        let config = config.bounded();
        measures::describe();
        let now = config.clock.now();
        let guard = match &config.replay_folder {
            Some(folder) => ReplayGuard::open(folder, config.replay_codes_max, now)?,
            None => ReplayGuard::in_memory(config.replay_codes_max),
        };
        // Behind the guard, which sees to it that nobody else uses the folder.
        let identity = match &config.replay_folder {
            Some(folder) => httppubsub_net::identity(folder).map_err(|source| {
                let folder = folder.clone();
                StartError::Identity { folder, source }
            })?,
            None => httppubsub_net::random_bytes(),
        };
        let spool = Spool::new(config.spool.clone());
        if let Err(source) = spool.check_folder().await {
            let folder = config.spool.folder.clone();
            return Err(StartError::Spool { folder, source });
        }
        let poster = Poster::new(config.post.clone());
        let limits = IndexLimits {
            globs: GlobLimits {
                bytes_max: config.glob_bytes_max,
            },
            receiver: SubscriberUrl::new(config.receiver_url.as_str())?,
        };
        let glob_limits = limits.globs;
        let index = Arc::new(Index::new(poster.clone(), limits));
        store.watch(index.clone()).await?;
        tracing::info!(subscriptions = index.len(), "loaded the subscriptions");
        let websockets = &config.websockets;
        let session = BroadcasterConfig {
            headers: websockets.headers,
            stream_counters: websockets.stream_counters,
            message_bytes_max: websockets.outgoing_message_bytes_max,
            unacknowledged_max: websockets.unacknowledged_max,
            configure_timeout: websockets.configure_timeout,
            ..BroadcasterConfig::new(
                authorizations.to_broadcaster.clone(),
                authorizations.to_subscriber.clone(),
            )
        };
        let prepare = |preset: &Preset| {
            let dictionary = preset.dictionary.clone();
            let zstd = Zstd::with_dictionary(dictionary, preset.level.into());
            (preset.clone(), zstd)
        };
        let semaphore =
            |places: usize| Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        let core = Arc::new(Core {
            store,
            index,
            glob_limits,
            hub: Hub::default(),
            in_flight: InFlight::default(),
            others: Others::new(identity),
            load: Load::new(config.load),
            busy_poll: BusyPoll::new(config.busy_poll),
            quarantine: config.quarantine.map(Quarantine::new),
            threads: Handle::current().metrics().num_workers(),
            session: Arc::new(session),
            zstd: Zstd::new(PLAIN_LEVEL.into()),
            presets: websockets.presets.iter().map(prepare).collect(),
            sample_room: SampleRoom::new(websockets.samples_bytes_max),
            sessions: semaphore(websockets.sessions_max),
            // They take places of sessions, and must not take all.
            unauthenticated: Places::new(
                websockets
                    .unauthenticated_max
                    .min(websockets.sessions_max.div_ceil(4)),
            ),
            serve: ServeCounts::default(),
            refusals: Refusals::default(),
            receiver_url: SubscriberUrl::new(config.receiver_url.as_str())?,
            missed_url: SubscriberUrl::new(config.missed_url.as_str())?,
            poster,
            forbidden: ForbiddenPeers::default(),
            spool,
            guard,
            spenders: Spenders::default(),
            to_broadcaster: authorizations.to_broadcaster,
            to_subscriber: authorizations.to_subscriber,
            steady: SteadyClock::new(config.clock.clone()),
            clock: config.clock.clone(),
            tasks: TaskTracker::new(),
            withdrawn: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            missed_recorded: tokio::sync::Notify::new(),
            swept: Heartbeat::new(),
            config,
        });
        match cluster::join(&core).await {
            Ok(()) => {}
            Err(JoinError::Store(error)) => return Err(error.into()),
            Err(JoinError::Taken) => {
                let url = core.receiver_url.to_string();
                return Err(StartError::UrlTaken { url });
            }
        }
        unfinished::recover(&core).await?;
        core.tasks.spawn(cluster::stay(core.clone()));
        core.tasks.spawn(unfinished::look_after(core.clone()));
        core.tasks.spawn(own_rows::look_after(core.clone()));
        core.tasks.spawn(missed::sweep(core.clone()));
        core.tasks.spawn(readiness::probe(core.clone()));
        core.tasks.spawn({
            let core = core.clone();
            async move {
                let watching = core.load.watch();
                core.shutdown.run_until_cancelled(watching).await;
            }
        });
        if !core.config.busy_poll.is_zero() {
            let core = core.clone();
            core.tasks.clone().spawn(async move {
                let polling = core.busy_poll.run();
                core.shutdown.run_until_cancelled(polling).await;
            });
        }
        Ok(Self { core })
    }

    /// Every endpoint, to be mounted at the root of an app or under a prefix.
    pub fn router(&self) -> Router {
        http::router(self.core.clone())
    }

    /// Serves all endpoints to whoever connects to `listener`, until [`Broadcaster::shut_down`] is
    /// called and the requests under way are answered, or the grace period is over.
    pub async fn serve(&self, listener: TcpListener, mut config: ServeConfig) {
        config.counts = self.core.serve.clone();
        let service = hyper_util::service::TowerToHyperService::new(self.router());
        let shutdown = self.core.shutdown.clone();
        let cut_off = httppubsub_net::serve(listener, service, config, shutdown).await;
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "the grace period ended before all was answered"
            );
        }
    }

    /// Sets the gauges among its metrics to what they are now. What it counts and measures goes to
    /// the recorder of the crate `metrics`, if there is one; call this before its metrics are read.
    pub fn measure(&self) {
        let core = &self.core;
        let sessions_max = core.config.websockets.sessions_max;
        let sessions_free = core.sessions.available_permits();
        let levels = Levels {
            subscriptions: core.index.len(),
            websockets: sessions_max.saturating_sub(sessions_free),
            deliveries: core.load.deliveries(),
            requests: core.poster.load(),
            look_ups: httppubsub_net::look_ups(),
            spool_memory: core.spool.memory_used(),
            spool_disk: core.spool.disk_used(),
            broadcasters: core.others.alive(),
            serve: &core.serve,
            unauthenticated: &core.unauthenticated,
        };
        levels.record();
        readiness::measure(core);
    }

    /// Says at `/readyz` that no further requests are wished for, and goes on to serve them: for
    /// load balancers that need time to notice.
    pub fn withdraw(&self) {
        self.core.withdrawn.cancel();
    }

    /// Begins to stop: no longer ready, no further connections.
    pub fn shut_down(&self) {
        self.core.withdrawn.cancel();
        self.core.shutdown.cancel();
    }

    /// Waits at most `grace` until nothing runs on behalf of this broadcaster any more, and says
    /// whether that is so. Call [`Broadcaster::shut_down`] before.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.core.tasks.close();
        let finished = async {
            self.core.tasks.wait().await;
            if let Err(error) = unfinished::end(&self.core).await {
                // Some are told in vain that they may have missed something.
                tracing::warn!(%error, "cannot write down that nothing is in flight");
            }
            if let Err(error) = cluster::leave(&self.core).await {
                // They find out.
                tracing::warn!(%error, "cannot tell other broadcasters that this one stops");
            }
        };
        tokio::time::timeout(grace, finished).await.is_ok()
    }
}
