//! A client, from start to stop.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use axum::Router;
use httppubsub_net::body::Spool;
use httppubsub_net::inbound::ReplayGuard;
use httppubsub_net::outbound::Poster;
use httppubsub_proto::digest::Sha512;
use httppubsub_proto::glob::GlobPattern;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::FOREVER;
use httppubsub_proto::topic::Topic;
use httppubsub_proto::url::ClientUrls;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Bind, ClientConfig, ConfigError};
#[cfg(feature = "websocket")]
use crate::config::{BroadcasterAddress, ClientConfigBuilder, WebSocketConfig};
use crate::desired::Desired;
use crate::error::{CloseError, NotifyError, StartError, SubscribeError};
use crate::receive::dispatch::Dispatch;
use crate::receive::inbox::Inbox;
use crate::receive::message::ConnectionStatus;
use crate::receive::numbers::Numbers;
use crate::receive::{self, Inbound};
use crate::requests::body::NotifyBody;
use crate::requests::progress::with_progress;
use crate::requests::{Network, Requests};
use crate::state::ClientState;
use crate::statuses::Statuses;
use crate::subscriptions::changes;
use crate::subscriptions::reconcile::reconcile_for_ever;
use crate::subscriptions::subscription::{StopWhenDropped, Subscription};
use crate::websocket::Link;

/// A running client. Clones are the same one.
///
/// When all clones and all subscriptions are dropped it stops by itself, and the broadcasters find
/// out when a delivery fails; [`Client::close`] tells them.
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
    /// Shared by clones, subscriptions and tasks.
    state: Arc<ClientState>,
    /// Empty if the client is not reached by HTTP.
    router: Router,
    /// `None` unless it listens itself.
    local_addr: Option<SocketAddr>,
    /// Gets the number of connections that were cut off at the end; taken by the first close.
    cut_off: Arc<std::sync::Mutex<Option<oneshot::Receiver<usize>>>>,
    /// Stops the client with its last handle.
    stop: Arc<StopWhenDropped>,
}

/// The result of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notified {
    /// Number of subscribers that confirmed the message.
    pub subscribers: u32,
    /// Length of the message, in bytes.
    pub bytes: u64,
    /// Digest of the message.
    pub sha512: Sha512,
}

impl Client {
    /// Starts a client that holds one websocket to the broadcaster at `url`, of `http`, `https`,
    /// `ws` or `wss`, and connects anew for as long as it lives. It uses no authorization;
    /// [`ClientConfigBuilder::connect`] does the same with secrets and other settings.
    ///
    /// Returns before there is a connection: subscribing and notifying wait for one, and
    /// [`Client::statuses`] tells of it. Must be called inside a tokio runtime.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = httppubsub_client::Client::connect("http://127.0.0.1:3003").await?;
    /// client.notify("builds/7", "ready").await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "websocket")]
    pub async fn connect(url: impl Into<BroadcasterAddress>) -> Result<Self, StartError> {
        ClientConfig::builder([url.into()]).connect().await
    }

    /// Begins to listen, if so configured. Asks nothing of the broadcasters yet. Must be called
    /// inside a tokio runtime.
    pub async fn start(config: ClientConfig) -> Result<Self, StartError> {
        let listener = listen(&config.bind).await?;
        let local_addr = listener.as_ref().map(|(_, address)| *address);
        let urls = match (&config.bind, &config.host, local_addr) {
            (Bind::Nothing, ..) => None,
            (_, Some(host), _) => Some(ClientUrls::of_host(host)?),
            (_, None, Some(address)) if address.ip().is_unspecified() => {
                return Err(ConfigError::HostNeeded.into());
            }
            (_, None, Some(address)) => Some(ClientUrls::of_host(&format!("http://{address}"))?),
            (_, None, None) => unreachable!("a mounted client has a host: `build` checks it"),
        };
        let guard = Arc::new(ReplayGuard::in_memory(config.replay_codes_max));
        let spool = Spool::new(config.spool.clone());
        let dispatch = Arc::new(Dispatch::new(config.queue_max));
        let numbers = Arc::new(Numbers::new(dispatch.clone(), config.gap_patience));
        let reconcile_now = Arc::new(Notify::new());
        let stopped = CancellationToken::new();
        let router = urls.clone().map_or_else(Router::new, |urls| {
            receive::router(Arc::new(Inbound {
                urls,
                to_broadcaster: config.to_broadcaster.clone(),
                to_subscriber: config.to_subscriber.clone(),
                guard: guard.clone(),
                spool: spool.clone(),
                body: config.body,
                clock: config.clock.clone(),
                dispatch: dispatch.clone(),
                numbers: numbers.clone(),
                reconcile_now: reconcile_now.clone(),
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
        let state = Arc::new(ClientState {
            requests: Requests::new(network, &config, guard, rand::random).until(closing.clone()),
            urls,
            link,
            spool,
            dispatch,
            numbers,
            desired: Mutex::new(Desired::default()),
            reconcile_now,
            closing,
            stopped,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
            config,
        });
        // A websocket needs no reconciliation: nothing outlives its connection.
        if state.urls.is_some() {
            state.spawn(reconcile_for_ever(state.clone()));
            let looking = state.numbers.clone();
            state.spawn(looking.look_for_holes(state.stopped.clone()));
        }
        if let Some(keeping) = keeping {
            state.spawn(keeping);
        }
        state.spawn(stop_with_the_runtime(state.clone()));
        let cut_off = listener.map(|(listener, _)| serve(&state, listener, router.clone()));
        Ok(Self {
            stop: Arc::new(StopWhenDropped(state.clone())),
            cut_off: Arc::new(std::sync::Mutex::new(cut_off)),
            state,
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

    /// The url to which broadcasters deliver; `None` if the client is bound to nothing.
    pub fn receive_url(&self) -> Option<&str> {
        self.state.urls.as_ref().map(|urls| urls.receive.as_str())
    }

    /// The status of the connection. A client that is reached by HTTP holds none, so its status is
    /// `Ok` until it is closed.
    pub fn status(&self) -> ConnectionStatus {
        match &self.state.link {
            _ if self.state.stopped.is_cancelled() => ConnectionStatus::Abandoned,
            Some(link) => *link.status().borrow(),
            None => ConnectionStatus::Ok,
        }
    }

    /// The status of the connection now, and then each change of it.
    ///
    /// ```no_run
    /// # async fn example(client: httppubsub_client::Client) {
    /// use httppubsub_client::ConnectionStatus;
    ///
    /// if !client.statuses().wait_for(ConnectionStatus::Ok).await {
    ///     println!("given up: {:?}", client.connection_failure());
    /// }
    /// # }
    /// ```
    pub fn statuses(&self) -> Statuses {
        match &self.state.link {
            Some(link) => Statuses::of_link(link.status()),
            None => Statuses::of_http(self.state.stopped.clone()),
        }
    }

    /// The broadcaster and the reason why the websocket was lost or not opened, for people; `None`
    /// while there is one, before that was tried, and if the client is reached by HTTP.
    pub fn connection_failure(&self) -> Option<String> {
        self.state.link.as_ref().and_then(Link::failure)
    }

    /// The address that the client listens on itself.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Subscribes to one topic, byte for byte. Messages that are published after this returned are
    /// received.
    ///
    /// ```no_run
    /// # use httppubsub_client::Client;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut prices = client.subscribe_exact("prices/7").await?;
    /// while let Some(message) = prices.next().await {
    ///     println!("{:?}", message.bytes().await?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_exact(
        &self,
        topic: impl AsRef<[u8]>,
    ) -> Result<Subscription, SubscribeError> {
        let topic = Topic::new(topic.as_ref())?;
        self.subscribe([Interest::Exact(topic)]).await
    }

    /// Subscribes to all topics that match `glob`; see [`GlobPattern`].
    ///
    /// ```no_run
    /// # use httppubsub_client::Client;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut prices = client.subscribe_glob("prices/*").await?;
    /// if let Some(message) = prices.next().await {
    ///     println!("{} has a new price", message.topic);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_glob(
        &self,
        glob: impl AsRef<str>,
    ) -> Result<Subscription, SubscribeError> {
        let glob = GlobPattern::parse(glob.as_ref())?;
        self.subscribe([Interest::Glob(glob)]).await
    }

    /// Subscribes to several topics and globs at once; a message that several of them cover is
    /// yielded once for each copy that the broadcaster sends.
    ///
    /// ```no_run
    /// # use httppubsub_client::Client;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use httppubsub_client::{GlobPattern, Interest, Topic};
    ///
    /// let interests = [
    ///     Interest::Exact(Topic::new("orders")?),
    ///     Interest::Glob(GlobPattern::parse("prices/*")?),
    /// ];
    /// let subscription = client.subscribe(interests).await?;
    /// # drop(subscription);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe(
        &self,
        interests: impl IntoIterator<Item = Interest>,
    ) -> Result<Subscription, SubscribeError> {
        let interests: BTreeSet<_> = interests.into_iter().collect();
        let (state, stop) = (self.state.clone(), self.stop.clone());
        // If its caller has gone when the subscription is there, it is dropped.
        let task = self.state.spawn(async move {
            let inbox = changes::open(&state, interests).await?;
            Ok(Subscription::new(stop, state, inbox))
        });
        task.await.unwrap_or(Err(SubscribeError::Closed))
    }

    /// A subscription that no broadcaster knows of, and where its messages are put in.
    pub(crate) fn fed(&self) -> (Arc<Inbox>, Subscription) {
        let inbox = self.state.dispatch.open();
        let (stop, state) = (self.stop.clone(), self.state.clone());
        let subscription = Subscription::new(stop, state, inbox.clone());
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
    /// confirmed, the error [is ambiguous], and it is not sent again by itself. If its
    /// caller has gone it is not sent, unless a broadcaster may have it already.
    ///
    /// ```no_run
    /// # async fn example(client: httppubsub_client::Client) {
    /// match client.notify("orders", "one more").await {
    ///     Ok(notified) => println!("{} subscribers have it", notified.subscribers),
    ///     // Sent again, some subscribers may get it twice.
    ///     Err(error) if error.is_ambiguous() => println!("perhaps done: {error}"),
    ///     Err(error) => println!("not done: {error}"),
    /// }
    /// # }
    /// ```
    ///
    /// [is ambiguous]: NotifyError::is_ambiguous
    pub async fn notify(
        &self,
        topic: impl AsRef<[u8]>,
        body: impl Into<NotifyBody>,
    ) -> Result<Notified, NotifyError> {
        self.notify_with_progress(topic, body, |_, _| {}).await
    }

    /// Like [`Client::notify`], calling `progress` from time to time with the number of bytes that
    /// are on their way, and of all bytes.
    /// It starts again when the message is sent to another broadcaster.
    ///
    /// ```no_run
    /// # use httppubsub_client::Client;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use httppubsub_client::NotifyBody;
    ///
    /// let progress = |sent, all| println!("{sent} of {all} bytes");
    /// let film = NotifyBody::path("film.mkv");
    /// client.notify_with_progress("films/new", film, progress).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn notify_with_progress(
        &self,
        topic: impl AsRef<[u8]>,
        body: impl Into<NotifyBody>,
        progress: impl FnMut(u64, u64),
    ) -> Result<Notified, NotifyError> {
        let state = &self.state;
        let topic = Topic::new(topic.as_ref())?;
        if state.closing.is_cancelled() {
            return Err(NotifyError::Closed);
        }
        let memory_each_max = state.config.spool.memory_each_max;
        // Read to its end before anything is sent: length and digest go first on the wire.
        let payload = body.into().read(&state.spool, memory_each_max).await?;
        let sent = Arc::new(AtomicU64::new(0));
        let asking = async {
            match &state.link {
                None => Ok(state.requests.notify(&topic, &payload, &sent).await?),
                Some(link) => link.notify(&topic, &payload, &sent).await,
            }
        };
        let subscribers = with_progress(asking, &sent, payload.len(), progress).await?;
        Ok(Notified {
            subscribers,
            bytes: payload.len(),
            sha512: *payload.sha512(),
        })
    }

    /// Unsubscribes everything, finishes what is being received, and ends all subscriptions; what
    /// they hold can still be taken. All that a broadcaster of ours counted as confirmed before is
    /// there, also over a websocket. The client is closed then, also if there is an error. Needs
    /// the runtime in which the client was started.
    ///
    /// ```no_run
    /// # async fn example(client: httppubsub_client::Client) {
    /// if let Err(error) = client.close().await {
    ///     println!("{error}");
    /// }
    /// # }
    /// ```
    pub async fn close(&self) -> Result<(), CloseError> {
        let state = &self.state;
        // Before anything is asked: reconciliation must not subscribe again what is being ended.
        state.closing.cancel();
        let closing = state.clone();
        let unsubscribed = state.spawn(async move { changes::close_all(&closing).await });
        let unsubscribed = unsubscribed.await;
        // Nothing runs there now, and nobody else may say it for the client.
        let runtime_ended = unsubscribed.is_err() && !state.desired.lock().await.closed;
        let unsubscribe = unsubscribed.unwrap_or_default();
        if let Some(link) = &state.link {
            let mut status = link.status();
            // Ends when the task that keeps the websocket has dropped its sender.
            while status.changed().await.is_ok() {}
        }
        // Until here what arrived was confirmed, since the broadcasters still had to deliver it.
        state.stop();
        state.tasks.wait().await;
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
            timed_out: false,
        })
    }

    /// Closes as [`Client::close`] does, and stops without the broadcasters' answers when `timeout`
    /// is over. The client is closed then in any case.
    ///
    /// ```no_run
    /// # async fn example(client: httppubsub_client::Client) {
    /// use std::time::Duration;
    ///
    /// if let Err(error) = client.close_within(Duration::from_secs(5)).await {
    ///     println!("{error}");
    /// }
    /// # }
    /// ```
    pub async fn close_within(&self, timeout: Duration) -> Result<(), CloseError> {
        if let Ok(closed) = tokio::time::timeout(timeout.min(FOREVER), self.close()).await {
            return closed;
        }
        self.state.stop();
        Err(CloseError {
            unsubscribe: Vec::new(),
            connections_cut_off: 0,
            runtime_ended: false,
            timed_out: true,
        })
    }
}

#[cfg(feature = "websocket")]
impl ClientConfigBuilder {
    /// Starts a client that holds one websocket open, and connects anew for as long as it lives
    /// unless [`ClientConfigBuilder::websocket`] says otherwise.
    ///
    /// Returns before there is a connection: subscribing and notifying wait for one, and
    /// [`Client::statuses`] tells of it. Must be called inside a tokio runtime.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use httppubsub_client::ClientConfig;
    ///
    /// let client = ClientConfig::builder(["http://127.0.0.1:3003"])
    ///     .secrets_file("httppubsub-data/subscriber-secrets.json")
    ///     .connect()
    ///     .await?;
    /// client.notify("builds/7", "ready").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(self) -> Result<Client, StartError> {
        let mut config = self.build()?;
        config.websocket.get_or_insert_with(|| WebSocketConfig {
            connect_retries: u32::MAX,
            ..WebSocketConfig::default()
        });
        // Nobody needs to reach this client.
        config.bind = Bind::Nothing;
        Client::start(config).await
    }
}

/// Stops the client when the runtime drops its tasks, of which some were never polled: what waits
/// for messages must not wait for ever.
fn stop_with_the_runtime(state: Arc<ClientState>) -> impl Future<Output = ()> {
    let stop = StopWhenDropped(state.clone());
    async move {
        state.stopped.cancelled().await;
        drop(stop);
    }
}

/// The listener that is asked for, if any, and its address.
async fn listen(bind: &Bind) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    let listener = match bind {
        Bind::To(address) => TcpListener::bind(address).await,
        Bind::Name(name) => TcpListener::bind(name).await,
        Bind::Listener(listener) => listener.try_clone().and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        }),
        Bind::Mounted | Bind::Nothing => return Ok(None),
    };
    let listener = listener.and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    listener.map(Some).map_err(|source| {
        let address = match bind {
            Bind::To(address) => address.to_string(),
            Bind::Name(name) => name.clone(),
            _ => "the listener that was given".to_owned(),
        };
        StartError::Bind { address, source }
    })
}

/// Serves until the client is stopped, and then tells how many connections were cut off.
fn serve(
    state: &Arc<ClientState>,
    listener: TcpListener,
    router: Router,
) -> oneshot::Receiver<usize> {
    let (cut_off, receiver) = oneshot::channel();
    let (config, stopped) = (state.config.serve.clone(), state.stopped.clone());
    state.spawn(async move {
        let service = TowerToHyperService::new(router);
        let connections = httppubsub_net::inbound::serve(listener, service, config, stopped).await;
        // Nobody asks when the client was dropped.
        let _ = cut_off.send(connections);
    });
    receiver
}
