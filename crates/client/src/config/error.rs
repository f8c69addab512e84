//! Reasons to refuse a configuration.

use httppubsub_net::SecretsFileError;
use httppubsub_proto::url::{EndpointError, UrlTooLong};

/// A configuration that is refused, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The secrets file cannot be read, or is not one.
    #[error(transparent)]
    SecretsFile(#[from] SecretsFileError),
    /// There is nobody to ask.
    #[error("no broadcaster is named")]
    NoBroadcaster,
    /// Nothing can be posted to a broadcaster's url.
    #[error("the broadcaster's url {url:?} cannot be used: {source}")]
    Broadcaster {
        /// As given, without what may be secret.
        url: String,
        /// The reason.
        r#source: EndpointError,
    },
    /// The broadcaster wants TLS, which this build does not have.
    #[error(
        "the broadcaster's url {url:?} needs TLS, which this program was built without: enable the \
         feature `tls`"
    )]
    NoTls {
        /// As given, without what may be secret.
        url: String,
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
        /// The reason.
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
    /// A token is empty, or has characters that no header can carry.
    #[error("the token is not visible ASCII characters")]
    Token,
    /// A number that must be at least 1 is 0.
    #[error("`{setting}` must be at least 1")]
    Zero {
        /// Which.
        setting: &'static str,
    },
}
