//! A broadcaster, from start to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::SecretsFileError;
use httppubsub_net::body::Spool;
use httppubsub_net::inbound::{ReplayGuard, ReplayGuardError};
use httppubsub_proto::plain::Tokens;
use httppubsub_proto::url::{SubscriberUrl, UrlTooLong};
use httppubsub_store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::cluster::heartbeat::JoinError;
use crate::composition::{Foundation, Running, compose};
use crate::config::{Authorizations, Config};
use crate::http::{self, Router};
use crate::observe::metrics;

/// A running broadcaster. Clones are the same one.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use httppubsub_broadcaster::Broadcaster;
/// use httppubsub_store::SqliteStore;
/// use tokio::net::TcpListener;
///
/// let store = Arc::new(SqliteStore::open("subscriptions.db").await?);
/// let broadcaster = Broadcaster::builder(store)
///     .secrets_file("broadcaster-secrets.json")
///     .build()
///     .await?;
/// let listener = TcpListener::bind("127.0.0.1:3003").await?;
/// let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
/// broadcaster.serve_until(listener, ctrl_c).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Broadcaster {
    /// All parts that anything outside of them asks for.
    pub(crate) running: Arc<Running>,
}

/// A broadcaster does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Neither secrets nor schemes were set.
    #[error("nothing says who may subscribe and notify: set secrets, or `Secrets::NONE`")]
    NoAuthorization,
    /// The secrets file cannot be used.
    #[error(transparent)]
    SecretsFile(#[from] SecretsFileError),
    /// A preset dictionary that cannot be told from others.
    #[error("a preset dictionary needs an id of its own from 2 on, not {id}")]
    Preset {
        /// As given.
        id: u16,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The cause.
        r#source: std::io::Error,
    },
    /// The subscriptions cannot be read.
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
        /// The cause.
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
        /// The cause.
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

/// Makes `attempt` again while the store cannot be used, for as long as `patience`: the database
/// was there a moment ago, so it has too much to do, or restarts. `what` names the work in the log.
async fn while_unavailable<Attempt>(
    patience: Duration,
    what: &'static str,
    attempt: impl Fn() -> Attempt,
) -> Result<(), StartError>
where
    Attempt: Future<Output = Result<(), StartError>>,
{
    let give_up = Instant::now() + patience;
    loop {
        match attempt().await {
            Err(StartError::Store(error @ StoreError::Unavailable { .. }))
                if Instant::now() < give_up =>
            {
                tracing::warn!(%error, "{what} failed at the start; trying again");
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
            ended => return ended,
        }
    }
}

impl From<ReplayGuardError> for StartError {
    fn from(cause: ReplayGuardError) -> Self {
        Self::ReplayGuard(cause)
    }
}

/// Pause between two attempts of a start; each already waits for the store as long as the store is
/// told to.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

impl From<UrlTooLong> for StartError {
    fn from(cause: UrlTooLong) -> Self {
        Self::Url(cause)
    }
}

impl Broadcaster {
    /// Loads the subscriptions of `store` and begins to send the notices that are owed. Must be
    /// called inside a tokio runtime.
    ///
    /// It has read all subscriptions when it returns, so the first notification finds all of them.
    /// With a store that is shared it may wait for up to a lease (20 s by default) if another
    /// broadcaster has its url.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        authorizations: Authorizations,
    ) -> Result<Self, StartError> {
        let config = config.bounded();
        metrics::describe();
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
            // A restart forgets it, and then nothing says that an earlier life has moved.
            None => httppubsub_net::random_bytes(),
        };
        let spool = Spool::new(config.spool.clone());
        if let Err(source) = spool.check_folder().await {
            let folder = config.spool.folder.clone();
            return Err(StartError::Spool { folder, source });
        }
        let foundation = Foundation {
            store: store.clone(),
            authorizations,
            guard,
            identity,
            spool,
            own_url: SubscriberUrl::new(config.receiver_url.as_str())?,
            missed_url: SubscriberUrl::new(config.missed_url.as_str())?,
        };
        let (running, rounds) = compose(&config, foundation);
        // Returns when everything that is stored has been told to the index.
        let index = &running.gauges.index;
        store.watch(index.clone()).await?;
        tracing::info!(subscriptions = index.len(), "loaded the subscriptions");
        let keeps_identity = config.replay_folder.is_some();
        let join = || async {
            let joined = running.heartbeats.join(keeps_identity).await;
            joined.map_err(|error| match error {
                JoinError::Store(error) => error.into(),
                JoinError::Taken => {
                    let url = running.endpoints.forwarded.url().to_string();
                    StartError::UrlTaken { url }
                }
            })
        };
        let patience = config.start_patience;
        while_unavailable(patience, "joining the other broadcasters", join).await?;
        // Before the first notification is taken, which would be among what an earlier life left.
        let recover = || async { Ok(running.journal.recover().await?) };
        while_unavailable(patience, "reading what is left unfinished", recover).await?;
        // Last: a round touches all parts, and would miss rows that are not loaded.
        rounds.begin(&running.background);
        Ok(Self {
            running: Arc::new(running),
        })
    }

    /// Replaces the tokens of the plain door; requests that were judged already go on.
    ///
    /// ```no_run
    /// # use httppubsub_broadcaster::{Broadcaster, Tokens};
    /// # fn example(broadcaster: &Broadcaster) -> Result<(), Box<dyn std::error::Error>> {
    /// let file = std::fs::read_to_string("httppubsub-data/tokens.json")?;
    /// broadcaster.set_tokens(Tokens::parse(&file)?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_tokens(&self, tokens: Tokens) {
        self.running.endpoints.plain.set_tokens(tokens);
    }

    /// Every endpoint, to be mounted at the root of an app or under a prefix.
    ///
    /// ```no_run
    /// # fn example(broadcaster: httppubsub_broadcaster::Broadcaster) -> axum::Router {
    /// let health = axum::routing::get(|| async { "ok" });
    /// axum::Router::new()
    ///     .route("/health", health)
    ///     .nest("/pubsub", broadcaster.router())
    /// # }
    /// ```
    pub fn router(&self) -> Router {
        http::router(self.running.endpoints.clone())
    }

    /// Serves all endpoints on `listener` until `shutdown` is ready, and then stops in the order in
    /// which nothing is lost: not ready at `/readyz` ([`withdraw`]); after [`Config::drain_delay`],
    /// no further connections ([`shut_down`]); when the requests under way are answered, the end of
    /// all that runs on behalf of this broadcaster ([`finish`]). Each of the two waits takes at
    /// most [`ServeConfig::grace`]. `true` if all ended in time.
    ///
    /// ```no_run
    /// # use httppubsub_broadcaster::Broadcaster;
    /// # async fn example(broadcaster: Broadcaster) -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3003").await?;
    /// let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
    /// if !broadcaster.serve_until(listener, ctrl_c).await {
    ///     println!("stopped while deliveries were under way");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`withdraw`]: Self::withdraw
    /// [`shut_down`]: Self::shut_down
    /// [`finish`]: Self::finish
    /// [`ServeConfig::grace`]: httppubsub_net::inbound::ServeConfig::grace
    pub async fn serve_until(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> bool {
        let app = http::whole_router(self.running.endpoints.clone());
        self.serve_app_until(listener, app, shutdown).await
    }

    /// Like [`Broadcaster::serve_until`], for an `app` that has [`Broadcaster::router`] somewhere
    /// among its own routes.
    ///
    /// ```no_run
    /// # use httppubsub_broadcaster::Broadcaster;
    /// # async fn example(broadcaster: Broadcaster) -> std::io::Result<()> {
    /// let app = axum::Router::new().nest("/pubsub", broadcaster.router());
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3003").await?;
    /// let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
    /// broadcaster.serve_app_until(listener, app, ctrl_c).await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn serve_app_until(
        &self,
        listener: TcpListener,
        app: Router,
        shutdown: impl Future<Output = ()>,
    ) -> bool {
        let mut serving = pin!(self.serve_app(listener, app));
        let stopping = async {
            shutdown.await;
            self.withdraw();
            let delay = self.running.drain_delay;
            if !delay.is_zero() {
                tracing::info!(?delay, "no longer ready; serving on for a while");
                tokio::time::sleep(delay).await;
            }
            tracing::info!("stopping: taking nothing new, finishing what is under way");
            self.shut_down();
        };
        tokio::select! {
            biased;
            // A clone was shut down.
            () = &mut serving => {}
            () = stopping => serving.await,
        }
        self.finish(self.running.serve.grace).await
    }

    /// Serves all endpoints on `listener`, until [`Broadcaster::shut_down`] is called and the
    /// requests under way are answered, or the grace period is over.
    pub async fn serve(&self, listener: TcpListener) {
        self.serve_app(listener, http::whole_router(self.running.endpoints.clone()))
            .await;
    }

    /// Serves `app` until this broadcaster is shut down.
    async fn serve_app(&self, listener: TcpListener, app: Router) {
        let config = self.running.serve.clone();
        let service = hyper_util::service::TowerToHyperService::new(app);
        let shutdown = self.running.background.shutdown.clone();
        let cut_off = httppubsub_net::inbound::serve(listener, service, config, shutdown).await;
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "the grace period ended before all was answered"
            );
        }
    }

    /// Sets the gauges among its metrics to what they are now. What it counts and measures goes to
    /// the recorder of the crate `metrics`, if there is one; call this before its metrics are read.
    pub fn update_gauges(&self) {
        self.running.gauges.update();
        self.running.endpoints.readiness.update_gauges();
    }

    /// Says at `/readyz` that no further requests are wished for, and goes on to serve them: for
    /// load balancers that need time to notice. It cannot be taken back.
    pub fn withdraw(&self) {
        self.running.endpoints.readiness.withdrawn.cancel();
    }

    /// Begins to stop: no longer ready, no further connections. Websockets are closed over
    /// [`WebSocketConfig::close_spread`], each when what its subscriber asked for is done.
    ///
    /// [`WebSocketConfig::close_spread`]: crate::WebSocketConfig::close_spread
    pub fn shut_down(&self) {
        self.running.endpoints.readiness.withdrawn.cancel();
        self.running.background.shutdown.cancel();
    }

    /// Waits at most `grace` until nothing runs on behalf of this broadcaster; `true` if that is so
    /// then. Call [`Broadcaster::shut_down`] before. What goes on after that is lost with the
    /// process: subscribers with a recovery url get notices from the next start on.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.running.background.tasks.close();
        let finished = async {
            self.running.background.tasks.wait().await;
            // Only now is everything accounted for, and only then may others forget this one.
            if let Err(error) = self.running.journal.end().await {
                // Some get a notice in vain.
                tracing::warn!(%error, "cannot write down that nothing is in flight");
            }
            if let Err(error) = self.running.heartbeats.leave().await {
                // They find out.
                tracing::warn!(%error, "cannot tell other broadcasters that this one stops");
            }
        };
        tokio::time::timeout(grace, finished).await.is_ok()
    }
}
