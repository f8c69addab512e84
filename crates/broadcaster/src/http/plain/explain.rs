//! `GET /v1/topics/{topic}`: who would get a message, and what stands in the way.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use httppubsub_net::outbound::BreakerRejection;
use httppubsub_proto::plain::{ExplainedSubscription, Explanation};

use crate::delivery::verdict::Undelivered;
use crate::http::endpoints::Endpoints;
use crate::http::plain::publish::topic_of;
use crate::http::plain::refused::Refused;
use crate::http::plain::token::token_of;
use crate::http::reply::{Asker, Failure, answer_json};
use crate::notify::explain::Explained;

/// Explains what a publication would do now, with nothing sent.
pub(crate) async fn explain(State(endpoints): State<Arc<Endpoints>>, request: Request) -> Response {
    let asker = Asker::of("GET /v1/topics", &request);
    let answer = take(&endpoints, request).await;
    asker.answer_plainly(&endpoints.refusals, answer)
}

/// Judges the request as a publication is judged, and answers it.
async fn take(endpoints: &Endpoints, request: Request) -> Result<Response, Failure> {
    let notify = &endpoints.notify;
    let tokens = endpoints.plain.tokens();
    let incoming = endpoints.reception.take(request);
    if tokens.is_empty() {
        return Err(Refused::NoTokens.into());
    }
    drop(notify.admit(0)?);
    let token = token_of(&incoming.parts.headers)?;
    let rights = tokens.judge(token.as_deref(), incoming.now);
    let rights = rights.map_err(Refused::from)?;
    let topic = topic_of(&incoming.parts.uri)?;
    if !rights.may_publish(&topic) {
        let name = rights.name().to_owned();
        return Err(Refused::NotAllowed { name }.into());
    }
    // Whose the subscriptions are is not for everybody who may publish (T18).
    let shown_max = if rights.is_admin() { SHOWN_MAX } else { 0 };
    let (shown, matched) = notify.explain(&topic, shown_max).await?;
    let explanation = Explanation {
        topic,
        matched,
        not_shown: matched - shown.len() as u64,
        subscriptions: shown.iter().map(shown_as).collect(),
    };
    let text = explanation.to_text();
    Ok(answer_json(StatusCode::OK, "application/json", text))
}

/// Subscriptions in one answer.
const SHOWN_MAX: usize = 1_000;

/// One row of the answer.
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
