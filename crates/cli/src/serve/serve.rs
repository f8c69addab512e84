//! `httppubsub serve`: opens what the flags name, and serves until a signal.
//!
//! ```text
//!  flags checked -> log -> data folder, secrets -> listener bound -> metrics -> store
//!      -> broadcaster -> "listening on ..." -> requests
//!
//!  SIGTERM: not ready --(--drain-delay)--> nothing new is taken --(--grace)--> end
//!           a second signal ends the process at once
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use httppubsub_broadcaster::Broadcaster;
use httppubsub_net::outbound::PostConfig;
use httppubsub_store::{MemoryStore, PostgresStore, SqliteStore, Store};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::console;
use crate::files;
use crate::secrets;
use crate::serve::fd_budget::Connections;
use crate::serve::flags::{Database, Serve};
use crate::signals::{self, Stop};
use crate::telemetry::metrics::Metrics;
use crate::tokens;
use crate::usage;

impl Serve {
    /// Serves until a signal ends it.
    ///
    /// Everything that can fail is opened before the first line on standard output, so that a
    /// program that waits for that line knows: from then on it is served.
    ///
    /// # Errors
    ///
    /// A folder, file, database, address or flag that cannot be used. Once it is listening there is
    /// none: what fails then is logged, and readiness says so.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        // Asked of the runtime, which is made already: the flag may be absent.
        let threads = Handle::current().metrics().num_workers();
        if self.busy_poll.is_some() && threads > 1 {
            let problem = "--busy-poll needs --threads 1: of several threads, one that sleeps may \
                           get the next event";
            usage::wrong("serve", problem);
        }
        if self.answer_timeout > self.notify_timeout / 5 * 4 {
            let problem = format!(
                "--answer-timeout {:?} does not fit into --notify-timeout {:?}, of which four \
                 fifths are for deliveries",
                self.answer_timeout, self.notify_timeout
            );
            usage::wrong("serve", &problem);
        }
        self.logs.begin()?;
        // Early: the default action of SIGHUP ends a process, also one that is just opening a
        // database.
        let hangup = Arc::new(Notify::new());
        tokio::spawn(signals::go_on_upon_hangup(hangup.clone())?);
        files::create_folder(&self.data)
            .with_context(|| format!("cannot make the data folder {}", self.data.display()))?;
        let secrets = match &self.secrets {
            Some(file) => secrets::read(Some(file))?,
            None => {
                // One environment is often shared by all programs of a machine; the wrong file
                // would be a puzzle.
                if std::env::var_os("HTTPPUBSUB_SECRETS").is_some_and(|it| !it.is_empty()) {
                    tracing::warn!(
                        "HTTPPUBSUB_SECRETS is for subscribers and publishers; the broadcaster's \
                         own file is named by HTTPPUBSUB_BROADCASTER_SECRETS or --secrets"
                    );
                }
                secrets::read_or_create(&self.data)?
            }
        };
        // Bound before the database is opened: a port in use is found without touching any data.
        // Nothing is accepted yet.
        let listener = TcpListener::bind(self.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr()?;
        let metrics = match self.metrics {
            Some(address) => Some(Metrics::listen(address).await?),
            None => None,
        };
        let store = self.open_store().await?;
        let own = metrics.as_ref().map(|metrics| metrics.address);
        let connections = Connections {
            served: self.connections_max,
            websockets: self.websockets_max,
            posted: PostConfig::default().connections_max,
        };
        // After all files that stay open, and before the broadcaster, whose pools have these
        // bounds.
        let connections = connections.that_fit();
        let mut config = self.config(address, own, connections)?;
        let tokens_file = self.tokens_file();
        let version = tokens::Version::of(&tokens_file);
        // The one in the data folder may be made later; one that is named and not there is a
        // mistyped path, or a token where its file was meant, which is not repeated.
        anyhow::ensure!(
            self.tokens.is_none() || tokens_file.exists(),
            "the tokens file that --tokens or HTTPPUBSUB_TOKENS names is not there: `httppubsub \
             token add` makes one"
        );
        config.tokens = tokens::read(&tokens_file)?;
        let builder = Broadcaster::builder(store).secrets(&secrets);
        let broadcaster = builder.config(config).build().await?;
        let following = tokens::follow(tokens_file, version, broadcaster.clone(), hangup);
        tokio::spawn(following);
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone())?);
        console::announce(format_args!("listening on http://{address}"));
        tracing::info!(%address, "listening");
        if let Some(metrics) = metrics {
            let address = metrics.address;
            console::announce(format_args!("metrics on http://{address}/metrics"));
            tokio::spawn(metrics.serve(broadcaster.clone()));
        }
        if broadcaster.serve_until(listener, stop.cancelled()).await {
            tracing::info!("stopped");
        } else {
            tracing::warn!(
                "stopped while deliveries were under way; their publishers got no answer"
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The file that `--tokens` names; without it one in the data folder.
    fn tokens_file(&self) -> PathBuf {
        let named = self.tokens.clone();
        named.unwrap_or_else(|| self.data.join(tokens::FILE))
    }

    /// The store that `--db` names; without it a file in the data folder.
    ///
    /// # Errors
    ///
    /// Those of the store, with the path or without the password of the url.
    async fn open_store(&self) -> anyhow::Result<Arc<dyn Store>> {
        let path = match &self.db {
            Some(Database::Memory) => return Ok(Arc::new(MemoryStore::new())),
            Some(Database::Sqlite(path)) => path.clone(),
            Some(Database::Postgres(url)) => {
                let store = PostgresStore::open(url).await;
                return Ok(Arc::new(
                    store.context("cannot open the PostgreSQL database")?,
                ));
            }
            None => self.data.join("subscriptions.db"),
        };
        let store = SqliteStore::open(&path)
            .await
            .with_context(|| format!("cannot open the database {}", path.display()))?;
        Ok(Arc::new(store))
    }
}

/// Waits for SIGTERM or SIGINT and then cancels `stop`; a second one ends the process at once.
fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut signals = Stop::new()?;
    Ok(async move {
        signals.signalled().await;
        stop.cancel();
        signals.signalled().await;
        stop_at_once();
    })
}

/// For operators who do not want to wait: unfinished notifications stay in the journal, and their
/// subscribers get notices after the next start.
fn stop_at_once() {
    tracing::warn!("stopped at once by a second signal");
    console::flush();
    std::process::exit(1);
}
