//! `serve --metrics`: what a broadcaster counts, for Prometheus, on a listener of its own.
//!
//! On its own listener because what is counted tells a reader how busy a broadcaster is, and
//! because it must answer while the public listener takes nothing new.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use httppubsub_broadcaster::Broadcaster;
use httppubsub_net::inbound::ServeConfig;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::console;

/// The listener for metrics, bound before anything is counted.
pub(crate) struct Metrics {
    /// Bound at the start, so that a port in use ends the program and not only its metrics.
    listener: TcpListener,
    /// What the global recorder has counted.
    recorded: PrometheusHandle,
    pub(crate) address: SocketAddr,
}

impl Metrics {
    /// Listens there, and records from now on what the whole process counts.
    ///
    /// # Errors
    ///
    /// An address that cannot be bound.
    pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for metrics"))?;
        let recorder = PrometheusBuilder::new().build_recorder();
        let recorded = recorder.handle();
        metrics::set_global_recorder(recorder).context("metrics are recorded already")?;
        // It is there from the start, as are all that the broadcaster counts.
        console::count_dropped(0);
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            recorded,
        })
    }

    /// Answers `GET /metrics` for as long as the process lives: also while it stops.
    pub(crate) async fn serve(self, broadcaster: Broadcaster) {
        let router = Router::new()
            .route("/metrics", get(read))
            .with_state((self.recorded, broadcaster));
        let mut config = ServeConfig::default();
        config.connections_max = READERS_MAX;
        // It ends with the process: the last state of a broadcaster that stops is worth reading.
        let never = CancellationToken::new();
        let service = TowerToHyperService::new(router);
        httppubsub_net::inbound::serve(self.listener, service, config, never).await;
    }
}

/// A Prometheus server needs one connection; a few people look beside it.
const READERS_MAX: usize = 64;

/// Gauges are computed when they are read: nobody pays for them while nobody looks.
async fn read(
    State((recorded, broadcaster)): State<(PrometheusHandle, Broadcaster)>,
) -> impl IntoResponse {
    broadcaster.update_gauges();
    recorded.run_upkeep();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], recorded.render())
}
