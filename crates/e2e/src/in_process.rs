//! A broadcaster inside the test, for settings that no flag has.

use std::sync::Arc;

use axum::Router;
use httppubsub_broadcaster::{Authorizations, Broadcaster, Config};
use httppubsub_net::inbound::ServeConfig;
use httppubsub_proto::auth::Secrets;
use httppubsub_store::MemoryStore;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::door::Door;

/// A broadcaster that keeps its subscriptions in memory, without any authorization unless it is
/// given secrets; gone when it is dropped.
#[derive(Debug)]
pub struct InProcess {
    /// The broadcaster.
    pub broadcaster: Broadcaster,
    /// The way in.
    pub door: Door,
    runtime: Option<Runtime>,
}

impl InProcess {
    /// Serves a broadcaster with these settings.
    pub fn start(config: Config, serve: ServeConfig) -> Self {
        Self::mounted(config, serve, "", |broadcaster| broadcaster.router())
    }

    /// The same with these secrets.
    pub fn with_secrets(config: Config, serve: ServeConfig, secrets: &Secrets) -> Self {
        Self::on_threads(config, serve, secrets, "", |broadcaster| {
            broadcaster.router()
        })
    }

    /// Serves an app that has the broadcaster under `prefix`.
    pub fn mounted(
        config: Config,
        serve: ServeConfig,
        prefix: &str,
        app: impl FnOnce(&Broadcaster) -> Router + Send,
    ) -> Self {
        Self::on_threads(config, serve, &Secrets::NONE, prefix, app)
    }

    fn on_threads(
        config: Config,
        serve: ServeConfig,
        secrets: &Secrets,
        prefix: &str,
        app: impl FnOnce(&Broadcaster) -> Router + Send,
    ) -> Self {
        // The test may run on a runtime of its own, on whose threads none can be started.
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| Self::started(config, serve, secrets, prefix, app));
            starting.join().expect("the broadcaster starts")
        })
    }

    fn started(
        config: Config,
        serve: ServeConfig,
        secrets: &Secrets,
        prefix: &str,
        app: impl FnOnce(&Broadcaster) -> Router,
    ) -> Self {
        let runtime = Runtime::new().expect("threads can be started");
        let (broadcaster, address) = runtime.block_on(async {
            let store = Arc::new(MemoryStore::new());
            let authorizations = Authorizations::from(secrets);
            let broadcaster = Broadcaster::start(config, store, authorizations).await;
            let broadcaster = broadcaster.expect("a broadcaster in memory starts");
            let listener = TcpListener::bind("127.0.0.1:0").await;
            let listener = listener.expect("loopback has a free port");
            let address = listener.local_addr().expect("it is bound");
            let service = TowerToHyperService::new(app(&broadcaster));
            let never = CancellationToken::new();
            tokio::spawn(httppubsub_net::inbound::serve(
                listener, service, serve, never,
            ));
            (broadcaster, address)
        });
        let signer = secrets.into();
        let door = Door {
            address,
            prefix: prefix.to_owned(),
            signer,
        };
        Self {
            broadcaster,
            door,
            runtime: Some(runtime),
        }
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
