//! Makes a broadcaster of a store, secrets and settings.

use std::path::Path;
use std::sync::Arc;

use httppubsub_net::{SecretsFileError, read_secrets};
use httppubsub_proto::auth::Secrets;
use httppubsub_proto::paths::{MISSED_FOR_WEBSOCKETS, RECEIVE_FOR_WEBSOCKETS};
use httppubsub_store::Store;

use crate::broadcaster::{Broadcaster, StartError};
use crate::config::{Authorizations, Config};

/// A broadcaster before its start: a store, secrets, and the settings that differ from the
/// defaults.
///
/// Secrets are required, because a broadcaster without them lets everybody who reaches it subscribe
/// and notify. Call one of [`secrets`], [`secrets_file`] and [`authorizations`], for everybody with
/// [`Secrets::NONE`].
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use httppubsub_broadcaster::{Broadcaster, Config};
/// use httppubsub_store::SqliteStore;
///
/// let mut config = Config::default();
/// config.message_bytes_max = Some(64 * 1024 * 1024);
/// let store = Arc::new(SqliteStore::open("subscriptions.db").await?);
/// let broadcaster = Broadcaster::builder(store)
///     .secrets_file("broadcaster-secrets.json")
///     .config(config)
///     .build()
///     .await?;
/// # drop(broadcaster);
/// # Ok(())
/// # }
/// ```
///
/// [`secrets`]: Self::secrets
/// [`secrets_file`]: Self::secrets_file
/// [`authorizations`]: Self::authorizations
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before `build`"]
pub struct BroadcasterBuilder {
    /// Given first: without it there is nothing to build.
    store: Arc<dyn Store>,
    /// Replaced as a whole by [`BroadcasterBuilder::config`].
    config: Config,
    /// The base of this broadcaster's own urls, if it is not that of `config`.
    advertised: Option<String>,
    /// The last that was set, or the reason why it cannot be used.
    authorizations: Option<Result<Authorizations, SecretsFileError>>,
}

impl Broadcaster {
    /// Begins a broadcaster that keeps its subscriptions in `store`.
    pub fn builder(store: Arc<dyn Store>) -> BroadcasterBuilder {
        BroadcasterBuilder {
            store,
            config: Config::default(),
            advertised: None,
            authorizations: None,
        }
    }
}

impl BroadcasterBuilder {
    /// The schemes and secrets of both directions.
    pub fn secrets(self, secrets: &Secrets) -> Self {
        self.authorizations(secrets)
    }

    /// The schemes and secrets of both directions, read from the file that `httppubsub setup` or
    /// the first start of `httppubsub serve` wrote for broadcasters. The file is read at once;
    /// [`build`] fails with [`StartError::SecretsFile`] if that is not possible.
    ///
    /// [`build`]: Self::build
    pub fn secrets_file(mut self, path: impl AsRef<Path>) -> Self {
        let secrets = read_secrets(path);
        self.authorizations = Some(secrets.map(|it| Authorizations::from(&it)));
        self
    }

    /// The schemes of both directions, which may be your own.
    pub fn authorizations(mut self, authorizations: impl Into<Authorizations>) -> Self {
        self.authorizations = Some(Ok(authorizations.into()));
        self
    }

    /// All other settings. Default: [`Config::default`]. Replaces what was set before by this
    /// method, and by no other.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The url at which other broadcasters on the store reach this one, such as
    /// `http://10.0.0.7:3003`, or with the prefix at which its router is mounted. Takes the place
    /// of [`Config::receiver_url`] and [`Config::missed_url`], which lie below it. Required if the
    /// store is shared.
    pub fn advertise(mut self, url: impl Into<String>) -> Self {
        self.advertised = Some(url.into());
        self
    }

    /// Starts the broadcaster: loads the subscriptions and begins to send the notices that are
    /// owed. Must be called inside a tokio runtime.
    pub async fn build(self) -> Result<Broadcaster, StartError> {
        let authorizations = self.authorizations.ok_or(StartError::NoAuthorization)??;
        let config = match self.advertised {
            Some(url) => reached_below(&url, self.config),
            None => self.config,
        };
        check(&config)?;
        Broadcaster::start(config, self.store, authorizations).await
    }
}

/// Checks what one setting cannot show.
fn check(config: &Config) -> Result<(), StartError> {
    let presets = &config.websockets.presets;
    let known = |id: u16| presets.iter().filter(|it| it.id == id).count();
    // 0 stands for no compression, and 1 for compression without a dictionary (§11).
    match presets.iter().find(|it| it.id < 2 || known(it.id) > 1) {
        Some(preset) => Err(StartError::Preset { id: preset.id }),
        None => Ok(()),
    }
}

/// The same for a broadcaster whose paths lie below `base`.
fn reached_below(base: &str, config: Config) -> Config {
    let base = base.trim_end_matches('/');
    Config {
        receiver_url: format!("{base}{RECEIVE_FOR_WEBSOCKETS}"),
        missed_url: format!("{base}{MISSED_FOR_WEBSOCKETS}"),
        ..config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Preset;
    use bytes::Bytes;
    use httppubsub_store::MemoryStore;

    fn builder() -> BroadcasterBuilder {
        Broadcaster::builder(Arc::new(MemoryStore::new()))
    }

    #[tokio::test]
    async fn nobody_is_let_in_by_forgetting_the_secrets() {
        let error = builder().build().await.unwrap_err();
        assert!(matches!(error, StartError::NoAuthorization), "{error}");
        assert!(builder().secrets(&Secrets::NONE).build().await.is_ok());
    }

    #[tokio::test]
    async fn a_secrets_file_is_used_or_named() {
        let missing = builder().secrets_file("/nowhere/secrets.json").build();
        let error = missing.await.unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/secrets.json"),
            "{error}"
        );
    }

    #[test]
    fn a_dictionary_has_an_id_of_its_own() {
        let checked = |ids: &[u16]| {
            let mut config = Config::default();
            let presets = ids.iter().map(|id| Preset {
                id: *id,
                dictionary: Bytes::from_static(b"dictionary"),
                level: 3,
                min_size: 32,
            });
            config.websockets.presets = presets.collect();
            check(&config).map_err(|error| error.to_string())
        };
        assert_eq!(checked(&[2, 3]), Ok(()));
        for ids in [&[1][..], &[2, 3, 2]] {
            let id = ids[0];
            let why = format!("a preset dictionary needs an id of its own from 2 on, not {id}");
            assert_eq!(checked(ids), Err(why));
        }
    }

    #[test]
    fn own_urls_lie_below_the_advertised_one() {
        let config = reached_below("http://10.0.0.7:3003/pubsub/", Config::default());
        let base = "http://10.0.0.7:3003/pubsub/v1";
        assert_eq!(
            config.receiver_url,
            format!("{base}/receive_for_websockets")
        );
        assert_eq!(config.missed_url, format!("{base}/missed_for_websockets"));
    }
}
