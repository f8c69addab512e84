//! Every path of a client on one screen.

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use httppubsub_proto::paths;

use crate::receive::webhook::{Inbound, receive_one, recover_one};

/// The two paths below the client's own url. They are fixed, as broadcasters append nothing: a
/// subscriber registers the whole url.
pub(crate) fn router(inbound: Arc<Inbound>) -> Router {
    Router::new()
        .route(paths::RECEIVE, post(receive_one))
        .route(paths::RECOVER, post(recover_one))
        .with_state(inbound)
}
