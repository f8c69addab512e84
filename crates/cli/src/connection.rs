//! Flags that say which broadcasters are asked, and how.
//!
//! Secrets are looked for in this order:
//!
//! 1. `--secrets FILE`;
//! 2. the variable `HTTPPUBSUB_SECRETS`;
//! 3. `httppubsub-data/subscriber-secrets.json` in the current folder, if every broadcaster is on
//!    loopback;
//! 4. none: requests go without authorization, which a broadcaster with secrets refuses.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use httppubsub_client::{
    BroadcasterAddress, ClientConfig, ClientConfigBuilder, PresetDictionary, WebSocketConfig,
};
use httppubsub_proto::url::Endpoint;

use crate::console;
use crate::hints::{self, Hinted, Receiver, SecretsFile};
use crate::secrets;
use crate::units;

/// Flags of every verb that speaks with a broadcaster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Connection {
    /// Url of a broadcaster. May be given more than once, for broadcasters that share their
    /// subscriptions: the first is asked first, the others when it cannot do it.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:3003",
        env = "HTTPPUBSUB_BROADCASTER",
        value_parser = units::http_url
    )]
    broadcaster: Vec<String>,

    /// Secrets file, as `httppubsub setup` or the first start of `httppubsub serve` writes it.
    /// [default: httppubsub-data/subscriber-secrets.json if that is there and the broadcaster is on
    /// loopback, otherwise no authorization]
    #[arg(long, value_name = "FILE", env = "HTTPPUBSUB_SECRETS")]
    secrets: Option<PathBuf>,
}

/// Flags of the verbs that can do it over a websocket.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WebSocket {
    /// Hold one websocket open to the broadcaster instead of speaking HTTP with it: nobody needs
    /// to reach this program. The url is the same.
    #[arg(long, env = "HTTPPUBSUB_WS")]
    pub(crate) ws: bool,

    /// With --ws: do not let messages be compressed on the way.
    #[arg(long, requires = "ws")]
    no_compression: bool,

    /// With --ws: compress with the dictionary in this file, which the broadcaster must know by the
    /// same id (2 to 65535).
    #[arg(long, value_name = "ID:PATH", requires = "ws", value_parser = preset)]
    zstd_preset: Option<(u16, PathBuf)>,
}

/// `ID:PATH` of a dictionary. 0 and 1 are taken by the protocol: no compression, and zstd without a
/// dictionary (`docs/protocol/stateful.md`).
fn preset(text: &str) -> Result<(u16, PathBuf), String> {
    // At the first colon: a path may hold more.
    let (id, path) = text.split_once(':').ok_or("use ID:PATH")?;
    let id: u16 = id.parse().map_err(|error| format!("ID: {error}"))?;
    match (id, path) {
        (0 | 1, _) => Err("ID: must be at least 2".to_owned()),
        (_, "") => Err("PATH: must not be empty".to_owned()),
        _ => Ok((id, path.into())),
    }
}

impl WebSocket {
    /// The configuration, with a websocket if one is asked for. `connect_retries` as in
    /// [`WebSocketConfig`].
    pub(crate) fn on(
        &self,
        builder: ClientConfigBuilder,
        connect_retries: u32,
    ) -> anyhow::Result<ClientConfigBuilder> {
        if !self.ws {
            return Ok(builder);
        }
        let mut options = WebSocketConfig::default();
        options.compression = !self.no_compression;
        options.connect_retries = connect_retries;
        if let Some((id, path)) = &self.zstd_preset {
            let dictionary = std::fs::read(path)
                .with_context(|| format!("cannot read the dictionary {}", path.display()))?;
            // Asked for from the first message on: the file is there, so there is nothing to learn
            // first.
            options.initial_dict = *id;
            options.presets.push(PresetDictionary {
                id: *id,
                dictionary: dictionary.into(),
            });
        }
        Ok(builder.websocket(options))
    }
}

/// The file that the first start of `httppubsub serve` in the same folder writes for subscribers.
const SECRETS: &str = "httppubsub-data/subscriber-secrets.json";

impl Connection {
    /// The broadcaster that is asked first.
    pub(crate) fn first_broadcaster(&self) -> &str {
        self.broadcaster.first().map_or("", String::as_str)
    }

    /// A client's configuration that says this much.
    ///
    /// # Errors
    ///
    /// A secrets file that cannot be read or parsed. It is read here, before anything is sent, so
    /// that a mistyped path is not taken for a refusal of the broadcaster.
    pub(crate) fn builder(&self) -> anyhow::Result<ClientConfigBuilder> {
        let secrets = secrets::read(self.secrets().path())?;
        // Their order on the command line is their priority: others are asked only when those
        // before cannot.
        let broadcasters = self.broadcaster.iter().zip(0..);
        let broadcasters =
            broadcasters.map(|(url, at)| BroadcasterAddress::new(url.as_str()).priority(at));
        Ok(ClientConfig::builder(broadcasters).secrets(&secrets))
    }

    /// The secrets file in use. A file found by default serves a broadcaster on loopback only: it
    /// belongs to one that was started in this folder, and a broadcaster elsewhere must not see its
    /// token.
    fn secrets(&self) -> SecretsFile {
        if let Some(path) = &self.secrets {
            return SecretsFile::Named(path.clone());
        }
        let there = Some(Path::new(SECRETS)).filter(|path| path.is_file());
        let there = there.map(Path::to_owned);
        match there {
            Some(path) if self.broadcaster.iter().all(|url| is_on_loopback(url)) => {
                SecretsFile::Found(path)
            }
            passed_over => SecretsFile::None { passed_over },
        }
    }

    /// Says on stderr which secrets are gone by, if nobody named them.
    pub(crate) fn say_what_was_found(&self) {
        if let SecretsFile::Found(path) = self.secrets() {
            let path = path.display();
            console::say(format_args!("with the secrets found in {path}"));
        }
    }

    /// `error`, with a hint if one is known.
    pub(crate) fn explain(&self, error: anyhow::Error, receiver: Receiver<'_>) -> anyhow::Error {
        match hints::of(&error, &self.secrets(), receiver) {
            Some(hint) => Hinted::error(error, hint),
            None => error,
        }
    }
}

/// `true` if `broadcaster` can only be on this machine. A name other than `localhost` is not looked
/// up: it may lead elsewhere the next time.
fn is_on_loopback(broadcaster: &str) -> bool {
    // It may be named by its websocket as well.
    let (_, rest) = broadcaster.split_once("://").unwrap_or(("", broadcaster));
    let endpoint = Endpoint::parse_str(&format!("http://{rest}"));
    endpoint.is_ok_and(|endpoint| {
        let host = &endpoint.origin().host;
        let address = host.parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_secrets_for_a_broadcaster_on_this_machine() {
        for (url, want) in [
            ("http://127.0.0.1:3003", true),
            ("ws://127.8.9.10:1/prefix/", true),
            ("http://LOCALHOST", true),
            ("https://[::1]:3003", true),
            ("http://10.0.0.7:3003", false),
            ("http://localhost.example.com", false),
            ("http://127.0.0.1@example.com", false),
            ("", false),
        ] {
            assert_eq!(is_on_loopback(url), want, "{url}");
        }
    }
}
