//! A client, from start to stop.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use httppubsub_net::{Poster, ReplayGuard, Spool};
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::ClientUrls;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::NotifyBody;
use crate::changes;
use crate::config::{Bind, ClientConfig};
use crate::core::Core;
use crate::dispatch::Dispatch;
use crate::error::{CloseError, NotifyError, StartError, SubscribeError};
use crate::http::{self, Inbound, Network, Requests};
use crate::inbox::Inbox;
use crate::message::ConnectionStatus;
use crate::reconcile::reconcile_for_ever;
use crate::subscription::{StopWhenDropped, Subscription};
use crate::wanted::Wanted;
use crate::ws::Link;

/// A running client. Clones are the same one.
///
/// When all clones and all subscriptions are dropped it stops by itself, and the broadcasters find
/// out by and by; [`Client::close`] tells them.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use httppubsub_client::{Bind, Client, ClientConfig};
///
/// let config = ClientConfig::builder(["http://127.0.0.1:3003"])
///     .bind(Bind::To("0.0.0.0:3002".parse()?))
///     .host("http://127.0.0.1:3002")
///     .build()?;
/// let client = Client::start(config).await?;
///
/// let mut builds = client.subscribe_glob("builds/*").await?;
/// let notified = client.notify("builds/7", "ready").await?;
/// println!("{} subscribers confirmed", notified.subscribers);
/// while let Some(message) = builds.next().await {
///     println!("{}: {} bytes", message.topic, message.payload.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    core: Arc<Core>,
    router: Router,
    local_addr: Option<SocketAddr>,
    cut_off: Arc<std::sync::Mutex<Option<oneshot::Receiver<usize>>>>,
    stop: Arc<StopWhenDropped>,
}

/// How the connection of a client is, and how it becomes. Changes that are undone before they are
/// looked at go unnoticed.
#[derive(Clone, Debug)]
pub struct Statuses(StatusesOf);

#[derive(Clone, Debug)]
enum StatusesOf {
    Link {
        status: watch::Receiver<ConnectionStatus>,
        begun: bool,
    },
    Http {
        stopped: CancellationToken,
        told: Option<ConnectionStatus>,
    },
}

impl Statuses {
    /// At first how it is, then how it becomes; `None` when that is told and nothing more changes.
    /// It may be dropped at any time without losing anything.
    pub async fn next(&mut self) -> Option<ConnectionStatus> {
        match &mut self.0 {
            StatusesOf::Link { status, begun } => {
                if std::mem::replace(begun, true) {
                    status.changed().await.ok()?;
                }
                Some(*status.borrow_and_update())
            }
            StatusesOf::Http { stopped, told } => {
                match told {
                    None if !stopped.is_cancelled() => *told = Some(ConnectionStatus::Ok),
                    Some(ConnectionStatus::Abandoned) => return None,
                    None | Some(ConnectionStatus::Ok | ConnectionStatus::Lost) => {
                        stopped.cancelled().await;
                        *told = Some(ConnectionStatus::Abandoned);
                    }
                }
                *told
            }
        }
    }

    /// Waits until the connection is so; whether it ever is.
    pub async fn wait_for(&mut self, status: ConnectionStatus) -> bool {
        while let Some(now) = self.next().await {
            if now == status {
                return true;
            }
        }
        false
    }
}

/// What came of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notified {
    /// How many subscribers confirmed that they have it.
    pub subscribers: u32,
    /// Length of the message, in bytes.
    pub bytes: u64,
    /// Digest of the message.
    pub sha512: Sha512,
}

impl Client {
    /// Begins to listen, if so configured. Asks nothing of the broadcasters yet. Must be called
    /// inside a tokio runtime.
    pub async fn start(config: ClientConfig) -> Result<Self, StartError> {
        let listener = match config.bind {
            Bind::To(address) => Some(listen(address).await?),
            Bind::Mounted | Bind::Nothing => None,
        };
        let local_addr = listener.as_ref().map(|(_, address)| *address);
        let urls = match (config.bind, &config.host, local_addr) {
            (Bind::Nothing, ..) => None,
            (_, Some(host), _) => Some(ClientUrls::of_host(host)?),
            (_, None, Some(address)) => Some(ClientUrls::of_host(&format!("http://{address}"))?),
            (_, None, None) => unreachable!("a mounted client has a host: `build` checks it"),
        };
        let guard = Arc::new(ReplayGuard::in_memory(config.replay_codes_max));
        let spool = Spool::new(config.spool.clone());
        let dispatch = Arc::new(Dispatch::new(config.queue_max));
        let doubt = Arc::new(Notify::new());
        let stopped = CancellationToken::new();
        let router = urls.clone().map_or_else(Router::new, |urls| {
            http::router(Arc::new(Inbound {
                urls,
                to_broadcaster: config.to_broadcaster.clone(),
                to_subscriber: config.to_subscriber.clone(),
                guard: guard.clone(),
                spool: spool.clone(),
                body: config.body,
                clock: config.clock.clone(),
                dispatch: dispatch.clone(),
                doubt: doubt.clone(),
                stopped: stopped.clone(),
                warned_at: AtomicU64::new(0),
            }))
        });
        let closing = CancellationToken::new();
        let link = config.websocket.as_ref().map(|options| {
            let (guard, spool, dispatch) = (guard.clone(), spool.clone(), dispatch.clone());
            let (closing, stopped) = (closing.clone(), stopped.clone());
            Link::new(&config, options, guard, spool, dispatch, closing, stopped)
        });
        let (link, keeping) = link.unzip();
        let network = Network::new(Poster::new(config.post.clone()), &config.broadcasters);
        let network = network.expect("the urls can be posted to: `build` checks it");
        let core = Arc::new(Core {
            requests: Requests::new(network, &config, guard, rand::random).until(closing.clone()),
            urls,
            link,
            spool,
            dispatch,
            wanted: Mutex::new(Wanted::default()),
            doubt,
            closing,
            stopped,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            config,
        });
        if core.urls.is_some() {
            core.spawn(reconcile_for_ever(core.clone()));
        }
        if let Some(keeping) = keeping {
            core.spawn(keeping);
        }
        core.spawn(stop_with_the_runtime(core.clone()));
        let cut_off = listener.map(|(listener, _)| serve(&core, listener, router.clone()));
        Ok(Self {
            stop: Arc::new(StopWhenDropped(core.clone())),
            cut_off: Arc::new(std::sync::Mutex::new(cut_off)),
            core,
            router,
            local_addr,
        })
    }

    /// The paths `/v1/receive` and `/v1/recover`, to be mounted where [`host`] says if the client
    /// is configured with [`Bind::Mounted`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use httppubsub_client::{Bind, Client, ClientConfig};
    ///
    /// let config = ClientConfig::builder(["http://127.0.0.1:3003"])
    ///     .bind(Bind::Mounted)
    ///     .host("http://127.0.0.1:8080/pubsub")
    ///     .build()?;
    /// let client = Client::start(config).await?;
    /// let app = axum::Router::new().nest("/pubsub", client.router());
    /// # let _: axum::Router = app;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`host`]: crate::ClientConfigBuilder::host
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// The url at which broadcasters are told to deliver; `None` if the client is bound to nothing.
    pub fn receive_url(&self) -> Option<&str> {
        self.core.urls.as_ref().map(|urls| urls.receive.as_str())
    }

    /// How the connection of the client is. One that is reached by HTTP holds none, so it is fine
    /// until it is closed.
    pub fn status(&self) -> ConnectionStatus {
        match &self.core.link {
            Some(link) => *link.status().borrow(),
            None if self.core.stopped.is_cancelled() => ConnectionStatus::Abandoned,
            None => ConnectionStatus::Ok,
        }
    }

    /// How the connection is, and then how it becomes.
    pub fn statuses(&self) -> Statuses {
        Statuses(match &self.core.link {
            Some(link) => StatusesOf::Link {
                status: link.status(),
                begun: false,
            },
            None => StatusesOf::Http {
                stopped: self.core.stopped.clone(),
                told: None,
            },
        })
    }

    /// Where and why the websocket was lost or could not be opened, in words for people; `None`
    /// while there is one, before that was tried, and if the client is reached by HTTP.
    pub fn connection_failure(&self) -> Option<String> {
        self.core.link.as_ref().and_then(Link::failure)
    }

    /// The address that the client listens on itself.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Subscribes to one topic, byte for byte. Messages that are published after this returned are
    /// received.
    pub async fn subscribe_exact(
        &self,
        topic: impl AsRef<[u8]>,
    ) -> Result<Subscription, SubscribeError> {
        let topic = Topic::new(topic.as_ref())?;
        self.subscribe([Interest::Exact(topic)]).await
    }

    /// Subscribes to all topics that match `glob`; see [`GlobPattern`].
    pub async fn subscribe_glob(
        &self,
        glob: impl AsRef<str>,
    ) -> Result<Subscription, SubscribeError> {
        let glob = GlobPattern::parse(glob.as_ref())?;
        self.subscribe([Interest::Glob(glob)]).await
    }

    /// Subscribes to several topics and globs at once; a message that several of them cover is
    /// yielded once for each copy that the broadcaster sends.
    pub async fn subscribe(
        &self,
        interests: impl IntoIterator<Item = Interest>,
    ) -> Result<Subscription, SubscribeError> {
        let interests: BTreeSet<_> = interests.into_iter().collect();
        let (core, stop) = (self.core.clone(), self.stop.clone());
        // If nobody waits for the subscription any more when it is there, it is dropped.
        let task = self.core.spawn(async move {
            let inbox = changes::open(&core, interests).await?;
            Ok(Subscription::new(stop, core, inbox))
        });
        task.await.unwrap_or(Err(SubscribeError::Closed))
    }

    /// A subscription that no broadcaster knows of, and where its messages are put in.
    pub(crate) fn fed(&self) -> (Arc<Inbox>, Subscription) {
        let inbox = self.core.dispatch.open();
        let (stop, core) = (self.stop.clone(), self.core.clone());
        let subscription = Subscription::new(stop, core, inbox.clone());
        (inbox, subscription)
    }

    /// A subscription to nothing yet: see [`Subscription::add`] and [`Subscription::interests`].
    pub async fn subscribe_multi(&self) -> Result<Subscription, SubscribeError> {
        self.subscribe([]).await
    }

    /// Tells all subscribers of `topic`. Returns when the broadcaster has their confirmations.
    ///
    /// Over a websocket it waits for a connection, and is begun again on the next one if the
    /// connection is lost before it was sent whole; when it is lost after that and before it was
    /// confirmed, the error [is ambiguous], and it is not sent again by itself. If nobody waits for
    /// it any more it is not sent, unless a broadcaster may have it already.
    ///
    /// [is ambiguous]: NotifyError::is_ambiguous
    pub async fn notify(
        &self,
        topic: impl AsRef<[u8]>,
        body: impl Into<NotifyBody>,
    ) -> Result<Notified, NotifyError> {
        self.notify_with_progress(topic, body, |_, _| {}).await
    }

    /// The same, telling `progress` from time to time how many bytes of how many are on their way.
    /// It starts again when the message is sent to another broadcaster.
    pub async fn notify_with_progress(
        &self,
        topic: impl AsRef<[u8]>,
        body: impl Into<NotifyBody>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Notified, NotifyError> {
        let core = &self.core;
        let topic = Topic::new(topic.as_ref())?;
        if core.closing.is_cancelled() {
            return Err(NotifyError::Closed);
        }
        let memory_each_max = core.config.spool.memory_each_max;
        let payload = body.into().read(&core.spool, memory_each_max).await?;
        let sent = Arc::new(AtomicU64::new(0));
        let asking = async {
            match &core.link {
                None => Ok(core.requests.notify(&topic, &payload, &sent).await?),
                Some(link) => link.notify(&topic, &payload, &sent).await,
            }
        };
        let mut asking = std::pin::pin!(asking);
        let mut told = None;
        loop {
            tokio::select! {
                biased;
                subscribers = &mut asking => {
                    let subscribers = subscribers?;
                    if told != Some(payload.len()) {
                        progress(payload.len(), payload.len());
                    }
                    let (bytes, sha512) = (payload.len(), *payload.sha512());
                    return Ok(Notified { subscribers, bytes, sha512 });
                }
                () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                    let now = sent.load(Ordering::Relaxed);
                    if told.replace(now) != Some(now) {
                        progress(now, payload.len());
                    }
                }
            }
        }
    }

    /// Unsubscribes everything, finishes what is being received, and ends all subscriptions; what
    /// they hold can still be taken. The client is closed then, also if there is an error. Needs the
    /// runtime in which the client was started.
    pub async fn close(&self) -> Result<(), CloseError> {
        let core = &self.core;
        core.closing.cancel();
        let closing = core.clone();
        let unsubscribed = core.spawn(async move { changes::close_all(&closing).await });
        let unsubscribed = unsubscribed.await;
        // Nothing runs there any more, and nobody else may say it for the client.
        let runtime_ended = unsubscribed.is_err() && !core.wanted.lock().await.closed;
        let unsubscribe = unsubscribed.unwrap_or_default();
        if let Some(link) = &core.link {
            let mut status = link.status();
            while status.changed().await.is_ok() {}
        }
        // Until here what arrived was confirmed, since the broadcasters still had to deliver it.
        core.stop();
        core.tasks.wait().await;
        let cut_off = self.cut_off.lock();
        let cut_off = cut_off
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let connections_cut_off = cut_off.and_then(|mut it| it.try_recv().ok()).unwrap_or(0);
        if unsubscribe.is_empty() && connections_cut_off == 0 && !runtime_ended {
            return Ok(());
        }
        Err(CloseError {
            unsubscribe,
            connections_cut_off,
            runtime_ended,
        })
    }
}

/// Stops the client when the runtime drops its tasks: what waits for messages must not wait for ever.
async fn stop_with_the_runtime(core: Arc<Core>) {
    let stop = StopWhenDropped(core.clone());
    core.stopped.cancelled().await;
    drop(stop);
}

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listening = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let listening = listening.await;
    listening.map_err(|source| StartError::Bind { address, source })
}

/// Serves until the client is stopped, and then tells how many connections were cut off.
fn serve(core: &Arc<Core>, listener: TcpListener, router: Router) -> oneshot::Receiver<usize> {
    let (cut_off, receiver) = oneshot::channel();
    let (config, stopped) = (core.config.serve.clone(), core.stopped.clone());
    core.spawn(async move {
        let service = TowerToHyperService::new(router);
        let connections = httppubsub_net::serve(listener, service, config, stopped).await;
        // Nobody asks when the client was dropped.
        let _ = cut_off.send(connections);
    });
    receiver
}
