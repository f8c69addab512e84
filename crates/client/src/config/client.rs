//! The configuration of a client.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::body::{BodyLimits, SpoolConfig};
use httppubsub_net::egress::{Egress, HAS_TLS};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_net::outbound::PostConfig;
use httppubsub_net::{Clock, read_secrets};
use httppubsub_proto::auth::{Authorization, NoAuthorization, Secrets};
use httppubsub_proto::paths;
use httppubsub_proto::url::{ClientUrls, Endpoint, Scheme, redacted};

use crate::config::error::ConfigError;
use crate::config::websocket::WebSocketConfig;

/// A broadcaster to ask.
#[derive(Clone, PartialEq, Eq)]
pub struct BroadcasterAddress {
    pub(crate) url: String,
    pub(crate) priority: Option<u32>,
}

impl BroadcasterAddress {
    /// The broadcaster reached at `url`, such as `http://10.0.0.3:3003`; a path is a prefix of the
    /// paths asked for. Asked after all that have a priority.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            priority: None,
        }
    }

    /// Asked before those with a higher number; among those with the same number the order is
    /// random, drawn anew for every pass.
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = Some(priority);
        self
    }
}

/// Shows no user name, password or query.
impl std::fmt::Debug for BroadcasterAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("BroadcasterAddress");
        shown.field("url", &redacted(&self.url));
        shown.field("priority", &self.priority).finish()
    }
}

impl From<&str> for BroadcasterAddress {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for BroadcasterAddress {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

/// The way in which broadcasters reach this client.
#[derive(Clone, Debug)]
pub enum Bind {
    /// The client listens here itself; port 0 picks a free one.
    To(SocketAddr),
    /// The client listens on the first usable address of this name and port, such as
    /// `localhost:3002`.
    Name(String),
    /// The client takes the connections of this listener, which others may share.
    Listener(Arc<TcpListener>),
    /// The client's router is mounted in a server of yours; needs [`ClientConfigBuilder::host`].
    Mounted,
    /// Not at all: this client only notifies.
    Nothing,
}

/// All that is set about a client, checked.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// At least one, without a slash at the end.
    pub(crate) broadcasters: Vec<BroadcasterAddress>,
    /// See [`ClientConfigBuilder::bind`], and so on for all that follow.
    pub(crate) bind: Bind,
    pub(crate) host: Option<String>,
    pub(crate) to_broadcaster: Arc<dyn Authorization>,
    pub(crate) to_subscriber: Arc<dyn Authorization>,
    pub(crate) passes: u32,
    pub(crate) retry_ambiguous: Option<bool>,
    pub(crate) reconcile_interval: Duration,
    pub(crate) queue_max: usize,
    pub(crate) gap_patience: Option<Duration>,
    pub(crate) replay_codes_max: usize,
    pub(crate) spool: SpoolConfig,
    pub(crate) post: PostConfig,
    pub(crate) serve: ServeConfig,
    pub(crate) body: BodyLimits,
    pub(crate) clock: Clock,
    /// `None` for HTTP.
    pub(crate) websocket: Option<WebSocketConfig>,
}

impl ClientConfig {
    /// Begins a configuration for these broadcasters, which share their subscriptions: each request
    /// goes to one of them.
    pub fn builder<A>(broadcasters: impl IntoIterator<Item = A>) -> ClientConfigBuilder
    where
        A: Into<BroadcasterAddress>,
    {
        let mut post = PostConfig::default();
        // A second for each MiB to be sent, and one to be delivered.
        post.rate_min = 512 * 1024;
        // The caller names the broadcasters, and so decides where they are.
        post.egress = Egress::anything();
        let config = Self {
            broadcasters: broadcasters.into_iter().map(Into::into).collect(),
            bind: Bind::To((Ipv4Addr::LOCALHOST, 0).into()),
            host: None,
            to_broadcaster: Arc::new(NoAuthorization),
            to_subscriber: Arc::new(NoAuthorization),
            passes: 2,
            retry_ambiguous: None,
            reconcile_interval: Duration::from_secs(300),
            queue_max: 1_024,
            gap_patience: Some(Duration::from_secs(1)),
            replay_codes_max: 1_000_000,
            spool: SpoolConfig::default(),
            post,
            serve: ServeConfig::default(),
            body: BodyLimits::default(),
            clock: Clock::system(),
            websocket: None,
        };
        ClientConfigBuilder {
            config,
            problem: None,
        }
    }
}

impl ClientConfig {
    /// The longest wait for the answer to a notification of `message_bytes`, from the first
    /// byte that is sent.
    pub fn notify_timeout(&self, message_bytes: u64) -> Duration {
        self.post.timeout(message_bytes)
    }
}

/// Sets what differs from the defaults.
///
/// ```
/// use httppubsub_client::{BroadcasterAddress, ClientConfig};
///
/// let config = ClientConfig::builder([
///     BroadcasterAddress::new("http://10.0.0.3:3003").priority(1),
///     BroadcasterAddress::new("http://10.1.0.3:3003").priority(2),
/// ])
/// .passes(3)
/// .build()?;
/// # Ok::<(), httppubsub_client::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfigBuilder {
    config: ClientConfig,
    /// What is wrong already, to be told by `build`.
    problem: Option<ConfigError>,
}

impl ClientConfigBuilder {
    /// The way in which broadcasters reach this client. Default: a free port of 127.0.0.1, for when
    /// the broadcaster runs on the same machine and the client is always [closed] in the end. A
    /// fixed port lets a client that was killed find its subscriptions again.
    ///
    /// [closed]: crate::Client::close
    pub fn bind(mut self, bind: Bind) -> Self {
        self.config.bind = bind;
        self
    }

    /// The place where broadcasters reach this client: an url without a query, such as
    /// `http://10.0.0.7:3002` or `https://app.example/pubsub#2`. A path is a prefix at which a
    /// proxy or the [router]'s mount is found; a fragment keeps the subscriptions of clients apart
    /// that are reached at the same place. No two clients may share all of it: each would erase
    /// what the other subscribes to. Default: the bound address.
    ///
    /// [router]: crate::Client::router
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.config.host = Some(host.into());
        self
    }

    /// The schemes and secrets of both directions. Default: none, anybody who reaches the client
    /// is believed.
    pub fn secrets(mut self, secrets: &Secrets) -> Self {
        self.config.to_broadcaster = secrets.to_broadcaster.authorization();
        self.config.to_subscriber = secrets.to_subscriber.authorization();
        self
    }

    /// The schemes and secrets of both directions, read from the file that `httppubsub setup` or
    /// the first start of `httppubsub serve` wrote for subscribers. The file is read at once;
    /// [`build`] fails with [`ConfigError::SecretsFile`] if that is not possible.
    ///
    /// ```no_run
    /// use httppubsub_client::ClientConfig;
    ///
    /// let config = ClientConfig::builder(["http://127.0.0.1:3003"])
    ///     .secrets_file("httppubsub-data/subscriber-secrets.json")
    ///     .build()?;
    /// # Ok::<(), httppubsub_client::ConfigError>(())
    /// ```
    ///
    /// [`build`]: Self::build
    pub fn secrets_file(mut self, path: impl AsRef<Path>) -> Self {
        match read_secrets(path) {
            Ok(secrets) => self.secrets(&secrets),
            Err(error) => {
                self.problem.get_or_insert(error.into());
                self
            }
        }
    }

    /// A scheme for what this client says. Default: none.
    pub fn to_broadcaster(mut self, authorization: Arc<dyn Authorization>) -> Self {
        self.config.to_broadcaster = authorization;
        self
    }

    /// A scheme for what broadcasters say. Default: none.
    pub fn to_subscriber(mut self, authorization: Arc<dyn Authorization>) -> Self {
        self.config.to_subscriber = authorization;
        self
    }

    /// Number of passes over the broadcasters before a request is given up; before pass i (from 1)
    /// it waits 2^(i−1) to 2^(i−1) + 1 seconds. Over websockets, a notification is begun on no more
    /// connections than that. Default 2, at least 1.
    pub fn passes(mut self, passes: u32) -> Self {
        self.config.passes = passes;
        self
    }

    /// `true` if a request goes to the next broadcaster, or over the next websocket, when it was
    /// sent whole and this one may have done it already. Default: changes of subscriptions do,
    /// which may be made twice; a notification does not, since subscribers might get it twice.
    pub fn retry_ambiguous(mut self, retry: bool) -> Self {
        self.config.retry_ambiguous = Some(retry);
        self
    }

    /// Time between two checks that the broadcasters hold the right subscriptions. Default
    /// 300 s.
    pub fn reconcile_interval(mut self, interval: Duration) -> Self {
        self.config.reconcile_interval = interval;
        self
    }

    /// Most messages that wait in one subscription. When it is full, further messages are dropped
    /// for this subscription, which has a gap then, and the others do not wait for it; a message
    /// that no subscription had room for is not confirmed. Default 1024, at least 1.
    pub fn queue_max(mut self, messages: usize) -> Self {
        self.config.queue_max = messages;
        self
    }

    /// Time within which a delivery has to arrive after one with a higher number
    /// ([`Message::number`]); if it does not, all subscriptions have a gap. They have one as well
    /// when a broadcaster begins to number anew. Deliveries overtake each other, and long messages
    /// take their time, which is not counted. `None` if gaps are not looked for: behind a load
    /// balancer, where each of several programs gets a part of what is numbered. Default 1 s. Over
    /// a websocket it means nothing.
    ///
    /// [`Message::number`]: crate::Message::number
    pub fn gap_patience(mut self, patience: Option<Duration>) -> Self {
        self.config.gap_patience = patience;
        self
    }

    /// Most authorizations of broadcasters that are remembered, so that none counts twice; when
    /// that many were used within five minutes, further messages are answered 503. Default
    /// 1,000,000, some 60 MB.
    pub fn replay_codes_max(mut self, codes: usize) -> Self {
        self.config.replay_codes_max = codes;
        self
    }

    /// The folder of messages that are kept in files, and the size from which on they are.
    pub fn spool(mut self, spool: SpoolConfig) -> Self {
        self.config.spool = spool;
        self
    }

    /// Bounds on what is posted to broadcasters. Default: those of [`PostConfig`], and no
    /// restriction of where to. Its `answer_timeout` of 30 s is longer than a broadcaster takes (15
    /// s), and its `rate_min` of 512 KiB/s gives a long message the time to be sent and to be
    /// delivered; one that is shorter than the broadcaster's gives notifications up that are being
    /// delivered.
    pub fn post(mut self, post: PostConfig) -> Self {
        self.config.post = post;
        self
    }

    /// Bounds on connections to this client.
    pub fn serve(mut self, serve: ServeConfig) -> Self {
        self.config.serve = serve;
        self
    }

    /// Bounds on how slowly messages may arrive.
    pub fn body(mut self, body: BodyLimits) -> Self {
        self.config.body = body;
        self
    }

    /// Holds one websocket open instead of listening for HTTP: nobody needs to reach the client,
    /// and
    /// [`bind`] and [`host`] mean nothing. Default: HTTP.
    ///
    /// [`bind`]: Self::bind
    /// [`host`]: Self::host
    #[cfg(feature = "websocket")]
    pub fn websocket(mut self, options: WebSocketConfig) -> Self {
        self.config.websocket = Some(options);
        self
    }

    /// The clock. Default: the machine's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.config.clock = clock;
        self
    }

    /// Checks all of it.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be used, or two that do not go together. Nothing is resolved
    /// or connected to: a broadcaster need not be there yet.
    pub fn build(mut self) -> Result<ClientConfig, ConfigError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        if self.config.broadcasters.is_empty() {
            return Err(ConfigError::NoBroadcaster);
        }
        for broadcaster in &mut self.config.broadcasters {
            // Before it is checked: a url of a websocket is as good.
            broadcaster.url = as_http(&broadcaster.url);
            check_broadcaster(&broadcaster.url)?;
            // The paths that are appended begin with a slash.
            let bytes = broadcaster.url.trim_end_matches('/').len();
            broadcaster.url.truncate(bytes);
        }
        for (setting, zero) in [
            ("passes", self.config.passes == 0),
            (
                "reconcile_interval",
                self.config.reconcile_interval.is_zero(),
            ),
            ("queue_max", self.config.queue_max == 0),
            ("replay_codes_max", self.config.replay_codes_max == 0),
        ] {
            if zero {
                return Err(ConfigError::Zero { setting });
            }
        }
        // Durations that do not fit a clock are cut here, so that no sum of them panics later.
        self.config.post = self.config.post.bounded();
        self.config.serve = self.config.serve.bounded();
        if let Some(options) = &mut self.config.websocket {
            options.check()?;
            // Nobody needs to reach this client.
            self.config.bind = Bind::Nothing;
            return Ok(self.config);
        }
        self.config.host = self.config.host.as_deref().map(without_slash);
        match (&self.config.host, &self.config.bind) {
            (Some(host), _) => check_host(host)?,
            (None, Bind::Mounted) => return Err(ConfigError::HostNeeded),
            (None, Bind::To(address)) if address.ip().is_unspecified() => {
                return Err(ConfigError::HostNeeded);
            }
            // Where these are is known at the start.
            (None, Bind::Name(_) | Bind::Listener(_)) => {}
            (None, Bind::To(_) | Bind::Nothing) => {}
        }
        Ok(self.config)
    }
}

/// One server speaks both, whichever of the two is named.
fn as_http(url: &str) -> String {
    // Left as it is, for the check to complain about.
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match scheme.to_ascii_lowercase().as_str() {
        "ws" | "http" => format!("http://{rest}"),
        "wss" | "https" => format!("https://{rest}"),
        _ => url.to_owned(),
    }
}

/// Checks that requests can be made to `url` with a path appended.
pub(crate) fn check_broadcaster(url: &str) -> Result<(), ConfigError> {
    if url.contains(['?', '#']) {
        let url = redacted(url);
        return Err(ConfigError::BroadcasterQuery { url });
    }
    match Endpoint::parse_str(&format!("{url}{}", paths::NOTIFY)) {
        Ok(endpoint) if endpoint.origin().scheme == Scheme::Https && !HAS_TLS => {
            let url = redacted(url);
            Err(ConfigError::NoTls { url })
        }
        Ok(_) => Ok(()),
        Err(source) => {
            let url = redacted(url);
            Err(ConfigError::Broadcaster { url, source })
        }
    }
}

/// A client's own url as the paths are appended to, which begin with a slash; published subscribers
/// append them as it is.
fn without_slash(host: &str) -> String {
    // Only the path has slashes to lose; those of a fragment are part of a name.
    let split = host.find('#').unwrap_or(host.len());
    let (path, fragment) = host.split_at(split);
    format!("{}{fragment}", path.trim_end_matches('/'))
}

/// Checks that broadcasters can post to the urls that are made from `host`.
fn check_host(host: &str) -> Result<(), ConfigError> {
    let urls = ClientUrls::of_host(host)?;
    if host.split('#').next().is_some_and(|it| it.contains('?')) {
        let host = redacted(host);
        return Err(ConfigError::HostQuery { host });
    }
    match Endpoint::parse(&urls.receive) {
        Ok(_) => Ok(()),
        Err(source) => {
            let host = redacted(host);
            Err(ConfigError::Host { host, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> ClientConfigBuilder {
        ClientConfig::builder(["http://127.0.0.1:3003"])
    }

    #[track_caller]
    fn refused(builder: ClientConfigBuilder, want: &str) {
        assert_eq!(builder.build().unwrap_err().to_string(), want);
    }

    #[test]
    fn what_does_not_fit_together_is_told_at_once() {
        refused(
            ClientConfig::builder([] as [&str; 0]),
            "no broadcaster is named",
        );
        refused(
            ClientConfig::builder(["localhost:3003"]),
            "the broadcaster's url \"localhost:3003\" cannot be used: the scheme is \"localhost\", \
             only http and https are posted to",
        );
        refused(
            ClientConfig::builder(["http://b/?q"]),
            "the broadcaster's url \"http://b/?***\" has a query or a fragment",
        );
        let needed = "bound so, the client cannot know where broadcasters reach it: set `host`";
        refused(builder().bind(Bind::Mounted), needed);
        let any = Bind::To("[::]:3002".parse().unwrap());
        refused(builder().bind(any.clone()), needed);
        assert!(builder().bind(any).host("http://me:3002").build().is_ok());
        refused(
            builder().host("http://me/?q#f"),
            "the client's own url \"http://me/?***\" has a query",
        );
        refused(
            builder().host("me"),
            "the client's own url \"me\" cannot be used: not an absolute url: relative URL \
             without a base",
        );
        refused(builder().passes(0), "`passes` must be at least 1");
        refused(
            builder().reconcile_interval(Duration::ZERO),
            "`reconcile_interval` must be at least 1",
        );
        refused(builder().queue_max(0), "`queue_max` must be at least 1");
    }

    #[test]
    fn a_secrets_file_is_used_or_told_and_never_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secrets.json");
        let missing = builder().secrets_file(&file).build().unwrap_err();
        let (text, path) = (missing.to_string(), file.display().to_string());
        assert!(
            text.contains(&path) && text.contains("No such file"),
            "{text}"
        );
        std::fs::write(&file, "\"a very secret thing\"").unwrap();
        let error = builder().secrets_file(&file).build().unwrap_err();
        assert!(!error.to_string().contains("very secret"), "{error}");
        std::fs::write(&file, Secrets::NONE.to_text()).unwrap();
        assert!(builder().secrets_file(&file).build().is_ok());
    }

    #[test]
    fn paths_are_appended_without_a_second_slash() {
        check_url("http://b:1/prefix/", "http://b:1/prefix");
    }

    #[test]
    fn host_slash_is_not_doubled_in_the_urls_of_a_client() {
        for (host, receive) in [
            ("http://h:1", "http://h:1/v1/receive"),
            ("http://h:1/", "http://h:1/v1/receive"),
            ("http://h/pre/fix//", "http://h/pre/fix/v1/receive"),
            ("http://h/#part", "http://h/v1/receive#part"),
            ("http://h#part/", "http://h/v1/receive#part/"),
        ] {
            let config = builder().host(host).build().unwrap();
            let urls = ClientUrls::of_host(&config.host.unwrap()).unwrap();
            assert_eq!(urls.receive.as_str(), receive);
            let recovery = receive.replace("receive", "recover");
            assert_eq!(urls.recovery.as_str(), recovery);
        }
    }

    #[test]
    fn a_broadcaster_may_be_named_by_either_of_its_schemes() {
        check_url("ws://b:1", "http://b:1");
        if HAS_TLS {
            check_url("WSS://b/prefix", "https://b/prefix");
            check_url("HTTPS://b", "https://b");
        }
    }

    #[track_caller]
    fn check_url(url: &str, want: &str) {
        let config = ClientConfig::builder([url]).build().unwrap();
        assert_eq!(config.broadcasters[0].url, want);
    }

    #[test]
    fn https_is_refused_by_a_build_without_tls() {
        let built = ClientConfig::builder(["https://b"]).build();
        assert_eq!(built.is_ok(), HAS_TLS);
        let no_tls = matches!(built, Err(ConfigError::NoTls { .. }));
        assert_eq!(no_tls, !HAS_TLS);
    }

    #[cfg(feature = "websocket")]
    #[test]
    fn a_websocket_that_could_not_work_is_told_at_once() {
        use bytes::Bytes;

        use crate::config::websocket::PresetDictionary;

        let websocket = |change: fn(&mut WebSocketConfig)| {
            let mut options = WebSocketConfig::default();
            change(&mut options);
            builder().websocket(options)
        };
        assert!(websocket(|_| {}).build().is_ok());
        refused(
            websocket(|it| it.message_bytes_max = 16 * 1024 * 1024 + 1),
            "websocket messages may have 1,024 to 16,777,216 bytes, not 16777217",
        );
        refused(
            websocket(|it| it.initial_dict = 2),
            "there is no preset dictionary 2 to ask for",
        );
        refused(
            websocket(|it| it.heartbeat_interval = Duration::ZERO),
            "`heartbeat_interval` must be at least 1",
        );
        let preset = |id| PresetDictionary {
            id,
            dictionary: Bytes::from_static(b"dictionary"),
        };
        for presets in [vec![preset(1)], vec![preset(2), preset(3), preset(2)]] {
            let id = presets[0].id;
            let options = WebSocketConfig {
                presets,
                ..WebSocketConfig::default()
            };
            refused(
                builder().websocket(options),
                &format!("a preset dictionary needs an id of its own from 2 on, not {id}"),
            );
        }
    }
}
