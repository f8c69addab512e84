//! What can be set about a client.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use httppubsub_net::{BodyLimits, Clock, PostConfig, ServeConfig, SpoolConfig};
use httppubsub_proto::auth::{Authorization, NoAuthorization, Secrets};
use httppubsub_proto::http as paths;
use httppubsub_proto::url::{ClientUrls, Endpoint, EndpointError, UrlTooLong};

/// A broadcaster to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub(crate) retry_ambiguous: bool,
    pub(crate) reconcile_interval: Duration,
    pub(crate) queue_max: usize,
    pub(crate) replay_codes_max: usize,
    pub(crate) spool: SpoolConfig,
    pub(crate) post: PostConfig,
    pub(crate) serve: ServeConfig,
    pub(crate) body: BodyLimits,
    pub(crate) clock: Clock,
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
            retry_ambiguous: true,
            reconcile_interval: Duration::from_secs(300),
            queue_max: 1_024,
            replay_codes_max: 1_000_000,
            spool: SpoolConfig::default(),
            post: PostConfig::default(),
            serve: ServeConfig::default(),
            body: BodyLimits::default(),
            clock: Clock::system(),
        })
    }
}

/// Why a client cannot be configured so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nobody to ask.
    #[error("no broadcaster is named")]
    NoBroadcaster,
    /// Nothing can be posted to a broadcaster's url.
    #[error("the broadcaster's url {url:?} cannot be used")]
    Broadcaster {
        /// As given.
        url: String,
        /// Why not.
        #[source]
        source: EndpointError,
    },
    /// Paths are appended to the url, so it must end before a query or fragment.
    #[error("the broadcaster's url {url:?} has a query or a fragment")]
    BroadcasterQuery {
        /// As given.
        url: String,
    },
    /// Nobody can guess where the client will be reached.
    #[error("bound so, the client cannot know where broadcasters reach it: set `host`")]
    HostNeeded,
    /// Nothing can be posted to the client's own url.
    #[error("the client's own url {host:?} cannot be used")]
    Host {
        /// As given.
        host: String,
        /// Why not.
        #[source]
        source: EndpointError,
    },
    /// Paths are inserted before the fragment, which a query does not allow.
    #[error("the client's own url {host:?} has a query")]
    HostQuery {
        /// As given.
        host: String,
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
    /// waits 2^(i−1) to 2^(i−1) + 1 seconds. Default 2, at least 1.
    pub fn passes(mut self, passes: u32) -> Self {
        self.0.passes = passes;
        self
    }

    /// Whether a request goes to the next broadcaster when this one may have done it already. A
    /// notification may then be delivered twice. Default: yes.
    pub fn retry_ambiguous(mut self, retry: bool) -> Self {
        self.0.retry_ambiguous = retry;
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

    /// Bounds on what is posted to broadcasters.
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

fn check_broadcaster(url: &str) -> Result<(), ConfigError> {
    if url.contains(['?', '#']) {
        let url = url.to_owned();
        return Err(ConfigError::BroadcasterQuery { url });
    }
    match Endpoint::parse_str(&format!("{url}{}", paths::NOTIFY)) {
        Ok(_) => Ok(()),
        Err(source) => {
            let url = url.to_owned();
            Err(ConfigError::Broadcaster { url, source })
        }
    }
}

fn check_host(host: &str) -> Result<(), ConfigError> {
    let urls = ClientUrls::of_host(host)?;
    if host.split('#').next().is_some_and(|it| it.contains('?')) {
        let host = host.to_owned();
        return Err(ConfigError::HostQuery { host });
    }
    match Endpoint::parse(&urls.receive) {
        Ok(_) => Ok(()),
        Err(source) => {
            let host = host.to_owned();
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
            "the broadcaster's url \"localhost:3003\" cannot be used",
        );
        refused(
            ClientConfig::builder(["http://b/?q"]),
            "the broadcaster's url \"http://b/?q\" has a query or a fragment",
        );
        let needed = "bound so, the client cannot know where broadcasters reach it: set `host`";
        refused(builder().bind(Bind::Mounted), needed);
        let any = Bind::To("[::]:3002".parse().unwrap());
        refused(builder().bind(any), needed);
        assert!(builder().bind(any).host("http://me:3002").build().is_ok());
        refused(
            builder().host("http://me/?q#f"),
            "the client's own url \"http://me/?q#f\" has a query",
        );
        refused(
            builder().host("me"),
            "the client's own url \"me\" cannot be used",
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
        let config = ClientConfig::builder(["http://b:1/prefix/"])
            .build()
            .unwrap();
        assert_eq!(config.broadcasters[0].url, "http://b:1/prefix");
    }
}
