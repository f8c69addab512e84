//! An axum app with a broadcaster under `/pubsub`, beside a route of its own.
//!
//! `cargo run -p httppubsub-broadcaster --example mounted`, and subscribers and publishers use
//! `http://127.0.0.1:3003/pubsub` as their broadcaster.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use httppubsub_broadcaster::{Authorizations, Broadcaster, Config};
use httppubsub_net::ServeConfig;
use httppubsub_proto::auth::Secrets;
use httppubsub_store::MemoryStore;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The app: its own front page, and the broadcaster.
pub fn app(broadcaster: &Broadcaster) -> Router {
    Router::new()
        .route("/", get(|| async { "an app of its own\n" }))
        .nest("/pubsub", broadcaster.router())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Whoever can connect may subscribe and notify: for real use, read a secrets file.
    let authorizations = Authorizations::from(&Secrets::NONE);
    let store = Arc::new(MemoryStore::new());
    let broadcaster = Broadcaster::start(Config::default(), store, authorizations).await?;
    let listener = TcpListener::bind("127.0.0.1:3003").await?;
    let stop = CancellationToken::new();
    tokio::spawn({
        let (broadcaster, stop) = (broadcaster.clone(), stop.clone());
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                broadcaster.shut_down();
                stop.cancel();
            }
        }
    });
    // `axum::serve` would do, but it sets no deadlines for slow peers.
    let service = TowerToHyperService::new(app(&broadcaster));
    let serve = ServeConfig::default();
    let grace = serve.grace;
    httppubsub_net::serve(listener, service, serve, stop).await;
    broadcaster.finish(grace).await;
    Ok(())
}
