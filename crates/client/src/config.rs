//! What can be set about a client.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use httppubsub_net::{
    BodyLimits, Clock, DecompressLimits, Egress, PostConfig, ServeConfig, SpoolConfig,
};
use httppubsub_proto::auth::{Authorization, NoAuthorization, Secrets};
use httppubsub_proto::http as paths;
use httppubsub_proto::time;
use httppubsub_proto::url::{ClientUrls, Endpoint, EndpointError, UrlTooLong, redacted};
use httppubsub_proto::ws::HeaderStyle;

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

/// How broadcasters reach this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// The client listens here itself; port 0 picks a free one.
    To(SocketAddr),
    /// The client's router is mounted in a server of yours; needs [`ClientConfigBuilder::host`].
    Mounted,
    /// Not at all: this client only notifies.
    Nothing,
}

/// All that is set about a client, checked.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(crate) broadcasters: Vec<BroadcasterAddress>,
    pub(crate) bind: Bind,
    pub(crate) host: Option<String>,
    pub(crate) to_broadcaster: Arc<dyn Authorization>,
    pub(crate) to_subscriber: Arc<dyn Authorization>,
    pub(crate) passes: u32,
    pub(crate) retry_ambiguous: Option<bool>,
    pub(crate) reconcile_interval: Duration,
    pub(crate) queue_max: usize,
    pub(crate) replay_codes_max: usize,
    pub(crate) spool: SpoolConfig,
    pub(crate) post: PostConfig,
    pub(crate) serve: ServeConfig,
    pub(crate) body: BodyLimits,
    pub(crate) clock: Clock,
    pub(crate) websocket: Option<WebSocketOptions>,
}

/// What can be set about a client that holds one websocket open instead of listening for HTTP
/// (`docs/protocol/stateful.md` §14).
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// How headers are written. Default: minimal.
    pub headers: HeaderStyle,
    /// Longest websocket message that is sent, in bytes; longer notifications are sent in parts.
    /// Default 3,670,016 (3.5 MiB); at most 16 MiB, which is what published broadcasters read.
    pub message_bytes_max: u64,
    /// Longest websocket message that is read, in bytes. Default 16 MiB.
    pub received_message_bytes_max: usize,
    /// How long connection and handshake may take, and CONFIGURE after that. Default 5 s.
    pub open_timeout: Duration,
    /// How long closing may take: so long for what is on its way, and so long again for the
    /// broadcaster to close too. Default 5 s.
    pub close_timeout: Duration,
    /// After how long without a sign of the broadcaster it is asked for one; it has half as long
    /// to give it. Default 10 s.
    pub heartbeat_interval: Duration,
    /// A connection that lasted so long is a success: when it is lost, all broadcasters are tried
    /// anew. Default 1 s.
    pub reconnect_interval_min: Duration,
    /// How many more times all broadcasters are tried, with growing pauses of at most a minute,
    /// before the client gives up for good. Default 2, as published subscribers do; a program that
    /// is to outlast its broadcaster wants more, such as `u32::MAX`.
    pub connect_retries: u32,
    /// How many notifications may wait to be sent, while there is no connection or it is slow;
    /// further ones fail at once. Default: no limit, each caller waits for its own.
    pub unsent_notifications_max: Option<NonZeroUsize>,
    /// How many notifications may be unacknowledged; the next is sent when one is acknowledged.
    /// Default: no limit.
    pub sent_notifications_max: Option<NonZeroUsize>,
    /// How many acknowledgements of requests and of parts of notifications may be awaited before a
    /// further request or notification is sent. Default 128: published broadcasters close a websocket
    /// from which 255 wait to be worked on.
    pub expected_acknowledgements_max: Option<NonZeroUsize>,
    /// Whether messages may be compressed. Default: yes.
    pub compression: bool,
    /// Whether the broadcaster may train dictionaries on what the connection carries. Default: yes.
    pub training: bool,
    /// Dictionaries that the broadcaster knows as well. Default: none.
    pub presets: Vec<PresetDictionary>,
    /// Id of the one of them that is asked for; 0: none. Default 0.
    pub initial_dict: u16,
    /// What decompression may cost. Default: windows up to 128 MiB, as published subscribers.
    pub decompress: DecompressLimits,
}

/// A dictionary that both ends know beforehand.
#[derive(Clone, Debug)]
pub struct PresetDictionary {
    /// From 2 on.
    pub id: u16,
    /// The dictionary, trained or raw.
    pub dictionary: Bytes,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self {
            headers: HeaderStyle::default(),
            message_bytes_max: 3_670_016,
            received_message_bytes_max: 16 * 1024 * 1024,
            open_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(10),
            reconnect_interval_min: Duration::from_secs(1),
            connect_retries: 2,
            unsent_notifications_max: None,
            sent_notifications_max: None,
            expected_acknowledgements_max: NonZeroUsize::new(128),
            compression: true,
            training: true,
            presets: Vec::new(),
            initial_dict: 0,
            decompress: DecompressLimits {
                window_bytes_max: 0,
            },
        }
    }
}

impl ClientConfig {
    /// Begins a configuration for these broadcasters, which share their subscriptions: each request
    /// goes to one of them.
    pub fn builder<A>(broadcasters: impl IntoIterator<Item = A>) -> ClientConfigBuilder
    where
        A: Into<BroadcasterAddress>,
    {
        ClientConfigBuilder(Self {
            broadcasters: broadcasters.into_iter().map(Into::into).collect(),
            bind: Bind::To((Ipv4Addr::LOCALHOST, 0).into()),
            host: None,
            to_broadcaster: Arc::new(NoAuthorization),
            to_subscriber: Arc::new(NoAuthorization),
            passes: 2,
            retry_ambiguous: None,
            reconcile_interval: Duration::from_secs(300),
            queue_max: 1_024,
            replay_codes_max: 1_000_000,
            spool: SpoolConfig::default(),
            // Whoever names the broadcasters decides where they are.
            post: PostConfig {
                // A second for each MiB to be sent, and one to be delivered.
                rate_min: 512 * 1024,
                egress: Egress::anything(),
                ..PostConfig::default()
            },
            serve: ServeConfig::default(),
            body: BodyLimits::default(),
            clock: Clock::system(),
            websocket: None,
        })
    }
}

impl ClientConfig {
    /// How long the answer to a notification with a message of this length is waited for, from the first
    /// byte that is sent.
    pub fn notify_timeout(&self, message_bytes: u64) -> Duration {
        self.post.timeout(message_bytes)
    }
}

/// Why a client cannot be configured so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nobody to ask.
    #[error("no broadcaster is named")]
    NoBroadcaster,
    /// Nothing can be posted to a broadcaster's url.
    #[error("the broadcaster's url {url:?} cannot be used: {source}")]
    Broadcaster {
        /// As given, without what may be secret.
        url: String,
        /// Why not.
        r#source: EndpointError,
    },
    /// Paths are appended to the url, so it must end before a query or fragment.
    #[error("the broadcaster's url {url:?} has a query or a fragment")]
    BroadcasterQuery {
        /// As given, without what may be secret.
        url: String,
    },
    /// Nobody can guess where the client will be reached.
    #[error("bound so, the client cannot know where broadcasters reach it: set `host`")]
    HostNeeded,
    /// Nothing can be posted to the client's own url.
    #[error("the client's own url {host:?} cannot be used: {source}")]
    Host {
        /// As given, without what may be secret.
        host: String,
        /// Why not.
        r#source: EndpointError,
    },
    /// Paths are inserted before the fragment, which a query does not allow.
    #[error("the client's own url {host:?} has a query")]
    HostQuery {
        /// As given, without what may be secret.
        host: String,
    },
    /// A websocket message of another length was asked for.
    #[error("websocket messages may have 1,024 to 16,777,216 bytes, not {bytes}")]
    MessageBytes {
        /// As given, without what may be secret.
        bytes: u64,
    },
    /// A dictionary that cannot be told from others.
    #[error("a preset dictionary needs an id of its own from 2 on, not {id}")]
    Preset {
        /// As given, without what may be secret.
        id: u16,
    },
    /// The dictionary to be asked for is not there.
    #[error("there is no preset dictionary {id} to ask for")]
    NoPreset {
        /// As given, without what may be secret.
        id: u16,
    },
    /// The client's own url does not fit the protocol.
    #[error(transparent)]
    HostTooLong(#[from] UrlTooLong),
    /// A number that must be at least 1 is 0.
    #[error("`{setting}` must be at least 1")]
    Zero {
        /// Which.
        setting: &'static str,
    },
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
pub struct ClientConfigBuilder(ClientConfig);

impl ClientConfigBuilder {
    /// How broadcasters reach this client. Default: a free port of 127.0.0.1, which serves where
    /// the broadcaster runs on the same machine and the client is always [closed] in the end. A
    /// fixed port lets a client that was killed find its subscriptions again.
    ///
    /// [closed]: crate::Client::close
    pub fn bind(mut self, bind: Bind) -> Self {
        self.0.bind = bind;
        self
    }

    /// Where broadcasters reach this client: an url without a query, such as
    /// `http://10.0.0.7:3002` or `https://app.example/pubsub#2`. A path is a prefix at which a
    /// proxy or the [router]'s mount is found; a fragment keeps the subscriptions of clients apart
    /// that are reached at the same place. No two clients may share all of it: each would erase
    /// what the other subscribes to. Default: the bound address.
    ///
    /// [router]: crate::Client::router
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.0.host = Some(host.into());
        self
    }

    /// The schemes and secrets of both directions. Default: none, anybody who reaches the client
    /// is believed.
    pub fn secrets(mut self, secrets: &Secrets) -> Self {
        self.0.to_broadcaster = secrets.to_broadcaster.authorization();
        self.0.to_subscriber = secrets.to_subscriber.authorization();
        self
    }

    /// A scheme for what this client says. Default: none.
    pub fn to_broadcaster(mut self, authorization: Arc<dyn Authorization>) -> Self {
        self.0.to_broadcaster = authorization;
        self
    }

    /// A scheme for what broadcasters say. Default: none.
    pub fn to_subscriber(mut self, authorization: Arc<dyn Authorization>) -> Self {
        self.0.to_subscriber = authorization;
        self
    }

    /// How often each broadcaster is asked before a request is given up; before pass i (from 1) it
    /// waits 2^(i−1) to 2^(i−1) + 1 seconds. Over websockets, a notification is begun on no more
    /// connections than that. Default 2, at least 1.
    pub fn passes(mut self, passes: u32) -> Self {
        self.0.passes = passes;
        self
    }

    /// Whether a request goes to the next broadcaster, or over the next websocket, when it was sent
    /// whole and this one may have done it already. Default: changes of subscriptions do, which
    /// may be made twice; a notification does not, since subscribers might get it twice.
    pub fn retry_ambiguous(mut self, retry: bool) -> Self {
        self.0.retry_ambiguous = Some(retry);
        self
    }

    /// How often the broadcasters are asked whether they hold the right subscriptions. Default
    /// 300 s.
    pub fn reconcile_interval(mut self, interval: Duration) -> Self {
        self.0.reconcile_interval = interval;
        self
    }

    /// How many messages wait in one subscription. When it is full, further messages are dropped
    /// for this subscription, which is told so, and the others do not wait for it; a message that
    /// no subscription had room for is not confirmed. Default 1024, at least 1.
    pub fn queue_max(mut self, messages: usize) -> Self {
        self.0.queue_max = messages;
        self
    }

    /// How many authorizations of broadcasters are remembered, so that none counts twice; when that
    /// many were used within five minutes, further messages are answered 503. Default 1,000,000,
    /// some 60 MB.
    pub fn replay_codes_max(mut self, codes: usize) -> Self {
        self.0.replay_codes_max = codes;
        self
    }

    /// Where and from which size on messages are kept in files.
    pub fn spool(mut self, spool: SpoolConfig) -> Self {
        self.0.spool = spool;
        self
    }

    /// Bounds on what is posted to broadcasters. Default: those of [`PostConfig`], and no restriction of
    /// where to. Its `answer_timeout` of 30 s is longer than a broadcaster takes (15 s), and its
    /// `rate_min` of 512 KiB/s gives a long message the time to be sent and to be delivered; one that is
    /// shorter than the broadcaster's gives notifications up that are being delivered.
    pub fn post(mut self, post: PostConfig) -> Self {
        self.0.post = post;
        self
    }

    /// Bounds on connections to this client.
    pub fn serve(mut self, serve: ServeConfig) -> Self {
        self.0.serve = serve;
        self
    }

    /// How slowly messages may arrive.
    pub fn body(mut self, body: BodyLimits) -> Self {
        self.0.body = body;
        self
    }

    /// Holds one websocket open instead of listening for HTTP: nobody needs to reach the client, and
    /// [`bind`] and [`host`] mean nothing. Default: HTTP.
    ///
    /// [`bind`]: Self::bind
    /// [`host`]: Self::host
    pub fn websocket(mut self, options: WebSocketOptions) -> Self {
        self.0.websocket = Some(options);
        self
    }

    /// Where the time is read. Default: the machine's clock.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.0.clock = clock;
        self
    }

    /// Checks all of it.
    pub fn build(mut self) -> Result<ClientConfig, ConfigError> {
        if self.0.broadcasters.is_empty() {
            return Err(ConfigError::NoBroadcaster);
        }
        for broadcaster in &mut self.0.broadcasters {
            broadcaster.url = as_http(&broadcaster.url);
            check_broadcaster(&broadcaster.url)?;
            // The paths that are appended begin with a slash.
            let bytes = broadcaster.url.trim_end_matches('/').len();
            broadcaster.url.truncate(bytes);
        }
        for (setting, zero) in [
            ("passes", self.0.passes == 0),
            ("reconcile_interval", self.0.reconcile_interval.is_zero()),
            ("queue_max", self.0.queue_max == 0),
            ("replay_codes_max", self.0.replay_codes_max == 0),
        ] {
            if zero {
                return Err(ConfigError::Zero { setting });
            }
        }
        self.0.post = self.0.post.bounded();
        self.0.serve = self.0.serve.bounded();
        if let Some(options) = &mut self.0.websocket {
            time::bound([
                &mut options.open_timeout,
                &mut options.close_timeout,
                &mut options.heartbeat_interval,
                &mut options.reconnect_interval_min,
            ]);
            check_websocket(options)?;
            // Nobody needs to reach this client.
            self.0.bind = Bind::Nothing;
            return Ok(self.0);
        }
        self.0.host = self.0.host.as_deref().map(without_slash);
        match (&self.0.host, self.0.bind) {
            (Some(host), _) => check_host(host)?,
            (None, Bind::Mounted) => return Err(ConfigError::HostNeeded),
            (None, Bind::To(address)) if address.ip().is_unspecified() => {
                return Err(ConfigError::HostNeeded);
            }
            (None, Bind::To(_) | Bind::Nothing) => {}
        }
        Ok(self.0)
    }
}

/// One server speaks both, whichever of the two is named.
fn as_http(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match scheme.to_ascii_lowercase().as_str() {
        "ws" | "http" => format!("http://{rest}"),
        "wss" | "https" => format!("https://{rest}"),
        _ => url.to_owned(),
    }
}

fn check_websocket(options: &WebSocketOptions) -> Result<(), ConfigError> {
    let WebSocketOptions {
        message_bytes_max,
        presets,
        initial_dict,
        ..
    } = options;
    for (setting, zero) in [
        (
            "received_message_bytes_max",
            options.received_message_bytes_max == 0,
        ),
        ("open_timeout", options.open_timeout.is_zero()),
        ("heartbeat_interval", options.heartbeat_interval.is_zero()),
    ] {
        if zero {
            return Err(ConfigError::Zero { setting });
        }
    }
    if !(1_024..=16 * 1024 * 1024).contains(message_bytes_max) {
        return Err(ConfigError::MessageBytes {
            bytes: *message_bytes_max,
        });
    }
    let known = |id: u16| presets.iter().filter(|it| it.id == id).count();
    if let Some(preset) = presets.iter().find(|it| it.id < 2 || known(it.id) > 1) {
        return Err(ConfigError::Preset { id: preset.id });
    }
    if *initial_dict > 1 && known(*initial_dict) == 0 {
        return Err(ConfigError::NoPreset { id: *initial_dict });
    }
    Ok(())
}

fn check_broadcaster(url: &str) -> Result<(), ConfigError> {
    if url.contains(['?', '#']) {
        let url = redacted(url);
        return Err(ConfigError::BroadcasterQuery { url });
    }
    match Endpoint::parse_str(&format!("{url}{}", paths::NOTIFY)) {
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
    let split = host.find('#').unwrap_or(host.len());
    let (path, fragment) = host.split_at(split);
    format!("{}{fragment}", path.trim_end_matches('/'))
}

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
            "the broadcaster's url \"localhost:3003\" cannot be used: the scheme is \"localhost\", only \
             http and https are posted to",
        );
        refused(
            ClientConfig::builder(["http://b/?q"]),
            "the broadcaster's url \"http://b/?***\" has a query or a fragment",
        );
        let needed = "bound so, the client cannot know where broadcasters reach it: set `host`";
        refused(builder().bind(Bind::Mounted), needed);
        let any = Bind::To("[::]:3002".parse().unwrap());
        refused(builder().bind(any), needed);
        assert!(builder().bind(any).host("http://me:3002").build().is_ok());
        refused(
            builder().host("http://me/?q#f"),
            "the client's own url \"http://me/?***\" has a query",
        );
        refused(
            builder().host("me"),
            "the client's own url \"me\" cannot be used: not an absolute url: relative URL without a base",
        );
        refused(builder().passes(0), "`passes` must be at least 1");
        refused(
            builder().reconcile_interval(Duration::ZERO),
            "`reconcile_interval` must be at least 1",
        );
        refused(builder().queue_max(0), "`queue_max` must be at least 1");
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
        check_url("WSS://b/prefix", "https://b/prefix");
        check_url("HTTPS://b", "https://b");
    }

    #[track_caller]
    fn check_url(url: &str, want: &str) {
        let config = ClientConfig::builder([url]).build().unwrap();
        assert_eq!(config.broadcasters[0].url, want);
    }

    #[test]
    fn a_websocket_that_could_not_work_is_told_at_once() {
        let websocket = |change: fn(&mut WebSocketOptions)| {
            let mut options = WebSocketOptions::default();
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
            let options = WebSocketOptions {
                presets,
                ..WebSocketOptions::default()
            };
            refused(
                builder().websocket(options),
                &format!("a preset dictionary needs an id of its own from 2 on, not {id}"),
            );
        }
    }
}
