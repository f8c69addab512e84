//! Every path of a client on one screen.

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use httppubsub_proto::http as paths;

use crate::http::inbound::{Inbound, receive_one, recover_one};

pub(crate) fn router(inbound: Arc<Inbound>) -> Router {
    Router::new()
        .route(paths::RECEIVE, post(receive_one))
        .route(paths::RECOVER, post(recover_one))
        .with_state(inbound)
}
