//! Whether the broadcaster lives, and whether it should be sent requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;

use crate::core::Core;

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// Requests will be served: the store answers, notices are being sent, and no end is near.
pub(crate) async fn ready(State(core): State<Arc<Core>>) -> Response {
    match reason_against(&core).await {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn reason_against(core: &Core) -> Option<String> {
    if core.withdrawn.is_cancelled() {
        return Some("shutting down".to_owned());
    }
    if let Err(error) = core.store.catch_up().await {
        return Some(error.to_string());
    }
    let since = core
        .clock
        .now()
        .unix_seconds()
        .saturating_sub(core.swept_at.load(Ordering::Relaxed));
    // A look at a slow store may take as long as its time-outs.
    let allowed = 3 * core.config.sweep_interval.as_secs() + 30;
    (since > allowed).then(|| format!("no notice was looked for in {since} s"))
}
