//! Flags that say which broadcasters are asked, and how.

use std::path::PathBuf;

use httppubsub_client::{BroadcasterAddress, ClientConfig, ClientConfigBuilder};

use crate::secrets;

/// Flags of every verb that speaks with a broadcaster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Connection {
    /// Url of a broadcaster. May be given more than once, for broadcasters that share their
    /// subscriptions: the first is asked first, the others when it cannot do it.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:3003",
        env = "HTTPPUBSUB_BROADCASTER"
    )]
    broadcaster: Vec<String>,

    /// Secrets file, as `httppubsub setup` or the first start of `httppubsub serve` writes it.
    /// [default: no authorization]
    #[arg(long, value_name = "FILE", env = "HTTPPUBSUB_SECRETS")]
    secrets: Option<PathBuf>,
}

impl Connection {
    /// A client's configuration that says this much.
    pub(crate) fn builder(&self) -> anyhow::Result<ClientConfigBuilder> {
        let secrets = secrets::read(self.secrets.as_deref())?;
        let broadcasters = self.broadcaster.iter().zip(0..);
        let broadcasters =
            broadcasters.map(|(url, at)| BroadcasterAddress::new(url.as_str()).priority(at));
        Ok(ClientConfig::builder(broadcasters).secrets(&secrets))
    }
}
