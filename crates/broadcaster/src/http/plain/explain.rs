//! `GET /v1/topics/{topic}`: who would get a message, and what stands in the way.
//!
//! The token needs the right to publish there: who may send a message may know how many it would
//! reach. Whose these are is a matter between subscribers and the operator.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use httppubsub_net::outbound::BreakerRejection;
use httppubsub_proto::plain::{ExplainedSubscription, Explanation};

use crate::delivery::verdict::Undelivered;
use crate::http::endpoints::Endpoints;
use crate::http::plain::publish::authorize;
use crate::http::plain::refused::Refused;
use crate::http::reply::{Asker, Failure, answer_json};
use crate::notify::explain::Explained;
use crate::notify::notify::NotifyError;

/// Explains what a publication would do now, with nothing sent.
pub(crate) async fn explain(State(endpoints): State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("GET /v1/topics", &request);
    let answer = take(&endpoints, request).await;
    asker.answer_plainly(&endpoints.refusals, answer)
}

/// Judges the request as a publication is judged, and answers it.
async fn take(endpoints: &Endpoints, request: Request) -> Result<Response, Failure> {
    // As a publication: who asks for this under overload waits as well.
    let notify = &endpoints.notify;
    let tokens = endpoints.plain.tokens();
    let incoming = endpoints.reception.take(request);
    if tokens.is_empty() {
        return Err(Refused::NoTokens.into());
    }
    drop(notify.admit(0)?);
    let (topic, rights) = authorize(&tokens, &incoming)?;
    // Whose the subscriptions are is not for everybody who may publish (T18).
    let shown_max = if rights.is_admin() { SHOWN_MAX } else { 0 };
    let explained = notify.explain(&topic, shown_max).await;
    let (shown, matched) = explained.map_err(NotifyError::from)?;
    let explanation = Explanation {
        topic,
        matched,
        not_shown: matched - shown.len() as u64,
        subscriptions: shown.iter().map(shown_as).collect(),
    };
    let text = explanation.to_text();
    Ok(answer_json(StatusCode::OK, "application/json", text))
}

/// Subscriptions in one answer: some 200 KiB, and more than anybody reads.
const SHOWN_MAX: usize = 1_000;

/// One row of the answer. A notice that is sent first is no reason against a delivery: the message
/// is missed, and the next one is delivered if the notice is confirmed.
fn shown_as(explained: &Explained) -> ExplainedSubscription {
    let Explained { row, why_not } = explained;
    let would = match why_not {
        None => "post",
        Some(Undelivered::BreakerRejection(BreakerRejection::NoticeFirst)) => "notice_first",
        Some(_) => "not_tried",
    };
    ExplainedSubscription {
        url: row.subscriber.url.as_str().to_owned(),
        interest: row.interest.clone(),
        would,
        why: why_not.as_ref().map(ToString::to_string),
    }
}
