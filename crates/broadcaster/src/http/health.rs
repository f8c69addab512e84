//! `GET /healthz` and `GET /readyz`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use crate::http::endpoints::Endpoints;

/// The process answers.
pub(crate) async fn live(
    State(endpoints): State<Arc<Endpoints>>,
    request: Request,
) -> &'static str {
    endpoints.reception.abandon(request);
    "ok\n"
}

/// Requests will be served; otherwise the body says why not, a line for each reason.
pub(crate) async fn ready(State(endpoints): State<Arc<Endpoints>>, request: Request) -> Response {
    endpoints.reception.abandon(request);
    // From memory: a load balancer may ask every second, from several places.
    let reasons = endpoints.readiness.reasons();
    match reasons.is_empty() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response(),
    }
}
