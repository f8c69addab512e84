//! Whether the broadcaster lives, and whether it should be sent requests.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use crate::core::Core;
use crate::readiness;

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// Requests will be served; otherwise the body says why not, a line for each reason.
pub(crate) async fn ready(State(core): State<Arc<Core>>) -> Response {
    let reasons = readiness::reasons(&core);
    match reasons.is_empty() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response(),
    }
}
